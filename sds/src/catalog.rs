//! What discovery knows: an immutable map from cluster name to endpoints, replaced whole, written by one task.
//!
//! A cluster is named `service.namespace`. Its version is a hash of its endpoints, so that two replicas, or one before and
//! after a restart, name the same content alike, and a change without effect wakes no reader.
//!
//! The catalog fails static. When a node or the API server fails, Kubernetes can call every pod of a
//! Service unready at once although all of them serve. Therefore: a Service whose slices name no
//! routable endpoint keeps those endpoints whose pods
//!
//! - are still named by a slice, at the same address and with the same `targetRef.uid`,
//! - have not been told to go, and
//! - were ready less than `fail-static-time-s` ago, as this process has seen it.
//!
//! They are marked [`Health::Unhealthy`]. One routable endpoint ends this at once. A Service scaled
//! to 0, a deleted pod and a pod that was never ready are not kept.

mod readiness;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use crate::slice::{EndpointSlice, SliceKey};
use crate::translate::{self, Endpoint, Health, Ignored, Rules};
use readiness::Readiness;

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
    /// Of what a v1 response says of `endpoints`, so not of their health; 32 hexadecimal digits.
    pub version: String,
    /// The v1 response, encoded when it is first asked for.
    pub v1_body: OnceLock<Bytes>,
}

/// Reads the newest catalog and can wait for the next. `None` until the first sync.
pub type Reader = watch::Receiver<Option<Arc<Catalog>>>;

/// The only place that changes a catalog.
#[derive(Debug)]
pub struct Writer {
    rules: Rules,
    /// How long endpoints are kept that are not ready; zero: not at all.
    fail_static: Duration,
    slices: BTreeMap<SliceKey, EndpointSlice>,
    /// Cluster name to what it is made of.
    members: BTreeMap<String, Members>,
    catalog: Catalog,
    /// Clusters whose slices have changed since the last publication.
    stale: BTreeSet<String>,
    /// Clusters that have kept endpoints, and when the first of these are kept no longer.
    kept: BTreeMap<String, Instant>,
    publisher: watch::Sender<Option<Arc<Catalog>>>,
}

#[derive(Debug, Default)]
struct Members {
    slices: BTreeSet<SliceKey>,
    readiness: Readiness,
}

/// A cluster begins or stops to keep endpoints that are not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub cluster: String,
    pub event: FailStatic,
}

/// What happened to a cluster, and the label of `sds_fail_static_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailStatic {
    /// This many endpoints are kept.
    Began(usize),
    /// Its slices name routable endpoints again.
    Recovered,
    /// No pod was ready for too long.
    Expired,
    /// The pods are gone.
    Gone,
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

    /// Endpoints that are not ready and kept.
    pub fn kept(&self) -> usize {
        self.clusters.values().map(|cluster| cluster.kept()).sum()
    }
}

impl Cluster {
    /// A Service that is not known.
    pub fn empty() -> Self {
        Self::of(Vec::new(), Vec::new())
    }

    /// Endpoints that are not ready and kept.
    pub fn kept(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.health == Health::Unhealthy).count()
    }

    fn of(endpoints: Vec<Endpoint>, ignored: Vec<Ignored>) -> Self {
        let version = version::of(&endpoints);
        Self { endpoints, ignored, version, v1_body: OnceLock::new() }
    }

    fn same_content(&self, other: &Self) -> bool {
        self.endpoints == other.endpoints && self.ignored == other.ignored
    }
}

impl FailStatic {
    pub const LABELS: [&str; 4] = ["began", "recovered", "expired", "gone"];

    pub fn label(self) -> &'static str {
        match self {
            Self::Began(_) => "began",
            Self::Recovered => "recovered",
            Self::Expired => "expired",
            Self::Gone => "gone",
        }
    }
}

impl Writer {
    pub fn new(rules: Rules, fail_static: Duration) -> (Self, Reader) {
        let (publisher, reader) = watch::channel(None);
        let writer = Self {
            rules,
            fail_static,
            slices: BTreeMap::new(),
            members: BTreeMap::new(),
            catalog: Catalog::default(),
            stale: BTreeSet::new(),
            kept: BTreeMap::new(),
            publisher,
        };
        (writer, reader)
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
    pub fn replace(&mut self, slices: BTreeMap<SliceKey, EndpointSlice>, now: Instant) -> Vec<Transition> {
        let gone: Vec<SliceKey> =
            self.slices.keys().filter(|key| !slices.contains_key(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for slice in slices.into_values() {
            self.put(slice);
        }
        self.publish(now)
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
            self.members.entry(cluster.clone()).or_default().slices.insert(key.clone());
            self.stale.insert(cluster);
        }
        self.slices.insert(key, slice);
    }

    /// Removes one slice; seen by readers after [`Writer::publish`].
    pub fn remove(&mut self, key: &SliceKey) {
        let Some(cluster) = self.slices.remove(key).as_ref().and_then(cluster_of) else { return };
        if let Some(members) = self.members.get_mut(&cluster) {
            members.slices.remove(key);
        }
        self.stale.insert(cluster);
    }

    /// When to publish again although nothing has changed: endpoints are then kept no longer.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.kept.values().min().copied()
    }

    /// Shows readers all changes at once, and says which clusters begin or stop to keep endpoints.
    /// Readers are woken only if a cluster differs, or at the first sync.
    pub fn publish(&mut self, now: Instant) -> Vec<Transition> {
        let mut changed = self.publisher.borrow().is_none();
        let mut transitions = Vec::new();
        let over = self.kept.iter().filter(|(_, until)| **until <= now);
        self.stale.extend(over.map(|(name, _)| name.clone()));
        for name in std::mem::take(&mut self.stale) {
            let old = self.catalog.clusters.get(&name).cloned();
            let (new, left) = self.settle(&name, now);
            let had = old.as_ref().is_some_and(|old| old.kept() > 0);
            let event = match new.as_ref().map_or((0, 0), |new| (new.kept(), new.endpoints.len())) {
                (0, _) if !had => None,
                (0, 0) => Some(left),
                (0, _) => Some(FailStatic::Recovered),
                (kept, _) => (!had).then_some(FailStatic::Began(kept)),
            };
            transitions.extend(event.map(|event| Transition { cluster: name.clone(), event }));
            match new {
                None => changed |= self.catalog.clusters.remove(&name).is_some(),
                Some(new) if old.is_some_and(|old| old.same_content(&new)) => {}
                Some(new) => {
                    changed = true;
                    self.catalog.clusters.insert(name, Arc::new(new));
                }
            }
        }
        if changed {
            self.publisher.send_replace(Some(Arc::new(self.catalog.clone())));
        }
        transitions
    }

    /// The cluster as its slices make it, `None` without slices; and why it keeps no endpoint, if it
    /// does not.
    fn settle(&mut self, name: &str, now: Instant) -> (Option<Cluster>, FailStatic) {
        self.kept.remove(name);
        let Some(members) = self.members.get_mut(name) else { return (None, FailStatic::Gone) };
        if members.slices.is_empty() {
            self.members.remove(name);
            return (None, FailStatic::Gone);
        }
        let (readiness, time) = (&mut members.readiness, self.fail_static);
        let slices = members.slices.iter().filter_map(|key| self.slices.get(key));
        let made = translate::translate(slices, self.rules, |pod| readiness.recent(pod, time, now));
        let known = made.pods.iter().any(|pod| readiness.knows(&pod.id));
        readiness.update(made.pods, time, now);
        let cluster = Cluster::of(made.endpoints, made.ignored);
        if cluster.kept() > 0 {
            self.kept.extend(readiness.next_expiry(time).map(|until| (name.to_owned(), until)));
        }
        (Some(cluster), if known { FailStatic::Expired } else { FailStatic::Gone })
    }
}

fn cluster_of(slice: &EndpointSlice) -> Option<String> {
    let service = translate::service_of(slice)?;
    Some(format!("{service}.{}", slice.metadata.namespace))
}

#[cfg(test)]
mod tests;
