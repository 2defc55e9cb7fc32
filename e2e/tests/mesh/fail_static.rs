//! Kubernetes calls every pod unready although all serve, as after an outage of its API server.
//!
//! Seen on a cluster of one node: the API server was killed and came back after a minute; then the
//! node was taken for lost, and for half a minute no EndpointSlice had a ready endpoint.

use std::time::Duration;

use e2e::{Capability, Connections, Mesh, Report, Setup, skipped};

/// Requests per second of each load.
const RATE: u32 = 20;

/// How long the Kubernetes API stays away: sds notices that and tries again.
const OUTAGE: Duration = Duration::from_secs(3);

/// How long every pod is called unready: ten of the proxies' polls.
const UNREADY: Duration = Duration::from_secs(10);

/// After the end of it.
const CALM: Duration = Duration::from_secs(2);

/// The outage under load; what became of the requests.
async fn outage(mesh: &Mesh, seen: impl AsyncFn()) -> Vec<Report> {
    let kinds = [Connections::Fresh, Connections::Kept, Connections::Http2];
    let loads = kinds.map(|kind| mesh.load(RATE, kind).start());
    mesh.cut_kubernetes().await;
    tokio::time::sleep(OUTAGE).await;
    mesh.restore_kubernetes_with_unready_slices().await;
    seen().await;
    tokio::time::sleep(UNREADY).await;
    mesh.restore_kubernetes().await;
    mesh.until("no endpoint is kept any more", async || kept(mesh).await == 0).await;
    mesh.until("both pets are known", async || mesh.registered("pet").await.len() == 2).await;
    tokio::time::sleep(CALM).await;
    let mut reports = Vec::new();
    for load in loads {
        reports.push(load.finish().await);
    }
    reports
}

/// How many endpoints discovery serves that are not ready.
async fn kept(mesh: &Mesh) -> u64 {
    let metrics = mesh.discovery("/metrics").await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix("sds_kept_endpoints "));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no number in {metrics}"))
}

#[tokio::test]
async fn pods_that_are_all_called_unready_lose_no_request() {
    if skipped(&[Capability::CutKubernetes]) {
        return;
    }
    let mesh = Mesh::start().await;
    let pets = mesh.registered("pet").await;
    // Every pod in a Service: two pets, petstore and sds itself.
    let seen = async || {
        mesh.until("discovery keeps all", async || kept(&mesh).await == 4).await;
        assert_eq!(mesh.registered("pet").await, pets);
    };
    for report in outage(&mesh, seen).await {
        report.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn pods_that_are_all_called_unready_lose_requests_where_nothing_is_kept() {
    if skipped(&[Capability::CutKubernetes]) {
        return;
    }
    let setup = Setup { fail_static: Some("0"), ..Setup::default() };
    let mesh = Mesh::with(&setup).await;
    let seen = async || {
        mesh.until("no pet is known", async || mesh.registered("pet").await.is_empty()).await;
    };
    let failed: usize = outage(&mesh, seen).await.iter().map(Report::failed).sum();
    assert!(failed > 0, "without its protection the test cannot fail: it proves nothing");
    mesh.down().await;
}
