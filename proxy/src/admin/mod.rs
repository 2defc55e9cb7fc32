//! The admin interface: Envoy's paths, texts and content types.
//!
//! It runs on a thread of its own, so that a saturated data path still responds to `/ready`. It
//! reads the snapshot, the statistics and the state, and acts by sending commands to `app`. A slow
//! client never keeps the others waiting: connections without progress are closed, and the slowest
//! one makes room when there are too many.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::access_log::AccessLog;
use crate::snapshot::Snapshot;
use crate::state::ServerState;
use crate::stats::{HttpStats, Registry, Scope, ServerStats};
use accepted::Accepted;
use page::Page;

pub mod accepted;
mod access;
mod clusters;
mod config_dump;
mod large;
mod logging;
mod page;
mod prometheus;
mod routes;
mod server;
mod stats;

/// Admin connections at the same time. The next one replaces the one without progress for longest.
const MAX_CONNECTIONS: usize = 32;

/// A connection is closed when it moves no byte for this long, unless a request is being handled.
const STALLED: Duration = Duration::from_secs(30);

/// How long a request's head, and its body, may take.
const SLOWEST_REQUEST: Duration = Duration::from_secs(10);

/// Bytes of a request that hyper holds.
const MAX_BUFFER: usize = 64 * 1024;

/// Streams of one connection of HTTP/2 at the same time, and bytes of a request's headers there.
const MAX_STREAMS: u32 = 32;
const MAX_HEADERS: u32 = 64 * 1024;

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

/// A command, and a channel for its completion or the reason why it was refused; the response to
/// the client waits for that.
#[derive(Debug)]
pub struct Order {
    pub(crate) command: Command,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Commands of the admin interface to `app`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `/drain_listeners`: stop listening; with `graceful` only after the drain time, with `skip_exit` drain connections but listen on.
    Drain { inbound_only: bool, graceful: bool, skip_exit: bool },
    /// `/healthcheck/fail` (true) and `/healthcheck/ok`.
    FailHealthCheck(bool),
    /// `/reopen_logs`.
    ReopenLogs,
    /// `/runtime_modify`: keys of the admin layer with their new values, empty to remove them.
    ModifyRuntime(Vec<(String, String)>),
    /// `/quitquitquit`: end at once, with status 0. Sent after its response; nothing waits for
    /// `done`.
    Quit,
}

/// The context with what the pages keep between requests.
struct Admin {
    context: AdminContext,
    logging: logging::Levels,
    large: large::Large,
    intervals: stats::Intervals,
    http: Arc<Scope<HttpStats>>,
    server: Arc<Scope<ServerStats>>,
}

/// Serves until `shutdown` ends; then connections are cut. Belongs on a thread and runtime of its own (`app` makes them).
pub async fn serve(listener: TcpListener, context: AdminContext, shutdown: impl Future<Output = ()>) {
    let admin = Arc::new(Admin {
        logging: logging::Levels::new(context.log.as_ref()),
        large: large::Large::default(),
        intervals: stats::Intervals::default(),
        http: context.registry.scope("http.admin."),
        server: context.registry.scope("server."),
        context,
    });
    let mut tasks = tokio::task::JoinSet::new();
    let mut open = Connections::default();
    let mut interval: Option<AbortHandle> = None;
    let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            _ = ticks.tick() => {
                // One that is late is the end of two intervals.
                if interval.as_ref().is_none_or(AbortHandle::is_finished) {
                    interval = Some(tasks.spawn(end_interval(Arc::clone(&admin))));
                }
                open.close_stalled();
            }
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.make_room();
                    let (admin, progress) = (Arc::clone(&admin), Arc::new(Progress::new()));
                    let noted = Arc::clone(&progress);
                    let task = tasks.spawn(async move { connection(&admin, stream, &noted).await });
                    open.0.push_back((task, progress));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Ends the intervals of all histograms.
async fn end_interval(admin: Arc<Admin>) {
    let shared = Arc::clone(&admin);
    // Work that panics was logged by then.
    let _ = admin.large.work(move || shared.intervals.end(&shared.context.registry)).await;
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<(AbortHandle, Arc<Progress>)>);

impl Connections {
    /// Makes room for one more.
    fn make_room(&mut self) {
        self.0.retain(|(task, _)| !task.is_finished());
        if self.0.len() >= MAX_CONNECTIONS
            && let Some(at) =
                (0..self.0.len()).min_by_key(|at| self.0.get(*at).map(|(_, progress)| progress.last()))
            && let Some((slowest, _)) = self.0.remove(at)
        {
            slowest.abort();
        }
    }

    fn close_stalled(&self) {
        let stalled = self.0.iter().filter(|(_, progress)| progress.is_stalled());
        stalled.for_each(|(task, _)| task.abort());
    }
}

/// When a connection last moved a byte.
struct Progress {
    begin: Instant,
    /// Milliseconds after `begin`, or `HANDLING`.
    last: AtomicU64,
}

impl Progress {
    /// A request is being handled: the client waits for us, and not we for it.
    const HANDLING: u64 = u64::MAX;

    fn new() -> Self {
        Self { begin: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let after = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(0);
        self.last.store(after, Relaxed);
    }

    fn last(&self) -> Option<Instant> {
        match self.last.load(Relaxed) {
            Self::HANDLING => Some(Instant::now()),
            after => self.begin.checked_add(Duration::from_millis(after)),
        }
    }

    fn is_stalled(&self) -> bool {
        self.last().is_some_and(|last| last.elapsed() >= STALLED)
    }
}

/// A client's socket that notes its progress.
struct Noted {
    stream: TcpStream,
    /// What was read to learn the protocol, and is to be read again.
    first: Vec<u8>,
    progress: Arc<Progress>,
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if !self.first.is_empty() {
            let count = self.first.len().min(into.remaining());
            into.put_slice(&self.first.drain(..count).collect::<Vec<_>>());
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        if into.filled().len() > before {
            self.progress.note();
        }
        polled
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.progress.note();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Counts a connection for as long as it is open, however it ends.
struct Counted<'a>(&'a HttpStats);

impl<'a> Counted<'a> {
    fn new(stats: &'a HttpStats) -> Self {
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        Self(stats)
    }
}

/// What a connection of HTTP/2 begins with; no method of HTTP/1 does.
const PREFACE: &[u8] = b"PRI ";

/// The first bytes of a connection: enough to tell its protocol.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            break;
        }
        first.extend_from_slice(&byte);
    }
    Ok(first)
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.downstream_cx_active.dec();
        self.0.downstream_cx_destroy.inc();
    }
}

async fn connection(admin: &Arc<Admin>, mut stream: TcpStream, progress: &Arc<Progress>) {
    let counted = Counted::new(admin.http_shard());
    let (quit, mut quits) = mpsc::channel(1);
    // A client that closed at once has no address any more; then there is no request to log either.
    let unknown = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let (peer, local) = (stream.peer_addr().unwrap_or(unknown), stream.local_addr().unwrap_or(unknown));
    let Ok(Ok(first)) = tokio::time::timeout(SLOWEST_REQUEST, first_bytes(&mut stream)).await else { return };
    let is_http2 = first == PREFACE;
    let service = service_fn(|request| {
        let (admin, progress, quit) = (Arc::clone(admin), Arc::clone(progress), quit.clone());
        async move {
            progress.last.store(Progress::HANDLING, Relaxed);
            let response = routes::respond(&admin, request, &quit, (peer, local)).await;
            progress.note();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let stream = TokioIo::new(Noted { stream, first, progress: Arc::clone(progress) });
    // A broken connection is the client's affair.
    if is_http2 {
        counted.0.downstream_cx_http2_total.inc();
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        server.max_header_list_size(MAX_HEADERS).max_send_buf_size(MAX_BUFFER);
        let _ = server.serve_connection(stream, service).await;
    } else {
        counted.0.downstream_cx_http1_total.inc();
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(SLOWEST_REQUEST).half_close(true);
        server.max_buf_size(MAX_BUFFER);
        let _ = server.serve_connection(stream, service).await;
    }
    drop(counted);
    if quits.try_recv().is_ok() {
        admin.send(Command::Quit).await;
    }
}

impl Admin {
    /// The admin thread alone writes the counts of its own connections and requests.
    fn http_shard(&self) -> &HttpStats {
        self.http.shard(self.context.registry.admin_shard())
    }

    /// Sends a command; the result completes when it was carried out.
    async fn send(&self, command: Command) -> oneshot::Receiver<Result<(), String>> {
        let (done, responded) = oneshot::channel();
        // Without a receiver the process is shutting down.
        let _ = self.context.commands.send(Order { command, done }).await;
        responded
    }

    /// Sends a command and waits until it was carried out; the error says why it was refused.
    async fn carry_out(&self, command: Command) -> Page {
        match self.send(command).await.await {
            Ok(Ok(())) => Page::ok(),
            Ok(Err(problem)) => Page::error(400, problem),
            Err(_) => Page::error(503, "The server could not carry this out"),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/admin.rs"]
mod tests;
