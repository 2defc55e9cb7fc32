//! The Kubernetes objects of the local mesh, as the real controllers would write them: a Service, its Pods, one
//! EndpointSlice. Pure.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::plan::{APP, Service};

/// The one namespace of the local mesh.
pub const NAMESPACE: &str = "default";

/// What the objects need to know of a pod.
#[derive(Debug, Clone)]
pub struct PodView {
    /// `pet-1`
    pub name: String,
    /// Given by the API server at each creation, so that a restarted pod is another endpoint.
    pub uid: Option<String>,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Its readiness probe passes.
    pub ready: bool,
    /// It has been told to go and still serves.
    pub leaving: bool,
    /// It ended without having been told to.
    pub crashed: bool,
    /// Names of its containers and whether each runs.
    pub containers: Vec<(&'static str, bool)>,
}

/// The Service `pet`, `petstore` or `sds`. The label says whether its pods have a sidecar; slices carry it too.
#[must_use]
pub fn service(service: &Service) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": service.name, "namespace": NAMESPACE, "labels": labels(service) },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": { "app": service.name },
            "ports": [port(service)],
        },
    })
}

/// One pod with the status that `kubectl get pods -o wide` shows.
#[must_use]
pub fn pod(service: &Service, pod: &PodView) -> Value {
    let phase = if pod.crashed { "Failed" } else { "Running" };
    let statuses: Vec<Value> =
        pod.containers.iter().map(|(name, running)| container_status(pod, name, *running)).collect();
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|(name, _)| json!({ "name": name, "image": image(service, name) }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod.name, "namespace": NAMESPACE, "labels": { "app": service.name } },
        "spec": { "nodeName": "local", "containers": containers },
        "status": {
            "phase": phase,
            "podIP": pod.address.to_string(),
            "podIPs": [{ "ip": pod.address.to_string() }],
            "hostIP": "127.0.0.1",
            "conditions": [{ "type": "Ready", "status": if pod.ready { "True" } else { "False" } }],
            "containerStatuses": statuses,
        },
    })
}

/// The endpoints of a Service. A leaving pod is not ready, yet still serving: the conditions of KEP-1672.
#[must_use]
pub fn slice(service: &Service, pods: &[PodView]) -> Value {
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    let mut labels = labels(service);
    labels["kubernetes.io/service-name"] = json!(service.name);
    labels["endpointslice.kubernetes.io/managed-by"] = json!("petmesh.dev/local-mesh");
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": slice_name(service), "namespace": NAMESPACE, "labels": labels },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": APP, "protocol": "TCP" }],
    })
}

/// The name of the one slice of a Service.
#[must_use]
pub fn slice_name(service: &Service) -> String {
    format!("{}-local", service.name)
}

fn endpoint(pod: &PodView) -> Value {
    json!({
        "addresses": [pod.address.to_string()],
        "conditions": { "ready": pod.ready && !pod.leaving, "serving": pod.ready, "terminating": pod.leaving },
        "nodeName": "local",
        "targetRef": { "kind": "Pod", "name": pod.name, "namespace": NAMESPACE, "uid": pod.uid },
    })
}

fn container_status(pod: &PodView, name: &str, running: bool) -> Value {
    let state = if running {
        json!({ "running": {} })
    } else {
        json!({ "terminated": { "reason": "Error", "exitCode": 1 } })
    };
    json!({
        "name": name,
        "ready": running && pod.ready,
        "started": running,
        "restartCount": 0,
        "image": "",
        "imageID": "",
        "state": state,
    })
}

fn labels(service: &Service) -> Value {
    let sidecar = if service.has_sidecar() { "true" } else { "false" };
    json!({ "app": service.name, "petmesh.dev/sidecar": sidecar })
}

fn port(service: &Service) -> Value {
    let port = service.ports().first().copied().unwrap_or(APP);
    json!({ "name": "http", "port": port, "targetPort": port, "protocol": "TCP" })
}

fn image(service: &Service, container: &str) -> String {
    let binary = if container == "app" { service.app } else { service.proxy };
    format!("petmesh/{}:dev", binary.unwrap_or(service.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn view(ready: bool, leaving: bool) -> PodView {
        PodView {
            name: "pet-1".into(),
            uid: Some("u1".into()),
            address: Ipv4Addr::new(127, 0, 1, 2),
            ready,
            leaving,
            crashed: false,
            containers: vec![("app", true), ("proxy", true)],
        }
    }

    #[test]
    fn a_leaving_pod_serves_but_is_not_ready() {
        let slice =
            slice(plan::service("pet").unwrap(), &[view(true, false), view(true, true), view(false, false)]);
        let conditions: Vec<&Value> =
            slice["endpoints"].as_array().unwrap().iter().map(|endpoint| &endpoint["conditions"]).collect();
        assert_eq!(conditions[0], &json!({"ready": true, "serving": true, "terminating": false}));
        assert_eq!(conditions[1], &json!({"ready": false, "serving": true, "terminating": true}));
        assert_eq!(conditions[2], &json!({"ready": false, "serving": false, "terminating": false}));
    }

    #[test]
    fn only_services_with_sidecars_have_their_port_replaced() {
        let label = |name| {
            let slice = slice(plan::service(name).unwrap(), &[]);
            slice["metadata"]["labels"]["petmesh.dev/sidecar"].as_str().unwrap().to_owned()
        };
        assert_eq!(label("pet"), "true");
        assert_eq!(label("sds"), "false");
    }
}
