//! One request to one host: a connection from the pool, and the stream on it.
//!
//! Called by `attempt`; calls `http1`, `http2`, `cluster`, `stats`.

mod stream;

pub use stream::{HeadKind, RequestWriter, ResponseReader};
