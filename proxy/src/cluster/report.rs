//! What a worker reports to control of a host.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::outlier::Kind;

/// Reports that control may have in its queue. One that finds it full is dropped and counted.
pub(crate) const WAITING_REPORTS: usize = 256;

/// One report.
#[derive(Debug)]
pub struct HostReport {
    pub cluster: Arc<str>,
    pub host: SocketAddr,
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The worker ejected the host. Every worker already knows; control ends the ejection.
    Ejected { kind: Kind, at: Instant },
    /// The response had `x-envoy-immediate-health-check-fail`.
    FailNow,
}
