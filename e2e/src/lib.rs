//! One test-suite for the mesh on every substrate: the handle on a mesh, and the load that must not lose a request.
//!
//! Read in this order: `mesh` (what a test can do to a mesh), `local` (how one is started on this machine), `http` (one
//! request), `load` (many of them at a fixed rate) and `load::report` (what "0 failed" means).
//! Used by `tests/`; calls local-mesh's control client and the real `petmesh`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test-suite: it panics to fail

pub mod http;
pub mod load;
mod local;
pub mod mesh;

pub use load::{Connections, Load, Report};
pub use local::{Cli, Said};
pub use local_mesh::process::Signal;
pub use mesh::{Mesh, Setup};
