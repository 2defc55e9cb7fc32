//! What is accepted and what is warming: the graph in use, and the one that waits for its clusters' first endpoints.
//!
//! A graph replaces the one before as a whole, when all of its new clusters are warm or have waited long enough. Clusters whose
//! discovery did not change keep their source and their members.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
use crate::snapshot::{Cluster, Clusters, Listener};
use crate::state::{Drain, Generation};

/// The graph in use and the one that warms.
pub(super) struct Store {
    current: BTreeMap<Arc<str>, Member>,
    /// The clusters in use by their sources.
    names: HashMap<u64, Arc<str>>,
    shown: Clusters,
    /// What `control` itself may ask: the clusters in use and, before them, those that warm.
    directory: Clusters,
    /// When the clusters' intervals of outlier detection end.
    sweeps: BTreeSet<(std::time::Instant, Arc<str>)>,
    listeners: Arc<[Arc<Listener>]>,
    graph: Option<Arc<Graph>>,
    warming: Option<Warming>,
    sources: Sources,
}

/// A filter chain that is no longer configured, and the signal to its connections.
pub(super) type Retired = (Arc<Generation>, Drain);

/// A graph that is not used yet, with the clusters that are new in it.
struct Warming {
    graph: Arc<Graph>,
    fresh: BTreeMap<Arc<str>, Member>,
    /// The new clusters by their sources.
    names: HashMap<u64, Arc<str>>,
    /// Those that are not warm, and how many of them depend only on DNS.
    cold: BTreeSet<Arc<str>>,
    cold_primaries: usize,
    /// Clusters that may start, and those that wait for the cluster that is asked for their hosts.
    free: Vec<Arc<str>>,
    deferred: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Until when those that have started may hold everything up.
    expiries: BTreeSet<(Instant, Arc<str>)>,
    /// Those that became warm or cold since `news` was taken.
    news: Vec<Arc<str>>,
}

impl Warming {
    fn new(graph: Graph, fresh: BTreeMap<Arc<str>, Member>) -> Self {
        let mut warming = Self {
            graph: Arc::new(graph),
            fresh: BTreeMap::new(),
            names: fresh.iter().map(|(name, member)| (member.source.id, Arc::clone(name))).collect(),
            cold: BTreeSet::new(),
            cold_primaries: 0,
            free: Vec::new(),
            deferred: HashMap::new(),
            expiries: BTreeSet::new(),
            news: Vec::new(),
        };
        for (name, member) in &fresh {
            let asked = member.depends_on().filter(|_| member.source.phase == Phase::Deferred);
            match asked.and_then(|asked| fresh.get_key_value(asked)) {
                Some((asked, cold)) if !cold.is_warm() => {
                    warming.deferred.entry(Arc::clone(asked)).or_default().push(Arc::clone(name));
                }
                _ => warming.free.push(Arc::clone(name)),
            }
        }
        let names: Vec<_> = fresh.keys().map(Arc::clone).collect();
        warming.fresh = fresh;
        for name in &names {
            warming.settle(name);
        }
        warming
    }

    /// Starts the sources and the checks that nothing keeps from starting.
    fn start(&mut self, sources: &Sources) {
        for name in std::mem::take(&mut self.free) {
            let Some(member) = self.fresh.get_mut(&name) else { continue };
            let reporter = sources.reporter(member);
            member.watched.start(&reporter);
            if member.source.phase == Phase::Deferred {
                member.start(&sources.client, reporter);
            }
            if let Phase::Waiting(Some(deadline)) = member.source.phase {
                self.expiries.insert((deadline, name));
            }
        }
    }

    /// Notes whether a cluster is warm now; true when it has become so.
    fn settle(&mut self, name: &Arc<str>) -> bool {
        let Some(member) = self.fresh.get(name) else { return false };
        let primary = usize::from(member.depends_on().is_none());
        if !member.is_warm() {
            if self.cold.insert(Arc::clone(name)) {
                self.cold_primaries = self.cold_primaries.saturating_add(primary);
                self.news.push(Arc::clone(name));
            }
            return false;
        }
        let warmed = self.cold.remove(name);
        if warmed {
            self.cold_primaries = self.cold_primaries.saturating_sub(primary);
            self.free.extend(self.deferred.remove(name).into_iter().flatten());
            self.news.push(Arc::clone(name));
        }
        warmed
    }
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
            shown: Clusters::default(),
            directory: Clusters::default(),
            sweeps: BTreeSet::new(),
            listeners: Arc::default(),
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

    /// Begins to warm a graph; one that was warming is given up. Clusters that are the same in both
    /// go on.
    pub(super) fn begin(&mut self, graph: Graph) {
        let mut begun = self.warming.take().map(|warming| warming.fresh).unwrap_or_default();
        let mut fresh = BTreeMap::new();
        for (name, part) in &graph.clusters {
            // Other health checks are begun beside those in use, and no host is unhealthy without a
            // first result.
            let kept = self.current.get(name).is_some_and(|member| {
                Arc::ptr_eq(&member.part.discovery, &part.discovery)
                    && (member.part.message == part.message
                        || member.part.message.unpack().health_checks == part.message.unpack().health_checks)
            });
            if kept {
                continue;
            }
            let member = match begun.remove(name).filter(|begun| begun.part.message == part.message) {
                Some(begun) => begun.adopt(part.clone(), self.sources.shard),
                None => {
                    self.sources.next += 1;
                    Member::new(part.clone(), self.sources.next, self.sources.shard)
                }
            };
            fresh.insert(Arc::clone(name), member);
        }
        let all = self.shown.iter().map(|(name, cluster)| (Arc::clone(name), Arc::clone(cluster)));
        self.directory = all.chain(fresh.iter().map(shown)).collect();
        self.warming = Some(Warming::new(graph, fresh));
    }

    /// Starts the sources that nothing keeps from starting.
    pub(super) fn start_sources(&mut self) {
        if let Some(warming) = &mut self.warming {
            warming.start(&self.sources);
        }
    }

    /// A cluster that warms has changed.
    fn advance(&mut self, name: &Arc<str>) -> Effect {
        let Some(warming) = &mut self.warming else { return Effect::Nothing };
        let warmed = warming.settle(name);
        if let Some(member) = warming.fresh.get_mut(name) {
            if warmed {
                member.renew(self.sources.shard);
            }
            self.directory.replace(name, Arc::clone(&member.cluster));
        }
        Effect::Warmed
    }

    /// A cluster in use has changed.
    fn show(&mut self, name: &Arc<str>) {
        let Some(member) = self.current.get(name) else { return };
        self.shown.replace(name, Arc::clone(&member.cluster));
        if self.warming.as_ref().is_none_or(|warming| !warming.fresh.contains_key(name)) {
            self.directory.replace(name, Arc::clone(&member.cluster));
        }
    }

    /// The cluster that warms and has this source.
    fn fresh(&mut self, source: u64) -> Option<(Arc<str>, &mut Member)> {
        let warming = self.warming.as_mut()?;
        let name = Arc::clone(warming.names.get(&source)?);
        let member = warming.fresh.get_mut(&name)?;
        Some((name, member))
    }

    /// Takes an update of a source; one of a replaced source is dropped.
    pub(super) fn update(&mut self, source: u64, update: Update) -> Effect {
        let shard = self.sources.shard;
        if let Some((name, member)) = self.fresh(source) {
            match update {
                Update::Members { endpoints, version } => {
                    member.update(endpoints, &version, shard);
                }
                Update::GaveUp => member.source.phase = Phase::Warm,
            }
            // Its checks begin.
            if let Some(warming) = &mut self.warming {
                warming.free.push(Arc::clone(&name));
            }
            return self.advance(&name);
        }
        let Update::Members { endpoints, version } = update else { return Effect::Nothing };
        let Some(name) = self.names.get(&source).cloned() else { return Effect::Nothing };
        let Some(member) = self.current.get_mut(&name) else { return Effect::Nothing };
        if !member.update(endpoints, &version, shard) {
            return Effect::Nothing;
        }
        let reporter = self.sources.reporter(member);
        member.watched.start(&reporter);
        self.show(&name);
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
        if let Some((name, member)) = self.fresh(source) {
            let wait = member.checked(host, outcome, shard).map(|next| next.wait);
            return (self.advance(&name), wait);
        }
        let Some(name) = self.names.get(&source).cloned() else { return (Effect::Nothing, None) };
        let member = self.current.get_mut(&name);
        let next = member.and_then(|member| member.checked(host, outcome, shard));
        let effect = if next.is_some_and(|next| next.changed) {
            self.show(&name);
            Effect::Members
        } else {
            Effect::Nothing
        };
        (effect, next.map(|next| next.wait))
    }

    /// Takes a worker's report of a host.
    pub(super) fn reported(&mut self, cluster: &Arc<str>, host: SocketAddr, what: What) -> Effect {
        let shard = self.sources.shard;
        let Some(member) = self.current.get_mut(cluster) else { return Effect::Nothing };
        if !member.reported(host, what, shard) {
            return Effect::Nothing;
        }
        self.show(cluster);
        Effect::Members
    }

    /// Ends the intervals of outlier detection that are over.
    pub(super) fn sweep(&mut self, now: Instant) -> Effect {
        let (shard, now) = (self.sources.shard, now.into_std());
        let mut effect = Effect::Nothing;
        let due: Vec<_> = self.sweeps.iter().take_while(|(at, _)| *at <= now).cloned().collect();
        for sweep in due {
            self.sweeps.remove(&sweep);
            let (_, name) = sweep;
            let Some(member) = self.current.get_mut(&name) else { continue };
            let changed = member.sweep(now, shard);
            if let Some(next) = member.watched.next_sweep() {
                self.sweeps.insert((next, Arc::clone(&name)));
            }
            if changed {
                self.show(&name);
                effect = Effect::Members;
            }
        }
        effect
    }

    /// Lets the clusters go on that have waited as long as they may. True when there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut expired = false;
        while let Some(warming) = &mut self.warming
            && warming.expiries.first().is_some_and(|(deadline, _)| *deadline <= now)
        {
            let Some((_, name)) = warming.expiries.pop_first() else { break };
            let Some(member) = warming.fresh.get_mut(&name) else { continue };
            if matches!(member.source.phase, Phase::Waiting(Some(deadline)) if deadline <= now) {
                tracing::warn!(cluster = &*name, "no endpoints in time, going on without them");
                member.source.phase = Phase::Warm;
                self.advance(&name);
                expired = true;
            }
        }
        expired
    }

    /// When `expire` or `sweep` has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sweep = self.sweeps.first().map(|(at, _)| Instant::from_std(*at));
        let expiry = self.warming.as_ref().and_then(|warming| warming.expiries.first());
        sweep.into_iter().chain(expiry.map(|(deadline, _)| *deadline)).min()
    }

    /// The clusters that wait for their first endpoints.
    pub(super) fn waiting(&self) -> BTreeSet<Arc<str>> {
        self.warming.as_ref().map(|warming| warming.cold.clone()).unwrap_or_default()
    }

    /// How many they are.
    pub(super) fn waiting_count(&self) -> usize {
        self.warming.as_ref().map_or(0, |warming| warming.cold.len())
    }

    /// Those that have begun or ceased to wait since the last call, and whether they wait.
    pub(super) fn news(&mut self) -> Vec<(Arc<str>, bool)> {
        let Some(warming) = &mut self.warming else { return Vec::new() };
        let news = std::mem::take(&mut warming.news).into_iter();
        news.map(|name| (Arc::clone(&name), warming.cold.contains(&name))).collect()
    }

    /// Whether the clusters that depend only on DNS are known.
    pub(super) fn primaries_are_warm(&self) -> bool {
        self.warming.as_ref().is_none_or(|warming| warming.cold_primaries == 0)
    }

    /// Puts the warming graph in use, once everything in it is warm: what it changed of clusters and of listeners, and the filter
    /// chains that are no longer configured.
    pub(super) fn commit(&mut self) -> Option<(Changes, Changes, Vec<Retired>)> {
        let warming = self.warming.take_if(|warming| warming.cold.is_empty())?;
        let Warming { graph, mut fresh, .. } = warming;
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
        self.shown = self.current.iter().map(shown).collect();
        self.directory = self.shown.clone();
        let sweep =
            |(name, member): (&Arc<str>, &Member)| Some((member.watched.next_sweep()?, Arc::clone(name)));
        self.sweeps = self.current.iter().filter_map(sweep).collect();
        self.listeners = graph.listeners.iter().map(|part| Arc::clone(&part.listener)).collect();
        let old = self.graph.as_ref().map(|graph| &*graph.listeners).unwrap_or_default();
        let listeners = changes_of_listeners(old, &graph.listeners);
        let retired = retired(old, &graph.listeners);
        supersede(old, &graph.listeners);
        self.graph = Some(graph);
        Some((clusters, listeners, retired))
    }

    /// The listeners in use.
    pub(super) fn listeners(&self) -> &Arc<[Arc<Listener>]> {
        &self.listeners
    }

    /// The clusters in use.
    pub(super) fn clusters(&self) -> &Clusters {
        &self.shown
    }

    /// The clusters that `control` itself may ask.
    pub(super) fn directory(&self) -> &Clusters {
        &self.directory
    }
}

fn shown((name, member): (&Arc<str>, &Member)) -> (Arc<str>, Arc<Cluster>) {
    (Arc::clone(name), Arc::clone(&member.cluster))
}

/// The chains that a new graph does not have. Where their listener is gone, idle connections are closed at once.
fn retired(before: &[ListenerPart], after: &[ListenerPart]) -> Vec<Retired> {
    let kept: HashSet<_> = generations(after).map(|generation| generation.chain()).collect();
    let addresses: HashSet<_> = after.iter().map(|part| part.listener.address).collect();
    let mut retired = Vec::new();
    for part in before {
        let stays = addresses.contains(&part.listener.address);
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
    let by_name = |parts| -> HashMap<_, _> {
        let parts: &[ListenerPart] = parts;
        parts.iter().map(|part| (Arc::clone(&part.listener.name), part)).collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let mut changes = Changes::default();
    for part in after {
        let old = old.get(&part.listener.name);
        changes.count(old.map(|old| old.message == part.message && old.files == part.files));
    }
    changes.removed = before.iter().filter(|old| !new.contains_key(&old.listener.name)).count() as u64;
    changes
}
