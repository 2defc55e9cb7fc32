//! The load client against small servers: what it counts as answered, refused and failed, whatever the version.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;
use h2::server::{Connection, SendResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;

/// Requests per second; the tests wait for counts, not for time.
const RATE: u32 = 500;

fn load(address: SocketAddr, connections: Connections) -> Running {
    Load { address, path: "/".to_owned(), expected: "Toby".to_owned(), rate: RATE, connections }.start()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn answer(mut respond: SendResponse<Bytes>) {
    let mut stream = respond.send_response(::http::Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(b"Toby"), true).unwrap();
}

/// What a server does with its connection after each request.
type Act = fn(usize, &mut Connection<TcpStream, Bytes>, SendResponse<Bytes>);

/// Serves HTTP/2 until the test ends; tells how many connections were opened and when `enough` requests have come.
async fn serve(enough: usize, act: Act) -> (SocketAddr, Arc<AtomicUsize>, Arc<Notify>) {
    let (listener, address) = listen().await;
    let (opened, requests, done) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (connections, told) = (opened.clone(), done.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
            let (requests, told) = (requests.clone(), told.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut own = 0;
                while let Some(Ok((_, respond))) = connection.accept().await {
                    own += 1;
                    act(own, &mut connection, respond);
                    if requests.fetch_add(1, Ordering::Relaxed) + 1 == enough {
                        told.notify_one();
                    }
                }
            });
        }
    });
    (address, opened, done)
}

async fn after(enough: usize, act: Act) -> (Report, usize) {
    let (address, opened, done) = serve(enough, act).await;
    let load = load(address, Connections::Http2);
    done.notified().await;
    (load.finish().await, opened.load(Ordering::Relaxed))
}

/// How long a load is sent: an input of the test, as its rate is; nothing is waited for.
const LENGTH: Duration = Duration::from_millis(100);

#[tokio::test]
async fn requests_share_a_few_connections() {
    let (report, opened) = after(200, |_, _, respond| answer(respond)).await;
    report.assert_none_failed();
    assert_eq!(opened, 4);
}

#[tokio::test]
async fn a_graceful_goaway_moves_the_load_to_another_connection_without_a_loss() {
    let (report, opened) = after(400, |number, connection, respond| {
        if number == 20 {
            connection.graceful_shutdown();
        }
        answer(respond);
    })
    .await;
    report.assert_none_failed();
    assert!(opened > 8, "each connection ended: {opened}");
}

#[tokio::test]
async fn a_refused_stream_is_no_answer_and_is_told_from_a_broken_one() {
    let refused = |number: usize, _: &mut Connection<_, _>, mut respond: SendResponse<Bytes>| match number {
        3 => respond.send_reset(Reason::REFUSED_STREAM),
        5 => respond.send_reset(Reason::INTERNAL_ERROR),
        _ => answer(respond),
    };
    let (report, opened) = after(100, refused).await;
    assert_eq!((report.refused(), report.failed(), opened), (4, 8, 4), "{report}");
    assert_eq!(report.sent as usize, report.answered() + report.failed());
    assert!(std::panic::catch_unwind(|| report.assert_none_failed()).is_err());
}

#[tokio::test]
async fn an_abrupt_goaway_fails_what_was_processed() {
    let (report, _) = after(100, |number, connection, respond| {
        answer(respond);
        if number == 10 {
            connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    assert!(report.failed() > 0, "{report}");
    assert_eq!(report.sent as usize, report.answered() + report.failed());
}

/// Accepts connections, reads something, and cuts them.
async fn cutting() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
        }
    });
    address
}

#[tokio::test]
async fn a_cut_connection_fails_its_requests() {
    let address = cutting().await;
    for connections in [Connections::Fresh, Connections::Kept, Connections::Http2] {
        let load = load(address, connections);
        tokio::time::sleep(LENGTH).await;
        let report = load.finish().await;
        assert!(report.sent >= report.planned && report.sent > 0, "{connections:?}: {report}");
        assert_eq!((report.answered(), report.refused()), (0, 0), "{connections:?}: {report}");
        assert_eq!(report.failed() as u64, report.sent, "{connections:?}: {report}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_counted_apart() {
    let (listener, address) = listen().await;
    drop(listener);
    for connections in [Connections::Fresh, Connections::Kept, Connections::Http2] {
        let load = load(address, connections);
        tokio::time::sleep(LENGTH).await;
        let report = load.finish().await;
        assert_eq!(
            (report.refused() as u64, report.answered()),
            (report.sent, 0),
            "{connections:?}: {report}"
        );
    }
}

#[tokio::test]
async fn a_kept_connection_that_its_server_closed_in_order_costs_no_request() {
    let (listener, address) = listen().await;
    let (done, told) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (notify, count) = (done.clone(), told.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            if stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                let text = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nToby";
                stream.write_all(text.as_bytes()).await.unwrap();
                if count.fetch_add(1, Ordering::Relaxed) == 50 {
                    notify.notify_one();
                }
            }
        }
    });
    let load = load(address, Connections::Kept);
    done.notified().await;
    load.finish().await.assert_none_failed();
}
