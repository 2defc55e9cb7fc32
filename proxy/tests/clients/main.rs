//! The proxy as a program among clients and upstreams that keep no promise.
//!
//! Each module is a kind of fault. Its cases are generated over whole families of inputs, and go
//! over real sockets as raw bytes. What the proxy does is read from its counters and logs, never
//! from the time that it takes.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

#[path = "../../../crates/differential/src/hpack.rs"]
mod hpack;
mod http1;
mod http2;
mod proxy;
mod upstream;

mod accounts;
mod admin;
mod blocked;
mod closing;
mod departure;
mod direct;
mod durations;
mod envoy;
mod injection;
mod judged;
mod linear;
mod lines;
mod listeners;
mod local_replies;
mod memory;
mod odd;
mod odd_bytes;
mod operators;
mod overload;
mod paths;
mod record;
mod repeated;
mod resets;
mod scheme;
mod statistics;
mod streams;
mod strict;
mod tcp_ends;
mod trailers;
mod tunnels;
