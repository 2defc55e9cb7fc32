//! Message heads: a request or response head as our own ordered list of fields in one buffer.
//!
//! A head is validated once by the codec that read it and always written anew, never forwarded as received bytes. Well-known
//! names are small numbers (`Known`), so that a look-up compares a byte instead of a string.
//! Called by the codecs, routes, filters and `exchange`; calls nothing of ours.

use std::fmt;

/// The protocol version of one side of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

impl Version {
    /// As Envoy's `%PROTOCOL%` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

macro_rules! known_names {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A field name that the proxy itself reads or writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known { $($variant),+ }

        impl Known {
            /// The name in lower case, as HTTP/2 sends it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The well-known name spelled `lower` (which must be in lower case already).
            pub fn find(lower: &[u8]) -> Option<Self> {
                match std::str::from_utf8(lower).ok()? {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

known_names! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    Origin = "origin",
    ProxyConnection = "proxy-connection",
    Referer = "referer",
    Server = "server",
    SetCookie = "set-cookie",
    Te = "te",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
    XEnvoyAttemptCount = "x-envoy-attempt-count",
    XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address",
    XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyInternal = "x-envoy-internal",
    XEnvoyIpTags = "x-envoy-ip-tags",
    XEnvoyIsTimeoutRetry = "x-envoy-is-timeout-retry",
    XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalHost = "x-envoy-original-host",
    XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyRateLimited = "x-envoy-ratelimited",
    XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes",
    XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on",
    XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

/// A field name: well-known, or its bytes in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Known(Known),
    Other(&'a [u8]),
}

impl<'a> Name<'a> {
    /// The name spelled `lower` (in lower case).
    pub fn of(lower: &'a [u8]) -> Self {
        Known::find(lower).map_or(Self::Other(lower), Self::Known)
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Known(known) => known.as_str().as_bytes(),
            Self::Other(bytes) => bytes,
        }
    }
}

impl From<Known> for Name<'_> {
    fn from(known: Known) -> Self {
        Self::Known(known)
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(lower: &'a str) -> Self {
        Self::of(lower.as_bytes())
    }
}

/// Header or trailer fields in their order, in one buffer that is reused when the list is cleared.
///
/// Names are in lower case. Replacing or removing leaves the old bytes in the buffer until `clear`; a head lives for one request.
#[derive(Clone, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    list: Vec<Field>,
}

#[derive(Clone, Copy)]
struct Field {
    known: Option<Known>,
    /// The name's place in `bytes`; empty when `known`.
    name: Span,
    value: Span,
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Fields {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Appends a field; an earlier one of the same name stays.
    pub fn push<'a>(&mut self, name: impl Into<Name<'a>>, value: &[u8]) {
        let (known, name) = match name.into() {
            Name::Known(known) => (Some(known), Span::default()),
            Name::Other(bytes) => (None, self.store(bytes)),
        };
        let value = self.store(value);
        self.list.push(Field { known, name, value });
    }

    /// Appends a field whose name may hold capitals, as HTTP/1 peers send them; which well-known name it is.
    pub fn push_any_case(&mut self, name: &[u8], value: &[u8]) -> Option<Known> {
        let start = self.bytes.len();
        self.bytes.extend(name.iter().map(u8::to_ascii_lowercase));
        let stored = Span { start: offset(start), end: offset(self.bytes.len()) };
        let known = Known::find(self.slice(stored));
        let name = if known.is_some() {
            self.bytes.truncate(start);
            Span::default()
        } else {
            stored
        };
        let value = self.store(value);
        self.list.push(Field { known, name, value });
        known
    }

    /// The first value of a name.
    pub fn get<'a>(&self, name: impl Into<Name<'a>>) -> Option<&[u8]> {
        let name = name.into();
        self.list.iter().find(|field| self.is(field, name)).map(|field| self.slice(field.value))
    }

    /// All values of a name, in order.
    pub fn get_all<'s, 'a: 's>(&'s self, name: impl Into<Name<'a>>) -> impl Iterator<Item = &'s [u8]> + 's {
        let name = name.into();
        self.list.iter().filter(move |field| self.is(field, name)).map(|field| self.slice(field.value))
    }

    pub fn contains<'a>(&self, name: impl Into<Name<'a>>) -> bool {
        self.get(name).is_some()
    }

    /// Makes `value` the only value of a name: in the place of the first, or appended.
    pub fn set<'a>(&mut self, name: impl Into<Name<'a>>, value: &[u8]) {
        let name = name.into();
        let Some(first) = self.list.iter().position(|field| self.is(field, name)) else {
            self.push(name, value);
            return;
        };
        let value = self.store(value);
        let mut at = 0;
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| {
            let keep = at <= first || !self.is(field, name);
            at += 1;
            keep
        });
        if let Some(field) = list.get_mut(first) {
            field.value = value;
        }
        self.list = list;
    }

    /// Removes every value of a name; whether there was one.
    pub fn remove<'a>(&mut self, name: impl Into<Name<'a>>) -> bool {
        let name = name.into();
        let before = self.list.len();
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| !self.is(field, name));
        self.list = list;
        self.list.len() != before
    }

    /// Keeps the fields for which `keep(name, value)` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(Name<'_>, &[u8]) -> bool) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| keep(self.name(field), self.slice(field.value)));
        self.list = list;
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> {
        self.list.iter().map(|field| (self.name(field), self.slice(field.value)))
    }

    /// Bytes of all names and values, as Envoy counts them for its limits and `%REQUEST_HEADERS_BYTES%`.
    pub fn byte_size(&self) -> usize {
        self.iter().map(|(name, value)| name.as_bytes().len() + value.len()).sum()
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { start: offset(start), end: offset(self.bytes.len()) }
    }

    fn slice(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    fn name(&self, field: &Field) -> Name<'_> {
        field.known.map_or_else(|| Name::Other(self.slice(field.name)), Name::Known)
    }

    fn is(&self, field: &Field, name: Name<'_>) -> bool {
        match (field.known, name) {
            (Some(have), Name::Known(want)) => have == want,
            (None, Name::Other(want)) => self.slice(field.name) == want,
            _ => false,
        }
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (text(name.as_bytes()), text(value)))).finish()
    }
}

/// Heads are limited to a few hundred KiB by the codecs, far below 4 GiB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A request's method.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other(Box<str>),
}

impl Method {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other(text) => text,
        }
    }
}

impl From<&str> for Method {
    fn from(text: &str) -> Self {
        match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            other => Self::Other(other.into()),
        }
    }
}

/// A request's head. `host` is never among the fields: it is `authority` (RFC 9113, 8.3.1).
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub version: Version,
    pub method: Method,
    /// `http` or `https`, by the transport or `x-forwarded-proto`.
    pub https: bool,
    pub authority: Vec<u8>,
    /// Path and query, never with a fragment.
    pub path: Vec<u8>,
    pub fields: Fields,
}

impl RequestHead {
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.https = false;
        self.authority.clear();
        self.path.clear();
        self.fields.clear();
    }

    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The path without its query.
    pub fn path_only(&self) -> &[u8] {
        let end = self.path.iter().position(|&byte| byte == b'?').unwrap_or(self.path.len());
        self.path.get(..end).unwrap_or_default()
    }

    /// A field, `host` or a pseudo-header (`:authority`, `:path`, `:method`, `:scheme`) by its name in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":authority" | "host" => (!self.authority.is_empty()).then_some(&*self.authority),
            ":path" => (!self.path.is_empty()).then_some(&*self.path),
            ":method" => Some(self.method.as_str().as_bytes()),
            ":scheme" => Some(self.scheme().as_bytes()),
            _ => self.fields.get(name),
        }
    }

    /// Whether this is a gRPC request, by its content type (as Envoy decides).
    pub fn is_grpc(&self) -> bool {
        is_grpc_content_type(self.fields.get(Known::ContentType))
    }
}

/// A response's head.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    pub version: Version,
    pub status: u16,
    pub fields: Fields,
}

impl ResponseHead {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn clear(&mut self) {
        self.status = 0;
        self.fields.clear();
    }

    /// A field or `:status`; `None` for the latter before there is a status.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }
}

/// `application/grpc`, alone or followed by `+` or `;`.
pub fn is_grpc_content_type(value: Option<&[u8]>) -> bool {
    value
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// One piece of a body, in the order they arrive.
#[derive(Debug)]
pub enum Frame {
    Data(bytes::Bytes),
    /// Trailers end the body.
    Trailers(Fields),
    End,
}

/// What kind of response head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// 1xx but 101; another head follows.
    Interim,
    /// The answer; with `end`, it has no body.
    Final { end: bool },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_field_replaces_every_value_in_the_place_of_the_first() {
        let mut fields = Fields::default();
        fields.push_any_case(b"X-A", b"1");
        fields.push_any_case(b"Content-Type", b"text/plain");
        fields.push("x-a", b"2");
        fields.set("x-a", b"3");
        let all: Vec<_> =
            fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
        assert_eq!(
            all,
            [(b"x-a".to_vec(), b"3".to_vec()), (b"content-type".to_vec(), b"text/plain".to_vec())]
        );
    }

    #[test]
    fn a_known_name_is_found_however_it_was_spelled() {
        let mut fields = Fields::default();
        fields.push_any_case(b"x-REQUEST-id", b"7");
        assert_eq!(fields.get(Known::XRequestId), Some(&b"7"[..]));
        assert_eq!(fields.get("x-request-id"), Some(&b"7"[..]));
        assert!(fields.remove("x-request-id"));
        assert!(!fields.contains(Known::XRequestId));
    }

    #[test]
    fn grpc_is_told_from_grpc_web() {
        assert!(is_grpc_content_type(Some(b"application/grpc+proto")));
        assert!(!is_grpc_content_type(Some(b"application/grpc-web")));
    }
}
