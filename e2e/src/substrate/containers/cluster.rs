//! All pods of one mesh, and what controllers and kubelet would do with them: create, probe, publish, replace, take away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kube_api::On;
use local_mesh::END_TO_END;
use local_mesh::objects::{self, NAMESPACE, PodView};
use local_mesh::plan::{self, INBOUND, SERVICES, Service};
use serde_json::Value;

use super::blueprint::Blueprint;
use super::engine::{self, give_up};
use super::member::Member;
use super::node_port::Ready;
use super::service_account::{self, TOKEN};
use crate::http;
use crate::mesh::Setup;
use crate::substrate::Control;

/// A leaving pod serves for three of the proxies' polls, which come a second apart.
const SERVE: Duration = Duration::from_secs(3);

/// Between two readiness probes of a pod.
const PROBES: Duration = Duration::from_millis(250);

/// A new pod is ready within this time, and a new mesh answers.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(50);

/// A running mesh.
pub struct Cluster {
    pub print: Blueprint,
    kubernetes: Mutex<Option<kube_api::Server>>,
    ready: Ready,
    state: Mutex<State>,
    published: Mutex<BTreeMap<String, Value>>,
    /// Slices call every endpoint not ready.
    unready: AtomicBool,
}

#[derive(Default)]
struct State {
    members: Vec<Arc<Member>>,
    /// How many pods a service has had: no name comes twice.
    numbers: BTreeMap<&'static str, u32>,
    /// How many addresses have been given: a new pod never gets the address of one that has just left.
    addresses: u32,
}

/// Starts the API server on the network's gateway and writes what sds finds in its service account.
pub fn start_kubernetes(gateway: Ipv4Addr, account: &std::path::Path) -> (kube_api::Server, SocketAddr) {
    let config = kube_api::Config {
        plain: None,
        tls: Some((gateway, 0).into()),
        tls_ips: vec![IpAddr::V4(gateway)],
        tokens: vec![service_account::token()],
        anonymous: kube_api::Anonymous::Forbidden,
        namespaces: vec![NAMESPACE.to_owned()],
        ..kube_api::Config::default()
    };
    let server = match kube_api::Server::start(config) {
        Ok(server) => server,
        Err(error) => give_up(&format!(
            "{error}: the pods' network is not on this machine; run the tests where Docker itself runs, on Linux"
        )),
    };
    let address = server.tls_addr().expect("it serves HTTPS");
    std::fs::create_dir(account).expect("a folder for the service account");
    for (name, text) in [("ca.crt", server.ca_pem()), ("token", TOKEN), ("namespace", NAMESPACE)] {
        std::fs::write(account.join(name), text).expect("the service account is written");
    }
    (server, address)
}

impl Cluster {
    pub fn new(print: Blueprint, kubernetes: kube_api::Server, ready: Ready) -> Arc<Self> {
        Arc::new(Self {
            print,
            kubernetes: Mutex::new(Some(kubernetes)),
            ready,
            state: Mutex::default(),
            published: Mutex::default(),
            unready: AtomicBool::new(false),
        })
    }

    /// Starts every pod, those first that others ask at their start. That order saves empty polls; every part copes with any.
    pub async fn boot(self: &Arc<Self>, setup: &Setup) {
        self.publish();
        let wanted =
            SERVICES.iter().flat_map(|service| (0..setup.replicas(service.name)).map(move |_| service));
        let created = join_all(wanted.map(|service| self.create(service))).await;
        for name in ["sds", "pet", "petstore", "ingress"] {
            let pods: Vec<&Arc<Member>> = created.iter().filter(|pod| pod.service.name == name).collect();
            join_all(pods.iter().map(|pod| self.populate(pod))).await;
        }
    }

    /// Waits until the way through every part is open.
    pub async fn answers(&self, ingress: SocketAddr) {
        let end = Instant::now() + PATIENCE;
        loop {
            let last =
                http::get(ingress, "127.0.0.1:10000", END_TO_END, &[("user-agent", "petmesh-probe")]).await;
            match last {
                Ok(answer) if answer.status == 200 => return,
                last => assert!(Instant::now() < end, "the mesh does not answer: {last:?}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn create(self: &Arc<Self>, service: &'static Service) -> Arc<Member> {
        let (name, address) = {
            let mut state = self.state.lock().unwrap();
            let number = state.numbers.entry(service.name).or_default();
            *number += 1;
            let name = format!("{}-{number}", service.name);
            state.addresses += 1;
            (name, Ipv4Addr::from_bits(self.print.network.gateway.to_bits() + state.addresses))
        };
        Member::create(&self.print, service, name, address).await
    }

    /// Fills a pod and waits until it is ready.
    async fn populate(self: &Arc<Self>, pod: &Arc<Member>) {
        {
            let mut state = self.state.lock().unwrap();
            state.members.push(pod.clone());
            state.members.sort_by_key(|pod| (place(pod.service), pod.address));
        }
        self.publish();
        pod.populate(&self.print).await;
        tokio::spawn(self.clone().probe(pod.clone()));
        let end = Instant::now() + PATIENCE;
        while !pod.is_ready() && !pod.is_leaving() {
            if Instant::now() > end {
                panic!("{} does not become ready: {}", pod.name, self.logs(pod).await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn probe(self: Arc<Self>, pod: Arc<Member>) {
        while !pod.is_gone() {
            if pod.probe().await {
                self.publish();
            }
            tokio::time::sleep(PROBES).await;
        }
    }

    /// One more pod, ready.
    pub async fn add(self: Arc<Self>, service: &'static Service) {
        let pod = self.create(service).await;
        self.populate(&pod).await;
    }

    /// Lets a pod leave in order, or at once.
    pub async fn remove(self: Arc<Self>, pod: Arc<Member>, now: bool) {
        if !pod.begin_to_leave() {
            return;
        }
        if now {
            pod.kill(&self.print).await;
            pod.remove().await;
        } else {
            self.publish();
            pod.leave(&self.print, SERVE).await;
        }
        self.state.lock().unwrap().members.retain(|member| member.name != pod.name);
        self.publish();
    }

    /// Replaces the pods of a service one after the other: never one less than before, and one more at a time.
    pub async fn restart(self: Arc<Self>, service: &'static Service) {
        let mut leaving = Vec::new();
        for old in self.staying(service.name) {
            self.clone().add(service).await;
            leaving.push(tokio::spawn(self.clone().remove(old, false)));
        }
        join_all(leaving).await;
    }

    /// Every pod that is there, leaving ones too.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.state.lock().unwrap().members.clone()
    }

    /// The pods of a service that have not been told to go.
    pub fn staying(&self, service: &str) -> Vec<Arc<Member>> {
        let mut members = self.members();
        members.retain(|pod| pod.service.name == service && !pod.is_leaving());
        members
    }

    pub fn member(&self, name: &str) -> Arc<Member> {
        let found = self.members().into_iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Tells sds and the edge's port what has changed.
    fn publish(&self) {
        let members = self.members();
        let edge = members.iter().filter(|pod| pod.service.is_edge() && pod.is_ready());
        self.ready.set(edge.map(|pod| (pod.address, INBOUND).into()).collect());
        let kubernetes = self.kubernetes.lock().unwrap();
        let mut published = self.published.lock().unwrap();
        let Some(kubernetes) = kubernetes.as_ref() else { return };
        for service in SERVICES.iter().filter(|service| !service.is_edge()) {
            let views: Vec<PodView> =
                members.iter().filter(|pod| pod.service == service).map(|pod| self.view(pod)).collect();
            for object in [objects::service(service), objects::slice(service, &views)] {
                let key = format!("{} {}", object["kind"], service.name);
                if published.get(&key) != Some(&object) {
                    kubernetes.store().apply(object.clone()).expect("the store takes an object");
                    published.insert(key, object);
                }
            }
        }
    }

    fn view(&self, pod: &Member) -> PodView {
        let view = pod.view();
        PodView { ready: view.ready && !self.unready.load(Ordering::Relaxed), ..view }
    }

    pub async fn set_control(&self, control: Control) {
        self.unready.store(control == Control::Unready, Ordering::Relaxed);
        // Before the API server is back, so that these are its first words.
        self.publish();
        let faults = self.kubernetes.lock().unwrap().as_ref().expect("the API server").faults();
        match control {
            Control::Well | Control::Unready => {
                faults.clear();
                faults.up().await;
            }
            Control::NoKubernetes => faults.down().await,
            Control::KubernetesFails(status) => {
                faults.clear();
                faults.fail_next(u32::MAX, status, On::All);
                faults.cut();
            }
            Control::NoDns => unreachable!("a test that needs it is skipped"),
        }
    }

    /// The last lines of every container of a pod.
    async fn logs(&self, pod: &Member) -> String {
        let mut text = String::new();
        for container in ["app", "proxy"] {
            let Some(id) = pod.id(container) else { continue };
            let output = self.print.output(&id, true).await;
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(12)..];
            text.push_str(&format!("\n{} {container}:\n  {}", pod.name, last.join("\n  ")));
        }
        text
    }

    /// The last lines of every container.
    pub async fn all_logs(&self) -> String {
        let members = self.members();
        join_all(members.iter().map(|pod| self.logs(pod))).await.concat()
    }

    /// Takes everything away; tells what is left.
    pub async fn end(&self) -> Vec<String> {
        let members = std::mem::take(&mut self.state.lock().unwrap().members);
        join_all(members.iter().map(|pod| pod.remove())).await;
        let server = self.kubernetes.lock().unwrap().take();
        if let Some(server) = server {
            server.stop().await;
        }
        engine::reap(&self.print.docker).await
    }
}

fn place(service: &Service) -> usize {
    plan::SERVICES.iter().position(|known| known == service).unwrap_or_default()
}
