//! One cluster in the store: its policy, its endpoints, and the source that they come from.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use twox_hash::XxHash64;

use super::client::Client;
use super::watched::{NextCheck, Watched};
use super::{Reporter, dns, eds_file, sds_v1};
use crate::build::discovery::Discovery;
use crate::build::{ClusterPart, TableStats};
use crate::cluster::health::Outcome;
use crate::cluster::report::What;
use crate::cluster::{Endpoint, EndpointView};
use crate::snapshot::Cluster;

#[cfg(test)]
thread_local! {
    /// How often a cluster was looked at, for tests that count steps.
    pub(super) static VISITS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// A cluster and its members.
pub(super) struct Member {
    pub part: ClusterPart,
    pub endpoints: Vec<Endpoint>,
    pub view: Arc<EndpointView>,
    pub source: Source,
    pub watched: Watched,
    /// How many subsets its statistics show.
    subsets: usize,
    /// As the data plane sees it.
    pub cluster: Arc<Cluster>,
}

/// Where the members come from. The task ends with it.
pub(super) struct Source {
    /// Unique in this process, so that a late update of a replaced source is recognised.
    pub id: u64,
    pub phase: Phase,
    task: Option<AbortHandle>,
}

/// How far a cluster's warming has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the cluster that is to be asked.
    Deferred,
    /// Asked; until this time it may hold everything up, `None` is for ever.
    Waiting(Option<Instant>),
    Warm,
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Member {
    /// A cluster with a source that is not started; static ones are warm at once.
    pub(super) fn new(part: ClusterPart, id: u64, workers: usize) -> Self {
        let (endpoints, phase) = match &*part.discovery {
            Discovery::Static(endpoints) => (endpoints.clone(), Phase::Warm),
            _ => (Vec::new(), Phase::Deferred),
        };
        let mut view = EndpointView::empty(workers).laid_out(&part.policy.layout);
        if matches!(&*part.discovery, Discovery::Dns(dns) if dns.logical) {
            view = view.logical();
        }
        let view = Arc::new(view);
        let watched = Watched::new(&part, crate::time::now());
        let cluster = Arc::new(cluster(&part, &view));
        let source = Source { id, phase, task: None };
        let mut member = Self { part, endpoints, view, source, watched, subsets: 0, cluster };
        member.renew(workers);
        if !member.endpoints.is_empty() {
            member.part.stats.shard(workers).membership_change.inc();
        }
        member
    }

    /// Whether its endpoints are known and each of them was checked once.
    pub(super) fn is_warm(&self) -> bool {
        #[cfg(test)]
        VISITS.set(VISITS.get() + 1);
        self.source.phase == Phase::Warm && self.watched.is_warm()
    }

    /// Builds the view from the endpoints and all that is known of their health.
    pub(super) fn renew(&mut self, shard: usize) {
        let version = self.view.version.clone();
        self.renew_as(&version, shard);
    }

    fn renew_as(&mut self, version: &str, shard: usize) {
        let members = self.watched.members(&self.endpoints, &self.view);
        let watched = &self.watched;
        let now = self.part.policy.balancer.slow_start.map(|_| crate::time::now());
        let view = self.view.update_with(&members, version.to_owned(), now, |host| watched.flags(host));
        // Ejections are of hosts, which the view knows.
        self.watched.follow(&view, shard);
        self.view = Arc::new(view);
        self.cluster = Arc::new(cluster(&self.part, &self.view));
    }

    /// The cluster that must be warm before this one can be asked for.
    pub(super) fn depends_on(&self) -> Option<&str> {
        #[cfg(test)]
        VISITS.set(VISITS.get() + 1);
        match &*self.part.discovery {
            Discovery::SdsV1(sds) => Some(&sds.cluster),
            Discovery::Static(_) | Discovery::Dns(_) | Discovery::File(_) => None,
        }
    }

    /// Starts the source.
    pub(super) fn start(&mut self, client: &Client, reporter: Reporter) {
        let now = Instant::now();
        let (limit, task) = match &*self.part.discovery {
            Discovery::Static(_) => return,
            Discovery::Dns(dns) => (None, tokio::spawn(dns::run(dns.clone(), reporter))),
            Discovery::SdsV1(sds) => {
                (sds.initial_fetch_timeout, tokio::spawn(sds_v1::run(sds.clone(), client.clone(), reporter)))
            }
            Discovery::File(file) => {
                (file.initial_fetch_timeout, tokio::spawn(eds_file::run(file.clone(), reporter)))
            }
        };
        self.source.phase = Phase::Waiting(limit.map(|limit| now + limit));
        self.source.task = Some(task.abort_handle());
    }

    /// Takes what discovery said; hosts that stay keep their identity. False when nothing changed.
    pub(super) fn update(&mut self, endpoints: Vec<Endpoint>, version: &str, shard: usize) -> bool {
        self.source.phase = Phase::Warm;
        if endpoints == self.endpoints && version == self.view.version {
            return false;
        }
        let before = Arc::clone(&self.view);
        self.endpoints = endpoints;
        self.renew_as(version, shard);
        if matches!(&*self.part.discovery, Discovery::File(_) | Discovery::SdsV1(_)) {
            let hash = XxHash64::oneshot(0, version.as_bytes());
            self.part.stats.shard(shard).endpoints_version.set_hash(hash);
        }
        if addresses(&before) != addresses(&self.view) {
            self.part.stats.shard(shard).membership_change.inc();
        }
        self.show(shard);
        true
    }

    /// Takes over the hosts of the cluster that this one replaces.
    pub(super) fn replace(&mut self, before: &mut Member, shard: usize) {
        let version = self.view.version.clone();
        self.watched.inherit(&mut before.watched);
        self.subsets = before.subsets;
        self.view = Arc::new((*before.view).clone().laid_out(&self.part.policy.layout));
        self.renew_as(&version, shard);
        self.show(shard);
    }

    /// The same members under another policy.
    pub(super) fn adopt(mut self, part: ClusterPart, shard: usize) -> Self {
        if !Arc::ptr_eq(&self.part.policy, &part.policy) {
            let mut watched = Watched::new(&part, crate::time::now());
            watched.inherit(&mut self.watched);
            watched.inherit_checks(&mut self.watched);
            self.watched = watched;
            self.view = Arc::new((*self.view).clone().laid_out(&part.policy.layout));
            self.part = part;
            self.renew(shard);
            self.show(shard);
        }
        self
    }

    /// A checker's result: how long to wait, and whether the view changed.
    pub(super) fn checked(&mut self, host: SocketAddr, outcome: Outcome, shard: usize) -> Option<NextCheck> {
        let cluster = (&*self.part.policy.name, &*self.part.stats);
        let next = self.watched.checked(host, outcome, cluster, shard)?;
        self.changed(next.changed, shard);
        Some(next)
    }

    /// A worker's report. True when the view changed.
    pub(super) fn reported(&mut self, host: SocketAddr, what: What, shard: usize) -> bool {
        let changed = self.watched.reported(host, what, &self.part.policy.name, shard);
        self.changed(changed, shard)
    }

    /// Ends an interval of outlier detection, if it is over. True when the view changed.
    pub(super) fn sweep(&mut self, now: std::time::Instant, shard: usize) -> bool {
        let changed = self.watched.sweep(now, &self.part.policy.name, shard);
        self.changed(changed, shard)
    }

    /// Until it is warm nothing looks at its view: one host after the other gets its first result.
    fn changed(&mut self, changed: bool, shard: usize) -> bool {
        if changed && (self.watched.is_live() || self.is_warm()) {
            self.renew(shard);
            self.show(shard);
        }
        changed
    }

    /// Marks every host as gone; the cluster is removed.
    pub(super) fn retire(&self) {
        self.view.update(&[], String::new());
    }

    /// Sets the gauges of membership and warming.
    pub(super) fn show(&mut self, shard: usize) {
        if !self.watched.is_live() {
            return;
        }
        let stats = self.part.stats.shard(shard);
        stats.warming_state.set(i64::from(!self.is_warm()));
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        stats.membership_total.set(gauge(self.view.hosts.len()));
        stats.membership_healthy.set(gauge(self.view.healthy_count()));
        stats.membership_degraded.set(gauge(self.view.degraded_count()));
        stats.membership_excluded.set(gauge(self.view.excluded_count()));
        // As in Envoy, of clusters whose hosts are discovered.
        if !matches!(&*self.part.discovery, Discovery::Static(_)) {
            let weight = self.view.hosts.iter().map(|host| host.weight).max().unwrap_or(0);
            stats.max_host_weight.set(weight.into());
        }
        self.show_table(shard);
        self.show_subsets(shard);
    }
}

impl Member {
    /// Counts the subsets as Envoy does: once for each worker and once for the main thread.
    fn show_subsets(&mut self, shard: usize) {
        let (now, duplicates) = match &self.view.subsets {
            Some(subsets) => (subsets.len(), subsets.duplicates),
            None => (0, 0),
        };
        let before = std::mem::replace(&mut self.subsets, now);
        let threads = shard + 1;
        let stats = self.part.stats.shard(shard);
        stats.lb_subsets_created.add((now.saturating_sub(before) * threads) as u64);
        stats.lb_subsets_removed.add((before.saturating_sub(now) * threads) as u64);
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        stats.lb_subsets_active.set(gauge(now * threads));
        stats.lb_subsets_single_host_per_subset_duplicate.set(gauge(duplicates));
    }

    /// Sets the gauges of the table that hosts are picked from by hash.
    fn show_table(&self, shard: usize) {
        let Some((table, sizes)) = self.part.table_stats.as_ref().zip(self.view.pool.table_sizes()) else {
            return;
        };
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        match table {
            TableStats::Ring(scope) => {
                let stats = scope.shard(shard);
                stats.ring_size.set(gauge(sizes.size));
                stats.min_hashes_per_host.set(gauge(sizes.least));
                stats.max_hashes_per_host.set(gauge(sizes.most));
            }
            TableStats::Maglev(scope) => {
                let stats = scope.shard(shard);
                stats.min_entries_per_host.set(gauge(sizes.least));
                stats.max_entries_per_host.set(gauge(sizes.most));
            }
        }
    }
}

fn cluster(part: &ClusterPart, view: &Arc<EndpointView>) -> Cluster {
    Cluster {
        policy: Arc::clone(&part.policy),
        endpoints: Arc::clone(view),
        stats: Arc::clone(&part.stats),
        breakers: Arc::clone(&part.breakers),
    }
}

fn addresses(view: &EndpointView) -> HashSet<SocketAddr> {
    view.hosts.iter().map(|host| host.address).collect()
}
