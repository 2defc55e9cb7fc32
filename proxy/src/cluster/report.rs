//! What workers report to control of hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::outlier::Kind;

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
    /// So many responses had `x-envoy-immediate-health-check-fail`.
    FailNow { responses: u64 },
}

/// The reports that control has not taken yet. Those of one host are merged, so there are never
/// more than hosts, and none is lost however long control is busy.
#[derive(Debug, Default)]
pub struct Reports {
    waiting: Mutex<BTreeMap<(Arc<str>, SocketAddr), Waiting>>,
    came: Notify,
}

/// What is reported of one host.
#[derive(Debug, Default)]
struct Waiting {
    failing_responses: u64,
    ejected: Option<(Kind, Instant)>,
}

impl Reports {
    /// Leaves a report. It never waits for control.
    pub fn report(&self, HostReport { cluster, host, what }: HostReport) {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.entry((cluster, host)).or_default();
        match what {
            What::Ejected { kind, at } => waiting.ejected = Some((kind, at)),
            What::FailNow { responses } => {
                waiting.failing_responses = waiting.failing_responses.saturating_add(responses);
            }
        }
        drop(all);
        self.came.notify_one();
    }

    /// Completes when there is something to take.
    pub(crate) fn came(&self) -> Notified<'_> {
        self.came.notified()
    }

    /// All that was reported since the last call.
    pub(crate) fn take(&self) -> Vec<HostReport> {
        let taken = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut reports = Vec::with_capacity(taken.len());
        for ((cluster, host), Waiting { failing_responses: responses, ejected }) in taken {
            let mut push = |what| reports.push(HostReport { cluster: Arc::clone(&cluster), host, what });
            if let Some((kind, at)) = ejected {
                push(What::Ejected { kind, at });
            }
            if responses > 0 {
                push(What::FailNow { responses });
            }
        }
        reports
    }
}
