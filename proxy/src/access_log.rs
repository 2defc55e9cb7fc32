//! Access logs: which exchanges are logged, in which format, to which file.
//!
//! Built by `snapshot::build`; called by `exchange` and `tcp`; calls `format`, `matcher`.

/// One configured access log.
#[derive(Debug)]
pub struct AccessLog {}
