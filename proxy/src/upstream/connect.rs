//! Makes a TCP connection to a host under the cluster's connect options.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::clusters::LocalCluster;
use crate::cluster::{Host, TcpKeepalive};
use crate::error::UpstreamError;
use crate::time;

/// A connection to `host` within the cluster's `connect_timeout`; what fails is counted.
pub async fn connect(host: &Host, cluster: &LocalCluster) -> Result<TcpStream, UpstreamError> {
    let (policy, stats) = (&cluster.policy, cluster.stats());
    let counts = host.stats.shard(cluster.shard());
    let begun = time::now();
    match tokio::time::timeout(policy.connect_timeout, open(host.address, policy.tcp_keepalive)).await {
        Ok(Ok(stream)) => {
            stats.upstream_cx_total.inc();
            counts.cx_total.inc();
            stats.upstream_cx_connect_ms.record(millis(begun.elapsed()));
            Ok(stream)
        }
        Ok(Err(error)) => {
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

async fn open(address: SocketAddr, keepalive: Option<TcpKeepalive>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
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

/// The operating system's own words, without Rust's ` (os error 111)`.
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Whole milliseconds, as histograms of times count.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
