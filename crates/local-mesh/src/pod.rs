//! One pod: its processes, what it is doing, and how its programs are called.
//!
//! Owned by the supervisor; uses the plan, the folder and `process`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::control::{self, State};
use crate::dir::Dir;
use crate::objects::PodView;
use crate::plan::{APP, OUTBOUND, Service};
use crate::process::{Launch, Process};

/// How long a proxy may drain when its pod ends, seconds; its own default is meant for a cluster.
pub const DRAIN_SECONDS: u64 = 10;

/// How long an app may take to end after SIGTERM.
pub const APP_END: Duration = Duration::from_secs(10);

/// How long a proxy may take: its drain and a moment.
pub const PROXY_END: Duration = Duration::from_secs(DRAIN_SECONDS + 2);

/// A pod of the mesh.
#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub service: &'static Service,
    pub address: Ipv4Addr,
    /// Given by the API server; another one after each start.
    pub uid: Option<String>,
    pub phase: Phase,
    /// What the readiness probe last said.
    pub ready: bool,
    /// Whether it has been ready since its start.
    pub was_ready: bool,
    /// Counts starts, so that a late word about an earlier process is recognised.
    pub generation: u32,
    pub app: Slot,
    pub proxy: Slot,
    pub probe: Option<AbortHandle>,
}

/// One place for a process in a pod.
#[derive(Debug)]
pub enum Slot {
    /// Pods of this service have no such process.
    Absent,
    /// Not started yet.
    Waiting,
    Running(Process),
    Ended,
}

/// The life of a pod.
#[derive(Debug)]
pub enum Phase {
    Up,
    Leaving(Leaving),
    /// Why.
    Crashed(String),
}

/// An end in order.
#[derive(Debug)]
pub struct Leaving {
    pub step: Step,
    /// When the step has lasted long enough: the next one follows, for processes by SIGKILL.
    pub until: Instant,
    pub then: Then,
}

/// The steps of leaving, in order: callers hear of it, then the app ends, then its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Serving,
    App,
    Proxy,
    Gone,
}

/// What follows the end of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Remove,
    Restart,
}

/// The two kinds of process in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    App,
    Proxy,
}

impl Kind {
    /// Name of the container and of its log file.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Proxy => "proxy",
        }
    }
}

/// What the programs of all pods are told.
#[derive(Debug)]
pub struct Environment {
    pub dir: Dir,
    pub bin_dir: PathBuf,
    pub kubernetes_api: String,
}

impl Slot {
    /// A slot for a binary that a service may have.
    pub fn of(binary: Option<&str>) -> Self {
        if binary.is_some() { Self::Waiting } else { Self::Absent }
    }

    /// The process, if it runs.
    pub fn process(&self) -> Option<&Process> {
        if let Self::Running(process) = self { Some(process) } else { None }
    }

    /// Whether a process runs here.
    pub fn runs(&self) -> bool {
        self.process().is_some()
    }
}

impl Pod {
    /// A pod whose processes have not been started.
    pub fn new(name: String, service: &'static Service, address: Ipv4Addr) -> Self {
        Self {
            name,
            service,
            address,
            uid: None,
            phase: Phase::Up,
            ready: false,
            was_ready: false,
            generation: 0,
            app: Slot::of(service.app),
            proxy: Slot::of(service.proxy),
            probe: None,
        }
    }

    pub fn slot(&self, kind: Kind) -> &Slot {
        match kind {
            Kind::App => &self.app,
            Kind::Proxy => &self.proxy,
        }
    }

    pub fn slot_mut(&mut self, kind: Kind) -> &mut Slot {
        match kind {
            Kind::App => &mut self.app,
            Kind::Proxy => &mut self.proxy,
        }
    }

    /// Everything that runs in the pod.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        [&self.app, &self.proxy].into_iter().filter_map(Slot::process)
    }

    pub fn has_crashed(&self) -> bool {
        matches!(self.phase, Phase::Crashed(_))
    }

    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Leaving(_))
    }

    /// Whether the pod counts as a replica: it lives and has not been told to go for good.
    pub fn is_replica(&self) -> bool {
        match &self.phase {
            Phase::Up => true,
            Phase::Leaving(leaving) => leaving.then == Then::Restart,
            Phase::Crashed(_) => false,
        }
    }

    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Crashed(_) => State::Crashed,
            Phase::Leaving(_) => State::Leaving,
            Phase::Up if self.ready => State::Ready,
            Phase::Up if self.was_ready => State::NotReady,
            Phase::Up => State::Starting,
        }
    }

    /// Stops asking whether it is ready.
    pub fn stop_probe(&mut self) {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }

    /// The program of one kind and how it is called; none if pods of this service have none.
    pub fn launch(&self, kind: Kind, environment: &Environment) -> Option<Launch> {
        let dir = &environment.dir;
        let log = dir.log(&self.name, kind.name());
        match kind {
            Kind::Proxy => {
                let config = dir.config(&self.name).display().to_string();
                let args = [
                    ["-c", &config],
                    ["--service-cluster", self.service.name],
                    ["--service-node", &self.name],
                    // Two of each: enough to show that workers share what they must, small on a laptop.
                    ["--concurrency", "2"],
                    ["--drain-time-s", &DRAIN_SECONDS.to_string()],
                ];
                Some(Launch {
                    program: environment.bin_dir.join(self.service.proxy?),
                    args: args.concat().into_iter().map(Into::into).collect(),
                    env: Vec::new(),
                    // The access log of the shipped files goes to standard output, as in a container.
                    stdout: dir.access_log(&self.name),
                    stderr: log,
                })
            }
            Kind::App => Some(Launch {
                program: environment.bin_dir.join(self.service.app?),
                args: if self.service.proxy.is_none() {
                    self.discovery_args(environment)
                } else {
                    Vec::new()
                },
                env: vec![
                    ("LISTEN_ADDR", format!("{}:{APP}", self.address)),
                    ("SIDECAR_URL", format!("http://{}:{OUTBOUND}", self.address)),
                ],
                stdout: log.clone(),
                stderr: log,
            }),
        }
    }

    /// The settings of sds: what a cluster would give it by its service account.
    fn discovery_args(&self, environment: &Environment) -> Vec<std::ffi::OsString> {
        let args = [
            ["--listen".to_owned(), format!("{}:{APP}", self.address)],
            ["--kubernetes-namespace".to_owned(), crate::objects::NAMESPACE.to_owned()],
            ["--kubernetes-api-host".to_owned(), environment.kubernetes_api.clone()],
            ["--kubernetes-token-path".to_owned(), environment.dir.token().display().to_string()],
            ["--kubernetes-ca-path".to_owned(), environment.dir.ca().display().to_string()],
        ];
        args.concat().into_iter().map(Into::into).collect()
    }

    /// The pod as Kubernetes sees it.
    pub fn view(&self) -> PodView {
        let containers = [(Kind::App, &self.app), (Kind::Proxy, &self.proxy)];
        PodView {
            name: self.name.clone(),
            uid: self.uid.clone(),
            address: self.address,
            ready: self.ready,
            leaving: self.is_leaving(),
            crashed: self.has_crashed(),
            containers: containers
                .into_iter()
                .filter(|(_, slot)| !matches!(slot, Slot::Absent))
                .map(|(kind, slot)| (kind.name(), slot.runs()))
                .collect(),
        }
    }

    /// The pod as the user sees it.
    pub fn status(&self, dir: &Dir) -> control::Pod {
        let containers =
            [Kind::App, Kind::Proxy].into_iter().filter(|kind| !matches!(self.slot(*kind), Slot::Absent));
        control::Pod {
            name: self.name.clone(),
            service: self.service.name.to_owned(),
            address: self.address,
            state: self.state(),
            reason: if let Phase::Crashed(reason) = &self.phase { Some(reason.clone()) } else { None },
            ports: self.service.ports().to_vec(),
            containers: containers
                .map(|kind| {
                    let container = control::Container {
                        pid: self.slot(kind).process().map(|process| process.pid),
                        log: dir.log(&self.name, kind.name()),
                        access_log: (kind == Kind::Proxy).then(|| dir.access_log(&self.name)),
                    };
                    (kind.name().to_owned(), container)
                })
                .collect(),
        }
    }
}
