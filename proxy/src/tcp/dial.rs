//! Finding the upstream of a TCP connection: a cluster, a host, a connection; again while tries are left.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::{Session, time, upstream};
use crate::cluster::breaker::Permit;
use crate::cluster::outlier::Seen;
use crate::cluster::{Host, HostShard};
use crate::error::{Flag, UpstreamError};
use crate::retry::back_off;
use crate::route::Priority;
use crate::stats::ClusterStats;
use crate::upstream::LocalCluster;

/// A connection to a host, and what it holds.
pub(super) struct Upstream {
    pub(super) stream: TcpStream,
    pub(super) cluster: Rc<LocalCluster>,
    _held: upstream::Held,
    _active: Active,
}

/// The connection counts as a request of its cluster and host while this lives.
struct Active {
    cluster: Rc<LocalCluster>,
    host: Arc<Host>,
}

impl Session<'_> {
    /// The upstream, unless there is none; the flags then say why.
    pub(super) async fn dial(&mut self, due: Option<Instant>) -> Option<Upstream> {
        let Some(due) = due else { return self.connect().await };
        let due = tokio::time::Instant::from_std(due);
        let connected = tokio::time::timeout_at(due, self.connect()).await;
        connected.unwrap_or_else(|_elapsed| {
            self.too_long();
            None
        })
    }

    async fn connect(&mut self) -> Option<Upstream> {
        let Some(cluster) = self.local.clusters.get(self.cluster()) else {
            self.stats().downstream_cx_no_route.inc();
            self.info.flags.set(Flag::NoClusterFound);
            return None;
        };
        self.info.cluster = Some(Arc::clone(&cluster.policy.name));
        loop {
            let (breaker, limits) = cluster.breaker(Priority::Default);
            let Some(permit) = breaker.connections.acquire(limits.max_connections) else {
                cluster.stats().upstream_cx_overflow.inc();
                self.info.flags.set(Flag::UpstreamOverflow);
                return None;
            };
            if self.info.attempts >= self.proxy.max_connect_attempts {
                cluster.stats().upstream_cx_connect_attempts_exceeded.inc();
                self.info.flags.set(Flag::UpstreamRetryLimitExceeded);
                return None;
            }
            let Some(host) = cluster.pick(&mut |bound| self.local.random_below(bound), &[], 0) else {
                cluster.stats().upstream_cx_none_healthy.inc();
                self.info.flags.set(Flag::NoHealthyUpstream);
                return None;
            };
            self.info.attempts += 1;
            match self.attempt(&cluster, &host.host, permit).await {
                Ok(upstream) => {
                    self.local.judge(&cluster, &host, Seen::Served).await;
                    return Some(upstream);
                }
                Err(UpstreamError::Overflow) => {}
                Err(error) => {
                    self.local.judge(&cluster, &host, Seen::Failed).await;
                    self.info.flags.set(error.flag());
                    self.info.upstream.transport_failure = error.transport_failure();
                }
            }
            if let Some(wait) = self.back_off() {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// One try at one host.
    async fn attempt(
        &mut self,
        cluster: &Rc<LocalCluster>,
        host: &Arc<Host>,
        permit: Permit,
    ) -> Result<Upstream, UpstreamError> {
        let stats = cluster.stats();
        let (breaker, limits) = cluster.breaker(Priority::Default);
        let Some(_pending) = breaker.pending.acquire(limits.max_pending_requests) else {
            stats.upstream_rq_pending_overflow.inc();
            return Err(UpstreamError::Overflow);
        };
        self.info.upstream.host = Some(host.address);
        self.info.upstream.hostname.clone_from(&host.hostname);
        stats.upstream_rq_pending_total.inc();
        let pending = Pending::new(stats);
        let connected = upstream::connect(host, cluster).await;
        drop(pending);
        self.info.upstream.request_begin = Some(time::now());
        let stream = connected.inspect_err(|_| {
            // A try that failed was a connection to Envoy, which its other end closed.
            stats.upstream_cx_total.inc();
            stats.upstream_cx_destroy.inc();
            stats.upstream_cx_destroy_remote.inc();
            stats.upstream_rq_pending_failure_eject.inc();
        })?;
        self.info.upstream.local = stream.local_addr().ok();
        let held = upstream::Held::of_tcp(cluster, host, permit);
        let active = Active::new(cluster, host);
        Ok(Upstream { stream, cluster: Rc::clone(cluster), _held: held, _active: active })
    }

    /// The cluster by the weights.
    fn cluster(&self) -> &str {
        let clusters = &self.proxy.clusters;
        let total: u64 = clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut at = if clusters.len() > 1 { self.local.random_below(total) } else { 0 };
        let chosen = clusters.iter().find(|(_, weight)| {
            let here = at < u64::from(*weight);
            at = at.saturating_sub(u64::from(*weight));
            here
        });
        chosen.or(clusters.first()).map_or("", |(name, _)| name)
    }

    /// The wait before the next attempt.
    fn back_off(&self) -> Option<Duration> {
        let limits = self.proxy.back_off?;
        Some(back_off(limits, self.info.attempts, self.local.random_share()))
    }
}

/// Counts a connection as pending while it is made.
struct Pending<'s>(&'s ClusterStats);

impl<'s> Pending<'s> {
    fn new(stats: &'s ClusterStats) -> Self {
        stats.upstream_rq_pending_active.inc();
        Self(stats)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.upstream_rq_pending_active.dec();
    }
}

impl Active {
    fn new(cluster: &Rc<LocalCluster>, host: &Arc<Host>) -> Self {
        let active = Self { cluster: Rc::clone(cluster), host: Arc::clone(host) };
        active.cluster.stats().upstream_rq_total.inc();
        active.cluster.stats().upstream_rq_active.inc();
        active.host().rq_total.inc();
        active.host().rq_active.inc();
        active
    }

    fn host(&self) -> &HostShard {
        self.host.stats.shard(self.cluster.shard())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.cluster.stats().upstream_rq_active.dec();
        self.host().rq_active.dec();
    }
}
