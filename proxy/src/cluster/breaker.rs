//! Circuit breakers: how many connections, waiting requests, requests and retries a cluster may have at once.
//!
//! Why: a slow cluster must not take the whole proxy with it; past the limit a request fails at once instead of waiting.
//! Triggers: a permit is asked for while the count is at its limit. Recovers: as soon as a permit is given back (on drop).
//! Against Envoy: the counts are one for all workers and exact; `max_connections` is not enforced where a worker without a connection
//! could otherwise wait for ever (a worker may always open one).
//! Called by `attempt` and `upstream`; calls nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The limits of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// Whether gauges show what remains (`track_remaining`).
    pub track_remaining: bool,
}

impl Default for Thresholds {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            track_remaining: false,
        }
    }
}

/// What is in use at the moment, for one cluster and priority; kept over reloads.
#[derive(Debug, Default)]
pub struct Breaker {
    pub connections: Arc<Count>,
    pub pending: Arc<Count>,
    pub requests: Arc<Count>,
    pub retries: Arc<Count>,
}

/// A count with permits.
#[derive(Debug, Default)]
pub struct Count(AtomicU32);

/// One unit of a count; given back on drop.
#[derive(Debug)]
pub struct Permit(Arc<Count>);

impl Count {
    /// A permit, unless `limit` of them are out.
    pub fn acquire(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        let taken = self.0.fetch_add(1, Ordering::Relaxed);
        if taken >= limit {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit(Arc::clone(self)))
    }

    /// A permit past any limit.
    pub fn take(self: &Arc<Self>) -> Permit {
        self.0.fetch_add(1, Ordering::Relaxed);
        Permit(Arc::clone(self))
    }

    /// How many permits are out.
    pub fn used(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_refused_at_the_limit_is_there_again_after_one_was_given_back() {
        let count = Arc::new(Count::default());
        let first = count.acquire(1);
        assert!(first.is_some());
        assert!(count.acquire(1).is_none());
        drop(first);
        assert!(count.acquire(1).is_some());
        assert_eq!(count.used(), 0);
    }
}
