//! One test-suite for the mesh on every substrate: the handle on a mesh, and the load that must not lose a request.
//!
//! Read in this order: `mesh` (what a test can do to a mesh), `pod` (what it sees of one), `capability` (what cannot be done
//! everywhere), `substrate` and the files below it (how a mesh is started and changed in each place), `http` (one request), `load` (many of them at a fixed rate), `load::report` (what "0 failed" means), `chaos` (a fault under load, measured), `impostor` (an app that misbehaves), `clock` (a wall clock that jumps) and `report` (what a run says about itself).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test-suite: it panics to fail

pub mod alone;
pub mod capability;
pub mod chaos;
mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod impostor;
pub mod load;
pub mod mesh;
pub mod pod;
pub mod report;
pub mod substrate;
mod turn;

pub use capability::{Capability, has, skipped};
pub use chaos::Case;
pub use cli::{Cli, Said};
pub use impostor::{Impostor, Manner};
pub use load::{Connections, Load, Report};
pub use local_mesh::process::Signal;
pub use mesh::{Mesh, Setup};
pub use pod::{Identity, Pod, State};
pub use substrate::Target;
