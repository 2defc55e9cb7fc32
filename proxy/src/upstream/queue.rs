//! The requests that wait for room on a connection of one pool.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::clusters::LocalCluster;
use super::pool::Pool;
use super::stream::Lease;
use crate::cluster::Host;
use crate::cluster::breaker::{Count, Permit};
use crate::error::UpstreamError;

/// The next permit below `limit`, which may change, from anywhere in the process. Only while a
/// `Want` lives.
pub(super) async fn room(count: &Arc<Count>, limit: &Cell<u32>) -> Permit {
    loop {
        let mut room = pin!(count.room().notified());
        // Registered before the count is read, so that no returning permit is missed in between.
        room.as_mut().enable();
        if let Some(permit) = count.acquire(limit.get()) {
            return permit;
        }
        room.await;
    }
}

/// Requests that wait, in the order in which they came.
#[derive(Default)]
pub(super) struct Queue {
    waiting: RefCell<VecDeque<Waiting>>,
    /// Those that have not given up.
    live: Cell<usize>,
}

/// A request that waits, as the queue sees it.
struct Waiting {
    turn: oneshot::Sender<Result<Lease, UpstreamError>>,
    /// True while it is in the queue.
    queued: Rc<Cell<bool>>,
    cluster: Rc<LocalCluster>,
    host: Arc<Host>,
}

/// A waiting request's side. On drop it leaves the queue and passes on what it was assigned.
pub(super) struct Waiter {
    turn: oneshot::Receiver<Result<Lease, UpstreamError>>,
    queued: Rc<Cell<bool>>,
    pool: Rc<Pool>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.live.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.get() == 0
    }

    /// Where the first that waits wants to go.
    pub(super) fn first(&self) -> Option<(Rc<LocalCluster>, Arc<Host>)> {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(|first| !first.queued.get()) {
            waiting.pop_front();
        }
        let first = waiting.front()?;
        Some((Rc::clone(&first.cluster), Arc::clone(&first.host)))
    }

    fn pop(&self) -> Option<Waiting> {
        loop {
            let waiting = self.waiting.borrow_mut().pop_front()?;
            if waiting.queued.get() {
                self.leave(&waiting.queued);
                return Some(waiting);
            }
        }
    }

    fn leave(&self, queued: &Cell<bool>) {
        if !queued.replace(false) {
            return;
        }
        self.live.set(self.live.get().saturating_sub(1));
        if self.is_empty() && !self.waiting.borrow().is_empty() {
            // Those that gave up before hold their cluster and host no longer. They are dropped
            // outside of the borrow.
            drop(self.waiting.take());
        }
    }

    fn push(&self, waiting: Waiting, first: bool) {
        let mut all = self.waiting.borrow_mut();
        // Those that gave up are thrown out now and then, so that the queue stays as short as its limit.
        if all.len() > 2 * self.live.get() + 16 {
            all.retain(|waiting| waiting.queued.get());
        }
        self.live.set(self.live.get().saturating_add(1));
        if first {
            all.push_front(waiting);
        } else {
            all.push_back(waiting);
        }
    }

    /// Gives a stream to the first that waits.
    pub(super) fn hand_over(&self, lease: Lease) {
        if let Some(waiting) = self.pop() {
            // One that has given up drops it, which hands it on.
            let _ = waiting.turn.send(Ok(lease));
        }
    }

    /// The host cannot be connected to: fail the requests that wait.
    pub(super) fn fail(&self, error: &UpstreamError) {
        while let Some(waiting) = self.pop() {
            // One that has given up needs no error.
            let _ = waiting.turn.send(Err(error.clone()));
        }
    }
}

impl Waiter {
    /// Joins the queue: in front when it had its turn before.
    pub(super) fn new(pool: &Rc<Pool>, cluster: &Rc<LocalCluster>, host: &Arc<Host>, first: bool) -> Self {
        let (sender, turn) = oneshot::channel();
        let queued = Rc::new(Cell::new(true));
        let waiting = Waiting {
            turn: sender,
            queued: Rc::clone(&queued),
            cluster: Rc::clone(cluster),
            host: Arc::clone(host),
        };
        pool.queue.push(waiting, first);
        Self { turn, queued, pool: Rc::clone(pool) }
    }

    pub(super) async fn turn(mut self) -> Result<Lease, UpstreamError> {
        (&mut self.turn).await.unwrap_or(Err(UpstreamError::ConnectionTermination))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.queued.get() {
            self.pool.queue.leave(&self.queued);
            self.pool.grow();
        }
    }
}
