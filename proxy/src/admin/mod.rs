//! The admin interface: Envoy's paths, texts and content types.
//!
//! It runs on a thread of its own, so that a saturated data path still answers `/ready`; it reads
//! the snapshot, the statistics and the state, and acts by sending commands to `app`. Order: `page`
//! (request and answer), `routes` (which path is what), then one file for each page.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::access_log::AccessLog;
use crate::snapshot::Snapshot;
use crate::state::ServerState;
use crate::stats::{HttpStats, Registry, Scope, ServerStats};
use accepted::Accepted;

pub mod accepted;
mod access;
mod clusters;
mod config_dump;
mod listeners;
mod logging;
mod page;
mod prometheus;
mod routes;
mod runtime;
mod server;
mod stats;

/// Admin connections at the same time; more wait in the accept queue.
const MAX_CONNECTIONS: usize = 64;

/// How often the intervals of histograms end (Envoy's `stats_flush_interval`).
const INTERVAL: Duration = Duration::from_secs(5);

/// What the pages read and act upon.
#[derive(Debug)]
pub struct AdminContext {
    pub state: Arc<ServerState>,
    pub registry: Registry,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub accepted: watch::Receiver<Arc<Accepted>>,
    pub commands: mpsc::Sender<Order>,
    /// Absent where logging is not ours (tests).
    pub log: Option<telemetry::LogHandle>,
    /// Where requests are logged.
    pub access_log: Vec<Arc<AccessLog>>,
    pub options: CommandLine,
}

/// The command line, as `/server_info` shows it.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    pub concurrency: usize,
    pub config_path: String,
    pub config_yaml: String,
    pub log_level: String,
    pub log_path: String,
    pub service_cluster: String,
    pub service_node: String,
    pub drain_time: Duration,
}

/// A command and where to say that it was carried out; the answer to the client waits for that.
#[derive(Debug)]
pub struct Order {
    pub command: Command,
    pub done: oneshot::Sender<()>,
}

/// What `app` does when the admin interface is told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `/drain_listeners`: stop listening; with `graceful` only after the drain time, with `skip_exit` drain connections but listen on.
    Drain { inbound_only: bool, graceful: bool, skip_exit: bool },
    /// `/healthcheck/fail` (true) and `/healthcheck/ok`.
    FailHealthCheck(bool),
    /// `/reopen_logs`.
    ReopenLogs,
    /// `/runtime_modify`: these keys with their values are the whole admin layer now.
    SetRuntime(Vec<(String, String)>),
    /// `/quitquitquit`: end at once, with status 0. Sent after its answer; nobody waits for `done`.
    Quit,
}

/// The context with what the pages keep between requests.
struct Admin {
    context: AdminContext,
    logging: logging::Levels,
    runtime: runtime::Overrides,
    intervals: stats::Intervals,
    http: Arc<Scope<HttpStats>>,
    server: Arc<Scope<ServerStats>>,
}

/// Serves until `shutdown` ends; then connections are cut. Belongs on a thread and runtime of its own (`app` makes them).
pub async fn serve(listener: TcpListener, context: AdminContext, shutdown: impl Future<Output = ()>) {
    let admin = Arc::new(Admin {
        logging: logging::Levels::new(context.log.as_ref()),
        runtime: runtime::Overrides::default(),
        intervals: stats::Intervals::default(),
        http: context.registry.scope("http.admin."),
        server: context.registry.scope("server."),
        context,
    });
    let mut tasks = tokio::task::JoinSet::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = &mut shutdown => return,
            _ = ticks.tick() => admin.intervals.end(&admin.context.registry),
            Some(_) = tasks.join_next() => {}
            (accepted, permit) = accept => match accepted {
                Ok((stream, _)) => {
                    let admin = Arc::clone(&admin);
                    tasks.spawn(async move {
                        connection(&admin, stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn connection(admin: &Admin, stream: tokio::net::TcpStream) {
    let stats = admin.http_shard();
    stats.downstream_cx_total.inc();
    stats.downstream_cx_http1_total.inc();
    stats.downstream_cx_active.inc();
    let (quit, mut quits) = mpsc::channel(1);
    // Whoever closes at once has no address any more; then there is no request to log either.
    let unknown = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let (peer, local) = (stream.peer_addr().unwrap_or(unknown), stream.local_addr().unwrap_or(unknown));
    let service = service_fn(|request| {
        let quit = quit.clone();
        async move {
            Ok::<_, std::convert::Infallible>(routes::answer(admin, request, &quit, (peer, local)).await)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(60)).half_close(true);
    // A broken connection is the client's affair.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
    stats.downstream_cx_active.dec();
    stats.downstream_cx_destroy.inc();
    if quits.try_recv().is_ok() {
        admin.send(Command::Quit).await;
    }
}

impl Admin {
    /// The admin thread alone writes the counts of its own connections and requests.
    fn http_shard(&self) -> &HttpStats {
        self.http.shard(self.context.registry.control_shard())
    }

    /// Sends a command; returns what tells that it was carried out.
    async fn send(&self, command: Command) -> oneshot::Receiver<()> {
        let (done, answered) = oneshot::channel();
        // Without a receiver the process is ending: there is nothing to tell.
        let _ = self.context.commands.send(Order { command, done }).await;
        answered
    }

    /// Sends a command and waits until it was carried out.
    async fn carry_out(&self, command: Command) {
        let _ = self.send(command).await.await;
    }
}

#[cfg(test)]
mod tests;
