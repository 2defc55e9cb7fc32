//! The event history: a ring of the last events. A watcher is a position in it, never a queue.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Key, Object};

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Event {
    pub(crate) key: Key,
    /// The object after the change; of a deletion its last state under the revision of the deletion.
    pub(crate) object: Arc<Object>,
    /// The object before the change; `None` if it was created.
    pub(crate) previous: Option<Arc<Object>>,
    pub(crate) deleted: bool,
}

/// What a watch calls a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// The object is new (to this watch).
    Added,
    /// The object has changed.
    Modified,
    /// The object is gone (for this watch).
    Deleted,
}

impl EventType {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Event>,
    limit: usize,
    // Every event after this revision is in `events`.
    floor: u64,
}

impl History {
    pub(super) fn new(limit: usize, floor: u64) -> Self {
        Self { events: VecDeque::new(), limit: limit.max(1), floor }
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() == self.limit
            && let Some(oldest) = self.events.pop_front()
        {
            self.floor = oldest.object.revision;
        }
        self.events.push_back(event);
    }

    pub(super) fn forget(&mut self, revision: u64) {
        self.events.clear();
        self.floor = revision;
    }

    pub(super) fn after(&self, position: u64, limit: usize, revision: u64) -> Result<(Vec<Event>, u64), u64> {
        if position < self.floor {
            return Err(self.floor);
        }
        let start = self.events.partition_point(|event| event.object.revision <= position);
        let events: Vec<_> = self.events.iter().skip(start).take(limit).cloned().collect();
        // At the end of the history the position is the store's revision; a position in the future stays.
        let next = match events.last() {
            Some(last) if start + events.len() < self.events.len() => last.object.revision,
            _ => revision.max(position),
        };
        Ok((events, next))
    }

    pub(super) fn newest_first_after(&self, revision: u64) -> Option<impl Iterator<Item = &Event>> {
        let known = revision >= self.floor;
        known.then(|| self.events.iter().rev().take_while(move |event| event.object.revision > revision))
    }
}
