//! Mirrored requests: the copy is whole, and whatever becomes of it, the client does not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::proxy::{Proxy, wait};

fn send(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut response = [0; 4096];
    let read = stream.read(&mut response).unwrap();
    String::from_utf8(response[..read].to_vec()).unwrap()
}

fn copies(proxy: &Proxy) -> String {
    String::from_utf8(proxy.copies.lock().unwrap().clone()).unwrap()
}

#[test]
fn the_mirror_gets_the_whole_request_under_another_host() {
    let proxy = Proxy::start();
    let request = b"POST /mirrored HTTP/1.1\r\nhost: pet:80\r\nx-key: a\r\ncontent-length: 3\r\n\r\nabc";
    assert!(send(proxy.one, request).starts_with("HTTP/1.1 200"));
    wait("the copy", || copies(&proxy).ends_with("\r\n\r\nabc"));
    let copy = copies(&proxy);
    assert!(copy.starts_with("POST /mirrored HTTP/1.1\r\nhost: pet-shadow:80\r\n"), "{copy}");
    for header in ["x-key: a", "x-envoy-internal: true", "x-forwarded-for: 127.0.0.1"] {
        assert!(copy.contains(&format!("\r\n{header}\r\n")), "{header}: {copy}");
    }
    wait("its count", || proxy.stat("cluster.copies.upstream_rq_total") == 1);
    wait("its response", || proxy.stat_or_zero("cluster.copies.internal.upstream_rq_200") == 1);
    assert_eq!(proxy.stat("http.one.downstream_rq_total"), 1);
}

#[test]
fn a_request_that_is_given_up_ends_its_copy() {
    let proxy = Proxy::start();
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.one)).unwrap();
    stream.write_all(b"POST /mirrored HTTP/1.1\r\nhost: pet\r\ncontent-length: 10\r\n\r\nabc").unwrap();
    wait("the copy", || copies(&proxy).ends_with("abc"));
    drop(stream);
    wait("its end", || proxy.stat("cluster.copies.upstream_rq_active") == 0);
    assert_eq!(proxy.stat("cluster.copies.upstream_cx_destroy_local_with_active_rq"), 1);
    assert_eq!(proxy.stat_or_zero("cluster.copies.upstream_rq_completed"), 0);
}

/// One mirror accepts and never reads, one never accepts, one refuses, and one gets no share. The
/// whole of a large request is read from the client.
#[test]
fn mirrors_that_fail_or_hang_cost_the_client_nothing() {
    let proxy = Proxy::start();
    let response = send(proxy.one, b"GET /hanging HTTP/1.1\r\nhost: pet\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    wait("the refusal", || proxy.stat_or_zero("cluster.back-off.internal.upstream_rq_503") == 1);
    wait("the deaf one", || proxy.stat("cluster.deaf.upstream_rq_active") == 1);
    let body = vec![b'z'; 24 << 20];
    let head = format!("POST /hanging HTTP/1.1\r\nhost: pet\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.one)).unwrap();
    stream.write_all(&[head.as_bytes(), &*body].concat()).unwrap();
    for name in ["deaf", "connect"] {
        let abandoned = format!("cluster.{name}.retry_or_shadow_abandoned");
        wait(name, || proxy.stat(&abandoned) == 1);
    }
    assert_eq!(copies(&proxy), "");
}

/// Long enough not to be joined with others.
const PIECE: usize = 1100;
const PIECES: usize = 200;

/// A body that came before its copy began is copied in one go, in however many pieces it came.
#[test]
fn a_buffered_request_of_many_pieces_is_copied_whole() {
    let proxy = Proxy::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", proxy.one)).await.unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let request = http::Request::post("http://pet/buffered").body(()).unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        for piece in 0..PIECES {
            stream.send_data(vec![b'z'; PIECE].into(), piece + 1 == PIECES).unwrap();
        }
        response.await.unwrap().status()
    });
    assert_eq!(status, 200);
    let copied = || proxy.copies.lock().unwrap().iter().filter(|byte| **byte == b'z').count();
    wait("the copy", || copied() == PIECES * PIECE);
    wait("its response", || proxy.stat_or_zero("cluster.copies.internal.upstream_rq_200") == 1);
    assert_eq!(proxy.stat("cluster.copies.retry_or_shadow_abandoned"), 0);
}

/// The body is far from its end, and larger than the window of HTTP/2: the responses come while
/// the mirrors still take it, and none of them is a failure of its host.
#[test]
fn a_mirror_that_responds_early_is_done_and_no_failure_of_its_host() {
    let proxy = Proxy::start();
    let head = format!("POST /early HTTP/1.1\r\nhost: pet\r\ncontent-length: {}\r\n\r\n", 1 << 30);
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.one)).unwrap();
    stream.write_all(&[head.as_bytes(), &[b'z'; 200_000]].concat()).unwrap();
    for name in ["refusing", "refusing-http2"] {
        let refused = format!("cluster.{name}.internal.upstream_rq_413");
        wait(name, || proxy.stat_or_zero(&refused) == 1);
        wait("its end", || proxy.stat(&format!("cluster.{name}.upstream_rq_active")) == 0);
        assert_eq!(proxy.stat_or_zero(&format!("cluster.{name}.internal.upstream_rq_503")), 0);
    }
    assert_eq!(proxy.stat("cluster.refusing.outlier_detection.ejections_active"), 0);
    assert_eq!(proxy.active(), 1);
}
