//! The single writer: applies events to the store and publishes what comes of them.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Code, Diagnostic};

use super::builder::{Builder, Built, Dropping, Input, Outcome, Values};
use super::client::Client;
use super::file::{self, Origin};
use super::store::{Changes, Effect, Retired, Sources, Store};
use super::{Event, Handles, Start, WAITING_EVENTS, overload};
use crate::access_log::AccessLog;
use crate::admin::accepted::{Accepted, Rejected, Unbound};
use crate::build::files::Stamps;
use crate::build::{Files, Graph, Packed};
use crate::cluster::report::{HostReport, Reports};
use crate::snapshot::{Clusters, Snapshot};
use crate::state::{self, Phase, ServerState};
use crate::stats::{ClusterManagerStats, ListenerManagerStats, Registry, Scope, ServerStats};
use crate::time::{self, Backoff};

/// The control plane.
pub struct Control {
    store: Store,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    reports: Arc<Reports>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    directory: watch::Sender<Clusters>,
    accepted: watch::Sender<Arc<Accepted>>,
    origin: Origin,
    /// The last configuration that was built or is waiting.
    text: String,
    /// SIGHUP: the next configuration is built even if it is the same.
    forced: bool,
    /// What warms, to be accepted with its graph.
    candidate: Option<Packed<Bootstrap>>,
    /// The text that was tried last was not refused.
    text_accepted: bool,
    builder: Builder,
    /// The build that runs, and the runtime values that it tries.
    building: Option<JoinHandle<Built>>,
    trying: Option<Values>,
    dropping: Dropping,
    /// What is built after it: the newest text, then the configuration in use with other values.
    next_text: Option<String>,
    next_values: VecDeque<Values>,
    /// The files that the last build took data from.
    data: watch::Sender<Stamps>,
    blocked: Option<Blocked>,
    /// Addresses that the workers could not bind.
    unbound: watch::Receiver<state::Unbound>,
    failing: BTreeMap<SocketAddr, String>,
    /// Runtime values of the admin interface that a build has accepted.
    runtime: BTreeMap<String, String>,
    registry: Registry,
    state: Arc<ServerState>,
    drain_time: Duration,
    probe: fn(SocketAddr) -> std::io::Result<()>,
    server: Arc<Scope<ServerStats>>,
    clusters: Arc<Scope<ClusterManagerStats>>,
    listeners: Arc<Scope<ListenerManagerStats>>,
    version: u64,
}

/// A configuration that was refused only because addresses were taken: it is built again when they
/// are free.
struct Blocked {
    addresses: Vec<SocketAddr>,
    due: Instant,
    backoff: Backoff,
}

/// Waits until addresses in use are checked again.
const CHECK_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

impl Control {
    /// Builds the first graph; starts and binds nothing. The warnings, or every finding when the file cannot be used.
    pub fn new(start: Start) -> Result<(Self, Handles, Vec<Diagnostic>), Vec<Diagnostic>> {
        let builder = Builder {
            service: (start.service_node, start.service_cluster),
            flavor: start.flavor,
            registry: start.registry.clone(),
            logs: start.logs,
        };
        let files = Files::default();
        let (graph, warnings) = builder.graph(&start.read, &files, &[], None)?;
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let (directory, asked) = watch::channel(Clusters::default());
        let sources = Sources {
            client: Client::new(asked),
            events: sender.clone(),
            shard: start.registry.control_shard(),
            next: 0,
        };
        let server = start.registry.scope::<ServerStats>("server.");
        server.shard(start.registry.control_shard()).server_version.set_hash(graph.server_version);
        let mut store = Store::new(sources);
        store.begin(graph);
        let bootstrap = Packed::new(&start.read.message);
        let accepted = Accepted {
            bootstrap: bootstrap.clone(),
            loaded_at: time::wall(),
            rejected: None,
            unbound: Vec::new(),
            warming: store.waiting(),
            runtime: BTreeMap::new(),
        };
        let (snapshots, snapshot) = watch::channel(Arc::default());
        let (accepted, accepted_read) = watch::channel(Arc::new(accepted));
        let reports = Arc::<Reports>::default();
        let handles = Handles {
            snapshots: snapshot,
            accepted: accepted_read,
            events: sender.clone(),
            reports: Arc::clone(&reports),
        };
        let control = Self {
            store,
            events,
            sender,
            reports,
            snapshots,
            directory,
            accepted,
            origin: start.origin,
            text: start.text,
            forced: false,
            candidate: Some(bootstrap),
            text_accepted: true,
            builder,
            building: None,
            trying: None,
            dropping: Dropping::default(),
            next_text: None,
            next_values: VecDeque::new(),
            data: watch::Sender::new(files.into_stamps()),
            blocked: None,
            unbound: start.state.unbound(),
            failing: BTreeMap::new(),
            runtime: BTreeMap::new(),
            server,
            clusters: start.registry.scope("cluster_manager."),
            listeners: start.registry.scope("listener_manager."),
            registry: start.registry,
            state: start.state,
            drain_time: start.drain_time,
            probe: start.probe,
            version: 0,
        };
        Ok((control, handles, warnings))
    }

    /// The addresses of the first configuration's listeners.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.store.candidate().into_iter().flat_map(|graph| &graph.listeners);
        listeners.filter(|part| part.listener.bind).map(|part| part.listener.address).collect()
    }

    /// Where the first configuration wants its admin interface.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.store.candidate()?.admin
    }

    /// Where it logs its requests.
    pub(crate) fn admin_log(&self) -> Vec<Arc<AccessLog>> {
        self.store.candidate().map(|graph| graph.admin_log.clone()).unwrap_or_default()
    }

    /// Runs until it is dropped. `bound` is the version of the newest snapshot that every worker has: the
    /// server is live when the listeners of the first one are open.
    pub async fn run(mut self, mut bound: watch::Receiver<u64>) {
        if let Origin::File(path) = &self.origin {
            tokio::spawn(file::watch(path.clone(), self.sender.clone()));
        }
        tokio::spawn(file::watch_data(self.data.subscribe(), self.sender.clone()));
        tokio::spawn(file::repeat_refusal(self.accepted.subscribe(), |line| tracing::error!("{line}")));
        overload::start(self.store.candidate(), &self.state, &self.registry);
        self.progress();
        // The first snapshot that is published has the listeners; the workers bind those again that
        // could not be bound.
        while *bound.borrow_and_update() == 0 || !self.unbound.borrow().is_empty() {
            tokio::select! {
                changed = bound.changed() => if changed.is_err() { return },
                () = self.step() => {}
            }
        }
        if self.state.phase() != Phase::Draining {
            self.state.set_phase(Phase::Live);
        }
        let shard = self.registry.control_shard();
        self.listeners.shard(shard).workers_started.set(1);
        let initialized = time::now().saturating_duration_since(self.state.started);
        self.server.shard(shard).initialization_time_ms.record(time::millis(initialized));
        loop {
            self.step().await;
        }
    }

    /// Waits for one event, or for a cluster's time to run out. Cancel safe: nothing waits once an event is taken.
    async fn step(&mut self) {
        let blocked = self.blocked.as_ref().map(|blocked| blocked.due);
        let deadline = self.store.next_deadline().into_iter().chain(blocked).min();
        let building = async {
            match &mut self.building {
                Some(building) => building.await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            built = building => self.built(built),
            Ok(()) = self.unbound.changed() => self.show_unbound(),
            event = self.events.recv() => if let Some(event) = event { self.handle(event) },
            () = self.reports.came() => {
                let mut all = Effect::Nothing;
                for HostReport { cluster, host, what } in self.reports.take() {
                    if let Effect::Members = self.store.reported(&cluster, host, what) {
                        all = Effect::Members;
                    }
                }
                self.follow(all);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                let now = Instant::now();
                let effect = self.store.sweep(now);
                self.follow(effect);
                if self.store.expire(now) {
                    self.progress();
                }
                self.unblock(now);
            }
        }
    }

    /// Publishes what an event did.
    fn follow(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Members => {
                self.clusters.shard(self.registry.control_shard()).cluster_updated.inc();
                self.publish();
            }
            Effect::Warmed => self.progress(),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Endpoints { source, update } => {
                let effect = self.store.update(source, update);
                self.follow(effect);
            }
            Event::Checked { source, host, outcome, next } => {
                let (effect, wait) = self.store.checked(source, host, outcome);
                self.follow(effect);
                // Without a wait the checker ends; it may have ended already.
                let _ = wait.map(|wait| next.send(wait));
            }
            Event::Configuration(Ok(text)) => self.configure(text),
            Event::Configuration(Err(error)) => {
                let name = self.origin_name();
                let text = format!("cannot read the configuration {name}: {error}");
                self.refuse(vec![Diagnostic::error(&name, Code::Unreadable, text)], "");
                // The previous configuration may come back, and is then built again; what was
                // refused before is not.
                self.text.clear();
                self.blocked = None;
            }
            Event::DataChanged => {
                if !self.text.is_empty() {
                    tracing::info!("a file that the configuration takes data from has changed");
                    self.build_text(self.text.clone());
                }
            }
            Event::Reload => {
                let Origin::File(path) = &self.origin else {
                    tracing::info!("SIGHUP: trying the configuration of --config-yaml again");
                    self.build_text(self.text.clone());
                    return;
                };
                tracing::info!("SIGHUP: reading the configuration again");
                self.forced = true;
                let (path, events) = (path.clone(), self.sender.clone());
                tokio::spawn(async move {
                    // No receiver is left: the process is shutting down.
                    let _ = events.send(Event::Configuration(file::text(path).await)).await;
                });
            }
            Event::Runtime { changes, done } => {
                self.next_values.push_back(Values { changes, done });
                self.build();
            }
        }
    }

    /// Builds a new configuration, unless it equals the last one.
    fn configure(&mut self, text: String) {
        if std::mem::take(&mut self.forced) || text != self.text {
            self.build_text(text);
        } else if self.accepted.borrow().rejected.is_some() {
            tracing::warn!("the configuration has not changed: it stays refused");
        } else {
            tracing::debug!("the configuration has not changed");
        }
    }

    fn build_text(&mut self, text: String) {
        self.text.clone_from(&text);
        self.next_text = Some(text);
        self.blocked = None;
        self.build();
    }

    /// Begins the next build, unless one runs.
    fn build(&mut self) {
        if self.building.is_some() {
            return;
        }
        let input = if let Some(text) = self.next_text.take() {
            Input::Text(self.origin_name(), text)
        } else if let Some(values) = self.next_values.pop_front() {
            self.trying = Some(values);
            Input::Message(self.candidate.clone().unwrap_or_else(|| self.accepted.borrow().bootstrap.clone()))
        } else {
            return;
        };
        self.start(input);
    }

    fn start(&mut self, input: Input) {
        let mut runtime = self.runtime.clone();
        self.trying.iter().for_each(|values| values.lay_over(&mut runtime));
        let previous = self.store.graph().cloned();
        self.building = Some(self.builder.start(input, runtime.into_iter().collect(), previous));
    }

    /// Takes what a build came to: warms its graph, or rejects it and keeps what is in use.
    fn built(&mut self, built: Option<Built>) {
        self.building = None;
        if let Some(Built { input, previous, result, files }) = built {
            if self.dropping.drops(self.next_text.is_some()) {
                self.trying.take().into_iter().for_each(|values| self.next_values.push_front(values));
                return self.build();
            }
            let in_use = self.store.graph();
            let shares = previous.as_ref().map(Arc::as_ptr) == in_use.map(Arc::as_ptr);
            if !shares && result.is_ok() {
                // Another graph came into use meanwhile, whose parts are to be kept.
                self.start(input);
                return;
            }
            self.data.send_replace(files);
            match input {
                Input::Text(name, text) => self.tried(&name, &text, result),
                Input::Message(_) => self.tried_values(result),
            }
        } else {
            tracing::error!("a build ended without a result; please report it");
            // Who asked for other values learns that there is no result.
            self.trying = None;
        }
        self.build();
    }

    /// Keeps the values that were tried, or forgets them: later builds must not fail for them.
    fn tried_values(&mut self, result: Outcome) {
        let Some(values) = self.trying.take() else { return };
        let outcome = match result {
            Ok((message, graph, _)) => {
                values.lay_over(&mut self.runtime);
                let runtime = self.runtime.clone();
                self.accepted.send_modify(|accepted| Arc::make_mut(accepted).runtime = runtime);
                self.accept(message, graph);
                Ok(())
            }
            Err(diagnostics) => {
                let problem = xds::render_text(&diagnostics, "");
                tracing::error!("runtime values refused, those in force stay: {problem}");
                Err(problem)
            }
        };
        // The receiver may have gone.
        let _ = values.done.send(outcome);
    }

    fn tried(&mut self, name: &str, text: &str, result: Outcome) {
        let (message, graph, warnings) = match result {
            Ok(built) => built,
            Err(diagnostics) => return self.refuse(diagnostics, text),
        };
        let taken = self.taken(name, &graph);
        if !taken.is_empty() {
            let addresses = taken.iter().map(|(address, _)| *address).collect();
            let mut backoff = CHECK_AGAIN;
            let due = Instant::now() + backoff.next(fastrand::f64());
            self.blocked = Some(Blocked { addresses, due, backoff });
            return self.refuse(taken.into_iter().map(|(_, diagnostic)| diagnostic).collect(), text);
        }
        if !warnings.is_empty() {
            tracing::warn!("{}", xds::render_text(&warnings, text));
        }
        tracing::info!(file = name, "configuration changed");
        let used = self.store.graph();
        if used.is_some_and(|used| used.admin != graph.admin || used.overload != graph.overload) {
            tracing::warn!("`admin` and `overload_manager` are read at the start: restart for the new ones");
        }
        self.text_accepted = true;
        self.accept(message, graph);
    }

    fn accept(&mut self, message: Packed<Bootstrap>, graph: Graph) {
        self.dropping.accepted();
        self.candidate = Some(message);
        self.store.begin(graph);
        let waiting = self.store.waiting();
        self.accepted.send_modify(|accepted| Arc::make_mut(accepted).warming = waiting);
        self.progress();
    }

    /// Builds a configuration again whose addresses were in use.
    fn unblock(&mut self, now: Instant) {
        let Some(blocked) = self.blocked.as_mut().filter(|blocked| blocked.due <= now) else { return };
        if blocked.addresses.iter().all(|address| (self.probe)(*address).is_ok()) {
            self.build_text(self.text.clone());
        } else {
            blocked.due = now + blocked.backoff.next(fastrand::f64());
        }
    }

    /// Logs, counts and shows which listeners could not be bound; the workers bind again.
    fn show_unbound(&mut self) {
        let unbound = self.unbound.borrow_and_update().clone();
        let mut failing = BTreeMap::new();
        for ((address, _), error) in unbound {
            failing.entry(address).or_insert(error);
        }
        let stats = self.listeners.shard(self.registry.control_shard());
        for (address, error) in &failing {
            if !self.failing.contains_key(address) {
                stats.listener_create_failure.inc();
                tracing::error!(%address, error, "cannot listen; trying again");
            }
        }
        for address in self.failing.keys().filter(|address| !failing.contains_key(address)) {
            tracing::info!(%address, "no longer fails to listen");
        }
        self.failing = failing;
        self.count_active();
        self.name_unbound();
    }

    /// Shows the errors with the listeners as they are named now.
    fn name_unbound(&self) {
        let listeners = self.store.listeners();
        let shown = listeners.iter().filter_map(|listener| {
            let error = self.failing.get(&listener.address)?;
            Some(Unbound { listener: Arc::clone(&listener.name), error: error.as_str().into() })
        });
        let shown: Vec<_> = shown.collect();
        self.accepted.send_modify(|accepted| Arc::make_mut(accepted).unbound = shown);
    }

    fn origin_name(&self) -> String {
        match &self.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::Text => "--config-yaml".to_owned(),
        }
    }

    /// Logs, counts and shows what is wrong with a new configuration; what is in use stays.
    fn refuse(&mut self, diagnostics: Vec<Diagnostic>, text: &str) {
        self.text_accepted = false;
        let rejected = Rejected::new(diagnostics, text);
        tracing::error!("{rejected}; the configuration in use stays\n{}", rejected.details);
        self.listeners.shard(self.registry.control_shard()).lds_update_rejected.inc();
        self.accepted.send_modify(|accepted| Arc::make_mut(accepted).rejected = Some(rejected));
    }

    /// New listeners that cannot be opened. A port that we listen on already is ours to bind again.
    fn taken(&self, file: &str, graph: &Graph) -> Vec<(SocketAddr, Diagnostic)> {
        let ours: HashSet<u16> =
            self.store.listeners().iter().map(|listener| listener.address.port()).collect();
        let new = graph.listeners.iter().map(|part| &part.listener).filter(|new| new.bind);
        new.filter(|new| !ours.contains(&new.address.port()))
            .filter_map(|new| {
                let error = (self.probe)(new.address).err()?;
                let stats = self.listeners.shard(self.registry.control_shard());
                stats.listener_create_failure.inc();
                let text = format!("listener `{}` cannot listen on {}: {error}", new.name, new.address);
                Some((new.address, Diagnostic::error(file, Code::Structure, text)))
            })
            .collect()
    }

    /// Starts what can be started and puts the warming graph in use when it is ready.
    fn progress(&mut self) {
        self.directory.send_replace(self.store.directory().clone());
        self.store.start_sources();
        let news = self.store.news();
        if self.store.primaries_are_warm() && self.state.phase() == Phase::PreInitializing {
            self.state.set_phase(Phase::Initializing);
        }
        if let Some((clusters, listeners, retired)) = self.store.commit() {
            self.count(clusters, listeners);
            self.name_unbound();
            self.publish();
            let (listeners, shard) = (self.store.listeners(), self.registry.control_shard());
            super::spans::start(listeners.iter().map(|listener| &**listener), self.store.client(), shard);
            self.retire(retired);
            if let Some(bootstrap) = self.candidate.take() {
                let text_accepted = self.text_accepted;
                self.accepted.send_modify(|accepted| {
                    let accepted = Arc::make_mut(accepted);
                    accepted.bootstrap = bootstrap;
                    accepted.loaded_at = time::wall();
                    if text_accepted {
                        accepted.rejected = None;
                    }
                });
            }
        }
        let warming = i64::try_from(self.store.waiting_count()).unwrap_or(i64::MAX);
        self.clusters.shard(self.registry.control_shard()).warming_clusters.set(warming);
        if !news.is_empty() {
            self.accepted.send_modify(|accepted| {
                let shown = &mut Arc::make_mut(accepted).warming;
                for (name, waits) in news {
                    let _ = if waits { shown.insert(name) } else { shown.remove(&name) };
                }
            });
        }
    }

    /// Lets the connections of chains that are no longer configured drain.
    fn retire(&self, retired: Vec<Retired>) {
        let deadline = time::now() + self.drain_time;
        for (generation, stage) in retired {
            generation.retire(stage, deadline);
        }
        self.state.touch();
    }

    fn publish(&mut self) {
        self.version += 1;
        let (listeners, clusters) = (Arc::clone(self.store.listeners()), self.store.clusters().clone());
        self.snapshots.send_replace(Arc::new(Snapshot { version: self.version, listeners, clusters }));
        self.directory.send_replace(self.store.directory().clone());
    }

    fn count(&mut self, clusters: Changes, listeners: Changes) {
        let shard = self.registry.control_shard();
        let stats = self.clusters.shard(shard);
        stats.cluster_added.add(clusters.added);
        stats.cluster_modified.add(clusters.modified);
        stats.cluster_removed.add(clusters.removed);
        let total = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        stats.active_clusters.set(total(self.store.clusters().len()));
        let stats = self.listeners.shard(shard);
        stats.listener_added.add(listeners.added);
        stats.listener_modified.add(listeners.modified);
        stats.listener_removed.add(listeners.removed);
        stats.listener_create_success.add(listeners.added + listeners.modified);
        self.count_active();
    }

    /// A listener that could not be bound is not active.
    fn count_active(&self) {
        let listeners = self.store.listeners();
        let active =
            listeners.iter().filter(|listener| !self.failing.contains_key(&listener.address)).count();
        let stats = self.listeners.shard(self.registry.control_shard());
        stats.total_listeners_active.set(i64::try_from(active).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
#[path = "../../tests/unit/warming.rs"]
mod tests;
