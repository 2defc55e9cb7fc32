//! One worker: a thread with its own runtime, sockets, connections, pools and counters.
//!
//! It takes each new snapshot apart into what it uses, closes idle upstream connections, and runs
//! until shutdown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::listener::{self, Acceptor, Handed, Spread};
use crate::local::Local;
use crate::snapshot::{Listener, Snapshot};
use crate::time::Backoff;
use crate::upstream::Update;
use crate::{connection, tcp};

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Connections accepted for a worker and not yet taken by it.
const INBOX: usize = 1024;
/// Waits until a listener that could not be bound is bound again.
const BIND_AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What a worker starts with.
pub(crate) struct Setup {
    pub local: LocalSetup,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Aborts the worker and its connections.
    pub end: CancellationToken,
    pub bound: Bound,
    inbox: mpsc::Receiver<Handed>,
    /// The inboxes of all workers; only the first one hands over.
    peers: Vec<mpsc::Sender<Handed>>,
}

/// Makes the worker's own part on its own thread.
pub(crate) type LocalSetup = Box<dyn FnOnce() -> Local + Send>;

/// Which snapshot each worker has taken over, listeners included.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    versions: Arc<Mutex<Vec<u64>>>,
    oldest: watch::Sender<u64>,
}

impl Bound {
    pub(crate) fn new(workers: usize) -> Self {
        Self { versions: Arc::new(Mutex::new(vec![0; workers])), oldest: watch::Sender::new(0) }
    }

    /// The newest version that every worker has.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.oldest.subscribe()
    }

    fn report(&self, worker: usize, version: u64) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = versions.get_mut(worker) {
            *slot = version;
        }
        let oldest = versions.iter().copied().min().unwrap_or(0);
        self.oldest.send_if_modified(|at| std::mem::replace(at, oldest) != oldest);
    }
}

/// The setups of `count` workers that may hand connections to each other.
pub(crate) fn setups(
    count: usize,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    end: &CancellationToken,
    bound: &Bound,
    local: impl Fn(usize) -> LocalSetup,
) -> Vec<Setup> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(INBOX)).unzip();
    let setup = |(at, inbox)| Setup {
        local: local(at),
        snapshots: snapshots.clone(),
        end: end.clone(),
        bound: bound.clone(),
        inbox,
        peers: if at == 0 { senders.clone() } else { Vec::new() },
    };
    receivers.into_iter().enumerate().map(setup).collect()
}

/// Runs a worker on a thread of its own. If it ends, the others end too: a process with half its
/// workers would look healthy.
pub(crate) fn spawn(at: usize, setup: Setup) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{at}")).spawn(move || {
        let _ends_all = setup.end.clone().drop_guard();
        tokio::task::LocalSet::new().block_on(&runtime, run(setup));
    })
}

async fn run(setup: Setup) {
    let Setup { local, mut snapshots, end, bound, mut inbox, peers } = setup;
    let mut worker = Worker {
        local: Rc::new(local()),
        peers: Rc::new(peers),
        bound,
        snapshot: Arc::default(),
        acceptors: BTreeMap::new(),
        unbound: BTreeMap::new(),
    };
    let first = Arc::clone(&snapshots.borrow_and_update());
    worker.apply(&first);
    let local = Rc::clone(&worker.local);
    let mut state = local.state.subscribe();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let deadline = worker.next_deadline();
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    break;
                }
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                worker.apply(&snapshot);
            }
            Some(handed) = inbox.recv() => listener::take_over(&local, handed),
            Ok(()) = state.changed() => {
                local.relay_drain();
                if local.state.overload.relief().shrink {
                    connection::release_spare();
                    tcp::release_spare();
                }
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                local.relay_drain();
                worker.try_again();
            }
            _ = sweep.tick() => local.clusters.sweep(),
            () = end.cancelled() => break,
        }
    }
}

struct Worker {
    local: Rc<Local>,
    peers: Rc<Vec<mpsc::Sender<Handed>>>,
    bound: Bound,
    snapshot: Arc<Snapshot>,
    /// The sockets of this worker.
    acceptors: BTreeMap<SocketAddr, Rc<Acceptor>>,
    /// Listeners that could not be bound.
    unbound: BTreeMap<SocketAddr, Unbound>,
}

/// When a listener is bound again, and the waits after that.
struct Unbound {
    due: Instant,
    backoff: Backoff,
}

impl Worker {
    /// Takes over a snapshot: what changed since the one before.
    fn apply(&mut self, snapshot: &Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.snapshot, Arc::clone(snapshot));
        self.apply_clusters(&before, snapshot);
        if !Arc::ptr_eq(&before.listeners, &snapshot.listeners) {
            self.apply_listeners(snapshot);
        }
        self.bound.report(self.local.shard, snapshot.version);
    }

    fn apply_listeners(&mut self, snapshot: &Snapshot) {
        let wanted = wanted(snapshot);
        self.acceptors.retain(|address, acceptor| {
            let stays = wanted.contains_key(address);
            if !stays {
                acceptor.stop();
            }
            stays
        });
        self.unbound.retain(|address, _| {
            let stays = wanted.contains_key(address);
            if !stays {
                self.local.state.set_bound(*address, self.local.shard, Ok(()));
            }
            stays
        });
        for (address, listener) in wanted {
            match self.acceptors.get(&address) {
                Some(acceptor) => acceptor.replace(Arc::clone(listener)),
                None => self.open(listener),
            }
        }
    }

    fn apply_clusters(&self, before: &Snapshot, snapshot: &Snapshot) {
        let clusters = &self.local.clusters;
        snapshot.clusters.each_change(&before.clusters, &mut |cluster| {
            let update = Update {
                policy: &cluster.policy,
                endpoints: &cluster.endpoints,
                stats: &cluster.stats,
                breakers: &cluster.breakers,
            };
            clusters.update(&update, self.local.shard);
        });
        let gone = |name: &Arc<str>| !snapshot.clusters.contains(name);
        if !snapshot.clusters.has_names_of(&before.clusters) && before.clusters.names().any(gone) {
            clusters.retain(|name| snapshot.clusters.contains(name));
        }
    }

    /// When to bind a listener again, or to end connections.
    fn next_deadline(&self) -> Option<Instant> {
        let cut = self.local.next_deadline().map(Instant::from_std);
        self.unbound.values().map(|unbound| unbound.due).chain(cut).min()
    }

    /// Binds the listeners whose wait is over.
    fn try_again(&mut self) {
        let now = Instant::now();
        let snapshot = Arc::clone(&self.snapshot);
        for (address, listener) in wanted(&snapshot) {
            if self.unbound.get(&address).is_some_and(|unbound| unbound.due <= now) {
                self.open(listener);
            }
        }
    }

    /// Binds a listener where this worker has a part in it.
    fn open(&mut self, listener: &Arc<Listener>) {
        let (local, address) = (&self.local, listener.address);
        let spread = if listener::kernel_balances(listener) {
            Spread::Here
        } else if local.shard == 0 {
            Spread::Over(Rc::clone(&self.peers))
        } else {
            return;
        };
        match listener::bind(listener) {
            Ok(socket) => {
                self.unbound.remove(&address);
                local.state.set_bound(address, local.shard, Ok(()));
                let acceptor = Acceptor::start(local, Arc::clone(listener), socket, spread);
                self.acceptors.insert(address, acceptor);
            }
            Err(error) => {
                let mut backoff = self.unbound.get(&address).map_or(BIND_AGAIN, |before| before.backoff);
                let due = Instant::now() + backoff.next(local.random_share());
                self.unbound.insert(address, Unbound { due, backoff });
                local.state.set_bound(address, local.shard, Err(error.to_string()));
            }
        }
    }
}

/// The listeners that have a socket.
fn wanted(snapshot: &Snapshot) -> BTreeMap<SocketAddr, &Arc<Listener>> {
    let bound = snapshot.listeners.iter().filter(|listener| listener.bind);
    bound.map(|listener| (listener.address, listener)).collect()
}
