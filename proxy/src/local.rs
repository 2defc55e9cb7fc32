//! What one worker thread owns and its exchanges share: clusters with their connections, random numbers, the date, log buffers.
//!
//! Made by `worker`; used by `connection`, `exchange`, `attempt`, `tcp`; calls `upstream`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

use crate::state::{Drain, ServerState};
use crate::time::DateCache;
use crate::upstream::Clusters;

/// One worker's belongings. Nothing in it is shared with another thread but by the `Arc`s.
pub struct Local {
    /// The worker's number, which is its shard of every statistic.
    pub shard: usize,
    pub state: Arc<ServerState>,
    pub clusters: Clusters,
    pub date: DateCache,
    random: RefCell<fastrand::Rng>,
    /// By the address of a listener: how far its connections are to be drained.
    drains: RefCell<HashMap<SocketAddr, watch::Sender<Drain>>>,
}

impl Local {
    pub fn new(shard: usize, state: Arc<ServerState>) -> Self {
        Self {
            shard,
            state,
            clusters: Clusters::default(),
            date: DateCache::default(),
            random: RefCell::new(fastrand::Rng::new()),
            drains: RefCell::default(),
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

    /// The drain signal for a new connection of the listener at `address`, which stands at `now` if it is the first.
    pub fn drain_of(&self, address: SocketAddr, now: Drain) -> watch::Receiver<Drain> {
        self.drains.borrow_mut().entry(address).or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// Tells the connections of a listener how far draining has come.
    pub fn drain(&self, address: SocketAddr, drain: Drain) {
        if let Some(sender) = self.drains.borrow().get(&address) {
            sender.send_if_modified(|at| std::mem::replace(at, drain) != drain);
        }
    }

    /// The listener changed or is gone: its connections are told to end after the answer they are at; new ones are none of theirs.
    pub fn retire(&self, address: SocketAddr) {
        if let Some(sender) = self.drains.borrow_mut().remove(&address) {
            sender.send_replace(Drain::Announce);
        }
    }

    pub fn random_bits(&self) -> [u64; 2] {
        let mut random = self.random.borrow_mut();
        [random.u64(..), random.u64(..)]
    }
}
