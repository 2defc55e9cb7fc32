//! The sidecar proxy as a library.
//!
//! Reading order, one request long:
//! `listener.rs`, `connection.rs`, `http1/server.rs`, `exchange.rs`, `headers/request.rs`, `route/table.rs`,
//! `exchange/attempt.rs`, `upstream/pool.rs`, `http1/client.rs`, `exchange/response.rs`,
//! `exchange/record.rs`, `access_log/mod.rs`.
//!
//! The ladder: a module imports only lower rungs. `main` > `app` > `control`, `worker` > `admin`, `listener` > `connection` > `exchange`,
//! `tcp`, `build` > `snapshot` > `local` > `upstream`, `downstream` > `route`, `cluster` > `filter` > `local_reply` >
//! `access_log`, `headers`, `retry`, `trace` > `format` > `matcher`, `http1`, `http2`, `grpc` > `stream_info` > `message`, `error`, `state`, `stats`,
//! `time`, `args`.

pub mod access_log;
pub mod admin;
pub mod app;
pub mod args;
pub mod build;
pub mod cluster;
pub mod connection;
pub mod control;
pub mod downstream;
pub mod error;
pub mod exchange;
pub mod filter;
pub mod format;
pub mod grpc;
pub mod headers;
pub mod http1;
pub mod http2;
pub mod listener;
pub mod local;
pub mod local_reply;
pub mod matcher;
pub mod message;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod state;
pub mod stats;
pub mod stream_info;
pub mod tcp;
pub mod time;
pub mod trace;
pub mod upstream;
pub mod worker;
