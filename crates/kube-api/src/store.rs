//! The store: all objects, one global revision, and a bounded history of events, as etcd and the watch cache are to a
//! real API server.
//!
//! Every change takes the next revision, which becomes the object's `resourceVersion`. The history answers watches
//! (by position, so a slow watcher costs nothing) and, read backwards, gives the state at an earlier revision
//! (exact lists, pages of a list, restore of a backup). What has left the history is "too old".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::resources::{self, Resource};
use crate::status::Status;
use crate::time;

mod history;
mod namespaces;
pub mod object;
#[cfg(test)]
mod tests;

use history::History;
pub use history::{Event, EventType};
pub use object::{Key, Object};

/// Objects by key: the state at one revision.
pub(crate) type Objects = BTreeMap<Key, Arc<Object>>;

/// A handle on the objects of a server; clones share them.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<Mutex<State>>,
    // The revision, for whoever waits for the next change. Sent under the lock, so that the last one sent is the last
    // one made; a restore sends an older one.
    revision: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    objects: Objects,
    history: History,
    max_objects: usize,
    // Namespaces in deletion stay so while this holds.
    namespaces_held: bool,
}

/// What a write makes of an object: the new one, `None` to delete it, or a refusal. Runs under the store's lock.
pub(crate) type Change<'a> = &'a mut dyn FnMut(Option<&Object>) -> Result<Option<Value>, Status>;

impl Store {
    pub(crate) fn new(history_limit: usize, max_objects: usize) -> Self {
        let state = State {
            revision: 1,
            objects: Objects::new(),
            history: History::new(history_limit, 1),
            max_objects,
            namespaces_held: false,
        };
        Self { state: Arc::new(Mutex::new(state)), revision: watch::Sender::new(1) }
    }

    /// Creates the object or replaces it, and its namespace with it if that is missing. `apiVersion`, `kind`,
    /// `metadata.name` (or `generateName`) are needed; uid, creation time and resourceVersion are the server's.
    ///
    /// # Errors
    /// A `Status` as a client would see it: an unknown kind (404), an invalid object (422).
    pub fn apply(&self, object: Value) -> Result<Value, Status> {
        let Some(resource) = resources::of_object(&object) else {
            return Err(Status::no_resource());
        };
        let (namespace, name) = object::place(resource, &object)?;
        self.ensure_namespace(&namespace)?;
        let key = Key::new(resource, &namespace, &name);
        let mut object = Some(object);
        let written = self.change(&key, false, &mut |_| Ok(object.take()))?;
        Ok(written.value.clone())
    }

    /// Deletes an object at once. `kind` is a kind, plural or short name; `namespace` is ignored for cluster-wide
    /// kinds.
    ///
    /// # Errors
    /// 404 for an unknown kind or an absent object.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let resource = resources::by_name(kind).ok_or_else(Status::no_resource)?;
        let key = Key::new(resource, namespace, name);
        let deleted = self.change(&key, false, &mut |old| match old {
            Some(_) => Ok(None),
            None => Err(Status::not_found(resource, name)),
        })?;
        Ok(deleted.value.clone())
    }

    /// An object, `None` if it or its kind is not there.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = Key::new(resources::by_name(kind)?, namespace, name);
        self.lock().objects.get(&key).map(|object| object.value.clone())
    }

    /// All objects of a kind by namespace and name, of one namespace or of all.
    pub fn list(&self, kind: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(resource) = resources::by_name(kind) else { return Vec::new() };
        let state = self.lock();
        let found = object::range(&state.objects, resource, namespace);
        found.map(|(_, object)| object.value.clone()).collect()
    }

    pub(crate) fn list_of(&self, resource: &'static Resource, namespace: &str) -> Vec<Value> {
        let state = self.lock();
        let found = object::range(&state.objects, resource, Some(namespace));
        found.map(|(_, object)| object.value.clone()).collect()
    }

    /// The revision of the last change: what a list has as its `resourceVersion`.
    pub fn resource_version(&self) -> u64 {
        self.lock().revision
    }

    /// Tells when the revision changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Replaces everything by these objects, as they are (uid, resourceVersion, times), at this revision, with an
    /// empty history: what a server holds that has just started on an existing etcd.
    ///
    /// # Errors
    /// 404 for an unknown kind, 422 for an object without a name.
    pub fn load(&self, objects: Vec<Value>, revision: u64) -> Result<(), Status> {
        let mut loaded = Objects::new();
        for value in objects {
            let resource = resources::of_object(&value).ok_or_else(Status::no_resource)?;
            let (namespace, name) = object::place(resource, &value)?;
            loaded.insert(Key::new(resource, &namespace, &name), Arc::new(Object::new(resource, value)));
        }
        let mut state = self.lock();
        state.objects = loaded;
        state.revision = revision;
        state.history.forget(revision);
        self.revision.send_replace(revision);
        Ok(())
    }

    /// Plays one event as it was recorded: the object's own `resourceVersion` becomes the revision.
    ///
    /// # Errors
    /// 404 for an unknown kind, 422 for an object without a name, 409 if its version is not above the revision.
    pub fn record(&self, event: EventType, value: Value) -> Result<(), Status> {
        let resource = resources::of_object(&value).ok_or_else(Status::no_resource)?;
        let (namespace, name) = object::place(resource, &value)?;
        let key = Key::new(resource, &namespace, &name);
        let object = Arc::new(Object::new(resource, value));
        let mut state = self.lock();
        if object.revision <= state.revision {
            return Err(Status::conflict(resource, &name));
        }
        let revision = object.revision;
        state.put(key, object, event == EventType::Deleted);
        self.revision.send_replace(revision);
        Ok(())
    }

    /// Moves the revision on to `revision` as writes to kinds that are not served here would; an older one is
    /// ignored.
    pub fn advance(&self, revision: u64) {
        let mut state = self.lock();
        if revision > state.revision {
            state.revision = revision;
            self.revision.send_replace(revision);
        }
    }

    /// Forgets all history, as etcd does in a compaction (and the watch cache in a restart): watches, pages and exact
    /// lists from before now are expired. Running watches that have kept up do not notice.
    pub fn compact(&self) {
        let mut state = self.lock();
        let revision = state.revision;
        state.history.forget(revision);
    }

    /// Goes back to an earlier revision, as a restore of an etcd backup does. Later events never happened.
    ///
    /// # Errors
    /// 410 if the history does not reach back to it.
    pub fn restore(&self, revision: u64) -> Result<(), Status> {
        let mut state = self.lock();
        let Some(objects) = state.at(revision) else {
            return Err(Status::expired("The history does not reach back to the revision to restore."));
        };
        state.objects = objects;
        state.revision = revision;
        // The new server's cache starts here: an earlier version is too old, and a later one just waits.
        state.history.forget(revision);
        self.revision.send_replace(revision);
        Ok(())
    }

    /// Runs one read-modify-write under the lock: `change` sees the present object and returns the new one, `None` to
    /// delete it, or a refusal. Returns the object as it is afterwards, or as it was last. A dry run stores nothing.
    pub(crate) fn change(&self, key: &Key, dry_run: bool, change: Change<'_>) -> Result<Arc<Object>, Status> {
        let resource = key.resource();
        let mut state = self.lock();
        let old = state.objects.get(key).cloned();
        let Some(new) = change(old.as_deref())? else {
            let old = old.ok_or_else(|| Status::not_found(resource, &key.name))?;
            return Ok(if dry_run { old } else { self.remove(state, key, &old) });
        };
        if old.is_none() && state.objects.len() >= state.max_objects {
            return Err(Status::full(state.max_objects));
        }
        let revision = state.revision + 1;
        let mut new = object::prepare(resource, key, new, old.as_deref(), revision)?;
        (resource.allocate)(&mut new, old.as_ref().map(|old| &old.value), &state.objects)?;
        if let Some(old) = &old {
            if object::same_but_version(&old.value, &new) {
                return Ok(Arc::clone(old)); // A write that changes nothing is no event.
            }
            if object::finalized(&old.value, &new) && !dry_run {
                return Ok(self.remove(state, key, old));
            }
        }
        let object = Arc::new(Object::new(resource, new));
        if dry_run {
            return Ok(object);
        }
        state.put(key.clone(), Arc::clone(&object), false);
        self.revision.send_replace(revision);
        Ok(object)
    }

    fn remove(&self, mut state: MutexGuard<'_, State>, key: &Key, old: &Object) -> Arc<Object> {
        let revision = state.revision + 1;
        // The DELETED event carries the last state under the revision of the deletion.
        let mut value = old.value.clone();
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let last = Arc::new(Object::new(key.resource(), value));
        state.put(key.clone(), Arc::clone(&last), true);
        self.revision.send_replace(revision);
        last
    }

    pub(crate) fn ensure_namespace(&self, name: &str) -> Result<(), Status> {
        let Some(resource) = resources::by_name("Namespace") else { return Ok(()) };
        let key = Key::new(resource, "", name);
        if name.is_empty() || self.lock().objects.contains_key(&key) {
            return Ok(());
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.change(&key, false, &mut |old| {
            Ok(Some(old.map_or_else(|| namespace.clone(), |o| o.value.clone())))
        })?;
        Ok(())
    }

    /// The object under a key.
    pub(crate) fn object(&self, key: &Key) -> Option<Arc<Object>> {
        self.lock().objects.get(key).cloned()
    }

    /// The objects of a kind and the revision they are at: now, or at an earlier revision that the history reaches.
    pub(crate) fn snapshot(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Option<(Vec<Arc<Object>>, u64)> {
        let collect = |objects: &Objects| -> Vec<_> {
            object::range(objects, resource, namespace).map(|(_, object)| Arc::clone(object)).collect()
        };
        let state = self.lock();
        match at {
            Some(revision) if revision != state.revision => Some((collect(&state.at(revision)?), revision)),
            _ => Some((collect(&state.objects), state.revision)),
        }
    }

    /// Up to `limit` events after `position`, with the position to go on from.
    ///
    /// # Errors
    /// The oldest revision to watch from, if `position` is before it.
    pub(crate) fn events_after(&self, position: u64, limit: usize) -> Result<(Vec<Event>, u64), u64> {
        let state = self.lock();
        state.history.after(position, limit, state.revision)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock; if it did, each change is still applied whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, key: Key, object: Arc<Object>, delete: bool) {
        let previous = if delete {
            self.objects.remove(&key)
        } else {
            self.objects.insert(key.clone(), Arc::clone(&object))
        };
        self.revision = object.revision;
        self.history.push(Event { key, object, previous, deleted: delete });
    }

    // The objects at an earlier revision: the present ones with the later events undone, newest first.
    fn at(&self, revision: u64) -> Option<Objects> {
        if revision > self.revision {
            return None;
        }
        let mut objects = self.objects.clone();
        for event in self.history.newest_first_after(revision)? {
            match &event.previous {
                Some(previous) => objects.insert(event.key.clone(), Arc::clone(previous)),
                None => objects.remove(&event.key),
            };
        }
        Some(objects)
    }
}

/// The metadata that a new object gets.
pub(crate) fn birth(metadata: &mut Value) {
    metadata["uid"] = object::random_uid().into();
    metadata["creationTimestamp"] = time::now().into();
}
