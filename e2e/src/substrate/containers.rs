//! The containers substrate: our images in Docker, on a private network of this machine, one mesh at a time.
//!
//! It works as a small cluster of one node: `cluster` does what controllers do, `member` what the kubelet does, and the real sds
//! hears of it through kube-api on the network's gateway. Beside them: `blueprint` (how containers are made), `images`, `engine`
//! (network, what was left behind), `service_account` (the rights of sds), `node_port` (several ingresses, one address).
//! All of it runs on one thread of its own, so that neither the load nor a test that ends waits for it or takes it along.

mod blueprint;
mod cluster;
mod engine;
mod images;
mod member;
mod node_port;
mod service_account;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use local_mesh::plan::{self, ADMIN, INBOUND, OUTBOUND};
use local_mesh::process::Signal;
use serde_json::Value;
use testcontainers_modules::testcontainers::bollard::query_parameters as query;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use self::blueprint::{Blueprint, FORWARDED};
use self::cluster::Cluster;
use self::engine::{Network, SECOND_TAG};
use self::node_port::Ready;
use crate::config;
use crate::mesh::Setup;
use crate::pod::{Identity, Pod};
use crate::substrate::Control;
use crate::turn;

/// Taking everything away may take this long when a test has failed.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A mesh of containers.
pub struct Containers {
    cluster: Arc<Cluster>,
    ingress: SocketAddr,
    ended: bool,
    _folder: tempfile::TempDir,
    /// Only one test has a mesh at a time: the cores are the same for all, and so is the label.
    _turn: File,
}

/// The thread on which everything runs that speaks with Docker.
fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle.spawn(clean_up_when_interrupted());
        handle
    })
}

/// Runs something there; what panics there panics here.
async fn there<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    match runtime().spawn(future).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Ctrl-C, or a test runner that has waited long enough: the containers go with the process.
async fn clean_up_when_interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let code = tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    let docker = engine::connect().await;
    let _ = tokio::time::timeout(END_PATIENCE, engine::reap(&docker)).await;
    std::process::exit(code);
}

impl Containers {
    pub async fn start(setup: &Setup) -> Self {
        let turn = turn::wait();
        let own = setup.clone();
        let (mut mesh, ready) = there(async move { Self::prepare(&own, turn).await }).await;
        // From here on the value is dropped on the test's thread, whatever goes wrong on the other.
        let own = setup.clone();
        mesh.ingress = mesh.with(async move |cluster| begin(cluster, ready, &own).await).await;
        mesh
    }

    /// Everything but the pods.
    async fn prepare(setup: &Setup, turn: File) -> (Self, Ready) {
        let docker = engine::connect().await;
        let left = engine::reap(&docker).await;
        assert!(left.is_empty(), "an earlier run left what cannot be removed: {left:?}");
        let images = images::load(&docker).await;
        let sandbox_tag = images::sandbox(&docker).await;
        let run = std::process::id().to_string();
        let network = Network::create(&docker, &run).await;
        let network = network.unwrap_or_else(|error| panic!("Docker makes no network: {error}"));

        let folder = tempfile::tempdir().expect("a temporary folder");
        // The containers' user is another one than the test's.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        for service in config::SERVICES {
            let own = folder.path().join("config").join(service);
            std::fs::create_dir_all(&own).expect("a folder for the configuration");
            std::fs::write(own.join("envoy.yaml"), config::text(service, setup.edit)).expect("it is written");
        }
        let (kubernetes, address) =
            cluster::start_kubernetes(network.gateway, &folder.path().join("account"));
        let print = Blueprint {
            docker,
            run,
            network,
            sandbox_tag,
            images: Arc::new(Mutex::new(images)),
            folder: folder.path().to_owned(),
            kubernetes: address,
            pet_delay: setup.pet_delay,
            fail_static: setup.fail_static,
        };
        let ready = Ready::default();
        let cluster = Cluster::new(print, kubernetes, ready.clone());
        let ingress = SocketAddr::from(([0, 0, 0, 0], 0));
        (Self { cluster, ingress, ended: false, _folder: folder, _turn: turn }, ready)
    }

    /// Does something with the mesh on its thread.
    async fn with<T, F>(&self, action: impl FnOnce(Arc<Cluster>) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        there(action(self.cluster.clone())).await
    }
}

/// Starts the pods; tells where the outside calls.
async fn begin(cluster: Arc<Cluster>, ready: Ready, setup: &Setup) -> SocketAddr {
    cluster.boot(setup).await;
    let ingress = match cluster.staying("ingress").as_slice() {
        [only] => (only.address, INBOUND).into(),
        _ => node_port::open(ready).await,
    };
    cluster.answers(ingress).await;
    ingress
}

/// What every substrate can be asked.
impl Containers {
    pub fn ingress(&self) -> SocketAddr {
        self.ingress
    }

    /// A port of the pod's own loopback is reached through the container that owns its network.
    pub async fn reach(&self, pod: &Pod, port: u16) -> SocketAddr {
        let port = if matches!(port, OUTBOUND | ADMIN) { port + FORWARDED } else { port };
        (pod.address, port).into()
    }

    pub async fn pods(&self) -> Vec<Pod> {
        self.cluster.members().iter().map(|pod| pod.seen()).collect()
    }

    pub async fn runs(&self, run: &Identity) -> bool {
        crate::pod::runs(&self.pods().await, run)
    }

    pub async fn begin_scale(&self, service: &str, replicas: u32, now: bool) {
        let service = plan::service(service).expect("a service");
        self.with(async move |cluster| {
            let staying = cluster.staying(service.name);
            for _ in staying.len()..replicas as usize {
                tokio::spawn(cluster.clone().add(service));
            }
            let leaving = staying.into_iter().skip(replicas as usize);
            let leaving =
                leaving.map(|pod| tokio::spawn(cluster.clone().remove(pod, now))).collect::<Vec<_>>();
            if now {
                join_all(leaving).await;
            }
        })
        .await;
    }

    pub async fn restart(&self, service: &str) {
        let service = plan::service(service).expect("a service");
        self.with(|cluster| cluster.restart(service)).await;
    }

    pub async fn begin_restart(&self, service: &str) {
        let service = plan::service(service).expect("a service");
        self.with(async move |cluster| drop(tokio::spawn(cluster.restart(service)))).await;
    }

    /// Its controller makes another one while it leaves.
    pub async fn delete(&self, pod: &Pod) {
        let name = pod.name.clone();
        self.with(async move |cluster| {
            let pod = cluster.member(&name);
            tokio::join!(cluster.clone().add(pod.service), cluster.clone().remove(pod.clone(), false));
        })
        .await;
    }

    pub async fn kill(&self, pod: &Pod) {
        let name = pod.name.clone();
        self.with(async move |cluster| cluster.member(&name).kill(&cluster.print).await).await;
    }

    pub async fn signal(&self, pod: &Pod, container: &str, signal: Signal) {
        let (id, signal) = (self.id(pod, container), signal.as_raw().to_string());
        self.with(async move |cluster| cluster.print.signal(&id, &signal).await).await;
    }

    pub async fn recover(&self, service: &str) {
        let service = service.to_owned();
        self.with(async move |cluster| {
            for pod in cluster.staying(&service) {
                pod.recover(&cluster.print).await;
            }
        })
        .await;
    }

    pub async fn edit_config(&self, service: &str, edit: &(dyn Fn(&mut Value) + Sync)) {
        config::edit(&self.cluster.print.config(service), edit);
        for pod in self.cluster.members().iter().filter(|pod| pod.service.name == service) {
            config::edit(&self.cluster.print.config(&pod.name), edit);
        }
    }

    pub async fn edit_pod(&self, pod: &Pod, edit: &(dyn Fn(&mut Value) + Sync)) {
        config::edit(&self.cluster.print.config(&pod.name), edit);
    }

    pub async fn change_image(&self, service: &str) {
        let service = plan::service(service).expect("a service");
        let program = service.app.or(service.proxy).expect("a program");
        self.with(async move |cluster| {
            let repository = format!("petmesh/{program}");
            let old = cluster.print.images.lock().unwrap()[program].clone();
            let options = query::TagImageOptionsBuilder::new().repo(&repository).tag(SECOND_TAG).build();
            let tagged = cluster.print.docker.tag_image(&old, Some(options)).await;
            tagged.unwrap_or_else(|error| panic!("no second tag for {old}: {error}"));
            let new = format!("{repository}:{SECOND_TAG}");
            cluster.print.images.lock().unwrap().insert(program.to_owned(), new);
            cluster.restart(service).await;
        })
        .await;
    }

    pub async fn set_control(&self, control: Control) {
        self.with(async move |cluster| cluster.set_control(control).await).await;
    }

    pub fn host(&self) -> IpAddr {
        self.cluster.print.network.gateway.into()
    }

    pub fn loopback(&self, _pod: &Pod) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    pub async fn process(&self, pod: &Pod, container: &str) -> Option<u32> {
        let id = self.cluster.members().iter().find(|found| found.name == pod.name)?.id(container)?;
        self.with(async move |cluster| cluster.print.process(&id).await).await
    }

    pub async fn set_link(&self, pod: &Pod, joined: bool) {
        let name = pod.name.clone();
        self.with(async move |cluster| {
            let (pod, print) = (cluster.member(&name), &cluster.print);
            let done = if joined {
                print.network.join(&print.docker, &pod.sandbox, pod.address, pod.service.name).await
            } else {
                print.network.part(&print.docker, &pod.sandbox).await
            };
            done.unwrap_or_else(|error| panic!("the link of {name}: {error}"));
        })
        .await;
    }

    pub async fn set_paused(&self, pod: &Pod, container: &str, paused: bool) {
        let id = self.id(pod, container);
        self.with(async move |cluster| {
            let docker = &cluster.print.docker;
            let done =
                if paused { docker.pause_container(&id).await } else { docker.unpause_container(&id).await };
            done.unwrap_or_else(|error| panic!("a container cannot be frozen or freed: {error}"));
        })
        .await;
    }

    /// The engine, which is root, answers for the container: an empty archive is enough to ask.
    pub async fn write_to_root(&self, pod: &Pod, container: &str) -> Option<String> {
        let id = self.id(pod, container);
        self.with(async move |cluster| {
            let options = query::UploadToContainerOptionsBuilder::new().path("/").build();
            let empty = http_body_util::Either::Left(http_body_util::Full::new(vec![0; 1024].into()));
            let done = cluster.print.docker.upload_to_container(&id, Some(options), empty).await;
            done.err().map(|error| error.to_string())
        })
        .await
    }

    pub async fn access_log(&self, pod: &Pod) -> String {
        let id = self.id(pod, "proxy");
        self.with(async move |cluster| cluster.print.output(&id, false).await).await
    }

    pub async fn end(&mut self) -> Vec<String> {
        self.ended = true;
        self.with(async move |cluster| cluster.end().await).await
    }

    fn id(&self, pod: &Pod, container: &str) -> String {
        let id = self.cluster.member(&pod.name).id(container);
        id.unwrap_or_else(|| panic!("{} has no {container}", pod.name))
    }
}

impl Drop for Containers {
    /// The test has failed, or the start has: the last words of every container, then nothing is left.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let cluster = self.cluster.clone();
        let (done, waited) = std::sync::mpsc::channel();
        runtime().spawn(async move {
            let logs = cluster.all_logs().await;
            let left = cluster.end().await;
            let _ = done.send((logs, left));
        });
        match waited.recv_timeout(END_PATIENCE) {
            Ok((logs, left)) => println!("the containers' last lines:{logs}\nleft behind: {left:?}"),
            Err(_) => println!("the containers could not be removed in time; the next run removes them"),
        }
    }
}
