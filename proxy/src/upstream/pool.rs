//! The connections of one worker to one host.
//!
//! HTTP/1: the connection used last is used first, so that the others may fall idle and be closed; one the host has closed meanwhile is
//! told without a system call and thrown away. HTTP/2: streams share a connection. A try without an idle connection is pending until it
//! has one, and pending tries are limited.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::clusters::{LocalCluster, bump};
use super::connect::connect;
use super::lease::{Back, Checkout, Held, Open, SharedUse, UpstreamStream};
use super::queue::{Queue, Slot, Turn, room};
use super::stream::{RequestWriter, ResponseReader};
use crate::cluster::breaker::Permit;
use crate::cluster::{ClusterPolicy, Host};
use crate::error::UpstreamError;
use crate::message::{RequestHead, Version};
use crate::route::Priority;
use crate::stats::ClusterStats;
use crate::{http1, http2};

/// A host with this worker's connections to it.
pub struct LocalHost {
    pub host: Arc<Host>,
    /// The last is the most recently used.
    idle: RefCell<Vec<Idle>>,
    /// Who waits for an HTTP/1 connection because no more may be opened.
    queue: Rc<Queue>,
    shared: RefCell<Option<Shared>>,
    /// Someone is opening the shared connection.
    opening: RefCell<Option<Rc<Opening>>>,
    /// Removed from the cluster, or its connections are of an old policy: nothing is kept.
    retired: Cell<bool>,
}

struct Idle {
    open: Open,
    since: Instant,
}

/// A shared connection on its way.
#[derive(Default)]
struct Opening {
    /// Wakes those who wait for it.
    over: Notify,
    failed: RefCell<Option<UpstreamError>>,
}

/// The HTTP/2 connection that streams share.
struct Shared {
    connection: http2::ClientConnection,
    uses: Cell<u32>,
    /// When the last stream ended; `None` while there are some.
    idle_since: Rc<Cell<Option<Instant>>>,
    active: Rc<Cell<usize>>,
    local: Option<SocketAddr>,
    held: Rc<Held>,
}
impl LocalHost {
    pub fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            idle: RefCell::default(),
            queue: Rc::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            retired: Cell::new(false),
        }
    }

    /// A stream over HTTP/1 or HTTP/2, on a connection that is idle, shared, or made for it.
    pub async fn stream(
        self: &Rc<Self>,
        cluster: &LocalCluster,
        version: Version,
        priority: Priority,
        head: &RequestHead,
    ) -> Result<UpstreamStream, UpstreamError> {
        if version == Version::Http2 {
            return self.http2_stream(cluster, priority, head).await;
        }
        let open = match self.take_idle() {
            Some(open) => open,
            None => self.pending(cluster, priority, self.open_or_wait(cluster, priority)).await?,
        };
        Ok(self.start(open, head))
    }

    /// No new streams, and nothing is kept: the host left, or the policy changed. Who waits already still gets a connection.
    pub fn retire(&self) {
        self.retired.set(true);
        self.close_all_idle();
    }

    /// Closes what is idle, and begins no stream on a shared connection again.
    pub fn close_all_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().take();
    }

    /// Closes what was idle for longer than the policy says, what the host closed, and what keeps others waiting for room.
    pub fn close_idle(&self, policy: &ClusterPolicy, stats: &ClusterStats, now: Instant) {
        let too_long = |since: Instant| {
            policy.idle_timeout.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        let mut released = 0;
        self.idle.borrow_mut().retain(|idle| {
            let timed_out = too_long(idle.since);
            if timed_out {
                stats.upstream_cx_idle_timeout.inc();
            }
            // Each one that is closed wakes one who waits; whoever is awake waits no longer.
            let wanted = released < idle.open.held.permit.wanted();
            if wanted {
                released += 1;
                stats.upstream_cx_destroy_local.inc();
            }
            !timed_out && !wanted && !idle.open.connection.is_stale()
        });
        let mut shared = self.shared.borrow_mut();
        if let Some(connection) = &*shared {
            let timed_out = connection.active.get() == 0 && connection.idle_since.get().is_some_and(too_long);
            if timed_out {
                stats.upstream_cx_idle_timeout.inc();
            }
            if timed_out || !connection.connection.is_usable() {
                shared.take();
            }
        }
    }

    fn take_idle(&self) -> Option<Open> {
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            if !idle.open.connection.is_stale() {
                return Some(idle.open);
            }
            idle.open.held.stats().upstream_cx_destroy_remote.inc();
        }
    }

    /// Counts a try as pending while it waits for its connection.
    async fn pending<T>(
        &self,
        cluster: &LocalCluster,
        priority: Priority,
        ready: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let stats = cluster.stats();
        let (breaker, limits) = cluster.breaker(priority);
        let Some(_permit) = breaker.pending.acquire(limits.max_pending_requests) else {
            stats.upstream_rq_pending_overflow.inc();
            return Err(UpstreamError::Overflow);
        };
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        let _gauge = scopeguard(|| stats.upstream_rq_pending_active.dec());
        let result = ready.await;
        if result.is_err() {
            stats.upstream_rq_pending_failure_eject.inc();
        }
        result
    }

    /// A new connection, or, past the limit, the next one that another try gives back or that ends; also when one to another host or of
    /// another worker ends, as the limit is one for all.
    async fn open_or_wait(&self, cluster: &LocalCluster, priority: Priority) -> Result<Open, UpstreamError> {
        let (breaker, limits) = cluster.breaker(priority);
        let mut slot = self.queue.slot();
        let mut waited = false;
        loop {
            let permit = match breaker.connections.acquire(limits.max_connections) {
                None if slot.is_only() => Some(breaker.connections.take()),
                permit => permit,
            };
            if let Some(permit) = permit {
                return self.open(cluster, permit, slot).await;
            }
            if !waited {
                cluster.stats().upstream_cx_overflow.inc();
            }
            let mut waiter = slot.wait(breaker.connections.want(), waited);
            let turn = tokio::select! {
                biased;
                turn = &mut waiter.turn => turn,
                permit = room(&breaker.connections, limits.max_connections) => {
                    drop(waiter);
                    return self.open(cluster, permit, self.queue.slot()).await;
                }
            };
            slot = match turn {
                Ok(Turn::Use(open)) => return Ok(*open),
                Ok(Turn::Open(slot)) => slot,
                Ok(Turn::Failed(error)) => return Err(error),
                Err(_gone) => return Err(UpstreamError::ConnectionTermination),
            };
            waited = true;
        }
    }

    async fn open(&self, cluster: &LocalCluster, permit: Permit, slot: Slot) -> Result<Open, UpstreamError> {
        let stream = connect(&self.host, cluster).await.inspect_err(|error| self.queue.fail(error))?;
        cluster.stats().upstream_cx_http1_total.inc();
        let local = stream.local_addr().ok();
        let connection = http1::ClientConnection::new(stream, cluster.policy.http1);
        let held = Held::new(cluster, &self.host, permit, Some(slot));
        Ok(Open { connection, uses: 0, local, held })
    }

    fn start(self: &Rc<Self>, open: Open, head: &RequestHead) -> UpstreamStream {
        let Open { connection, uses, local, held } = open;
        let (tx, rx) = connection.start(head);
        UpstreamStream {
            tx: RequestWriter::Http1(tx),
            rx: ResponseReader::Http1(rx),
            version: Version::Http11,
            local,
            back: Back::Http1(Checkout {
                host: Rc::clone(self),
                uses: uses + 1,
                local,
                held: Some(held),
                lost: false,
            }),
        }
    }

    /// Takes a connection back: to the first try that waits, or to the idle ones. At the limit it is closed if others wait for room, for
    /// another host or on another worker: idle here, it would keep them waiting.
    pub(super) fn give_back(&self, open: Open, now: Instant) {
        if self.retired.get() {
            return;
        }
        let Some(open) = self.queue.offer(open) else { return };
        if open.held.permit.wanted() > 0 {
            open.held.stats().upstream_cx_destroy_local.inc();
            return;
        }
        self.idle.borrow_mut().push(Idle { open, since: now });
    }

    async fn http2_stream(
        self: &Rc<Self>,
        cluster: &LocalCluster,
        priority: Priority,
        head: &RequestHead,
    ) -> Result<UpstreamStream, UpstreamError> {
        loop {
            if let Some(ready) = self.on_shared(cluster) {
                let (back, mut connection, local) = ready;
                connection.ready().await?;
                let (tx, rx) = connection.start(head);
                let (tx, rx) = (RequestWriter::Http2(tx), ResponseReader::Http2(rx));
                return Ok(UpstreamStream { tx, rx, version: Version::Http2, local, back });
            }
            self.pending(cluster, priority, self.open_shared(cluster, priority)).await?;
        }
    }

    fn on_shared(
        &self,
        cluster: &LocalCluster,
    ) -> Option<(Back, http2::ClientConnection, Option<SocketAddr>)> {
        let mut shared = self.shared.borrow_mut();
        let used_up = |shared: &Shared| {
            cluster.policy.max_requests_per_connection.is_some_and(|limit| shared.uses.get() >= limit)
        };
        if shared.as_ref().is_some_and(|shared| !shared.connection.is_usable() || used_up(shared)) {
            shared.take();
        }
        let shared = shared.as_ref()?;
        shared.uses.set(shared.uses.get().saturating_add(1));
        bump(&shared.active, 1);
        let (active, idle_since) = (Rc::clone(&shared.active), Rc::clone(&shared.idle_since));
        let back = Back::Http2 { _use: SharedUse { active, idle_since, _held: Rc::clone(&shared.held) } };
        Some((back, shared.connection.clone(), shared.local))
    }

    /// Opens the shared connection, or waits for whoever is doing so.
    async fn open_shared(&self, cluster: &LocalCluster, priority: Priority) -> Result<(), UpstreamError> {
        let known = self.opening.borrow().clone();
        if let Some(opening) = known {
            opening.over.notified().await;
            // Each of them would find out by itself, one after the other.
            return opening.failed.borrow().clone().map_or(Ok(()), Err);
        }
        let opening = Rc::<Opening>::default();
        *self.opening.borrow_mut() = Some(Rc::clone(&opening));
        let _woken = scopeguard(|| {
            self.opening.borrow_mut().take();
            opening.over.notify_waiters();
        });
        let opened = self.make_shared(cluster, priority).await;
        *opening.failed.borrow_mut() = opened.as_ref().err().cloned();
        opened
    }

    async fn make_shared(&self, cluster: &LocalCluster, priority: Priority) -> Result<(), UpstreamError> {
        let (breaker, _) = cluster.breaker(priority);
        let permit = breaker.connections.take();
        let stream = connect(&self.host, cluster).await?;
        let local = stream.local_addr().ok();
        let (connection, driver) = http2::ClientConnection::handshake(stream, &cluster.policy.http2).await?;
        tokio::task::spawn_local(driver);
        cluster.stats().upstream_cx_http2_total.inc();
        *self.shared.borrow_mut() = Some(Shared {
            connection,
            uses: Cell::new(0),
            idle_since: Rc::default(),
            active: Rc::default(),
            local,
            held: Rc::new(Held::new(cluster, &self.host, permit, None)),
        });
        Ok(())
    }
}

/// Runs a closure when it goes out of scope.
fn scopeguard(on_drop: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(on_drop)
}
