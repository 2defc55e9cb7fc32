//! How the watch is doing: the state behind `/debug` and the numbers behind `/metrics`.
//!
//! Label values are fixed words, so that no client and no cluster can make the metrics grow.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use crate::catalog::{Catalog, Cluster, FailStatic, Transition};
use crate::watch::{Reason, WatchError};

/// An error that lasts is logged this often, not at each attempt.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Shared by everything that has something to tell.
pub struct Status {
    state: watch::Sender<State>,
    registry: Registry,
    metrics: Metrics,
}

/// What the watch knows of itself.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Whether a watch is running now.
    pub connected: bool,
    /// When Kubernetes last told us something, be it that nothing has changed.
    pub heard: Option<Instant>,
    /// The newest version of the cluster that we know.
    pub version: String,
    /// Errors since Kubernetes was last heard of.
    pub errors: u32,
    pub last_error: Option<WatchError>,
    /// Lists that replaced what we knew, the first included.
    pub lists: u64,
    /// Audits that came to a result.
    pub audits: u64,
    logged: Option<(&'static str, Instant)>,
}

type Labelled<V> = Family<[(&'static str, V); 1], Counter>;

struct Metrics {
    snapshot_age: Gauge<f64, AtomicU64>,
    connected: Gauge,
    services: Gauge,
    endpoints: Gauge,
    kept: Gauge,
    fail_static: Labelled<&'static str>,
    watches: Counter,
    ignored: Gauge,
    lag: Histogram,
    relists: Labelled<&'static str>,
    errors: Labelled<&'static str>,
    audits: Labelled<&'static str>,
    drift: Counter,
    registrations: Labelled<u16>,
}

impl Default for Status {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sds");
        let metrics = Metrics::register(&mut registry);
        Self { state: watch::Sender::default(), registry, metrics }
    }
}

impl Status {
    /// The state as it is, and news of each change.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A watch has begun.
    pub(crate) fn connected(&self) {
        self.metrics.watches.inc();
        self.state.send_modify(|state| state.connected = true);
    }

    /// There is no watch, and for a while there will be none.
    pub(crate) fn disconnected(&self) {
        self.state.send_modify(|state| state.connected = false);
    }

    /// An event or bookmark has arrived, or a watch has ended in good order.
    pub(crate) fn heard(&self, version: &str) {
        self.state.send_modify(|state| state.hear(version));
    }

    /// A list has replaced what we knew.
    pub(crate) fn listed(&self, reason: Reason, version: &str) {
        self.metrics.relists.get_or_create(&[("reason", reason.label())]).inc();
        self.state.send_modify(|state| {
            state.hear(version);
            state.lists += 1;
        });
    }

    /// A watch or list has failed. Says whether that is worth a line in the log.
    pub(crate) fn failed(&self, error: &WatchError) -> bool {
        self.disconnected();
        let Some(kind) = error.kind() else { return false };
        self.metrics.errors.get_or_create(&[("kind", kind)]).inc();
        let mut log = false;
        self.state.send_modify(|state| {
            let now = Instant::now();
            log = state.logged.is_none_or(|(last, when)| last != kind || now - when >= LOG_AGAIN);
            if log {
                state.logged = Some((kind, now));
            }
            state.errors += 1;
            state.last_error = Some(error.clone());
        });
        log
    }

    /// Clusters have begun or stopped to keep endpoints that are not ready.
    pub(crate) fn fail_static(&self, transitions: &[Transition]) {
        for Transition { cluster, event } in transitions {
            self.metrics.fail_static.get_or_create(&[("event", event.label())]).inc();
            match event {
                FailStatic::Began(kept) => warn!(
                    "{cluster}: no endpoint is ready any more; the {kept} that were until recently are still served"
                ),
                FailStatic::Recovered => info!("{cluster}: there are routable endpoints again"),
                FailStatic::Expired => {
                    warn!("{cluster}: no endpoint was ready for too long; none is served any more");
                }
                FailStatic::Gone => info!("{cluster}: the pods that were not ready are gone"),
            }
        }
    }

    /// An audit has found this much drift, or could not list.
    pub(crate) fn audited(&self, result: Result<usize, &WatchError>) {
        let outcome = match result {
            Ok(0) => "same",
            Ok(_) => "drift",
            Err(_) => "failed",
        };
        self.metrics.audits.get_or_create(&[("outcome", outcome)]).inc();
        self.metrics.drift.inc_by(result.unwrap_or(0) as u64);
        self.state.send_modify(|state| state.audits += 1);
    }

    /// This many seconds from the change of a pod until we heard of it.
    pub(crate) fn lagged(&self, seconds: f64) {
        self.metrics.lag.observe(seconds);
    }

    /// A registration was answered.
    pub(crate) fn answered(&self, code: u16) {
        self.metrics.registrations.get_or_create(&[("code", code)]).inc();
    }

    /// Everything in OpenMetrics' text format.
    pub(crate) fn metrics(&self, catalog: Option<&Catalog>) -> Result<String, std::fmt::Error> {
        let state = self.state.borrow().clone();
        let of = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.metrics.snapshot_age.set(state.age().map_or(f64::INFINITY, |age| age.as_secs_f64()));
        self.metrics.connected.set(i64::from(state.connected));
        of(&self.metrics.services, catalog.map_or(0, Catalog::services));
        of(&self.metrics.endpoints, catalog.map_or(0, Catalog::endpoints));
        of(&self.metrics.kept, catalog.map_or(0, Catalog::kept));
        let ignored = |cluster: &Cluster| cluster.ignored.len();
        of(&self.metrics.ignored, catalog.map_or(0, |all| all.iter().map(|(_, one)| ignored(one)).sum()));
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl State {
    /// How old what we serve may be.
    pub fn age(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }

    fn hear(&mut self, version: &str) {
        if self.logged.take().is_some() {
            info!("Kubernetes answers again; failed attempts: {}", self.errors);
        }
        self.heard = Some(Instant::now());
        version.clone_into(&mut self.version);
        self.errors = 0;
    }
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            snapshot_age: Gauge::default(),
            connected: Gauge::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            kept: Gauge::default(),
            fail_static: Labelled::default(),
            watches: Counter::default(),
            ignored: Gauge::default(),
            lag: Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
            relists: Labelled::default(),
            errors: Labelled::default(),
            audits: Labelled::default(),
            drift: Counter::default(),
            registrations: Labelled::default(),
        };
        // A counter that appears with its first event hides that event from `rate()`.
        for reason in Reason::ALL {
            drop(metrics.relists.get_or_create(&[("reason", reason.label())]));
        }
        for outcome in ["same", "drift", "failed"] {
            drop(metrics.audits.get_or_create(&[("outcome", outcome)]));
        }
        for event in FailStatic::LABELS {
            drop(metrics.fail_static.get_or_create(&[("event", event)]));
        }
        let m = &metrics;
        registry.register(
            "snapshot_age_seconds",
            "Since Kubernetes was last heard of",
            m.snapshot_age.clone(),
        );
        registry.register("watch_connected", "Whether a watch is running", m.connected.clone());
        registry.register("services", "Services with slices", m.services.clone());
        registry.register("endpoints", "Endpoints that are served", m.endpoints.clone());
        registry.register("kept_endpoints", "Endpoints served although they are not ready", m.kept.clone());
        registry.register(
            "fail_static",
            "Services that began or stopped to keep endpoints that are not ready",
            m.fail_static.clone(),
        );
        registry.register("watches", "Watches that the API server has begun", m.watches.clone());
        registry.register("ignored_values", "Values that could not be used, see /debug", m.ignored.clone());
        registry.register("event_lag_seconds", "From the change of a pod to its arrival here", m.lag.clone());
        registry.register("relists", "Lists that replaced what was known", m.relists.clone());
        registry.register("watch_errors", "Lists and watches that failed", m.errors.clone());
        registry.register("audits", "Comparisons with a list beside the watch", m.audits.clone());
        registry.register("audit_drift", "Slices that the watch had wrong", m.drift.clone());
        registry.register("registrations", "Answers to /v1/registration", m.registrations.clone());
        metrics
    }
}
