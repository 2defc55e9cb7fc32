//! Circuit breakers: how many connections, pending requests, requests and retries a cluster may have
//! at once.
//!
//! Why: a slow cluster must not take the whole proxy with it. Past the limit a request fails at once.
//! Triggers: a permit is asked for while the count is at its limit. Recovers: as soon as a permit is
//! returned (on drop), which wakes one waiter, on any worker.
//! Unlike Envoy's, the counts are exact and one for all workers. `max_connections` does not stop a
//! pool without a connection from opening one: no connection of its own could end its wait.
//!
//! A permit that returns and a request that begins to wait must not miss each other. The one
//! lowers `used` and then reads `wanted`, the other raises `wanted` and then reads `used`; with
//! sequentially consistent operations at least one of them sees what the other wrote. Weaker ones
//! would let both read old values (on AArch64), and the request would wait for a wake-up that has
//! already been left out.

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
    pub(crate) retry_budget: Option<RetryBudget>,
    /// Whether gauges show what remains (`track_remaining`).
    pub track_remaining: bool,
}

/// Retries as a share of what the cluster is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RetryBudget {
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
    pub(crate) connections: Arc<Count>,
    pub(crate) pending: Arc<Count>,
    pub(crate) requests: Arc<Count>,
    pub(crate) retries: Arc<Count>,
}

/// A count with permits.
#[derive(Debug, Default)]
pub(crate) struct Count {
    used: AtomicU32,
    /// How many wait for a permit, on all workers.
    wanted: AtomicU32,
    /// A permit returned while some were waiting.
    room: Notify,
}

/// One unit of a count; returns on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Count>);

/// Requests that wait for permits; over on drop.
#[derive(Debug)]
pub(crate) struct Want {
    count: Arc<Count>,
    many: u32,
}

impl Breaker {
    /// How many retries there may be at this moment.
    pub(crate) fn retry_limit(&self, limits: &Thresholds) -> u32 {
        let Some(budget) = limits.retry_budget else { return limits.max_retries };
        let active = f64::from(self.requests.used()) + f64::from(self.pending.used());
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a count, rounded down
        let share = (budget.percent / 100.0 * active) as u32;
        share.max(budget.min_concurrency)
    }
}

impl Count {
    /// A permit, unless `limit` of them are out.
    pub(crate) fn acquire(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        // Never above the limit, not even for a moment: another worker would wait for the end of a
        // permit that is not there.
        let one_more = |used: u32| (used < limit).then(|| used.saturating_add(1));
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        taken.is_ok().then(|| Permit(Arc::clone(self)))
    }

    /// A permit past any limit.
    pub(crate) fn take(self: &Arc<Self>) -> Permit {
        self.used.fetch_add(1, Ordering::SeqCst);
        Permit(Arc::clone(self))
    }

    /// How many permits are out.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes it known that `many` requests wait.
    pub(crate) fn want(self: &Arc<Self>, many: u32) -> Want {
        self.wanted.fetch_add(many, Ordering::SeqCst);
        Want { count: Arc::clone(self), many }
    }

    /// How many requests wait.
    pub(crate) fn wanted(&self) -> u32 {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Notified when a permit returns. Only while a `Want` lives.
    pub(crate) fn room(&self) -> &Notify {
        &self.room
    }
}

impl Want {
    /// How many wait has changed.
    pub(crate) fn set(&mut self, many: u32) {
        // Up before down, so that it is never 0 in between.
        self.count.wanted.fetch_add(many, Ordering::SeqCst);
        self.count.wanted.fetch_sub(self.many, Ordering::SeqCst);
        self.many = many;
    }
}

impl Permit {
    /// How many requests wait for a permit of this count.
    pub(crate) fn wanted(&self) -> u32 {
        self.0.wanted()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::SeqCst);
        if self.0.wanted() > 0 {
            self.0.room.notify_one();
        }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.count.wanted.fetch_sub(self.many, Ordering::SeqCst);
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
