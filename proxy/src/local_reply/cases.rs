//! Every case in which the proxy answers itself, with the texts and details that Envoy gives.

use std::borrow::Cow;

use bytes::Bytes;

use super::LocalReply;
use crate::error::{Flag, UpstreamError};
use crate::message::{FieldValueBuf, Known, Name};

const DEADLINE_EXCEEDED: u32 = 4;

impl LocalReply {
    /// An answer with a text of our own.
    pub fn new(status: u16, text: &'static str, details: &'static str) -> Self {
        Self {
            status,
            body: Bytes::from_static(text.as_bytes()),
            details: Cow::Borrowed(details),
            flag: None,
            headers: Vec::new(),
            grpc_status: None,
        }
    }

    /// No virtual host or no route matched.
    pub fn route_not_found() -> Self {
        Self::new(404, "", "route_not_found").flagged(Flag::NoRouteFound)
    }

    /// The route's cluster does not exist; `status` is the route's `cluster_not_found_response_code` (503).
    pub fn cluster_not_found(status: u16) -> Self {
        Self::new(status, "", "cluster_not_found").flagged(Flag::NoClusterFound)
    }

    pub fn no_healthy_upstream() -> Self {
        Self::new(503, "no healthy upstream", "no_healthy_upstream").flagged(Flag::NoHealthyUpstream)
    }

    /// The last try failed before anything of an answer was sent. `retried`: it was not the first.
    pub fn upstream(error: &UpstreamError, retried: bool) -> Self {
        let reason = error.reason();
        let which = if retried { "retried and the latest reset reason" } else { "reset reason" };
        let text = format!("upstream connect error or disconnect/reset before headers. {which}: {reason}");
        let headers = match error {
            UpstreamError::Overflow => vec![(Known::XEnvoyOverloaded, "true".into())],
            UpstreamError::ConnectFailure(_)
            | UpstreamError::ConnectTimeout
            | UpstreamError::ConnectionTermination
            | UpstreamError::RemoteReset
            | UpstreamError::RemoteRefused
            | UpstreamError::Unsendable
            | UpstreamError::Protocol(_) => Vec::new(),
        };
        Self {
            status: error.status(),
            body: text.into(),
            details: reset_details("upstream_reset_before_response_started", error).into(),
            flag: Some(error.flag()),
            headers,
            grpc_status: None,
        }
    }

    /// The route's timeout has passed before an answer began.
    pub fn upstream_timeout() -> Self {
        Self::new(504, "upstream request timeout", "response_timeout").flagged(Flag::UpstreamRequestTimeout)
    }

    /// The last try's `per_try_timeout` has passed.
    pub fn per_try_timeout() -> Self {
        Self::new(504, "upstream request timeout", "upstream_per_try_timeout")
            .flagged(Flag::UpstreamRequestTimeout)
    }

    /// The route's or try's upstream answered nothing for its `per_try_idle_timeout`.
    pub fn per_try_idle_timeout() -> Self {
        Self::new(504, "upstream request timeout", "upstream_per_try_idle_timeout")
            .flagged(Flag::StreamIdleTimeout)
    }

    /// No byte in either direction for the stream's idle timeout. 408 while the request is still coming, else 504.
    pub fn stream_idle_timeout(request_complete: bool) -> Self {
        Self::new(late(request_complete), "stream timeout", "stream_idle_timeout")
            .flagged(Flag::StreamIdleTimeout)
    }

    /// The request did not come whole within the connection manager's `request_timeout`.
    pub fn request_timeout() -> Self {
        Self::new(408, "request timeout", "request_overall_timeout")
    }

    /// The request's head did not come within `request_headers_timeout`.
    pub fn request_header_timeout() -> Self {
        Self::new(408, "request header timeout", "request_header_timeout")
    }

    /// The exchange lasted longer than `max_stream_duration` (or `grpc-timeout`, where the route looks at it).
    pub fn max_duration(request_complete: bool) -> Self {
        let reply = Self::new(late(request_complete), "downstream duration timeout", "max_duration_timeout");
        Self { grpc_status: Some(DEADLINE_EXCEEDED), ..reply.flagged(Flag::DurationTimeout) }
    }

    /// The request's body is larger than may be buffered.
    pub fn payload_too_large() -> Self {
        Self::new(413, "Payload Too Large", "request_payload_too_large")
    }

    /// A request that the codec or the connection manager refuses; the text is the status's own. `details` such as `http1.codec_error`.
    pub fn refused(status: u16, details: &'static str) -> Self {
        Self::new(status, reason_phrase(status), details).flagged(Flag::DownstreamProtocolError)
    }

    /// A request without a host, with a bad path or the like: 400 without a text. `details` such as `missing_host_header`.
    pub fn bad_request(details: &'static str) -> Self {
        Self::new(400, "", details)
    }

    /// The client broke the protocol of HTTP/1 behind the head of its request.
    pub fn codec_error(details: &'static str) -> Self {
        Self { flag: Some(Flag::DownstreamProtocolError), ..Self::new(400, "Bad Request", details) }
    }

    /// The trailers of a request of HTTP/1 are over the limits.
    pub fn trailers_too_large(details: &'static str) -> Self {
        let text = "Request Header Fields Too Large";
        Self { flag: Some(Flag::DownstreamProtocolError), ..Self::new(431, text, details) }
    }

    /// A header that the configuration evaluates to what no header may hold, or a target that is none.
    pub fn invalid_header_value(name: Name<'_>) -> Self {
        let text = format!("invalid header value for: {}", String::from_utf8_lossy(name.as_bytes()));
        let details = format!("filter_removed_required_request_headers{{{}}}", text.replace(' ', "_"));
        let reply = Self { body: text.into(), details: details.into(), ..Self::new(503, "", "") };
        reply.flagged(Flag::DownstreamProtocolError)
    }

    /// An upgrade that the route does not allow.
    pub fn upgrade_failed() -> Self {
        Self::new(403, "", "upgrade_failed")
    }

    /// A route's `direct_response`.
    pub fn direct(status: u16, body: Bytes, location: Option<Vec<u8>>) -> Self {
        Self { body, headers: self::location(location), ..Self::new(status, "", "direct_response") }
    }

    /// A redirection to `location`.
    pub fn redirect(status: u16, location: Vec<u8>) -> Self {
        Self { headers: self::location(Some(location)), ..Self::new(status, "", "direct_response") }
    }

    fn flagged(mut self, flag: Flag) -> Self {
        self.flag = Some(flag);
        self
    }
}

/// What no header can hold is left out.
fn location(location: Option<Vec<u8>>) -> Vec<(Known, FieldValueBuf)> {
    let location = location.and_then(|location| FieldValueBuf::new(location).ok());
    location.map(|location| (Known::Location, location)).into_iter().collect()
}

/// The response code detail of an answer that broke off after its head was sent.
pub fn details_after_response(error: &UpstreamError) -> String {
    reset_details("upstream_reset_after_response_started", error)
}

fn reset_details(what: &str, error: &UpstreamError) -> String {
    let reason = error.reason();
    match error.transport_failure() {
        failure if failure.is_empty() => format!("{what}{{{reason}}}"),
        failure => format!("{what}{{{reason}|{failure}}}"),
    }
}

/// A timeout is the client's while its request is still coming, else it is ours.
fn late(request_complete: bool) -> u16 {
    if request_complete { 504 } else { 408 }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        413 => "Payload Too Large",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
