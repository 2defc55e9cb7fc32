//! The handle on a mesh: what a test can ask of it and do to it, on any substrate.
//!
//! `E2E_TARGET` chooses the substrate: local, containers, kubernetes or k3s.

mod faults;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use local_mesh::plan;
use local_mesh::process::Signal;
use serde_json::Value;

use crate::clock::Clock;
use crate::http::{self, Answer, Failure};
use crate::load::{Connections, Load};
use crate::pod::{Identity, Pod, State};
use crate::report;
use crate::substrate::{Control, Substrate, Target};

/// How a test's mesh differs from the usual one.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// Pods of a service, where not the usual number: two pets, one of every other service.
    pub replicas: BTreeMap<&'static str, u32>,
    /// A change to each Envoy file, as a tree.
    pub edit: Option<fn(&mut Value)>,
    /// How long pet holds each answer back, as `PET_DELAY`: with it there is always something under way.
    pub pet_delay: Option<&'static str>,
    /// How long discovery keeps endpoints that are not ready, as `FAIL_STATIC_TIME_S`.
    pub fail_static: Option<&'static str>,
    /// A wall clock that the test moves.
    pub clock: Option<Clock>,
}

impl Setup {
    /// How many pods of a service the test wants.
    #[must_use]
    pub fn replicas(&self, service: &str) -> u32 {
        let usual = plan::service(service).map_or(1, |service| service.replicas);
        self.replicas.get(service).copied().unwrap_or(usual)
    }
}

/// A running mesh; it ends with this value.
pub struct Mesh {
    target: Target,
    substrate: Substrate,
}

impl Mesh {
    /// The usual mesh: two pets, one pod of every other service.
    pub async fn start() -> Self {
        Self::with(&Setup::default()).await
    }

    /// A mesh as set up.
    pub async fn with(setup: &Setup) -> Self {
        report::ran();
        let target = Target::chosen();
        Self { target, substrate: Substrate::start(target, setup).await }
    }

    /// Where the outside calls.
    #[must_use]
    pub fn ingress(&self) -> SocketAddr {
        self.substrate.ingress()
    }

    /// One GET through the ingress; it must be answered, whatever the status.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// The same with header fields.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        answered(self.try_get(path, headers).await, path)
    }

    /// The same where there may be no answer.
    ///
    /// # Errors
    /// There was no complete answer in time.
    pub async fn try_get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, Failure> {
        http::get(self.ingress(), "127.0.0.1:10000", path, headers).await
    }

    /// One GET as an app sends it: through its own sidecar, naming the service in `Host`.
    pub async fn call_from(&self, pod: &Pod, service: &str, path: &str) -> Answer {
        let sidecar = self.substrate.reach(pod, plan::OUTBOUND).await;
        answered(http::get(sidecar, service, path, &[]).await, path)
    }

    /// A page of a proxy's admin interface.
    pub async fn admin(&self, pod: &Pod, path: &str) -> String {
        let admin = self.substrate.reach(pod, plan::ADMIN).await;
        answered(http::get(admin, "admin", path, &[]).await, path).body
    }

    /// Ends a pod's proxy at once, without a drain: its own admin interface is asked for it, which works on every substrate.
    pub async fn quit_proxy(&self, pod: &Pod) {
        let admin = self.substrate.reach(pod, plan::ADMIN).await;
        // The proxy may be gone before its answer has come.
        let _ = http::post(admin, "admin", "/quitquitquit").await;
    }

    /// A page of the first discovery service.
    pub async fn discovery(&self, path: &str) -> Answer {
        let sds = self.substrate.reach(&self.pod("sds", 1).await, plan::APP).await;
        answered(http::get(sds, "sds", path, &[]).await, path)
    }

    /// What discovery answers for a service: the addresses of its pods, in order.
    pub async fn registered(&self, service: &str) -> Vec<IpAddr> {
        let answer = self.discovery(&format!("/v1/registration/{service}")).await.json();
        let hosts = answer["hosts"].as_array().unwrap_or_else(|| panic!("no hosts in {answer}"));
        let address = |host: &Value| host["ip_address"].as_str().and_then(|ip| ip.parse().ok());
        let mut found: Vec<IpAddr> = hosts.iter().map(|host| address(host).expect("an address")).collect();
        found.sort();
        found
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
    pub async fn pods(&self) -> Vec<Pod> {
        self.substrate.pods().await
    }

    /// The pods of a service as they are now.
    pub async fn pods_of(&self, service: &str) -> Vec<Pod> {
        self.pods().await.into_iter().filter(|pod| pod.service == service).collect()
    }

    /// The first, second, … pod of a service as it is now.
    pub async fn pod(&self, service: &str, number: usize) -> Pod {
        let mut pods = self.pods_of(service).await;
        assert!((1..=pods.len()).contains(&number), "no {service} number {number}: {pods:#?}");
        pods.swap_remove(number - 1)
    }

    /// The runs of all containers of a service.
    pub async fn identities(&self, service: &str) -> Vec<Identity> {
        self.pods_of(service).await.iter().flat_map(Pod::identities).collect()
    }

    /// Whether every one of these runs has ended.
    pub async fn ended(&self, runs: &[Identity]) -> bool {
        for run in runs {
            if self.substrate.runs(run).await {
                return false;
            }
        }
        true
    }

    /// Brings a service to a number of pods and waits for it; leaving pods serve until callers have heard of it.
    pub async fn scale(&self, service: &str, replicas: u32) {
        self.begin_scale(service, replicas, false).await;
        self.until(&format!("{service} has {replicas} pods, all ready"), async || {
            let pods = self.pods_of(service).await;
            pods.len() == replicas as usize && all_ready(&pods)
        })
        .await;
    }

    /// Only begins it; with `now` leaving pods end at once.
    pub async fn begin_scale(&self, service: &str, replicas: u32, now: bool) {
        self.substrate.begin_scale(service, replicas, now).await;
    }

    /// Replaces the pods of a service one after the other, and waits for it.
    pub async fn restart(&self, service: &str) {
        let before = self.identities(service).await;
        self.substrate.restart(service).await;
        self.replaced(service, &before).await;
    }

    /// Rolls out another tag of the image that a service's pods run, and waits for it.
    pub async fn change_image(&self, service: &str) {
        let before = self.identities(service).await;
        self.substrate.change_image(service).await;
        self.replaced(service, &before).await;
    }

    /// Deletes a pod in order, as the drain of a node does, and waits until another one has taken its place.
    pub async fn delete(&self, pod: &Pod) {
        self.substrate.delete(pod).await;
        self.replaced(&pod.service, &pod.identities()).await;
    }

    /// Sends SIGKILL to all containers of a pod.
    pub async fn kill(&self, pod: &Pod) {
        self.substrate.kill(pod).await;
    }

    /// Brings back what ended, where the substrate does not do so by itself, and waits for it.
    pub async fn recover(&self, service: &str) {
        self.begin_recovery(service).await;
        self.settled(service).await;
    }

    /// Only begins it.
    pub async fn begin_recovery(&self, service: &str) {
        self.substrate.recover(service).await;
    }

    /// Sends SIGTERM (or another signal that ends it) to one container of a pod and waits for its end.
    pub async fn end_container(&self, pod: &Pod, container: &str, signal: Signal) {
        let run =
            pod.identity(container).unwrap_or_else(|| panic!("{} has no running {container}", pod.name));
        self.substrate.signal(pod, container, signal).await;
        self.until(&format!("{container} of {} ends", pod.name), async || !self.substrate.runs(&run).await)
            .await;
    }

    /// Changes the Envoy file of a service, as an edited ConfigMap would: in one step, noticed by the proxies themselves.
    pub async fn apply_config(&self, service: &str, edit: impl Fn(&mut Value) + Sync) {
        self.substrate.edit_config(service, &edit).await;
    }

    /// Takes the Kubernetes API away: connections are cut and refused.
    pub async fn cut_kubernetes(&self) {
        self.substrate.set_control(Control::NoKubernetes).await;
    }

    /// Gives it back, with every slice calling every endpoint not ready although all serve.
    pub async fn restore_kubernetes_with_unready_slices(&self) {
        self.substrate.set_control(Control::Unready).await;
    }

    /// Gives it back, in order.
    pub async fn restore_kubernetes(&self) {
        self.substrate.set_control(Control::Well).await;
    }

    /// Parts a pod from the network.
    pub async fn cut_link(&self, pod: &Pod) {
        self.substrate.set_link(pod, false).await;
    }

    /// Joins it again, at the same address.
    pub async fn restore_link(&self, pod: &Pod) {
        self.substrate.set_link(pod, true).await;
    }

    /// Freezes a container: its connections stay open, and nothing is read or answered.
    pub async fn pause(&self, pod: &Pod, container: &str) {
        self.substrate.set_paused(pod, container, true).await;
    }

    /// Lets it go on.
    pub async fn unpause(&self, pod: &Pod, container: &str) {
        self.substrate.set_paused(pod, container, false).await;
    }

    /// What a write to the root of a container's file system is answered with; none if it works.
    pub async fn write_to_root(&self, pod: &Pod, container: &str) -> Option<String> {
        self.substrate.write_to_root(pod, container).await
    }

    /// The access log of a pod's proxy, as far as it has been written.
    pub async fn access_log(&self, pod: &Pod) -> Vec<String> {
        let text = self.substrate.access_log(pod).await;
        // Where the log and the access log share one stream: Envoy's default format begins with the time.
        text.lines().filter(|line| line.starts_with("[2")).map(str::to_owned).collect()
    }

    /// How many requests a pod's proxy has carried, readiness probes apart.
    pub async fn served(&self, pod: &Pod) -> usize {
        let probe = |line: &String| line.contains("petmesh-probe") || line.contains("kube-probe");
        self.access_log(pod).await.iter().filter(|line| !probe(line)).count()
    }

    /// Waits until every pod of a service is ready.
    pub async fn settled(&self, service: &str) {
        let what = format!("every pod of {service} is ready");
        self.until(&what, async || all_ready(&self.pods_of(service).await)).await;
    }

    /// Waits until these runs have ended and every pod of the service is ready.
    async fn replaced(&self, service: &str, before: &[Identity]) {
        let what = format!("{service} runs anew");
        self.until(&what, async || self.ended(before).await && all_ready(&self.pods_of(service).await)).await;
    }

    /// Waits for something that must come about.
    pub async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let (patience, look) = self.patience();
        let end = Instant::now() + patience;
        while !done().await {
            assert!(Instant::now() < end, "never came about: {what}; {:#?}", self.pods().await);
            tokio::time::sleep(look).await;
        }
    }

    /// Longer than anything takes that does come about, and how often a test looks whether it has. In a cluster a changed
    /// ConfigMap alone may take a minute and a half.
    fn patience(&self) -> (Duration, Duration) {
        match self.target {
            Target::Local => (Duration::from_secs(60), Duration::from_millis(20)),
            Target::Containers => (Duration::from_secs(60), Duration::from_millis(100)),
            Target::Kubernetes | Target::K3s => (Duration::from_secs(240), Duration::from_millis(500)),
        }
    }

    /// Ends the mesh and makes sure that nothing of it is left.
    pub async fn down(mut self) {
        let left = self.substrate.end().await;
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

fn all_ready(pods: &[Pod]) -> bool {
    !pods.is_empty() && pods.iter().all(|pod| pod.state == State::Ready)
}

fn answered(answer: Result<Answer, Failure>, path: &str) -> Answer {
    answer.unwrap_or_else(|failure| panic!("no answer to {path}: {failure:?}"))
}
