//! Objects in, answers out: sds as a proxy sees it, in front of a Kubernetes API server that can fail.
//!
//! `answers`: slices and the exact JSON made of them. `supervision`: what happens when the API server misbehaves.
//! `recordings`: the bytes of a real API server. `families`: IPv6 and dual-stack clusters. `process`: the binary itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests: clippy.toml exempts only test functions

mod answers;
mod families;
mod harness;
mod process;
mod recordings;
mod supervision;
