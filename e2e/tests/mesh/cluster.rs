//! What happens to a mesh in a cluster, and can be done there: long rolling restarts, a proxy that quits, discovery that is killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::{Capability, Connections, Mesh, Setup, has, load, skipped};
use futures_util::future::join_all;

/// Requests per second of each of the two loads.
const RATE: u32 = 100;

/// Before the event and after it.
const CALM: Duration = Duration::from_secs(2);

/// Requests at the same moment: as many as come when a machine has stood still for two seconds.
const BURST: usize = 400;

/// What the rolling restarts must have seen in all.
const MANY: u64 = 10_000;

/// Clients that keep their connections: what a rolling update must move without a loss.
fn loads(mesh: &Mesh) -> [load::Running; 2] {
    [Connections::Kept, Connections::Http2].map(|connections| mesh.load(RATE, connections).start())
}

/// Two of everything, as the manifests have it; where the ingress cannot be two, one.
async fn twofold() -> (Mesh, Vec<&'static str>) {
    let mut services = vec!["pet", "petstore", "sds"];
    if has(Capability::SeveralIngresses) {
        services.push("ingress");
    }
    let replicas: BTreeMap<&str, u32> = services.iter().map(|service| (*service, 2)).collect();
    (Mesh::with(&Setup { replicas, ..Setup::default() }).await, services)
}

#[tokio::test]
async fn ten_thousand_requests_pass_through_rolling_restarts_without_a_loss() {
    if skipped(&[Capability::SeveralIngresses]) {
        return;
    }
    let (mesh, services) = twofold().await;
    let began = Instant::now();
    let loads = loads(&mesh);
    let enough = Duration::from_secs(MANY / (2 * u64::from(RATE)) + 2);
    let mut turns = 0;
    while turns == 0 || began.elapsed() < enough {
        for service in &services {
            let before = mesh.identities(service).await;
            mesh.restart(service).await;
            assert!(mesh.ended(&before).await && !before.is_empty(), "both pods of {service} are new");
        }
        turns += 1;
    }
    tokio::time::sleep(CALM).await;
    let mut answered = 0;
    for load in loads {
        let report = load.finish().await;
        report.assert_none_failed();
        answered += report.answered();
    }
    println!("{turns} rolling restarts of {services:?}, {answered} requests answered, 0 failed");
    assert!(answered as u64 >= MANY, "{answered}");
    mesh.down().await;
}

/// The apps have little memory: what they cannot hold at once must wait in their proxies.
#[tokio::test]
async fn a_burst_of_slow_requests_is_answered_and_ends_no_app() {
    let mesh = Mesh::with(&Setup { pet_delay: Some("1s"), ..Setup::default() }).await;
    let mut before = mesh.identities("petstore").await;
    before.extend(mesh.identities("pet").await);
    let path = "/petstore/petstore/2?includePets=true";
    let answers = join_all((0..BURST).map(|_| mesh.get(path))).await;
    let wrong: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(wrong.is_empty(), "{} of {BURST} failed, the first: {:?}", wrong.len(), wrong[0]);
    let pods = mesh.pods().await;
    for run in before {
        assert!(e2e::pod::runs(&pods, &run), "{run:?} has ended");
    }
    mesh.down().await;
}

#[tokio::test]
async fn a_sidecar_that_quits_is_started_again_and_loses_only_what_it_held() {
    if skipped(&[Capability::RestartContainer]) {
        return;
    }
    let (mesh, _) = twofold().await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let pod = mesh.pod("pet", 2).await;
    let run = pod.identity("proxy").unwrap();
    let before = Instant::now();
    mesh.quit_proxy(&pod).await;
    mesh.until("the proxy has quit", async || {
        !mesh.pods().await.iter().any(|now| now.identity("proxy").as_ref() == Some(&run))
    })
    .await;
    let quit = before..=Instant::now();
    mesh.until("it runs again, in the same pod", async || {
        let pods = mesh.pods_of("pet").await;
        pods.iter().any(|now| {
            now.name == pod.name && now.identity("proxy").is_some_and(|new| new.starts == run.starts + 1)
        })
    })
    .await;
    mesh.settled("pet").await;
    tokio::time::sleep(CALM).await;
    for load in loads {
        load.finish().await.assert_none_failed_but_in_flight_at(&quit);
    }
    mesh.down().await;
}

#[tokio::test]
async fn one_of_two_discovery_services_may_be_killed() {
    let (mesh, _) = twofold().await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let killed = mesh.pod("sds", 1).await;
    mesh.kill(&killed).await;
    mesh.until("it is gone", async || mesh.ended(&killed.identities()).await).await;
    mesh.recover("sds").await;
    // The proxies go on hearing of new pods.
    let before: Vec<String> = mesh.pods_of("pet").await.into_iter().map(|pod| pod.name).collect();
    mesh.scale("pet", 3).await;
    let new = mesh.pods_of("pet").await.into_iter().find(|pod| !before.contains(&pod.name)).unwrap();
    mesh.until("the new pod serves", async || mesh.served(&new).await > 0).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down().await;
}
