//! Requests and responses of the admin interface: parameters, content types, and allowed hosts.
//!
//! A web page must not reach the admin port through its visitor's browser: a request from another origin, or for a host name that
//! public DNS could point here (DNS rebinding), is refused.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::message::grammar::decode_percent;

/// A response before it becomes one of hyper's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

pub(super) const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";

impl Page {
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: TEXT, body: body.into() }
    }

    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }

    pub(super) fn html(body: String) -> Self {
        Self { status: 200, content_type: "text/html; charset=UTF-8", body }
    }

    pub(super) fn error(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }

    /// As Envoy prints messages: one space for each level.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        let mut body = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut body, formatter);
        // Writing to a vector cannot fail, and every key is a string.
        let _ = serde::Serialize::serialize(value, &mut serializer);
        body.push(b'\n');
        Self { status: 200, content_type: JSON, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// JSON in one line.
    pub(super) fn compact_json(value: &serde_json::Value) -> Self {
        Self { status: 200, content_type: JSON, body: value.to_string() }
    }

    pub(super) fn into_response(self) -> Response<Chunked> {
        let mut response = Response::new(Chunked(Some(self.body.into())));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let fields: [(HeaderName, &'static str); 4] = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache, max-age=0"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::SERVER, "envoy"),
        ];
        for (name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// A body of one piece that does not say its length, so that it is sent chunked as Envoy sends it.
#[derive(Default)]
pub(super) struct Chunked(Option<Bytes>);

impl Body for Chunked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|body| !body.is_empty()).map(|body| Ok(Frame::data(body))))
    }
}

/// The parameters of a query (or form), decoded, in their order.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(decoded.collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn all(&self) -> &[(String, String)] {
        &self.0
    }
}

/// What is not UTF-8 becomes U+FFFD.
fn decode(text: &str) -> String {
    String::from_utf8_lossy(&decode_percent(text.as_bytes())).into_owned()
}

/// Why a request is refused before it is routed; `None` if it is not.
pub(super) fn refusal(headers: &HeaderMap, authority: Option<&str>) -> Option<Page> {
    let value = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = value(&header::HOST).or(authority).unwrap_or_default();
    // An authority in the target goes before the header, so neither may be foreign.
    if let Some(host) = [host, authority.unwrap_or_default()].into_iter().find(|host| !is_local_name(host)) {
        return Some(Page::error(
            403,
            format!(
                "The admin interface does not serve the host {host}: ask for its IP address or localhost.\n"
            ),
        ));
    }
    let origin = value(&header::ORIGIN)?;
    let of_page = origin.split_once("://").map_or(origin, |(_, host)| host);
    let crosses = !of_page.eq_ignore_ascii_case(host);
    crosses.then(|| Page::error(403, "The admin interface does not serve pages of another origin.\n"))
}

/// Whether public DNS cannot make this host (with or without a port) point at us: an address, a name without a dot, or one below a name
/// that is reserved for local use (RFC 2606, RFC 6761, RFC 6762, RFC 8375).
fn is_local_name(host: &str) -> bool {
    const RESERVED: [&str; 8] =
        [".local", ".localhost", ".internal", ".test", ".example", ".invalid", ".svc", ".home.arpa"];
    if host.starts_with('[') || host.parse::<std::net::Ipv6Addr>().is_ok() {
        return true;
    }
    let name =
        host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.').to_ascii_lowercase();
    !name.contains('.')
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || RESERVED.iter().any(|reserved| name.ends_with(reserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&'static str, &'static str)]) -> bool {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        refusal(&headers, None).is_some()
    }

    #[test]
    fn only_hosts_that_public_dns_cannot_make_are_served() {
        for host in [
            "127.0.0.1:8081",
            "localhost",
            "pet:8081",
            "[::1]:8081",
            "pet.default.svc.cluster.local:8081",
            "a.test",
            "",
        ] {
            assert!(!refused(&[("host", host)]), "{host}");
        }
        for host in ["evil.com:8081", "127.0.0.1.nip.io", "a.b.dev"] {
            assert!(refused(&[("host", host)]), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused_and_our_own_is_not() {
        let host = ("host", "127.0.0.1:8081");
        assert!(refused(&[host, ("origin", "http://evil.com")]));
        assert!(refused(&[host, ("origin", "null")]));
        assert!(!refused(&[host, ("origin", "http://127.0.0.1:8081")]));
    }

    #[test]
    fn parameters_are_decoded_and_may_have_no_value() {
        let params = Params::parse("usedonly&filter=%5Ea%2Eb%&x=%zz+");
        assert!(params.has("usedonly") && !params.has("a"));
        assert_eq!(params.get("filter"), Some("^a.b%"));
        assert_eq!(params.get("x"), Some("%zz+"));
    }
}
