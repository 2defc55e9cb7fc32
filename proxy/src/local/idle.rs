//! The connections of clients that have no request, by how long: the longest idle one makes way for a
//! new one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The idle connections of one worker, each with what wakes its task. Those that never had a request
/// come first.
#[derive(Debug, Default)]
pub(crate) struct IdleConnections {
    next: Cell<u64>,
    all: RefCell<BTreeMap<Key, Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    used: bool,
    since: u64,
}

/// A connection's place among them. Where connections do not make way, it costs nothing.
#[derive(Debug)]
pub(crate) struct IdlePlace {
    among: Option<Rc<IdleConnections>>,
    /// While the connection is idle.
    key: Cell<Option<Key>>,
    /// What has waited for the eviction while the connection was not idle. A stream of HTTP/2 that
    /// ends makes it idle from outside of its task.
    task: RefCell<Waker>,
}

impl IdleConnections {
    /// Closes the longest idle one; false where there is none.
    pub(crate) fn evict(&self) -> bool {
        let longest = self.all.borrow_mut().pop_first();
        longest.is_some_and(|(_, task)| {
            task.wake();
            true
        })
    }
}

impl IdlePlace {
    /// Of a new connection, which is idle until it has brought a request.
    pub(crate) fn new(among: Option<Rc<IdleConnections>>) -> Self {
        let task = RefCell::new(Waker::noop().clone());
        let place = Self { among, key: Cell::default(), task };
        place.enter(false);
        place
    }

    /// The connection is idle from now on.
    pub(crate) fn enter(&self, used: bool) {
        let Some(among) = &self.among else { return };
        let since = among.next.get();
        among.next.set(since.wrapping_add(1));
        let key = Key { used, since };
        among.all.borrow_mut().insert(key, self.task.borrow().clone());
        self.key.set(Some(key));
    }

    /// The connection has a request. False when it was evicted already: it ends with that request.
    pub(crate) fn leave(&self) -> bool {
        let (Some(among), Some(key)) = (&self.among, self.key.take()) else { return true };
        let Some(task) = among.all.borrow_mut().remove(&key) else { return false };
        self.task.replace(task);
        true
    }

    /// Waits until a new connection needs the place.
    pub(crate) async fn evicted(&self) {
        poll_fn(|context| self.poll_evicted(context)).await;
    }

    fn poll_evicted(&self, context: &Context<'_>) -> Poll<()> {
        let Some(among) = &self.among else { return Poll::Pending };
        let Some(key) = self.key.get() else {
            self.task.borrow_mut().clone_from(context.waker());
            return Poll::Pending;
        };
        match among.all.borrow_mut().get_mut(&key) {
            Some(task) => {
                task.clone_from(context.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
#[path = "../../tests/unit/idle.rs"]
mod tests;
