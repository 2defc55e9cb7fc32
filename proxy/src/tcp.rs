//! `tcp_proxy` and `echo`: connections whose bytes go both ways until both sides have ended.
//!
//! `carry` moves the bytes and does all the waiting; here is the story of one connection: its
//! upstream, found by cluster and host, again while attempts are left; its counters and its log.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::cluster::balancer::Wanted;
use crate::cluster::breaker::Permit;
use crate::cluster::outlier::Seen;
use crate::cluster::{Host, HostShard};
use crate::error::{Flag, UpstreamError};
use crate::format::Context;
use crate::local::Local;
use crate::message::Version;
use crate::route::Priority;
use crate::snapshot::{TcpEnd, TcpProxy};
use crate::stats::{ClusterStats, TcpStats};
use crate::stream_info::{ConnectionInfo, LogMoment, StreamInfo};
use crate::time::{self, Backoff};
use crate::upstream::{self, LocalCluster};

mod carry;

pub(crate) use carry::release_spare;
use carry::{Ended, Flow, Limits, Over, Waits};

/// A downstream connection and what was read of it already.
pub(crate) struct Client {
    pub stream: TcpStream,
    pub front: Bytes,
    pub info: Rc<ConnectionInfo>,
}

/// Serves one downstream connection.
pub(crate) async fn run(local: &Rc<Local>, end: &TcpEnd, client: Client) {
    match end {
        TcpEnd::Echo => {
            if let Err(error) = carry::echo(client.stream, &client.front).await {
                tracing::debug!(peer = %client.info.peer, %error, "echo: connection ended");
            }
        }
        TcpEnd::Close => {}
        TcpEnd::Proxy(proxy) => {
            Session::begin(local, proxy, client.info).run(client.stream, &client.front).await;
        }
    }
}

/// A connection that a filter before this one refused: it is counted and logged all the same, as Envoy does.
pub(crate) fn refused(local: &Rc<Local>, proxy: &TcpProxy, info: Rc<ConnectionInfo>) {
    Session::begin(local, proxy, info).info.flags.set(Flag::UpstreamRetryLimitExceeded);
}

/// One connection of `tcp_proxy`. It is logged on drop: whatever ends it, also a deadline or the end of
/// the process, its line is complete.
struct Session<'s> {
    local: &'s Rc<Local>,
    proxy: &'s TcpProxy,
    info: StreamInfo,
    flow: Rc<Flow>,
}

impl<'s> Session<'s> {
    fn begin(local: &'s Rc<Local>, proxy: &'s TcpProxy, connection: Rc<ConnectionInfo>) -> Self {
        proxy.stats.shard(local.shard).tcp_cx_total.inc();
        let (wall, now): (SystemTime, Instant) = (time::wall(), time::now());
        let mut info = StreamInfo::new(connection, Version::Http11, wall, now);
        info.tcp = true;
        Self { local, proxy, info, flow: Rc::default() }
    }

    async fn run(&mut self, mut client: TcpStream, front: &Bytes) {
        let due = self.duration_limit().map(|limit| self.info.start + limit);
        let waits = Waits { client: &client, due, ended: Cell::new(None) };
        let mut upstream = match self.find_upstream(&waits).await {
            Ok(Some(upstream)) => upstream,
            Ok(None) => return,
            Err(Ended::Client) => return self.info.flags.set(Flag::DownstreamConnectionTermination),
            Err(Ended::Duration) => return self.too_long(),
        };
        self.log_early(LogMoment::UpstreamConnected, self.proxy.log_connected);
        let (cluster, flow) = (Rc::clone(&upstream.cluster), Rc::clone(&self.flow));
        let counted = Counted { downstream: self.stats(), upstream: cluster.stats() };
        let limits = Limits { idle: self.proxy.idle_timeout, due, tick: self.proxy.log_interval };
        let look = || self.log_early(LogMoment::Periodic, true);
        let over =
            carry::carry(&mut client, &mut upstream.stream, front, &flow, &counted, &limits, look).await;
        upstream.ended = matches!(over, Over::Upstream | Over::UpstreamReset);
        match over {
            Over::Idle => self.stats().idle_timeout.inc(),
            Over::Duration => self.too_long(),
            Over::UpstreamReset => self.info.flags.set(Flag::UpstreamRemoteReset),
            Over::Downstream | Over::DownstreamReset | Over::Upstream => {}
        }
    }

    /// The connection has lived as long as it may.
    fn too_long(&mut self) {
        self.info.flags.set(Flag::DurationTimeout);
        self.stats().max_downstream_connection_duration.inc();
    }

    fn duration_limit(&self) -> Option<Duration> {
        let limit = self.proxy.max_duration?;
        Some(limit.mul_f64(1.0 + self.proxy.max_duration_jitter * self.local.random_share()))
    }

    fn stats(&self) -> &'s TcpStats {
        self.proxy.stats.shard(self.local.shard)
    }

    /// A line before the end.
    fn log_early(&mut self, moment: LogMoment, wanted: bool) {
        if wanted && !self.proxy.access_log.is_empty() {
            self.info.moment = moment;
            self.log();
            self.info.moment = LogMoment::End;
        }
    }

    fn log(&mut self) {
        self.info.end = Some(time::now());
        (self.info.bytes_received, self.info.bytes_sent) = self.flow.counts();
        for log in &self.proxy.access_log {
            log.log(self.local.shard, &Context::new(&self.info));
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.log();
    }
}

/// A connection to a host, and what it holds. Its end is counted on drop.
struct Upstream {
    stream: TcpStream,
    /// The host ended it.
    ended: bool,
    cluster: Rc<LocalCluster>,
    _opened: upstream::Opened,
    _active: Active,
}

/// The connection counts as a request of its cluster and host while this lives.
struct Active {
    cluster: Rc<LocalCluster>,
    host: Arc<Host>,
}

impl Session<'_> {
    /// The upstream, unless there is none; the flags then say why.
    async fn find_upstream(&mut self, waits: &Waits<'_>) -> Result<Option<Upstream>, Ended> {
        let Some(cluster) = self.local.clusters.get(self.cluster()) else {
            self.stats().downstream_cx_no_route.inc();
            self.info.flags.set(Flag::NoClusterFound);
            return Ok(None);
        };
        self.info.cluster = Some(Arc::clone(&cluster.policy.name));
        loop {
            let (breaker, limits) = cluster.breaker(Priority::Default);
            let Some(permit) = breaker.connections.acquire(limits.max_connections) else {
                cluster.stats().upstream_cx_overflow.inc();
                self.info.flags.set(Flag::UpstreamOverflow);
                return Ok(None);
            };
            if self.info.attempts >= self.proxy.max_connect_attempts {
                cluster.stats().upstream_cx_connect_attempts_exceeded.inc();
                self.info.flags.set(Flag::UpstreamRetryLimitExceeded);
                return Ok(None);
            }
            let Some(host) = cluster.pick(&mut |bound| self.local.random_below(bound), Wanted::default())
            else {
                cluster.stats().upstream_cx_none_healthy.inc();
                self.info.flags.set(Flag::NoHealthyUpstream);
                return Ok(None);
            };
            self.info.attempts = self.info.attempts.saturating_add(1);
            match self.attempt(waits, &cluster, &host.host, permit).await? {
                Ok(upstream) => {
                    self.local.report_outcome(&cluster, &host, Seen::Served);
                    return Ok(Some(upstream));
                }
                Err(UpstreamError::Overflow) => {}
                Err(error) => {
                    self.local.report_outcome(&cluster, &host, Seen::Failed);
                    self.info.flags.set(error.flag());
                    self.info.upstream.transport_failure = error.transport_failure();
                }
            }
            match self.back_off() {
                Some(wait) => waits.race(tokio::time::sleep(wait)).await?,
                None => waits.race(tokio::task::yield_now()).await?,
            }
        }
    }

    /// One attempt at one host.
    async fn attempt(
        &mut self,
        waits: &Waits<'_>,
        cluster: &Rc<LocalCluster>,
        host: &Arc<Host>,
        permit: Permit,
    ) -> Result<Result<Upstream, UpstreamError>, Ended> {
        let stats = cluster.stats();
        let pending = match cluster.pend(Priority::Default) {
            Ok(pending) => pending,
            Err(overflow) => return Ok(Err(overflow)),
        };
        self.info.upstream.host = Some(host.address);
        self.info.upstream.hostname = (!host.hostname.is_empty()).then(|| host.hostname.as_str().into());
        let connected = waits.race(upstream::connect(host, cluster, permit)).await;
        drop(pending);
        self.info.upstream.ready = Some(time::now());
        let (stream, opened) = match connected? {
            Ok(connected) => connected,
            Err(error) => {
                stats.upstream_rq_pending_failure_eject.inc();
                return Ok(Err(error));
            }
        };
        self.info.upstream.local = stream.local_addr().ok();
        let active = Active::new(cluster, host);
        Ok(Ok(Upstream {
            stream,
            ended: false,
            cluster: Rc::clone(cluster),
            _opened: opened,
            _active: active,
        }))
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
        let (first, longest) = self.proxy.back_off?;
        let failures = self.info.attempts.saturating_sub(1);
        Some(Backoff::new(first, longest).after(failures).next(self.local.random_share()))
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

impl Drop for Upstream {
    fn drop(&mut self) {
        let stats = self.cluster.stats();
        stats.upstream_cx_destroy_with_active_rq.inc();
        if self.ended {
            stats.upstream_cx_destroy_remote.inc();
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            stats.upstream_cx_destroy_local.inc();
            stats.upstream_cx_destroy_local_with_active_rq.inc();
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.cluster.stats().upstream_rq_active.dec();
        self.host().rq_active.dec();
    }
}

/// Where bytes are counted as they pass.
struct Counted<'s> {
    downstream: &'s TcpStats,
    upstream: &'s ClusterStats,
}

impl carry::Count for Counted<'_> {
    fn received(&self, bytes: u64) {
        self.downstream.tcp_cx_rx_bytes_total.add(bytes);
        self.upstream.upstream_cx_tx_bytes_total.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.downstream.tcp_cx_tx_bytes_total.add(bytes);
        self.upstream.upstream_cx_rx_bytes_total.add(bytes);
    }
}
