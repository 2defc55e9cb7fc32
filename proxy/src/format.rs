//! Envoy's `%OPERATOR%` formats: parsed once, evaluated for logs, header values and bodies.
//!
//! Built by `snapshot::build`; called by `access_log`, `filter::mutation`, `local_reply`; calls `message`, `stream_info`, `error`.

use crate::message::{Fields, RequestHead, ResponseHead};
use crate::stream_info::StreamInfo;

/// What a format may read. Parts that do not exist (yet) print as `-`.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub info: &'a StreamInfo,
    pub request: Option<&'a RequestHead>,
    pub response: Option<&'a ResponseHead>,
    pub response_trailers: Option<&'a Fields>,
    /// The text of the local reply, for `%LOCAL_REPLY_BODY%`.
    pub local_reply_body: &'a str,
}

/// A parsed format.
#[derive(Clone, Debug, Default)]
pub struct Format {}

impl Format {
    /// The value as bytes.
    pub fn bytes(&self, _context: &Context<'_>) -> Vec<u8> {
        Vec::new()
    }
}
