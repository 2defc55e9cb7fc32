//! The connections of clients that have no request, by how long: the longest idle one makes way for a
//! new one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

/// The idle connections of one worker. Those that never had a request come first.
#[derive(Debug, Default)]
pub(crate) struct IdleConnections {
    next: Cell<u64>,
    all: RefCell<BTreeMap<Key, Rc<Notify>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    used: bool,
    since: u64,
}

/// A connection's place among them; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Idle {
    connections: Rc<IdleConnections>,
    key: Key,
}

impl IdleConnections {
    /// Enters a connection, whose `evicted` is notified when it has to close.
    pub(crate) fn enter(self: &Rc<Self>, used: bool, evicted: &Rc<Notify>) -> Idle {
        let since = self.next.get();
        self.next.set(since.wrapping_add(1));
        let key = Key { used, since };
        self.all.borrow_mut().insert(key, Rc::clone(evicted));
        Idle { connections: Rc::clone(self), key }
    }

    /// Closes the longest idle one; false where there is none.
    pub(crate) fn evict(&self) -> bool {
        let longest = self.all.borrow_mut().pop_first();
        longest.is_some_and(|(_, evicted)| {
            evicted.notify_one();
            true
        })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.connections.all.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
#[path = "../../tests/unit/idle.rs"]
mod tests;
