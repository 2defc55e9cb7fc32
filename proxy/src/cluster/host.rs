//! Hosts and the immutable view of a cluster's members that balancing reads.
//!
//! A host keeps its identity and its counts for as long as its address stays a member; removed and added again, it is a new host.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::flags::{Coarse, HealthFlag, HealthFlags};
use super::outlier::{Ejection, Ejections, Tally};
use super::pool::{Hosts, Layout, Pool};
use super::subsets::Subsets;
use super::{Endpoint, Health, LbMetadata, NEXT_HOST};
use crate::stats::{Counter, Gauge};

/// Where an endpoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

/// One upstream host.
#[derive(Debug)]
pub struct Host {
    /// Unique in this process.
    pub id: u64,
    pub address: SocketAddr,
    pub hostname: String,
    pub weight: u32,
    pub priority: u32,
    pub locality: Locality,
    pub locality_weight: u32,
    pub canary: bool,
    pub(crate) metadata: Option<Arc<LbMetadata>>,
    /// What discovery says.
    pub(crate) health: Health,
    /// Its health according to discovery and health checks.
    checked: HealthFlags,
    /// Since when it is healthy; unknown where the time makes no difference.
    pub(crate) since: Option<Instant>,
    pub stats: Arc<HostStats>,
}

impl Host {
    /// All that is known of its health now, ejection included.
    pub fn flags(&self) -> HealthFlags {
        let mut flags = self.checked;
        flags.set(HealthFlag::FailedOutlierCheck, self.stats.ejection.is_ejected());
        flags
    }

    /// Whether it is what discovery and health checks say.
    fn is(&self, endpoint: &Endpoint, checked: HealthFlags) -> bool {
        self.address == endpoint.address
            && self.hostname == endpoint.hostname
            && self.weight == endpoint.weight.max(1)
            && self.priority == endpoint.priority
            && self.locality == endpoint.locality
            && self.locality_weight == endpoint.locality_weight
            && self.canary == endpoint.canary
            && self.metadata == endpoint.metadata
            && self.health == endpoint.health
            && self.checked == checked
    }
}

/// Counts of one host: a shard for each worker, which alone writes it; `/clusters` shows the sums.
#[derive(Debug)]
pub struct HostStats {
    shards: Box<[HostShard]>,
    /// Failures in a row.
    pub(crate) tally: Tally,
    pub(crate) ejection: Ejection,
    /// The host left the cluster: no new requests, its connections are closed when they are idle.
    removed: AtomicBool,
}

/// One worker's counts of one host.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct HostShard {
    pub cx_active: Gauge,
    pub cx_connect_fail: Counter,
    pub cx_total: Counter,
    pub rq_active: Gauge,
    pub rq_error: Counter,
    pub rq_success: Counter,
    pub rq_timeout: Counter,
    pub rq_total: Counter,
    /// Responses, and what happened before a response; only counted for outlier detection.
    pub external: Rate,
    pub local: Rate,
}

/// Successes and all there were.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    total: Counter,
    successes: Counter,
}

impl Rate {
    pub(super) fn success(&self) {
        self.total.inc();
        self.successes.inc();
    }

    pub(super) fn failure(&self) {
        self.total.inc();
    }
}

impl HostStats {
    fn new(workers: usize, ejections: Arc<Ejections>) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| HostShard::default()).collect(),
            tally: Tally::default(),
            ejection: Ejection::new(ejections),
            removed: AtomicBool::new(false),
        }
    }

    /// The counts of a worker.
    pub(crate) fn shard(&self, worker: usize) -> &HostShard {
        // There is a shard for every worker, so that the index always exists; the last one is used
        // instead of a panic.
        let last = self.shards.len().saturating_sub(1);
        &self.shards[worker.min(last)]
    }

    /// The sum of one counter over the workers.
    pub(crate) fn total(&self, counter: impl Fn(&HostShard) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| counter(shard).get()).sum()
    }

    /// The sum of one gauge over the workers.
    pub(crate) fn level(&self, gauge: impl Fn(&HostShard) -> &Gauge) -> i64 {
        self.shards.iter().map(|shard| gauge(shard).get()).sum()
    }

    /// All there were and the successes, over the workers.
    pub(super) fn rate(&self, rate: impl Fn(&HostShard) -> &Rate) -> (u64, u64) {
        let rates = self.shards.iter().map(rate);
        rates.fold((0, 0), |(total, successes), rate| {
            (total + rate.total.get(), successes + rate.successes.get())
        })
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }
}

/// A cluster's members at one moment.
#[derive(Clone, Debug, Default)]
pub struct EndpointView {
    pub hosts: Vec<Arc<Host>>,
    /// All of them, by priority and health.
    pub(crate) pool: Pool,
    /// What discovery said last (SDS version, DNS serial); empty when it has none.
    pub version: String,
    /// No other view of this process has it but the empty one.
    pub generation: u64,
    /// Some of them by their metadata, where the cluster has subsets.
    pub(crate) subsets: Option<Arc<Subsets>>,
    pub(crate) layout: Arc<Layout>,
    /// When the last host became healthy.
    newest: Option<Instant>,
    /// Hosts were ejected since the tables for hashes were made.
    pub(crate) tables_lag: bool,
    /// For how many workers hosts have counts.
    workers: usize,
    /// The first endpoint alone is a host (`LOGICAL_DNS`).
    logical: bool,
    /// Of all views of this cluster.
    ejections: Arc<Ejections>,
    /// The epoch of the ejections that the priorities were made of.
    epoch: u64,
}

impl EndpointView {
    /// No members yet; hosts that come will have counts for that many workers.
    pub(crate) fn empty(workers: usize) -> Self {
        Self { workers, ..Self::default() }
    }

    /// The same members, laid out like this.
    #[must_use]
    pub(crate) fn laid_out(mut self, layout: &Arc<Layout>) -> Self {
        self.layout = Arc::clone(layout);
        let hosts = Hosts::new(&self.hosts, layout);
        (self.pool, self.subsets) = (Pool::new(&hosts, layout, &self.pool), self.grouped(&hosts));
        self.tables_lag = false;
        self
    }

    /// The same members, of which the first one that discovery names is a host. It keeps its identity under another address while its
    /// former one is still named.
    #[must_use]
    pub(crate) fn logical(mut self) -> Self {
        self.logical = true;
        self
    }

    /// The view after discovery said `endpoints`, of whose health nothing else is known.
    pub(crate) fn update(&self, endpoints: &[Endpoint], version: String) -> Self {
        self.update_with(endpoints, version, None, |_| HealthFlags::default())
    }

    /// The view after discovery said `endpoints`, with what else is known of each one's health: hosts that stay keep their identity and
    /// counts. Repeated addresses are one host.
    pub(crate) fn update_with(
        &self,
        endpoints: &[Endpoint],
        version: String,
        now: Option<Instant>,
        known: impl Fn(SocketAddr) -> HealthFlags,
    ) -> Self {
        let mut before: HashMap<SocketAddr, &Arc<Host>> =
            self.hosts.iter().map(|host| (host.address, host)).collect();
        if let Some((_, to)) = self.moved(endpoints) {
            before = self.hosts.first().map(|host| (to, host)).into_iter().collect();
        }
        let endpoints = self.picked(endpoints);
        let mut hosts: Vec<Arc<Host>> = Vec::with_capacity(endpoints.len());
        let mut seen = std::collections::HashSet::with_capacity(endpoints.len());
        for endpoint in endpoints {
            if seen.insert(endpoint.address) {
                let flags = HealthFlags::of_discovery(endpoint.health).and(known(endpoint.address));
                let stats = || Arc::new(HostStats::new(self.workers, Arc::clone(&self.ejections)));
                hosts.push(host_of(endpoint, flags, before.remove(&endpoint.address), now, stats));
            }
        }
        for gone in before.values() {
            gone.stats.removed.store(true, Relaxed);
            gone.stats.ejection.leave();
        }
        self.ejections.set_hosts(hosts.len());
        // Before the flags, so that what changes meanwhile makes the view stale.
        let epoch = self.ejections.epoch();
        let read = Hosts::new(&hosts, &self.layout);
        let pool = Pool::new(&read, &self.layout, &self.pool);
        let subsets = self.grouped(&read);
        Self { subsets, tables_lag: false, ..self.of(hosts, version, epoch, pool) }
    }

    /// The endpoints that are hosts.
    pub(crate) fn picked<'e>(&self, endpoints: &'e [Endpoint]) -> &'e [Endpoint] {
        if self.logical { endpoints.get(..1).unwrap_or_default() } else { endpoints }
    }

    /// The address of a logical host and the one that it is to have. Servers rotate their
    /// responses, so a host keeps its identity while its address is named.
    pub(crate) fn moved(&self, endpoints: &[Endpoint]) -> Option<(SocketAddr, SocketAddr)> {
        let to = endpoints.first().filter(|_| self.logical)?.address;
        let from = self.hosts.first()?.address;
        endpoints.iter().any(|named| named.address == from).then_some((from, to))
    }

    pub(crate) fn is_logical(&self) -> bool {
        self.logical
    }

    /// The same hosts as their ejections are now. The tables for hashes stay, because they take long to
    /// build: those that were ejected are passed over until control has built new ones.
    #[must_use]
    pub(crate) fn refreshed(&self) -> Self {
        let epoch = self.ejections.epoch();
        let hosts = Hosts::new(&self.hosts, &self.layout);
        let pool = self.pool.refreshed(&hosts, &self.layout);
        let subsets = self.subsets.as_ref().zip(self.layout.subsets.as_ref());
        let subsets = subsets.map(|(old, rules)| Arc::new(old.refreshed(&hosts, rules, &self.layout)));
        Self { subsets, tables_lag: true, ..self.of(self.hosts.clone(), self.version.clone(), epoch, pool) }
    }

    /// Whether anybody detects outliers, which alone ends ejections; without, those that last end.
    pub(crate) fn set_detection(&self, detects: bool) {
        self.ejections.set_closed(!detects);
        if !detects {
            for host in &self.hosts {
                host.stats.ejection.uneject();
            }
        }
    }

    /// Whether hosts were ejected or un-ejected since the view was made.
    pub(crate) fn is_stale(&self) -> bool {
        self.epoch != self.ejections.epoch()
    }

    fn grouped(&self, hosts: &Hosts<'_>) -> Option<Arc<Subsets>> {
        let rules = self.layout.subsets.as_ref()?;
        Some(Arc::new(Subsets::new(hosts, rules, &self.layout, self.subsets.as_deref())))
    }

    fn of(&self, hosts: Vec<Arc<Host>>, version: String, epoch: u64, pool: Pool) -> Self {
        Self {
            pool,
            newest: hosts.iter().filter_map(|host| host.since).max(),
            hosts,
            version,
            generation: NEXT_HOST.fetch_add(1, Relaxed),
            subsets: None,
            layout: Arc::clone(&self.layout),
            tables_lag: self.tables_lag,
            workers: self.workers,
            logical: self.logical,
            ejections: Arc::clone(&self.ejections),
            epoch,
        }
    }

    /// Whether a host became healthy within the last `window`.
    pub(super) fn is_slow_starting(&self, now: Instant, window: Duration) -> bool {
        self.newest.is_some_and(|newest| now.saturating_duration_since(newest) < window)
    }

    /// Members that may be used in normal operation (`membership_healthy`).
    pub fn healthy_count(&self) -> usize {
        self.count(|flags| flags.coarse() == Coarse::Healthy)
    }

    pub(crate) fn degraded_count(&self) -> usize {
        self.count(|flags| flags.coarse() == Coarse::Degraded)
    }

    pub(crate) fn excluded_count(&self) -> usize {
        self.count(HealthFlags::is_excluded)
    }

    fn count(&self, wanted: impl Fn(HealthFlags) -> bool) -> usize {
        self.hosts.iter().filter(|host| wanted(host.flags())).count()
    }
}

fn host_of(
    endpoint: &Endpoint,
    checked: HealthFlags,
    before: Option<&Arc<Host>>,
    now: Option<Instant>,
    stats: impl FnOnce() -> Arc<HostStats>,
) -> Arc<Host> {
    let (id, stats) = match before {
        Some(host) if host.is(endpoint, checked) => return Arc::clone(host),
        Some(host) => (host.id, Arc::clone(&host.stats)),
        None => (NEXT_HOST.fetch_add(1, Relaxed), stats()),
    };
    let is_healthy = |flags: HealthFlags| flags.coarse() == Coarse::Healthy;
    let stayed = before.filter(|host| is_healthy(host.checked));
    Arc::new(Host {
        id,
        address: endpoint.address,
        hostname: endpoint.hostname.clone(),
        weight: endpoint.weight.max(1),
        priority: endpoint.priority,
        locality: endpoint.locality.clone(),
        locality_weight: endpoint.locality_weight,
        canary: endpoint.canary,
        metadata: endpoint.metadata.clone(),
        health: endpoint.health,
        checked,
        since: stayed.map_or(now.filter(|_| is_healthy(checked)), |host| host.since),
        stats,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str) -> Endpoint {
        Endpoint::new(address.parse().unwrap())
    }

    #[test]
    fn a_host_that_stays_keeps_its_counts_and_one_that_returns_is_new() {
        let first = EndpointView::default()
            .update(&[endpoint("127.0.0.1:1"), endpoint("127.0.0.1:2")], String::new());
        first.hosts[0].stats.shard(0).rq_total.add(7);
        let second = first.update(&[endpoint("127.0.0.1:1")], String::new());
        assert_eq!(second.hosts[0].stats.total(|shard| &shard.rq_total), 7);
        assert!(first.hosts[1].stats.is_removed());
        let third = second.update(&[endpoint("127.0.0.1:1"), endpoint("127.0.0.1:2")], String::new());
        assert_ne!(third.hosts[1].id, first.hosts[1].id);
        assert!(!third.hosts[1].stats.is_removed());
    }

    #[test]
    fn a_logical_host_keeps_its_identity_while_its_address_is_named() {
        let [one, two] = [endpoint("127.0.0.1:1"), endpoint("127.0.0.2:1")];
        let view = EndpointView::default().logical();
        let first = view.update(&[one.clone(), two.clone()], String::new());
        let second = first.update(&[two.clone(), one.clone()], String::new());
        assert_eq!((first.hosts.len(), second.hosts.len()), (1, 1));
        assert_eq!((second.hosts[0].id, second.hosts[0].stats.is_removed()), (first.hosts[0].id, false));
        assert_eq!(second.hosts[0].address, two.address);
        // As in Envoy, the host of an address that is gone is gone.
        let third = second.update(&[one], String::new());
        assert_ne!(third.hosts[0].id, first.hosts[0].id);
        assert!(second.hosts[0].stats.is_removed());
        let strict = EndpointView::default().update(&[endpoint("127.0.0.1:1")], String::new());
        assert_ne!(strict.update(&[endpoint("127.0.0.2:1")], String::new()).hosts[0].id, strict.hosts[0].id);
    }

    #[test]
    fn a_repeated_address_is_one_host() {
        let view = EndpointView::default()
            .update(&[endpoint("127.0.0.1:1"), endpoint("127.0.0.1:1")], String::new());
        assert_eq!(view.hosts.len(), 1);
    }
}
