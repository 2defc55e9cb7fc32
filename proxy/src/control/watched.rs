//! What is watched of one cluster's hosts: ejections by outlier detection, and active health checks.
//!
//! The decisions are those of `cluster::outlier` and `cluster::health`; here they get their events, and their counters and log lines.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::Reporter;
use super::checks::{self, Check};
use crate::build::ClusterPart;
use crate::cluster::flags::{HealthFlag, HealthFlags};
use crate::cluster::health::{Outcome, Session, Settings, Transition};
use crate::cluster::outlier::Detector;
use crate::cluster::report::What;
use crate::cluster::{Endpoint, EndpointView};
use crate::stats::{ClusterStats, HealthCheckStats, OutlierStats, Scope};

/// Detection and checks of one cluster; empty for most.
#[derive(Default)]
pub(super) struct Watched {
    detection: Option<Detection>,
    checks: Option<Checks>,
    /// In use. Gauges have one writer: not the cluster that warms to replace this one.
    live: bool,
}

struct Detection {
    detector: Detector,
    stats: Arc<Scope<OutlierStats>>,
}

struct Checks {
    settings: Arc<Settings>,
    stats: Arc<Scope<HealthCheckStats>>,
    hosts: BTreeMap<SocketAddr, Checked>,
    tally: Tally,
}

/// How many of the hosts are new, healthy and degraded: kept, so that a result of one host does not
/// cost a walk over all.
#[derive(Default)]
struct Tally {
    new: usize,
    healthy: usize,
    degraded: usize,
}

/// A host under checks.
struct Checked {
    endpoint: Endpoint,
    session: Session,
    /// Discovery removed it.
    leaving: bool,
    task: Option<AbortHandle>,
}

impl Drop for Checked {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// When the next check is due, and whether something changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextCheck {
    /// Until the next check.
    pub wait: Duration,
    /// The flags of the host changed.
    pub changed: bool,
}

impl Watched {
    pub(super) fn new(part: &ClusterPart, now: Instant) -> Self {
        let checks = part.policy.health.as_ref().zip(part.health_stats.as_ref());
        Self {
            detection: part.policy.outlier.as_ref().map(|policy| Detection {
                detector: Detector::new(Arc::clone(policy), now),
                stats: Arc::clone(&policy.stats),
            }),
            checks: checks.map(|(settings, stats)| Checks {
                settings: Arc::clone(settings),
                stats: Arc::clone(stats),
                hosts: BTreeMap::new(),
                tally: Tally::default(),
            }),
            live: false,
        }
    }

    /// Takes over the ejections of the cluster that this one replaces, if it detects by the same settings; else they end.
    pub(super) fn inherit(&mut self, before: &mut Self) {
        match (&mut self.detection, before.detection.take()) {
            (Some(detection), Some(before)) => detection.detector.inherit(before.detector),
            (None, Some(before)) => before.detector.end(),
            (_, None) => {}
        }
    }

    /// From now on it sets the gauges.
    pub(super) fn go_live(&mut self, shard: usize) {
        self.live = true;
        self.show(shard);
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Takes over the checks as well: only the rest of the policy changed.
    pub(super) fn inherit_checks(&mut self, before: &mut Self) {
        self.live = before.live;
        if let (Some(checks), Some(before)) = (&mut self.checks, before.checks.take()) {
            (checks.hosts, checks.tally) = (before.hosts, before.tally);
        }
    }

    /// The members as discovery has them, and those that stay a while because they pass their checks.
    /// `before` is the view that they are to replace.
    pub(super) fn members<'e>(
        &mut self,
        endpoints: &'e [Endpoint],
        before: &EndpointView,
    ) -> Cow<'e, [Endpoint]> {
        let mut members = Cow::Borrowed(endpoints);
        if let Some(checks) = &mut self.checks {
            if let Some((from, to)) = before.moved(endpoints) {
                checks.rename(from, to);
            }
            checks.follow(before.picked(endpoints), before.is_logical());
            let mut leaving = checks.hosts.values().filter(|host| host.leaving).peekable();
            if leaving.peek().is_some() {
                members.to_mut().extend(leaving.map(|host| host.endpoint.clone()));
            }
        }
        members
    }

    /// Takes over the hosts of a view, which keep their counts.
    pub(super) fn follow(&mut self, view: &EndpointView, shard: usize) {
        if let Some(detection) = &mut self.detection {
            detection.detector.follow(view.hosts.iter().map(|host| (host.address, &host.stats)));
        }
        view.set_detection(self.detection.is_some());
        self.show(shard);
    }

    /// The results of health checks of a host.
    pub(super) fn flags(&self, host: SocketAddr) -> HealthFlags {
        let checked = self.checks.as_ref().and_then(|checks| checks.hosts.get(&host));
        let mut flags = checked.map(|checked| checked.session.flags()).unwrap_or_default();
        flags.set(HealthFlag::PendingDynamicRemoval, checked.is_some_and(|checked| checked.leaving));
        flags
    }

    /// Whether every host that is checked has had a result.
    pub(super) fn is_warm(&self) -> bool {
        self.checks.as_ref().is_none_or(|checks| checks.tally.new == 0)
    }

    /// Starts the checkers of hosts that have none.
    pub(super) fn start(&mut self, reporter: &Reporter) {
        let Some(Checks { settings, stats, hosts, .. }) = &mut self.checks else { return };
        for (address, host) in hosts.iter_mut().filter(|(_, host)| host.task.is_none()) {
            let check = Check {
                settings: Arc::clone(settings),
                stats: Arc::clone(stats),
                host: *address,
                target: host.endpoint.check.clone(),
                reporter: reporter.clone(),
            };
            host.task = Some(tokio::spawn(checks::run(check)).abort_handle());
        }
    }

    /// A checker's result; `None` when the host is not checked any more.
    pub(super) fn checked(
        &mut self,
        host: SocketAddr,
        outcome: Outcome,
        cluster: (&str, &Scope<ClusterStats>),
        shard: usize,
    ) -> Option<NextCheck> {
        let now = crate::time::now();
        let checks = self.checks.as_mut()?;
        let (transition, mut changed) = checks.take(host, outcome, cluster.0, shard)?;
        let passed = matches!(outcome, Outcome::Passed { .. });
        let healthy = checks.hosts.get(&host).is_some_and(|host| host.session.is_healthy());
        let used = cluster.1.shards().any(|stats| stats.upstream_cx_total.get() > 0);
        let wait = checks.settings.intervals.after(passed, transition, used, &mut random);
        if let Some(detection) = self.detection.as_mut().filter(|_| passed && healthy) {
            changed |= detection.detector.passed_health_check(host, now);
        }
        if changed {
            self.show(shard);
        }
        Some(NextCheck { wait, changed })
    }

    /// A worker's report. True when flags changed.
    pub(super) fn reported(&mut self, host: SocketAddr, what: What, cluster: &str, shard: usize) -> bool {
        match what {
            What::FailNow { responses } => {
                let Some(checks) = &mut self.checks else { return false };
                let taken = checks.take(host, Outcome::Passive, cluster, shard);
                if taken.is_some() {
                    // One is counted already.
                    let stats = checks.stats.shard(shard);
                    stats.failure.add(responses.saturating_sub(1));
                    stats.passive_failure.add(responses.saturating_sub(1));
                }
                self.show(shard);
                taken.is_some_and(|(_, changed)| changed)
            }
            What::Ejected { kind, at } => {
                let Some(Detection { detector, .. }) = &mut self.detection else { return false };
                if detector.ejected(host, at, &mut random) {
                    tracing::info!(cluster, %host, ?kind, "ejected");
                }
                self.show(shard);
                // The workers know already; what is published shows it, and moves the load.
                true
            }
        }
    }

    /// When `sweep` has something to do.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        self.detection.as_ref().map(|detection| detection.detector.next_sweep())
    }

    /// Ends an interval of detection, if it is over. True when somebody came or went.
    pub(super) fn sweep(&mut self, now: Instant, cluster: &str, shard: usize) -> bool {
        let due = |detection: &&mut Detection| detection.detector.next_sweep() <= now;
        let Some(Detection { detector, .. }) = self.detection.as_mut().filter(due) else { return false };
        let changed = detector.sweep(now, &mut random, shard);
        if changed {
            tracing::info!(cluster, ejected = detector.count(), "the hosts that are ejected have changed");
        }
        self.show(shard);
        changed
    }

    fn show(&self, shard: usize) {
        if let Some(detection) = self.detection.as_ref().filter(|_| self.live) {
            detection.show(shard);
        }
        if let Some(checks) = self.checks.as_ref().filter(|_| self.live) {
            checks.show(shard);
        }
    }
}

impl Detection {
    fn show(&self, shard: usize) {
        self.stats.shard(shard).ejections_active.set(count(self.detector.count()));
    }
}

impl Checks {
    /// A logical host has another address, which is asked from now on.
    fn rename(&mut self, from: SocketAddr, to: SocketAddr) {
        if from != to
            && let Some(mut host) = self.hosts.remove(&from)
        {
            if let Some(task) = host.task.take() {
                task.abort();
            }
            self.hosts.insert(to, host);
        }
    }

    /// Begins with new hosts, ends with those that are gone. Those that pass their checks go later,
    /// except a logical host, which another one replaces.
    fn follow(&mut self, endpoints: &[Endpoint], logical: bool) {
        let mut before = std::mem::take(&mut self.hosts);
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.check.disabled) {
            let known = before.remove(&endpoint.address);
            let mut host = match known.filter(|known| known.endpoint.check == endpoint.check) {
                Some(known) => known,
                None => Checked::new(endpoint, &self.settings),
            };
            host.leaving = false;
            host.endpoint = endpoint.clone();
            self.hosts.entry(endpoint.address).or_insert(host);
        }
        if !self.settings.ignore_health_on_removal && !logical && !before.is_empty() {
            let named: HashSet<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
            for (address, mut host) in before {
                if !named.contains(&address) && host.may_stay() {
                    host.leaving = true;
                    self.hosts.insert(address, host);
                }
            }
        }
        self.tally = Tally::default();
        for host in self.hosts.values() {
            self.tally.add(&host.session);
        }
    }

    /// Takes a result; whether the flags of the host changed by it.
    fn take(
        &mut self,
        address: SocketAddr,
        outcome: Outcome,
        cluster: &str,
        shard: usize,
    ) -> Option<(Transition, bool)> {
        let host = self.hosts.get_mut(&address)?;
        let (first, before) = (host.session.is_new(), host.session.flags());
        self.tally.remove(&host.session);
        let transition = host.session.take(&self.settings, outcome);
        let healthy = host.session.is_healthy();
        let stats = self.stats.shard(shard);
        match outcome {
            Outcome::Passed { .. } => stats.success.inc(),
            _ => stats.failure.inc(),
        }
        match outcome {
            Outcome::Network | Outcome::Timeout => stats.network_failure.inc(),
            Outcome::Passive => stats.passive_failure.inc(),
            Outcome::Passed { .. } | Outcome::Failed { .. } => {}
        }
        let passed = matches!(outcome, Outcome::Passed { .. });
        let always = if passed { self.settings.log_successes } else { self.settings.log_failures || first };
        if transition == Transition::Changed || always {
            tracing::info!(cluster, host = %address, ?outcome, healthy, "health check");
        }
        let changed = host.session.flags() != before;
        if host.leaving && !host.may_stay() {
            self.hosts.remove(&address);
        } else {
            self.tally.add(&host.session);
        }
        Some((transition, changed))
    }

    fn show(&self, shard: usize) {
        let stats = self.stats.shard(shard);
        stats.healthy.set(count(self.tally.healthy));
        stats.degraded.set(count(self.tally.degraded));
    }
}

impl Tally {
    fn add(&mut self, session: &Session) {
        for (level, counted) in self.levels(session) {
            *level += usize::from(counted);
        }
    }

    fn remove(&mut self, session: &Session) {
        for (level, counted) in self.levels(session) {
            *level = level.saturating_sub(usize::from(counted));
        }
    }

    fn levels(&mut self, session: &Session) -> [(&mut usize, bool); 3] {
        [
            (&mut self.new, session.is_new()),
            (&mut self.healthy, session.is_healthy()),
            (&mut self.degraded, session.flags().has(HealthFlag::DegradedActiveHc)),
        ]
    }
}

impl Checked {
    fn new(endpoint: &Endpoint, settings: &Settings) -> Self {
        Self { endpoint: endpoint.clone(), session: Session::new(settings), leaving: false, task: None }
    }

    /// Whether a host that discovery removed is as good as before.
    fn may_stay(&self) -> bool {
        let failed = HealthFlags::of_discovery(self.endpoint.health).has(HealthFlag::FailedEdsHealth);
        self.session.is_healthy() && !failed
    }
}

fn count(hosts: usize) -> i64 {
    i64::try_from(hosts).unwrap_or(i64::MAX)
}

/// A random number below `bound`.
fn random(bound: u64) -> u64 {
    fastrand::u64(..bound.max(1))
}
