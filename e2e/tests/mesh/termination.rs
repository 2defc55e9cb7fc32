//! SIGTERM to each part under load: what was accepted is answered.
//!
//! Called by cargo; calls the e2e library.

use std::time::{Duration, Instant};

use e2e::load::Running;
use e2e::{Connections, Load, Mesh, Report, Setup, Signal};

/// Requests per second of each of the two loads.
const RATE: u32 = 50;

/// Before the signal and after the end.
const CALM: Duration = Duration::from_secs(1);

/// Passes every part.
const STORE: &str = "/petstore/petstore/2?includePets=true";

/// Passes the ingress and pet.
const PETS: &str = "/pet/pets?petStoreId=2";

/// Each answer takes a while, so that the signal finds about thirty requests under way.
fn start(path: &str) -> (Mesh, [Running; 2]) {
    let mesh = Mesh::with(&Setup { pet_delay: Some("300ms"), ..Setup::default() });
    let loads = [Connections::Fresh, Connections::Kept]
        .map(|connections| Load { path: path.to_owned(), ..mesh.load(RATE, connections) }.start());
    (mesh, loads)
}

#[tokio::test]
async fn the_proxy_of_one_of_two_pets_ends_without_a_loss() {
    let (mesh, loads) = start(STORE);
    tokio::time::sleep(CALM).await;
    mesh.end_process("pet-2", "proxy", Signal::TERM).await;
    tokio::time::sleep(CALM * 3).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down();
}

#[tokio::test]
async fn discovery_ends_without_a_loss() {
    let (mesh, loads) = start(STORE);
    tokio::time::sleep(CALM).await;
    mesh.end_process("sds-1", "app", Signal::TERM).await;
    tokio::time::sleep(CALM * 3).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down();
}

#[tokio::test]
async fn the_ingress_answers_what_it_accepted() {
    ends_alone("ingress-1", "proxy").await;
}

#[tokio::test]
async fn the_proxy_of_the_only_petstore_answers_what_it_accepted() {
    ends_alone("petstore-1", "proxy").await;
}

#[tokio::test]
async fn the_only_petstore_answers_what_it_accepted() {
    ends_alone("petstore-1", "app").await;
}

#[tokio::test]
async fn a_pet_whose_proxy_stays_answers_what_it_accepted() {
    ends_alone("pet-2", "app").await;
}

#[tokio::test]
async fn a_part_that_is_killed_instead_loses_what_it_accepted() {
    for (pod, container) in
        [("ingress-1", "proxy"), ("petstore-1", "proxy"), ("petstore-1", "app"), ("pet-2", "app")]
    {
        let (signal, reports) = end(pod, container, Signal::KILL).await;
        let lost: usize = reports.iter().map(|report| report.lost(signal)).sum();
        println!("SIGKILL to {container} of {pod}: {}\n{}", reports[0], reports[1]);
        assert!(lost > 0, "without its protection the test cannot fail: it proves nothing");
    }
}

/// A part that has no second, or whose second cannot help: what it accepted is answered, what it refuses is counted apart.
async fn ends_alone(pod: &str, container: &str) {
    let (signal, reports) = end(pod, container, Signal::TERM).await;
    for report in reports {
        assert!(report.answered() > 0);
        report.assert_nothing_accepted_was_lost(signal);
    }
}

/// Ends one process under load; tells when it was told to, and what became of the requests.
async fn end(pod: &str, container: &str, signal: Signal) -> (Instant, [Report; 2]) {
    // petstore puts words of its own around what pet's proxy says: pet itself is asked for pets.
    let path = if pod.starts_with("pet-") { PETS } else { STORE };
    let (mesh, [fresh, kept]) = start(path);
    tokio::time::sleep(CALM).await;
    let at = Instant::now();
    mesh.end_process(pod, container, signal).await;
    tokio::time::sleep(CALM).await;
    let reports = [fresh.finish().await, kept.finish().await];
    mesh.down();
    (at, reports)
}
