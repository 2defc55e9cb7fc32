//! A worker's view of the clusters: policies and hosts as control published them last, and the
//! connections that are this worker's own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::pool::LocalHost;
use crate::cluster::balancer::{self, Cursor, Method, Wanted};
use crate::cluster::breaker::{Breaker, Permit, Thresholds};
use crate::cluster::subsets::Counts;
use crate::cluster::{ClusterPolicy, EndpointView, Host};
use crate::error::UpstreamError;
use crate::route::Priority;
use crate::stats::{ClusterStats, Scope};
use crate::time;

/// All clusters by name.
#[derive(Default)]
pub(crate) struct Clusters {
    by_name: RefCell<HashMap<Arc<str>, Rc<LocalCluster>>>,
}

/// One cluster as a request uses it: the policy stays for the request's whole life, the hosts are
/// read again by each attempt.
pub(crate) struct LocalCluster {
    pub policy: Arc<ClusterPolicy>,
    breakers: Arc<[Breaker; 2]>,
    stats: Arc<Scope<ClusterStats>>,
    shard: usize,
    members: Rc<Members>,
}

/// What outlives a change of policy.
#[derive(Default)]
struct Members {
    view: RefCell<Arc<EndpointView>>,
    cursor: RefCell<Cursor>,
    /// Hosts that were used, by their id.
    hosts: RefCell<HashMap<u64, Rc<LocalHost>>>,
    /// `max_connections` of the newest policy, by priority: requests that wait follow it.
    max_connections: [Rc<Cell<u32>>; 2],
}

/// What control publishes of one cluster.
pub(crate) struct Update<'s> {
    pub policy: &'s Arc<ClusterPolicy>,
    pub endpoints: &'s Arc<EndpointView>,
    pub stats: &'s Arc<Scope<ClusterStats>>,
    pub breakers: &'s Arc<[Breaker; 2]>,
}

impl Clusters {
    pub(crate) fn get(&self, name: &str) -> Option<Rc<LocalCluster>> {
        self.by_name.borrow().get(name).cloned()
    }

    /// Takes over one cluster's latest version; what is unchanged has the same pointer.
    pub(crate) fn update(&self, update: &Update<'_>, shard: usize) {
        let mut by_name = self.by_name.borrow_mut();
        let known = by_name.get(&update.policy.name);
        let cluster = match known {
            Some(cluster) if Arc::ptr_eq(&cluster.policy, update.policy) => Rc::clone(cluster),
            _ => {
                let members = known.map(|cluster| Rc::clone(&cluster.members)).unwrap_or_default();
                if known.is_some_and(|cluster| cluster.policy.fingerprint != update.policy.fingerprint) {
                    members.forget_connections();
                }
                members.limit(update);
                let cluster = Rc::new(LocalCluster {
                    policy: Arc::clone(update.policy),
                    breakers: Arc::clone(update.breakers),
                    stats: Arc::clone(update.stats),
                    shard,
                    members,
                });
                by_name.insert(Arc::clone(&update.policy.name), Rc::clone(&cluster));
                cluster
            }
        };
        cluster.members.update(update.endpoints);
    }

    /// Forgets the clusters that `keep` does not name; their connections close when they are idle.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.by_name.borrow_mut().retain(|name, cluster| {
            let stays = keep(name);
            if !stays {
                cluster.members.forget_connections();
            }
            stays
        });
    }

    /// Closes idle connections that their host has closed, and those that keep other requests from
    /// opening one.
    pub(crate) fn sweep(&self) {
        for cluster in self.by_name.borrow().values() {
            let released = Default::default();
            for host in cluster.members.hosts.borrow().values() {
                host.sweep(&released);
            }
        }
    }
}

impl LocalCluster {
    pub(crate) fn stats(&self) -> &ClusterStats {
        self.stats.shard(self.shard)
    }

    /// How many members there are, and how many of them are healthy or degraded; as the statistics say.
    pub(crate) fn membership(&self) -> (u64, u64) {
        let sum = |level: fn(&ClusterStats) -> i64| u64::try_from(self.total(level)).unwrap_or(0);
        let healthy = sum(|stats| stats.membership_healthy.get() + stats.membership_degraded.get());
        (sum(|stats| stats.membership_total.get()), healthy)
    }

    /// The sum of one gauge over the workers.
    fn total(&self, level: fn(&ClusterStats) -> i64) -> i64 {
        self.stats.shards().map(level).sum()
    }

    /// This worker's number, for the counts of hosts.
    pub(crate) fn shard(&self) -> usize {
        self.shard
    }

    /// The statistics beyond the life of a borrow of the cluster: for guards.
    pub(super) fn stats_scope(&self) -> (Arc<Scope<ClusterStats>>, usize) {
        (Arc::clone(&self.stats), self.shard)
    }

    pub(crate) fn breaker(&self, priority: Priority) -> (&Breaker, &Thresholds) {
        let [default, high] = &*self.breakers;
        let [default_limits, high_limits] = &self.policy.breakers;
        match priority {
            Priority::Default => (default, default_limits),
            Priority::High => (high, high_limits),
        }
    }

    /// Counts a request that waits for a connection, unless as many wait as may.
    pub(crate) fn pend(&self, priority: Priority) -> Result<Pending<'_>, UpstreamError> {
        let (stats, (breaker, limits)) = (self.stats(), self.breaker(priority));
        let Some(permit) = breaker.pending.acquire(limits.max_pending_requests) else {
            stats.upstream_rq_pending_overflow.inc();
            return Err(UpstreamError::Overflow);
        };
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        Ok(Pending { stats, _permit: permit })
    }

    /// How many connections there may be at this moment.
    pub(super) fn max_connections(&self, priority: Priority) -> &Rc<Cell<u32>> {
        let [default, high] = &self.members.max_connections;
        match priority {
            Priority::Default => default,
            Priority::High => high,
        }
    }

    /// The host of the next attempt.
    pub(crate) fn pick(
        &self,
        random: &mut impl FnMut(u64) -> u64,
        wanted: Wanted<'_>,
    ) -> Option<Rc<LocalHost>> {
        self.members.refresh();
        let view = self.members.view.borrow();
        let mut cursor = self.members.cursor.borrow_mut();
        let policy = self.policy.balancer;
        let now = policy.slow_start.map(|_| time::now());
        let active = match policy.method {
            Method::Hash { limit: Some(_) } => self.total(|stats| stats.upstream_rq_active.get()),
            _ => 0,
        };
        let wanted = Wanted { now, active, ..wanted };
        let mut counts = Counts::default();
        let host = balancer::pick(&view, policy, &mut cursor, random, wanted, &mut counts);
        if counts != Counts::default() {
            let stats = self.stats();
            stats.lb_healthy_panic.add(counts.panic);
            stats.lb_subsets_selected.add(counts.selected);
            stats.lb_subsets_fallback.add(counts.fallback);
            stats.lb_subsets_fallback_panic.add(counts.fallback_panic);
        }
        host.map(|host| self.members.local(host))
    }
}

/// A request that is counted as pending while it lives.
pub(crate) struct Pending<'c> {
    stats: &'c ClusterStats,
    _permit: Permit,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.stats.upstream_rq_pending_active.dec();
    }
}

impl Members {
    /// Takes over ejections that any worker made since the view was made: one load of a word that is hardly ever written.
    fn refresh(&self) {
        let stale = self.view.borrow().is_stale();
        if stale {
            let fresh = Arc::new(self.view.borrow().refreshed());
            self.update(&fresh);
        }
    }

    /// Takes over the limits of a new policy, for those that wait as well.
    fn limit(&self, update: &Update<'_>) {
        let limits = update.policy.breakers.iter().map(|limits| limits.max_connections);
        for ((limit, new), breaker) in self.max_connections.iter().zip(limits).zip(&**update.breakers) {
            if limit.replace(new) < new {
                breaker.connections.room().notify_waiters();
            }
        }
    }

    fn update(&self, endpoints: &Arc<EndpointView>) {
        if Arc::ptr_eq(&self.view.borrow(), endpoints) {
            return;
        }
        *self.view.borrow_mut() = Arc::clone(endpoints);
        let mut hosts = self.hosts.borrow_mut();
        if hosts.is_empty() {
            return;
        }
        let now: HashMap<u64, &Arc<Host>> = endpoints.hosts.iter().map(|host| (host.id, host)).collect();
        hosts.retain(|id, local| {
            match now.get(id) {
                None => local.retire(),
                // Checks or requests found it failing: what is idle would fail the next request.
                Some(host) if host.flags().is_failing() => local.close_all_idle(),
                Some(_) => {}
            }
            now.contains_key(id)
        });
    }

    fn local(&self, host: &Arc<Host>) -> Rc<LocalHost> {
        let mut hosts = self.hosts.borrow_mut();
        let local = hosts.entry(host.id).or_insert_with(|| Rc::new(LocalHost::new(Arc::clone(host))));
        if !Arc::ptr_eq(&local.host, host) {
            *local = Rc::new(local.renewed(Arc::clone(host)));
        }
        Rc::clone(local)
    }

    fn forget_connections(&self) {
        for (_, host) in self.hosts.borrow_mut().drain() {
            host.retire();
        }
    }
}
