//! Slices in, the exact answer out.

use serde_json::Value;

use crate::harness::{Discovery, Setup, pet, slice};

/// Applies the slices (YAML documents) and compares the answer with `expected`, byte for byte.
async fn check(slices: &str, service: &str, expected: &str) {
    let objects: Vec<Value> = serde_saphyr::from_multiple(slices).unwrap();
    let discovery = Discovery::with(objects).await;
    let answer = discovery.get(&format!("/v1/registration/{service}")).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, expected));
    assert_eq!(answer.header("content-type"), "application/json");
}

const ROLLING_UPDATE: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: pet-abc12
  namespace: shop
  labels: {kubernetes.io/service-name: pet}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}]
endpoints:
- addresses: [10.20.0.12]
  conditions: {ready: true, serving: true, terminating: false}
  targetRef: {kind: Pod, namespace: shop, name: pet-1, uid: u1}
  nodeName: node-a
  zone: zone-a
- addresses: [10.20.0.9]
  conditions: {ready: false, serving: true, terminating: true}
  targetRef: {kind: Pod, namespace: shop, name: pet-2, uid: u2}
  zone: zone-a
- addresses: [10.20.0.13]
  conditions: {ready: false, serving: false, terminating: false}
  targetRef: {kind: Pod, namespace: shop, name: pet-3, uid: u3}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: pet-canary
  namespace: shop
  labels: {kubernetes.io/service-name: pet}
  annotations: {petmesh.dev/weight: "5", petmesh.dev/canary: "true"}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8081}]
endpoints:
- addresses: [10.20.0.2]
  targetRef: {kind: Pod, namespace: shop, name: pet-4, uid: u4}
"#;

#[tokio::test]
async fn a_service_in_the_middle_of_a_rolling_update() {
    let expected = r#"{"hosts":[{"ip_address":"10.20.0.2","port":10000,"tags":{"az":"","canary":true,"load_balancing_weight":5}},{"ip_address":"10.20.0.12","port":10000,"tags":{"az":"zone-a","canary":false,"load_balancing_weight":1}}]}"#;
    check(ROLLING_UPDATE, "pet", expected).await;
    check(ROLLING_UPDATE, "pet/", expected).await;
    check(ROLLING_UPDATE, "pet.shop", expected).await;
}

#[tokio::test]
async fn a_database_without_pods_keeps_its_own_port() {
    let slices = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, protocol: TCP, port: 5432}]
endpoints: [{addresses: [192.168.1.7]}]
"#;
    let expected = r#"{"hosts":[{"ip_address":"192.168.1.7","port":5432,"tags":{"az":"","canary":false,"load_balancing_weight":1}}]}"#;
    check(slices, "db", expected).await;
}

#[tokio::test]
async fn known_but_empty_and_unknown_are_both_empty_and_never_an_error() {
    let discovery = Discovery::with([slice("pet", "pet-1", &[])]).await;
    for service in ["pet", "nobody", "nobody.shop"] {
        let answer = discovery.get(&format!("/v1/registration/{service}")).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"hosts":[]}"#), "{service}");
    }
}

#[tokio::test]
async fn names_that_no_service_can_have_are_refused() {
    let discovery = Discovery::with([]).await;
    let long = "x".repeat(64);
    for name in
        ["Pet", "pet_1", "-pet", "pet-", "pet.shop.svc", "pet.", ".shop", "pet%20x", "p%C3%A9t", &long]
    {
        let answer = discovery.get(&format!("/v1/registration/{name}")).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text);
        let error: Value = serde_json::from_str(&answer.text).unwrap();
        assert!(error["error"].as_str().unwrap().contains("is no service"), "{error}");
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_watched_is_not_called_empty() {
    let discovery = Discovery::with([pet(&["10.0.0.1"])]).await;
    let answer = discovery.get("/v1/registration/pet.other").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("--kubernetes-all-namespaces"), "{}", answer.text);
}

#[tokio::test]
async fn all_namespaces_are_told_apart_by_name() {
    let mut other = pet(&["10.0.0.2"]);
    other["metadata"]["namespace"] = "other".into();
    let mut setup =
        Setup { all_namespaces: true, objects: vec![pet(&["10.0.0.1"]), other], ..Setup::default() };
    setup.config.namespaces.extend(["shop".to_owned(), "other".to_owned()]);
    let discovery = setup.start().await;
    discovery.until(|catalog| catalog.services() == 2).await;
    assert_eq!(discovery.hosts("pet").await, ["10.0.0.1"]);
    assert_eq!(discovery.hosts("pet.shop").await, ["10.0.0.1"]);
    assert_eq!(discovery.hosts("pet.other").await, ["10.0.0.2"]);
}

#[tokio::test]
async fn a_client_that_has_the_answer_is_told_so() {
    let discovery = Discovery::with([pet(&["10.0.0.1"])]).await;
    let first = discovery.get("/v1/registration/pet").await;
    let tag = first.header("etag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
        let again = discovery.get_with("/v1/registration/pet", &[("if-none-match", &known)]).await;
        assert_eq!(
            (again.status, again.text.as_str(), again.header("etag")),
            (304, "", tag.as_str()),
            "{known}"
        );
    }
    discovery.apply(pet(&["10.0.0.2"]));
    discovery.until_pet(&["10.0.0.2"]).await;
    let changed = discovery.get_with("/v1/registration/pet", &[("if-none-match", &tag)]).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), tag);
}

#[tokio::test]
async fn two_replicas_name_the_same_content_alike() {
    let one = Discovery::with([slice("pet", "a", &["10.0.0.1"]), slice("pet", "b", &["10.0.0.2"])]).await;
    let two = Discovery::with([slice("pet", "c", &["10.0.0.2", "10.0.0.1"])]).await;
    let tag =
        async |discovery: &Discovery| discovery.get("/v1/registration/pet").await.header("etag").to_owned();
    assert_eq!(tag(&one).await, tag(&two).await);
}

#[tokio::test]
async fn debug_shows_what_is_known_and_what_was_ignored() {
    let mut bad = pet(&["10.0.0.1"]);
    bad["metadata"]["annotations"] = serde_json::json!({ "petmesh.dev/weight": "heavy" });
    let discovery = Discovery::with([bad]).await;
    let debug: Value = serde_json::from_str(&discovery.get("/debug").await.text).unwrap();
    assert_eq!(debug["synced"], true);
    assert_eq!(debug["services"]["pet.shop"]["endpoints"], 1);
    assert_eq!(debug["ignored"][0]["slice"], "shop/pet-1");
    assert_eq!(debug["ignored"][0]["value"], "heavy");
    assert!(discovery.metric("sds_ignored_values 1").await);
    assert!(discovery.metric("sds_endpoints 1").await);
}

#[tokio::test]
async fn other_pages_and_methods_are_refused_in_json() {
    let discovery = Discovery::with([]).await;
    let answer = discovery.get("/v2/nothing").await;
    assert_eq!(answer.status, 404);
    assert!(serde_json::from_str::<Value>(&answer.text).unwrap()["error"].is_string());
}
