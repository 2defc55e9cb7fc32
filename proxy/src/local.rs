//! What one worker thread owns and its exchanges share: clusters with their connections, random numbers, the date, log buffers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::{mpsc, watch};

use crate::cluster::outlier::{Seen, eject, observe};
use crate::cluster::report::{HostReport, What};
use crate::state::{Direction, Drain, ServerState};
use crate::time::{self, DateCache};
use crate::upstream::{Clusters, LocalCluster, LocalHost};

/// One worker's belongings. Nothing in it is shared with another thread but by the `Arc`s.
pub struct Local {
    /// The worker's number, which is its shard of every statistic.
    pub shard: usize,
    pub state: Arc<ServerState>,
    pub clusters: Clusters,
    pub date: DateCache,
    reports: mpsc::Sender<HostReport>,
    random: RefCell<fastrand::Rng>,
    /// By the address of a listener: how far its connections are to be drained.
    drains: RefCell<HashMap<SocketAddr, Draining>>,
    /// Of listeners that changed or went while they had connections.
    retired: RefCell<Vec<Draining>>,
}

/// What the connections of one listener listen to.
struct Draining {
    direction: Direction,
    stage: watch::Sender<Drain>,
}

impl Local {
    /// What worker number `shard` owns; `reports` is its way to the writer.
    pub fn new(shard: usize, state: Arc<ServerState>, reports: mpsc::Sender<HostReport>) -> Self {
        Self {
            shard,
            state,
            clusters: Clusters::default(),
            date: DateCache::default(),
            reports,
            random: RefCell::new(fastrand::Rng::new()),
            drains: RefCell::default(),
            retired: RefCell::default(),
        }
    }

    /// Counts for outlier detection what was seen of a host, and ejects it where that is due. It never waits: the ejection is in
    /// force for every worker's next pick, and control hears of it later.
    pub fn judge(&self, cluster: &LocalCluster, host: &LocalHost, seen: Seen) {
        let Some(policy) = &cluster.policy.outlier else { return };
        let crossed = observe(&policy.settings, &host.host.stats, cluster.shard(), seen);
        for kind in crossed.into_iter().flatten() {
            let mut random = |bound| self.random_below(bound);
            if eject(policy, &host.host.stats, kind, cluster.shard(), &mut random) {
                self.report(cluster, host, What::Ejected { kind, at: time::now() });
            }
        }
    }

    /// Tells control of a host. A report that finds the queue full is dropped and counted: control finds ejections without it too.
    pub fn report(&self, cluster: &LocalCluster, host: &LocalHost, what: What) {
        let name = Arc::clone(&cluster.policy.name);
        if self.reports.try_send(HostReport { cluster: name, host: host.host.address, what }).is_err() {
            cluster.stats().host_reports_dropped.inc();
        }
    }

    /// A random number below `bound` (0 for a bound of 0).
    pub fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.random.borrow_mut().u64(0..bound) }
    }

    /// A random share in 0..1.
    pub fn random_share(&self) -> f64 {
        self.random.borrow_mut().f64()
    }

    /// A number for a new connection that no other of this process has.
    pub fn next_connection(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Relaxed)
    }

    /// The drain signal for a new connection of the listener at `address`.
    pub fn drain_of(&self, address: SocketAddr, direction: Direction) -> watch::Receiver<Drain> {
        let mut drains = self.drains.borrow_mut();
        let begin = || Draining { direction, stage: watch::Sender::new(self.state.drain(direction)) };
        drains.entry(address).or_insert_with(begin).stage.subscribe()
    }

    /// Tells all connections how far draining has come.
    pub fn relay_drain(&self) {
        for Draining { direction, stage } in self.drains.borrow().values() {
            let drain = self.state.drain(*direction);
            stage.send_if_modified(|at| std::mem::replace(at, drain) != drain);
        }
        for Draining { direction, stage } in &*self.retired.borrow() {
            let drain = self.state.drain(*direction).max(Drain::Announce);
            stage.send_if_modified(|at| std::mem::replace(at, drain) != drain);
        }
    }

    /// The listener changed or is gone: its connections are told to end after the answer they are at; new ones are none of theirs.
    pub fn retire(&self, address: SocketAddr) {
        let mut retired = self.retired.borrow_mut();
        retired.retain(|draining| draining.stage.receiver_count() > 0);
        if let Some(draining) = self.drains.borrow_mut().remove(&address) {
            draining.stage.send_modify(|at| *at = (*at).max(Drain::Announce));
            retired.push(draining);
        }
    }

    pub fn random_bits(&self) -> [u64; 2] {
        let mut random = self.random.borrow_mut();
        [random.u64(..), random.u64(..)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_a_listener_that_changed_are_still_told_of_the_end() {
        let state = Arc::new(ServerState::new(crate::time::now()));
        let local = Local::new(0, Arc::clone(&state), mpsc::channel(1).0);
        let address = "127.0.0.1:10000".parse().unwrap();
        let before = local.drain_of(address, Direction::Inbound);
        local.retire(address);
        let after = local.drain_of(address, Direction::Inbound);
        assert_eq!((*before.borrow(), *after.borrow()), (Drain::Announce, Drain::No));
        state.set_drain(Direction::Inbound, Drain::Closed);
        local.relay_drain();
        assert_eq!((*before.borrow(), *after.borrow()), (Drain::Closed, Drain::Closed));
        drop(before);
        local.retire("127.0.0.1:1".parse().unwrap());
        assert!(local.retired.borrow().is_empty());
    }
}
