//! The mesh from outside: what a user sees, and what a user must not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests and their helpers

mod chaos;
mod cluster;
mod command_line;
mod containers;
mod outages;
mod report;
mod request_path;
mod rollouts;
mod termination;
