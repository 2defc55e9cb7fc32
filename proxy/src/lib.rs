//! The sidecar proxy as a library.
//!
//! Reading order, one request long:
//! `listener.rs`, `connection.rs`, `exchange.rs`, `route/mod.rs`, `filter/mod.rs`, `attempt.rs`, `cluster/mod.rs`, `upstream/mod.rs`.

pub mod access_log;
pub mod attempt;
pub mod cluster;
pub mod connection;
pub mod downstream;
pub mod error;
pub mod exchange;
pub mod filter;
pub mod format;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod listener;
pub mod local;
pub mod local_reply;
pub mod matcher;
pub mod message;
pub mod mutation;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod state;
pub mod stats;
pub mod stream_info;
pub mod tcp;
pub mod time;
pub mod upstream;
pub mod worker;
