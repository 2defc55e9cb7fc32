//! Tests on the tree itself, one function a rule. Run by cargo; they call the library beside them.

mod crates;
mod documents;
mod images;
mod ladder;
mod manifests;
mod policies;
mod sources;
