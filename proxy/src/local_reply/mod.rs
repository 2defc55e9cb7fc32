//! The only place that invents a response: local replies with Envoy's statuses, texts, flags and details.
//!
//! `LocalReply` has a constructor for each case; `render` makes head and body of it: mapped and formatted as `local_reply_config` says,
//! as trailers-only for gRPC, without a body for HEAD. Date and server are the caller's.

use std::borrow::Cow;

use bytes::Bytes;

use crate::access_log::{LogFilter, LogFormat};
use crate::error::{Flag, UpstreamError};
use crate::format::Context;
use crate::grpc;
use crate::headers::Changes;
use crate::http1::error_reason;
use crate::message::{FieldValue, FieldValueBuf, Known, Method, Name, RequestHead, ResponseHead, Version};

/// A response of our own, before `local_reply_config` has had its say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalReply {
    pub status: u16,
    pub body: Bytes,
    /// Envoy's response code detail.
    pub details: Cow<'static, str>,
    /// What the access log says; the caller sets it in the exchange's flags.
    pub flag: Option<Flag>,
    /// Fields besides content type and length.
    pub headers: Vec<(Known, FieldValueBuf)>,
    /// The status for a gRPC client; `None` when it follows from `status`.
    pub grpc_status: Option<u32>,
}

/// `local_reply_config`.
#[derive(Debug, Default)]
pub(crate) struct Mappers {
    /// The first whose filter passes applies.
    pub mappers: Vec<Mapper>,
    /// How every local reply's body looks, unless its mapper says otherwise.
    pub body_format: Option<BodyFormat>,
}

/// `ResponseMapper`: what becomes of the replies that the filter means.
#[derive(Debug)]
pub(crate) struct Mapper {
    pub filter: LogFilter,
    pub status: Option<u16>,
    pub body: Option<Bytes>,
    /// `body_format_override`.
    pub body_format: Option<BodyFormat>,
    pub headers_to_add: Changes,
}

/// `SubstitutionFormatString` of a body.
#[derive(Debug)]
pub(crate) struct BodyFormat {
    pub format: LogFormat,
    /// `content_type`; `None` for `text/plain`, or `application/json` with a JSON format.
    pub content_type: Option<FieldValueBuf>,
}

/// What is to be sent. `head.status` is the status to be logged.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub head: ResponseHead,
    /// Empty for HEAD and gRPC: the head is the whole response.
    pub body: Bytes,
}

impl BodyFormat {
    fn content_type(&self) -> FieldValue<'_> {
        match (&self.content_type, &self.format) {
            (Some(configured), _) => configured.into(),
            (None, LogFormat::Text(_)) => "text/plain".into(),
            (None, LogFormat::Json(_)) => "application/json".into(),
        }
    }
}

/// Makes the response. `head` is the reply's own, as the routes have changed it. `context` is the
/// current one of the exchange (status and flag of the reply need not be in it yet);
/// `context.request` may be missing when the request could not be read.
pub(crate) fn render(
    reply: &LocalReply,
    mappers: &Mappers,
    context: &Context<'_>,
    mut head: ResponseHead,
) -> Rendered {
    let routes_type = head.fields.get(Known::ContentType).map(<[u8]>::to_vec);
    let (body, content_type) = apply(reply, mappers, context, &mut head);
    head.fields.remove(Known::ContentLength);
    let is_head = context.request.is_some_and(|request| request.method == Method::Head);
    if context.request.is_some_and(RequestHead::is_grpc) {
        // The message is the body in another place, and HEAD has none.
        let message: &[u8] = if is_head { b"" } else { &body };
        return grpc_response(reply, head, message);
    }
    if body.is_empty() {
        head.fields.remove(Known::ContentType);
        return Rendered { head, body };
    }
    if head.status != 204 {
        head.fields.push(Known::ContentLength, body.len());
    }
    // What a mapper says of the type holds for the body that it formats.
    let is_routes = head.fields.get(Known::ContentType) == routes_type.as_deref();
    if is_routes && (routes_type.is_none() || body != reply.body) {
        head.fields.set(Known::ContentType, content_type);
    }
    // Envoy sends bodies with these statuses (RFC 9110, 15.3.5 and 15.4.5: there is none).
    let bodiless = is_head || head.status == 204 || head.status == 304;
    Rendered { head, body: if bodiless { Bytes::new() } else { body } }
}

/// Lets `local_reply_config` change status, headers and body; returns the body and its content type.
fn apply<'m>(
    reply: &LocalReply,
    mappers: &'m Mappers,
    context: &Context<'_>,
    head: &mut ResponseHead,
) -> (Bytes, FieldValue<'m>) {
    if mappers.mappers.is_empty() && mappers.body_format.is_none() {
        return (reply.body.clone(), "text/plain".into());
    }
    let mut info = context.info.clone();
    info.status = reply.status;
    if let Some(flag) = reply.flag {
        info.flags.set(flag);
    }
    let mapper = {
        let context = Context { info: &info, response: Some(head), ..*context };
        mappers.mappers.iter().find(|mapper| mapper.filter.passes(&context))
    };
    let body = mapper.and_then(|mapper| mapper.body.clone()).unwrap_or_else(|| reply.body.clone());
    if let Some(mapper) = mapper {
        // Headers still see the status that the reply had; a body sees the one that is sent.
        let context = Context { info: &info, response: Some(head), ..*context };
        let values = mapper.headers_to_add.evaluate(&context);
        mapper.headers_to_add.apply(&mut head.fields, &values);
        head.status = mapper.status.unwrap_or(reply.status);
        info.status = head.status;
    }
    let format = mapper.and_then(|mapper| mapper.body_format.as_ref()).or(mappers.body_format.as_ref());
    let Some(format) = format else { return (body, "text/plain".into()) };
    let text = String::from_utf8_lossy(&body);
    let context = Context { info: &info, response: Some(head), local_reply_body: &text, ..*context };
    let mut out = Vec::new();
    format.format.write(&context, &mut out);
    if matches!(format.format, LogFormat::Json(_)) && context.request.is_some_and(RequestHead::is_grpc) {
        // The line end of a JSON body is not part of `grpc-message`.
        out.pop_if(|last| *last == b'\n');
    }
    (out.into(), format.content_type())
}

/// A trailers-only response: the body becomes the message.
fn grpc_response(reply: &LocalReply, mut head: ResponseHead, body: &[u8]) -> Rendered {
    let code = reply.grpc_status.unwrap_or_else(|| grpc::status_of_http(head.status));
    head.status = 200;
    head.fields.set(Known::ContentType, b"application/grpc");
    head.fields.push(Known::GrpcStatus, code);
    if !body.is_empty() {
        // Encoded, it is printable.
        if let Ok(message) = FieldValue::new(&grpc::encode_message(body)) {
            head.fields.push(Known::GrpcMessage, message);
        }
    }
    head.fields.remove(Known::ContentLength);
    Rendered { head, body: Bytes::new() }
}

/// The reply that reports a failed attempt.
impl From<&UpstreamError> for LocalReply {
    fn from(error: &UpstreamError) -> Self {
        Self::upstream(error, false)
    }
}

const DEADLINE_EXCEEDED: u32 = 4;

/// The response code detail of an attempt that took longer than its cluster allows.
pub(crate) const ATTEMPT_TOO_LONG: &str = "upstream_max_stream_duration_reached";

impl LocalReply {
    /// The head before any change of it.
    pub(crate) fn head(&self, version: Version) -> ResponseHead {
        let mut head = ResponseHead { version, ..ResponseHead::new(self.status) };
        for (name, value) in &self.headers {
            head.fields.push(*name, value);
        }
        head
    }

    /// A response with a body of our own.
    pub(crate) fn new(status: u16, text: &'static str, details: &'static str) -> Self {
        Self {
            status,
            body: Bytes::from_static(text.as_bytes()),
            details: Cow::Borrowed(details),
            flag: None,
            headers: Vec::new(),
            grpc_status: None,
        }
    }

    /// The overload manager lets no request in. Envoy sets no flag for it.
    pub(crate) fn overloaded() -> Self {
        Self::new(503, "envoy overloaded", "overload")
    }

    /// No virtual host or no route matched.
    pub(crate) fn route_not_found() -> Self {
        Self::new(404, "", "route_not_found").flagged(Flag::NoRouteFound)
    }

    /// The path begins with something else than a slash.
    pub(crate) fn path_not_relative() -> Self {
        Self::new(404, "", "absolute_path_rejected")
    }

    /// The route's cluster does not exist; `status` is the route's `cluster_not_found_response_code` (503).
    pub(crate) fn cluster_not_found(status: u16) -> Self {
        Self::new(status, "", "cluster_not_found").flagged(Flag::NoClusterFound)
    }

    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(503, "no healthy upstream", "no_healthy_upstream").flagged(Flag::NoHealthyUpstream)
    }

    /// The last attempt failed before anything of a response was sent. `retried`: it was not the first.
    pub(crate) fn upstream(error: &UpstreamError, retried: bool) -> Self {
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

    /// The route's timeout has passed before a response began.
    pub(crate) fn upstream_timeout() -> Self {
        Self::new(504, "upstream request timeout", "response_timeout").flagged(Flag::UpstreamRequestTimeout)
    }

    /// The last attempt's `per_try_timeout` has passed.
    pub(crate) fn per_try_timeout() -> Self {
        Self::new(504, "upstream request timeout", "upstream_per_try_timeout")
            .flagged(Flag::UpstreamRequestTimeout)
    }

    /// The route's or attempt's upstream answered nothing for its `per_try_idle_timeout`.
    pub(crate) fn per_try_idle_timeout() -> Self {
        Self::new(504, "upstream request timeout", "upstream_per_try_idle_timeout")
            .flagged(Flag::UpstreamRequestTimeout)
    }

    /// The last attempt took longer than the cluster's `max_stream_duration`.
    pub(crate) fn attempt_too_long(request_complete: bool) -> Self {
        let text = "upstream max stream duration reached";
        Self::new(late(request_complete), text, ATTEMPT_TOO_LONG)
            .flagged(Flag::UpstreamMaxStreamDurationReached)
    }

    /// No byte in either direction for the stream's idle timeout. 408 while the request is still coming, else 504.
    pub(crate) fn stream_idle_timeout(request_complete: bool) -> Self {
        Self::new(late(request_complete), "stream timeout", "stream_idle_timeout")
            .flagged(Flag::StreamIdleTimeout)
    }

    /// The request did not come whole within the connection manager's `request_timeout`.
    pub(crate) fn request_timeout() -> Self {
        Self::new(408, "request timeout", "request_overall_timeout")
    }

    /// The exchange lasted longer than `max_stream_duration` (or `grpc-timeout`, where the route looks at it).
    pub(crate) fn max_duration(request_complete: bool) -> Self {
        let reply = Self::new(late(request_complete), "downstream duration timeout", "max_duration_timeout");
        // Envoy sets no flag for it.
        Self { grpc_status: Some(DEADLINE_EXCEEDED), ..reply }
    }

    /// The request's body is larger than may be buffered.
    pub(crate) fn payload_too_large() -> Self {
        Self::new(413, "Payload Too Large", "request_payload_too_large")
    }

    /// A request that the codec or the connection manager refuses; the body is the status's own.
    /// `details` such as `http1.codec_error`.
    pub(crate) fn refused(status: u16, details: &'static str) -> Self {
        Self::new(status, error_reason(status), details).flagged(Flag::DownstreamProtocolError)
    }

    /// A request without a host, with a bad path or the like: 400 without a body. `details` such as
    /// `missing_host_header`.
    pub(crate) fn bad_request(details: &'static str) -> Self {
        Self::new(400, "", details)
    }

    /// The client broke the protocol of HTTP/1 behind the head of its request.
    pub(crate) fn codec_error(details: &'static str) -> Self {
        Self { flag: Some(Flag::DownstreamProtocolError), ..Self::new(400, "Bad Request", details) }
    }

    /// The trailers of a request of HTTP/1 are over the limits.
    pub(crate) fn trailers_too_large(details: &'static str) -> Self {
        let text = "Request Header Fields Too Large";
        Self { flag: Some(Flag::DownstreamProtocolError), ..Self::new(431, text, details) }
    }

    /// A header that the configuration evaluates to what no header may hold, or a target that is none.
    pub(crate) fn invalid_header_value(name: Name<'_>) -> Self {
        let text = format!("invalid header value for: {}", String::from_utf8_lossy(name.as_bytes()));
        let details = format!("filter_removed_required_request_headers{{{}}}", text.replace(' ', "_"));
        let reply = Self { body: text.into(), details: details.into(), ..Self::new(503, "", "") };
        reply.flagged(Flag::DownstreamProtocolError)
    }

    /// An upgrade that the route does not allow.
    pub(crate) fn upgrade_failed() -> Self {
        Self::new(403, "", "upgrade_failed")
    }

    /// A route's `direct_response`.
    pub(crate) fn direct(status: u16, body: Bytes, location: Option<Vec<u8>>) -> Self {
        Self { body, headers: self::location(location), ..Self::new(status, "", "direct_response") }
    }

    /// A redirection to `location`.
    pub(crate) fn redirect(status: u16, location: Vec<u8>) -> Self {
        Self { headers: self::location(Some(location)), ..Self::new(status, "", "direct_response") }
    }

    /// Whether it reports what came of the attempts. Other replies are about the client, or come while attempts last.
    pub(crate) fn is_of_router(&self) -> bool {
        const OF_MANAGER: [&str; 3] =
            ["stream_idle_timeout", "request_overall_timeout", "max_duration_timeout"];
        self.flag != Some(Flag::DownstreamProtocolError) && !OF_MANAGER.contains(&&*self.details)
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

/// The response code detail of a response that was cut off after its head.
pub(crate) fn details_after_response(error: &UpstreamError) -> String {
    reset_details("upstream_reset_after_response_started", error)
}

fn reset_details(what: &str, error: &UpstreamError) -> String {
    let reason = error.reason();
    let details = match error.transport_failure() {
        failure if failure.is_empty() => format!("{what}{{{reason}}}"),
        failure => format!("{what}{{{reason}|{failure}}}"),
    };
    details.replace(' ', "_")
}

/// A timeout is the client's while its request is still coming, else it is ours.
fn late(request_complete: bool) -> u16 {
    if request_complete { 504 } else { 408 }
}

#[cfg(test)]
#[path = "../../tests/unit/local_reply.rs"]
mod tests;
