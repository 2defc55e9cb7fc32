//! What a worker has to tell the single writer of a host, at once: it crossed a threshold, or said that it is not to be used.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::outlier::Crossed;

/// Reports that may wait for the writer; beyond that the worker goes on without one, and the next failure reports again.
pub const WAITING_REPORTS: usize = 256;

/// One report.
#[derive(Debug)]
pub struct HostReport {
    pub cluster: Arc<str>,
    pub host: SocketAddr,
    pub what: What,
    /// Told when the workers have been sent what comes of it.
    pub done: oneshot::Sender<()>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Failures in a row.
    Crossed(Crossed),
    /// The answer had `x-envoy-immediate-health-check-fail`.
    FailNow,
}
