//! SIGTERM to each part under load: what was accepted is answered.

use std::time::{Duration, Instant};

use e2e::load::Running;
use e2e::{Capability, Connections, Load, Mesh, Report, Setup, Signal, skipped};

/// Requests per second of each of the three loads.
const RATE: u32 = 50;

/// Before the signal and after the end.
const CALM: Duration = Duration::from_secs(1);

/// Passes every part.
const STORE: &str = "/petstore/petstore/2?includePets=true";

/// Passes the ingress and pet.
const PETS: &str = "/pet/pets?petStoreId=2";

/// Each answer takes a while, so that the signal finds about thirty requests under way.
async fn start(path: &str) -> (Mesh, [Running; 3]) {
    let mesh = Mesh::with(&Setup { pet_delay: Some("300ms"), ..Setup::default() }).await;
    let loads = [Connections::Fresh, Connections::Kept, Connections::Http2]
        .map(|connections| Load { path: path.to_owned(), ..mesh.load(RATE, connections) }.start());
    (mesh, loads)
}

#[tokio::test]
async fn the_proxy_of_one_of_two_pets_ends_without_a_loss() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let (mesh, loads) = start(STORE).await;
    tokio::time::sleep(CALM).await;
    mesh.end_container(&mesh.pod("pet", 2).await, "proxy", Signal::TERM).await;
    tokio::time::sleep(CALM * 3).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn discovery_ends_without_a_loss() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let (mesh, loads) = start(STORE).await;
    tokio::time::sleep(CALM).await;
    mesh.end_container(&mesh.pod("sds", 1).await, "app", Signal::TERM).await;
    tokio::time::sleep(CALM * 3).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down().await;
}

#[tokio::test]
async fn the_ingress_answers_what_it_accepted() {
    ends_alone("ingress", "proxy").await;
}

#[tokio::test]
async fn the_proxy_of_the_only_petstore_answers_what_it_accepted() {
    ends_alone("petstore", "proxy").await;
}

#[tokio::test]
async fn the_only_petstore_answers_what_it_accepted() {
    ends_alone("petstore", "app").await;
}

#[tokio::test]
async fn a_pet_whose_proxy_stays_answers_what_it_accepted() {
    ends_alone("pet", "app").await;
}

#[tokio::test]
async fn a_part_that_is_killed_instead_loses_what_it_accepted() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    for (service, container) in
        [("ingress", "proxy"), ("petstore", "proxy"), ("petstore", "app"), ("pet", "app")]
    {
        let (signal, reports) = end(service, container, Signal::KILL).await;
        let lost: usize = reports.iter().map(|report| report.lost(signal)).sum();
        println!("SIGKILL to {container} of {service}: {}\n{}\n{}", reports[0], reports[1], reports[2]);
        assert!(lost > 0, "without its protection the test cannot fail: it proves nothing");
    }
}

/// A part that has no second, or whose second cannot help: what it accepted is answered, what it refuses is counted apart.
async fn ends_alone(service: &str, container: &str) {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let (signal, reports) = end(service, container, Signal::TERM).await;
    for report in reports {
        assert!(report.answered() > 0);
        report.assert_nothing_accepted_was_lost(signal);
    }
}

/// Ends one container of the last pod of a service under load; tells when it was told to, and what became of the requests.
async fn end(service: &str, container: &str, signal: Signal) -> (Instant, [Report; 3]) {
    // petstore puts words of its own around what pet's proxy says: pet itself is asked for pets.
    let path = if service == "pet" { PETS } else { STORE };
    let (mesh, [fresh, kept, http2]) = start(path).await;
    let pod = mesh.pods_of(service).await.pop().unwrap();
    tokio::time::sleep(CALM).await;
    let at = Instant::now();
    mesh.end_container(&pod, container, signal).await;
    tokio::time::sleep(CALM).await;
    let reports = [fresh.finish().await, kept.finish().await, http2.finish().await];
    mesh.down().await;
    (at, reports)
}
