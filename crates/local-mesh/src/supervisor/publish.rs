//! Telling the world what the mesh is now: Kubernetes objects, DNS names, the state file.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Mesh;
use crate::control::{Status, Supervisor};
use crate::dir;
use crate::objects::{self, NAMESPACE, PodView};
use crate::plan::{SERVICES, Service};
use crate::pod::Pod;

impl Mesh {
    /// Brings everything that others read up to date. A failure is logged and tried again with the next change.
    pub(super) fn publish(&mut self) {
        let mut wanted = BTreeMap::new();
        for service in &SERVICES {
            self.publish_pods(service, &mut wanted);
            if service.is_edge() {
                continue;
            }
            let pods: Vec<&Pod> = self.pods.iter().filter(|pod| pod.service == service).collect();
            let view = |pod: &&Pod| PodView { ready: pod.ready && !self.unready, ..pod.view() };
            let views: Vec<PodView> = pods.iter().map(view).collect();
            // A name stands for the pods that a caller may turn to, ready or not, as a ClusterIP would.
            let staying = pods.iter().filter(|pod| !pod.is_leaving()).map(|pod| pod.address).collect();
            self.names.set(service.name, staying);
            self.apply(format!("Service/{}", service.name), objects::service(service), &mut wanted);
            self.apply(
                format!("EndpointSlice/{}", objects::slice_name(service)),
                objects::slice(service, &views),
                &mut wanted,
            );
        }
        let gone: Vec<String> =
            self.published.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in gone {
            self.delete(&key);
        }
        self.published = wanted;
        self.write_state();
    }

    /// The mesh as clients see it.
    pub(super) fn status(&self) -> Status {
        let dir = &self.environment.dir;
        Status {
            supervisor: Supervisor {
                pid: std::process::id(),
                kubernetes_api: self.environment.kubernetes_api.clone(),
                kubeconfig: dir.kubeconfig(),
                dns: self.dns.to_string(),
                log: dir.supervisor_log(),
            },
            pods: self.pods.iter().map(|pod| pod.status(dir)).collect(),
            restarting: self.rolling_now.iter().map(|(name, _)| name).chain(&self.rolling).cloned().collect(),
        }
    }

    /// A restarted pod is a new object, with an identity of its own, and so is its endpoint.
    fn publish_pods(&mut self, service: &'static Service, wanted: &mut BTreeMap<String, Value>) {
        for index in 0..self.pods.len() {
            let pod = &self.pods[index];
            if pod.service != service {
                continue;
            }
            let key = format!("Pod/{}", pod.name);
            if pod.uid.is_none() && self.published.contains_key(&key) {
                self.delete(&key);
                self.published.remove(&key);
            }
            let object = objects::pod(service, &self.pods[index].view());
            if let Some(uid) = self.apply(key, object, wanted) {
                self.pods[index].uid = Some(uid);
            }
        }
    }

    /// Writes one object unless it has been; the answer is its uid, if it was written.
    fn apply(&self, key: String, object: Value, wanted: &mut BTreeMap<String, Value>) -> Option<String> {
        if self.published.get(&key) == Some(&object) {
            wanted.insert(key, object);
            return None;
        }
        match self.kubernetes.store().apply(object.clone()) {
            Ok(stored) => {
                wanted.insert(key, object);
                stored["metadata"]["uid"].as_str().map(str::to_owned)
            }
            Err(status) => {
                tracing::error!(key, ?status, "cannot write an object");
                None
            }
        }
    }

    fn delete(&self, key: &str) {
        let Some((kind, name)) = key.split_once('/') else { return };
        if let Err(status) = self.kubernetes.store().delete(kind, NAMESPACE, name) {
            tracing::error!(key, ?status, "cannot delete an object");
        }
    }

    fn write_state(&self) {
        let path = self.environment.dir.state();
        let text = match serde_json::to_string_pretty(&self.status()) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, "the state cannot be written down"),
        };
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return;
        }
        if let Err(error) = dir::write_private(&path, &text) {
            tracing::warn!(%error, "cannot write the state");
        }
    }
}
