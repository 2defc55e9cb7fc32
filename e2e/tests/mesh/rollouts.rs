//! Pods come, go and die under load. Each promise has a twin without its protection, which must break.
//!
//! Called by cargo; calls the e2e library.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::mesh::process_exists;
use e2e::{Connections, Mesh, Report, Setup, load};
use serde_json::Value;

/// Requests per second of each of the two loads.
const RATE: u32 = 60;

/// Before the event and after it.
const CALM: Duration = Duration::from_secs(2);

/// Both kinds of client at once.
fn loads(mesh: &Mesh) -> [load::Running; 2] {
    [Connections::Fresh, Connections::Kept].map(|connections| mesh.load(RATE, connections).start())
}

async fn finish(loads: [load::Running; 2]) -> [Report; 2] {
    let [fresh, kept] = loads;
    [fresh.finish().await, kept.finish().await]
}

#[tokio::test]
async fn scaling_up_and_down_loses_no_request() {
    let mesh = Mesh::with(&Setup { replicas: BTreeMap::from([("pet", 1)]), ..Setup::default() });
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.scale("pet", 3).await;
    for pod in ["pet-2", "pet-3"] {
        mesh.until(&format!("{pod} serves"), || !mesh.access_log(pod).is_empty()).await;
    }
    let leaving: Vec<u32> = ["pet-2", "pet-3"].iter().map(|pod| mesh.pid(pod, "app")).collect();
    mesh.scale("pet", 1).await;
    assert!(leaving.iter().all(|pid| !process_exists(*pid)), "the pods are gone");
    tokio::time::sleep(CALM).await;
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down();
}

#[tokio::test]
async fn pods_that_leave_at_once_and_callers_that_do_not_retry_lose_requests() {
    let mesh = Mesh::with(&Setup {
        replicas: BTreeMap::from([("pet", 3)]),
        edit: Some(without_retries),
        ..Setup::default()
    });
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.begin_scale("pet", 1, true);
    tokio::time::sleep(CALM).await;
    let failed: usize = finish(loads).await.iter().map(Report::failed).sum();
    assert!(failed > 0, "without its protection the test cannot fail: it proves nothing");
    mesh.down();
}

#[tokio::test]
async fn a_killed_pod_loses_no_request_but_those_it_held() {
    let mesh = Mesh::start();
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let pids = ["app", "proxy"].map(|container| mesh.pid("pet-2", container));
    let before = Instant::now();
    mesh.kill("pet-2", "KILL");
    let killed = before..=Instant::now();
    mesh.until("pet-2 is gone", || pids.iter().all(|pid| !process_exists(*pid))).await;
    tokio::time::sleep(CALM * 2).await;
    for report in finish(loads).await {
        report.assert_none_failed_but_in_flight_at(&killed);
    }
    mesh.restart("pet-2").await;
    assert_eq!(mesh.get("/pet/pets?petStoreId=2").await.status, 200);
    mesh.down();
}

#[tokio::test]
async fn a_killed_pod_loses_requests_without_retries() {
    let mesh = Mesh::with(&Setup { edit: Some(without_retries), ..Setup::default() });
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.kill("pet-2", "KILL");
    tokio::time::sleep(CALM).await;
    let failed: usize = finish(loads).await.iter().map(Report::failed).sum();
    assert!(failed > 0, "without its protection the test cannot fail: it proves nothing");
    mesh.down();
}

#[tokio::test]
async fn restarting_a_service_pod_by_pod_loses_no_request() {
    let mesh = Mesh::start();
    let before = ["pet-1", "pet-2"].map(|pod| mesh.pid(pod, "app"));
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.restart("pet").await;
    assert!(before.iter().all(|pid| !process_exists(*pid)), "both pods are new");
    tokio::time::sleep(CALM).await;
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down();
}

#[tokio::test]
async fn a_changed_file_is_applied_without_a_loss_and_a_broken_one_changes_nothing() {
    let mesh = Mesh::start();
    let loads = loads(&mesh);
    assert_eq!(mesh.get("/pet/pets?petStoreId=2").await.status, 200);
    mesh.apply_config("ingress-1", |tree| {
        let text = tree.to_string().replace("\"/pet/\"", "\"/animals/\"");
        *tree = serde_json::from_str(&text).unwrap();
    });
    mesh.until_async("the new route works", async || {
        mesh.get("/animals/pets?petStoreId=2").await.status == 200
    })
    .await;
    assert_eq!(mesh.get("/pet/pets?petStoreId=2").await.status, 404);
    mesh.apply_config("ingress-1", |tree| tree["static_resources"] = "nonsense".into());
    tokio::time::sleep(CALM).await;
    assert_eq!(mesh.get("/animals/pets?petStoreId=2").await.status, 200);
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down();
}

/// Takes every `retry_policy` out of an Envoy file.
fn without_retries(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            fields.remove("retry_policy");
            fields.values_mut().for_each(without_retries);
        }
        Value::Array(items) => items.iter_mut().for_each(without_retries),
        _ => {}
    }
}
