//! The control side fails: discovery and Kubernetes go away under load, and come back.
//!
//! Called by cargo; calls the e2e library.

use std::time::Duration;

use e2e::mesh::process_exists;
use e2e::{Connections, Mesh};

/// Requests per second.
const RATE: u32 = 50;

/// How long discovery stays away: several of the proxies' polls.
const DISCOVERY_OUTAGE: Duration = Duration::from_secs(5);

/// How long the Kubernetes API stays away.
const KUBERNETES_OUTAGE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn discovery_may_go_and_come_back() {
    let mesh = Mesh::start();
    let load = mesh.load(RATE, Connections::Kept).start();
    let discovery = mesh.pid("sds-1", "app");
    mesh.kill("sds-1", "KILL");
    mesh.until("sds is gone", || !process_exists(discovery)).await;
    tokio::time::sleep(DISCOVERY_OUTAGE).await;
    mesh.restart("sds-1").await;
    // It knows what has changed since: a new pod is found and used.
    mesh.scale("pet", 3).await;
    mesh.until("the new pod serves", || !mesh.access_log("pet-3").is_empty()).await;
    load.finish().await.assert_none_failed();
    mesh.down();
}

#[tokio::test]
async fn kubernetes_may_be_away_for_half_a_minute() {
    let mesh = Mesh::start();
    let load = mesh.load(RATE, Connections::Kept).start();
    let known = sorted(mesh.registered("pet").await);
    mesh.cut_kubernetes();
    mesh.scale("pet", 3).await;
    let end = tokio::time::Instant::now() + KUBERNETES_OUTAGE;
    while tokio::time::Instant::now() < end {
        assert_eq!(sorted(mesh.registered("pet").await), known, "the last known answer stays");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        mesh.access_log("pet-3").iter().all(|line| line.contains("petmesh-probe")),
        "nobody has heard of it"
    );
    mesh.restore_kubernetes();
    mesh.until_async("discovery hears of the new pod", async || mesh.registered("pet").await.len() == 3)
        .await;
    let served = || mesh.access_log("pet-3").iter().any(|line| !line.contains("petmesh-probe"));
    mesh.until("the new pod serves", served).await;
    load.finish().await.assert_none_failed();
    mesh.down();
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}
