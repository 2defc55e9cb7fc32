//! Create, update, patch and delete over HTTP.

use kube_api::{Config, Server};
use serde_json::{Value, json};

use crate::client::Client;
use crate::{SLICES, slice};

fn start() -> Server {
    let namespaces = vec!["demo".to_owned()];
    Server::start(Config { namespaces, ..Config::default() }).unwrap()
}

fn body(answer: &kube_api::recording::wire::Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn a_new_object_gets_what_the_server_owns() {
    let server = start();
    let mut client = Client::connect(&server).await;
    let mut object = slice("", "127.0.0.2");
    object["metadata"] = json!({"generateName": "pet-"});
    let answer = client.call("POST", SLICES, "", &object).await;
    assert_eq!(answer.status, 201);
    let metadata = body(&answer)["metadata"].clone();
    let name = metadata["name"].as_str().unwrap();
    assert!(name.starts_with("pet-") && name.len() == 9, "{name}");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert_eq!((&metadata["namespace"], &metadata["generation"]), (&json!("demo"), &json!(1)));
    assert_eq!(metadata["resourceVersion"], server.store().resource_version().to_string());
    let found = client.get(&format!("{SLICES}/{name}")).await;
    assert_eq!(found["metadata"]["uid"], metadata["uid"]);
}

#[tokio::test]
async fn create_refuses_what_exists_and_what_has_no_namespace() {
    let server = start();
    let mut client = Client::connect(&server).await;
    assert_eq!(client.call("POST", SLICES, "", &slice("a", "127.0.0.2")).await.status, 201);
    let again = body(&client.call("POST", SLICES, "", &slice("a", "127.0.0.2")).await);
    assert_eq!((again["code"].as_u64(), again["reason"].as_str()), (Some(409), Some("AlreadyExists")));
    let mut object = slice("a", "127.0.0.2");
    object["metadata"]["namespace"] = "absent".into();
    let lost = body(&client.call("POST", &SLICES.replace("demo", "absent"), "", &object).await);
    assert_eq!(lost["message"], "namespaces \"absent\" not found");
    let elsewhere = client.call("POST", SLICES, "", &object).await;
    assert_eq!(elsewhere.status, 400);
    let mut wrong = slice("B_AD", "127.0.0.2");
    assert_eq!(client.call("POST", SLICES, "", &wrong).await.status, 422);
    wrong["kind"] = "Pod".into();
    assert_eq!(client.call("POST", SLICES, "", &wrong).await.status, 400);
}

#[tokio::test]
async fn an_update_based_on_an_old_version_conflicts() {
    let server = start();
    let old = server.store().apply(slice("a", "127.0.0.2")).unwrap();
    server.store().apply(slice("a", "127.0.0.3")).unwrap();
    let mut client = Client::connect(&server).await;
    let path = format!("{SLICES}/a");
    let answer = body(&client.call("PUT", &path, "", &old).await);
    assert_eq!((answer["code"].as_u64(), answer["reason"].as_str()), (Some(409), Some("Conflict")));
    let mut fresh = client.get(&path).await;
    fresh["endpoints"][0]["addresses"][0] = "127.0.0.4".into();
    let updated = body(&client.call("PUT", &path, "", &fresh).await);
    assert_eq!(updated["metadata"]["generation"], 3);
    assert_eq!(client.call("PUT", &format!("{SLICES}/b"), "", &slice("b", "127.0.0.2")).await.status, 404);
}

#[tokio::test]
async fn a_patch_changes_and_a_dry_run_does_not() {
    let server = start();
    server.store().apply(slice("a", "127.0.0.2")).unwrap();
    let mut client = Client::connect(&server).await;
    let path = format!("{SLICES}/a");
    let patch = json!({"metadata": {"labels": {"zone": "a"}}});
    let dry = body(&client.call("PATCH", &format!("{path}?dryRun=All"), "", &patch).await);
    assert_eq!(dry["metadata"]["labels"]["zone"], "a");
    assert!(client.get(&path).await["metadata"]["labels"]["zone"].is_null());
    let patched = body(&client.call("PATCH", &path, "", &patch).await);
    assert_eq!(patched["metadata"]["labels"], json!({"kubernetes.io/service-name": "pet", "zone": "a"}));
    assert_eq!(patched["metadata"]["generation"], 1, "metadata alone is no new generation");
}

#[tokio::test]
async fn delete_waits_for_finalizers() {
    let server = start();
    let mut object = slice("a", "127.0.0.2");
    object["metadata"]["finalizers"] = json!(["demo/hold"]);
    server.store().apply(object).unwrap();
    server.store().apply(slice("b", "127.0.0.2")).unwrap();
    let mut client = Client::connect(&server).await;
    let receipt = body(&client.call("DELETE", &format!("{SLICES}/b"), "", &Value::Null).await);
    assert_eq!(
        (receipt["status"].as_str(), receipt["details"]["name"].as_str()),
        (Some("Success"), Some("b"))
    );
    let path = format!("{SLICES}/a");
    client.call("DELETE", &path, "", &Value::Null).await;
    assert!(client.get(&path).await["metadata"]["deletionTimestamp"].is_string());
    client.call("PATCH", &path, "", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(client.get(&path).await["code"], 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = start();
    for name in ["a", "b"] {
        server.store().apply(slice(name, "127.0.0.2")).unwrap();
    }
    let mut client = Client::connect(&server).await;
    client.call("DELETE", &format!("{SLICES}?fieldSelector=metadata.name%3Da"), "", &Value::Null).await;
    assert_eq!(server.store().list("EndpointSlice", Some("demo")).len(), 1);
    let namespaces = client.call("DELETE", "/api/v1/namespaces", "", &Value::Null).await;
    assert_eq!(namespaces.status, 405);
}

#[tokio::test]
async fn a_status_is_written_apart() {
    let server = start();
    let mut client = Client::connect(&server).await;
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": []}, "status": {"phase": "Running"}});
    let path = "/api/v1/namespaces/demo/pods";
    assert_eq!(body(&client.call("POST", path, "", &pod).await)["status"]["phase"], "Pending");
    let patch = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
    client.call("PATCH", &format!("{path}/a"), "", &patch).await;
    let found = client.get(&format!("{path}/a")).await;
    assert_eq!((&found["spec"]["nodeName"], &found["status"]["phase"]), (&json!("n"), &json!("Pending")));
    let patch = json!({"spec": {"nodeName": "other"}, "status": {"phase": "Running"}});
    client.call("PATCH", &format!("{path}/a/status"), "", &patch).await;
    let found = client.get(&format!("{path}/a")).await;
    assert_eq!((&found["spec"]["nodeName"], &found["status"]["phase"]), (&json!("n"), &json!("Running")));
}
