//! A server's connection over real sockets: pipelining, framing both ways, early responses, clients
//! that leave or read slowly.

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{EncodeOptions, FirstBytes, HeadEvent, HeadLimits, ServerConnection, ServerOptions};
use super::pair;
use crate::error::DownstreamError;
use crate::message::{Frame, RequestHead, ResponseHead};

fn connection(stream: TcpStream) -> ServerConnection {
    let encode = EncodeOptions { enable_trailers: true, ..EncodeOptions::default() };
    let options = ServerOptions { encode, ..ServerOptions::default() };
    ServerConnection::new(stream, HeadLimits::default(), &options)
}

async fn next(connection: &mut ServerConnection) -> (HeadEvent, RequestHead) {
    let mut head = RequestHead::default();
    connection.readable().await;
    (connection.read_head(&mut head, &ServerOptions::default()).await, head)
}

/// Responds to each request with its path as a header and its body as the body, until the
/// connection ends; how many there were.
async fn echo(mut connection: ServerConnection) -> usize {
    for count in 0.. {
        let (event, head) = next(&mut connection).await;
        if event != HeadEvent::Request {
            return count;
        }
        let (mut rx, mut tx) = connection.split();
        let (mut data, mut trailers) = (Vec::new(), None);
        while !rx.is_end() {
            match rx.next().await.unwrap() {
                Frame::Data(piece) => data.extend_from_slice(&piece),
                Frame::Trailers(fields) => trailers = Some(fields),
                Frame::End => {}
            }
        }
        let mut response = ResponseHead::new(200);
        response.fields.push("x-path", &head.path);
        tx.head(&response, false).await.unwrap();
        match trailers {
            None => {
                tx.take(data.into(), true).unwrap();
                tx.flush().await.unwrap();
            }
            Some(trailers) => {
                tx.take(data.into(), false).unwrap();
                tx.trailers(&trailers).await.unwrap();
            }
        }
        if !connection.reusable() {
            return count + 1;
        }
    }
    0
}

/// Sends `request`, ends our side and reads until the end.
async fn exchange(client: &mut TcpStream, request: &[u8]) -> String {
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn pipelined_requests_get_responses_in_order() {
    let (mut client, server) = pair().await;
    let requests =
        b"\r\nGET /1 HTTP/1.1\r\nhost: a\r\n\r\nPOST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\
        POST /3 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nx-t: 1\r\n\r\n";
    let (count, response) = tokio::join!(echo(connection(server)), exchange(&mut client, requests));
    assert_eq!(count, 3);
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    assert_eq!(
        response,
        format!(
            "HTTP/1.1 200 OK\r\nx-path: /1\r\n{chunked}0\r\n\r\nHTTP/1.1 200 OK\r\nx-path: /2\r\n{chunked}3\r\nabc\r\n0\r\n\r\n\
            HTTP/1.1 200 OK\r\nx-path: /3\r\n{chunked}2\r\nde\r\n0\r\nx-t: 1\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let (mut client, server) = pair().await;
    let request = b"POST /2 HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n";
    let send = async {
        for byte in request {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        exchange(&mut client, b"").await
    };
    let (count, response) = tokio::join!(echo(connection(server)), send);
    assert_eq!(count, 1);
    assert!(response.ends_with("2\r\nde\r\n0\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    let (client, server) = pair().await;
    let body = vec![b'x'; 3_000_000];
    let (mut reading, mut writing) = client.into_split();
    let send = async {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&body).await.unwrap();
    };
    let mut response = Vec::new();
    let (count, (), read) = tokio::join!(echo(connection(server)), send, reading.read_to_end(&mut response));
    read.unwrap();
    assert_eq!(count, 1);
    assert_eq!(
        response.iter().filter(|byte| **byte == b'x').count(),
        body.len() + "x-path".matches('x').count()
    );
}

#[tokio::test]
async fn a_response_before_the_end_of_the_request_closes_the_connection() {
    let (mut client, server) = pair().await;
    let mut server = connection(server);
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    assert_eq!(next(&mut server).await.0, HeadEvent::Request);
    let (_, mut tx) = server.split();
    tx.head(&ResponseHead::new(403), true).await.unwrap();
    assert!(!server.reusable() && server.responded());
    let (response, ()) = tokio::join!(exchange(&mut client, b"more"), server.linger());
    assert_eq!(response, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

#[tokio::test]
async fn refused_requests_come_with_their_response() {
    for (request, status) in
        [("BAD\r\n\r\n", 400), ("GET / HTTP/1.0\r\n\r\n", 426), ("\x16\x03\x01\x02", 400)]
    {
        let (mut client, server) = pair().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut server = connection(server);
        let HeadEvent::Refused(refusal) = next(&mut server).await.0 else {
            panic!("{request:?} was accepted")
        };
        assert_eq!(refusal.status, status, "{request:?}");
        assert!(!server.reusable());
    }
}

#[tokio::test]
async fn a_client_that_closes_either_way_is_noticed() {
    for half in [true, false] {
        let (mut client, server) = pair().await;
        let mut server = connection(server);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /next").await.unwrap();
        assert_eq!(next(&mut server).await.0, HeadEvent::Request);
        let (mut rx, _) = server.split();
        assert!(rx.closed().now_or_never().is_none());
        if half {
            client.shutdown().await.unwrap();
        } else {
            drop(client);
        }
        assert_eq!(rx.closed().await, DownstreamError::Disconnected);
        assert!(server.client_gone());
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let (mut client, server) = pair().await;
    let mut server = connection(server);
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabc").await.unwrap();
    drop(client);
    assert_eq!(next(&mut server).await.0, HeadEvent::Request);
    let (mut rx, _) = server.split();
    assert!(matches!(rx.next().await, Ok(Frame::Data(_))));
    assert_eq!(rx.next().await.unwrap_err(), DownstreamError::Disconnected);
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_up_and_loses_nothing() {
    let (mut client, server) = pair().await;
    let mut server = connection(server);
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(next(&mut server).await.0, HeadEvent::Request);
    let (_, mut tx) = server.split();
    tx.head(&ResponseHead::new(200), false).await.unwrap();
    let piece = Bytes::from(vec![b'p'; 64 * 1024]);
    let mut pieces = 0;
    loop {
        tx.take(piece.clone(), false).unwrap();
        pieces += 1;
        // A flush that was dropped while it waited loses nothing.
        if tx.flush().now_or_never().is_none() {
            break;
        }
        assert!(pieces < 1_000, "nothing holds the writer up");
    }
    let finish = async {
        tx.flush().await.unwrap();
        tx.take(Bytes::new(), true).unwrap();
        tx.close_after();
        tx.flush().await.unwrap();
    };
    let mut response = Vec::new();
    let read = async {
        while !response.ends_with(b"0\r\n\r\n") {
            assert!(client.read_buf(&mut response).await.unwrap() > 0);
        }
    };
    tokio::join!(finish, read);
    assert_eq!(response.iter().filter(|byte| **byte == b'p').count(), pieces * piece.len());
}

#[tokio::test]
async fn an_interim_response_goes_first() {
    let (mut client, server) = pair().await;
    let mut server = connection(server);
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(next(&mut server).await.0, HeadEvent::Request);
    let (mut rx, mut tx) = server.split();
    tx.interim(&ResponseHead::new(100)).await.unwrap();
    let mut first = [0; 25];
    client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"ok").await.unwrap();
    assert!(matches!(rx.next().await, Ok(Frame::Data(data)) if data == "ok"));
    assert!(rx.is_end());
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection_in_step() {
    let (mut client, server) = pair().await;
    let mut server = connection(server);
    client.write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    for status in [200, 204] {
        assert_eq!(next(&mut server).await.0, HeadEvent::Request);
        let (_, mut tx) = server.split();
        let mut response = ResponseHead::new(status);
        response.fields.push("content-length", b"4");
        tx.head(&response, false).await.unwrap();
        tx.take("nope".into(), true).unwrap();
        tx.flush().await.unwrap();
        assert!(server.reusable());
    }
    drop(server);
    let response = exchange(&mut client, b"").await;
    assert_eq!(response, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
}

#[tokio::test]
async fn a_refused_upgrade_ends_the_connection_and_an_accepted_one_becomes_a_tunnel() {
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly";
    for (status, tunnelled) in [(403, None), (101, Some(&b"early"[..]))] {
        let (mut client, server) = pair().await;
        let mut server = connection(server);
        client.write_all(request).await.unwrap();
        assert_eq!(next(&mut server).await.0, HeadEvent::Request);
        let (mut rx, mut tx) = server.split();
        let mut response = ResponseHead::new(status);
        response.fields.push("connection", b"upgrade");
        response.fields.push("upgrade", b"websocket");
        tx.head(&response, status == 403).await.unwrap();
        if let Some(bytes) = tunnelled {
            rx.tunnel();
            assert!(matches!(rx.next().await, Ok(Frame::Data(data)) if data == bytes));
            tx.take("raw".into(), true).unwrap();
            tx.flush().await.unwrap();
            client.shutdown().await.unwrap();
            assert!(matches!(rx.next().await, Ok(Frame::End)));
        }
        assert!(!server.reusable());
        drop(server);
        let mut text = Vec::new();
        // The unread bytes may turn the close into a reset behind the response.
        let _ = client.read_to_end(&mut text).await;
        let text = String::from_utf8(text).unwrap();
        let expected =
            if status == 403 { "connection: close\r\n\r\n" } else { "upgrade: websocket\r\n\r\nraw" };
        assert!(text.ends_with(expected), "{text}");
    }
}

#[tokio::test]
async fn the_preface_tells_http2() {
    for (text, expected) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest", FirstBytes::Http2),
        ("POST / HTTP/1.1\r\n", FirstBytes::Other),
        ("PRI * HTTP/2.1", FirstBytes::Other),
    ] {
        let (mut client, server) = pair().await;
        client.write_all(text.as_bytes()).await.unwrap();
        let mut server = connection(server);
        assert_eq!(server.first_bytes().await, expected, "{text}");
        let (_, front) = server.into_stream().unwrap();
        assert!(text.as_bytes().starts_with(&front));
    }
}

#[tokio::test]
async fn a_body_of_the_wrong_length_is_never_passed_off_as_whole() {
    for body in ["ab", "abcd"] {
        let (mut client, server) = pair().await;
        let mut server = connection(server);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert_eq!(next(&mut server).await.0, HeadEvent::Request);
        let (_, mut tx) = server.split();
        let mut response = ResponseHead::new(200);
        response.fields.push("content-length", b"3");
        tx.head(&response, false).await.unwrap();
        assert!(tx.take(body.into(), true).is_err());
        assert!(!server.reusable() && !server.responded());
    }
}
