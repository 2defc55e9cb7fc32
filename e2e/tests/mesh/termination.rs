//! SIGTERM to each part under load: what was accepted is answered.
//!
//! Called by cargo; calls the e2e library.

use std::time::Duration;

use e2e::{Connections, Mesh};

/// Requests per second.
const RATE: u32 = 50;

/// Before the signal and after the end.
const CALM: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_proxy_of_one_of_two_pets_ends_without_a_loss() {
    let mesh = Mesh::start();
    let loads =
        [Connections::Fresh, Connections::Kept].map(|connections| mesh.load(RATE, connections).start());
    tokio::time::sleep(CALM).await;
    mesh.terminate("pet-2", "proxy").await;
    tokio::time::sleep(CALM * 3).await;
    for load in loads {
        load.finish().await.assert_none_failed();
    }
    mesh.down();
}

#[tokio::test]
async fn discovery_ends_without_a_loss() {
    let mesh = Mesh::start();
    let load = mesh.load(RATE, Connections::Kept).start();
    tokio::time::sleep(CALM).await;
    mesh.terminate("sds-1", "app").await;
    tokio::time::sleep(CALM * 3).await;
    load.finish().await.assert_none_failed();
    mesh.down();
}

#[tokio::test]
async fn a_part_without_a_second_loses_nothing_that_it_accepted() {
    for (pod, container) in
        [("ingress-1", "proxy"), ("petstore-1", "proxy"), ("petstore-1", "app"), ("pet-2", "app")]
    {
        println!("{container} of {pod}");
        let mesh = Mesh::start();
        let loads =
            [Connections::Fresh, Connections::Kept].map(|connections| mesh.load(RATE, connections).start());
        tokio::time::sleep(CALM).await;
        mesh.terminate(pod, container).await;
        tokio::time::sleep(CALM).await;
        for load in loads {
            let report = load.finish().await;
            assert!(report.answered() > 0);
            report.assert_nothing_accepted_was_lost();
        }
        mesh.down();
    }
}
