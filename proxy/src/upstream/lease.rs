//! A stream on a pooled connection, and the way back into the pool.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::clusters::{LocalCluster, bump};
use super::connect::millis;
use super::pool::LocalHost;
use super::queue::Slot;
use super::stream::{RequestWriter, ResponseReader};
use crate::cluster::breaker::Permit;
use crate::cluster::{ClusterPolicy, Host};
use crate::message::Version;
use crate::stats::{ClusterStats, Scope};
use crate::{http1, time};

/// A request's stream to a host. Dropped before it is whole, it is reset: HTTP/1 closes the connection.
pub struct UpstreamStream {
    pub tx: RequestWriter,
    pub rx: ResponseReader,
    pub version: Version,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    pub(super) back: Back,
}

/// The way back into the pool.
pub(super) enum Back {
    Http1(Checkout),
    Http2 { _use: SharedUse },
}

/// An HTTP/1 connection in use.
pub(super) struct Checkout {
    pub(super) host: Rc<LocalHost>,
    pub(super) uses: u32,
    pub(super) local: Option<SocketAddr>,
    /// Taken out when the connection goes back.
    pub(super) held: Option<Held>,
    /// The host ended it.
    pub(super) lost: bool,
}

/// One stream on a shared connection.
pub(super) struct SharedUse {
    pub(super) active: Rc<Cell<usize>>,
    pub(super) idle_since: Rc<Cell<Option<Instant>>>,
    pub(super) _held: Rc<Held>,
}
/// An HTTP/1 connection and what ends with it.
pub(super) struct Open {
    pub(super) connection: http1::ClientConnection,
    /// Requests sent so far.
    pub(super) uses: u32,
    pub(super) local: Option<SocketAddr>,
    pub(super) held: Held,
}

/// What a connection holds as long as it is open.
pub struct Held {
    pub(super) stats: (Arc<Scope<ClusterStats>>, usize),
    pub(super) host: Arc<Host>,
    pub(super) opened: Instant,
    pub(super) permit: Permit,
    /// HTTP/1: the place among the host's connections.
    pub(super) _slot: Option<Slot>,
}

impl UpstreamStream {
    /// The host ended the connection under the stream.
    pub fn lost(&mut self) {
        if let Back::Http1(checkout) = &mut self.back {
            checkout.lost = true;
        }
    }

    /// Ends a stream whose answer is whole: an HTTP/1 connection goes back to the pool when its request was whole, too.
    pub fn finish(self, policy: &ClusterPolicy) {
        let Self { tx, rx, back, .. } = self;
        let (RequestWriter::Http1(tx), ResponseReader::Http1(rx), Back::Http1(mut checkout)) = (tx, rx, back)
        else {
            return;
        };
        if policy.max_requests_per_connection.is_some_and(|limit| checkout.uses >= limit) {
            if let Some(held) = &checkout.held {
                held.stats().upstream_cx_max_requests.inc();
            }
            return;
        }
        let Some(connection) = http1::ClientConnection::rejoin(tx, rx) else { return };
        let Some(held) = checkout.held.take() else { return };
        let open = Open { connection, uses: checkout.uses, local: checkout.local, held };
        checkout.host.give_back(open, time::now());
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let Some(held) = &self.held else { return };
        let stats = held.stats();
        stats.upstream_cx_destroy_with_active_rq.inc();
        if self.lost {
            stats.upstream_cx_destroy_remote.inc();
            stats.upstream_cx_destroy_remote_with_active_rq.inc();
        } else {
            stats.upstream_cx_destroy_local.inc();
            stats.upstream_cx_destroy_local_with_active_rq.inc();
        }
    }
}

impl Drop for SharedUse {
    fn drop(&mut self) {
        bump(&self.active, -1);
        self.idle_since.set((self.active.get() == 0).then(time::now));
    }
}

impl Held {
    /// A connection to a host that `tcp_proxy` opened for itself.
    pub fn of_tcp(cluster: &LocalCluster, host: &Arc<Host>, permit: Permit) -> Self {
        Self::new(cluster, host, permit, None)
    }

    pub(super) fn new(cluster: &LocalCluster, host: &Arc<Host>, permit: Permit, slot: Option<Slot>) -> Self {
        cluster.stats().upstream_cx_active.inc();
        host.stats.shard(cluster.shard()).cx_active.inc();
        Self {
            stats: cluster.stats_scope(),
            host: Arc::clone(host),
            opened: time::now(),
            permit,
            _slot: slot,
        }
    }

    pub(super) fn stats(&self) -> &ClusterStats {
        self.stats.0.shard(self.stats.1)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let stats = self.stats();
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_length_ms.record(millis(self.opened.elapsed()));
        self.host.stats.shard(self.stats.1).cx_active.dec();
    }
}
