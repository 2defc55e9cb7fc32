//! The handle on a mesh: what a test can ask of it and do to it, on any substrate.
//!
//! `E2E_TARGET` chooses the substrate; `local` is the only one so far.
//! Used by every test; calls the substrate (`local`) and `http`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use local_mesh::control::{Pod, Request, State, Status};
use local_mesh::plan;
use local_mesh::process::Signal;
use serde_json::Value;

use crate::http::{self, Answer, Failure};
use crate::load::{Connections, Load};
use crate::local::Local;

/// Longer than anything takes that does come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a test looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// How a test's mesh differs from the usual one.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// Pods of a service, where not the usual number.
    pub replicas: BTreeMap<&'static str, u32>,
    /// A change to each Envoy file, as a tree.
    pub edit: Option<fn(&mut Value)>,
    /// How long pet holds each answer back, as `PET_DELAY`: with it there is always something under way.
    pub pet_delay: Option<&'static str>,
}

/// A running mesh; it ends with this value.
pub struct Mesh {
    substrate: Local,
}

impl Mesh {
    /// The usual mesh: one petstore, two pets.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&Setup::default())
    }

    /// A mesh as set up.
    #[must_use]
    pub fn with(setup: &Setup) -> Self {
        let target = std::env::var("E2E_TARGET").unwrap_or_else(|_| "local".to_owned());
        assert_eq!(target, "local", "E2E_TARGET: there is no other substrate yet");
        Self { substrate: Local::start(setup) }
    }

    /// Where the outside calls.
    #[must_use]
    pub fn ingress(&self) -> SocketAddr {
        (self.substrate.ingress(), plan::INBOUND).into()
    }

    /// One GET through the ingress; it must be answered, whatever the status.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// The same with header fields.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        answered(http::get(self.ingress(), "127.0.0.1:10000", path, headers).await, path)
    }

    /// One GET as an app sends it: through its own sidecar, naming the service in `Host`.
    pub async fn call_from(&self, pod: &str, service: &str, path: &str) -> Answer {
        let sidecar = (self.pod(pod).address, plan::OUTBOUND).into();
        answered(http::get(sidecar, service, path, &[]).await, path)
    }

    /// A page of a proxy's admin interface.
    pub async fn admin(&self, pod: &str, path: &str) -> String {
        let admin = (self.pod(pod).address, plan::ADMIN).into();
        answered(http::get(admin, "admin", path, &[]).await, path).body
    }

    /// What discovery answers for a service: the addresses of its pods.
    pub async fn registered(&self, service: &str) -> Vec<Ipv4Addr> {
        let sds = (self.pod("sds-1").address, plan::APP).into();
        let path = format!("/v1/registration/{service}");
        let answer = answered(http::get(sds, "sds", &path, &[]).await, &path).json();
        let hosts = answer["hosts"].as_array().unwrap_or_else(|| panic!("no hosts in {answer}")).clone();
        hosts
            .iter()
            .map(|host| host["ip_address"].as_str().and_then(|ip| ip.parse().ok()).expect("an address"))
            .collect()
    }

    /// The load of these tests: a store with its pets, which passes every part.
    #[must_use]
    pub fn load(&self, rate: u32, connections: Connections) -> Load {
        Load {
            address: self.ingress(),
            path: local_mesh::END_TO_END.to_owned(),
            expected: "Toby".to_owned(),
            rate,
            connections,
        }
    }

    /// Every pod as it is now.
    #[must_use]
    pub fn pods(&self) -> Vec<Pod> {
        self.substrate.status().pods
    }

    /// One pod as it is now.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        self.pods().into_iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// The process of a pod's app or proxy.
    #[must_use]
    pub fn pid(&self, pod: &str, container: &str) -> u32 {
        self.pod(pod).containers[container].pid.unwrap_or_else(|| panic!("{pod} has no running {container}"))
    }

    /// Brings a service to a number of pods and waits for it; leaving pods serve until callers have heard of it.
    pub async fn scale(&self, service: &str, replicas: u32) {
        self.begin_scale(service, replicas, false);
        self.settled(service).await;
    }

    /// Only begins it; with `now` leaving pods end at once.
    pub fn begin_scale(&self, service: &str, replicas: u32, now: bool) {
        self.substrate.command(&Request::Scale { service: service.to_owned(), replicas, now });
    }

    /// Restarts a pod, or the pods of a service one after the other, and waits for it.
    pub async fn restart(&self, name: &str) {
        let service =
            plan::service(name).map_or_else(|| self.pod(name).service, |service| service.name.to_owned());
        self.substrate.command(&Request::Restart { name: name.to_owned() });
        self.settled(&service).await;
    }

    /// Sends a signal to all processes of a pod.
    pub fn kill(&self, pod: &str, signal: &str) {
        self.substrate.command(&Request::Kill { pod: pod.to_owned(), signal: signal.to_owned() });
    }

    /// Sends SIGTERM (or another signal that ends it) to one process of a pod and waits for its end.
    pub async fn end_process(&self, pod: &str, container: &str, signal: Signal) {
        let pid = self.pid(pod, container);
        let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        rustix::process::kill_process(target, signal).expect("the process exists");
        self.until(&format!("{container} of {pod} ends"), || {
            self.pod(pod).containers[container].pid.is_none()
        })
        .await;
        assert!(!process_exists(pid));
    }

    /// Changes the Envoy file of a running pod, as an edited ConfigMap would: in one step, noticed by the proxy itself.
    pub fn apply_config(&self, pod: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.substrate.dir().config(pod);
        let text = std::fs::read_to_string(&path).expect("the pod's file");
        let read = xds::read_bootstrap(pod, &text);
        let mut tree =
            xds::to_json(&read.unwrap_or_else(|found| panic!("{}", xds::render_text(&found, &text))).message);
        edit(&mut tree);
        let new = path.with_extension("new");
        // JSON is YAML.
        std::fs::write(&new, tree.to_string()).expect("the new file is written");
        std::fs::rename(&new, &path).expect("the new file takes the old one's place");
    }

    /// Takes the Kubernetes API away: connections are cut and refused.
    pub fn cut_kubernetes(&self) {
        self.substrate.command(&Request::Fault { fault: "down".to_owned() });
    }

    /// Gives it back.
    pub fn restore_kubernetes(&self) {
        self.substrate.command(&Request::Fault { fault: "none".to_owned() });
    }

    /// The access log of a pod's proxy, as far as it has been written.
    #[must_use]
    pub fn access_log(&self, pod: &str) -> Vec<String> {
        let path = self.substrate.dir().access_log(pod);
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until every pod of a service is ready.
    pub async fn settled(&self, service: &str) {
        let what = format!("every pod of {service} is ready");
        let at_rest =
            || self.pods().iter().filter(|pod| pod.service == service).all(|pod| pod.state == State::Ready);
        self.until(&what, at_rest).await;
    }

    /// Waits for something that must come about.
    pub async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "never came about: {what}; {:#?}", self.pods());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The same for what has to be asked over the network.
    pub async fn until_async(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done().await {
            assert!(Instant::now() < end, "never came about: {what}; {:#?}", self.pods());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the mesh and makes sure that nothing of it is left.
    pub fn down(mut self) {
        let pids: Vec<u32> = self.all_pids();
        assert!(self.substrate.end(), "the mesh ends in order");
        let left: Vec<&u32> = pids.iter().filter(|pid| process_exists(**pid)).collect();
        assert!(left.is_empty(), "still there: {left:?}");
    }

    fn all_pids(&self) -> Vec<u32> {
        let status: Status = self.substrate.status();
        status
            .pods
            .iter()
            .flat_map(|pod| pod.containers.values().filter_map(|container| container.pid))
            .collect()
    }
}

/// Whether a process lives; one that only waits to be looked at does not.
#[must_use]
pub fn process_exists(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn answered(answer: Result<Answer, Failure>, path: &str) -> Answer {
    answer.unwrap_or_else(|failure| panic!("no answer to {path}: {failure:?}"))
}
