//! SDS v1 against an HTTP server that behaves and misbehaves.

use super::servers::{Reply, http};
use super::*;

fn sds(server: SocketAddr, more: &str) -> String {
    let asked = cluster("sds", "STATIC", &[("127.0.0.1", server.port())], "");
    let one = format!(
        "{{ name: one, type: EDS, eds_cluster_config: {{ service_name: pet, eds_config: {{ {more} api_config_source: {{ api_type: REST_LEGACY, \
         cluster_names: [sds], refresh_delay: 0.01s, request_timeout: 0.1s }} }} }} }}"
    );
    bootstrap(&format!("{asked}, {one}"))
}

fn registration(hosts: &[(&str, u16)]) -> Reply {
    let host = |(ip, port): &(&str, u16)| {
        format!(
            r#"{{"ip_address":"{ip}","port":{port},"tags":{{"az":"a","canary":true,"load_balancing_weight":3}}}}"#
        )
    };
    let hosts: Vec<_> = hosts.iter().map(host).collect();
    Reply::Whole(200, format!(r#"{{"hosts":[{}]}}"#, hosts.join(",")))
}

#[tokio::test]
async fn registrations_become_endpoints() {
    let replies = vec![
        registration(&[("127.0.0.1", 1), ("127.0.0.2", 2)]),
        registration(&[("127.0.0.2", 2)]),
        registration(&[]),
    ];
    let (server, mut requests) = http(replies).await;
    let mut running = start(&sds(server, ""), None);
    let head = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("get /v1/registration/pet http/1.1\r\n") && head.contains("\r\nhost: sds\r\n"),
        "{head}"
    );
    tokio::spawn(async move { while requests.recv().await.is_some() {} });
    let first = running.hosts("one", &["127.0.0.1:1", "127.0.0.2:2"]).await;
    let host = &first.clusters.get("one").unwrap().endpoints.hosts[1];
    assert_eq!((host.weight, host.canary, &*host.locality.zone), (3, true, "a"));
    let last = running.hosts("one", &[]).await;
    assert!(host.stats.is_removed());
    assert!(last.version > first.version);
    assert!(running.stats("one").shard(1).update_empty.get() >= 1);
}

#[tokio::test]
async fn every_error_keeps_the_last_registration_and_is_counted() {
    let bad = |text: &str| Reply::Whole(200, text.to_owned());
    let replies = vec![
        registration(&[("127.0.0.1", 1)]),
        Reply::Whole(503, String::new()),
        bad("not JSON"),
        bad(r#"{"hosts":[{"ip_address":"pet","port":1}]}"#),
        bad(r#"{"hosts":[{"ip_address":"127.0.0.1","port":0}]}"#),
        registration(&[("127.0.0.1", 1), ("127.0.0.1", 0)]),
        Reply::Garbage,
        Reply::Close,
        Reply::Stall,
        registration(&[("127.0.0.1", 1)]),
    ];
    let (server, mut requests) = http(replies).await;
    let mut running = start(&sds(server, ""), None);
    // The eleventh question comes when the tenth response has been taken.
    for _ in 0..11 {
        requests.recv().await.unwrap();
    }
    let first = running.hosts("one", &["127.0.0.1:1"]).await;
    assert_eq!(first.version, 1);
    let stats = running.stats("one");
    let stats = stats.shard(1);
    assert_eq!((stats.update_failure.get(), stats.update_rejected.get()), (8, 4));
    assert_eq!((stats.update_success.get(), stats.membership_change.get()), (2, 1));
}

#[tokio::test]
async fn listeners_come_without_endpoints_when_nobody_answers_in_time() {
    let (server, mut requests) = http(vec![Reply::Stall]).await;
    tokio::spawn(async move { while requests.recv().await.is_some() {} });
    let mut running = start(&sds(server, "initial_fetch_timeout: 0.05s,"), None);
    assert_eq!(running.handles.accepted.borrow().warming, ["one".into()].into());
    let snapshot = running.snapshot(|_| true).await;
    assert!(snapshot.clusters.get("one").unwrap().endpoints.hosts.is_empty());
}
