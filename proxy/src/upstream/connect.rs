//! Opens TCP connections to hosts, and holds what an open one has: its permit and its part of the
//! statistics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::{TcpSocket, TcpStream};

use super::clusters::LocalCluster;
use crate::cluster::breaker::Permit;
use crate::cluster::{Host, TcpKeepalive};
use crate::error::UpstreamError;
use crate::memory::SocketBuffers;
use crate::stats::{ClusterStats, Scope};
use crate::time::{self, millis};

/// What a connection holds while it is open; everything returns on drop.
pub(crate) struct Opened {
    stats: (Arc<Scope<ClusterStats>>, usize),
    host: Arc<Host>,
    at: Instant,
    permit: Permit,
    /// The connection was made or refused. Otherwise the attempt was dropped before either.
    settled: bool,
}

impl Opened {
    fn new(cluster: &LocalCluster, host: &Arc<Host>, permit: Permit) -> Self {
        let (stats, counts) = (cluster.stats(), host.stats.shard(cluster.shard()));
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        counts.cx_total.inc();
        counts.cx_active.inc();
        let stats = cluster.stats_scope();
        Self { stats, host: Arc::clone(host), at: time::now(), permit, settled: false }
    }

    pub(super) fn stats(&self) -> &ClusterStats {
        self.stats.0.shard(self.stats.1)
    }

    /// The host did not say in time what it allows.
    pub(super) fn count_timeout(&self) {
        self.stats().upstream_cx_connect_timeout.inc();
        self.stats().upstream_cx_connect_fail.inc();
        self.host.stats.shard(self.stats.1).cx_connect_fail.inc();
    }

    /// How many requests wait for the permit of a connection of this cluster.
    pub(super) fn wanted(&self) -> u32 {
        self.permit.wanted()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let stats = self.stats();
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        if !self.settled {
            stats.upstream_cx_destroy_local.inc();
        }
        stats.upstream_cx_length_ms.record(millis(self.at.elapsed()));
        self.host.stats.shard(self.stats.1).cx_active.dec();
    }
}

/// Connects to `host` within the cluster's `connect_timeout`. As in Envoy, this counts as a
/// connection from its begin, also if it is never made.
pub(crate) async fn connect(
    host: &Arc<Host>,
    cluster: &LocalCluster,
    permit: Permit,
) -> Result<(TcpStream, Opened), UpstreamError> {
    let (policy, stats) = (&cluster.policy, cluster.stats());
    let counts = host.stats.shard(cluster.shard());
    let mut opened = Opened::new(cluster, host, permit);
    match tokio::time::timeout(
        policy.connect_timeout,
        open(host.address, policy.tcp_keepalive, policy.socket_buffers),
    )
    .await
    {
        Ok(Ok(stream)) => {
            opened.settled = true;
            stats.upstream_cx_connect_ms.record(millis(opened.at.elapsed()));
            Ok((stream, opened))
        }
        Ok(Err(error)) => {
            opened.settled = true;
            stats.upstream_cx_destroy_remote.inc();
            stats.upstream_cx_connect_fail.inc();
            counts.cx_connect_fail.inc();
            Err(UpstreamError::ConnectFailure(os_text(&error)))
        }
        Err(_elapsed) => {
            stats.upstream_cx_connect_timeout.inc();
            stats.upstream_cx_connect_fail.inc();
            counts.cx_connect_fail.inc();
            Err(UpstreamError::ConnectTimeout)
        }
    }
}

async fn open(
    address: SocketAddr,
    keepalive: Option<TcpKeepalive>,
    buffers: SocketBuffers,
) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    buffers.apply(&socket2::SockRef::from(&socket))?;
    socket.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        socket2::SockRef::from(&socket).set_tcp_keepalive(&options(keepalive))?;
    }
    socket.connect(address).await
}

fn options(keepalive: TcpKeepalive) -> socket2::TcpKeepalive {
    let mut options = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        options = options.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        options = options.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        options = options.with_retries(probes);
    }
    options
}

/// The operating system's message without Rust's ` (os error 111)`.
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
