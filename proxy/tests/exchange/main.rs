//! What an exchange does with clients and upstreams that do not keep to the ordinary course, over sockets.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

mod client;
mod departure;
mod messages;
mod mirror;
#[path = "../shared/ports.rs"]
mod ports;
mod proxy;
