//! Pods come, go and die under load. Each promise has a twin without its protection, which must break.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::{Capability, Connections, Mesh, Report, Setup, has, load, skipped};
use serde_json::Value;

/// Requests per second of each load.
const RATE: u32 = 60;

/// Before the event and after it.
const CALM: Duration = Duration::from_secs(2);

/// Every kind of client at once.
fn loads(mesh: &Mesh) -> Vec<load::Running> {
    let kinds = [Connections::Fresh, Connections::Kept, Connections::Http2];
    kinds.map(|connections| mesh.load(RATE, connections).start()).into()
}

async fn finish(loads: Vec<load::Running>) -> Vec<Report> {
    let mut reports = Vec::new();
    for load in loads {
        reports.push(load.finish().await);
    }
    reports
}

#[tokio::test]
async fn scaling_from_one_to_ten_and_back_loses_no_request() {
    let mesh = Mesh::with(&Setup { replicas: BTreeMap::from([("pet", 1)]), ..Setup::default() }).await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.scale("pet", 10).await;
    let pods = mesh.pods_of("pet").await;
    for pod in &pods {
        mesh.until(&format!("{} serves", pod.name), async || mesh.served(pod).await > 0).await;
    }
    mesh.scale("pet", 1).await;
    let mut gone = 0;
    for pod in &pods {
        gone += usize::from(mesh.ended(&pod.identities()).await);
    }
    assert_eq!(gone, 9, "nine of ten pods are gone");
    tokio::time::sleep(CALM).await;
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn pods_that_leave_at_once_and_callers_that_do_not_retry_lose_requests() {
    if skipped(&[Capability::LeaveAtOnce]) {
        return;
    }
    let mesh = Mesh::with(&Setup {
        replicas: BTreeMap::from([("pet", 3)]),
        edit: Some(without_retries),
        ..Setup::default()
    })
    .await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.begin_scale("pet", 1, true).await;
    tokio::time::sleep(CALM).await;
    let failed: usize = finish(loads).await.iter().map(Report::failed).sum();
    assert!(failed > 0, "without its protection the test cannot fail: it proves nothing");
    mesh.down().await;
}

#[tokio::test]
async fn a_killed_pod_loses_no_request_but_those_it_held() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let mesh = Mesh::start().await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let pod = mesh.pod("pet", 2).await;
    let before = Instant::now();
    mesh.kill(&pod).await;
    let killed = before..=Instant::now();
    mesh.until("it is gone", async || mesh.ended(&pod.identities()).await).await;
    tokio::time::sleep(CALM * 2).await;
    for report in finish(loads).await {
        report.assert_none_failed_but_in_flight_at(&killed);
    }
    mesh.recover("pet").await;
    assert_eq!(mesh.get("/pet/pets?petStoreId=2").await.status, 200);
    mesh.down().await;
}

#[tokio::test]
async fn a_killed_pod_loses_requests_without_retries() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let mesh = Mesh::with(&Setup { edit: Some(without_retries), ..Setup::default() }).await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.kill(&mesh.pod("pet", 2).await).await;
    tokio::time::sleep(CALM).await;
    let failed: usize = finish(loads).await.iter().map(Report::failed).sum();
    assert!(failed > 0, "without its protection the test cannot fail: it proves nothing");
    mesh.down().await;
}

#[tokio::test]
async fn restarting_every_deployment_pod_by_pod_loses_no_request() {
    // Where the ingress cannot be two, the others are restarted all the same.
    let mut services = vec!["sds", "pet", "petstore"];
    let mut replicas: BTreeMap<&str, u32> = services.iter().map(|service| (*service, 2)).collect();
    if has(Capability::SeveralIngresses) {
        services.push("ingress");
        replicas.insert("ingress", 2);
    }
    let mesh = Mesh::with(&Setup { replicas, ..Setup::default() }).await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    for service in services {
        let before = mesh.identities(service).await;
        mesh.restart(service).await;
        assert!(mesh.ended(&before).await && !before.is_empty(), "both pods of {service} are new");
        for pod in mesh.pods_of(service).await.iter().filter(|pod| pod.service != "sds") {
            mesh.until(&format!("{} serves", pod.name), async || mesh.served(pod).await > 0).await;
        }
    }
    tokio::time::sleep(CALM).await;
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn the_drain_of_a_node_loses_no_request() {
    let replicas = BTreeMap::from([("pet", 2), ("petstore", 2), ("sds", 2)]);
    let mesh = Mesh::with(&Setup { replicas, ..Setup::default() }).await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let (sds, pet, petstore) =
        (mesh.pod("sds", 1).await, mesh.pod("pet", 1).await, mesh.pod("petstore", 1).await);
    tokio::join!(mesh.delete(&sds), mesh.delete(&pet), mesh.delete(&petstore));
    for pod in [sds, pet, petstore] {
        assert!(mesh.ended(&pod.identities()).await, "{} is another one now", pod.name);
        assert_eq!(mesh.pods_of(&pod.service).await.len(), 2);
    }
    tokio::time::sleep(CALM).await;
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn another_image_is_rolled_out_without_a_loss() {
    if skipped(&[Capability::ChangeImage]) {
        return;
    }
    let mesh = Mesh::start().await;
    let before = mesh.identities("pet").await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.change_image("pet").await;
    assert!(mesh.ended(&before).await, "both pods are new");
    for pod in mesh.pods_of("pet").await {
        mesh.until(&format!("{} serves", pod.name), async || mesh.served(&pod).await > 0).await;
    }
    tokio::time::sleep(CALM).await;
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn a_changed_file_is_applied_without_a_loss_and_a_broken_one_changes_nothing() {
    let mesh = Mesh::start().await;
    let loads = loads(&mesh);
    assert_eq!(mesh.get("/pet/pets?petStoreId=2").await.status, 200);
    mesh.apply_config("ingress", |tree| {
        let text = tree.to_string().replace("\"/pet/pets\"", "\"/animals/pets\"");
        *tree = serde_json::from_str(&text).unwrap();
    })
    .await;
    mesh.until("the new route works", async || mesh.get("/animals/pets?petStoreId=2").await.status == 200)
        .await;
    assert_eq!(mesh.get("/pet/pets?petStoreId=2").await.status, 404);
    mesh.apply_config("ingress", |tree| tree["static_resources"] = "nonsense".into()).await;
    tokio::time::sleep(CALM).await;
    assert_eq!(mesh.get("/animals/pets?petStoreId=2").await.status, 200);
    for report in finish(loads).await {
        report.assert_none_failed();
    }
    mesh.down().await;
}

/// Takes every `retry_policy` out of an Envoy file.
pub fn without_retries(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            fields.remove("retry_policy");
            fields.values_mut().for_each(without_retries);
        }
        Value::Array(items) => items.iter_mut().for_each(without_retries),
        _ => {}
    }
}
