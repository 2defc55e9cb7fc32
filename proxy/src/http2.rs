//! HTTP/2 by the `h2` crate, adapted to our heads and frames, for both sides.
//!
//! Called by `connection` and `upstream`; calls `message`, `error`.

/// Connection options (`http2_protocol_options`), Envoy's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
}
