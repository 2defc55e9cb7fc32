//! The control side fails: discovery and Kubernetes go away under load, and come back.

use std::time::Duration;

use e2e::{Capability, Connections, Mesh, skipped};

/// Requests per second of each of the two loads.
const RATE: u32 = 50;

/// How long discovery stays away: several of the proxies' polls.
const DISCOVERY_OUTAGE: Duration = Duration::from_secs(5);

/// How long the Kubernetes API stays away.
const KUBERNETES_OUTAGE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn discovery_may_go_and_come_back() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let mesh = Mesh::start().await;
    let loads = [Connections::Kept, Connections::Http2].map(|kind| mesh.load(RATE, kind).start());
    let discovery = mesh.pod("sds", 1).await;
    mesh.kill(&discovery).await;
    mesh.until("sds is gone", async || mesh.ended(&discovery.identities()).await).await;
    tokio::time::sleep(DISCOVERY_OUTAGE).await;
    mesh.recover("sds").await;
    // It knows what has changed since: a new pod is found and used.
    mesh.scale("pet", 3).await;
    let new = mesh.pod("pet", 3).await;
    mesh.until("the new pod serves", async || mesh.served(&new).await > 0).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn kubernetes_may_be_away_for_half_a_minute() {
    if skipped(&[Capability::CutKubernetes]) {
        return;
    }
    let mesh = Mesh::start().await;
    let loads = [Connections::Kept, Connections::Http2].map(|kind| mesh.load(RATE, kind).start());
    let known = mesh.registered("pet").await;
    assert_eq!(known.len(), 2);
    mesh.cut_kubernetes().await;
    mesh.scale("pet", 3).await;
    let end = tokio::time::Instant::now() + KUBERNETES_OUTAGE;
    while tokio::time::Instant::now() < end {
        assert_eq!(mesh.registered("pet").await, known, "the last known answer stays");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let new = mesh.pod("pet", 3).await;
    assert_eq!(mesh.served(&new).await, 0, "nobody has heard of it");
    mesh.restore_kubernetes().await;
    mesh.until("discovery hears of the new pod", async || mesh.registered("pet").await.len() == 3).await;
    mesh.until("the new pod serves", async || mesh.served(&new).await > 0).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down().await;
}
