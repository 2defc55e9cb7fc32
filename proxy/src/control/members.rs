//! One cluster in the store: its policy, its endpoints, and the source that they come from.
//!
//! Part of `control`; called by `store`; calls `cluster` for the view and `stats` for the gauges.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Reporter, dns, eds_file, sds_v1};
use crate::client::Client;
use crate::cluster::{Endpoint, EndpointView};
use crate::snapshot::Cluster;
use crate::snapshot::build::ClusterPart;
use crate::snapshot::build::discovery::Discovery;

/// A cluster and its members.
pub(super) struct Member {
    pub part: ClusterPart,
    pub endpoints: Vec<Endpoint>,
    pub view: Arc<EndpointView>,
    pub source: Source,
}

/// Where the members come from. The task ends with it.
pub(super) struct Source {
    /// Unique in this process, so that a late answer of a source that was replaced is told from the new one's.
    pub id: u64,
    pub phase: Phase,
    task: Option<AbortHandle>,
}

/// How far a cluster's warming has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for the cluster that is to be asked.
    Deferred,
    /// Asked; until this time it may hold everything up, `None` is for ever.
    Waiting(Option<Instant>),
    Warm,
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Member {
    /// A cluster with a source that is not started; static ones are warm at once.
    pub fn new(part: ClusterPart, id: u64, workers: usize) -> Self {
        let (endpoints, phase) = match &*part.discovery {
            Discovery::Static(endpoints) => (endpoints.clone(), Phase::Warm),
            _ => (Vec::new(), Phase::Deferred),
        };
        let view = Arc::new(EndpointView::empty(workers).update(&endpoints, String::new()));
        Self { part, endpoints, view, source: Source { id, phase, task: None } }
    }

    pub fn is_warm(&self) -> bool {
        self.source.phase == Phase::Warm
    }

    /// The cluster that must be warm before this one can be asked for.
    pub fn depends_on(&self) -> Option<&str> {
        match &*self.part.discovery {
            Discovery::SdsV1(sds) => Some(&sds.cluster),
            Discovery::Static(_) | Discovery::Dns(_) | Discovery::File(_) => None,
        }
    }

    /// Starts the source.
    pub fn start(&mut self, client: &Client, reporter: Reporter) {
        let now = Instant::now();
        let (limit, task) = match &*self.part.discovery {
            Discovery::Static(_) => return,
            Discovery::Dns(dns) => (None, tokio::spawn(dns::run(dns.clone(), reporter))),
            Discovery::SdsV1(sds) => {
                (sds.initial_fetch_timeout, tokio::spawn(sds_v1::run(sds.clone(), client.clone(), reporter)))
            }
            Discovery::File(file) => {
                (file.initial_fetch_timeout, tokio::spawn(eds_file::run(file.clone(), reporter)))
            }
        };
        self.source.phase = Phase::Waiting(limit.map(|limit| now + limit));
        self.source.task = Some(task.abort_handle());
    }

    /// Takes what discovery said; hosts that stay keep their identity. False when nothing changed.
    pub fn update(&mut self, endpoints: Vec<Endpoint>, version: String, shard: usize) -> bool {
        self.source.phase = Phase::Warm;
        if endpoints == self.endpoints && version == self.view.version {
            return false;
        }
        let before = addresses(&self.view);
        self.view = Arc::new(self.view.update(&endpoints, version));
        self.endpoints = endpoints;
        if before != addresses(&self.view) {
            self.part.stats.shard(shard).membership_change.inc();
        }
        self.show(shard);
        true
    }

    /// Takes over the hosts of the cluster that this one replaces.
    pub fn replace(&mut self, before: &Member, shard: usize) {
        let version = self.view.version.clone();
        self.view = Arc::new(before.view.update(&self.endpoints, version));
        self.show(shard);
    }

    /// Marks every host as gone; the cluster is removed.
    pub fn retire(&self) {
        self.view.update(&[], String::new());
    }

    /// Sets the membership gauges.
    pub fn show(&self, shard: usize) {
        let stats = self.part.stats.shard(shard);
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        stats.membership_total.set(gauge(self.view.hosts.len()));
        stats.membership_healthy.set(gauge(self.view.healthy_count()));
        stats.membership_degraded.set(gauge(self.view.degraded_count()));
        // Nothing here is excluded from the panic threshold's sum.
        stats.membership_excluded.set(0);
        let weight = self.view.hosts.iter().map(|host| host.weight).max().unwrap_or(0);
        stats.max_host_weight.set(weight.into());
    }

    /// As the data plane sees it.
    pub fn cluster(&self) -> Cluster {
        Cluster {
            policy: Arc::clone(&self.part.policy),
            endpoints: Arc::clone(&self.view),
            stats: Arc::clone(&self.part.stats),
            breakers: Arc::clone(&self.part.breakers),
        }
    }
}

fn addresses(view: &EndpointView) -> HashSet<SocketAddr> {
    view.hosts.iter().map(|host| host.address).collect()
}
