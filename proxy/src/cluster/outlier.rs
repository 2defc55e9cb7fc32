//! Outlier detection: hosts that fail real requests are ejected from load balancing for a while.
//!
//! Why: a host may pass its health checks and still fail requests. Triggers: consecutive failures,
//! counted by the worker that sees them (`observe`, `eject`); or, at each interval, a success rate
//! far below the mean, or too high a failure percentage (`Detector::sweep`). Recovers: after the
//! ejection time, which grows with each ejection and shrinks with each quiet interval; or when an
//! active health check passes. An ejection takes effect at the next pick of every worker, without
//! waiting for control.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::HostStats;
use super::host::Rate;
use crate::stats::{OutlierStats, Scope};

mod detector;
#[cfg(test)]
#[path = "../../tests/unit/outlier.rs"]
mod tests;

pub(crate) use detector::Detector;

/// Everything about outlier detection that a file says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    /// Failures to connect, resets and timeouts are counted apart from responses.
    pub split: bool,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    pub always_eject_one_host: bool,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    pub success_rate_stdev_factor: u32,
    pub failure_percentage_threshold: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    pub enforcing: Enforcing,
    /// A passed health check ends an ejection.
    pub health_check_unejects: bool,
}

/// The chance of an ejection in percent, by what was detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Enforcing {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    pub success_rate: u32,
    pub local_origin_success_rate: u32,
    pub failure_percentage: u32,
    pub local_origin_failure_percentage: u32,
}

/// What detection of one cluster is made of, for workers and `/clusters`.
#[derive(Debug)]
pub struct Policy {
    pub(crate) settings: Settings,
    pub stats: Arc<Scope<OutlierStats>>,
    /// Responses, then what happened before a response.
    pub(crate) averages: [Averages; 2],
}

/// The mean of the success rates at the last sweep, and the rate below which hosts were ejected; -1 when there were too few hosts.
#[derive(Debug)]
pub(crate) struct Averages {
    pub mean: Percent,
    pub threshold: Percent,
}

/// A share that one thread writes and others read.
#[derive(Debug)]
pub(crate) struct Percent(AtomicU64);

impl Percent {
    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

impl Default for Percent {
    fn default() -> Self {
        Self(AtomicU64::new((-1.0_f64).to_bits()))
    }
}

impl Policy {
    pub(crate) fn new(settings: Settings, stats: Arc<Scope<OutlierStats>>) -> Self {
        let averages = [(); 2].map(|()| Averages { mean: Percent::default(), threshold: Percent::default() });
        Self { settings, stats, averages }
    }
}

/// Failures in a row of one host, over all workers; and its success rates of the last interval, -1 when there were too few requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    consecutive_5xx: AtomicU64,
    consecutive_gateway_failure: AtomicU64,
    consecutive_local_origin_failure: AtomicU64,
    pub success_rate: Percent,
    pub local_origin_success_rate: Percent,
}

/// What a worker saw of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A response, by its status (or the one for its gRPC status).
    Response(u16),
    /// A connection; its response is still to come.
    Connected,
    /// A connection, which is all that was wanted (`tcp_proxy`).
    Served,
    /// No connection, or one that ended before the response did.
    Failed,
    /// No response in time; the client got this status.
    Timeout(u16),
}

/// What was detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
}

/// Which thresholds one observation reached; at most two.
pub(crate) type Crossed = [Option<Kind>; 2];

/// Counts what a worker saw of a host, and says which thresholds of failures in a row it reached. A host that works costs no write that
/// another worker would notice.
pub(crate) fn observe(settings: &Settings, host: &HostStats, worker: usize, seen: Seen) -> Crossed {
    let tally = &host.tally;
    let shard = host.shard(worker);
    match (settings.split, seen) {
        (_, Seen::Response(status)) => response(settings, tally, &shard.external, status),
        (false, Seen::Connected) => [None; 2],
        (false, Seen::Served) => response(settings, tally, &shard.external, 200),
        (false, Seen::Failed) => response(settings, tally, &shard.external, 503),
        (false, Seen::Timeout(status)) => response(settings, tally, &shard.external, status),
        (true, Seen::Connected | Seen::Served) => {
            shard.local.success();
            reset(&tally.consecutive_local_origin_failure);
            [None; 2]
        }
        (true, Seen::Failed | Seen::Timeout(_)) => {
            shard.local.failure();
            let row = &tally.consecutive_local_origin_failure;
            let reached = reaches(row, settings.consecutive_local_origin_failure);
            [reached.then_some(Kind::ConsecutiveLocalOriginFailure), None]
        }
    }
}

fn response(settings: &Settings, tally: &Tally, rate: &Rate, status: u16) -> Crossed {
    if !(500..600).contains(&status) {
        rate.success();
        reset(&tally.consecutive_5xx);
        reset(&tally.consecutive_gateway_failure);
        return [None; 2];
    }
    rate.failure();
    let gateway = if (502..=504).contains(&status) {
        reaches(&tally.consecutive_gateway_failure, settings.consecutive_gateway_failure)
    } else {
        reset(&tally.consecutive_gateway_failure);
        false
    };
    let server = reaches(&tally.consecutive_5xx, settings.consecutive_5xx);
    [gateway.then_some(Kind::ConsecutiveGatewayFailure), server.then_some(Kind::Consecutive5xx)]
}

/// Counts a failure. A row that is longer than the threshold was detected while the host was
/// claimed for something else, and is detected again.
fn reaches(row: &AtomicU64, threshold: u32) -> bool {
    let length = row.fetch_add(1, Relaxed).saturating_add(1);
    threshold != 0 && length >= u64::from(threshold)
}

fn reset(row: &AtomicU64) {
    if row.load(Relaxed) != 0 {
        row.store(0, Relaxed);
    }
}

impl Tally {
    /// Restarts the count behind a detection. False when another worker's detection of the same row
    /// did so already.
    fn restart(&self, kind: Kind, settings: &Settings) -> bool {
        let (row, threshold) = match kind {
            Kind::ConsecutiveGatewayFailure => {
                (&self.consecutive_gateway_failure, settings.consecutive_gateway_failure)
            }
            Kind::ConsecutiveLocalOriginFailure => {
                (&self.consecutive_local_origin_failure, settings.consecutive_local_origin_failure)
            }
            _ => (&self.consecutive_5xx, settings.consecutive_5xx),
        };
        let whole = |length: u64| (length >= u64::from(threshold)).then_some(0);
        row.fetch_update(Relaxed, Relaxed, whole).is_ok()
    }

    /// Restarts all counts: as many failures in a row as before are another detection.
    pub(crate) fn restart_all(&self) {
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway_failure);
        reset(&self.consecutive_local_origin_failure);
    }
}

/// How many hosts of one cluster are ejected, exact over all workers.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    /// The hosts in the upper half, those of them that are ejected in the lower: one word, so that the limit holds at all times.
    counts: AtomicU64,
    /// Changes with each ejection and each end of one.
    epoch: AtomicU64,
    /// Nothing would end an ejection: the cluster has no detection (any more).
    closed: AtomicBool,
}

impl Ejections {
    /// Whether hosts may be ejected. A worker that still holds a policy from before may try to.
    pub(super) fn set_closed(&self, closed: bool) {
        self.closed.store(closed, SeqCst);
    }

    /// Differs from an earlier one when hosts were ejected or un-ejected since. Read it before the flags of the hosts.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    pub(super) fn set_hosts(&self, hosts: usize) {
        let hosts = u64::from(u32::try_from(hosts).unwrap_or(u32::MAX)) << 32;
        self.update(|counts| Some(hosts | counts & LOWER));
    }

    /// Counts one more ejected host, if `max_ejection_percent` allows it.
    fn take(&self, settings: &Settings) -> bool {
        self.update(|counts| allows(settings, counts).then_some(counts + 1))
    }

    fn has_room(&self, settings: &Settings) -> bool {
        allows(settings, self.counts.load(Relaxed))
    }

    fn give_back(&self) {
        self.update(|counts| (counts & LOWER != 0).then(|| counts - 1));
    }

    fn update(&self, change: impl FnMut(u64) -> Option<u64>) -> bool {
        self.counts.fetch_update(AcqRel, Relaxed, change).is_ok()
    }
}

const LOWER: u64 = u32::MAX as u64;

fn allows(settings: &Settings, counts: u64) -> bool {
    let (hosts, ejected) = (counts >> 32, counts & LOWER);
    100 * (ejected + 1) <= u64::from(settings.max_ejection_percent) * hosts
        || (settings.always_eject_one_host && ejected == 0)
}

/// Whether one host is ejected.
#[derive(Debug)]
pub(crate) struct Ejection {
    state: AtomicU8,
    cluster: Arc<Ejections>,
}

const IN: u8 = 0;
/// One thread decides whether the host is ejected; until then it is used.
const CLAIMED: u8 = 1;
const EJECTED: u8 = 2;
/// The host left the cluster and counts no more.
const GONE: u8 = 3;

impl Ejection {
    pub(super) fn new(cluster: Arc<Ejections>) -> Self {
        Self { state: AtomicU8::new(IN), cluster }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.state.load(Acquire) == EJECTED
    }

    /// Ends an ejection. True when there was one.
    pub(crate) fn uneject(&self) -> bool {
        let ended = self.change(EJECTED, IN);
        if ended {
            self.cluster.give_back();
            self.cluster.epoch.fetch_add(1, Release);
        }
        ended
    }

    /// The host left the cluster.
    pub(super) fn leave(&self) {
        if self.state.swap(GONE, AcqRel) == EJECTED {
            self.cluster.give_back();
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    /// Ejects the host that the caller has claimed, unless too many are ejected.
    fn eject_claimed(&self, settings: &Settings) -> bool {
        if self.cluster.closed.load(SeqCst) || !self.cluster.take(settings) {
            return false;
        }
        let ejected = self.change(CLAIMED, EJECTED);
        if ejected {
            self.cluster.epoch.fetch_add(1, Release);
        } else {
            // It left in between.
            self.cluster.give_back();
        }
        // Whoever closes looks at the hosts afterwards, so that one of both finds it.
        if ejected && self.cluster.closed.load(SeqCst) {
            self.uneject();
            return false;
        }
        ejected
    }
}

/// Ejects a host for what was detected, unless too many are ejected or chance says no. True when this call ejected it; it is ejected
/// for every worker then.
pub fn eject(
    policy: &Policy,
    host: &HostStats,
    kind: Kind,
    worker: usize,
    random: &mut impl FnMut(u64) -> u64,
) -> bool {
    let ejection = &host.ejection;
    let claimed = ejection.change(IN, CLAIMED);
    if !claimed && kind.is_consecutive() {
        return false;
    }
    let (settings, stats) = (&policy.settings, policy.stats.shard(worker));
    if kind.is_consecutive() && !host.tally.restart(kind, settings) {
        ejection.change(CLAIMED, IN);
        return false;
    }
    match kind {
        Kind::Consecutive5xx => stats.ejections_consecutive_5xx.inc(),
        Kind::SuccessRate => stats.ejections_success_rate.inc(),
        _ => {}
    }
    kind.count_detected(stats);
    let chance = kind.chance(&settings.enforcing);
    // A rate and a percentage may both be against a host, which is ejected once.
    let enforce = claimed && random(100) < u64::from(chance);
    let ejected = enforce && ejection.eject_claimed(settings);
    if claimed && !ejected {
        ejection.change(CLAIMED, IN);
    }
    if ejected {
        kind.count_enforced(stats);
        stats.ejections_enforced_total.inc();
    } else if !ejection.cluster.has_room(settings) {
        stats.ejections_overflow.inc();
        return false;
    }
    if matches!(kind, Kind::Consecutive5xx | Kind::SuccessRate) {
        stats.ejections_total.inc();
    }
    ejected
}
