//! What one worker thread owns and its exchanges share: clusters with their connections, random numbers, the date, log buffers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::outlier::{Seen, eject, observe};
use crate::cluster::report::{HostReport, Reports, What};
use crate::headers::response::DateCache;
use crate::state::{Direction, Drain, Generation, ServerState};
use crate::time;
use crate::upstream::{Clusters, LocalCluster, LocalHost};

mod idle;

pub(crate) use idle::{IdleConnections, IdlePlace};

/// After its deadline, how long a connection may still write its last records. Then it is aborted.
const LAST_RECORDS: Duration = Duration::from_millis(20);

/// One worker's belongings. Other threads share only what the `Arc`s hold.
pub(crate) struct Local {
    /// The worker's number, which is its shard of every statistic.
    pub shard: usize,
    pub state: Arc<ServerState>,
    pub clusters: Clusters,
    pub dates: DateCache,
    /// Entered only where they make way for new ones.
    pub idle: Rc<IdleConnections>,
    reports: Arc<Reports>,
    random: RefCell<fastrand::Rng>,
    /// The connections of each filter chain, by the address of its `Generation`.
    draining: RefCell<HashMap<usize, Draining>>,
    /// How far timeouts are reduced, as connections know it.
    timeouts: Cell<u8>,
}

/// The connections of one version of a filter chain, and what they listen to.
struct Draining {
    /// Held, so that its address stays its own.
    generation: Arc<Generation>,
    direction: Direction,
    stage: watch::Sender<Drain>,
    connections: JoinSet<()>,
    /// When the connections were told that the deadline has passed. A worker may come late to it.
    told: Option<Instant>,
    /// Those that were left have been aborted.
    ended: bool,
}

impl Local {
    /// What worker number `shard` owns; `reports` is its way to the writer.
    pub(crate) fn new(shard: usize, state: Arc<ServerState>, reports: Arc<Reports>) -> Self {
        Self {
            shard,
            state,
            clusters: Clusters::default(),
            dates: DateCache::default(),
            idle: Rc::default(),
            reports,
            random: RefCell::new(fastrand::Rng::new()),
            draining: RefCell::default(),
            timeouts: Cell::default(),
        }
    }

    /// Counts the outcome for outlier detection, and ejects the host at a threshold. It never
    /// waits: the ejection is in force for every worker's next pick, and control hears of it later.
    pub(crate) fn report_outcome(&self, cluster: &LocalCluster, host: &LocalHost, seen: Seen) {
        let Some(policy) = &cluster.policy.outlier else { return };
        let crossed = observe(&policy.settings, &host.host.stats, cluster.shard(), seen);
        for kind in crossed.into_iter().flatten() {
            let mut random = |bound| self.random_below(bound);
            if eject(policy, &host.host.stats, kind, cluster.shard(), &mut random) {
                self.report(cluster, host, What::Ejected { kind, at: time::now() });
            }
        }
    }

    /// Reports a host to control.
    pub(crate) fn report(&self, cluster: &LocalCluster, host: &LocalHost, what: What) {
        let name = Arc::clone(&cluster.policy.name);
        self.reports.report(HostReport { cluster: name, host: host.host.address, what });
    }

    /// A random number below `bound` (0 for a bound of 0).
    pub(crate) fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.random.borrow_mut().u64(0..bound) }
    }

    /// A random share in 0..1.
    pub(crate) fn random_share(&self) -> f64 {
        self.random.borrow_mut().f64()
    }

    /// A number for a new connection that no other of this process has.
    pub(crate) fn next_connection(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Relaxed)
    }

    /// Serves a connection of a filter chain as a task that is ended at the chain's deadline, if it has one. The connection is
    /// given its drain signal: that of the server for this direction and that of the chain in one.
    pub(crate) fn serve<F: Future<Output = ()> + 'static>(
        &self,
        generation: &Arc<Generation>,
        direction: Direction,
        connection: impl FnOnce(watch::Receiver<Drain>) -> F,
    ) {
        let mut all = self.draining.borrow_mut();
        let draining = all.entry(Arc::as_ptr(generation).addr()).or_insert_with(|| Draining {
            generation: Arc::clone(generation),
            direction,
            stage: watch::Sender::new(self.stage(generation, direction)),
            connections: JoinSet::new(),
            told: None,
            ended: false,
        });
        draining.ended = false;
        while draining.connections.try_join_next().is_some() {}
        draining.connections.spawn_local(connection(draining.stage.subscribe()));
    }

    /// Passes the drain stage to all connections, and aborts those whose deadline has passed. Idle
    /// connections look at their timeouts again when those have changed.
    pub(crate) fn relay_drain(&self) {
        let now = time::now();
        let timeouts = self.state.overload.relief().timeouts;
        let changed = self.timeouts.replace(timeouts) != timeouts;
        self.draining.borrow_mut().retain(|_, draining| {
            while draining.connections.try_join_next().is_some() {}
            let stage = self.stage(&draining.generation, draining.direction);
            draining.stage.send_if_modified(|at| std::mem::replace(at, stage) != stage || changed);
            let over = draining.generation.retired().is_some_and(|(_, deadline)| deadline <= now);
            if over && *draining.told.get_or_insert(now) + LAST_RECORDS <= now {
                draining.connections.abort_all();
                draining.ended = true;
            }
            draining.generation.is_current() || !draining.connections.is_empty()
        });
    }

    /// When `relay_drain` has connections to tell or to end; in the past when the worker came too
    /// late to it.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let all = self.draining.borrow();
        let due = |draining: &Draining| {
            let (_, deadline) = draining.generation.retired()?;
            match draining.told {
                _ if draining.ended => None,
                Some(told) => Some(told + LAST_RECORDS),
                None => Some(deadline),
            }
        };
        all.values().filter_map(due).min()
    }

    fn stage(&self, generation: &Generation, direction: Direction) -> Drain {
        let retired = match generation.retired() {
            None if generation.is_current() => Drain::No,
            None => Drain::Announce,
            Some((_, deadline)) if deadline <= time::now() => Drain::Over,
            Some((stage, _)) => stage,
        };
        self.state.drain(direction).max(retired)
    }

    pub(crate) fn random_bits(&self) -> [u64; 2] {
        let mut random = self.random.borrow_mut();
        [random.u64(..), random.u64(..)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves connections that never end by themselves; the drain stage of each, and whether it is
    /// still open.
    fn connect(local: &Local, generation: &Arc<Generation>) -> (watch::Receiver<Drain>, std::rc::Weak<()>) {
        let alive = Rc::new(());
        let (weak, mut told) = (Rc::downgrade(&alive), None);
        local.serve(generation, Direction::Inbound, |drain| {
            told = Some(drain);
            async move {
                std::future::pending::<()>().await;
                drop(alive);
            }
        });
        (told.unwrap(), weak)
    }

    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    /// Does what the worker does until no deadline is left.
    async fn end_all(local: &Local) {
        while let Some(due) = local.next_deadline() {
            tokio::time::sleep_until(due.into()).await;
            local.relay_drain();
        }
        tokio::task::yield_now().await;
    }

    #[test]
    fn a_connection_of_a_chain_that_is_gone_learns_of_it_whenever_it_comes() {
        on_a_worker(async {
            let state = Arc::new(ServerState::new(time::now()));
            let local = Local::new(0, Arc::clone(&state), Arc::default());
            let [old, new] = [(); 2].map(|()| Arc::new(Generation::default()));
            let before = connect(&local, &old);
            old.retire(Drain::Closed, time::now() + Duration::from_secs(60));
            // The worker has not been woken yet.
            let between = connect(&local, &old);
            local.relay_drain();
            let after = connect(&local, &old);
            let other = connect(&local, &new);
            for (drain, alive) in [&before, &between, &after] {
                assert_eq!((*drain.borrow(), alive.strong_count()), (Drain::Closed, 1));
            }
            assert_eq!(*other.0.borrow(), Drain::No);
            assert!(local.next_deadline().is_some());
            state.set_drain(Direction::Inbound, Drain::Announce);
            local.relay_drain();
            assert_eq!((*before.0.borrow(), *other.0.borrow()), (Drain::Closed, Drain::Announce));
        });
    }

    #[test]
    fn a_deadline_that_passed_while_the_worker_was_busy_is_not_lost() {
        on_a_worker(async {
            let local = Local::new(0, Arc::new(ServerState::new(time::now())), Arc::default());
            let old = Arc::new(Generation::default());
            let (drain, alive) = connect(&local, &old);
            let deadline = time::now() - Duration::from_secs(1);
            old.retire(Drain::Announce, deadline);
            assert_eq!(local.next_deadline(), Some(deadline));
            local.relay_drain();
            tokio::task::yield_now().await;
            // It hears of it first, however late that is, and may still write its last records.
            assert_eq!((*drain.borrow(), alive.strong_count()), (Drain::Over, 1));
            end_all(&local).await;
            assert_eq!(alive.strong_count(), 0);
        });
    }

    #[test]
    fn at_the_deadline_every_connection_of_the_chain_is_ended_and_no_other() {
        on_a_worker(async {
            let local = Local::new(0, Arc::new(ServerState::new(time::now())), Arc::default());
            let [old, new] = [(); 2].map(|()| Arc::new(Generation::default()));
            let (gone, stays) = (connect(&local, &old), connect(&local, &new));
            old.retire(Drain::Announce, time::now() - Duration::from_secs(1));
            local.relay_drain();
            assert_eq!((*gone.0.borrow(), *stays.0.borrow()), (Drain::Over, Drain::No));
            end_all(&local).await;
            local.relay_drain();
            assert_eq!((gone.1.strong_count(), stays.1.strong_count()), (0, 1));
            assert_eq!(local.draining.borrow().len(), 1);
        });
    }
}
