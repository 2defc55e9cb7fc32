//! What a deployment may run into: an old server, a full quota, a taken port, a namespace that is going, no permission.

use kube_api::{Config, Node, Rule, Settle, Token};
use serde_json::{Value, json};

use crate::cluster::{settings, with};
use crate::pod;

fn deployment(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "pet", "namespace": "demo"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "pet"}},
            "template": {"metadata": {"labels": {"app": "pet"}},
                "spec": {"containers": [{"name": "pet", "image": "pet"}]}}}})
}

fn service(name: &str, node_port: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "demo"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}})
}

#[tokio::test]
async fn an_old_server_and_its_nodes_are_told() {
    let node = Node {
        architecture: "arm64".to_owned(),
        images: vec!["docker.io/petmesh/pet:1".to_owned()],
        ..Node::named("old")
    };
    let settings = Config { version: "1.28.3".to_owned(), nodes: vec![node], ..settings() };
    with(settings, |cluster| {
        let version: Value = serde_json::from_str(&cluster.ok(&["version", "-o", "json"])).unwrap();
        assert_eq!(version["serverVersion"]["gitVersion"], "v1.28.3");
        assert_eq!(version["serverVersion"]["minor"], "28");
        let path = "jsonpath={range .items[*]}{.status.nodeInfo.architecture} {.status.nodeInfo.kubeletVersion} \
                    {.status.images[*].names[0]}{end}";
        assert_eq!(cluster.ok(&["get", "nodes", "-o", path]), "arm64 v1.28.3 docker.io/petmesh/pet:1");
    })
    .await;
}

#[tokio::test]
async fn a_full_quota_refuses_pods_and_the_deployment_tells() {
    with(Config { settle: Settle::RolledOut, ..settings() }, |cluster| {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "small", "namespace": "demo"}, "spec": {"hard": {"pods": "4"}},
            "status": {"hard": {"pods": "4"}, "used": {"pods": "4"}}});
        cluster.server.store().apply(quota).unwrap();
        let refused = cluster.refused_manifest(&pod("web", true));
        let why = "exceeded quota: small, requested: pods=1, used: pods=4, limited: pods=4";
        assert!(refused.contains(&format!("pods \"web\" is forbidden: {why}")), "{refused}");
        cluster.applied(&deployment(2), &[]);
        let path = "jsonpath={.status.conditions[?(@.type==\"ReplicaFailure\")].message}";
        let told = cluster.ok(&["get", "deploy/pet", "-n", "demo", "-o", path]);
        assert!(told.ends_with(why), "{told}");
    })
    .await;
}

#[tokio::test]
async fn a_node_port_is_given_once() {
    with(settings(), |cluster| {
        cluster.applied(&service("a", 30_080), &[]);
        assert_eq!(cluster.applied(&service("a", 30_080), &[]), "service/a unchanged\n");
        let refused = cluster.refused_manifest(&service("b", 30_080));
        let why = "The Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is \
                   already allocated";
        assert!(refused.contains(why), "{refused}");
        let refused = cluster.refused_manifest(&service("b", 80));
        assert!(refused.contains("The range of valid ports is 30000-32767"), "{refused}");
        cluster.ok(&["delete", "service", "a", "-n", "demo"]);
        cluster.applied(&service("b", 30_080), &[]);
    })
    .await;
}

#[tokio::test]
async fn a_namespace_that_is_held_stays_terminating_and_takes_nothing() {
    with(settings(), |cluster| {
        let store = cluster.server.store();
        store.hold_namespaces(true);
        cluster.applied(&service("a", 30_080), &[]);
        cluster.ok(&["delete", "namespace", "demo", "--wait=false"]);
        assert!(cluster.ok(&["get", "ns", "demo"]).contains("Terminating"));
        assert!(store.list("services", Some("demo")).is_empty(), "its objects are gone");
        let refused = cluster.refused_manifest(&service("a", 30_080));
        let why = "unable to create new content in namespace demo because it is being terminated";
        assert!(refused.contains(why), "{refused}");
        store.hold_namespaces(false);
        cluster.ok(&["wait", "--for=delete", "ns/demo", "--timeout=60s"]);
    })
    .await;
}

#[tokio::test]
async fn a_finalizer_holds_an_object_and_with_it_the_namespace() {
    with(settings(), |cluster| {
        let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "namespace": "demo", "finalizers": ["example.org/hold"]}});
        cluster.applied(&held, &[]);
        cluster.ok(&["delete", "namespace", "demo", "--wait=false"]);
        assert!(cluster.ok(&["get", "ns", "demo"]).contains("Terminating"));
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        cluster.ok(&["patch", "configmap", "c", "-n", "demo", "--type=merge", "-p", patch]);
        assert!(cluster.refused(&["get", "ns", "demo"]).contains("not found"));
    })
    .await;
}

#[tokio::test]
async fn can_i_answers_by_the_rules_of_the_token() {
    let reader =
        Token::service_account("secret", "demo", "reader").allow(Rule::new("demo", "pods", &["list"]));
    with(Config { tokens: vec![reader], ..settings() }, |cluster| {
        assert_eq!(cluster.ok(&["auth", "can-i", "list", "pods", "-n", "demo"]), "yes\n");
        let no = cluster.run(&["auth", "can-i", "create", "deployments.apps", "-n", "demo"]);
        assert_eq!((String::from_utf8_lossy(&no.stdout).trim(), no.status.code()), ("no", Some(1)));
        assert!(cluster.refused(&["get", "nodes"]).contains("cannot list resource \"nodes\""));
    })
    .await;
}

#[tokio::test]
async fn a_stuck_deployment_shows_why_and_containers_are_not_run() {
    with(Config { settle: Settle::Stuck("ImagePullBackOff"), ..settings() }, |cluster| {
        cluster.applied(&deployment(1), &[]);
        assert!(cluster.ok(&["get", "pods", "-n", "demo"]).contains("0/1     ImagePullBackOff"));
        assert!(cluster.ok(&["get", "deploy", "-n", "demo"]).contains("0/1"));
        assert!(
            !cluster.run(&["rollout", "status", "deploy/pet", "-n", "demo", "--timeout=1s"]).status.success()
        );
        cluster.server.store().settle("deploy", "demo", "pet", Settle::RolledOut).unwrap();
        cluster.ok(&["rollout", "status", "deploy/pet", "-n", "demo", "--timeout=60s"]);
        for command in [&["logs", "deploy/pet"][..], &["exec", "deploy/pet", "--", "ls"]] {
            let refused = cluster.refused(&[&["-n", "demo"], command].concat());
            assert!(refused.contains("kube-api stores objects and runs no containers"), "{refused}");
        }
    })
    .await;
}
