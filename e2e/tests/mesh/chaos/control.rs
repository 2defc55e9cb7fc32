//! What the mesh stands on fails: the Kubernetes API and DNS. What the proxies know protects them.

use std::time::Duration;

use e2e::{Capability, Case, Mesh, skipped};

/// The Kubernetes API fails for a minute, with two kinds of error.
const FAILURES: [(u16, Duration); 2] = [(429, Duration::from_secs(30)), (500, Duration::from_secs(30))];

#[tokio::test]
async fn a_kubernetes_api_that_responds_with_errors_for_a_minute_costs_nothing() {
    if skipped(&[Capability::CutKubernetes]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    let mesh = Mesh::start().await;
    let mut case = Case::begin("the Kubernetes API responds with 429, then 500", &mesh).await;
    let known = mesh.registered("pet").await;
    case.fault_begins();
    for (status, lasts) in FAILURES {
        mesh.fail_kubernetes(status).await;
        if status == FAILURES[0].0 {
            mesh.scale("pet", 3).await;
        }
        tokio::time::sleep(lasts).await;
        assert_eq!(mesh.registered("pet").await, known, "the last known response stays");
    }
    let new = mesh.pod("pet", 3).await;
    assert_eq!(mesh.served(&new).await, 0, "nobody has heard of it");
    mesh.restore_control().await;
    case.fault_ends();
    super::serves_well(&mesh, &new).await;
    case.recovered();
    case.end(&mesh).await.assert_none_lost();
    mesh.down().await;
}

#[tokio::test]
async fn a_proxy_that_starts_while_the_kubernetes_api_fails_knows_nothing() {
    if skipped(&[Capability::CutKubernetes, Capability::SignalContainer]) {
        return;
    }
    let mesh = Mesh::start().await;
    mesh.fail_kubernetes(500).await;
    // What discovery knew goes with it; what the proxy knew goes with that.
    mesh.kill(&mesh.pod("sds", 1).await).await;
    forget(&mesh, "petstore").await;
    let mut case = Case::begin("the Kubernetes API responds with 429, then 500", &mesh).await;
    case.fault_begins();
    case.end_twin(&mesh).await.assert_lost_at_least_one_in(2);
    mesh.down().await;
}

#[tokio::test]
async fn without_dns_the_proxies_go_on_with_the_addresses_that_they_know() {
    if skipped(&[Capability::CutDns]) {
        return;
    }
    let mesh = Mesh::start().await;
    let mut case = Case::begin("DNS gives no response", &mesh).await;
    case.fault_begins();
    mesh.cut_dns().await;
    // Longer than the address of discovery may be kept without asking again.
    tokio::time::sleep(Duration::from_secs(12)).await;
    // Discovery is still asked at its known address: the caller hears that a pod has gone.
    let killed = mesh.pod("pet", 2).await;
    mesh.kill(&killed).await;
    let caller = mesh.pod("petstore", 1).await;
    let host = format!("pet::{}:10000::", killed.address);
    mesh.until("the caller drops the killed pod", async || {
        !mesh.admin(&caller, "/clusters").await.contains(&host)
    })
    .await;
    mesh.restore_control().await;
    case.fault_ends();
    mesh.recover("pet").await;
    super::serves_well(&mesh, &mesh.pod("pet", 2).await).await;
    case.recovered();
    case.end(&mesh).await.assert_none_lost();
    mesh.down().await;
}

#[tokio::test]
async fn a_proxy_that_starts_without_dns_knows_nothing() {
    if skipped(&[Capability::CutDns]) {
        return;
    }
    let mesh = Mesh::start().await;
    mesh.cut_dns().await;
    forget(&mesh, "petstore").await;
    let mut case = Case::begin("DNS gives no response", &mesh).await;
    case.fault_begins();
    case.end_twin(&mesh).await.assert_lost_at_least_one_in(2);
    mesh.restore_control().await;
    mesh.settled("petstore").await;
    mesh.down().await;
}

/// Kills the pod of a service and begins to bring it back: it runs again and knows nothing.
async fn forget(mesh: &Mesh, service: &str) {
    let pod = mesh.pod(service, 1).await;
    mesh.kill(&pod).await;
    mesh.until("it is gone", async || mesh.ended(&pod.identities()).await).await;
    mesh.begin_recovery(service).await;
    mesh.until("it runs again", async || {
        let now = mesh.pods_of(service).await;
        now.iter().any(|now| now.name == pod.name && now.identities().len() == now.containers.len())
    })
    .await;
}
