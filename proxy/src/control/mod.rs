//! The control plane of one proxy: the single writer of snapshots.
//!
//! Sources (file, DNS, SDS v1) are tasks that send events over one bounded channel; the writer applies them to its store and
//! publishes. Reading order: `writer`, `store`, then the sources.
//! Never imports the data plane: they meet in `snapshot`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use xds::Read;
use xds::envoy::config::bootstrap::v3::Bootstrap;

use crate::access_log::LogWriter;
use crate::admin::accepted::Accepted;
use crate::build::Flavor;
use crate::cluster::Endpoint;
use crate::cluster::health::Outcome;
use crate::cluster::report::Reports;
use crate::snapshot::Snapshot;
use crate::state::ServerState;
use crate::stats::{ClusterStats, Registry, Scope};

mod builder;
mod checks;
mod client;
mod dns;
mod eds_file;
mod file;
mod members;
mod overload;
mod resolve;
mod sds_v1;
mod spans;
mod store;
mod watched;
mod writer;

pub use file::{Origin, read as read_file};
pub use writer::Control;

/// Everything that the control plane starts from.
pub struct Start {
    pub origin: Origin,
    /// The text that was read, and what was read from it.
    pub text: String,
    pub read: Arc<Read<Bootstrap>>,
    pub flavor: Flavor,
    /// `--service-node` and `--service-cluster`.
    pub service_node: Option<String>,
    pub service_cluster: Option<String>,
    pub registry: Registry,
    pub logs: Arc<LogWriter>,
    pub state: Arc<ServerState>,
    /// How long connections of what is no longer configured may live on.
    pub drain_time: Duration,
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
    /// The workers' reports about hosts.
    pub reports: Arc<Reports>,
}

/// Events that may wait for the writer; a source that finds the channel full waits.
const WAITING_EVENTS: usize = 64;

/// Events for the writer, from sources and people.
#[derive(Debug)]
pub enum Event {
    /// An update of a source.
    Endpoints { source: u64, update: Update },
    /// A checker's result, of a cluster by its source; `next` receives the time until the next
    /// check.
    Checked { source: u64, host: SocketAddr, outcome: Outcome, next: oneshot::Sender<Duration> },
    /// The configuration's text as it is now.
    Configuration(std::io::Result<String>),
    /// A file that the configuration takes data from has changed.
    DataChanged,
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Changes of the admin interface's runtime values, those without a value removed. `done`
    /// says whether they are in force, or why they were refused.
    Runtime { changes: Vec<(String, String)>, done: oneshot::Sender<Result<(), String>> },
}

/// One update of a source.
#[derive(Debug)]
pub enum Update {
    /// All endpoints of the cluster, and what discovery calls this version.
    Members { endpoints: Vec<Endpoint>, version: String },
    /// There is no response and the cluster need not wait for one.
    GaveUp,
}

/// A source's way to the writer, and to its cluster's counters.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    source: u64,
    events: mpsc::Sender<Event>,
    stats: Arc<Scope<ClusterStats>>,
    shard: usize,
}

impl Reporter {
    fn stats(&self) -> &ClusterStats {
        self.stats.shard(self.shard)
    }

    /// Tells the writer what a check came to; how long to wait for the next one, `None` when the host is not checked any more.
    async fn checked(&self, host: SocketAddr, outcome: Outcome) -> Option<Duration> {
        let (next, told) = oneshot::channel();
        let event = Event::Checked { source: self.source, host, outcome, next };
        self.events.send(event).await.ok()?;
        told.await.ok()
    }

    /// Tells the writer; false when it has gone.
    async fn tell(&self, update: Update) -> bool {
        self.events.send(Event::Endpoints { source: self.source, update }).await.is_ok()
    }
}

/// A random part of `longest`, so that many proxies do not ask at once.
fn jitter(longest: std::time::Duration) -> std::time::Duration {
    longest.mul_f64(fastrand::f64())
}
