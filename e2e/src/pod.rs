//! A pod as the tests see it, on any substrate. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `pet-1`, or whatever the substrate calls it.
    pub name: String,
    /// `pet`
    pub service: String,
    /// The address that discovery gives to other proxies.
    pub address: IpAddr,
    /// What it is doing.
    pub state: State,
    /// Its containers by name: `app` (also that of sds), `proxy` (also that of the ingress).
    pub containers: BTreeMap<String, Container>,
}

/// What a pod is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has not been ready yet.
    Starting,
    /// It is in its Service.
    Ready,
    /// It runs, but its readiness probe fails.
    NotReady,
    /// It has been told to go and ends in order.
    Leaving,
    /// A container of it ended without having been told to and has not been started again.
    Crashed,
}

/// One container of a pod; on the local substrate a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Process id or container id; none if it does not run.
    pub id: Option<String>,
    /// How often it has been started; where a new start is a new `id`, always 1.
    pub starts: u32,
}

/// One run of one container: another one after every start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the pod.
    pub pod: String,
    /// Name of the container in it.
    pub container: String,
    /// Process id or container id.
    pub id: String,
    /// Which start of it.
    pub starts: u32,
}

impl Pod {
    /// The run of a container; none if it does not run.
    #[must_use]
    pub fn identity(&self, container: &str) -> Option<Identity> {
        let found = self.containers.get(container)?;
        let id = found.id.clone()?;
        Some(Identity { pod: self.name.clone(), container: container.to_owned(), id, starts: found.starts })
    }

    /// The runs of all its containers.
    #[must_use]
    pub fn identities(&self) -> Vec<Identity> {
        self.containers.keys().filter_map(|container| self.identity(container)).collect()
    }
}

/// Whether a container runs in this very run, as far as these pods tell.
#[must_use]
pub fn runs(pods: &[Pod], run: &Identity) -> bool {
    let same = |pod: &Pod| pod.name == run.pod && pod.identity(&run.container).as_ref() == Some(run);
    pods.iter().any(same)
}
