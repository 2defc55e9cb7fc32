//! The beginning: look before starting anything, open what the supervisor serves, make the pods, start the processes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::{UdpSocket, UnixListener};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lifecycle::HEARD_AFTER;
use super::{END_TO_END, Event, Inbox, Mesh, Options, Progress, QUEUE};
use crate::dir::{self, Dir};
use crate::dns::{self, Names};
use crate::error::Error;
use crate::objects::NAMESPACE;
use crate::plan::{Allocator, INBOUND, MAX_REPLICAS, SERVICES, Service, free_name, service};
use crate::pod::{Environment, Kind, Phase, Pod, Slot};
use crate::{control, preflight, probe, process, render};

/// How often a pod is asked until it is ready for the first time: the user waits.
const FIRST_PROBES: Duration = Duration::from_millis(10);

/// So many probes in turn without an answer make a pod not ready, as `failureThreshold` in deploy/: a busy machine is no failure.
const UNANSWERED: u32 = 3;

/// How often afterwards; an end is heard of at once, without a probe.
const LATER_PROBES: Duration = Duration::from_secs(1);

/// How often while a pod that has been ready is not.
const ANXIOUS_PROBES: Duration = Duration::from_millis(100);

/// Random bytes of the token that sds and kubectl show to the local Kubernetes API.
const TOKEN_BYTES: usize = 32;

/// Everything up to the first process: from here on the folder is ours and the control socket answers. If it fails,
/// nothing of it stays.
pub(super) async fn prepare(
    options: Options,
    progress: &mut impl FnMut(Progress),
) -> Result<(Mesh, Inbox), Error> {
    let dir = Dir::new(&options.dir);
    let lock = dir.take()?;
    let checked = check_replicas(&options.replicas).and_then(|()| preflight::binaries(&options.bin_dir));
    // A wrong command touches nothing: a mesh that was killed has left logs that say why.
    let keep = checked.is_err() && dir.has_remains();
    let prepared = match checked {
        Ok(()) => prepare_in(&dir, &lock, options, progress).await,
        Err(error) => Err(error),
    };
    if prepared.is_err()
        && !keep
        && let Err(error) = dir.abandon(false)
    {
        progress(Progress::Note(format!("not everything could be cleared away: {error}")));
    }
    prepared
}

async fn prepare_in(
    dir: &Dir,
    lock: &File,
    options: Options,
    progress: &mut impl FnMut(Progress),
) -> Result<(Mesh, Inbox), Error> {
    if let Some(pid) = dir.last_supervisor() {
        progress(Progress::Note(format!(
            "clearing away what an earlier mesh (supervisor {pid}) left when it was killed"
        )));
    }
    dir.clear()?;
    let (events, event_inbox) = mpsc::channel(QUEUE);
    let (commands, command_inbox) = mpsc::channel(QUEUE);
    let (kubernetes, kubernetes_api) = start_kubernetes(dir)?;
    let names = Names::default();
    let dns = start_dns(names.clone()).await?;
    let socket = dir.socket();
    let listener = UnixListener::bind(&socket).map_err(|e| Error::io("listen on", &socket, e))?;
    dir::make_private(&socket)?;
    tokio::spawn(control::serve(listener, commands));
    let environment = Environment { dir: dir.clone(), bin_dir: options.bin_dir.clone(), kubernetes_api };
    let mut mesh = Mesh {
        allocator: Allocator::new(options.addresses, options.refresh_delay * HEARD_AFTER),
        options,
        environment,
        pods: Vec::new(),
        names,
        dns,
        kubernetes,
        events,
        began: Instant::now(),
        booted: false,
        end_to_end: None,
        rolling: std::collections::VecDeque::new(),
        rolling_now: None,
        published: BTreeMap::new(),
        unready: false,
        _lock: lock.try_clone().map_err(|e| Error::io("hold the lock of", dir.path(), e))?,
    };
    mesh.create_pods()?;
    Ok((mesh, Inbox { events: event_inbox, commands: command_inbox }))
}

fn check_replicas(replicas: &BTreeMap<String, u32>) -> Result<(), Error> {
    for (name, wanted) in replicas {
        let service = known_service(name)?;
        check_count(service, *wanted)?;
        if *wanted == 0 {
            let text = format!(
                "the mesh cannot start without a pod of {name}; `petmesh scale {name}=0` takes it away later"
            );
            return Err(Error::Refused(text));
        }
    }
    Ok(())
}

/// The service with this name, or an error with those that exist.
pub(super) fn known_service(name: &str) -> Result<&'static Service, Error> {
    service(name).ok_or_else(|| Error::Unknown {
        kind: "service",
        name: name.to_owned(),
        existing: SERVICES.iter().map(|service| service.name.to_owned()).collect(),
    })
}

/// Whether a service may have as many pods.
pub(super) fn check_count(service: &Service, wanted: u32) -> Result<(), Error> {
    if service.is_edge() && wanted != 1 {
        let text = "the ingress is one pod: it is the one address that the outside knows";
        return Err(Error::Refused(text.to_owned()));
    }
    if wanted > MAX_REPLICAS {
        return Err(Error::Refused(format!(
            "{wanted} pods of {} are too many; at most {MAX_REPLICAS}",
            service.name
        )));
    }
    Ok(())
}

fn start_kubernetes(dir: &Dir) -> Result<(kube_api::Server, String), Error> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::Refused(format!("cannot start the local Kubernetes API: {error}"))
    };
    let token = token()?;
    let config = kube_api::Config {
        plain: None,
        tokens: vec![kube_api::Token::admin(&token)],
        anonymous: kube_api::Anonymous::Forbidden,
        namespaces: vec![NAMESPACE.to_owned()],
        ..kube_api::Config::default()
    };
    let server = kube_api::Server::start(config).map_err(|error| failed(&error))?;
    let address = server.tls_addr().ok_or_else(|| failed(&"it has no address"))?;
    dir::write_private(&dir.ca(), server.ca_pem())?;
    dir::write_private(&dir.token(), &token)?;
    dir::write_private(&dir.kubeconfig(), &server.kubeconfig(&token))?;
    Ok((server, format!("https://{address}")))
}

async fn start_dns(names: Names) -> Result<SocketAddr, Error> {
    let bind = || async { UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await };
    let socket = bind().await.map_err(|e| Error::Refused(format!("cannot open the DNS responder: {e}")))?;
    let address =
        socket.local_addr().map_err(|e| Error::Refused(format!("the DNS responder has no address: {e}")))?;
    tokio::spawn(dns::serve(socket, names));
    Ok(address)
}

/// Another one for each mesh, from the system's random numbers, in hexadecimal digits.
fn token() -> Result<String, Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; TOKEN_BYTES];
    let read = File::open(source).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| Error::io("draw a token from", source, e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Mesh {
    /// All pods of the first start: every port is tried and every file rendered before anything runs.
    fn create_pods(&mut self) -> Result<(), Error> {
        for service in &SERVICES {
            let wanted = self.options.replicas.get(service.name).copied().unwrap_or(service.replicas);
            for _ in 0..wanted {
                self.create_pod(service)?;
            }
        }
        Ok(())
    }

    /// A new pod, checked and rendered; `advance` starts its processes.
    pub(super) fn create_pod(&mut self, service: &'static Service) -> Result<String, Error> {
        let taken: Vec<&str> = self.pods.iter().map(|pod| pod.name.as_str()).collect();
        let name = free_name(service, &taken);
        let address = self.allocator.next(service, self.began.elapsed());
        if let Err(error) = self.check_pod(&name, service, address) {
            self.allocator.release(address, self.began.elapsed());
            return Err(error);
        }
        tracing::info!(pod = name, %address, "new pod");
        let at =
            self.pods.iter().rposition(|pod| pod.service == service).map_or(self.pods.len(), |last| last + 1);
        self.pods.insert(at, Pod::new(name.clone(), service, address));
        Ok(name)
    }

    /// Tries a pod's ports and renders its file.
    fn check_pod(&self, name: &str, service: &Service, address: Ipv4Addr) -> Result<(), Error> {
        preflight::ports(name, service, address)?;
        let dir = &self.environment.dir;
        dir.create_pod(name)?;
        if service.proxy.is_some() {
            let file = self.options.config_dir.join(format!("{}.yaml", service.name));
            let config = render::config(&file, address, self.dns)?;
            dir::write_private(&dir.config(name), &config)?;
        }
        Ok(())
    }

    /// Starts what may start: apps at once, proxies in the first start after those that they need.
    pub(super) fn start_waiting(&mut self) -> Result<(), Error> {
        for index in 0..self.pods.len() {
            let pod = &self.pods[index];
            if !matches!(pod.phase, Phase::Up) {
                continue;
            }
            if matches!(pod.app, Slot::Waiting) {
                self.start_process(index, Kind::App)?;
            }
            let pod = &self.pods[index];
            if matches!(pod.proxy, Slot::Waiting) && (self.booted || self.have_been_ready(pod.service.after))
            {
                self.start_process(index, Kind::Proxy)?;
            }
            let pod = &self.pods[index];
            if pod.probe.is_none() && !matches!(pod.proxy, Slot::Waiting) {
                self.start_probe(index);
            }
        }
        Ok(())
    }

    fn have_been_ready(&self, services: &[&str]) -> bool {
        self.pods.iter().filter(|pod| services.contains(&pod.service.name)).all(|pod| pod.was_ready)
    }

    fn start_process(&mut self, index: usize, kind: Kind) -> Result<(), Error> {
        let pod = &self.pods[index];
        let Some(launch) = pod.launch(kind, &self.environment) else { return Ok(()) };
        let (events, name, generation) = (self.events.clone(), pod.name.clone(), pod.generation);
        let started = process::start(&self.options.shim, &launch, move |status| async move {
            // The queue closes only with the supervisor itself.
            drop(events.send(Event::Exited { pod: name, kind, generation, status }).await);
        })?;
        tracing::info!(pod = pod.name, container = kind.name(), pid = started.pid, "started");
        if self.pods[index].service.is_edge() && !self.booted {
            self.ask_end_to_end();
        }
        *self.pods[index].slot_mut(kind) = Slot::Running(started);
        Ok(())
    }

    fn start_probe(&mut self, index: usize) {
        let pod = &self.pods[index];
        let (events, name, generation) = (self.events.clone(), pod.name.clone(), pod.generation);
        let (address, (port, path)) = (pod.address, pod.service.readiness());
        let task = tokio::spawn(async move {
            let mut known = false;
            let mut pause = FIRST_PROBES;
            let mut unanswered = 0;
            loop {
                let answer = probe::get(address, port, path).await;
                unanswered = if answer.is_none() { unanswered + 1 } else { 0 };
                let ready = answer == Some(200) || (known && (1..UNANSWERED).contains(&unanswered));
                if ready != known {
                    known = ready;
                    pause = if ready { LATER_PROBES } else { ANXIOUS_PROBES };
                    if events.send(Event::Probed { pod: name.clone(), generation, ready }).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(pause).await;
            }
        });
        self.pods[index].probe = Some(task.abort_handle());
    }

    /// Asks the ingress for a store with its pets until it answers: only then is the mesh up.
    fn ask_end_to_end(&mut self) {
        let (events, address) = (self.events.clone(), self.options.addresses.ingress);
        let task = tokio::spawn(async move {
            while probe::get(address, INBOUND, END_TO_END).await != Some(200) {
                tokio::time::sleep(FIRST_PROBES).await;
            }
            drop(events.send(Event::Answers).await);
        });
        self.end_to_end = Some(task.abort_handle());
    }
}
