//! Circuit breakers: how many connections, waiting requests, requests and retries a cluster may have at once.
//!
//! Why: a slow cluster must not take the whole proxy with it; past the limit a request fails at once instead of waiting.
//! Triggers: a permit is asked for while the count is at its limit. Recovers: as soon as a permit is given back (on drop), which wakes one who
//! waits for it, on whatever worker.
//! Against Envoy: the counts are one for all workers and exact; `max_connections` is not enforced where a worker without a connection
//! could otherwise wait for ever (a worker may always open one).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// The limits of one priority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// Instead of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Whether gauges show what remains (`track_remaining`).
    pub track_remaining: bool,
}

/// Retries as a share of what the cluster is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Of the active and waiting requests (20).
    pub percent: f64,
    /// That many are always allowed (3).
    pub min_concurrency: u32,
}

impl Default for Thresholds {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
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
pub struct Count {
    used: AtomicU32,
    /// How many wait for a permit, on all workers.
    wanted: AtomicU32,
    /// A permit was given back while some were waiting.
    room: Notify,
}

/// One unit of a count; given back on drop.
#[derive(Debug)]
pub struct Permit(Arc<Count>);

/// Somebody waits for a permit; over on drop.
#[derive(Debug)]
pub struct Want(Arc<Count>);

impl Breaker {
    /// How many retries there may be at this moment.
    pub fn retry_limit(&self, limits: &Thresholds) -> u32 {
        let Some(budget) = limits.retry_budget else { return limits.max_retries };
        let active = f64::from(self.requests.used()) + f64::from(self.pending.used());
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a count, rounded down
        let share = (budget.percent / 100.0 * active) as u32;
        share.max(budget.min_concurrency)
    }
}

impl Count {
    /// A permit, unless `limit` of them are out.
    pub fn acquire(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        // Never above the limit, not even for a moment: another worker would take that for a permit that is out, and wait for its end.
        let one_more = |used: u32| (used < limit).then(|| used.saturating_add(1));
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Permit(Arc::clone(self)))
    }

    /// A permit past any limit.
    pub fn take(self: &Arc<Self>) -> Permit {
        self.used.fetch_add(1, Ordering::SeqCst);
        Permit(Arc::clone(self))
    }

    /// How many permits are out.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes it known that somebody waits.
    pub fn want(self: &Arc<Self>) -> Want {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        Want(Arc::clone(self))
    }

    /// How many wait.
    pub fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Wakes one who waits when a permit was given back. Only while a `Want` is out.
    pub fn room(&self) -> &Notify {
        &self.room
    }
}

impl Permit {
    /// How many wait for a permit of this count.
    pub fn wanted(&self) -> u32 {
        self.0.wanted()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::SeqCst);
        if self.0.wanted.load(Ordering::SeqCst) > 0 {
            self.0.room.notify_one();
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::SeqCst);
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
