//! Filters: what happens to a request before it is routed and to an answer before it is sent.
//!
//! The connection manager's own header rules are in `edge`, the configured additions and removals in `mutation`.
//! Called by `exchange`; calls `format`, `matcher`, `message`.

pub use crate::mutation;
