//! The server's state, which every thread may ask for: its phase, what it drains, which listeners could not be bound.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::watch;

use crate::overload::Overload;

/// Envoy's server states (`server.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Serving.
    Live = 0,
    /// Going down: finishing what was accepted.
    Draining = 1,
    /// Before the clusters are known.
    PreInitializing = 2,
    /// The clusters are known, the listeners not yet open.
    Initializing = 3,
}

impl Phase {
    /// As `/ready` and `/server_info` print it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

/// Which way a listener faces (`traffic_direction`, else by its address): inbound drains before outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

/// How far draining has come for the listeners of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Drain {
    /// Serving.
    No = 0,
    /// Still accepting, but each response announces the close.
    Announce = 1,
    /// Not accepting any more; idle connections are closed.
    Closed = 2,
    /// The time for draining has passed: connections are closed, also those in use.
    Over = 3,
}

/// One version of a filter chain, which every connection of it holds: how a connection learns that its chain is no longer configured,
/// wherever it is at that moment (in the accept queue, in the inbox of another worker, idle).
#[derive(Debug, Default)]
pub(crate) struct Generation {
    /// Shared with the generations that the same message came to before and after.
    retired: Arc<OnceLock<(Drain, Instant)>>,
    superseded: AtomicBool,
}

impl Generation {
    /// The configuration has this chain no more: its connections drain, and are closed at the deadline. The first call counts. Wake
    /// the workers afterwards with `ServerState::touch`.
    pub(crate) fn retire(&self, stage: Drain, deadline: Instant) {
        let _the_first_counts = self.retired.set((stage, deadline));
    }

    /// The next generation of a chain whose message stays, while the values and files that it
    /// takes data from do not. When it is retired, so is this one.
    pub(crate) fn renew(&self) -> Self {
        Self { retired: Arc::clone(&self.retired), superseded: AtomicBool::default() }
    }

    /// The same for all generations that are renewals of each other, and for no other.
    pub(crate) fn chain(&self) -> usize {
        Arc::as_ptr(&self.retired).addr()
    }

    /// There is a renewal: HTTP connections come back to it after their next response. Nothing is
    /// cut, since the configuration still has the chain.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Release);
    }

    /// Whether new connections still come to it.
    pub(crate) fn is_current(&self) -> bool {
        self.retired().is_none() && !self.superseded.load(Acquire)
    }

    /// How far the connections are to drain, and until when.
    pub(crate) fn retired(&self) -> Option<(Drain, Instant)> {
        self.retired.get().copied()
    }
}

/// Why addresses could not be bound, by worker.
pub(crate) type Unbound = BTreeMap<(SocketAddr, usize), String>;

/// The listeners of one direction.
#[derive(Debug, Default)]
struct Facing {
    drain: AtomicU8,
    stopped: AtomicBool,
    connections: AtomicI64,
    /// Sockets that accept, or still empty their queue.
    acceptors: AtomicI64,
}

/// One for the process.
#[derive(Debug)]
pub struct ServerState {
    pub started: Instant,
    /// What the overload manager asks for.
    pub(crate) overload: Overload,
    phase: AtomicU8,
    health_failed: AtomicBool,
    inbound: Facing,
    outbound: Facing,
    changed: watch::Sender<()>,
    unbound: watch::Sender<Unbound>,
}

impl ServerState {
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            overload: Overload::default(),
            phase: AtomicU8::new(Phase::PreInitializing as u8),
            health_failed: AtomicBool::new(false),
            inbound: Facing::default(),
            outbound: Facing::default(),
            changed: watch::Sender::new(()),
            unbound: watch::Sender::default(),
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Live,
            1 => Phase::Draining,
            2 => Phase::PreInitializing,
            _ => Phase::Initializing,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.changed.send_replace(());
    }

    /// Whether `/healthcheck/fail` was called (and not `/healthcheck/ok` since).
    pub(crate) fn health_failed(&self) -> bool {
        self.health_failed.load(Relaxed)
    }

    pub(crate) fn set_health_failed(&self, failed: bool) {
        self.health_failed.store(failed, Relaxed);
        self.changed.send_replace(());
    }

    pub(crate) fn drain(&self, direction: Direction) -> Drain {
        // `connection_closed` and a drain each write one word and read the other's: only one order of all four lets neither miss both.
        match self.facing(direction).drain.load(SeqCst) {
            0 => Drain::No,
            1 => Drain::Announce,
            2 => Drain::Closed,
            _ => Drain::Over,
        }
    }

    pub(crate) fn set_drain(&self, direction: Direction, drain: Drain) {
        self.facing(direction).drain.store(drain as u8, SeqCst);
        self.changed.send_replace(());
    }

    /// Whether the listeners of a direction stopped accepting (`/drain_listeners`); their
    /// connections continue.
    pub(crate) fn is_stopped(&self, direction: Direction) -> bool {
        self.facing(direction).stopped.load(Relaxed)
    }

    pub(crate) fn stop_listeners(&self, direction: Direction) {
        self.facing(direction).stopped.store(true, Relaxed);
        self.changed.send_replace(());
    }

    /// Open downstream connections of a direction.
    pub(crate) fn connections(&self, direction: Direction) -> i64 {
        self.facing(direction).connections.load(SeqCst)
    }

    /// Whether a direction has no connection left, and no socket whose queue may hold one.
    pub(crate) fn is_idle(&self, direction: Direction) -> bool {
        let facing = self.facing(direction);
        facing.acceptors.load(Acquire) == 0 && facing.connections.load(SeqCst) == 0
    }

    pub(crate) fn acceptor_opened(&self, direction: Direction) {
        self.facing(direction).acceptors.fetch_add(1, Relaxed);
    }

    pub(crate) fn acceptor_closed(&self, direction: Direction) {
        let before = self.facing(direction).acceptors.fetch_sub(1, AcqRel);
        if before == 1 {
            self.changed.send_replace(());
        }
    }

    pub(crate) fn connection_opened(&self, direction: Direction) {
        self.facing(direction).connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self, direction: Direction) {
        let before = self.facing(direction).connections.fetch_sub(1, SeqCst);
        // Only a drain waits for the last connection.
        if before == 1 && self.drain(direction) != Drain::No {
            self.changed.send_replace(());
        }
    }

    /// Notes whether a worker could bind an address.
    pub(crate) fn set_bound(&self, address: SocketAddr, worker: usize, result: Result<(), String>) {
        self.unbound.send_if_modified(|unbound| match result {
            Ok(()) => unbound.remove(&(address, worker)).is_some(),
            Err(error) => unbound.insert((address, worker), error.clone()) != Some(error),
        });
    }

    /// The addresses that could not be bound.
    pub(crate) fn unbound(&self) -> watch::Receiver<Unbound> {
        self.unbound.subscribe()
    }

    /// Wakes all subscribers.
    pub(crate) fn touch(&self) {
        self.changed.send_replace(());
    }

    /// Wakes whenever anything here changes.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn facing(&self, direction: Direction) -> &Facing {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}
