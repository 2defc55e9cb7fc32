//! What happens to single containers and links: killed, frozen, parted from the network, started again.

use std::time::{Duration, Instant};

use e2e::{Capability, Connections, Mesh, Pod, Setup, Signal, load, skipped};

/// Requests per second of each load.
const RATE: u32 = 40;

/// Before the event and after it.
const CALM: Duration = Duration::from_secs(2);

fn loads(mesh: &Mesh) -> [load::Running; 3] {
    [Connections::Fresh, Connections::Kept, Connections::Http2]
        .map(|connections| mesh.load(RATE, connections).start())
}

#[tokio::test]
async fn nothing_can_be_written_to_the_root_of_a_container() {
    if skipped(&[Capability::ReadOnlyRoot]) {
        return;
    }
    let mesh = Mesh::start().await;
    let mut asked = 0;
    for pod in mesh.pods().await {
        for container in pod.containers.keys() {
            let answer = mesh.write_to_root(&pod, container).await;
            assert!(
                answer.as_deref().is_some_and(|text| text.contains("read-only")),
                "{}: {answer:?}",
                pod.name
            );
            asked += 1;
        }
    }
    assert_eq!(asked, 8, "three pods of two containers, sds, and the ingress");
    mesh.down().await;
}

#[tokio::test]
async fn a_killed_sidecar_is_started_again_and_loses_only_what_it_held() {
    if skipped(&[Capability::SignalContainer, Capability::RestartContainer]) {
        return;
    }
    let mesh = Mesh::start().await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let pod = mesh.pod("pet", 2).await;
    let before = Instant::now();
    mesh.end_container(&pod, "proxy", Signal::KILL).await;
    let killed = before..=Instant::now();
    let again = started_again(&mesh, &pod, "proxy").await;
    assert_eq!(again.identity("app"), pod.identity("app"), "the app beside it goes on");
    serves_again(&mesh, &again).await;
    for load in loads {
        load.finish().await.assert_none_failed_but_in_flight_at(&killed);
    }
    mesh.down().await;
}

#[tokio::test]
async fn an_app_that_ends_is_started_again_beside_its_sidecar() {
    if skipped(&[Capability::SignalContainer, Capability::RestartContainer]) {
        return;
    }
    let mesh = Mesh::start().await;
    let pod = mesh.pod("petstore", 1).await;
    mesh.end_container(&pod, "app", Signal::TERM).await;
    let again = started_again(&mesh, &pod, "app").await;
    assert_eq!(again.identity("proxy"), pod.identity("proxy"), "the sidecar goes on");
    let path = "/petstore/petstore/2?includePets=true";
    mesh.until("the way through it is open", async || mesh.get(path).await.status == 200).await;
    mesh.down().await;
}

#[tokio::test]
async fn a_pod_without_a_network_is_left_alone_until_it_is_back() {
    if skipped(&[Capability::CutLink]) {
        return;
    }
    let mesh = Mesh::start().await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let pod = mesh.pod("pet", 2).await;
    let before = Instant::now();
    mesh.cut_link(&pod).await;
    nobody_knows(&mesh, &pod).await;
    let away = before..=Instant::now();
    tokio::time::sleep(CALM).await;
    mesh.restore_link(&pod).await;
    mesh.settled("pet").await;
    serves_again(&mesh, &pod).await;
    for load in loads {
        load.finish().await.assert_none_failed_but_in_flight_at(&away);
    }
    mesh.down().await;
}

#[tokio::test]
async fn a_pod_without_a_network_costs_requests_where_nobody_tries_again() {
    if skipped(&[Capability::CutLink]) {
        return;
    }
    let mesh = Mesh::with(&Setup { edit: Some(crate::rollouts::without_retries), ..Setup::default() }).await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    mesh.cut_link(&mesh.pod("pet", 2).await).await;
    tokio::time::sleep(CALM).await;
    let mut failed = 0;
    for load in loads {
        failed += load.finish().await.failed();
    }
    assert!(failed > 0, "without its protection the test cannot fail: it proves nothing");
    mesh.down().await;
}

/// More than the limit of the file allows, and more than the memory of the container holds without it.
const CLIENTS: usize = 1300;

#[tokio::test]
async fn more_clients_than_the_ingress_has_memory_for_are_refused_and_it_lives() {
    if skipped(&[Capability::MemoryLimit]) {
        return;
    }
    let mesh = Mesh::start().await;
    let pod = mesh.pod("ingress", 1).await;
    let path = "/petstore/petstore/2?includePets=true";
    let first_bytes: [(&str, Vec<u8>); 3] = [
        ("idle HTTP/1", Vec::new()),
        ("idle HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("in the middle of a body", {
            let head = "POST /pet/pets HTTP/1.1\r\nhost: pet\r\ncontent-length: 10000000\r\n\r\n";
            [head.as_bytes(), &[b'x'; 64 * 1024]].concat()
        }),
    ];
    for (what, bytes) in first_bytes {
        let before = refused(&mesh, &pod).await;
        let mut clients = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            let Ok(mut client) = tokio::net::TcpStream::connect(mesh.ingress()).await else { continue };
            // A client that is refused cannot write; one whose buffers are full writes no more.
            let write = tokio::io::AsyncWriteExt::write(&mut client, &bytes);
            let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
            clients.push(client);
        }
        mesh.until(&format!("{what}: some are refused"), async || refused(&mesh, &pod).await > before).await;
        drop(clients);
        mesh.until(&format!("{what}: it serves again"), async || {
            mesh.try_get(path, &[]).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        let after = mesh.pod("ingress", 1).await;
        assert_eq!(after.identity("proxy"), pod.identity("proxy"), "{what}: the ingress was killed");
    }
    mesh.down().await;
}

/// Connections that the ingress has closed because its limit was reached: new ones, or idle ones in
/// their favour.
async fn refused(mesh: &Mesh, pod: &Pod) -> u64 {
    let filter = "downstream_global_cx_overflow|http.ingress.downstream_cx_idle_timeout";
    let stats = mesh.admin(pod, &format!("/stats?filter={filter}")).await;
    stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn a_frozen_app_holds_no_request_for_ever_and_thaws() {
    if skipped(&[Capability::Pause]) {
        return;
    }
    let mesh = Mesh::start().await;
    let loads = loads(&mesh);
    tokio::time::sleep(CALM).await;
    let pod = mesh.pod("pet", 2).await;
    let before = Instant::now();
    mesh.pause(&pod, "app").await;
    nobody_knows(&mesh, &pod).await;
    let frozen = before..=Instant::now();
    tokio::time::sleep(CALM).await;
    // It is still frozen: each request that it holds ends with the proxy's own answer when the route's time is over.
    let mut held = 0;
    for load in loads {
        let report = load.finish().await;
        report.assert_none_failed_but_in_flight_at(&frozen);
        assert!(!report.to_string().contains("no answer within"), "held for ever: {report}");
        held += report.failed();
    }
    assert!(held > 0, "nothing was under way in the frozen app: the test proves nothing");
    mesh.unpause(&pod, "app").await;
    mesh.settled("pet").await;
    let load = mesh.load(RATE, Connections::Kept).start();
    serves_again(&mesh, &pod).await;
    load.finish().await.assert_none_failed();
    mesh.down().await;
}

/// The pod, once a container of it runs anew and it is ready.
async fn started_again(mesh: &Mesh, pod: &Pod, container: &str) -> Pod {
    let mut again = pod.clone();
    mesh.until(&format!("{container} of {} is started again", pod.name), async || {
        let pods = mesh.pods_of(&pod.service).await;
        again = pods.into_iter().find(|found| found.name == pod.name).unwrap();
        again.identity(container).is_some_and(|run| run.starts == pod.containers[container].starts + 1)
    })
    .await;
    mesh.settled(&pod.service).await;
    again
}

/// Waits until a pod carries requests that it has not carried before.
async fn serves_again(mesh: &Mesh, pod: &Pod) {
    let before = mesh.served(pod).await;
    mesh.until(&format!("{} serves again", pod.name), async || mesh.served(pod).await > before).await;
}

/// Waits until discovery has dropped a pod, and so has the caller of its service.
async fn nobody_knows(mesh: &Mesh, pod: &Pod) {
    mesh.until(&format!("discovery drops {}", pod.name), async || {
        !mesh.registered(&pod.service).await.contains(&pod.address)
    })
    .await;
    let caller = mesh.pod("petstore", 1).await;
    let host = format!("{}::{}:10000::", pod.service, pod.address);
    mesh.until(&format!("petstore's proxy drops {}", pod.name), async || {
        !mesh.admin(&caller, "/clusters").await.contains(&host)
    })
    .await;
}
