//! Runs the whole mesh as processes on one machine: each pod on a loopback address of its own, the same ports everywhere.
//!
//! Read in this order: `plan` (what runs), `pod` (one pod), `supervisor` (the owner of everything: `start`, `lifecycle`,
//! `commands`, `publish`), `process` (children that cannot outlive it). Beside them: `render` (the pods' Envoy files),
//! `dns` and `objects` (what a cluster would provide), `control` (commands from outside), `dir` (the folder `mesh/`),
//! `preflight` and `probe` (looking before and after).

pub mod control;
pub mod dir;
pub mod plan;
pub mod process;

mod dns;
mod error;
pub mod objects;
mod pod;
mod preflight;
mod probe;
mod render;
mod supervisor;

pub use error::{Error, PortInUse};
pub use supervisor::{END_TO_END, Ended, Options, Progress, supervise};
