//! Message heads: a request or response head as our own ordered list of fields in one buffer.
//!
//! A head is validated once by the codec that read it and always written anew, never forwarded as received bytes. Well-known
//! names are small numbers (`Known`), so that a look-up compares a byte instead of a string.

mod fields;
mod names;
mod value;

pub use fields::Fields;
pub use names::{Known, Name};
pub use value::{Authority, FieldName, FieldNameBuf, FieldValue, FieldValueBuf, Invalid, Path};

/// Buffers of a head that have grown beyond this are given back after it.
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
    Other(OtherMethod),
}

/// A token that is none of the usual methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherMethod(Box<str>);

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
            other if value::is_token(other.as_bytes()) => Self::Other(OtherMethod(other.into())),
            _ => return Err(Invalid),
        })
    }
}

/// The scheme of a request's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if text.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            None
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A request's head. `host` is never among the fields: it is `authority` (RFC 9113, 8.3.1).
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub version: Version,
    pub method: Method,
    /// What the client says (`:scheme`, or a target in absolute form); where it says nothing, the rules for headers fill it in. It says
    /// nothing of the transport.
    pub scheme: Option<Scheme>,
    pub authority: Authority,
    /// Path and query, never with a fragment.
    pub path: Path,
    pub fields: Fields,
}

impl RequestHead {
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.scheme = None;
        self.authority.clear();
        self.path.clear();
        self.fields.clear();
    }

    pub fn scheme(&self) -> &'static str {
        self.scheme.unwrap_or_default().as_str()
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
    fn grpc_is_told_from_grpc_web() {
        assert!(is_grpc_content_type(Some(b"application/grpc+proto")));
        assert!(!is_grpc_content_type(Some(b"application/grpc-web")));
    }
}
