//! A service that hangs costs the requests that need it, and nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::load::Outcome;
use e2e::{Connections, Identity, Load, Mesh, Setup, State};
use serde_json::{Value, json};

/// Requests per second of each load.
const RATE: u32 = 60;

/// How long the service hangs: without protection petstore is out of service after 16 s.
const HANGING: Duration = Duration::from_secs(25);

/// How often the tests look at the pods.
const LOOK: Duration = Duration::from_millis(50);

const WITH_PETS: &str = "/petstore/petstore/2?includePets=true";
const WITHOUT_PETS: &str = "/petstore/petstore/2?includePets=false";

fn load(mesh: &Mesh, path: &str, expected: &str, rate: u32) -> Load {
    Load { path: path.to_owned(), expected: expected.to_owned(), ..mesh.load(rate, Connections::Kept) }
}

/// Two petstores, and pets that respond after 30 s.
async fn with_slow_pets(edit: Option<fn(&mut Value)>) -> Mesh {
    let replicas = BTreeMap::from([("petstore", 2)]);
    let mesh = Mesh::with(&Setup { replicas, edit, ..Setup::default() }).await;
    mesh.apply_config("pet", |tree| {
        let manager = &mut tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
        let filters = manager["typed_config"]["http_filters"].as_array_mut().unwrap();
        let delay = json!({
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "delay": { "fixed_delay": "30s", "percentage": { "numerator": 100 } },
                "headers": [{ "name": ":path", "string_match": { "prefix": "/pets" } }],
            },
        });
        filters.insert(0, delay);
    })
    .await;
    for pod in mesh.pods_of("pet").await {
        let what = format!("{} is slow", pod.name);
        mesh.until(&what, async || mesh.admin(&pod, "/config_dump").await.contains("fixed_delay")).await;
    }
    mesh
}

async fn runs(mesh: &Mesh) -> Vec<Identity> {
    mesh.pods().await.iter().flat_map(e2e::Pod::identities).collect()
}

/// Names of the pods that are not ready now.
async fn unready(mesh: &Mesh) -> Vec<String> {
    let pods = mesh.pods().await.into_iter();
    pods.filter(|pod| pod.state != State::Ready).map(|pod| pod.name).collect()
}

#[tokio::test]
async fn a_slow_pet_costs_the_requests_that_need_it_and_no_other() {
    let mesh = with_slow_pets(None).await;
    let before = runs(&mesh).await;
    let with = load(&mesh, WITH_PETS, "Toby", RATE).start();
    let without = load(&mesh, WITHOUT_PETS, "Amiguitos", RATE).start();
    let end = Instant::now() + HANGING;
    while Instant::now() < end {
        assert_eq!(unready(&mesh).await, Vec::<String>::new());
        tokio::time::sleep(LOOK).await;
    }
    without.finish().await.assert_none_failed();
    let with = with.finish().await;
    with.assert_whole();
    // A kept connection may carry one more request past the new filter.
    assert!(with.failed() > with.answered() * 9, "the pets were not slow: {with}");
    for record in with.unanswered() {
        let Outcome::Failed(said) = &record.outcome else { panic!("{record:?}") };
        let fails_fast = ["503", "504"].iter().any(|status| {
            said.starts_with(&format!("{status} ")) && said.contains(&format!("pet answered {status}"))
        });
        assert!(fails_fast, "{said}");
    }
    assert_eq!(runs(&mesh).await, before, "nothing was started again");
    mesh.down().await;
}

#[tokio::test]
async fn a_slow_pet_takes_petstore_out_of_service_without_protection() {
    let mesh = with_slow_pets(Some(|tree| {
        probes_share_the_cluster_of_requests(tree);
        without_bulkhead(tree);
    }))
    .await;
    let with = load(&mesh, WITH_PETS, "Toby", RATE).start();
    let without = load(&mesh, WITHOUT_PETS, "Amiguitos", RATE).start();
    mesh.until("a petstore is not ready", async || {
        unready(&mesh).await.iter().any(|name| name.starts_with("petstore"))
    })
    .await;
    with.finish().await;
    without.finish().await;
    mesh.down().await;
}

/// Two pets of four connections each, and five times the requests that they can answer.
async fn overloaded(edit: fn(&mut Value)) -> Mesh {
    Mesh::with(&Setup { pet_delay: Some("1s"), edit: Some(edit), ..Setup::default() }).await
}

#[tokio::test]
async fn probes_do_not_wait_behind_requests() {
    let mesh = overloaded(few_connections).await;
    let load = load(&mesh, "/pet/pets?petStoreId=2", "Toby", 40).start();
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        assert_eq!(unready(&mesh).await, Vec::<String>::new());
        tokio::time::sleep(LOOK).await;
    }
    let report = load.finish().await;
    report.assert_whole();
    assert!(report.failed() > 0, "requests did not have to wait: the test proves nothing");
    mesh.down().await;
}

#[tokio::test]
async fn probes_that_wait_behind_requests_take_a_busy_pod_out_of_service() {
    let mesh = overloaded(|tree| {
        few_connections(tree);
        probes_share_the_cluster_of_requests(tree);
    })
    .await;
    let load = load(&mesh, "/pet/pets?petStoreId=2", "Toby", 40).start();
    mesh.until("a pet is not ready", async || {
        unready(&mesh).await.iter().any(|name| name.starts_with("pet-"))
    })
    .await;
    load.finish().await;
    mesh.down().await;
}

fn few_connections(tree: &mut Value) {
    for cluster in clusters(tree).filter(|cluster| cluster["name"] == "local_service") {
        cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_connections": 4 }] });
    }
}

/// Takes the probes' own routes out of an Envoy file.
fn probes_share_the_cluster_of_requests(tree: &mut Value) {
    each_route(tree, &mut |routes| routes.retain(|route| route["route"]["cluster"] != "local_probes"));
}

/// Takes the limits on waiting for a slow service out of an Envoy file.
fn without_bulkhead(tree: &mut Value) {
    each_route(tree, &mut |routes| {
        for action in routes.iter_mut().filter_map(|route| route["route"].as_object_mut()) {
            action.remove("timeout");
            if action.get("cluster").is_some_and(|cluster| cluster == "local_service_with_pets") {
                action.insert("cluster".to_owned(), "local_service".into());
            }
        }
    });
    for cluster in clusters(tree) {
        let limit = if cluster["name"] == "local_service" { "max_connections" } else { "max_retries" };
        let most = if cluster["name"] == "local_service" { 256 } else { 100 };
        cluster["circuit_breakers"] = json!({ "thresholds": [{ limit: most }] });
    }
}

fn clusters(tree: &mut Value) -> impl Iterator<Item = &mut Value> {
    tree["static_resources"]["clusters"].as_array_mut().into_iter().flatten()
}

fn each_route(tree: &mut Value, change: &mut dyn FnMut(&mut Vec<Value>)) {
    match tree {
        Value::Object(fields) => {
            if let Some(routes) = fields.get_mut("routes").and_then(Value::as_array_mut) {
                change(routes);
            }
            fields.values_mut().for_each(|value| each_route(value, change));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_route(item, change)),
        _ => {}
    }
}
