//! Outlier detection: hosts that fail real requests are taken out of the balancing for a while.
//!
//! Why: a host may answer its health checks and still fail what it is asked. Triggers: failures in a row, counted where requests are
//! made (`observe`); or, each interval, a success rate far below the mean of the others, or too many failures in percent (`sweep`).
//! Recovers: after the ejection time, which grows with each ejection and shrinks with each quiet interval; or with a passed health
//! check. Never more than `max_ejection_percent` of the hosts are out.
//! `observe` is called by workers, the `Detector` (in `detector`) by the single writer in `control`; they call `stats` alone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::HostStats;
use super::host::Rate;

mod detector;
#[cfg(test)]
mod tests;

pub use detector::Detector;

/// Everything about outlier detection that a file says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    /// Failures to connect, resets and timeouts are counted apart from answers.
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
pub struct Enforcing {
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
    pub settings: Settings,
    /// Answers, then what happened before an answer.
    pub averages: [Averages; 2],
}

/// The mean of the success rates at the last sweep, and the rate below which hosts were ejected; -1 when there were too few hosts.
#[derive(Debug)]
pub struct Averages {
    pub mean: Percent,
    pub threshold: Percent,
}

/// A share that one thread writes and others read.
#[derive(Debug)]
pub struct Percent(AtomicU64);

impl Percent {
    pub fn get(&self) -> f64 {
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
    pub fn new(settings: Settings) -> Self {
        let averages = [(); 2].map(|()| Averages { mean: Percent::default(), threshold: Percent::default() });
        Self { settings, averages }
    }
}

/// Failures in a row of one host, over all workers; and its success rates of the last interval, -1 when there were too few requests.
#[derive(Debug, Default)]
pub struct Tally {
    consecutive_5xx: AtomicU32,
    consecutive_gateway_failure: AtomicU32,
    consecutive_local_origin_failure: AtomicU32,
    pub success_rate: Percent,
    pub local_origin_success_rate: Percent,
}

/// What a worker saw of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An answer, by its status (or the one that its gRPC status stands for).
    Answer(u16),
    /// A connection, over which an answer is still to come.
    Connected,
    /// A connection, which is all that was wanted (`tcp_proxy`).
    Served,
    /// No connection, or one that ended before the answer did.
    Failed,
    /// No answer in time; the client was told this status.
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
pub type Crossed = [Option<Kind>; 2];

/// Counts what a worker saw of a host, and says which thresholds of failures in a row it reached. A host that works costs no write that
/// another worker would notice.
pub fn observe(settings: &Settings, host: &HostStats, worker: usize, seen: Seen) -> Crossed {
    let tally = &host.tally;
    let shard = host.shard(worker);
    match (settings.split, seen) {
        (_, Seen::Answer(status)) => answer(settings, tally, &shard.external, status),
        (false, Seen::Connected) => [None; 2],
        (false, Seen::Served) => answer(settings, tally, &shard.external, 200),
        (false, Seen::Failed) => answer(settings, tally, &shard.external, 503),
        (false, Seen::Timeout(status)) => answer(settings, tally, &shard.external, status),
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

fn answer(settings: &Settings, tally: &Tally, rate: &Rate, status: u16) -> Crossed {
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

fn reaches(row: &AtomicU32, threshold: u32) -> bool {
    row.fetch_add(1, Relaxed).wrapping_add(1) == threshold
}

fn reset(row: &AtomicU32) {
    if row.load(Relaxed) != 0 {
        row.store(0, Relaxed);
    }
}

impl Tally {
    /// Begins to count anew what a detection was about.
    fn restart(&self, kind: Kind) {
        let row = match kind {
            Kind::ConsecutiveGatewayFailure => &self.consecutive_gateway_failure,
            Kind::ConsecutiveLocalOriginFailure => &self.consecutive_local_origin_failure,
            _ => &self.consecutive_5xx,
        };
        reset(row);
    }

    /// Begins to count anew, whatever was detected: as many failures in a row as before are another detection.
    pub fn restart_all(&self) {
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway_failure);
        reset(&self.consecutive_local_origin_failure);
    }
}
