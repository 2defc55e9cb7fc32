//! Sockets: bind, accept with back-off, connection limits, stop on drain.
//!
//! Each worker has its own socket for an address (`SO_REUSEPORT`, where the kernel spreads connections over them); elsewhere, and where
//! a listener asks for it, the first worker accepts and hands over. A socket is kept when its listener changes.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::local::Local;
use crate::snapshot::Listener;
use crate::state::{Direction, Drain, ServerState};
use crate::stream_info::ConnectionInfo;
use crate::time::Backoff;
use chain::Facts;

mod chain;
mod chains;
mod gate;

/// A connection that one worker accepted for another.
pub(crate) struct Handed {
    pub stream: std::net::TcpStream,
    pub peer: SocketAddr,
    pub listener: Arc<Listener>,
    /// It counts as open on its way, so that a drain waits for it.
    _counted: Counted,
}

/// Counts a connection as open before a worker serves it.
struct Counted {
    state: Arc<ServerState>,
    direction: Direction,
}

impl Counted {
    fn new(state: &Arc<ServerState>, direction: Direction) -> Self {
        state.connection_opened(direction);
        Self { state: Arc::clone(state), direction }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.state.connection_closed(self.direction);
    }
}

/// One worker's socket of one listener.
pub(crate) struct Acceptor {
    listener: RefCell<Arc<Listener>>,
    /// Closed by the task that accepts, once its queue is empty.
    socket: Weak<TcpListener>,
    /// Set to stop accepting.
    stop: watch::Sender<bool>,
}

/// Where accepted connections go.
#[derive(Clone)]
pub(crate) enum Spread {
    /// They stay on this worker.
    Here,
    /// In turn to every worker, this one included.
    Over(Rc<Vec<mpsc::Sender<Handed>>>),
}

/// Whether the kernel spreads connections over the sockets of one address.
pub(crate) fn kernel_balances(listener: &Listener) -> bool {
    listener.reuse_port && cfg!(target_os = "linux")
}

/// Fails when another process holds the address: asked without `SO_REUSEPORT`, which would share it silently.
pub(crate) fn probe(address: SocketAddr) -> std::io::Result<()> {
    socket(address, false, false).map(drop)
}

/// A listening socket.
pub(crate) fn bind(listener: &Listener) -> std::io::Result<TcpListener> {
    let socket = socket(listener.address, kernel_balances(listener), listener.ipv4_compat)?;
    listener.socket_buffers.apply(&SockRef::from(&socket))?;
    socket.listen(backlog(listener))?;
    TcpListener::from_std(socket.into())
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.backlog).unwrap_or(i32::MAX)
}

/// A bound socket that does not listen yet.
///
/// A kernel without IPv6 (`ipv6.disable=1`) has only the IPv4 part of `::` with `ipv4_compat`. Envoy
/// refuses to start there.
fn socket(address: SocketAddr, share: bool, ipv4_too: bool) -> std::io::Result<Socket> {
    let new = |address| Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
    let (socket, address) = match (new(address), ipv4_part(address).filter(|_| ipv4_too)) {
        (Err(_), Some(ipv4)) => (new(ipv4)?, ipv4),
        (socket, _) => (socket?, address),
    };
    // A restart must not wait for the connections of the process before it to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!ipv4_too)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The IPv4 part of `::`.
fn ipv4_part(address: SocketAddr) -> Option<SocketAddr> {
    let all = address.is_ipv6() && address.ip().is_unspecified();
    all.then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

impl Acceptor {
    /// Begins to accept on a bound socket.
    pub(crate) fn start(
        local: &Rc<Local>,
        listener: Arc<Listener>,
        socket: TcpListener,
        spread: Spread,
    ) -> Rc<Self> {
        let socket = Rc::new(socket);
        let acceptor = Rc::new(Self {
            listener: RefCell::new(listener),
            socket: Rc::downgrade(&socket),
            stop: watch::Sender::new(false),
        });
        tokio::task::spawn_local(Rc::clone(&acceptor).run(Rc::clone(local), socket, spread));
        acceptor
    }

    pub(crate) fn listener(&self) -> Arc<Listener> {
        Arc::clone(&self.listener.borrow())
    }

    /// New connections are served by the listener's new version, and wait in a queue of its length.
    pub(crate) fn replace(&self, listener: Arc<Listener>) {
        let before = self.listener.replace(listener);
        let listener = self.listener.borrow();
        let Some(socket) = self.socket.upgrade() else { return };
        let socket = SockRef::from(&*socket);
        if before.backlog != listener.backlog
            && let Err(error) = socket.listen(backlog(&listener))
        {
            tracing::warn!(listener = %listener.name, %error, "`tcp_backlog_size` cannot be changed");
        }
        if before.socket_buffers != listener.socket_buffers
            && let Err(error) = listener.socket_buffers.apply(&socket)
        {
            tracing::warn!(listener = %listener.name, %error, "`socket_options` cannot be changed");
        }
    }

    /// Stops accepting; the connections in the accept queue are still served.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn run(self: Rc<Self>, local: Rc<Local>, socket: Rc<TcpListener>, spread: Spread) {
        let direction = self.listener.borrow().direction;
        let _counted = Accepting::new(&local, direction);
        let mut stopped = self.stop.subscribe();
        let mut state = local.state.subscribe();
        let mut turn = 0;
        let mut pause = PAUSE;
        while !is_closed(&local, direction) {
            // Whoever connects now waits in the queue of the kernel.
            let paused = self.listener.borrow().relief(&local.state.overload).stop_connections;
            let accepted = tokio::select! {
                accepted = socket.accept(), if !paused => accepted,
                _ = stopped.wait_for(|stop| *stop) => break,
                _ = state.changed() => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    pause.reset();
                    self.dispatch(&local, &spread, &mut turn, stream, peer);
                    if local.state.overload.is_full() {
                        // The connection that makes way closes before the next one is accepted.
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    // Out of descriptors, or the peer is gone already: neither is helped by asking again at once.
                    tracing::warn!(listener = %self.listener.borrow().name, %error, "cannot accept a connection");
                    tokio::time::sleep(pause.next(local.random_share())).await;
                }
            }
        }
        // Closing the socket would reset the connections in its queue.
        while let Some(Ok((stream, peer))) = ready(socket.accept()).await {
            self.dispatch(&local, &spread, &mut turn, stream, peer);
        }
    }

    fn dispatch(
        &self,
        local: &Rc<Local>,
        spread: &Spread,
        turn: &mut usize,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let listener = self.listener();
        match spread {
            Spread::Here => serve(local, &listener, stream, peer),
            Spread::Over(workers) => {
                *turn = turn.wrapping_add(1);
                let target = workers.get(*turn % workers.len().max(1));
                let _counted = Counted::new(&local.state, listener.direction);
                let handed = stream.into_std().ok().map(|stream| Handed { stream, peer, listener, _counted });
                // A worker whose inbox is full is overloaded: its connection is closed and counted like any beyond the limit.
                if let Some((target, handed)) = target.zip(handed)
                    && let Err(full) = target.try_send(handed)
                {
                    full.into_inner().listener.stats.shard(local.shard).downstream_cx_overflow.inc();
                }
            }
        }
    }
}

fn is_closed(local: &Local, direction: Direction) -> bool {
    local.state.is_stopped(direction) || local.state.drain(direction) >= Drain::Closed
}

/// Counts a socket as accepting until its queue has been emptied for the last time.
struct Accepting {
    local: Rc<Local>,
    direction: Direction,
}

impl Accepting {
    fn new(local: &Rc<Local>, direction: Direction) -> Self {
        local.state.acceptor_opened(direction);
        Self { local: Rc::clone(local), direction }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.local.state.acceptor_closed(self.direction);
    }
}

/// Waits until a listener that could not accept asks again.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));

/// Serves a connection that another worker accepted.
pub(crate) fn take_over(local: &Rc<Local>, handed: Handed) {
    // It counts as open until it does so here.
    let Handed { stream, peer, listener, _counted } = handed;
    match TcpStream::from_std(stream) {
        Ok(stream) => serve(local, &listener, stream, peer),
        Err(error) => tracing::warn!(%error, "cannot take over a connection"),
    }
}

/// Serves a connection on this worker.
fn serve(local: &Rc<Local>, listener: &Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
    let stats = listener.stats.shard(local.shard);
    let open = || listener.stats.shards().map(|shard| shard.listener_cx_active.get()).sum::<i64>();
    if listener.max_connections.is_some_and(|limit| open() >= i64::from(limit)) {
        stats.downstream_cx_overflow.inc();
        return;
    }
    let reject = u64::from(listener.relief(&local.state.overload).reject);
    if reject > 0 && local.random_below(100) < reject {
        stats.downstream_cx_overload_reject.inc();
        return;
    }
    let Some(entered) = Entered::new(local, listener.ignores_global_limit) else {
        stats.downstream_global_cx_overflow.inc();
        return;
    };
    let _nodelay_is_an_optimisation = stream.set_nodelay(true);
    let at = stream.local_addr().unwrap_or(listener.address);
    let facts = Facts { local: at, remote: peer, peer, server_name: "", transport: RAW, applications: &[] };
    let Some(chain) = listener.chains.only().or_else(|| listener.chains.choose(&facts)) else {
        stats.no_filter_chain_match.inc();
        return;
    };
    stats.listener_cx_total.inc();
    stats.listener_cx_active.inc();
    let since = crate::time::now();
    let open = Open { local: Rc::clone(local), listener: Arc::clone(listener), since, _entered: entered };
    local.state.connection_opened(listener.direction);
    let info = ConnectionInfo { id: local.next_connection(), peer, local: at, tls: false };
    chains::serve(local, listener, chain, stream, info, open);
}

/// A connection without encryption, as `transport_protocol` names it.
const RAW: &str = "raw_buffer";

/// Counts a connection as open while it lives.
struct Open {
    local: Rc<Local>,
    listener: Arc<Listener>,
    since: std::time::Instant,
    _entered: Entered,
}

/// A connection that the overload manager counts.
struct Entered(Arc<ServerState>);

impl Entered {
    /// `None` for one beyond the limit of all listeners together, unless an idle one makes way.
    fn new(local: &Local, ignores_limit: bool) -> Option<Self> {
        let entered = local.state.overload.enter(ignores_limit, || local.idle.evict());
        entered.then(|| Self(Arc::clone(&local.state)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.overload.leave();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let stats = self.listener.stats.shard(self.local.shard);
        stats.listener_cx_active.dec();
        stats.listener_cx_destroy.inc();
        stats
            .listener_cx_length_ms
            .record(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.local.state.connection_closed(self.listener.direction);
    }
}

/// The result of a future that is ready now.
async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}
