//! Clusters with IPv6: alone, or beside IPv4.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use kube_api::Config;
use sds::translate::Family;

use crate::harness::{Setup, Tls, pet, slice_ipv6};

/// Whether this machine has no `::1`; then one line says so, and the test is to end.
fn skipped() -> bool {
    let skipped = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err();
    if skipped {
        println!("skipped: this machine has no ::1");
    }
    skipped
}

#[tokio::test]
async fn an_ipv6_cluster_is_served_over_ipv6() {
    if skipped() {
        return;
    }
    for tls in [Tls::No, Tls::Trusted] {
        let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let config = Config { plain: Some(loopback), tls: Some(loopback), ..Config::default() };
        let objects = vec![slice_ipv6("pet", "pet-1", &["fd00::a:1", "fd00:0:0::2"])];
        let setup = Setup { config, tls, objects, listen: loopback, ..Setup::default() };
        let discovery = setup.start().await;
        discovery.until(|catalog| catalog.endpoints() == 2).await;
        let host = |address: &str| {
            format!(
                r#"{{"ip_address":"{address}","port":10000,"tags":{{"az":"","canary":false,"load_balancing_weight":1}}}}"#
            )
        };
        let expected = format!(r#"{{"hosts":[{},{}]}}"#, host("fd00::2"), host("fd00::a:1"));
        let address = discovery.running.address;
        assert!(address.is_ipv6());
        assert_eq!(discovery.get("/v1/registration/pet").await.text, expected);
    }
}

#[tokio::test]
async fn all_addresses_are_those_of_both_families() {
    if skipped() {
        return;
    }
    let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let discovery = Setup { listen, objects: vec![pet(&["10.0.0.1"])], ..Setup::default() }.start().await;
    discovery.until_pet(&["10.0.0.1"]).await;
    let port = discovery.running.address.port();
    for address in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        assert_eq!(discovery.get_at(address, "/livez").await.text, "ok\n", "{address}");
    }
}

#[tokio::test]
async fn a_dual_stack_service_has_each_pod_once() {
    for (family, expected) in [
        (Family::Auto, ["10.0.0.1", "10.0.0.2"]),
        (Family::Ipv4, ["10.0.0.1", "10.0.0.2"]),
        (Family::Ipv6, ["fd00::1", "fd00::2"]),
    ] {
        let six = slice_ipv6("pet", "pet-6", &["fd00::1", "fd00::2"]);
        let objects = vec![pet(&["10.0.0.1", "10.0.0.2"]), six];
        let discovery = Setup { family, objects, ..Setup::default() }.start().await;
        discovery.until_pet(&expected).await;
        assert_eq!(discovery.hosts("pet").await, expected, "{family:?}");
    }
}
