//! Network filters that let a connection in or close it: what stands before the last filter of a chain.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::snapshot::{Bucket, ConnectionLimit, Gate, RateLimit};

/// What the gates said of a connection.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Let in; the places that it takes are given back on drop.
    In(Vec<Place>),
    /// To be closed after the delay.
    Out(Option<Duration>, Vec<Place>),
}

/// A connection that a limit counts.
#[derive(Debug)]
pub(super) struct Place {
    limit: Arc<ConnectionLimit>,
    shard: usize,
}

/// Asks each gate in turn.
pub(super) fn ask(gates: &[Gate], shard: usize, now: Instant) -> Verdict {
    let mut places = Vec::new();
    for gate in gates {
        match gate {
            Gate::ConnectionLimit(limit) if limit.enabled => {
                let stats = limit.stats.shard(shard);
                stats.active_connections.inc();
                let before = limit.open.fetch_add(1, Relaxed);
                places.push(Place { limit: Arc::clone(limit), shard });
                if before >= limit.most {
                    stats.limited_connections.inc();
                    return Verdict::Out(limit.delay, places);
                }
            }
            Gate::RateLimit(limit) if limit.enabled && !limit.take(now) => {
                limit.stats.shard(shard).rate_limited.inc();
                return Verdict::Out(None, places);
            }
            Gate::ConnectionLimit(_) | Gate::RateLimit(_) => {}
        }
    }
    Verdict::In(places)
}

impl RateLimit {
    fn take(&self, now: Instant) -> bool {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }
}

impl Bucket {
    /// Takes a token if there is a whole one.
    fn take(&mut self, now: Instant) -> bool {
        let since = self.since.replace(now).unwrap_or(now);
        let came = now.saturating_duration_since(since).as_secs_f64() * self.per_second;
        self.left = (self.left + came).min(self.most);
        let there = self.left >= 1.0;
        if there {
            self.left -= 1.0;
        }
        there
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Relaxed);
        self.limit.stats.shard(self.shard).active_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_never_exceed_the_bucket() {
        let mut bucket = Bucket { most: 2.0, per_second: 0.5, left: 2.0, since: None };
        let begin = crate::time::now();
        let taken: Vec<bool> =
            [0, 0, 1, 2, 3, 60, 60, 60].map(|after| bucket.take(begin + Duration::from_secs(after))).into();
        assert_eq!(taken, [true, true, false, true, false, true, true, false]);
    }
}
