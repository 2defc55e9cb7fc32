//! Envoy's messages -> our own graph, with every error by field path.
//!
//! Called by `control` and `app`; calls `xds`, `route`, `cluster`, `filter`.
