//! The sidecar proxy as a library.
//!
//! Reading order, one request long:
//! `listener.rs`, `connection.rs`, `http1/server.rs`, `exchange.rs`, `headers/request.rs`, `route/table.rs`,
//! `exchange/attempt.rs`, `upstream/pool.rs`, `http1/client.rs`, `exchange/response.rs`,
//! `exchange/record.rs`, `access_log/mod.rs`.
//!
//! The ladder: a module imports only lower rungs. `main` > `app` > `control`, `worker` > `admin`, `listener` > `connection` > `exchange`,
//! `tcp`, `build` > `snapshot` > `local` > `upstream`, `downstream` > `route`, `cluster` > `filter` > `local_reply` >
//! `access_log`, `affinity`, `headers`, `retry`, `trace` > `format` > `matcher`, `http1`, `http2`, `grpc` > `stream_info` > `message`, `error`, `state`, `stats`,
//! `time`, `args` > `overload`, `memory`.

#![warn(unreachable_pub)] // what is `pub` is for programs and integration tests

pub mod access_log;
pub mod admin;
mod affinity;
pub mod app;
mod args;
pub mod build;
pub mod cluster;
mod connection;
pub mod control;
mod downstream;
mod error;
mod exchange;
mod filter;
mod format;
mod grpc;
mod headers;
mod http1;
mod http2;
mod listener;
mod local;
mod local_reply;
mod matcher;
pub mod memory;
mod message;
mod overload;
mod retry;
pub mod route;
pub mod snapshot;
pub mod state;
pub mod stats;
mod stream_info;
mod tcp;
pub mod time;
mod trace;
mod upstream;
mod worker;
