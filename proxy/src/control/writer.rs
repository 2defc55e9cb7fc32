//! The single writer: applies events to the store and publishes what comes of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Code, Diagnostic, Read};

use super::client::Client;
use super::file::{self, Origin};
use super::graph::{Inherited, graph};
use super::store::{Changes, Effect, Sources, Store};
use super::{Event, WAITING_EVENTS};
use crate::access_log::{AccessLog, LogWriter};
use crate::admin::accepted::{Accepted, Rejected};
use crate::build::{self, Flavor, Graph, Packed};
use crate::cluster::report::{HostReport, WAITING_REPORTS};
use crate::snapshot::{Cluster, Snapshot};
use crate::state::{Phase, ServerState};
use crate::stats::{ClusterManagerStats, ListenerManagerStats, Registry, Scope};
use crate::time;

/// Everything that the control plane starts from.
pub struct Start {
    pub origin: Origin,
    /// The text that was read, and what was read from it.
    pub text: String,
    pub read: Read<Bootstrap>,
    pub flavor: Flavor,
    /// `--service-node` and `--service-cluster`.
    pub service_node: Option<String>,
    pub service_cluster: Option<String>,
    pub registry: Registry,
    pub logs: Arc<LogWriter>,
    pub state: Arc<ServerState>,
    /// Whether an address can be listened on; given by `app`, as sockets are the data plane's.
    pub probe: fn(SocketAddr) -> std::io::Result<()>,
}

/// What the other threads hold of the control plane.
#[derive(Clone, Debug)]
pub struct Handles {
    /// Read by workers and `admin`. Empty (version 0) until all clusters of the first configuration are warm.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub accepted: watch::Receiver<Arc<Accepted>>,
    pub events: mpsc::Sender<Event>,
    /// The workers' way to tell of a host.
    pub reports: mpsc::Sender<HostReport>,
}

/// The control plane.
pub struct Control {
    store: Store,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    reports: mpsc::Receiver<HostReport>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    directory: watch::Sender<Arc<BTreeMap<Arc<str>, Cluster>>>,
    accepted: watch::Sender<Arc<Accepted>>,
    origin: Origin,
    /// The last text that was tried.
    text: String,
    /// What warms, to be accepted with its graph.
    candidate: Option<Packed<Bootstrap>>,
    service: (Option<String>, Option<String>),
    flavor: Flavor,
    /// Runtime values of the admin interface.
    runtime: Vec<(String, String)>,
    registry: Registry,
    logs: Arc<LogWriter>,
    state: Arc<ServerState>,
    probe: fn(SocketAddr) -> std::io::Result<()>,
    clusters: Arc<Scope<ClusterManagerStats>>,
    listeners: Arc<Scope<ListenerManagerStats>>,
    version: u64,
}

impl Control {
    /// Builds the first graph; starts and binds nothing. The warnings, or every finding when the file cannot be used.
    pub fn new(start: Start) -> Result<(Self, Handles, Vec<Diagnostic>), Vec<Diagnostic>> {
        let service = (start.service_node, start.service_cluster);
        let (graph, warnings) =
            graph(&start.read, &service, start.flavor, &start.registry, &start.logs, (&[], None))?;
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let (directory, asked) = watch::channel(Arc::default());
        let sources = Sources {
            client: Client::new(asked),
            events: sender.clone(),
            shard: start.registry.control_shard(),
            next: 0,
        };
        let mut store = Store::new(sources);
        store.begin(graph);
        let bootstrap = Packed::new(&start.read.message);
        let accepted = Accepted {
            bootstrap: bootstrap.clone(),
            loaded_at: time::wall(),
            rejected: None,
            warming: store.waiting(),
        };
        let (snapshots, snapshot) = watch::channel(Arc::default());
        let (accepted, accepted_read) = watch::channel(Arc::new(accepted));
        let (report, reports) = mpsc::channel(WAITING_REPORTS);
        let handles =
            Handles { snapshots: snapshot, accepted: accepted_read, events: sender.clone(), reports: report };
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
            candidate: Some(bootstrap),
            service,
            flavor: start.flavor,
            runtime: Vec::new(),
            clusters: start.registry.scope("cluster_manager."),
            listeners: start.registry.scope("listener_manager."),
            registry: start.registry,
            logs: start.logs,
            state: start.state,
            probe: start.probe,
            version: 0,
        };
        Ok((control, handles, warnings))
    }

    /// The addresses of the first configuration's listeners.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.store.candidate().into_iter().flat_map(|graph| &graph.listeners);
        listeners.filter(|part| part.listener.bind).map(|part| part.listener.address).collect()
    }

    /// Where the first configuration wants its admin interface.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.store.candidate()?.admin
    }

    /// Where it logs its requests.
    pub fn admin_log(&self) -> Vec<Arc<AccessLog>> {
        self.store.candidate().map(|graph| graph.admin_log.clone()).unwrap_or_default()
    }

    /// Runs until it is dropped. `bound` is the version of the newest snapshot whose listeners are open in every worker: the server is
    /// live when the first ones are.
    pub async fn run(mut self, mut bound: watch::Receiver<u64>) {
        if let Origin::File(path) = &self.origin {
            // The first look reads the file again, in case it changed since it was read.
            tokio::spawn(file::watch(path.clone(), None, self.sender.clone()));
        }
        self.progress();
        // The first snapshot that is published has the listeners.
        while *bound.borrow_and_update() == 0 {
            tokio::select! {
                changed = bound.changed() => if changed.is_err() { return },
                () = self.step() => {}
            }
        }
        if self.state.phase() != Phase::Draining {
            self.state.set_phase(Phase::Live);
        }
        loop {
            self.step().await;
        }
    }

    /// Waits for one event, or for a cluster's time to run out. Cancel safe: nothing waits once an event is taken.
    async fn step(&mut self) {
        let deadline = self.store.next_deadline();
        tokio::select! {
            event = self.events.recv() => if let Some(event) = event { self.handle(event) },
            Some(report) = self.reports.recv() => {
                let HostReport { cluster, host, what } = report;
                let effect = self.store.reported(&cluster, host, what);
                self.follow(effect);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                let now = Instant::now();
                let effect = self.store.sweep(now);
                self.follow(effect);
                if self.store.expire(now) {
                    self.progress();
                }
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
                // The text that was read last may come back, and is looked at anew then.
                self.text.clear();
            }
            Event::Reload => {
                let Origin::File(path) = &self.origin else {
                    tracing::info!("nothing to read again: the configuration came with --config-yaml");
                    return;
                };
                tracing::info!("SIGHUP: reading the configuration again");
                let (path, events) = (path.clone(), self.sender.clone());
                tokio::spawn(async move {
                    // Nobody listens any more: the process ends.
                    let _ = events.send(Event::Configuration(file::text(path).await)).await;
                });
            }
            Event::Runtime { values, done } => {
                self.runtime = values;
                self.rebuild();
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    /// Tries a new text: warms its graph, or rejects it and keeps what is in use.
    fn configure(&mut self, text: String) {
        if text == self.text {
            if self.accepted.borrow().rejected.is_some() {
                tracing::warn!("the configuration has not changed: it stays refused");
            } else {
                tracing::debug!("the configuration has not changed");
            }
            return;
        }
        let name = self.origin_name();
        let tried = build::check::read(&name, &text, self.flavor, build::check::in_pod()).and_then(|read| {
            let built =
                graph(&read, &self.service, self.flavor, &self.registry, &self.logs, self.inherited());
            let (graph, warnings) = built?;
            let taken = self.taken(&name, &graph);
            if taken.is_empty() { Ok((read.message, graph, warnings)) } else { Err(taken) }
        });
        match tried {
            Ok((message, graph, warnings)) => {
                if !warnings.is_empty() {
                    tracing::warn!("{}", xds::render_text(&warnings, &text));
                }
                tracing::info!(file = name, "configuration changed");
                if self.store.graph().is_some_and(|used| used.admin != graph.admin) {
                    tracing::warn!(
                        "the admin interface stays where it is: a new address takes effect at the next start"
                    );
                }
                self.candidate = Some(Packed::new(&message));
                self.store.begin(graph);
                self.progress();
            }
            Err(diagnostics) => self.refuse(diagnostics, &text),
        }
        self.text = text;
    }

    fn origin_name(&self) -> String {
        match &self.origin {
            Origin::File(path) => path.display().to_string(),
            Origin::Text => "--config-yaml".to_owned(),
        }
    }

    /// Logs, counts and shows what is wrong with a new configuration; what is in use stays.
    fn refuse(&mut self, diagnostics: Vec<Diagnostic>, text: &str) {
        let details = xds::render_text(&diagnostics, text);
        tracing::error!(file = self.origin_name(), "configuration refused, the old one stays\n{details}");
        self.listeners.shard(self.registry.control_shard()).lds_update_rejected.inc();
        let rejected =
            Rejected { at: time::wall(), diagnostics: diagnostics.into(), details: details.into() };
        self.accepted.send_modify(|accepted| Arc::make_mut(accepted).rejected = Some(rejected));
    }

    /// New listeners that cannot be opened. A port that we listen on already is ours to bind again.
    fn taken(&self, file: &str, graph: &Graph) -> Vec<Diagnostic> {
        let ours: Vec<u16> = self.store.listeners().iter().map(|listener| listener.address.port()).collect();
        let new = graph.listeners.iter().map(|part| &part.listener).filter(|new| new.bind);
        new.filter(|new| !ours.contains(&new.address.port()))
            .filter_map(|new| {
                let error = (self.probe)(new.address).err()?;
                let stats = self.listeners.shard(self.registry.control_shard());
                stats.listener_create_failure.inc();
                let text = format!("listener `{}` cannot listen on {}: {error}", new.name, new.address);
                Some(Diagnostic::error(file, Code::Structure, text))
            })
            .collect()
    }

    /// Builds the configuration in use again, with other runtime values.
    fn rebuild(&mut self) {
        let in_use = self.accepted.borrow().bootstrap.clone();
        let message = self.candidate.clone().unwrap_or(in_use);
        let read = Read {
            message: message.unpack(),
            warnings: Vec::new(),
            positions: xds::Positions::none("runtime"),
        };
        match graph(&read, &self.service, self.flavor, &self.registry, &self.logs, self.inherited()) {
            Ok((graph, _)) => {
                self.candidate = Some(message);
                self.store.begin(graph);
                self.progress();
            }
            Err(diagnostics) => {
                tracing::error!("runtime values refused: {}", xds::render_text(&diagnostics, ""));
            }
        }
    }

    fn inherited(&self) -> Inherited<'_> {
        (&self.runtime, self.store.graph())
    }

    /// Starts what can be started and puts the warming graph in use when it is ready.
    fn progress(&mut self) {
        self.directory.send_replace(Arc::new(self.store.directory()));
        self.store.start_sources();
        if self.store.primaries_are_warm() && self.state.phase() == Phase::PreInitializing {
            self.state.set_phase(Phase::Initializing);
        }
        if let Some((clusters, listeners)) = self.store.commit() {
            self.count(clusters, listeners);
            self.publish();
            if let Some(bootstrap) = self.candidate.take() {
                self.accepted.send_modify(|accepted| {
                    let accepted = Arc::make_mut(accepted);
                    accepted.bootstrap = bootstrap;
                    accepted.loaded_at = time::wall();
                    accepted.rejected = None;
                });
            }
        }
        let waiting = self.store.waiting();
        let warming = i64::try_from(waiting.len()).unwrap_or(i64::MAX);
        self.clusters.shard(self.registry.control_shard()).warming_clusters.set(warming);
        self.accepted.send_modify(|accepted| Arc::make_mut(accepted).warming = waiting);
    }

    fn publish(&mut self) {
        self.version += 1;
        let clusters = self.store.clusters();
        let snapshot = Snapshot { version: self.version, listeners: self.store.listeners(), clusters };
        self.snapshots.send_replace(Arc::new(snapshot));
        self.directory.send_replace(Arc::new(self.store.directory()));
        let shard = self.registry.control_shard();
        let listeners = self.store.listeners();
        super::spans::start(listeners.iter().map(|listener| &**listener), self.store.client(), shard);
    }

    fn count(&self, clusters: Changes, listeners: Changes) {
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
        stats.total_listeners_active.set(total(self.store.listeners().len()));
    }
}
