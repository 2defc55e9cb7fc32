//! The mesh from outside: what a user sees, and what a user must not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests and their helpers

mod bulkhead;
mod chaos;
mod cluster;
mod command_line;
mod containers;
mod edge;
mod fail_static;
mod outages;
mod report;
mod request_path;
mod retries;
mod rollouts;
mod termination;
