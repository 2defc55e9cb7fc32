//! The kubernetes substrate: a real cluster, through kubectl, in a namespace of the test's own.
//!
//! Each test creates its namespace, `petmesh-e2e-<random>`, deploys the shipped manifests into it and deletes it, also when it
//! fails: no state passes from one test to the next. What a killed run has left carries the label `petmesh.dev/e2e`; the next
//! run names it. The load goes to a NodePort: a port-forward belongs to one pod and would end with it.
//! Parts: `kubectl`, `generated` (the kustomization), `objects` (pods as Kubernetes tells of them), `forward` (admin pages),
//! `k3s` (a cluster of the test's own).

mod forward;
mod generated;
mod k3s;
mod kubectl;
mod objects;

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use local_mesh::process::Signal;
use serde_json::{Value, json};

use self::forward::Forwards;
use self::generated::{DEPLOYMENTS, Generated, LABEL};
use self::kubectl::Kubectl;
use crate::capability::Capability;
use crate::mesh::Setup;
use crate::pod::{Identity, Pod};
use crate::substrate::Control;
use crate::{config, http, turn};

/// The oldest minor version of Kubernetes 1 that the manifests run on: native sidecars and `preStop.sleep`.
const OLDEST: u32 = 30;

/// For a roll-out, as kubectl writes it.
const ROLL_OUT: &str = "--timeout=240s";

/// For the ingress' answer, an eviction that a budget holds up, the end of a namespace.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often to look meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// A mesh in a cluster.
pub struct Kubernetes {
    kubectl: Kubectl,
    ingress: SocketAddr,
    forwards: Forwards,
    ended: bool,
    _generated: Generated,
    _cluster: Option<k3s::Cluster>,
    /// Only one test has a mesh at a time: the cores are the same for all.
    _turn: File,
}

impl Kubernetes {
    pub async fn start(setup: &Setup) -> Self {
        Self::start_in(setup, None).await
    }

    pub async fn start_k3s(setup: &Setup) -> Self {
        let cluster = k3s::start().await;
        Self::start_in(setup, Some(cluster)).await
    }

    async fn start_in(setup: &Setup, cluster: Option<k3s::Cluster>) -> Self {
        let turn = turn::wait();
        let random = RandomState::new().hash_one(std::process::id()) & 0xffff_ffff;
        let namespace = format!("petmesh-e2e-{random:08x}");
        let kubeconfig = cluster.as_ref().map(|cluster| cluster.kubeconfig.clone());
        let kubectl = Kubectl { kubeconfig, namespace: namespace.clone() };
        preflight(&kubectl).await;
        let generated = Generated::write(&namespace, setup);
        let folder = generated.0.display().to_string();
        let mut mesh = Self {
            kubectl,
            ingress: ([0, 0, 0, 0], 0).into(),
            forwards: Forwards::default(),
            ended: false,
            _generated: generated,
            _cluster: cluster,
            _turn: turn,
        };
        // From here on whatever panics deletes the namespace.
        mesh.kubectl.must(&["apply", "--kustomize", &folder]).await;
        for service in DEPLOYMENTS {
            mesh.rolled_out(service).await;
        }
        mesh.ingress = mesh.find_ingress().await;
        mesh
    }

    async fn rolled_out(&self, service: &str) {
        self.kubectl.must(&["rollout", "status", &format!("deployment/{service}"), ROLL_OUT]).await;
    }

    /// `E2E_INGRESS`, else the NodePort at the first node that answers from here.
    async fn find_ingress(&self) -> SocketAddr {
        if let Ok(named) = std::env::var("E2E_INGRESS") {
            return named
                .parse()
                .unwrap_or_else(|error| panic!("E2E_INGRESS={named}: {error}; it is IP:PORT"));
        }
        let candidates: Vec<SocketAddr> = match &self._cluster {
            Some(cluster) => {
                let fixed =
                    json!([{"op": "replace", "path": "/spec/ports/0/nodePort", "value": k3s::NODE_PORT}]);
                self.kubectl
                    .must(&["patch", "service/ingress", "--type=json", "-p", &fixed.to_string()])
                    .await;
                vec![cluster.ingress]
            }
            None => {
                let service = self.kubectl.json(&["get", "service/ingress"]).await;
                let port =
                    service["spec"]["ports"][0]["nodePort"].as_u64().expect("the ingress has a NodePort");
                let port = u16::try_from(port).expect("a port");
                let nodes = objects::node_addresses(&self.kubectl.json(&["get", "nodes"]).await);
                nodes.into_iter().map(|node| (node, port).into()).collect()
            }
        };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for candidate in &candidates {
                let asked = http::get(*candidate, "127.0.0.1:10000", local_mesh::END_TO_END, &[]);
                let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
                if matches!(answer, Ok(Ok(answer)) if answer.status == 200) {
                    return *candidate;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        panic!(
            "the ingress answers at none of {candidates:?}: the nodes must be reachable from here, or E2E_INGRESS=IP:PORT names \
             a way to the Service `ingress` (not a port-forward, which ends with its pod)"
        );
    }

    /// Waits until Kubernetes says nothing more of the namespace.
    async fn delete_namespace(&self) -> Vec<String> {
        let name = self.kubectl.namespace.clone();
        let _ = self.kubectl.run(&["delete", "namespace", &name, "--ignore-not-found", "--wait=false"]).await;
        // The pods' own time to end is of no use here; only now no controller makes new ones.
        let _ = self.kubectl.run(&["delete", "pods", "--all", "--grace-period=1", "--wait=false"]).await;
        let deletion = ["delete", "namespace", &name, "--ignore-not-found", "--timeout=180s"];
        self.kubectl.run(&deletion).await.err().into_iter().collect()
    }
}

/// What can be known before anything is written.
async fn preflight(kubectl: &Kubectl) {
    let version = kubectl.run(&["version", "--output", "json"]).await.unwrap_or_else(|error| {
        panic!("no cluster answers: {error}\nStart one, or name its kubeconfig in KUBECONFIG")
    });
    let version: Value = serde_json::from_str(&version).expect("kubectl speaks JSON");
    let server = &version["serverVersion"];
    let minor: String =
        server["minor"].as_str().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    let git = server["gitVersion"].as_str().unwrap_or_default();
    assert!(
        minor.parse().is_ok_and(|minor: u32| minor >= OLDEST),
        "the cluster runs Kubernetes {git}: native sidecars and preStop.sleep need 1.{OLDEST} or newer"
    );
    let context = kubectl.run(&["config", "current-context"]).await.unwrap_or_default();
    println!("context {}, Kubernetes {git}, namespace {}", context.trim(), kubectl.namespace);
    let left = kubectl.must(&["get", "namespaces", "--selector", LABEL, "--output", "name"]).await;
    for namespace in left.lines() {
        println!("left by an earlier run, or another one is under way: kubectl delete {namespace}");
    }
}

/// What every substrate can be asked.
impl Kubernetes {
    pub fn ingress(&self) -> SocketAddr {
        self.ingress
    }

    /// Every port through a forward: pods' addresses need not be reachable from here.
    pub async fn reach(&self, pod: &Pod, port: u16) -> SocketAddr {
        self.forwards.to(&self.kubectl, &pod.name, port).await
    }

    pub async fn pods(&self) -> Vec<Pod> {
        objects::pods(&self.kubectl.json(&["get", "pods"]).await)
    }

    pub async fn runs(&self, run: &Identity) -> bool {
        crate::pod::runs(&self.pods().await, run)
    }

    pub async fn begin_scale(&self, service: &str, replicas: u32, now: bool) {
        assert!(!now, "{:?}", Capability::LeaveAtOnce);
        let replicas = format!("--replicas={replicas}");
        self.kubectl.must(&["scale", &format!("deployment/{service}"), &replicas]).await;
    }

    pub async fn restart(&self, service: &str) {
        self.begin_restart(service).await;
        self.rolled_out(service).await;
    }

    pub async fn begin_restart(&self, service: &str) {
        self.kubectl.must(&["rollout", "restart", &format!("deployment/{service}")]).await;
    }

    /// An eviction, as `kubectl drain` asks for it: a budget may put it off.
    pub async fn delete(&self, pod: &Pod) {
        let (namespace, name) = (&self.kubectl.namespace, &pod.name);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace}});
        let end = Instant::now() + PATIENCE;
        while let Err(error) =
            self.kubectl.run_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string()).await
        {
            let put_off = error.contains("disruption budget") && Instant::now() < end;
            assert!(put_off, "{name} is not evicted: {error}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The nearest that the API has: the pod is gone at once, and the kubelet kills what still runs.
    pub async fn kill(&self, pod: &Pod) {
        self.kubectl.must(&["delete", "pod", &pod.name, "--grace-period=0", "--force"]).await;
    }

    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn signal(&self, _pod: &Pod, _container: &str, _signal: Signal) {
        panic!("asked of a cluster: {:?}", Capability::SignalContainer);
    }

    /// The kubelet does so by itself.
    pub async fn recover(&self, service: &str) {
        self.rolled_out(service).await;
    }

    /// Edits the ConfigMap in place: the pods stay, and each proxy notices its new file.
    pub async fn edit_config(&self, service: &str, edit: &(dyn Fn(&mut Value) + Sync)) {
        let deployment = self.kubectl.json(&["get", &format!("deployment/{service}")]).await;
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
        let name =
            volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str()).expect("a config map");
        let mut map = self.kubectl.json(&["get", "configmap", name]).await;
        let text = map["data"]["envoy.yaml"].as_str().expect("an Envoy file");
        map["data"]["envoy.yaml"] = config::edited(service, text, edit).into();
        let replaced = self.kubectl.run_with(&["replace", "-f", "-"], &map.to_string()).await;
        replaced.unwrap_or_else(|error| panic!("{error}"));
        // A pod that changed is looked at by the kubelet at once, its volumes too; else it takes up to a minute and a half.
        let now = format!("petmesh.dev/e2e-edited={:x}", RandomState::new().hash_one(0));
        let selector = format!("app.kubernetes.io/name={service}");
        self.kubectl.must(&["annotate", "pods", "--selector", &selector, "--overwrite", &now]).await;
    }

    /// The same image under its other name (`docker.io/petmesh/…`): a tag of its own could only be given on the nodes.
    pub async fn change_image(&self, service: &str) {
        let path = format!("deployment/{service}");
        let deployment = self.kubectl.json(&["get", &path]).await;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let (name, old) =
            (container["name"].as_str().expect("a name"), container["image"].as_str().expect("an image"));
        let new = old.strip_prefix("docker.io/").map_or_else(|| format!("docker.io/{old}"), str::to_owned);
        self.kubectl.must(&["set", "image", &path, &format!("{name}={new}")]).await;
        self.rolled_out(service).await;
    }

    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn set_control(&self, _control: Control) {
        panic!("asked of a cluster: {:?}", Capability::CutKubernetes);
    }

    pub fn host(&self) -> IpAddr {
        panic!("asked of a cluster: {:?}", Capability::EditPod);
    }

    pub fn loopback(&self, _pod: &Pod) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    /// The node's processes are not this machine's.
    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn process(&self, _pod: &Pod, _container: &str) -> Option<u32> {
        None
    }

    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn edit_pod(&self, _pod: &Pod, _edit: &(dyn Fn(&mut Value) + Sync)) {
        panic!("asked of a cluster: {:?}", Capability::EditPod);
    }

    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn set_link(&self, _pod: &Pod, _joined: bool) {
        panic!("asked of a cluster: {:?}", Capability::CutLink);
    }

    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn set_paused(&self, _pod: &Pod, _container: &str, _paused: bool) {
        panic!("asked of a cluster: {:?}", Capability::Pause);
    }

    #[allow(clippy::unused_async)] // the shape that every substrate has
    pub async fn write_to_root(&self, _pod: &Pod, _container: &str) -> Option<String> {
        panic!("asked of a cluster: {:?}", Capability::ReadOnlyRoot);
    }

    pub async fn access_log(&self, pod: &Pod) -> String {
        let container = objects::container_name(&pod.service, "proxy");
        // A pod that has just gone has no log any more.
        self.kubectl.run(&["logs", &pod.name, "--container", container]).await.unwrap_or_default()
    }

    pub async fn end(&mut self) -> Vec<String> {
        self.ended = true;
        self.delete_namespace().await
    }
}

impl Drop for Kubernetes {
    /// The test has failed, or the start has: what the cluster says of it, then the namespace goes.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let say = |args: &[&str]| {
            let output = self.kubectl.command(args).into_std().output();
            let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            println!("kubectl {}:\n{}", args.join(" "), output.unwrap_or_default());
        };
        say(&["get", "pods", "--output", "wide"]);
        say(&["get", "events", "--sort-by=.lastTimestamp"]);
        say(&[
            "logs",
            "--selector",
            "app.kubernetes.io/part-of=petmesh",
            "--all-containers",
            "--prefix",
            "--tail=20",
        ]);
        say(&["delete", "namespace", &self.kubectl.namespace, "--ignore-not-found", "--wait=false"]);
        say(&["delete", "pods", "--all", "--grace-period=1", "--wait=false"]);
    }
}
