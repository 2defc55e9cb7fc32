//! The supervisor: one task that owns the mesh. It starts the pods, hears of every change, and ends everything.
//!
//! Everything that happens is an event in one queue; `on_event` and `commands` change the pods, `advance` does what is
//! due, `publish` tells Kubernetes, DNS and the state file. Nothing else holds state.

mod commands;
mod lifecycle;
mod publish;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::control::{Command, Status};
use crate::dir;
use crate::dns::Names;
use crate::error::Error;
use crate::plan::{Addresses, Allocator};
use crate::pod::{Environment, Kind, Phase, Pod};
use crate::process;

/// Events and commands that may wait; their senders wait then, nothing is lost.
const QUEUE: usize = 256;

/// The path that shows that the mesh works from end to end.
pub const END_TO_END: &str = "/petstore/petstore/2?includePets=true";

/// What `up` decides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// The mesh's folder.
    pub dir: PathBuf,
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// Where the Envoy files are: `pet.yaml`, `petstore.yaml`, `ingress.yaml`.
    pub config_dir: PathBuf,
    /// The `petmesh` executable, which starts each process.
    pub shim: PathBuf,
    /// Pods of each service, where not the usual number.
    pub replicas: BTreeMap<String, u32>,
    /// Where the pods live.
    pub addresses: Addresses,
    /// How often proxies ask discovery. A leaving pod serves for three times as long.
    pub refresh_delay: Duration,
    /// The mesh must answer within this time, or it has not started.
    pub start_timeout: Duration,
}

/// What the user is told while the mesh starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// A remark: something from an earlier mesh was cleared away.
    Note(String),
    /// A pod is ready, this long after the beginning.
    Ready {
        /// Its name.
        pod: String,
        /// Since the beginning.
        after: Duration,
    },
    /// The ingress answers, this long after the beginning.
    Up {
        /// The mesh.
        status: Status,
        /// Since the beginning.
        after: Duration,
    },
}

/// How many processes the end of the mesh concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Ended by themselves when told to.
    pub orderly: usize,
    /// Had to be killed.
    pub killed: usize,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} processes ended", self.orderly + self.killed)?;
        match self.killed {
            0 => Ok(()),
            killed => write!(f, ", {killed} of them had to be killed"),
        }
    }
}

/// Runs the mesh until `stop` completes or a client says `down`.
///
/// Must run on the main thread, in a current-thread runtime: the kernel ties the children's lives to the thread that
/// started them.
///
/// # Errors
/// Something stands in the way of the start (nothing was started then), or the mesh did not come up (everything has
/// been stopped again).
pub async fn supervise(
    options: Options,
    mut progress: impl FnMut(Progress),
    stop: impl Future<Output = ()>,
) -> Result<Ended, Error> {
    let (mut mesh, mut inbox) = start::prepare(options, &mut progress).await?;
    tokio::pin!(stop);
    let result = mesh.run(&mut inbox, &mut progress, stop).await;
    let ended = mesh.end(&mut inbox, result.is_err()).await;
    // The state file is for a running mesh; one that is found later tells of a supervisor that was killed.
    let dir = &mesh.environment.dir;
    let cleared = if result.is_err() { dir.abandon(true) } else { dir.clear_state() };
    if let Err(error) = cleared {
        tracing::warn!(%error, "the folder is not clear");
    }
    tracing::info!(%ended, "the mesh has ended");
    if let Ok(Some(answer)) = result {
        drop(answer.send(crate::control::Reply::Done(ended.to_string())));
        // The answer is written by another task; the process ends when this function returns.
        tokio::time::sleep(Duration::from_millis(20)).await;
        return Ok(ended);
    }
    result.map(|_| ended)
}

/// Everything that happens to the mesh.
#[derive(Debug)]
pub(crate) enum Event {
    Exited {
        pod: String,
        kind: Kind,
        generation: u32,
        status: ExitStatus,
    },
    Probed {
        pod: String,
        generation: u32,
        ready: bool,
    },
    /// The ingress has answered a request that passes every part.
    Answers,
}

/// Where the supervisor hears of things.
#[derive(Debug)]
pub(crate) struct Inbox {
    events: mpsc::Receiver<Event>,
    commands: mpsc::Receiver<Command>,
}

/// The mesh.
pub(crate) struct Mesh {
    options: Options,
    environment: Environment,
    pods: Vec<Pod>,
    allocator: Allocator,
    names: Names,
    dns: SocketAddr,
    kubernetes: kube_api::Server,
    events: mpsc::Sender<Event>,
    began: Instant,
    /// The first start is over: the ingress has answered.
    booted: bool,
    end_to_end: Option<AbortHandle>,
    /// Pods still to be restarted, one after the other.
    rolling: VecDeque<String>,
    /// The one that is being restarted, and its generation before.
    rolling_now: Option<(String, u32)>,
    /// What was last written, so that equal content is not written again.
    published: BTreeMap<String, serde_json::Value>,
    /// The fault `unready`: slices call every endpoint not ready.
    unready: bool,
    _lock: File,
}

/// Who asked for the end of the mesh and waits for it, if it was a client.
type Asked = Option<tokio::sync::oneshot::Sender<crate::control::Reply>>;

impl Mesh {
    async fn run(
        &mut self,
        inbox: &mut Inbox,
        progress: &mut impl FnMut(Progress),
        mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Asked, Error> {
        loop {
            self.advance()?;
            self.publish();
            let due = self.next_deadline();
            tokio::select! {
                () = &mut stop => return Ok(None),
                () = tokio::time::sleep_until(due) => self.require_boot()?,
                Some(event) = inbox.events.recv() => self.on_event(event, progress)?,
                Some((request, answer)) = inbox.commands.recv() => {
                    if request == crate::control::Request::Down {
                        return Ok(Some(answer));
                    }
                    tracing::info!(?request, "command");
                    drop(answer.send(self.command(&request).await));
                }
            }
        }
    }

    fn on_event(&mut self, event: Event, progress: &mut impl FnMut(Progress)) -> Result<(), Error> {
        match event {
            Event::Exited { pod, kind, generation, status } => {
                self.on_exit(&pod, kind, generation, status)?;
            }
            Event::Probed { pod, generation, ready } => {
                let after = self.began.elapsed();
                let Some(pod) = self.pod_mut(&pod).filter(|pod| pod.generation == generation) else {
                    return Ok(());
                };
                pod.ready = ready;
                if ready && !pod.was_ready {
                    pod.was_ready = true;
                    progress(Progress::Ready { pod: pod.name.clone(), after });
                }
                tracing::info!(pod = pod.name, ready, "readiness");
            }
            Event::Answers => {
                self.booted = true;
                self.publish();
                progress(Progress::Up { status: self.status(), after: self.began.elapsed() });
            }
        }
        Ok(())
    }

    fn on_exit(&mut self, name: &str, kind: Kind, generation: u32, status: ExitStatus) -> Result<(), Error> {
        let booted = self.booted;
        let log = self.environment.dir.log(name, kind.name());
        let Some(pod) = self.pod_mut(name).filter(|pod| pod.generation == generation) else { return Ok(()) };
        *pod.slot_mut(kind) = crate::pod::Slot::Ended;
        pod.ready = false;
        if pod.is_leaving() {
            tracing::info!(pod = name, container = kind.name(), end = process::describe(status), "ended");
            return Ok(());
        }
        let reason = format!("{} ended: {}", kind.name(), process::describe(status));
        tracing::error!(pod = name, reason, log = %log.display(), "a pod has crashed; it is not restarted");
        pod.stop_probe();
        let text = format!("{name}: {reason}\n{}", quote(&dir::tail(&log, 12), &log));
        if !matches!(pod.phase, Phase::Crashed(_)) {
            pod.phase = Phase::Crashed(reason);
        }
        if booted { Ok(()) } else { Err(Error::StartFailed(text)) }
    }

    /// Whether the mesh has come up in time, or still may.
    fn require_boot(&self) -> Result<(), Error> {
        if self.booted || self.began.elapsed() < self.options.start_timeout {
            return Ok(());
        }
        let seconds = self.options.start_timeout.as_secs();
        // A pod that still waits for another one is not to blame.
        let blame = |pod: &&Pod| !pod.ready && !matches!(pod.proxy, crate::pod::Slot::Waiting);
        let Some(pod) = self.pods.iter().find(blame) else {
            let log = self.environment.dir.log("ingress-1", "proxy");
            let text = format!("every pod is ready, but the ingress gave no answer 200 within {seconds} s\n");
            return Err(Error::StartFailed(text + &quote(&dir::tail(&log, 12), &log)));
        };
        let kind = if pod.proxy.runs() { Kind::Proxy } else { Kind::App };
        let log = self.environment.dir.log(&pod.name, kind.name());
        let text = format!("{} was not ready within {seconds} s\n", pod.name);
        Err(Error::StartFailed(text + &quote(&dir::tail(&log, 12), &log)))
    }

    fn pod_mut(&mut self, name: &str) -> Option<&mut Pod> {
        self.pods.iter_mut().find(|pod| pod.name == name)
    }
}

/// The end of a log, indented under its name.
fn quote(text: &str, log: &std::path::Path) -> String {
    if text.is_empty() {
        return format!("  {} is empty", log.display());
    }
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    format!("  the last lines of {}:\n{}", log.display(), lines.join("\n"))
}
