//! HTTP/1.1 (RFC 9112): our own parser and writer for heads and bodies, for both sides.
//!
//! Reading order: `head`, `body` (framing and the socket), `encode`, `server`, `client`.

use crate::error::Flag;
use crate::message::Authority;

mod body;
mod client;
mod encode;
mod head;
mod server;

pub(crate) use body::peer_closed;
pub(crate) use client::{ClientConnection, ClientOptions, RequestWriter, ResponseReader};
pub(crate) use encode::error_reason;
pub(crate) use server::{FirstBytes, HeadEvent, RequestBody, ResponseWriter, ServerConnection};

/// How heads are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodeOptions {
    /// `Content-Length` instead of `content-length` (Envoy's `proper_case_words`).
    pub proper_case: bool,
    /// Trailers are passed on; by default they are read and dropped, as in Envoy.
    pub enable_trailers: bool,
}

/// What a server connection accepts.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub(crate) encode: EncodeOptions,
    pub accept_http10: bool,
    /// The host of HTTP/1.0 requests that name none; empty for a refusal.
    pub default_host: Authority,
    /// `GET http://host/path` is taken apart (on by default).
    pub allow_absolute_url: bool,
    /// `GET https://host/path` is refused: no trusted proxy is in front that could have ended TLS.
    pub refuse_https_target: bool,
    /// Bytes read at once at most (`per_connection_buffer_limit_bytes`); 0 for the default.
    pub read_limit: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            encode: EncodeOptions::default(),
            accept_http10: false,
            default_host: Authority::default(),
            allow_absolute_url: true,
            refuse_https_target: false,
            read_limit: 0,
        }
    }
}

/// The largest head that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of all lines as they come.
    pub bytes: usize,
    pub fields: usize,
}

impl Default for HeadLimits {
    /// Envoy's for requests: 60 KiB, 100 headers.
    fn default() -> Self {
        Self { bytes: 60 * 1024, fields: 100 }
    }
}

/// Why a request is answered by the codec: what the local reply and the access log say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: u16,
    pub body: &'static str,
    /// Envoy's response code detail.
    pub details: &'static str,
    /// `DownstreamProtocolError` where the client broke the protocol.
    pub flag: Option<Flag>,
}

impl Refusal {
    /// `request_timeout` ran out before the head was whole.
    pub(crate) const TIMEOUT: Self =
        Self::without_head(408, "request timeout", "request_overall_timeout", None);
    /// `stream_idle_timeout` ran out before the head was whole.
    pub(crate) const IDLE_TIMEOUT: Self =
        Self::without_head(408, "stream timeout", "stream_idle_timeout", Some(Flag::StreamIdleTimeout));
    /// `request_headers_timeout` ran out.
    pub(crate) const HEADER_TIMEOUT: Self =
        Self::without_head(408, "request header timeout", "request_header_timeout", None);
    /// `max_stream_duration` ran out before the head was whole.
    pub(crate) const MAX_DURATION: Self =
        Self::without_head(408, "downstream duration timeout", "max_duration_timeout", None);
    /// A header name with an underscore where the configuration rejects them.
    pub(crate) const UNDERSCORE: Self = Self::bad_request("http1.unexpected_underscore");

    const fn without_head(
        status: u16,
        body: &'static str,
        details: &'static str,
        flag: Option<Flag>,
    ) -> Self {
        Self { status, body, details, flag }
    }

    const fn of_codec(status: u16, body: &'static str, details: &'static str) -> Self {
        Self::without_head(status, body, details, Some(Flag::DownstreamProtocolError))
    }

    const fn bad_request(details: &'static str) -> Self {
        Self::of_codec(400, "Bad Request", details)
    }
}

/// What is wrong with a head or a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Anything that breaks the grammar.
    Syntax,
    /// A character that no value or authority may hold.
    Characters,
    Target,
    /// A host that is none.
    Host,
    /// A target whose scheme is not of HTTP.
    Scheme,
    /// A target of `https` from a client that is not trusted, without TLS.
    HttpsOnPlaintext,
    TooLarge,
    TooManyFields,
    /// A repeated or unreadable `content-length`.
    Length,
    /// `content-length` beside `transfer-encoding`.
    LengthAndEncoding,
    /// A `transfer-encoding` other than exactly one `chunked`.
    Encoding,
    /// Framing headers on a message that may have none (CONNECT, 1xx, 204, HTTP/1.0).
    BodyNotAllowed,
    /// Not HTTP/1.1 (nor an accepted HTTP/1.0).
    Version,
    /// More than one `host`: RFC 9112, 3.2 (Envoy joins them; we refuse, since two servers may read two hosts).
    RepeatedHost,
    /// A 101 that was not asked for, or too many interim responses.
    Interim,
    /// The connection ended inside a message.
    EarlyEnd,
}

impl Malformed {
    /// The local reply to a request of that kind.
    pub(crate) const fn refusal(self) -> Refusal {
        match self {
            Self::Syntax | Self::RepeatedHost | Self::Length | Self::Interim | Self::EarlyEnd => {
                Refusal::bad_request("http1.codec_error")
            }
            Self::Characters => Refusal::bad_request("http1.invalid_characters"),
            Self::Target => Refusal::bad_request("http1.invalid_url"),
            Self::Host => Refusal::bad_request("http.invalid_authority"),
            Self::Scheme => Refusal::bad_request("http1.invalid_scheme"),
            Self::HttpsOnPlaintext => {
                Refusal::of_codec(403, "Forbidden", "http1.https_url_on_plaintext_connection")
            }
            Self::LengthAndEncoding => Refusal::bad_request("http1.content_length_and_chunked_not_allowed"),
            Self::BodyNotAllowed => Refusal::bad_request("http1.body_disallowed"),
            Self::TooLarge => too_large("http1.headers_too_large"),
            Self::TooManyFields => too_large("http1.too_many_headers"),
            Self::Encoding => Refusal::of_codec(501, "Not Implemented", "http1.invalid_transfer_encoding"),
            Self::Version => Refusal::of_codec(426, "Upgrade Required", "low_version"),
        }
    }

    /// What an upstream did that sent such a response.
    pub(crate) const fn upstream(self) -> &'static str {
        match self {
            Self::TooLarge => "response headers too large",
            Self::TooManyFields => "too many response headers",
            Self::Length => "bad content-length",
            Self::LengthAndEncoding => "content-length and transfer-encoding together",
            Self::Encoding => "unsupported transfer-encoding",
            Self::BodyNotAllowed => "framing headers on a response without a body",
            Self::Interim => "unexpected interim response",
            Self::EarlyEnd => "closed inside a response",
            Self::Characters => "invalid characters in the head",
            Self::Syntax
            | Self::Target
            | Self::Host
            | Self::Scheme
            | Self::HttpsOnPlaintext
            | Self::Version
            | Self::RepeatedHost => "malformed response",
        }
    }
}

const fn too_large(details: &'static str) -> Refusal {
    Refusal::of_codec(431, "Request Header Fields Too Large", details)
}

#[cfg(test)]
#[path = "../../tests/unit/http1/mod.rs"]
mod tests;
