//! The queue for connections at `max_connections`: whoever waits gets what ends, and nothing given up is lost.
//!
//! Over real sockets that accept and stay silent.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::{Clusters, LocalCluster, LocalHost, Update, UpstreamStream};
use crate::cluster::breaker::{Breaker, Thresholds};
use crate::cluster::{
    ClusterPolicy, Endpoint, EndpointView, Health, Locality, UpstreamProtocol, balancer::Policy,
};
use crate::error::UpstreamError;
use crate::message::{RequestHead, Version};
use crate::route::Priority;
use crate::stats::Registry;

fn policy(max_connections: u32) -> ClusterPolicy {
    let one = Thresholds { max_connections, ..Thresholds::default() };
    ClusterPolicy {
        name: "one".into(),
        connect_timeout: Duration::from_secs(5),
        protocol: UpstreamProtocol::Http1,
        balancer: Policy::RoundRobin,
        idle_timeout: None,
        max_requests_per_connection: None,
        buffer_limit: 1024,
        breakers: [one, one],
        balance: crate::cluster::shares::Balance::default(),
        outlier: None,
        health: None,
        http1: crate::http1::ClientOptions::default(),
        http2: crate::http2::Options::default(),
        tcp_keepalive: None,
        fingerprint: 0,
        selectable_by_header: true,
    }
}

/// A cluster of one host that takes one connection.
struct Fixture {
    cluster: Rc<LocalCluster>,
    host: Rc<LocalHost>,
    _socket: Rc<TcpListener>,
    clusters: Clusters,
}

impl Fixture {
    async fn new() -> Self {
        let [only] = Self::workers(1).await;
        only
    }

    /// The same cluster on several workers, as far as what they share goes: two of its connections may be open.
    async fn two_workers() -> [Self; 2] {
        Self::workers(2).await
    }

    async fn workers<const N: usize>(max_connections: u32) -> [Self; N] {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint {
            address: socket.local_addr().unwrap(),
            hostname: String::new(),
            weight: 1,
            priority: 0,
            locality: Locality::default(),
            locality_weight: 0,
            canary: false,
            health: Health::Healthy,
            check: crate::cluster::health::Target::default(),
        };
        let update = Update {
            policy: &Arc::new(policy(max_connections)),
            endpoints: &Arc::new(EndpointView::empty(N).update(&[endpoint], String::new())),
            stats: &Registry::new(N).scope("cluster.one."),
            breakers: &Arc::new([Breaker::default(), Breaker::default()]),
        };
        let socket = Rc::new(socket);
        std::array::from_fn(|shard| {
            let clusters = Clusters::default();
            clusters.update(&update, shard);
            let cluster = clusters.get("one").unwrap();
            let host = cluster.pick(&mut |_| 0, &[], 0).unwrap();
            Self { cluster, host, _socket: Rc::clone(&socket), clusters }
        })
    }

    async fn stream(&self) -> Result<UpstreamStream, UpstreamError> {
        let head = RequestHead::default();
        self.host.stream(&self.cluster, Version::Http11, Priority::Default, &head).await
    }

    fn connections(&self) -> (u64, u32) {
        let (breaker, _) = self.cluster.breaker(Priority::Default);
        (self.cluster.stats().upstream_cx_total.get(), breaker.connections.used())
    }
}

/// Lets a future begin that is to wait.
macro_rules! waits {
    ($future:expr) => {
        tokio::select! {
            biased;
            _ = &mut $future => panic!("there is no connection for it"),
            () = std::future::ready(()) => {}
        }
    };
}

#[tokio::test]
async fn a_try_that_waits_opens_a_connection_when_another_one_is_broken_off() {
    let fixture = Fixture::new().await;
    let first = fixture.stream().await.unwrap();
    let mut second = pin!(fixture.stream());
    waits!(second);
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(fixture.connections(), (2, 1));
    drop(second);
    assert_eq!(fixture.connections(), (2, 0));
}

#[tokio::test]
async fn a_try_that_gives_up_hands_on_what_it_was_given() {
    let fixture = Fixture::new().await;
    let first = fixture.stream().await.unwrap();
    let mut second = Box::pin(fixture.stream());
    let mut third = pin!(fixture.stream());
    waits!(second);
    waits!(third);
    first.finish(&fixture.cluster.policy);
    drop(second);
    drop(third.await.unwrap());
    // Nothing is counted as open any more: the next one opens at once.
    drop(fixture.stream().await.unwrap());
    assert_eq!(fixture.connections().1, 0);
}

#[tokio::test]
async fn tries_that_begin_while_the_first_connects_do_not_pass_the_limit() {
    let fixture = Fixture::new().await;
    let mut first = Box::pin(fixture.stream());
    waits!(first);
    let mut second = pin!(fixture.stream());
    waits!(second);
    assert_eq!(fixture.connections().1, 1);
    let stream = first.await.unwrap();
    waits!(second);
    drop(stream);
    drop(second.await.unwrap());
}

#[tokio::test]
async fn a_host_that_leaves_still_serves_those_who_wait_for_it() {
    let fixture = Fixture::new().await;
    let first = fixture.stream().await.unwrap();
    let mut second = pin!(fixture.stream());
    waits!(second);
    fixture.host.retire();
    first.finish(&fixture.cluster.policy);
    drop(second.await.unwrap());
    assert_eq!(fixture.connections().1, 0);
}

#[tokio::test]
async fn a_connection_on_which_nothing_was_sent_is_used_again() {
    let fixture = Fixture::new().await;
    fixture.stream().await.unwrap().finish(&fixture.cluster.policy);
    fixture.stream().await.unwrap().finish(&fixture.cluster.policy);
    assert_eq!(fixture.connections(), (1, 1));
}

#[tokio::test]
async fn a_connection_that_another_worker_needs_is_not_kept_idle() {
    let [one, other] = Fixture::two_workers().await;
    let first = one.stream().await.unwrap();
    let _second = other.stream().await.unwrap();
    let mut third = pin!(other.stream());
    waits!(third);
    first.finish(&one.cluster.policy);
    let _third = third.await.unwrap();
    assert_eq!(other.connections(), (2, 2));
}

#[tokio::test]
async fn connections_that_lie_idle_are_closed_for_another_worker_one_for_each_that_waits() {
    let [one, other] = Fixture::two_workers().await;
    one.stream().await.unwrap().finish(&one.cluster.policy);
    let _second = other.stream().await.unwrap();
    let mut third = pin!(other.stream());
    waits!(third);
    one.clusters.close_idle(crate::time::now());
    let _third = third.await.unwrap();
    assert_eq!(other.connections(), (2, 2));
    // Nobody waits any more, so that what falls idle stays.
    let (breaker, _) = one.cluster.breaker(Priority::Default);
    assert_eq!(breaker.connections.wanted(), 0);
}

#[tokio::test]
async fn a_try_that_has_given_up_waits_no_longer() {
    let [one, other] = Fixture::two_workers().await;
    let first = one.stream().await.unwrap();
    let _second = other.stream().await.unwrap();
    let mut third = Box::pin(other.stream());
    waits!(third);
    drop(third);
    first.finish(&one.cluster.policy);
    assert_eq!(one.connections().1, 2, "it is kept");
}
