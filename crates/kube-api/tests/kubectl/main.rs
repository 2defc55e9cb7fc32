//! kubectl against the server, over TLS with a token. Skipped, with a line that says so, where there is no kubectl.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking, also in its helpers

mod cluster;
mod deploy;
mod refusals;

use cluster::with_cluster;
use serde_json::{Value, json};

fn slice(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "demo", "labels": {"kubernetes.io/service-name": "pet"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

fn pod(name: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "demo", "labels": {"app": "pet"},
            "creationTimestamp": "2026-11-21T00:00:00Z"},
        "spec": {"nodeName": "local", "containers": [{"name": "pet", "image": "pet"}],
            "initContainers": [{"name": "proxy", "image": "proxy", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "podIP": "127.0.0.2",
            "containerStatuses": [{"name": "pet", "ready": ready, "restartCount": 1, "state": {"running": {}}}],
            "initContainerStatuses": [{"name": "proxy", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
    })
}

// The columns without their padding; the age is left out, for it moves.
fn columns(output: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    output.lines().filter(|line| !line.is_empty()).map(words).collect()
}

#[tokio::test]
async fn get_prints_the_columns_of_a_real_server() {
    with_cluster(|cluster| {
    let store = cluster.server.store();
    store.apply(slice("pet-1", "127.0.0.2")).unwrap();
    store.apply(pod("pet-a", true)).unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pet", "namespace": "demo"},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "pet"}, "ports": [{"port": 80, "targetPort": 10000}]}});
    store.apply(service).unwrap();

    let output = cluster.ok(&["get", "endpointslices,pods,services", "-o", "wide", "-n", "demo"]);
    let mut rows = columns(&output);
    assert_eq!(rows[0], ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]);
    assert_eq!(rows[1][..4], ["endpointslice.discovery.k8s.io/pet-1", "IPv4", "8080", "127.0.0.2"]);
    assert_eq!(rows[2].join(" "), "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES");
    rows[3].remove(4);
    assert_eq!(rows[3].join(" "), "pod/pet-a 2/2 Running 1 127.0.0.2 local <none> <none>");
    assert_eq!(rows[4].join(" "), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR");
    rows[5].remove(5);
    assert_eq!(rows[5].join(" "), "service/pet ClusterIP 10.0.0.1 <none> 80/TCP app=pet");
    assert_eq!(cluster.ok(&["get", "pods", "-n", "demo", "-l", "app=dog", "-o", "name"]), "");
    assert_eq!(cluster.ok(&["get", "ns", "-o", "name"]), "namespace/default\nnamespace/demo\n");
    })
    .await;
}

#[tokio::test]
async fn get_w_prints_each_change() {
    with_cluster(|cluster| {
        let store = cluster.server.store();
        store.apply(slice("pet-1", "127.0.0.2")).unwrap();
        store.apply(pod("pet-a", false)).unwrap();

        let mut slices = cluster.watch(&["get", "endpointslices", "-w", "-n", "demo"]);
        let mut pods = cluster.watch(&["get", "pods", "-w", "-n", "demo"]);
        assert!(slices.line().starts_with("NAME ADDRESSTYPE PORTS ENDPOINTS"));
        assert!(slices.line().starts_with("pet-1 IPv4 8080 127.0.0.2"));
        assert!(pods.line().starts_with("NAME READY STATUS RESTARTS"));
        assert!(pods.line().starts_with("pet-a 1/2 Running 1"));

        store.apply(slice("pet-1", "127.0.0.3")).unwrap();
        store.apply(pod("pet-a", true)).unwrap();
        assert!(slices.line().starts_with("pet-1 IPv4 8080 127.0.0.3"));
        assert!(pods.line().starts_with("pet-a 2/2 Running 1"));
    })
    .await;
}

#[tokio::test]
async fn objects_are_applied_changed_and_deleted() {
    with_cluster(|cluster| {
        let store = cluster.server.store();
        let stored = |pointer: &str| {
            store
                .get("endpointslices", "demo", "pet-1")
                .unwrap()
                .pointer(pointer)
                .cloned()
                .unwrap_or_default()
        };

        let name = "endpointslice.discovery.k8s.io/pet-1";
        assert_eq!(cluster.applied(&slice("pet-1", "127.0.0.2"), &[]), format!("{name} created\n"));
        assert_eq!(cluster.applied(&slice("pet-1", "127.0.0.2"), &[]), format!("{name} unchanged\n"));
        assert_eq!(cluster.applied(&slice("pet-1", "127.0.0.3"), &[]), format!("{name} configured\n"));
        assert_eq!(stored("/endpoints/0/addresses/0"), "127.0.0.3");
        let applied = cluster.applied(&slice("pet-1", "127.0.0.4"), &["--server-side", "--force-conflicts"]);
        assert_eq!(applied, format!("{name} serverside-applied\n"));
        assert_eq!(stored("/endpoints/0/addresses/0"), "127.0.0.4");

        cluster.ok(&["label", "endpointslice", "pet-1", "-n", "demo", "zone=a"]);
        assert_eq!(stored("/metadata/labels/zone"), "a");
        let patch = r#"{"endpoints":[{"addresses":["127.0.0.5"]}]}"#;
        cluster.ok(&["patch", "endpointslice", "pet-1", "-n", "demo", "--type=merge", "-p", patch]);
        assert_eq!(stored("/endpoints/0/addresses/0"), "127.0.0.5");
        let before = stored("/metadata/resourceVersion");
        cluster.applied(&slice("pet-1", "127.0.0.6"), &["--dry-run=server"]);
        assert_eq!(stored("/metadata/resourceVersion"), before, "a dry run changes nothing");

        cluster.ok(&["delete", "endpointslice", "pet-1", "-n", "demo"]);
        assert!(store.get("endpointslices", "demo", "pet-1").is_none());
        let missing = cluster.run(&["get", "endpointslice", "pet-1", "-n", "demo"]);
        assert!(
            String::from_utf8_lossy(&missing.stderr).contains("(NotFound): endpointslices.discovery.k8s.io")
        );
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_created_patched_and_deleted() {
    with_cluster(|cluster| {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
        assert_eq!(cluster.applied(&namespace, &[]), "namespace/other created\n");
        cluster.ok(&["run", "web", "--image=pet", "--labels=app=web", "-n", "other"]);
        cluster.ok(&["set", "image", "pod/web", "web=pet:2", "-n", "other"]);
        let image =
            cluster.ok(&["get", "pod", "web", "-n", "other", "-o", "jsonpath={.spec.containers[0].image}"]);
        assert_eq!(image, "pet:2");
        cluster.ok(&["delete", "pods", "--all", "-n", "other"]);
        assert!(cluster.server.store().list("pods", Some("other")).is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    with_cluster(|cluster| {
        let refused = cluster.run(&["get", "pods", "--token=wrong"]);
        assert!(!refused.status.success());
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(error.contains("Unauthorized") || error.contains("must be logged in"), "{error}");
    })
    .await;
}
