//! Where a mesh runs. Each substrate has the same plain methods; `Substrate` passes a call on to the one of this run.

pub mod containers;
pub mod kubernetes;
pub mod local;

use std::net::{IpAddr, SocketAddr};

use local_mesh::process::Signal;
use serde_json::Value;

use self::containers::Containers;
use self::kubernetes::Kubernetes;
use self::local::Local;
use crate::mesh::Setup;
use crate::pod::{Identity, Pod};

/// The substrate that `E2E_TARGET` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Processes on this machine.
    Local,
    /// Docker containers on a network of their own.
    Containers,
    /// The cluster of the current kubeconfig, in a namespace of its own.
    Kubernetes,
    /// A cluster that the test starts in a container.
    K3s,
}

impl Target {
    /// The one of this run; `local` if none is named.
    #[must_use]
    pub fn chosen() -> Self {
        let name = std::env::var("E2E_TARGET").unwrap_or_default();
        match name.as_str() {
            "" | "local" => Self::Local,
            "containers" => Self::Containers,
            "kubernetes" => Self::Kubernetes,
            "k3s" => Self::K3s,
            other => panic!("E2E_TARGET is {other:?}; it can be local, containers, kubernetes or k3s"),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Local => "local",
            Self::Containers => "containers",
            Self::Kubernetes => "kubernetes",
            Self::K3s => "k3s",
        })
    }
}

/// What the mesh stands on, well or with a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// No fault.
    Well,
    /// Connections to the Kubernetes API are cut and refused.
    NoKubernetes,
    /// It works, and every slice calls every endpoint not ready although all serve.
    Unready,
    /// Connections to it are cut, and every request is answered with this status.
    KubernetesFails(u16),
    /// DNS gives no response.
    NoDns,
}

/// A running mesh on its substrate; it ends with this value.
pub enum Substrate {
    /// Processes on this machine.
    Local(Local),
    /// Docker containers.
    Containers(Containers),
    /// A cluster; also one that was started for the test.
    Kubernetes(Box<Kubernetes>),
}

/// Passes a call on to the substrate of this run.
macro_rules! on {
    ($self:expr, $substrate:ident => $call:expr) => {
        match $self {
            Substrate::Local($substrate) => $call,
            Substrate::Containers($substrate) => $call,
            Substrate::Kubernetes($substrate) => $call,
        }
    };
}

impl Substrate {
    /// Starts a mesh and returns when it answers.
    pub async fn start(target: Target, setup: &Setup) -> Self {
        match target {
            Target::Local => Self::Local(Local::start(setup)),
            Target::Containers => Self::Containers(Containers::start(setup).await),
            Target::Kubernetes => Self::Kubernetes(Box::new(Kubernetes::start(setup).await)),
            Target::K3s => Self::Kubernetes(Box::new(Kubernetes::start_k3s(setup).await)),
        }
    }

    /// Where the outside calls.
    pub fn ingress(&self) -> SocketAddr {
        on!(self, s => s.ingress())
    }

    /// Where the test can call a port of a pod, one on the pod's own loopback too.
    pub async fn reach(&self, pod: &Pod, port: u16) -> SocketAddr {
        on!(self, s => s.reach(pod, port).await)
    }

    /// Every pod as it is now.
    pub async fn pods(&self) -> Vec<Pod> {
        on!(self, s => s.pods().await)
    }

    /// Whether a container is still in this run of it.
    pub async fn runs(&self, run: &Identity) -> bool {
        on!(self, s => s.runs(run).await)
    }

    /// Begins to bring a service to a number of pods; with `now` leaving pods end at once.
    pub async fn begin_scale(&self, service: &str, replicas: u32, now: bool) {
        on!(self, s => s.begin_scale(service, replicas, now).await);
    }

    /// Replaces the pods of a service one after the other; returns when it has begun or is done.
    pub async fn restart(&self, service: &str) {
        on!(self, s => s.restart(service).await);
    }

    /// Begins to replace them, and returns.
    pub async fn begin_restart(&self, service: &str) {
        on!(self, s => s.begin_restart(service).await);
    }

    /// Deletes a pod in order, as the drain of a node does; it is replaced.
    pub async fn delete(&self, pod: &Pod) {
        on!(self, s => s.delete(pod).await);
    }

    /// Sends SIGKILL to all containers of a pod.
    pub async fn kill(&self, pod: &Pod) {
        on!(self, s => s.kill(pod).await);
    }

    /// Sends a signal to one container.
    pub async fn signal(&self, pod: &Pod, container: &str, signal: Signal) {
        on!(self, s => s.signal(pod, container, signal).await);
    }

    /// Begins to bring back what ended, where the substrate does not do so by itself.
    pub async fn recover(&self, service: &str) {
        on!(self, s => s.recover(service).await);
    }

    /// Changes the Envoy file of a service, as an edited ConfigMap would; running proxies notice by themselves.
    pub async fn edit_config(&self, service: &str, edit: &(dyn Fn(&mut Value) + Sync)) {
        on!(self, s => s.edit_config(service, edit).await);
    }

    /// Changes the Envoy file of one pod alone.
    pub async fn edit_pod(&self, pod: &Pod, edit: &(dyn Fn(&mut Value) + Sync)) {
        on!(self, s => s.edit_pod(pod, edit).await);
    }

    /// Rolls out another tag of the same image.
    pub async fn change_image(&self, service: &str) {
        on!(self, s => s.change_image(service).await);
    }

    /// Sets what the mesh stands on: the Kubernetes API and DNS.
    pub async fn set_control(&self, control: Control) {
        on!(self, s => s.set_control(control).await);
    }

    /// An address of this machine that pods reach.
    pub fn host(&self) -> IpAddr {
        on!(self, s => s.host())
    }

    /// The loopback address as the containers of a pod see it.
    pub fn loopback(&self, pod: &Pod) -> IpAddr {
        on!(self, s => s.loopback(pod))
    }

    /// The process of a container, if it is one of this machine.
    pub async fn process(&self, pod: &Pod, container: &str) -> Option<u32> {
        on!(self, s => s.process(pod, container).await)
    }

    /// Parts a pod from the network, or joins it again.
    pub async fn set_link(&self, pod: &Pod, joined: bool) {
        on!(self, s => s.set_link(pod, joined).await);
    }

    /// Freezes a container, or lets it go on.
    pub async fn set_paused(&self, pod: &Pod, container: &str, paused: bool) {
        on!(self, s => s.set_paused(pod, container, paused).await);
    }

    /// What a write to the root of a container's file system is answered with; none if it works.
    pub async fn write_to_root(&self, pod: &Pod, container: &str) -> Option<String> {
        on!(self, s => s.write_to_root(pod, container).await)
    }

    /// What a pod's proxy has written to its access log.
    pub async fn access_log(&self, pod: &Pod) -> String {
        on!(self, s => s.access_log(pod).await)
    }

    /// Ends the mesh in order; tells what is left of it, which must be nothing.
    pub async fn end(&mut self) -> Vec<String> {
        on!(self, s => s.end().await)
    }
}
