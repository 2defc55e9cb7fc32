//! The connections of one worker to one host, and the queue of the requests that wait for one.
//!
//! There is a pool for each protocol and priority, as in Envoy. A connection has room for one stream
//! (HTTP/1) or for as many as the peer and the configuration allow (HTTP/2). A request without room
//! waits in the queue, bounded by `max_pending_requests`, and the pool opens connections for those
//! that wait, bounded by `max_connections`. No request waits while there is room.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::clusters::LocalCluster;
use super::connect::connect;
use super::queue::{Queue, Waiter, room};
use super::stream::{Codec, Connection, Lease, UpstreamStream};
use crate::cluster::Host;
use crate::cluster::breaker::{Permit, Want};
use crate::error::UpstreamError;
use crate::message::{RequestHead, Version};
use crate::route::Priority;
use crate::{http1, http2};

/// How often a request takes its turn again because the connection that it was given has gone.
const MAX_TURNS: u32 = 3;

/// A host with this worker's connections to it.
pub(crate) struct LocalHost {
    pub host: Arc<Host>,
    /// The host's name where it has one: this worker's own copy, which costs no shared count.
    pub hostname: Option<Rc<str>>,
    pools: Rc<Pools>,
}

fn hostname(host: &Host) -> Option<Rc<str>> {
    (!host.hostname.is_empty()).then(|| host.hostname.as_str().into())
}

/// Made when they are first used: HTTP/1 and HTTP/2, each for default and high priority.
#[derive(Default)]
struct Pools {
    all: [OnceCell<Rc<Pool>>; 4],
    /// The host left the cluster, or its connections are of an old policy: nothing is kept.
    retired: Cell<bool>,
}

/// The connections of one protocol and priority.
pub(super) struct Pool {
    version: Version,
    priority: Priority,
    /// Connections with room for a stream; the most recently used one is the last.
    ready: RefCell<Vec<Rc<Connection>>>,
    pub(super) queue: Queue,
    /// Connections that are open or being opened.
    open: Cell<usize>,
    /// Streams that the connections being opened are expected to have room for.
    coming: Cell<usize>,
    /// How many streams the host allowed last on one connection.
    allowed: Cell<usize>,
    retired: Cell<bool>,
    /// How often all connections of the moment were drained: see `Connection::epoch`.
    pub(super) epoch: Cell<u64>,
    /// While requests wait that no connection may be opened for.
    wanting: RefCell<Option<Wanting>>,
    /// The task that closes what was idle for too long.
    reaper: RefCell<Option<Task>>,
}

/// Waits at the limit of the cluster's connections on behalf of the queue.
struct Wanting {
    want: Want,
    _task: Task,
}

/// A task that is aborted with its owner.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LocalHost {
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self { hostname: hostname(&host), host, pools: Rc::default() }
    }

    /// The same connections under what is now known of the host. Its address may be another one
    /// (`LOGICAL_DNS`): connections stay, and new ones go to the new address.
    pub(super) fn renewed(&self, host: Arc<Host>) -> Self {
        Self { hostname: hostname(&host), host, pools: Rc::clone(&self.pools) }
    }

    /// A stream, as soon as a connection has room for it.
    pub(crate) async fn stream(
        &self,
        cluster: &Rc<LocalCluster>,
        version: Version,
        priority: Priority,
        head: &RequestHead,
    ) -> Result<UpstreamStream, UpstreamError> {
        let pool = self.pools.get(version, priority);
        let lease = match pool.take() {
            Some(lease) => lease,
            None => pool.wait(cluster, &self.host).await?,
        };
        lease.start(head)
    }

    /// Closes what is idle and keeps nothing; requests that wait still get a connection.
    pub(crate) fn retire(&self) {
        self.pools.retired.set(true);
        self.pools.each(|pool| pool.retired.set(true));
        self.close_all_idle();
    }

    /// Closes what is idle, and starts no stream on the other connections.
    pub(crate) fn close_all_idle(&self) {
        self.pools.each(Pool::drain);
    }

    /// Closes connections that the host has closed, and those that keep other requests from opening
    /// one.
    pub(super) fn sweep(&self, released: &[Cell<u32>; 2]) {
        self.pools.each(|pool| pool.sweep(released));
    }
}

impl Pools {
    fn get(&self, version: Version, priority: Priority) -> &Rc<Pool> {
        let [http1, http1_high, http2, http2_high] = &self.all;
        let pool = match (version, priority) {
            (Version::Http2, Priority::Default) => http2,
            (Version::Http2, Priority::High) => http2_high,
            (_, Priority::Default) => http1,
            (_, Priority::High) => http1_high,
        };
        pool.get_or_init(|| Rc::new(Pool::new(version, priority, self.retired.get())))
    }

    fn each(&self, act: impl Fn(&Rc<Pool>)) {
        self.all.iter().filter_map(OnceCell::get).for_each(act);
    }
}

impl Pool {
    fn new(version: Version, priority: Priority, retired: bool) -> Self {
        Self {
            version,
            priority,
            ready: RefCell::default(),
            queue: Queue::default(),
            open: Cell::new(0),
            coming: Cell::new(0),
            allowed: Cell::new(usize::MAX),
            retired: Cell::new(retired),
            epoch: Cell::new(0),
            wanting: RefCell::default(),
            reaper: RefCell::default(),
        }
    }

    /// A stream on a connection that has room now.
    fn take(&self) -> Option<Lease> {
        loop {
            let connection = self.ready.borrow_mut().pop()?;
            connection.listed.set(false);
            if connection.is_idle() && connection.is_stale() {
                connection.close(true);
            } else if connection.has_room() {
                let lease = Lease::new(Rc::clone(&connection));
                if connection.has_room() {
                    self.list(connection);
                }
                return Some(lease);
            }
        }
    }

    fn list(&self, connection: Rc<Connection>) {
        if !connection.listed.replace(true) {
            self.ready.borrow_mut().push(connection);
        }
    }

    pub(super) fn unlist(&self, connection: &Rc<Connection>) {
        if connection.listed.replace(false) {
            self.ready.borrow_mut().retain(|ready| !Rc::ptr_eq(ready, connection));
        }
    }

    /// Waits for room in the queue, counted as pending.
    async fn wait(
        self: &Rc<Self>,
        cluster: &Rc<LocalCluster>,
        host: &Arc<Host>,
    ) -> Result<Lease, UpstreamError> {
        let stats = cluster.stats();
        let _pending = cluster.pend(self.priority)?;
        let mut turns = 0;
        loop {
            let waiter = Waiter::new(self, cluster, host, turns > 0);
            self.grow();
            if turns == 0 && self.wanting.borrow().is_some() {
                stats.upstream_cx_overflow.inc();
            }
            turns += 1;
            match waiter.turn().await {
                // The host may have closed it, or said GOAWAY, since it was handed over. One that does
                // so again and again is left to the request, which then fails.
                Ok(lease) if turns >= MAX_TURNS || lease.is_usable() => return Ok(lease),
                Ok(_gone) => {}
                Err(error) => {
                    stats.upstream_rq_pending_failure_eject.inc();
                    return Err(error);
                }
            }
        }
    }

    /// Opens connections until those being opened have room for all waiting requests. At the limit
    /// of the cluster it waits for a permit, unless the pool has no connection at all: then nothing
    /// of its own could ever end the wait.
    pub(super) fn grow(self: &Rc<Self>) {
        loop {
            let shortage = self.queue.len().saturating_sub(self.coming.get());
            // A host that allows no stream on one connection will not on the next.
            let useless = self.allowed.get() == 0 && self.open.get() > 0;
            let next = if shortage > 0 && !useless { self.queue.first() } else { None };
            let Some((cluster, host)) = next else {
                let _over = self.wanting.take();
                return;
            };
            let (breaker, _) = cluster.breaker(self.priority);
            let limit = cluster.max_connections(self.priority).get();
            let permit = match breaker.connections.acquire(limit) {
                None if self.open.get() == 0 => Some(breaker.connections.take()),
                permit => permit,
            };
            match permit {
                Some(permit) => {
                    let before = self.coming.get();
                    self.open(cluster, host, permit);
                    // A worker that ends drops the new task at once: nothing comes any more.
                    if self.coming.get() <= before {
                        return;
                    }
                }
                None => return self.want(&cluster, shortage),
            }
        }
    }

    /// Waits for permits until no request needs one.
    fn want(self: &Rc<Self>, cluster: &Rc<LocalCluster>, shortage: usize) {
        let wanted = u32::try_from(shortage).unwrap_or(u32::MAX);
        let mut wanting = self.wanting.borrow_mut();
        if let Some(wanting) = &mut *wanting {
            return wanting.want.set(wanted);
        }
        let count = Arc::clone(&cluster.breaker(self.priority).0.connections);
        let limit = Rc::clone(cluster.max_connections(self.priority));
        // Counted before the task looks for a permit: see `breaker`.
        let want = count.want(wanted);
        let pool = Rc::downgrade(self);
        let task = tokio::task::spawn_local(async move {
            loop {
                let permit = room(&count, &limit).await;
                let Some(pool) = pool.upgrade() else { return };
                if pool.queue.len() > pool.coming.get()
                    && let Some((cluster, host)) = pool.queue.first()
                {
                    pool.open(cluster, host, permit);
                }
                pool.grow();
                // The end of the want aborts this task at its next wait, which never comes while
                // there are permits to be had.
                if pool.wanting.borrow().is_none() {
                    return;
                }
            }
        });
        *wanting = Some(Wanting { want, _task: Task(task.abort_handle()) });
    }

    /// Opens a connection, for any request of the pool.
    fn open(self: &Rc<Self>, cluster: Rc<LocalCluster>, host: Arc<Host>, permit: Permit) {
        let opening = Opening::new(self, &cluster);
        tokio::task::spawn_local(async move {
            let pool = Rc::clone(&opening.pool);
            match pool.connect(opening, &cluster, &host, permit).await {
                Ok(connection) => pool.returned(&connection),
                Err(error) => {
                    pool.queue.fail(&error);
                    pool.grow();
                }
            }
        });
    }

    async fn connect(
        self: &Rc<Self>,
        opening: Opening,
        cluster: &Rc<LocalCluster>,
        host: &Arc<Host>,
        permit: Permit,
    ) -> Result<Rc<Connection>, UpstreamError> {
        let deadline = Instant::now() + cluster.policy.connect_timeout;
        let (policy, stats) = (&cluster.policy, cluster.stats());
        match self.version {
            Version::Http2 => stats.upstream_cx_http2_total.inc(),
            Version::Http10 | Version::Http11 => stats.upstream_cx_http1_total.inc(),
        }
        let (stream, opened) = connect(host, cluster, permit).await?;
        let local = stream.local_addr().ok();
        if self.version != Version::Http2 {
            let codec = Codec::http1(http1::ClientConnection::new(stream, policy.http1));
            opening.done();
            return Ok(Rc::new(Connection::new(self, opened, policy, local, codec)));
        }
        let (codec, driver) = http2::ClientConnection::handshake(stream, &policy.http2).await?;
        let connection = Connection::new(self, opened, policy, local, Codec::Http2(codec));
        connection.unsettled.set(opening.done_but_unsettled());
        let connection = Rc::new(connection);
        tokio::task::spawn_local(Connection::drive(Rc::downgrade(&connection), driver, deadline));
        Ok(connection)
    }

    /// A connection may have room: for the first that waits, or else it is kept. One that lies idle
    /// is closed where requests for other hosts or on other workers wait for its permit.
    pub(super) fn returned(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.drain_old(connection);
        if connection.has_room() {
            self.list(Rc::clone(connection));
            self.dispatch();
        }
        if !connection.is_idle() {
            return;
        }
        let is_old = connection.is_old();
        if self.retired.get() || connection.is_draining() || connection.wanted() > 0 || is_old {
            self.unlist(connection);
            if is_old {
                connection.count_timeout();
            }
            return connection.close(false);
        }
        let now = Instant::now();
        connection.idle_since.set(now);
        if let Some(due) = connection.due() {
            self.reap_later(due.saturating_duration_since(now));
        }
    }

    /// Gives room to the waiting requests, in their order.
    fn dispatch(self: &Rc<Self>) {
        if self.queue.is_empty() {
            return;
        }
        while !self.queue.is_empty() {
            let Some(lease) = self.take() else { break };
            self.queue.hand_over(lease);
        }
        self.grow();
    }

    /// What the host allows on a connection has become known, or has changed.
    pub(super) fn settled(self: &Rc<Self>, connection: &Rc<Connection>, allowed: usize) {
        self.drain_old(connection);
        // What a connection says that starts nothing more is of no use for the next.
        if !connection.is_draining() {
            self.allowed.set(allowed);
        }
        self.no_longer_coming(connection.unsettled.take());
        if connection.has_room() {
            self.list(Rc::clone(connection));
        }
        self.dispatch();
    }

    /// The host was silent for the whole `connect_timeout`: no request waits for its SETTINGS any more.
    pub(super) fn silent(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.queue.fail(&UpstreamError::ConnectTimeout);
        self.draining(connection);
    }

    /// The host sent GOAWAY: streams in flight continue, and no new one starts.
    pub(super) fn draining(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.unlist(connection);
        self.forget_refusal();
        self.no_longer_coming(connection.unsettled.take());
        if connection.is_idle() {
            connection.close(false);
        }
        self.grow();
    }

    /// A connection was closed.
    pub(super) fn closed(self: &Rc<Self>, unsettled: usize) {
        self.open.set(self.open.get().saturating_sub(1));
        self.forget_refusal();
        self.no_longer_coming(unsettled);
        if !self.queue.is_empty() {
            self.grow();
        }
    }

    /// That no stream was allowed counts only for the connection on which it was said.
    fn forget_refusal(&self) {
        if self.allowed.get() == 0 {
            self.allowed.set(usize::MAX);
        }
    }

    fn no_longer_coming(&self, streams: usize) {
        self.coming.set(self.coming.get().saturating_sub(streams));
    }

    /// A connection that had no room when all were drained starts no more streams, either.
    fn drain_old(&self, connection: &Connection) {
        if connection.epoch != self.epoch.get() {
            connection.drain();
        }
    }

    fn drain(self: &Rc<Self>) {
        self.epoch.set(self.epoch.get().saturating_add(1));
        let all = self.ready.take();
        for connection in &all {
            connection.listed.set(false);
            connection.drain();
            if connection.is_idle() {
                connection.close(false);
            }
        }
    }

    /// `released` counts, by priority, what was closed for other requests of the cluster.
    fn sweep(self: &Rc<Self>, [default, high]: &[Cell<u32>; 2]) {
        let released = match self.priority {
            Priority::Default => default,
            Priority::High => high,
        };
        self.close_where(|connection| {
            if connection.is_stale() {
                return Some(true);
            }
            // Each closed connection wakes one waiting request.
            let release = released.get() < connection.wanted();
            released.set(released.get().saturating_add(u32::from(release)));
            release.then_some(false)
        });
    }

    /// Closes idle connections; `closing` tells which, and whether the host has ended them.
    fn close_where(&self, mut closing: impl FnMut(&Connection) -> Option<bool>) {
        let mut closed = Vec::new();
        self.ready.borrow_mut().retain(|connection| {
            let remote = if connection.is_idle() { closing(connection) } else { None };
            closed.extend(remote.map(|remote| (Rc::clone(connection), remote)));
            remote.is_none()
        });
        for (connection, remote) in closed {
            connection.listed.set(false);
            connection.close(remote);
        }
    }

    /// Makes sure that idle connections are closed at their time. One timer for all of them, which
    /// looks again when it expires: using a connection does not touch it.
    fn reap_later(self: &Rc<Self>, timeout: Duration) {
        if self.reaper.borrow().is_some() {
            return;
        }
        let pool = Rc::downgrade(self);
        let mut due = Instant::now() + timeout;
        let task = tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep_until(due).await;
                let Some(pool) = pool.upgrade() else { return };
                match pool.reap() {
                    Some(next) => due = next,
                    None => return drop(pool.reaper.take()),
                }
            }
        });
        *self.reaper.borrow_mut() = Some(Task(task.abort_handle()));
    }

    /// Closes what was idle for too long; when the next one will have been.
    fn reap(&self) -> Option<Instant> {
        let (now, mut next) = (Instant::now(), None::<Instant>);
        self.close_where(|connection| {
            let due = connection.due()?;
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                return None;
            }
            connection.count_timeout();
            Some(false)
        });
        next
    }
}

/// A connection that is being opened; the pool's counts are right however that ends.
struct Opening {
    pool: Rc<Pool>,
    expected: usize,
    done: bool,
}

impl Opening {
    fn new(pool: &Rc<Pool>, cluster: &LocalCluster) -> Self {
        let policy = &cluster.policy;
        let most = policy.max_requests_per_connection.map_or(usize::MAX, |most| most as usize);
        let streams = match pool.version {
            Version::Http2 => pool.allowed.get().min(policy.http2.max_concurrent_streams as usize),
            Version::Http10 | Version::Http11 => 1,
        };
        let expected = streams.min(most).clamp(1, 1 << 20);
        pool.open.set(pool.open.get().saturating_add(1));
        pool.coming.set(pool.coming.get().saturating_add(expected));
        Self { pool: Rc::clone(pool), expected, done: false }
    }

    /// The connection is there, with all of its room.
    fn done(mut self) {
        self.done = true;
    }

    /// The connection is there, and what it will have room for is still to come.
    fn done_but_unsettled(mut self) -> usize {
        self.done = true;
        std::mem::take(&mut self.expected)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.pool.no_longer_coming(self.expected);
        if !self.done {
            self.pool.open.set(self.pool.open.get().saturating_sub(1));
        }
    }
}
