//! What is accepted and what is warming: the graph in use, and the one that waits for its clusters' first endpoints.
//!
//! A graph replaces the one before as a whole, when all of its new clusters are warm or have waited long enough. Clusters whose
//! discovery did not change keep their source and their members.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::Client;
use super::members::{Member, Phase};
use super::{Event, Reporter, Update};
use crate::build::{Graph, ListenerPart};
use crate::cluster::health::Outcome;
use crate::cluster::report::What;
use crate::snapshot::{Cluster, Listener};
use crate::state::{Drain, Generation};

/// The graph in use and the one that warms.
pub(super) struct Store {
    current: BTreeMap<Arc<str>, Member>,
    /// The clusters in use by their sources.
    names: HashMap<u64, Arc<str>>,
    /// What was published of the clusters, and which of them changed since.
    shown: Arc<Clusters>,
    changed: Vec<Arc<str>>,
    graph: Option<Arc<Graph>>,
    warming: Option<Warming>,
    sources: Sources,
}

/// Clusters by name, shared with their readers.
pub(super) type Clusters = BTreeMap<Arc<str>, Arc<Cluster>>;

/// A filter chain that is no longer configured, and the signal to its connections.
pub(super) type Retired = (Arc<Generation>, Drain);

/// A graph that is not used yet, with the clusters that are new in it.
struct Warming {
    graph: Arc<Graph>,
    fresh: BTreeMap<Arc<str>, Member>,
}

impl Store {
    /// Tasks that send requests of the proxy itself.
    pub(super) fn client(&self) -> &Client {
        &self.sources.client
    }
}

/// What starts sources.
pub(super) struct Sources {
    pub client: Client,
    pub events: mpsc::Sender<Event>,
    /// The control thread's shard of statistics, which comes after those of the workers.
    pub shard: usize,
    pub next: u64,
}

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// Members of a cluster changed.
    Members,
    /// Something came nearer to being warm.
    Warmed,
}

/// How many parts a new graph added, changed and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub added: u64,
    pub modified: u64,
    pub removed: u64,
}

impl Store {
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            current: BTreeMap::new(),
            names: HashMap::new(),
            shown: Arc::default(),
            changed: Vec::new(),
            graph: None,
            warming: None,
            sources,
        }
    }

    /// The graph in use, for the next build to share with.
    pub(super) fn graph(&self) -> Option<&Arc<Graph>> {
        self.graph.as_ref()
    }

    /// The graph that warms, else the one in use.
    pub(super) fn candidate(&self) -> Option<&Graph> {
        self.warming.as_ref().map(|warming| &warming.graph).or(self.graph.as_ref()).map(|graph| &**graph)
    }

    /// Begins to warm a graph; one that was warming is given up.
    pub(super) fn begin(&mut self, graph: Graph) {
        let mut fresh = BTreeMap::new();
        for (name, part) in &graph.clusters {
            // Other health checks are begun beside those in use, and no host is unhealthy without a
            // first result.
            let kept = self.current.get(name).is_some_and(|member| {
                Arc::ptr_eq(&member.part.discovery, &part.discovery)
                    && (member.part.message == part.message
                        || member.part.message.unpack().health_checks == part.message.unpack().health_checks)
            });
            if !kept {
                self.sources.next += 1;
                fresh.insert(
                    Arc::clone(name),
                    Member::new(part.clone(), self.sources.next, self.sources.shard),
                );
            }
        }
        self.warming = Some(Warming { graph: Arc::new(graph), fresh });
    }

    /// Starts the sources that nothing keeps from starting.
    pub(super) fn start_sources(&mut self) {
        let Some(warming) = &mut self.warming else { return };
        let warm = |name: &str| match warming.fresh.get(name) {
            Some(member) => member.is_warm(),
            None => true,
        };
        let deferred = warming.fresh.iter().filter(|(_, member)| member.source.phase == Phase::Deferred);
        let free: Vec<_> = deferred
            .filter(|(_, member)| member.depends_on().is_none_or(warm))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in free {
            if let Some(member) = warming.fresh.get_mut(&name) {
                let reporter = self.sources.reporter(member);
                member.start(&self.sources.client, reporter);
            }
        }
        for member in warming.fresh.values_mut() {
            let reporter = self.sources.reporter(member);
            member.watched.start(&reporter);
        }
    }

    /// Takes an update of a source; one of a replaced source is dropped.
    pub(super) fn update(&mut self, source: u64, update: Update) -> Effect {
        let shard = self.sources.shard;
        let fresh = self.warming.iter_mut().flat_map(|warming| warming.fresh.values_mut());
        let of_source = |member: &&mut Member| member.source.id == source;
        if let Some(member) = fresh.into_iter().find(of_source) {
            match update {
                Update::Members { endpoints, version } => {
                    member.update(endpoints, &version, shard);
                }
                Update::GaveUp => member.source.phase = Phase::Warm,
            }
            return Effect::Warmed;
        }
        let Update::Members { endpoints, version } = update else { return Effect::Nothing };
        let Some(name) = self.names.get(&source).cloned() else { return Effect::Nothing };
        let Some(member) = self.current.get_mut(&name) else { return Effect::Nothing };
        if !member.update(endpoints, &version, shard) {
            return Effect::Nothing;
        }
        let reporter = self.sources.reporter(member);
        member.watched.start(&reporter);
        self.changed.push(name);
        Effect::Members
    }

    /// Takes a checker's result: what it did, and how long the checker is to wait.
    pub(super) fn checked(
        &mut self,
        source: u64,
        host: SocketAddr,
        outcome: Outcome,
    ) -> (Effect, Option<Duration>) {
        let shard = self.sources.shard;
        let fresh = self.warming.iter_mut().flat_map(|warming| warming.fresh.values_mut());
        let of_source = |member: &&mut Member| member.source.id == source;
        if let Some(member) = fresh.into_iter().find(of_source) {
            return (Effect::Warmed, member.checked(host, outcome, shard).map(|next| next.wait));
        }
        let Some(name) = self.names.get(&source) else { return (Effect::Nothing, None) };
        let member = self.current.get_mut(name);
        let next = member.and_then(|member| member.checked(host, outcome, shard));
        let changed = next.is_some_and(|next| next.changed);
        let effect = if changed {
            self.changed.push(Arc::clone(name));
            Effect::Members
        } else {
            Effect::Nothing
        };
        (effect, next.map(|next| next.wait))
    }

    /// Takes a worker's report of a host.
    pub(super) fn reported(&mut self, cluster: &str, host: SocketAddr, what: What) -> Effect {
        let shard = self.sources.shard;
        let Some(member) = self.current.get_mut(cluster) else { return Effect::Nothing };
        if !member.reported(host, what, shard) {
            return Effect::Nothing;
        }
        self.changed.push(cluster.into());
        Effect::Members
    }

    /// Ends the intervals of outlier detection that are over.
    pub(super) fn sweep(&mut self, now: Instant) -> Effect {
        let shard = self.sources.shard;
        for (name, member) in &mut self.current {
            if member.sweep(now.into_std(), shard) {
                self.changed.push(Arc::clone(name));
            }
        }
        if self.changed.is_empty() { Effect::Nothing } else { Effect::Members }
    }

    /// Lets the clusters go on that have waited as long as they may. True when there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut expired = false;
        for member in self.warming.iter_mut().flat_map(|warming| warming.fresh.values_mut()) {
            if matches!(member.source.phase, Phase::Waiting(Some(deadline)) if deadline <= now) {
                tracing::warn!(
                    cluster = &*member.part.policy.name,
                    "no endpoints in time, going on without them"
                );
                member.source.phase = Phase::Warm;
                expired = true;
            }
        }
        expired
    }

    /// When `expire` or `sweep` has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sweeps = self.current.values().filter_map(|member| member.watched.next_sweep());
        let sweep = sweeps.min().map(Instant::from_std);
        self.next_expiry().into_iter().chain(sweep).min()
    }

    fn next_expiry(&self) -> Option<Instant> {
        let fresh = self.warming.iter().flat_map(|warming| warming.fresh.values());
        fresh
            .filter_map(
                |member| if let Phase::Waiting(deadline) = member.source.phase { deadline } else { None },
            )
            .min()
    }

    /// The clusters that wait for their first endpoints.
    pub(super) fn waiting(&self) -> Vec<Arc<str>> {
        let fresh = self.warming.iter().flat_map(|warming| &warming.fresh);
        fresh.filter(|(_, member)| !member.is_warm()).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Whether the clusters that depend only on DNS are known.
    pub(super) fn primaries_are_warm(&self) -> bool {
        let mut fresh = self.warming.iter().flat_map(|warming| warming.fresh.values());
        fresh.all(|member| member.is_warm() || member.depends_on().is_some())
    }

    /// Puts the warming graph in use, once everything in it is warm: what it changed of clusters and of listeners, and the filter
    /// chains that are no longer configured.
    pub(super) fn commit(&mut self) -> Option<(Changes, Changes, Vec<Retired>)> {
        if !self.warming.as_ref()?.fresh.values().all(Member::is_warm) {
            return None;
        }
        let Warming { graph, mut fresh } = self.warming.take()?;
        let mut before = std::mem::take(&mut self.current);
        let shard = self.sources.shard;
        let mut clusters = Changes::default();
        for (name, part) in &graph.clusters {
            let old = before.remove(name);
            clusters.count(old.as_ref().map(|old| old.part.message == part.message));
            let member = match (fresh.remove(name), old) {
                (Some(mut member), old) => {
                    if let Some(mut old) = old {
                        member.replace(&mut old, shard);
                    }
                    member.watched.go_live(shard);
                    member.show(shard);
                    member
                }
                (None, Some(old)) => old.adopt(part.clone(), shard),
                (None, None) => continue,
            };
            self.current.insert(Arc::clone(name), member);
        }
        clusters.removed += before.len() as u64;
        before.values().for_each(Member::retire);
        self.names = self.current.iter().map(|(name, member)| (member.source.id, Arc::clone(name))).collect();
        self.shown = Arc::new(self.current.iter().map(shown).collect());
        self.changed.clear();
        let old = self.graph.as_ref().map(|graph| &*graph.listeners).unwrap_or_default();
        let listeners = changes_of_listeners(old, &graph.listeners);
        let retired = retired(old, &graph.listeners);
        supersede(old, &graph.listeners);
        self.graph = Some(graph);
        Some((clusters, listeners, retired))
    }

    /// The listeners in use.
    pub(super) fn listeners(&self) -> Vec<Arc<Listener>> {
        let graph = self.graph.iter().flat_map(|graph| &graph.listeners);
        graph.map(|part| Arc::clone(&part.listener)).collect()
    }

    /// The clusters in use: the map that was published last, with those that changed since.
    pub(super) fn clusters(&mut self) -> Arc<Clusters> {
        if !self.changed.is_empty() {
            let all = Arc::make_mut(&mut self.shown);
            for name in self.changed.drain(..) {
                if let Some(member) = self.current.get(&name) {
                    all.insert(name, Arc::clone(&member.cluster));
                }
            }
        }
        Arc::clone(&self.shown)
    }

    /// The clusters that `control` itself may ask: those in use and, before them, those that are warming.
    pub(super) fn directory(&mut self) -> Arc<Clusters> {
        let mut all = self.clusters();
        let fresh = self.warming.iter().flat_map(|warming| &warming.fresh);
        let mut fresh = fresh.map(shown).peekable();
        if fresh.peek().is_some() {
            Arc::make_mut(&mut all).extend(fresh);
        }
        all
    }
}

fn shown((name, member): (&Arc<str>, &Member)) -> (Arc<str>, Arc<Cluster>) {
    (Arc::clone(name), Arc::clone(&member.cluster))
}

/// The chains that a new graph does not have. Where their listener is gone, idle connections are closed at once.
fn retired(before: &[ListenerPart], after: &[ListenerPart]) -> Vec<Retired> {
    let kept: HashSet<_> = generations(after).map(|generation| generation.chain()).collect();
    let mut retired = Vec::new();
    for part in before {
        let stays = after.iter().any(|new| new.listener.address == part.listener.address);
        let stage = if stays { Drain::Announce } else { Drain::Closed };
        let chains = part.listener.chains.iter().map(|chain| &chain.generation);
        let gone = chains.filter(|generation| !kept.contains(&generation.chain()));
        retired.extend(gone.map(|generation| (Arc::clone(generation), stage)));
    }
    retired
}

/// Tells the generations that the new graph has renewed.
fn supersede(before: &[ListenerPart], after: &[ListenerPart]) {
    let current: HashSet<_> = generations(after).map(Arc::as_ptr).collect();
    let renewed: HashSet<_> = generations(after).map(|generation| generation.chain()).collect();
    for generation in generations(before) {
        if renewed.contains(&generation.chain()) && !current.contains(&Arc::as_ptr(generation)) {
            generation.supersede();
        }
    }
}

fn generations(parts: &[ListenerPart]) -> impl Iterator<Item = &Arc<Generation>> {
    parts.iter().flat_map(|part| part.listener.chains.iter()).map(|chain| &chain.generation)
}

impl Sources {
    fn reporter(&self, member: &Member) -> Reporter {
        Reporter {
            source: member.source.id,
            events: self.events.clone(),
            stats: Arc::clone(&member.part.stats),
            shard: self.shard,
        }
    }
}

impl Changes {
    /// Counts a part of the new graph: whether it equals the one before, `None` when there was none.
    fn count(&mut self, same: Option<bool>) {
        match same {
            None => self.added += 1,
            Some(false) => self.modified += 1,
            Some(true) => {}
        }
    }
}

fn changes_of_listeners(before: &[ListenerPart], after: &[ListenerPart]) -> Changes {
    let mut changes = Changes::default();
    for part in after {
        let old = before.iter().find(|old| old.listener.name == part.listener.name);
        changes.count(old.map(|old| old.message == part.message && old.files == part.files));
    }
    let gone = before.iter().filter(|old| after.iter().all(|part| part.listener.name != old.listener.name));
    changes.removed = gone.count() as u64;
    changes
}
