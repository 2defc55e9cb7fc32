//! What one worker thread owns and its exchanges share: clusters with their connections, random numbers, the date, log buffers.
//!
//! Made by `worker`; used by `connection`, `exchange`, `attempt`, `tcp`; calls `upstream`.

use std::cell::RefCell;
use std::sync::Arc;

use crate::state::ServerState;
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
}

impl Local {
    pub fn new(shard: usize, state: Arc<ServerState>) -> Self {
        Self { shard, state, clusters: Clusters::default(), date: DateCache::default(), random: RefCell::new(fastrand::Rng::new()) }
    }

    /// A random number below `bound` (0 for a bound of 0).
    pub fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.random.borrow_mut().u64(0..bound) }
    }

    /// A random share in 0..1.
    pub fn random_share(&self) -> f64 {
        self.random.borrow_mut().f64()
    }

    pub fn random_bits(&self) -> [u64; 2] {
        let mut random = self.random.borrow_mut();
        [random.u64(..), random.u64(..)]
    }
}
