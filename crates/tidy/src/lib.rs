//! Tests on the tree itself: what a machine can check of the architecture and the style.
//!
//! This library reads the tree; the checks are the tests in `tests/tidy/`, one function each: `sources` (headers, sizes),
//! `crates` (who may depend on whom), `ladder` (who may import whom inside the proxy), `policies` (what pure code must
//! not do), `documents` (paths and links). Each names the file and the remedy.
//!
//! Run with every `cargo test`; calls git and cargo.

mod markdown;
mod rust_source;
mod tree;

pub use markdown::{code_spans, headings, links, section};
pub use rust_source::{code, in_file_tests, paths_below, without_tests};
pub use tree::{Findings, Tree};
