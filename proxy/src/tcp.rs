//! `tcp_proxy`: the other kind of connection. Bytes both ways, until both sides have ended.
//!
//! Called by `listener`; calls `attempt` for a host and `upstream` for a connection.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::local::Local;
use crate::snapshot::TcpProxy;
use crate::upstream::connect;

/// Bytes taken at a time in each direction.
const BUFFER: usize = 64 * 1024;

/// Carries one downstream connection to a host of the cluster.
pub async fn run(local: &Rc<Local>, proxy: &TcpProxy, mut client: TcpStream, peer: SocketAddr) {
    let Some(cluster) = local.clusters.get(&proxy.cluster) else {
        tracing::debug!(cluster = %proxy.cluster, %peer, "tcp_proxy: no such cluster");
        return;
    };
    for _ in 0..proxy.max_connect_attempts.max(1) {
        let Some(host) = cluster.pick(&mut |bound| local.random_below(bound), &[], 0) else { return };
        let Ok(mut server) = connect(&host.host, &cluster).await else { continue };
        cluster.stats().upstream_cx_active.inc();
        let carried = carry(&mut client, &mut server, proxy.idle_timeout).await;
        cluster.stats().upstream_cx_active.dec();
        cluster.stats().upstream_cx_destroy.inc();
        if let Err(error) = carried {
            tracing::debug!(%peer, %error, "tcp_proxy: connection ended");
        }
        return;
    }
}

/// Copies both ways; each side's end is passed on when it comes. An idle connection is an error.
async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    idle: Option<std::time::Duration>,
) -> std::io::Result<()> {
    let (mut client_rx, mut client_tx) = client.split();
    let (mut server_rx, mut server_tx) = server.split();
    let activity = tokio::sync::Notify::new();
    let up = copy(&mut client_rx, &mut server_tx, &activity);
    let down = copy(&mut server_rx, &mut client_tx, &activity);
    let both = async { tokio::try_join!(up, down).map(drop) };
    let Some(idle) = idle else { return both.await };
    let watch = async {
        while tokio::time::timeout(idle, activity.notified()).await.is_ok() {}
        Err(std::io::ErrorKind::TimedOut.into())
    };
    tokio::select! {
        ended = both => ended,
        timed_out = watch => timed_out,
    }
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    activity: &tokio::sync::Notify,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        activity.notify_one();
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}
