//! Interim and early responses, broken bodies, trailers over the limits, upgrades, retries: as recorded
//! of Envoy 1.40 with the same bytes, but where docs/conformance.md says otherwise.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::proxy::{Proxy, wait};

/// Sends some bytes and reads until the other side ends or `until` has come.
fn talk(port: u16, bytes: &str, until: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    read(&mut stream, until)
}

fn read(stream: &mut TcpStream, until: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while until.is_empty() || !text.contains(until) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => text.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
            Err(error) => panic!("{error} after {text:?}"),
        }
    }
    text
}

fn trailers(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        write!(text, "x-{number}: 1\r\n").unwrap();
        text
    })
}

#[test]
fn the_first_interim_response_passes_where_that_is_configured_and_never_to_http10() {
    let proxy = Proxy::start();
    let get = |port, version| talk(port, &format!("GET /interim HTTP/1.{version}\r\nhost: h\r\n\r\n"), "ok");
    assert!(!get(proxy.one, 1).contains("103"));
    let passed = get(proxy.passing, 1);
    assert!(passed.starts_with("HTTP/1.1 103"), "{passed}");
    assert!(passed.contains("x-number: 1") && !passed.contains("x-number: 2"), "{passed}");
    assert!(get(proxy.passing, 0).starts_with("HTTP/1.0 200"));
    let expects = "POST /ok HTTP/1.0\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nab";
    assert!(talk(proxy.one, expects, "ok").starts_with("HTTP/1.0 200"));
}

#[test]
fn an_early_response_ends_the_upload_on_both_sides() {
    let proxy = Proxy::start();
    let begun = "POST /ok HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc";
    let response = talk(proxy.one, begun, "");
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("connection: close"), "{response}");
    wait("the end of the upstream's connection", || proxy.stat("cluster.ok.upstream_cx_active") == 0);
    let reset = http2(proxy.one, "/ok", None);
    assert_eq!(reset, Some(h2::Reason::NO_ERROR));
    wait("the end of the upstream's connection", || proxy.stat("cluster.ok.upstream_cx_active") == 0);
}

#[test]
fn a_body_that_breaks_the_protocol_is_refused() {
    let proxy = Proxy::start();
    let head = "HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let response = talk(proxy.one, &format!("POST /head {head}zz\r\n"), "");
    assert!(response.starts_with("HTTP/1.1 400") && response.ends_with("\r\n\r\nBad Request"), "{response}");
    wait("the log", || proxy.log().contains("/head DPE http1.codec_error"));
}

#[test]
fn trailers_obey_the_limits_of_headers() {
    let mut proxy = Proxy::start();
    let head = "HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
    let large = format!("x: {}\r\n", "y".repeat(70_000));
    for (path, trailers, details) in [
        ("/head?many", trailers(150), "http1.too_many_headers"),
        ("/head?large", large, "http1.headers_too_large"),
    ] {
        let response = talk(proxy.one, &format!("POST {path} {head}{trailers}\r\n"), "");
        assert!(response.starts_with("HTTP/1.1 431"), "{response}");
        wait("the log", || proxy.log().contains(&format!("{path} DPE {details}")));
    }
    let many = (0..150).map(|number| (format!("x-{number}"), "1".to_owned())).collect();
    let large = ["x", "z"].map(|name| (name.to_owned(), "y".repeat(40_000))).to_vec();
    for (path, trailers, details) in [
        ("/head?many-h2", many, "http2.too_many_headers"),
        ("/head?large-h2", large, "http2.header_list_size_too_large"),
    ] {
        assert_eq!(http2(proxy.one, path, Some(trailers)), Some(h2::Reason::INTERNAL_ERROR));
        wait("the log", || proxy.log().contains(&format!("{path} DR {details}")));
    }
    wait("the ends of the requests", || proxy.active() == 0);
    assert!(proxy.is_alive());
}

#[test]
fn what_connection_names_does_not_pass_an_upgrade() {
    let proxy = Proxy::start();
    let request = "GET /nominated HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let response = talk(proxy.one, request, "\r\n\r\n");
    assert!(response.starts_with("HTTP/1.1 101") && !response.contains("x-hop"), "{response}");
    assert!(response.contains("connection: Upgrade\r\n"), "{response}");
}

#[test]
fn a_retry_gives_its_permit_back_with_the_head_of_its_response() {
    let proxy = Proxy::start();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.one)).unwrap();
        stream.write_all(b"GET /retried HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
        let response = read(&mut stream, "\r\n\r\n");
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        held.push(stream);
    }
    assert_eq!(proxy.active(), 3);
    assert_eq!(proxy.stat("cluster.retried.upstream_rq_retry"), 3);
    assert_eq!(proxy.stat("cluster.retried.upstream_rq_retry_overflow"), 0);
}

/// Sends the beginning of a request over HTTP/2, and its trailers if there are any; with what its
/// stream is reset.
fn http2(port: u16, path: &str, trailers: Option<Vec<(String, String)>>) -> Option<h2::Reason> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let request = http::Request::post(format!("http://here{path}")).body(()).unwrap();
        let (response, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data("abc".into(), false).unwrap();
        if let Some(trailers) = trailers {
            let fields =
                trailers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            stream.send_trailers(fields.collect()).unwrap();
        }
        match response.await {
            Ok(response) => {
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.data().await {}
                poll_fn(|cx| stream.poll_reset(cx)).await.ok()
            }
            Err(error) => error.reason(),
        }
    })
}
