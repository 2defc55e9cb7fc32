//! `tcp_proxy` and `echo`: the other kind of connection. Bytes both ways, until both sides have ended.
//!
//! `dial` finds the upstream, `carry` moves the bytes; here is the story of one connection, its counters and its log.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::error::Flag;
use crate::format::Context;
use crate::local::Local;
use crate::message::Version;
use crate::snapshot::{TcpEnd, TcpProxy};
use crate::stats::{ClusterStats, TcpStats};
use crate::stream_info::{ConnectionInfo, LogMoment, StreamInfo};
use crate::{time, upstream};

mod carry;
mod dial;

use carry::{Flow, Limits, Over};

/// A downstream connection and what was read of it already.
pub struct Client {
    pub stream: TcpStream,
    pub front: Bytes,
    pub info: Rc<ConnectionInfo>,
}

/// Serves one downstream connection.
pub async fn run(local: &Rc<Local>, end: &TcpEnd, client: Client) {
    match end {
        TcpEnd::Echo => {
            if let Err(error) = carry::echo(client.stream, &client.front).await {
                tracing::debug!(peer = %client.info.peer, %error, "echo: connection ended");
            }
        }
        TcpEnd::Proxy(proxy) => {
            Session::begin(local, proxy, client.info).run(client.stream, &client.front).await;
        }
    }
}

/// A connection that a filter before this one refused: it is counted and logged all the same, as Envoy does.
pub fn refused(local: &Rc<Local>, proxy: &TcpProxy, info: Rc<ConnectionInfo>) {
    Session::begin(local, proxy, info).info.flags.set(Flag::UpstreamRetryLimitExceeded);
}

/// One connection of `tcp_proxy`; logged when it ends, however that is.
struct Session<'s> {
    local: &'s Rc<Local>,
    proxy: &'s TcpProxy,
    info: StreamInfo,
}

impl<'s> Session<'s> {
    fn begin(local: &'s Rc<Local>, proxy: &'s TcpProxy, connection: Rc<ConnectionInfo>) -> Self {
        proxy.stats.shard(local.shard).downstream_cx_total.inc();
        let (wall, now): (SystemTime, Instant) = (time::wall(), time::now());
        let mut info = StreamInfo::new(connection, Version::Http11, wall, now);
        info.tcp = true;
        Self { local, proxy, info }
    }

    async fn run(&mut self, mut client: TcpStream, front: &Bytes) {
        let due = self.duration_limit().map(|limit| self.info.start + limit);
        let Some(mut upstream) = self.dial(due).await else { return };
        let flow = Flow::default();
        self.log_early(LogMoment::UpstreamConnected, self.proxy.log_connected, &flow);
        let cluster = Rc::clone(&upstream.cluster);
        let counted = Counted { downstream: self.stats(), upstream: cluster.stats() };
        let limits = Limits { idle: self.proxy.idle_timeout, due, tick: self.proxy.log_interval };
        let look = || self.log_early(LogMoment::Periodic, true, &flow);
        let over =
            carry::carry(&mut client, &mut upstream.stream, front, &flow, &counted, &limits, look).await;
        (self.info.bytes_received, self.info.bytes_sent) = flow.counts();
        self.end(over, cluster.stats());
    }

    fn end(&mut self, over: Over, cluster: &ClusterStats) {
        match over {
            Over::Idle => self.stats().idle_timeout.inc(),
            Over::Duration => self.too_long(),
            Over::UpstreamReset => self.info.flags.set(Flag::UpstreamRemoteReset),
            Over::Downstream | Over::DownstreamReset | Over::Upstream => {}
        }
        cluster.upstream_cx_destroy_with_active_rq.inc();
        if matches!(over, Over::Upstream | Over::UpstreamReset) {
            cluster.upstream_cx_destroy_remote.inc();
            cluster.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            cluster.upstream_cx_destroy_local.inc();
            cluster.upstream_cx_destroy_local_with_active_rq.inc();
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
    fn log_early(&mut self, moment: LogMoment, wanted: bool, flow: &Flow) {
        if wanted && !self.proxy.access_log.is_empty() {
            (self.info.bytes_received, self.info.bytes_sent) = flow.counts();
            self.info.moment = moment;
            self.log();
            self.info.moment = LogMoment::End;
        }
    }

    fn log(&mut self) {
        self.info.end = Some(time::now());
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

/// Where bytes are counted as they pass.
struct Counted<'s> {
    downstream: &'s TcpStats,
    upstream: &'s ClusterStats,
}

impl carry::Count for Counted<'_> {
    fn received(&self, bytes: u64) {
        self.downstream.downstream_cx_rx_bytes_total.add(bytes);
        self.upstream.upstream_cx_tx_bytes_total.add(bytes);
    }

    fn sent(&self, bytes: u64) {
        self.downstream.downstream_cx_tx_bytes_total.add(bytes);
        self.upstream.upstream_cx_rx_bytes_total.add(bytes);
    }
}
