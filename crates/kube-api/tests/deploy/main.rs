//! `deploy/mesh.sh` against this server, with fake tools of clusters: every bad input has its one line and changes nothing; a deploy
//! creates, waits, can be repeated, and leaves nothing behind. Skipped, with a line that says so, where there is no kubectl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking, also in its helpers

mod configuration;
mod images;
mod life;
mod limits;
mod refusals;
mod ways;
mod world;
