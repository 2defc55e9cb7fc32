//! Pools of HTTP/2 connections: what a host allows on one, says on it, or leaves unsaid.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::LocalSet;

use super::super::UpstreamStream;
use super::super::stream::Allowance;
use super::{Fixture, Server, connections, finish, head, local, policy, until};
use crate::cluster::breaker::Thresholds;
use crate::error::UpstreamError;
use crate::message::{Frame, RequestHead, ResponseHead, Version};
use crate::route::Priority;

#[tokio::test]
async fn streams_beyond_the_hosts_limit_go_to_further_connections() {
    local(async {
        let server = Server::http2(2).await;
        let fixture = Fixture::http2(server, policy(connections(1024)));
        let streams = futures_util::future::join_all((0..8).map(|_| fixture.request())).await;
        assert_eq!(fixture.connections(), (4, 4));
        assert_eq!(fixture.stats().upstream_cx_http2_total.get(), 4);
        until(|| fixture.server.total.get() == 8).await;
        drop(streams);
    })
    .await;
}

#[tokio::test]
async fn the_clusters_own_limit_of_streams_counts_as_well() {
    local(async {
        let mut policy = policy(connections(1024));
        policy.http2.max_concurrent_streams = 3;
        let fixture = Fixture::http2(Server::http2(100).await, policy);
        let streams = futures_util::future::join_all((0..6).map(|_| fixture.request())).await;
        assert_eq!(fixture.connections(), (2, 2));
        drop(streams);
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_all_streams_wait_in_a_queue_that_is_bounded() {
    local(async {
        let limits = Thresholds { max_connections: 1, max_pending_requests: 1, ..Thresholds::default() };
        let server = Server::http2(2).await;
        let fixture = Fixture::http2(server, policy(limits));
        let first = fixture.request().await;
        let second = fixture.request().await;
        let mut third = pin!(fixture.stream());
        waits!(third);
        assert_eq!(fixture.stats().upstream_rq_pending_active.get(), 1);
        assert_eq!(fixture.stats().upstream_cx_overflow.get(), 1);
        assert_eq!(fixture.stream().await.err(), Some(UpstreamError::Overflow));
        assert_eq!(fixture.stats().upstream_rq_pending_overflow.get(), 1);
        let (_, respond) = fixture.server.next().await;
        finish(first, respond).await;
        drop(third.await.unwrap());
        assert_eq!(fixture.stats().upstream_rq_pending_active.get(), 0);
        assert_eq!(fixture.connections(), (1, 1));
        drop(second);
    })
    .await;
}

#[tokio::test]
async fn goaway_sends_new_streams_to_another_connection_and_lets_the_others_finish() {
    local(async {
        let fixture = Fixture::http2(Server::http2(100).await, policy(connections(1024)));
        let first = fixture.request().await;
        let (number, respond) = fixture.server.next().await;
        assert_eq!(number, 0);
        fixture.server.goaway.notify_waiters();
        until(|| fixture.stats().upstream_cx_close_notify.get() == 1).await;
        let second = fixture.request().await;
        let (number, other) = fixture.server.next().await;
        assert_eq!(number, 1);
        finish(first, respond).await;
        finish(second, other).await;
        until(|| fixture.connections() == (2, 1)).await;
        assert_eq!(fixture.stats().upstream_cx_destroy.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_connection_ends_after_its_last_request() {
    local(async {
        let mut policy = policy(connections(1024));
        policy.max_requests_per_connection = Some(2);
        let fixture = Fixture::http2(Server::http2(100).await, policy);
        for _ in 0..4 {
            let stream = fixture.request().await;
            let (_, respond) = fixture.server.next().await;
            finish(stream, respond).await;
        }
        assert_eq!((fixture.connections().0, fixture.stats().upstream_cx_max_requests.get()), (2, 2));
    })
    .await;
}

#[tokio::test]
async fn resets_that_were_sent_are_counted() {
    local(async {
        let fixture = Fixture::http2(Server::http2(100).await, policy(connections(1024)));
        let stream = fixture.request().await;
        let (_, mut respond) = fixture.server.next().await;
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        until(|| fixture.stats().http2_rx_reset.get() == 1).await;
        drop(stream);
        let stream = fixture.request().await;
        drop(stream);
        until(|| fixture.stats().http2_tx_reset.get() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_ends_while_requests_wait_opens_nothing_for_them() {
    let worker = LocalSet::new();
    let test = async {
        let fixture = Rc::new(Fixture::http2(Server::silent().await, policy(connections(1024))));
        // The task that connects is dropped first, and then one request after the other.
        let mut first = Box::pin(fixture.stream());
        waits!(first);
        for _ in 0..3 {
            let fixture = Rc::clone(&fixture);
            tokio::task::spawn_local(async move { drop(fixture.stream().await) });
        }
        until(|| fixture.stats().upstream_rq_pending_active.get() == 4).await;
        drop(first);
        fixture
    };
    let fixture = worker.run_until(test).await;
    drop(worker);
    assert_eq!(fixture.breaker().pending.used(), 0);
    assert_eq!(fixture.breaker().connections.used(), 0);
}

#[test]
fn what_the_host_allows_is_noted_even_after_its_settings() {
    let mut allowance = Allowance::default();
    assert!(!allowance.has_changed(false, 1));
    assert!(allowance.has_changed(true, 1));
    assert!(allowance.has_changed(false, 5));
    assert!(!allowance.has_changed(false, 5));
}

#[tokio::test]
async fn after_goaway_it_no_longer_counts_that_the_host_allowed_no_stream() {
    const NO_STREAMS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    local(async {
        for both_at_once in [true, false] {
            let fixture = Fixture::http2(Server::silent().await, policy(connections(1024)));
            let (first, accepted) = tokio::join!(fixture.request(), fixture.server.socket.accept());
            let (mut peer, _) = accepted.unwrap();
            if both_at_once {
                peer.write_all(&[NO_STREAMS, GOAWAY].concat()).await.unwrap();
            } else {
                peer.write_all(NO_STREAMS).await.unwrap();
                let received = || fixture.stats().upstream_cx_rx_bytes_total.get();
                until(|| received() == NO_STREAMS.len() as u64).await;
                peer.write_all(GOAWAY).await.unwrap();
            }
            until(|| fixture.stats().upstream_cx_close_notify.get() == 1).await;
            let second = tokio::time::timeout(Duration::from_secs(20), fixture.request()).await;
            assert_eq!(fixture.connections(), (2, 2));
            drop((first, second));
        }
    })
    .await;
}

#[tokio::test]
async fn a_host_that_never_sends_settings_fails_those_that_wait_for_them() {
    local(async {
        let fixture = Fixture::http2(Server::silent().await, policy(connections(1024)));
        let first = fixture.request().await;
        let mut second = pin!(fixture.stream());
        waits!(second);
        tokio::time::pause();
        assert_eq!(second.await.err(), Some(UpstreamError::ConnectTimeout));
        assert_eq!(fixture.stats().upstream_cx_connect_timeout.get(), 1);
        // The next one has a connection of its own.
        tokio::time::resume();
        let third = fixture.request().await;
        assert_eq!(fixture.connections(), (2, 2));
        drop((first, third));
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_is_not_sent_to_a_host_that_takes_none() {
    local(async {
        let fixture = Fixture::http2(Server::http2(100).await, policy(connections(1024)));
        let mut upgrade = RequestHead { method: crate::message::Method::Get, ..head() };
        upgrade.fields.push("connection", "upgrade");
        upgrade.fields.push("upgrade", "websocket");
        // The host's SETTINGS have not come yet.
        let stream = fixture.host.stream(&fixture.cluster, Version::Http2, Priority::Default, &upgrade);
        let mut stream = stream.await.unwrap();
        assert_eq!(stream.tx.head(&upgrade, false).await, Err(UpstreamError::Unsendable));
    })
    .await;
}

/// A host that responds to each request with a body of so many bytes, as the windows let it.
async fn with_bodies(bytes: usize) -> Server {
    let server = Server::silent().await;
    let socket = Rc::clone(&server.socket);
    tokio::task::spawn_local(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            tokio::task::spawn_local(async move {
                let mut left = bytes;
                while left > 0 {
                    body.reserve_capacity(left);
                    let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else {
                        return;
                    };
                    let now = room.min(left);
                    left -= now;
                    body.send_data(bytes::Bytes::from(vec![b'a'; now]), left == 0).unwrap();
                }
            });
        }
    });
    server
}

/// Reads the head of a response and how many bytes of body come behind it.
async fn whole(stream: &mut UpstreamStream) -> usize {
    let mut head = ResponseHead::default();
    stream.rx.head(&mut head).await.unwrap();
    let mut bytes = 0;
    while let Frame::Data(piece) = stream.rx.next().await.unwrap() {
        bytes += piece.len();
        if stream.rx.is_end() {
            break;
        }
    }
    bytes
}

#[tokio::test]
async fn responses_that_nobody_reads_do_not_hold_up_others_on_the_connection() {
    const SIZE: usize = 5 << 20;
    local(async {
        let mut policy = policy(connections(1));
        policy.http2.initial_stream_window = 1 << 16;
        policy.http2.initial_connection_window = 1 << 16;
        let fixture = Fixture::http2(with_bodies(SIZE).await, policy);
        let mut read = fixture.request().await;
        let mut unread = futures_util::future::join_all((0..7).map(|_| fixture.request())).await;
        for stream in &mut unread {
            stream.rx.head(&mut ResponseHead::default()).await.unwrap();
        }
        assert_eq!(whole(&mut read).await, SIZE);
        // They have not been given up, either.
        for mut stream in unread {
            let mut bytes = 0;
            while bytes < SIZE {
                let Frame::Data(piece) = stream.rx.next().await.unwrap() else { panic!("no data") };
                bytes += piece.len();
            }
        }
        assert_eq!(fixture.connections(), (1, 1));
    })
    .await;
}
