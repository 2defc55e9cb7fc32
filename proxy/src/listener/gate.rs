//! Network filters that accept a connection or close it: those before the last filter of a chain.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::snapshot::{ConnectionLimit, Gate};

/// The result of the gates for a connection.
#[derive(Debug)]
pub(super) enum Admission {
    /// Accepted; its places return on drop.
    Accept(Vec<Place>),
    /// Closed after the delay.
    Close(Option<Duration>, Vec<Place>),
}

/// A connection that a limit counts.
#[derive(Debug)]
pub(super) struct Place {
    limit: Arc<ConnectionLimit>,
    shard: usize,
}

/// Asks each gate in turn.
pub(super) fn ask(gates: &[Gate], shard: usize, now: Instant) -> Admission {
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
                    return Admission::Close(limit.delay, places);
                }
            }
            Gate::RateLimit(limit) if limit.enabled && !limit.bucket.take(now).taken => {
                limit.stats.shard(shard).connections_rate_limited.inc();
                return Admission::Close(None, places);
            }
            Gate::ConnectionLimit(_) | Gate::RateLimit(_) => {}
        }
    }
    Admission::Accept(places)
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Relaxed);
        self.limit.stats.shard(self.shard).active_connections.dec();
    }
}
