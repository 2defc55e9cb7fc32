//! Message heads: a request or response head with its headers in one buffer.
//!
//! A head is validated once by the codec that read it and always written again, never forwarded as
//! received bytes. Well-known names are small numbers (`Known`), so that a look-up compares a byte
//! instead of a string.

mod fields;
pub(crate) mod grammar;
mod known;
mod parts;

pub(crate) use fields::Fields;
pub(crate) use known::{Direction, Known};
pub(crate) use parts::{Authority, FieldName, FieldNameBuf, FieldValue, FieldValueBuf, Invalid, Name, Path};

/// Larger buffers are freed after a request.
const KEEP: usize = 16 * 1024;

/// Counts steps of work on input in tests, which show that it grows no faster than the input.
pub(crate) mod work {
    #[cfg(test)]
    thread_local! {
        static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }

    #[inline(always)]
    pub(crate) fn step(_steps: usize) {
        #[cfg(test)]
        STEPS.set(STEPS.get() + _steps as u64);
    }

    /// The steps that `run` takes.
    #[cfg(test)]
    pub(crate) fn of(run: impl FnOnce()) -> u64 {
        let before = STEPS.get();
        run();
        STEPS.get() - before
    }
}

/// The protocol version of one side of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

impl Version {
    /// As Envoy's `%PROTOCOL%` prints it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request's method.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Method {
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
    Other(OtherMethod),
}

/// Any other method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherMethod(Box<str>);

impl Method {
    pub(crate) fn as_str(&self) -> &str {
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
            Self::Other(OtherMethod(text)) => text,
        }
    }
}

impl TryFrom<&str> for Method {
    type Error = Invalid;

    fn try_from(text: &str) -> Result<Self, Invalid> {
        Ok(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            other if parts::is_token(other.as_bytes()) => Self::Other(OtherMethod(other.into())),
            _ => return Err(Invalid),
        })
    }
}

/// The scheme of a request's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if text.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            None
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A request's head. `host` is never among the headers: it is `authority` (RFC 9113, 8.3.1).
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestHead {
    pub version: Version,
    pub method: Method,
    /// What the client says (`:scheme`, or a target in absolute form); where it says nothing, the rules for headers fill it in. It says
    /// nothing of the transport.
    pub scheme: Option<Scheme>,
    pub authority: Authority,
    /// The client names a host, which is empty.
    pub empty_host: bool,
    /// Path and query; a fragment is refused before anything is made of it.
    pub path: Path,
    pub fields: Fields,
}

impl RequestHead {
    pub(crate) fn clear(&mut self) {
        self.method = Method::Get;
        self.scheme = None;
        self.authority.clear();
        self.empty_host = false;
        self.path.clear();
        self.fields.clear();
    }

    /// Gives back buffers that a large head has made large. Only for a head that was cleared.
    pub(crate) fn shrink(&mut self) {
        self.authority.shrink();
        self.path.shrink();
        self.fields.shrink();
    }

    pub(crate) fn scheme(&self) -> &'static str {
        self.scheme.unwrap_or_default().as_str()
    }

    /// The path without its query.
    pub(crate) fn path_only(&self) -> &[u8] {
        grammar::split_query(&self.path).0
    }

    /// A header, `host` or a pseudo-header (`:authority`, `:path`, `:method`, `:scheme`) by its name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":authority" | "host" => self.has_host().then_some(&*self.authority),
            ":path" => (!self.path.is_empty()).then_some(&*self.path),
            ":method" => Some(self.method.as_str().as_bytes()),
            ":scheme" => self.scheme.map(|scheme| scheme.as_str().as_bytes()),
            _ => self.fields.get(name),
        }
    }

    /// Whether the client names a host, be it an empty one.
    pub(crate) fn has_host(&self) -> bool {
        self.empty_host || !self.authority.is_empty()
    }

    /// Whether this is a request at all: nothing is known of a head that the codec refused.
    pub(crate) fn is_known(&self) -> bool {
        !self.path.is_empty() || self.method == Method::Connect
    }

    /// Whether the target can be written in the upstream's protocol. HTTP/2 goes by RFC 3986, HTTP/1 clients may be more careless: such
    /// a request is its client's error, to be found before there is a host.
    pub(crate) fn check(&self, upstream: Version) -> Result<(), Invalid> {
        let connect = self.method == Method::Connect;
        if connect != self.path.is_empty() {
            return Err(Invalid);
        }
        let plain = |bytes: &[u8], marks: &[u8]| {
            bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(byte))
        };
        let ordinary = !self.authority.is_empty()
            && plain(&self.authority, b"-.")
            && plain(&self.path, b"/-._~")
            && self.path.first() == Some(&b'/');
        if ordinary || upstream != Version::Http2 {
            return Ok(());
        }
        let path_is_valid = || {
            let path = http::uri::PathAndQuery::try_from(&*self.path);
            // The `http` crate takes a query without a path, and cuts a fragment off.
            path.is_ok_and(|path| path.as_str().as_bytes() == &*self.path && self.path.first() != Some(&b'?'))
        };
        let authority_is_valid = || http::uri::Authority::try_from(&*self.authority).is_ok();
        // Without an authority, `h2` sends no scheme either.
        if (connect || path_is_valid()) && authority_is_valid() { Ok(()) } else { Err(Invalid) }
    }

    /// Whether this is a gRPC request, by its content type (as Envoy decides).
    pub(crate) fn is_grpc(&self) -> bool {
        is_grpc_content_type(self.fields.get(Known::ContentType))
    }
}

/// A response's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseHead {
    pub version: Version,
    pub status: u16,
    pub fields: Fields,
}

impl ResponseHead {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.status = 0;
        self.fields.clear();
    }
}

/// `application/grpc`, alone or followed by `+` or `;`.
pub(crate) fn is_grpc_content_type(value: Option<&[u8]>) -> bool {
    value
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// One piece of a body, in the order they arrive.
#[derive(Debug)]
pub(crate) enum Frame {
    Data(bytes::Bytes),
    /// Trailers end the body.
    Trailers(Fields),
    End,
}

/// What kind of response head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadKind {
    /// 1xx but 101; another head follows.
    Interim,
    /// The response; with `end`, it has no body.
    Final { end: bool },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What `check` lets through is all that the `http` crate can write, unchanged.
        #[test]
        fn a_target_that_passes_the_check_is_written_unchanged(
            path in prop::collection::vec(any::<u8>(), 0..12),
            authority in prop::collection::vec(any::<u8>(), 0..12),
            slash in any::<bool>(),
        ) {
            let path = if slash { [b"/", &path[..]].concat() } else { path };
            let (Ok(path), Ok(authority)) = (Path::new(path), Authority::new(authority)) else { return Ok(()) };
            let head = RequestHead { path, authority, ..RequestHead::default() };
            let written = http::uri::PathAndQuery::try_from(&*head.path)
                .is_ok_and(|path| path.as_str().as_bytes() == &*head.path && head.path.first() != Some(&b'?'))
                && http::uri::Authority::try_from(&*head.authority).is_ok();
            prop_assert_eq!(head.check(Version::Http2).is_ok(), written);
            prop_assert_eq!(head.check(Version::Http11).is_ok(), !head.path.is_empty());
        }
    }

    /// The `http` crate takes a name from HTTP/2 that it cannot write.
    #[test]
    fn a_name_that_passes_can_be_written() {
        for byte in 0..=u8::MAX {
            let bytes = [b'a', byte];
            let Ok(name) = http::HeaderName::from_lowercase(&bytes) else { continue };
            let written = http::HeaderName::from_bytes(&bytes).is_ok();
            assert_eq!(FieldName::try_from(&name).is_ok(), written, "{byte:#x}");
        }
    }

    #[test]
    fn grpc_differs_from_grpc_web() {
        assert!(is_grpc_content_type(Some(b"application/grpc+proto")));
        assert!(!is_grpc_content_type(Some(b"application/grpc-web")));
    }
}
