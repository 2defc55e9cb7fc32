//! Tests on the tree itself, one function a rule.

mod clocks;
mod crates;
mod documents;
mod images;
mod ladder;
mod lint;
mod manifests;
mod policies;
mod remedies;
mod sources;
mod statistics;
