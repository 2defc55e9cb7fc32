//! When the pods of one Service were last ready.
//!
//! Kubernetes says what is ready now and not what was. A pod is remembered for as long as the slices
//! name it at the same address and it has not been told to go, so there are never more entries than
//! endpoints.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant};

use crate::translate::{Pod, PodId};

/// The pods that are ready, and those that were until recently.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    pods: BTreeMap<PodId, Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Until(Instant),
    /// It was when we last heard of it.
    Now,
}

impl Readiness {
    /// Whether the pod was ready less than `time` ago. A pod that was ready in the state before has
    /// been so until now.
    pub fn recent(&self, pod: &PodId, time: Duration, now: Instant) -> bool {
        self.pods.get(pod).is_some_and(|last| last.ago(now) < time)
    }

    /// Whether the pod has been seen ready.
    pub fn knows(&self, pod: &PodId) -> bool {
        self.pods.contains_key(pod)
    }

    /// Takes over the state as it is now; forgets pods that are gone or were ready too long ago.
    pub fn update(&mut self, pods: Vec<Pod>, time: Duration, now: Instant) {
        let before = std::mem::take(&mut self.pods);
        for Pod { id, ready } in pods {
            let last = match before.get(&id) {
                _ if ready => Last::Now,
                Some(Last::Now) => Last::Until(now),
                Some(last) => *last,
                None => continue,
            };
            if last.ago(now) < time {
                // With several ports a pod is named several times; once ready is ready.
                let known = self.pods.entry(id).or_insert(last);
                *known = last.max(*known);
            }
        }
    }

    /// When the next of these pods will have been ready too long ago.
    pub fn next_expiry(&self, time: Duration) -> Option<Instant> {
        let ends = self.pods.values().filter_map(|last| match last {
            Last::Until(end) => Some(*end + time),
            Last::Now => None,
        });
        ends.min()
    }
}

impl Last {
    fn ago(self, now: Instant) -> Duration {
        match self {
            Self::Until(end) => now.saturating_duration_since(end),
            Self::Now => Duration::ZERO,
        }
    }
}
