//! The hosts of one cluster as control knows them: since when they are ejected, when that ends, and
//! which are ejected by the rates of an interval.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Enforcing, Kind, Policy, Settings, eject};
use crate::cluster::HostStats;
use crate::stats::OutlierStats;

/// The hosts of one cluster as detection knows them.
#[derive(Debug)]
pub(crate) struct Detector {
    policy: Arc<Policy>,
    monitors: BTreeMap<SocketAddr, Monitor>,
    next_sweep: Instant,
}

/// One host.
#[derive(Debug)]
struct Monitor {
    stats: Arc<HostStats>,
    /// Since when it is ejected, as far as control has heard.
    ejected: Option<Instant>,
    /// How long the last ejection was to be, in multiples of the base time.
    multiplier: u32,
    jitter: Duration,
    returned: Option<Instant>,
    /// Total and successes at the last sweep: responses, then what happened before a response.
    last: [(u64, u64); 2],
}

/// Responses, or what happened before a response.
#[derive(Clone, Copy, Debug)]
enum Origin {
    External,
    Local,
}

/// A host with its success rate in the last interval.
type Rated = (SocketAddr, f64);

impl Detector {
    pub(crate) fn new(policy: Arc<Policy>, now: Instant) -> Self {
        let next_sweep = now + policy.settings.interval;
        Self { policy, monitors: BTreeMap::new(), next_sweep }
    }

    /// Takes over the hosts of a detector with the same settings, whose ejections last; under other settings they end.
    pub(crate) fn inherit(&mut self, before: Self) {
        if before.policy.settings == self.policy.settings {
            self.monitors = before.monitors;
            self.next_sweep = before.next_sweep;
        } else {
            before.end();
        }
    }

    /// Ends all ejections: the cluster has no detection any more.
    pub(crate) fn end(mut self) {
        for monitor in self.monitors.values_mut() {
            monitor.uneject(self.next_sweep);
        }
    }

    /// When to call `sweep`.
    pub(crate) fn next_sweep(&self) -> Instant {
        self.next_sweep
    }

    /// How many hosts are ejected.
    pub(crate) fn count(&self) -> usize {
        self.monitors.values().filter(|monitor| monitor.stats.ejection.is_ejected()).count()
    }

    /// Takes over the hosts of the cluster; those that left are dropped.
    pub(crate) fn follow<'h>(&mut self, hosts: impl Iterator<Item = (SocketAddr, &'h Arc<HostStats>)>) {
        // A logical host may have another address now.
        let before = std::mem::take(&mut self.monitors).into_values();
        let mut before: HashMap<_, _> =
            before.map(|monitor| (Arc::as_ptr(&monitor.stats), monitor)).collect();
        for (address, stats) in hosts {
            let known = before.remove(&Arc::as_ptr(stats));
            self.monitors.insert(address, known.unwrap_or_else(|| Monitor::new(Arc::clone(stats))));
        }
    }

    /// A worker ejected a host: from here on the ejection has an end. False when that is known or over.
    pub(crate) fn ejected(
        &mut self,
        host: SocketAddr,
        now: Instant,
        random: &mut impl FnMut(u64) -> u64,
    ) -> bool {
        let settings = self.policy.settings;
        self.monitors.get_mut(&host).is_some_and(|monitor| monitor.begin(&settings, now, random))
    }

    /// An active health check passed. True when that ended an ejection.
    pub(crate) fn passed_health_check(&mut self, host: SocketAddr, now: Instant) -> bool {
        let unejects = self.policy.settings.health_check_unejects;
        let monitor = self.monitors.get_mut(&host).filter(|_| unejects);
        monitor.is_some_and(|monitor| monitor.uneject(now))
    }

    /// The end of an interval: which hosts return, and which are ejected by its rates. True if any
    /// host changed.
    pub(crate) fn sweep(&mut self, now: Instant, random: &mut impl FnMut(u64) -> u64, shard: usize) -> bool {
        let settings = self.policy.settings;
        self.next_sweep = now + settings.interval;
        let mut changed = false;
        for monitor in self.monitors.values_mut() {
            // A report of a worker may have been lost.
            changed |= monitor.begin(&settings, now, random);
            if monitor.may_return(&settings, now) {
                changed |= monitor.uneject(now);
            }
        }
        for origin in [Origin::External, Origin::Local] {
            changed |= self.compare(origin, now, random, shard);
        }
        for monitor in self.monitors.values_mut().filter(|monitor| monitor.ejected.is_none()) {
            let quiet = monitor.returned.is_some_and(|at| now.duration_since(at) >= settings.interval);
            if quiet {
                monitor.multiplier = monitor.multiplier.saturating_sub(1);
            }
        }
        changed
    }

    /// Ejects by the success rates of the last interval.
    fn compare(
        &mut self,
        origin: Origin,
        now: Instant,
        random: &mut impl FnMut(u64) -> u64,
        shard: usize,
    ) -> bool {
        let settings = self.policy.settings;
        let averages = &self.policy.averages[origin as usize];
        averages.mean.set(-1.0);
        averages.threshold.set(-1.0);
        let (for_rate, for_percentage) = self.rated(origin, &settings);
        let mut changed = false;
        if enough(&for_rate, settings.success_rate_minimum_hosts) {
            let (mean, threshold) = ejection_threshold(&for_rate, settings.success_rate_stdev_factor);
            self.policy.averages[origin as usize].mean.set(mean);
            self.policy.averages[origin as usize].threshold.set(threshold);
            let kind = origin.pick(Kind::SuccessRate, Kind::LocalOriginSuccessRate);
            for (host, _) in for_rate.iter().filter(|(_, rate)| *rate < threshold) {
                changed |= self.eject(*host, kind, now, random, shard);
            }
        }
        if enough(&for_percentage, settings.failure_percentage_minimum_hosts) {
            let limit = f64::from(settings.failure_percentage_threshold);
            let kind = origin.pick(Kind::FailurePercentage, Kind::LocalOriginFailurePercentage);
            for (host, _) in for_percentage.iter().filter(|(_, rate)| 100.0 - rate >= limit) {
                changed |= self.eject(*host, kind, now, random, shard);
            }
        }
        changed
    }

    /// The hosts that had enough requests in the last interval, for a comparison of rates and for a percentage of failures.
    fn rated(&mut self, origin: Origin, settings: &Settings) -> (Vec<Rated>, Vec<Rated>) {
        let hosts = self.monitors.len();
        let few = hosts < settings.success_rate_minimum_hosts as usize
            && hosts < settings.failure_percentage_minimum_hosts as usize;
        let (mut for_rate, mut for_percentage) = (Vec::new(), Vec::new());
        for (address, monitor) in &mut self.monitors {
            let (total, successes) = monitor.interval(origin);
            let shown = origin
                .pick(&monitor.stats.tally.success_rate, &monitor.stats.tally.local_origin_success_rate);
            shown.set(-1.0);
            if few || total == 0 || monitor.stats.ejection.is_ejected() {
                continue;
            }
            #[allow(clippy::cast_precision_loss)] // one interval has far fewer than 2^52 requests
            let rate = successes as f64 * 100.0 / total as f64;
            let (volume, percentage) = (
                u64::from(settings.success_rate_request_volume),
                u64::from(settings.failure_percentage_request_volume),
            );
            if total >= volume.min(percentage) {
                shown.set(rate);
            }
            if total >= volume {
                for_rate.push((*address, rate));
            }
            if total >= percentage {
                for_percentage.push((*address, rate));
            }
        }
        (for_rate, for_percentage)
    }

    fn eject(
        &mut self,
        host: SocketAddr,
        kind: Kind,
        now: Instant,
        random: &mut impl FnMut(u64) -> u64,
        shard: usize,
    ) -> bool {
        let policy = &self.policy;
        let Some(monitor) = self.monitors.get_mut(&host) else { return false };
        eject(policy, &monitor.stats, kind, shard, random) && monitor.begin(&policy.settings, now, random)
    }
}

impl Monitor {
    fn new(stats: Arc<HostStats>) -> Self {
        let last = [stats.rate(|shard| &shard.external), stats.rate(|shard| &shard.local)];
        Self { stats, ejected: None, multiplier: 0, jitter: Duration::ZERO, returned: None, last }
    }

    fn may_return(&self, settings: &Settings, now: Instant) -> bool {
        let time = (settings.base_ejection_time * self.multiplier).min(settings.max_ejection_time);
        self.ejected.is_some_and(|since| time + self.jitter <= now.duration_since(since))
    }

    /// Gives an ejection its end. False when there is none, or it has one.
    fn begin(&mut self, settings: &Settings, now: Instant, random: &mut impl FnMut(u64) -> u64) -> bool {
        if self.ejected.is_some() || !self.stats.ejection.is_ejected() {
            return false;
        }
        let jitter = u64::try_from(settings.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX);
        self.jitter = Duration::from_millis(random(jitter.saturating_add(1)));
        self.ejected = Some(now);
        if settings.base_ejection_time * self.multiplier
            < settings.max_ejection_time + settings.base_ejection_time
        {
            self.multiplier += 1;
        }
        true
    }

    fn uneject(&mut self, now: Instant) -> bool {
        self.ejected = None;
        self.returned = Some(now);
        let ended = self.stats.ejection.uneject();
        if ended {
            // So that a few new failures do not add to the old ones.
            self.stats.tally.restart_all();
        }
        ended
    }

    /// Total and successes since the last sweep.
    fn interval(&mut self, origin: Origin) -> (u64, u64) {
        let now =
            origin.pick(self.stats.rate(|shard| &shard.external), self.stats.rate(|shard| &shard.local));
        let before = std::mem::replace(&mut self.last[origin as usize], now);
        (now.0.wrapping_sub(before.0), now.1.wrapping_sub(before.1))
    }
}

impl Origin {
    fn pick<T>(self, external: T, local: T) -> T {
        match self {
            Self::External => external,
            Self::Local => local,
        }
    }
}

impl Kind {
    pub(super) fn is_consecutive(self) -> bool {
        matches!(
            self,
            Self::Consecutive5xx | Self::ConsecutiveGatewayFailure | Self::ConsecutiveLocalOriginFailure
        )
    }

    /// The chance of enforcing it, in percent.
    pub(super) fn chance(self, enforcing: &Enforcing) -> u32 {
        match self {
            Self::Consecutive5xx => enforcing.consecutive_5xx,
            Self::ConsecutiveGatewayFailure => enforcing.consecutive_gateway_failure,
            Self::ConsecutiveLocalOriginFailure => enforcing.consecutive_local_origin_failure,
            Self::SuccessRate => enforcing.success_rate,
            Self::LocalOriginSuccessRate => enforcing.local_origin_success_rate,
            Self::FailurePercentage => enforcing.failure_percentage,
            Self::LocalOriginFailurePercentage => enforcing.local_origin_failure_percentage,
        }
    }

    pub(super) fn count_detected(self, stats: &OutlierStats) {
        match self {
            Self::Consecutive5xx => stats.ejections_detected_consecutive_5xx.inc(),
            Self::ConsecutiveGatewayFailure => stats.ejections_detected_consecutive_gateway_failure.inc(),
            Self::ConsecutiveLocalOriginFailure => {
                stats.ejections_detected_consecutive_local_origin_failure.inc();
            }
            Self::SuccessRate => stats.ejections_detected_success_rate.inc(),
            Self::LocalOriginSuccessRate => stats.ejections_detected_local_origin_success_rate.inc(),
            Self::FailurePercentage => stats.ejections_detected_failure_percentage.inc(),
            Self::LocalOriginFailurePercentage => {
                stats.ejections_detected_local_origin_failure_percentage.inc();
            }
        }
    }

    pub(super) fn count_enforced(self, stats: &OutlierStats) {
        match self {
            Self::Consecutive5xx => stats.ejections_enforced_consecutive_5xx.inc(),
            Self::ConsecutiveGatewayFailure => stats.ejections_enforced_consecutive_gateway_failure.inc(),
            Self::ConsecutiveLocalOriginFailure => {
                stats.ejections_enforced_consecutive_local_origin_failure.inc();
            }
            Self::SuccessRate => stats.ejections_enforced_success_rate.inc(),
            Self::LocalOriginSuccessRate => stats.ejections_enforced_local_origin_success_rate.inc(),
            Self::FailurePercentage => stats.ejections_enforced_failure_percentage.inc(),
            Self::LocalOriginFailurePercentage => {
                stats.ejections_enforced_local_origin_failure_percentage.inc();
            }
        }
    }
}

fn enough(hosts: &[Rated], minimum: u32) -> bool {
    !hosts.is_empty() && hosts.len() >= minimum as usize
}

/// The mean of the rates, and the mean minus the standard deviation times the factor (in
/// thousandths).
fn ejection_threshold(rates: &[Rated], factor: u32) -> (f64, f64) {
    #[allow(clippy::cast_precision_loss)] // a cluster has far fewer than 2^52 hosts
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    (mean, mean - f64::from(factor) / 1000.0 * variance.sqrt())
}
