//! One pod: a container that owns the network, and the proxy and the app that share it. As the kubelet would run it.
//!
//! The proxy starts first and ends last; what ends by itself is started again in the same network; the readiness probe decides
//! whether it is in its Service.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use local_mesh::objects::PodView;
use local_mesh::plan::{self, Service};
use testcontainers_modules::testcontainers::bollard::query_parameters as query;
use testcontainers_modules::testcontainers::{ContainerAsync, GenericImage};

use super::blueprint::Blueprint;
use crate::http;
use crate::pod::{Container, Pod, State};

/// The kubelet waits longer with each restart; the first comes at once.
const RESTART_PAUSE: Duration = Duration::from_millis(300);

/// An app and a proxy that were told to end are killed after this time each; deploy/ allows 45 s for both.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// A proxy says that it has started when it knows the pods of its clusters; discovery may be away meanwhile.
const STARTUP_PATIENCE: Duration = Duration::from_secs(120);

/// The readiness probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often something that changes soon is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// A pod.
pub struct Member {
    pub name: String,
    pub service: &'static Service,
    pub address: Ipv4Addr,
    /// The id of the container that owns the network: the pod's own identity.
    pub sandbox: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    slots: Vec<Slot>,
    /// They are removed with the pod.
    kept: Vec<ContainerAsync<GenericImage>>,
    ready: bool,
    was_ready: bool,
    leaving: bool,
    /// What ends stays ended: the test takes it away, and says when it comes back.
    held: bool,
    gone: bool,
}

/// The app or the proxy.
#[derive(Clone)]
struct Slot {
    name: &'static str,
    id: String,
    runs: bool,
    starts: u32,
}

impl Member {
    /// A pod with its network and nothing in it.
    pub async fn create(
        print: &Blueprint,
        service: &'static Service,
        name: String,
        address: Ipv4Addr,
    ) -> Arc<Self> {
        let sandbox = print.start_sandbox(service, address).await;
        let id = sandbox.id().to_owned();
        let inner = Mutex::new(Inner { kept: vec![sandbox], ..Inner::default() });
        Arc::new(Self { name, service, address, sandbox: id, inner })
    }

    /// Starts the proxy, and the app when the proxy has started, as with a native sidecar.
    pub async fn populate(self: &Arc<Self>, print: &Blueprint) {
        if self.service.proxy.is_some() {
            self.add(print, "proxy").await;
        }
        if self.service.app.is_none() {
            return;
        }
        let end = Instant::now() + STARTUP_PATIENCE;
        while self.service.proxy.is_some() && !self.answers(plan::PROBES, "/ready").await {
            assert!(Instant::now() < end, "the proxy of {} does not start", self.name);
            tokio::time::sleep(LOOK).await;
        }
        self.add(print, "app").await;
    }

    async fn add(self: &Arc<Self>, print: &Blueprint, name: &'static str) {
        let container = print.start(self.service, &self.name, name, &self.sandbox).await;
        let id = container.id().to_owned();
        {
            let mut inner = self.inner.lock().unwrap();
            inner.slots.push(Slot { name, id: id.clone(), runs: true, starts: 1 });
            // The owner of the network goes last.
            inner.kept.insert(0, container);
        }
        tokio::spawn(self.clone().keep_running(print.clone(), id));
    }

    /// Starts a container again whenever it has ended by itself.
    async fn keep_running(self: Arc<Self>, print: Blueprint, id: String) {
        loop {
            let options = query::WaitContainerOptionsBuilder::new().condition("not-running").build();
            let _ = Box::pin(print.docker.wait_container(&id, Some(options))).next().await;
            if print.runs(&id).await {
                continue;
            }
            {
                let mut inner = self.inner.lock().unwrap();
                inner.ready = false;
                inner.slots.iter_mut().filter(|slot| slot.id == id).for_each(|slot| slot.runs = false);
            }
            if self.stays_ended() {
                return;
            }
            tokio::time::sleep(RESTART_PAUSE).await;
            if self.stays_ended() || !self.start_again(&print, &id).await {
                return;
            }
        }
    }

    fn stays_ended(&self) -> bool {
        let inner = self.inner.lock().unwrap();
        inner.leaving || inner.held || inner.gone
    }

    async fn start_again(&self, print: &Blueprint, id: &str) -> bool {
        if print.docker.start_container(id, None::<query::StartContainerOptions>).await.is_err() {
            return false;
        }
        let mut inner = self.inner.lock().unwrap();
        for slot in inner.slots.iter_mut().filter(|slot| slot.id == id) {
            slot.runs = true;
            slot.starts += 1;
        }
        true
    }

    /// Kills everything in it; it stays so until `recover`.
    pub async fn kill(&self, print: &Blueprint) {
        self.inner.lock().unwrap().held = true;
        for id in self.running() {
            print.signal(&id, "SIGKILL").await;
        }
    }

    /// Starts what was killed.
    pub async fn recover(self: &Arc<Self>, print: &Blueprint) {
        if !std::mem::take(&mut self.inner.lock().unwrap().held) {
            return;
        }
        let slots = self.inner.lock().unwrap().slots.clone();
        for slot in slots.iter().filter(|slot| !slot.runs) {
            if self.start_again(print, &slot.id).await {
                tokio::spawn(self.clone().keep_running(print.clone(), slot.id.clone()));
            }
        }
    }

    /// Takes it out of its Service; from now on it only ends. False if it is leaving already.
    pub fn begin_to_leave(&self) -> bool {
        !std::mem::replace(&mut self.inner.lock().unwrap().leaving, true)
    }

    /// Serves on until its callers have heard of it, then ends the app, then the proxy, which the app's last requests may need.
    pub async fn leave(&self, print: &Blueprint, serve: Duration) {
        tokio::time::sleep(serve).await;
        for name in ["app", "proxy"] {
            let Some(id) = self.id(name) else { continue };
            print.signal(&id, "SIGTERM").await;
            let end = Instant::now() + END_PATIENCE;
            while print.runs(&id).await && Instant::now() < end {
                tokio::time::sleep(LOOK).await;
            }
        }
        self.remove().await;
    }

    /// Removes its containers, whatever they are doing.
    pub async fn remove(&self) {
        let kept = {
            let mut inner = self.inner.lock().unwrap();
            inner.gone = true;
            inner.slots.iter_mut().for_each(|slot| slot.runs = false);
            std::mem::take(&mut inner.kept)
        };
        // What an earlier hand has removed is gone, which is all that is wanted. The owner of the network goes last.
        let mut kept = kept.into_iter().rev();
        let sandbox = kept.next();
        join_all(kept.map(ContainerAsync::rm)).await;
        if let Some(sandbox) = sandbox {
            let _ = sandbox.rm().await;
        }
    }

    /// Asks the readiness probe once; tells whether the answer is a new one.
    pub async fn probe(&self) -> bool {
        let (port, path) = self.service.readiness();
        let ready = self.answers(port, path).await;
        let mut inner = self.inner.lock().unwrap();
        let ready = ready && !inner.slots.is_empty() && inner.slots.iter().all(|slot| slot.runs);
        inner.was_ready |= ready;
        std::mem::replace(&mut inner.ready, ready) != ready
    }

    async fn answers(&self, port: u16, path: &str) -> bool {
        let agent = [("user-agent", "petmesh-probe")];
        let answer = http::get((self.address, port).into(), "probe", path, &agent);
        matches!(tokio::time::timeout(PROBE_TIMEOUT, answer).await, Ok(Ok(answer)) if answer.status == 200)
    }

    pub fn is_gone(&self) -> bool {
        self.inner.lock().unwrap().gone
    }

    pub fn is_leaving(&self) -> bool {
        self.inner.lock().unwrap().leaving
    }

    pub fn is_ready(&self) -> bool {
        let inner = self.inner.lock().unwrap();
        inner.ready && !inner.leaving
    }

    /// The container's id, whether it runs or not.
    pub fn id(&self, container: &str) -> Option<String> {
        let inner = self.inner.lock().unwrap();
        inner.slots.iter().find(|slot| slot.name == container).map(|slot| slot.id.clone())
    }

    fn running(&self) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        inner.slots.iter().filter(|slot| slot.runs).map(|slot| slot.id.clone()).collect()
    }

    /// As its Service is to know it.
    pub fn view(&self) -> PodView {
        let inner = self.inner.lock().unwrap();
        PodView {
            name: self.name.clone(),
            uid: Some(self.sandbox.clone()),
            address: self.address,
            ready: inner.ready,
            leaving: inner.leaving,
            crashed: false,
            containers: Vec::new(),
        }
    }

    /// As the tests see it.
    pub fn seen(&self) -> Pod {
        let inner = self.inner.lock().unwrap();
        let all_run = inner.slots.iter().all(|slot| slot.runs);
        let state = match () {
            () if inner.leaving => State::Leaving,
            () if inner.held && !all_run => State::Crashed,
            () if inner.ready && all_run => State::Ready,
            () if inner.was_ready => State::NotReady,
            () => State::Starting,
        };
        let container =
            |slot: &Slot| Container { id: slot.runs.then(|| slot.id.clone()), starts: slot.starts };
        Pod {
            name: self.name.clone(),
            service: self.service.name.to_owned(),
            address: self.address.into(),
            state,
            containers: inner.slots.iter().map(|slot| (slot.name.to_owned(), container(slot))).collect(),
        }
    }
}
