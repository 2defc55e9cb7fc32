//! Tests on the tree itself, one function a rule.

mod clocks;
mod crates;
mod documents;
mod images;
mod ladder;
mod manifests;
mod policies;
mod sources;
mod statistics;
