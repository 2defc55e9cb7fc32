//! Pools over real sockets: who waits gets what becomes free, limits hold, and nothing is lost.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use super::{Clusters, LocalCluster, LocalHost, Update, UpstreamStream};
use crate::cluster::balancer::Wanted;
use crate::cluster::breaker::{Breaker, Thresholds};
use crate::cluster::{ClusterPolicy, Endpoint, EndpointView, UpstreamProtocol, balancer::Policy};
use crate::error::UpstreamError;
use crate::memory::SocketBuffers;
use crate::message::{HeadKind, RequestHead, ResponseHead, Version};
use crate::route::Priority;
use crate::stats::{ClusterStats, Registry};

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

mod http2;
mod laws;

fn policy(limits: Thresholds) -> ClusterPolicy {
    ClusterPolicy {
        name: "one".into(),
        connect_timeout: Duration::from_secs(5),
        protocol: UpstreamProtocol::Http1,
        balancer: Policy::default(),
        idle_timeout: None,
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_stream_duration: None,
        buffer_limit: 1024,
        breakers: [limits, limits],
        layout: Arc::default(),
        hash: None,
        outlier: None,
        health: None,
        http1: crate::http1::ClientOptions::default(),
        http2: crate::http2::Options::default(),
        tcp_keepalive: None,
        socket_buffers: SocketBuffers::default(),
        fingerprint: 0,
        selectable_by_header: true,
    }
}

fn connections(max_connections: u32) -> Thresholds {
    Thresholds { max_connections, ..Thresholds::default() }
}

/// A request that was received, with the number of its connection.
type Received = (usize, SendResponse<Bytes>);

/// A host over HTTP/2 that allows so many streams; they are responded to when the test says so.
struct Server {
    socket: Rc<TcpListener>,
    accepted: Rc<RefCell<Vec<Received>>>,
    total: Rc<Cell<usize>>,
    /// Has all connections say GOAWAY.
    goaway: Rc<Notify>,
}

impl Server {
    /// One that accepts connections and stays silent.
    async fn silent() -> Self {
        let socket = Rc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        Self { socket, accepted: Rc::default(), total: Rc::default(), goaway: Rc::default() }
    }

    async fn http2(streams: u32) -> Self {
        let server = Self::silent().await;
        let (socket, accepted) = (Rc::clone(&server.socket), Rc::clone(&server.accepted));
        let (total, goaway) = (Rc::clone(&server.total), Rc::clone(&server.goaway));
        tokio::task::spawn_local(async move {
            for number in 0.. {
                let (stream, _) = socket.accept().await.unwrap();
                let (accepted, total) = (Rc::clone(&accepted), Rc::clone(&total));
                let goaway = Rc::clone(&goaway);
                tokio::task::spawn_local(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(streams);
                    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                    loop {
                        tokio::select! {
                            request = connection.accept() => match request {
                                Some(Ok((_, respond))) => {
                                    total.set(total.get() + 1);
                                    accepted.borrow_mut().push((number, respond));
                                }
                                _ => return,
                            },
                            () = goaway.notified() => connection.graceful_shutdown(),
                        }
                    }
                });
            }
        });
        server
    }

    /// The oldest request.
    async fn next(&self) -> Received {
        until(|| !self.accepted.borrow().is_empty()).await;
        self.accepted.borrow_mut().remove(0)
    }
}

/// One worker's view of a cluster of one host.
struct Fixture {
    cluster: Rc<LocalCluster>,
    host: Rc<LocalHost>,
    clusters: Clusters,
    version: Version,
    server: Rc<Server>,
    shared: Shared,
}

/// What control publishes of the cluster.
#[derive(Clone)]
struct Shared {
    policy: Arc<ClusterPolicy>,
    endpoints: Arc<EndpointView>,
    stats: Arc<crate::stats::Scope<ClusterStats>>,
    breakers: Arc<[Breaker; 2]>,
}

impl Shared {
    fn update<'s>(&'s self, policy: &'s Arc<ClusterPolicy>) -> Update<'s> {
        let Self { endpoints, stats, breakers, .. } = self;
        Update { policy, endpoints, stats, breakers }
    }
}

impl Fixture {
    /// HTTP/1 and at most one connection.
    async fn new() -> Self {
        let [only] = Self::workers(Server::silent().await, Version::Http11, policy(connections(1)));
        only
    }

    fn http2(server: Server, policy: ClusterPolicy) -> Self {
        let [only] = Self::workers(server, Version::Http2, policy);
        only
    }

    /// Two workers that may have two connections together.
    async fn two_workers() -> [Self; 2] {
        Self::workers(Server::silent().await, Version::Http11, policy(connections(2)))
    }

    /// The same cluster on several workers, as far as they share something.
    fn workers<const N: usize>(server: Server, version: Version, policy: ClusterPolicy) -> [Self; N] {
        let server = Rc::new(server);
        let endpoint = Endpoint::new(server.socket.local_addr().unwrap());
        let shared = Shared {
            policy: Arc::new(policy),
            endpoints: Arc::new(EndpointView::empty(N).update(&[endpoint], String::new())),
            stats: Registry::new(N).scope("cluster.one."),
            breakers: Arc::new([Breaker::default(), Breaker::default()]),
        };
        std::array::from_fn(|shard| {
            let clusters = Clusters::default();
            clusters.update(&shared.update(&shared.policy), shard);
            let cluster = clusters.get("one").unwrap();
            let host = cluster.pick(&mut |_| 0, Wanted::default()).unwrap();
            Self { cluster, host, clusters, version, server: Rc::clone(&server), shared: shared.clone() }
        })
    }

    /// A reload that changes the limits.
    fn limit(&self, limits: Thresholds) {
        let policy = Arc::new(policy(limits));
        self.clusters.update(&self.shared.update(&policy), self.cluster.shard());
    }

    async fn stream(&self) -> Result<UpstreamStream, UpstreamError> {
        self.host.stream(&self.cluster, self.version, Priority::Default, &head()).await
    }

    /// A stream on which the whole request was sent.
    async fn request(&self) -> UpstreamStream {
        let mut stream = self.stream().await.unwrap();
        stream.tx.head(&head(), true).await.unwrap();
        stream
    }

    fn stats(&self) -> &ClusterStats {
        self.cluster.stats()
    }

    fn breaker(&self) -> &Breaker {
        self.cluster.breaker(Priority::Default).0
    }

    /// Connections made so far, and those open now.
    fn connections(&self) -> (u64, u32) {
        (self.stats().upstream_cx_total.get(), self.breaker().connections.used())
    }
}

fn head() -> RequestHead {
    RequestHead { authority: "a.test".into(), path: "/".into(), ..RequestHead::default() }
}

async fn finish(mut stream: UpstreamStream, mut respond: SendResponse<Bytes>) {
    respond.send_response(http::Response::new(()), true).unwrap();
    let mut head = ResponseHead::default();
    assert_eq!(stream.rx.head(&mut head).await, Ok(HeadKind::Final { end: true }));
    stream.finish();
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

/// Polls until something is true that tasks and sockets bring about.
async fn until(true_at_last: impl Fn() -> bool) {
    let begun = crate::time::now();
    while !true_at_last() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came true");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_that_waits_has_a_new_connection_when_another_one_breaks_off() {
    local(async {
        let fixture = Fixture::new().await;
        let first = fixture.stream().await.unwrap();
        let mut second = pin!(fixture.stream());
        waits!(second);
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(fixture.connections(), (2, 1));
        drop(second);
        assert_eq!(fixture.connections(), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn requests_that_wait_follow_limits_that_a_reload_changes() {
    local(async {
        let fixture = Fixture::new().await;
        let first = fixture.stream().await.unwrap();
        let (mut second, mut third) = (pin!(fixture.stream()), pin!(fixture.stream()));
        waits!(second);
        waits!(third);
        // The permit that it gets has come to those that wait, who wait for the next one now.
        drop(first);
        let second = second.await.unwrap();
        waits!(third);
        fixture.limit(connections(2));
        let third = third.await.unwrap();
        // A lower limit counts, too: what returns is above it.
        let mut fourth = pin!(fixture.stream());
        waits!(fourth);
        fixture.limit(connections(1));
        drop(second);
        waits!(fourth);
        assert_eq!(fixture.connections(), (3, 1));
        drop(third);
        drop(fourth.await.unwrap());
        assert_eq!(fixture.connections(), (4, 0));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_gives_up_hands_on_what_it_was_given() {
    local(async {
        let fixture = Fixture::new().await;
        let first = fixture.stream().await.unwrap();
        let mut second = Box::pin(fixture.stream());
        let mut third = pin!(fixture.stream());
        waits!(second);
        waits!(third);
        first.finish();
        drop(second);
        drop(third.await.unwrap());
        // Nothing is counted as open any more: the next one opens at once.
        drop(fixture.stream().await.unwrap());
        assert_eq!(fixture.connections().1, 0);
    })
    .await;
}

#[tokio::test]
async fn requests_that_gave_up_hold_neither_cluster_nor_host() {
    local(async {
        let fixture = Fixture::new().await;
        let first = fixture.stream().await.unwrap();
        let held = || (Rc::strong_count(&fixture.cluster), Arc::strong_count(&fixture.host.host));
        let before = held();
        let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(fixture.stream())).collect();
        for mut request in &mut waiting {
            waits!(request);
        }
        assert_ne!(held(), before);
        // The first of the queue stays until the end.
        while let Some(last) = waiting.pop() {
            drop(last);
        }
        until(|| held() == before).await;
        drop(first);
    })
    .await;
}

#[tokio::test]
async fn requests_that_begin_while_the_first_connects_do_not_pass_the_limit() {
    local(async {
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
    })
    .await;
}

#[tokio::test]
async fn a_host_that_leaves_still_serves_those_that_wait_for_it() {
    local(async {
        let fixture = Fixture::new().await;
        let first = fixture.stream().await.unwrap();
        let mut second = pin!(fixture.stream());
        waits!(second);
        fixture.host.retire();
        first.finish();
        drop(second.await.unwrap());
        assert_eq!(fixture.connections().1, 0);
    })
    .await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_was_sent_is_used_again() {
    local(async {
        let fixture = Fixture::new().await;
        fixture.stream().await.unwrap().finish();
        fixture.stream().await.unwrap().finish();
        assert_eq!(fixture.connections(), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_another_worker_needs_is_not_kept_idle() {
    local(async {
        let [one, other] = Fixture::two_workers().await;
        let first = one.stream().await.unwrap();
        let _second = other.stream().await.unwrap();
        let mut third = pin!(other.stream());
        waits!(third);
        first.finish();
        let _third = third.await.unwrap();
        assert_eq!(other.connections(), (2, 2));
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_closed_for_another_worker_one_for_each_request_that_waits() {
    local(async {
        let [one, other] = Fixture::two_workers().await;
        one.stream().await.unwrap().finish();
        let _second = other.stream().await.unwrap();
        let mut third = pin!(other.stream());
        waits!(third);
        one.clusters.sweep();
        let _third = third.await.unwrap();
        assert_eq!(other.connections(), (2, 2));
        // No request waits any more, so idle connections stay.
        assert_eq!(one.breaker().connections.wanted(), 0);
    })
    .await;
}

/// A task that went on for as long as there were permits kept its worker from doing anything else.
#[tokio::test]
async fn more_permits_than_requests_that_wait_end_the_wait() {
    local(async {
        let [one, other] = Fixture::workers(Server::silent().await, Version::Http11, policy(connections(3)));
        let (first, second) = (one.stream().await.unwrap(), one.stream().await.unwrap());
        let _third = other.stream().await.unwrap();
        let mut fourth = pin!(other.stream());
        waits!(fourth);
        drop((first, second));
        let _fourth = fourth.await.unwrap();
        assert_eq!((other.connections().1, other.breaker().connections.wanted()), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_has_given_up_waits_no_longer() {
    local(async {
        let [one, other] = Fixture::two_workers().await;
        let first = one.stream().await.unwrap();
        let _second = other.stream().await.unwrap();
        let mut third = Box::pin(other.stream());
        waits!(third);
        drop(third);
        first.finish();
        assert_eq!(one.connections().1, 2, "it is kept");
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_closed_at_their_time_each_by_itself() {
    local(async {
        for version in [Version::Http11, Version::Http2] {
            let mut policy = policy(connections(1024));
            policy.idle_timeout = Some(Duration::from_secs(60));
            policy.max_requests_per_connection = None;
            policy.http2.max_concurrent_streams = 1;
            let http2 = version == Version::Http2;
            let server = if http2 { Server::http2(1).await } else { Server::silent().await };
            let [fixture] = Fixture::workers(server, version, policy);
            let first = fixture.stream().await.unwrap();
            let second = fixture.stream().await.unwrap();
            until(|| fixture.connections().1 == 2).await;
            tokio::time::pause();
            first.finish();
            tokio::time::sleep(Duration::from_secs(30)).await;
            second.finish();
            tokio::time::sleep(Duration::from_secs(29)).await;
            assert_eq!(fixture.connections().1, 2, "{version:?}");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(fixture.connections().1, 1, "{version:?}");
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(fixture.connections().1, 0, "{version:?}");
            assert_eq!(fixture.stats().upstream_cx_idle_timeout.get(), 2);
            tokio::time::resume();
        }
    })
    .await;
}

#[tokio::test]
async fn without_an_idle_timeout_a_connection_stays() {
    local(async {
        let fixture = Fixture::new().await;
        fixture.stream().await.unwrap().finish();
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(1_000_000)).await;
        assert_eq!(fixture.connections().1, 1);
    })
    .await;
}

#[tokio::test]
async fn another_address_of_the_same_host_keeps_the_connections() {
    local(async {
        let fixture = Fixture::new().await;
        fixture.stream().await.unwrap().finish();
        let moved = fixture.host.renewed(Arc::clone(&fixture.host.host));
        moved.stream(&fixture.cluster, Version::Http11, Priority::Default, &head()).await.unwrap().finish();
        assert_eq!(fixture.connections(), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn no_more_idle_connections_are_closed_than_requests_wait_in_whatever_pools_they_are() {
    local(async {
        let server = Server::silent().await;
        let [one, other] = Fixture::workers(server, Version::Http11, policy(connections(3)));
        for version in [Version::Http11, Version::Http2] {
            let stream = one.host.stream(&one.cluster, version, Priority::Default, &head()).await;
            stream.unwrap().finish();
        }
        let _third = other.stream().await.unwrap();
        let mut fourth = pin!(other.stream());
        waits!(fourth);
        one.clusters.sweep();
        let _fourth = fourth.await.unwrap();
        assert_eq!(other.connections().1, 3, "one of the two idle ones is kept");
    })
    .await;
}

#[tokio::test]
async fn a_busy_connection_of_a_host_that_fails_serves_no_further_request() {
    local(async {
        let fixture = Fixture::new().await;
        let first = fixture.stream().await.unwrap();
        fixture.host.close_all_idle();
        first.finish();
        assert_eq!(fixture.connections(), (1, 0));
        fixture.stream().await.unwrap().finish();
        fixture.stream().await.unwrap().finish();
        assert_eq!(fixture.connections(), (2, 1));
    })
    .await;
}
