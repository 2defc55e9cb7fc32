//! One worker: a thread with its own runtime, sockets, connections, pools and counters.
//!
//! It takes each new snapshot apart into what it uses, closes idle upstream connections, and runs until it is told to end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::listener::{self, Acceptor, Handed, Spread};
use crate::local::Local;
use crate::snapshot::{Listener, Snapshot};
use crate::upstream::Update;

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Connections accepted for a worker and not yet taken by it.
const INBOX: usize = 1024;

/// What a worker starts with.
pub struct Setup {
    pub local: LocalSetup,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Ends the worker with whatever it has.
    pub end: CancellationToken,
    pub bound: Bound,
    inbox: mpsc::Receiver<Handed>,
    /// The inboxes of all workers; only the first one hands over.
    peers: Vec<mpsc::Sender<Handed>>,
}

/// Makes the worker's own part on its own thread.
pub type LocalSetup = Box<dyn FnOnce() -> Local + Send>;

/// Which snapshot each worker has taken over, listeners included.
#[derive(Clone, Debug)]
pub struct Bound {
    versions: Arc<Mutex<Vec<u64>>>,
    oldest: watch::Sender<u64>,
}

impl Bound {
    pub fn new(workers: usize) -> Self {
        Self { versions: Arc::new(Mutex::new(vec![0; workers])), oldest: watch::Sender::new(0) }
    }

    /// The newest version that every worker has.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
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
pub fn setups(
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

/// Runs a worker on a thread of its own. However it ends, the others end with it: a process with half its workers would look healthy.
pub fn spawn(at: usize, setup: Setup) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("worker-{at}")).spawn(move || {
        let _ends_all = setup.end.clone().drop_guard();
        tokio::task::LocalSet::new().block_on(&runtime, run(setup));
    })
}

async fn run(setup: Setup) {
    let Setup { local, mut snapshots, end, bound, mut inbox, peers } = setup;
    let local = Rc::new(local());
    let peers = Rc::new(peers);
    let mut acceptors = Acceptors::default();
    let first = Arc::clone(&snapshots.borrow_and_update());
    apply(&first, &local, &mut acceptors, &peers);
    bound.report(local.shard, first.version);
    let mut state = local.state.subscribe();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    break;
                }
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                apply(&snapshot, &local, &mut acceptors, &peers);
                bound.report(local.shard, snapshot.version);
            }
            Some((stream, peer, listener)) = inbox.recv() => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => listener::serve(&local, &listener, stream, peer),
                Err(error) => tracing::warn!(%error, "cannot take over a connection"),
            },
            Ok(()) = state.changed() => local.relay_drain(),
            _ = sweep.tick() => local.clusters.sweep(),
            () = end.cancelled() => break,
        }
    }
}

/// The sockets of this worker by address.
type Acceptors = BTreeMap<SocketAddr, Rc<Acceptor>>;

fn apply(
    snapshot: &Snapshot,
    local: &Rc<Local>,
    acceptors: &mut Acceptors,
    peers: &Rc<Vec<mpsc::Sender<Handed>>>,
) {
    for cluster in snapshot.clusters.values() {
        let update = Update {
            policy: &cluster.policy,
            endpoints: &cluster.endpoints,
            stats: &cluster.stats,
            breakers: &cluster.breakers,
        };
        local.clusters.update(&update, local.shard);
    }
    local.clusters.retain(|name| snapshot.clusters.contains_key(name));
    let wanted: BTreeMap<SocketAddr, &Arc<Listener>> = snapshot
        .listeners
        .iter()
        .filter(|listener| listener.bind)
        .map(|listener| (listener.address, listener))
        .collect();
    acceptors.retain(|address, acceptor| {
        let stays = wanted.contains_key(address);
        if !stays {
            acceptor.stop();
            local.retire(*address);
        }
        stays
    });
    for (address, listener) in wanted {
        match acceptors.get(&address) {
            Some(acceptor) if Arc::ptr_eq(&acceptor.listener(), listener) => {}
            Some(acceptor) => {
                acceptor.replace(Arc::clone(listener));
                local.retire(address);
            }
            None => {
                if let Some(acceptor) = open(local, listener, peers) {
                    acceptors.insert(address, acceptor);
                }
            }
        }
    }
}

fn open(
    local: &Rc<Local>,
    listener: &Arc<Listener>,
    peers: &Rc<Vec<mpsc::Sender<Handed>>>,
) -> Option<Rc<Acceptor>> {
    let spread = if listener::kernel_balances(listener) {
        Spread::Here
    } else if local.shard == 0 {
        Spread::Over(Rc::clone(peers))
    } else {
        return None;
    };
    match listener::bind(listener) {
        Ok(socket) => Some(Acceptor::start(local, Arc::clone(listener), socket, spread)),
        Err(error) => {
            tracing::error!(listener = %listener.name, address = %listener.address, %error, "cannot listen");
            None
        }
    }
}
