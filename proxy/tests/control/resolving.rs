//! DNS clusters against a name server of the test's own.

use super::servers::{Zone, dns};
use super::*;

fn named(kind: &str, server: SocketAddr, host: &str) -> String {
    let resolver = format!(
        "dns_lookup_family: V4_ONLY, dns_refresh_rate: 0.02s, dns_resolution_config: {{ resolvers: [{{ socket_address: {{ address: 127.0.0.1, \
         port_value: {} }} }}] }},",
        server.port()
    );
    bootstrap(&cluster("one", kind, &[(host, 80)], &resolver))
}

fn addresses(ends: &[u8]) -> Zone {
    Zone::Addresses(ends.iter().map(|end| [127, 0, 0, *end].into()).collect())
}

#[tokio::test]
async fn strict_dns_has_every_address_and_none_when_the_name_is_gone() {
    let (server, zone) = dns(addresses(&[2, 1])).await;
    let mut running = start(&named("STRICT_DNS", server, "svc.test"), None);
    let first = running.hosts("one", &["127.0.0.1:80", "127.0.0.2:80"]).await;
    assert_eq!(first.clusters.get("one").unwrap().endpoints.hosts[0].hostname, "svc.test");
    // The same addresses in another order are no change.
    *zone.lock().unwrap() = addresses(&[1, 2, 3]);
    let second = running.hosts("one", &["127.0.0.1:80", "127.0.0.2:80", "127.0.0.3:80"]).await;
    assert_eq!(second.version, first.version + 1);
    *zone.lock().unwrap() = Zone::NoSuchName;
    running.hosts("one", &[]).await;
}

#[tokio::test]
async fn a_failed_look_up_keeps_the_last_addresses() {
    let (server, zone) = dns(addresses(&[1])).await;
    let mut running = start(&named("STRICT_DNS", server, "svc.test"), None);
    let first = running.hosts("one", &["127.0.0.1:80"]).await;
    *zone.lock().unwrap() = Zone::Failure;
    let stats = running.stats("one");
    while stats.shard(1).update_failure.get() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(running.handles.snapshots.borrow().version, first.version);
    *zone.lock().unwrap() = addresses(&[4]);
    running.hosts("one", &["127.0.0.4:80"]).await;
}

#[tokio::test]
async fn logical_dns_has_the_first_address_only() {
    let (server, zone) = dns(addresses(&[7, 1])).await;
    let mut running = start(&named("LOGICAL_DNS", server, "svc.test"), None);
    let first = running.hosts("one", &["127.0.0.7:80"]).await;
    let id = |snapshot: &Snapshot| snapshot.clusters.get("one").unwrap().endpoints.hosts[0].id;
    // A rotated answer is no reason to close connections; an address that is gone is.
    *zone.lock().unwrap() = addresses(&[1, 7]);
    let rotated = running.hosts("one", &["127.0.0.1:80"]).await;
    assert_eq!(id(&rotated), id(&first));
    *zone.lock().unwrap() = addresses(&[4]);
    let other = running.hosts("one", &["127.0.0.4:80"]).await;
    assert_ne!(id(&other), id(&first));
    // As in Envoy, a name without addresses keeps what it had.
    *zone.lock().unwrap() = Zone::NoSuchName;
    let stats = running.stats("one");
    while stats.shard(1).update_empty.get() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(running.handles.snapshots.borrow().version, other.version);
}

#[tokio::test]
async fn localhost_and_addresses_need_no_name_server() {
    let literal = cluster("one", "STRICT_DNS", &[("127.0.0.9", 80)], "");
    let local = cluster("two", "STRICT_DNS", &[("localhost", 81)], "dns_lookup_family: V4_ONLY,");
    let mut running = start(&bootstrap(&format!("{literal}, {local}")), None);
    running.hosts("one", &["127.0.0.9:80"]).await;
    running.hosts("two", &["127.0.0.1:81"]).await;
}
