//! What Kubernetes would say of the pods: a Service and one EndpointSlice for each service, and the rights of sds. Pure.
//!
//! Called by `cluster` on every change; read by sds through kube-api.

use kube_api::{Rule, Token};
use local_mesh::plan::{APP, Service};
use serde_json::{Value, json};

use super::member::View;

/// The namespace of deploy/.
pub const NAMESPACE: &str = "petmesh";

/// What sds shows to the API server.
pub const TOKEN: &str = "petmesh-e2e-containers";

/// The rights that deploy/base gives to sds, and no more.
pub fn token() -> Token {
    Token {
        value: TOKEN.to_owned(),
        user: format!("system:serviceaccount:{NAMESPACE}:sds"),
        rules: vec![Rule {
            namespaces: vec![NAMESPACE.to_owned()],
            resources: vec!["endpointslices".to_owned(), "services".to_owned()],
            verbs: vec!["list".to_owned(), "watch".to_owned()],
        }],
        expires: None,
    }
}

pub fn service(service: &Service) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": service.name, "namespace": NAMESPACE, "labels": labels(service) },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": { "app.kubernetes.io/name": service.name },
            "ports": [{ "name": "http", "port": 80, "targetPort": APP, "protocol": "TCP" }],
        },
    })
}

pub fn slice(service: &Service, pods: &[View]) -> Value {
    let mut labels = labels(service);
    labels["kubernetes.io/service-name"] = json!(service.name);
    labels["endpointslice.kubernetes.io/managed-by"] = json!("petmesh.dev/e2e");
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": format!("{}-e2e", service.name), "namespace": NAMESPACE, "labels": labels },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": APP, "protocol": "TCP" }],
    })
}

/// The conditions of KEP-1672: a leaving pod is not ready, yet still serving.
fn endpoint(pod: &View) -> Value {
    json!({
        "addresses": [pod.address.to_string()],
        "conditions": { "ready": pod.ready && !pod.leaving, "serving": pod.ready, "terminating": pod.leaving },
        "nodeName": "e2e",
        "targetRef": { "kind": "Pod", "name": pod.name, "namespace": NAMESPACE, "uid": pod.sandbox },
    })
}

fn labels(service: &Service) -> Value {
    let sidecar = if service.has_sidecar() { "true" } else { "false" };
    json!({ "app.kubernetes.io/name": service.name, "petmesh.dev/sidecar": sidecar })
}
