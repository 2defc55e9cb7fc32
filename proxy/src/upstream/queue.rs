//! Who may open a connection to a host, and who waits for one.
//!
//! Each connection, from before it is made until it is closed, holds a slot. A slot that ends goes to the try that has waited longest,
//! so that nobody waits while there is room, and a try that gives up hands on what it was given. Invariant: while one waits, a slot is out.
//! The limit is one for all hosts and workers: who waits says so in the breaker's count (`Want`), so that others give up what lies idle.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::clusters::bump;
use super::lease::Open;
use crate::cluster::breaker::{Count, Permit, Want};
use crate::error::UpstreamError;

/// The tries of one worker that wait for a connection to one host; bounded by `max_pending_requests`.
#[derive(Default)]
pub(super) struct Queue {
    /// Slots that are out.
    open: Cell<usize>,
    waiting: RefCell<VecDeque<Waiting>>,
}

/// A try that waits, as the queue sees it.
struct Waiting {
    turn: oneshot::Sender<Turn>,
    wanted: Wanted,
}

/// Ends when the try has its turn or gives up, whichever is first.
type Wanted = Rc<Cell<Option<Want>>>;

/// A try that waits, as it sees itself.
pub(super) struct Waiter {
    pub(super) turn: oneshot::Receiver<Turn>,
    wanted: Wanted,
}

/// The right to one connection; `None` once it was given up.
pub(super) struct Slot(Option<Rc<Queue>>);

/// What a try that waited gets.
pub(super) enum Turn {
    Use(Box<Open>),
    /// Another connection ended: there may be room for a new one.
    Open(Slot),
    /// A connection could not be made.
    Failed(UpstreamError),
}

/// The next permit below `limit`, wherever in the process it is given back. Only while a `Want` is out.
pub(super) async fn room(count: &Arc<Count>, limit: u32) -> Permit {
    loop {
        let mut room = pin!(count.room().notified());
        // In the line before the count is looked at, so that no permit can come back unnoticed in between.
        room.as_mut().enable();
        if let Some(permit) = count.acquire(limit) {
            return permit;
        }
        room.await;
    }
}

impl Queue {
    pub(super) fn slot(self: &Rc<Self>) -> Slot {
        bump(&self.open, 1);
        Slot(Some(Rc::clone(self)))
    }

    /// Gives a connection to the first try that waits; back when there is none.
    pub(super) fn offer(&self, open: Open) -> Option<Open> {
        let Some(waiting) = self.next() else { return Some(open) };
        match waiting.send(Turn::Use(Box::new(open))) {
            Err(Turn::Use(open)) => Some(*open),
            _ => None,
        }
    }

    /// The host cannot be connected to: nobody need wait to find that out.
    pub(super) fn fail(&self, error: &UpstreamError) {
        while let Some(waiting) = self.next() {
            // One that has gone needs no answer.
            let _ = waiting.send(Turn::Failed(error.clone()));
        }
    }

    /// The first try that still waits.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            let Waiting { turn, wanted } = waiting.pop_front()?;
            drop(wanted.take());
            if !turn.is_closed() {
                return Some(turn);
            }
        }
    }
}

impl Slot {
    /// No other connection to the host is open or being opened.
    pub(super) fn is_only(&self) -> bool {
        self.0.as_ref().is_some_and(|queue| queue.open.get() == 1)
    }

    /// Gives the slot up and waits for another one's end; `again` keeps the place in the queue. Only while another slot is out.
    pub(super) fn wait(mut self, want: Want, again: bool) -> Waiter {
        let (sender, turn) = oneshot::channel();
        let wanted: Wanted = Rc::new(Cell::new(Some(want)));
        let waiter = Waiter { turn, wanted: Rc::clone(&wanted) };
        // Given up by hand: it must not come back to the one who gives it up.
        let Some(queue) = self.0.take() else { return waiter };
        bump(&queue.open, -1);
        let mut waiting = queue.waiting.borrow_mut();
        waiting.retain(|waiting| !waiting.turn.is_closed());
        let entry = Waiting { turn: sender, wanted };
        if again {
            waiting.push_front(entry);
        } else {
            waiting.push_back(entry);
        }
        waiter
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.wanted.take());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        match queue.next() {
            // It was asked just now whether it still waits.
            Some(waiting) => drop(waiting.send(Turn::Open(Self(Some(queue))))),
            None => bump(&queue.open, -1),
        }
    }
}
