//! What discovery knows: an immutable map from cluster name to endpoints, replaced whole, written by one task.
//!
//! A cluster is named `service.namespace`. Its version is a hash of its endpoints, so that two replicas, or one before and
//! after a restart, name the same content alike, and a change that changes nothing is published to nobody.

mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;

use crate::slice::{EndpointSlice, SliceKey};
use crate::translate::{self, Endpoint, Ignored};

/// One state of the world. Unchanged clusters are shared with the state before.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    clusters: BTreeMap<String, Arc<Cluster>>,
}

/// The endpoints of one Service.
#[derive(Debug)]
pub struct Cluster {
    pub endpoints: Vec<Endpoint>,
    pub ignored: Vec<Ignored>,
    /// Of `endpoints` alone; 32 hexadecimal digits.
    pub version: String,
    /// The v1 answer, encoded once by the first who asks.
    pub v1_body: OnceLock<Bytes>,
}

/// Reads the newest catalog and can wait for the next. `None` until the first sync.
pub type Reader = watch::Receiver<Option<Arc<Catalog>>>;

/// The only place that changes a catalog.
#[derive(Debug)]
pub struct Writer {
    envoy_port: u16,
    slices: BTreeMap<SliceKey, EndpointSlice>,
    /// Cluster name to the slices that it is made of.
    members: BTreeMap<String, BTreeSet<SliceKey>>,
    catalog: Catalog,
    /// Clusters whose slices have changed since the last publication.
    stale: BTreeSet<String>,
    publisher: watch::Sender<Option<Arc<Catalog>>>,
}

impl Catalog {
    /// By full name, `service.namespace`.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// All clusters by name, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Cluster>)> {
        self.clusters.iter().map(|(name, cluster)| (name.as_str(), cluster))
    }

    pub fn services(&self) -> usize {
        self.clusters.len()
    }

    pub fn endpoints(&self) -> usize {
        self.clusters.values().map(|cluster| cluster.endpoints.len()).sum()
    }
}

impl Cluster {
    /// A Service that nobody has heard of.
    pub fn empty() -> Self {
        Self::of([], 0)
    }

    fn of<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, envoy_port: u16) -> Self {
        let translation = translate::translate(slices, envoy_port);
        let version = version::of(&translation.endpoints);
        let (endpoints, ignored) = (translation.endpoints, translation.ignored);
        Self { endpoints, ignored, version, v1_body: OnceLock::new() }
    }

    fn same_content(&self, other: &Self) -> bool {
        self.version == other.version && self.ignored == other.ignored
    }
}

impl Writer {
    pub fn new(envoy_port: u16) -> (Self, Reader) {
        let (publisher, reader) = watch::channel(None);
        let (slices, members, stale) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        (Self { envoy_port, slices, members, catalog: Catalog::default(), stale, publisher }, reader)
    }

    /// Whether anything was ever published.
    pub fn is_synced(&self) -> bool {
        self.publisher.borrow().is_some()
    }

    /// The slices as they stand, for the audit.
    pub fn slices(&self) -> &BTreeMap<SliceKey, EndpointSlice> {
        &self.slices
    }

    /// Takes these slices for the whole truth, forgets all others, and publishes.
    pub fn replace(&mut self, slices: BTreeMap<SliceKey, EndpointSlice>) {
        let gone: Vec<SliceKey> =
            self.slices.keys().filter(|key| !slices.contains_key(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for slice in slices.into_values() {
            self.put(slice);
        }
        self.publish();
    }

    /// Adds or replaces one slice; seen by readers after [`Writer::publish`].
    pub fn put(&mut self, slice: EndpointSlice) {
        let key = slice.key();
        if self.slices.get(&key) == Some(&slice) {
            return;
        }
        // The label may have moved the slice to another Service.
        self.remove(&key);
        if let Some(cluster) = cluster_of(&slice) {
            self.members.entry(cluster.clone()).or_default().insert(key.clone());
            self.stale.insert(cluster);
        }
        self.slices.insert(key, slice);
    }

    /// Removes one slice; seen by readers after [`Writer::publish`].
    pub fn remove(&mut self, key: &SliceKey) {
        let Some(cluster) = self.slices.remove(key).as_ref().and_then(cluster_of) else { return };
        if let Some(keys) = self.members.get_mut(&cluster) {
            keys.remove(key);
            if keys.is_empty() {
                self.members.remove(&cluster);
            }
        }
        self.stale.insert(cluster);
    }

    /// Shows readers all changes at once. Readers are woken only if an answer differs, or at the first sync.
    pub fn publish(&mut self) {
        let mut changed = self.publisher.borrow().is_none();
        for name in std::mem::take(&mut self.stale) {
            let Some(keys) = self.members.get(&name) else {
                changed |= self.catalog.clusters.remove(&name).is_some();
                continue;
            };
            let slices = keys.iter().filter_map(|key| self.slices.get(key));
            let cluster = Cluster::of(slices, self.envoy_port);
            if !self.catalog.clusters.get(&name).is_some_and(|old| old.same_content(&cluster)) {
                changed = true;
                self.catalog.clusters.insert(name, Arc::new(cluster));
            }
        }
        if changed {
            self.publisher.send_replace(Some(Arc::new(self.catalog.clone())));
        }
    }
}

fn cluster_of(slice: &EndpointSlice) -> Option<String> {
    let service = translate::service_of(slice)?;
    Some(format!("{service}.{}", slice.metadata.namespace))
}

#[cfg(test)]
mod tests;
