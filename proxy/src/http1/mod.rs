//! HTTP/1.1 (RFC 9112): our own parser and writer for heads and bodies, for both sides.
//!
//! Called by `connection` and `upstream`; calls `message`, `error`.

/// How heads are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// `Content-Length` instead of `content-length` (Envoy's `proper_case_words`).
    pub proper_case: bool,
    pub enable_trailers: bool,
}

/// What a server connection accepts.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    pub encode: EncodeOptions,
    pub accept_http10: bool,
    /// The host of HTTP/1.0 requests that name none; empty for a refusal.
    pub default_host: Box<str>,
    /// `GET http://host/path` is taken apart (on by default).
    pub allow_absolute_url: bool,
}
