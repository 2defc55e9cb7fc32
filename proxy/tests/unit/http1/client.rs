//! A client's connection over real sockets: whole responses, broken responses, and when the
//! connection returns.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::{ClientConnection, ClientOptions, RequestWriter, ResponseReader};
use super::pair;
use crate::error::UpstreamError;
use crate::message::{Fields, Frame, HeadKind, Method, RequestHead, ResponseHead};

fn get() -> RequestHead {
    RequestHead { authority: "a.test".into(), path: "/".into(), ..RequestHead::default() }
}

fn connection(stream: TcpStream) -> ClientConnection {
    ClientConnection::new(stream, ClientOptions::default())
}

/// Reads a response to its end: its status and body.
async fn whole(reader: &mut ResponseReader) -> Result<(u16, Vec<u8>), UpstreamError> {
    let mut head = ResponseHead::default();
    let mut body = Vec::new();
    while reader.head(&mut head).await? == HeadKind::Interim {}
    while !reader.is_end() {
        if let Frame::Data(data) = reader.next().await? {
            body.extend_from_slice(&data);
        }
    }
    Ok((head.status, body))
}

/// What a client makes of `response` to `request`, after which the upstream closes; and whether the
/// connection would be kept.
async fn received(request: &RequestHead, response: &[u8]) -> (Result<(u16, Vec<u8>), UpstreamError>, bool) {
    let (client, mut upstream) = pair().await;
    let (mut writer, mut reader) = connection(client).start(request);
    writer.head(request, true).await.unwrap();
    upstream.write_all(response).await.unwrap();
    upstream.shutdown().await.unwrap();
    let result = whole(&mut reader).await;
    (result, ClientConnection::rejoin(writer, reader).is_some())
}

#[tokio::test]
async fn whole_responses_return_the_connection() {
    for (response, body, kept) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "abc",
            true,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc", "abc", false),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the close", "until the close", false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", "", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcX", "abc", false),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", "", true),
    ] {
        let (result, back) = received(&get(), response.as_bytes()).await;
        assert_eq!((result.unwrap().1, back), (body.as_bytes().to_vec(), kept), "{response}");
    }
}

#[tokio::test]
async fn broken_responses_are_errors_and_end_the_connection() {
    for response in [
        "this is not http\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-len",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    ] {
        let (result, kept) = received(&get(), response.as_bytes()).await;
        assert!(matches!(result, Err(UpstreamError::Protocol(_))), "{response:?} gave {result:?}");
        assert!(!kept);
    }
    let silent = received(&get(), b"").await;
    assert_eq!(silent, (Err(UpstreamError::ConnectionTermination), false));
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(50);
    assert!(matches!(received(&get(), endless.as_bytes()).await.0, Err(UpstreamError::Protocol(_))));
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(80_000));
    assert!(matches!(received(&get(), huge.as_bytes()).await.0, Err(UpstreamError::Protocol(_))));
}

#[tokio::test]
async fn no_beginning_of_a_response_passes_as_the_whole() {
    for response in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
    ] {
        for end in 0..response.len() {
            let (result, kept) = received(&get(), &response[..end]).await;
            assert!(result.is_err() && !kept, "{:?}", String::from_utf8_lossy(&response[..end]));
        }
        assert!(received(&get(), response).await.0.is_ok());
    }
}

#[tokio::test]
async fn the_response_to_head_has_no_body() {
    let head = RequestHead { method: Method::Head, ..get() };
    let (result, kept) = received(&head, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!((result.unwrap().1, kept), (Vec::new(), true));
}

/// Sends a request in the way of `write` and returns what the upstream got.
async fn sent(head: &RequestHead, write: impl AsyncFnOnce(&mut RequestWriter)) -> String {
    let (client, mut upstream) = pair().await;
    let (mut writer, reader) = connection(client).start(head);
    write(&mut writer).await;
    drop((writer, reader));
    let mut got = String::new();
    upstream.read_to_string(&mut got).await.unwrap();
    got
}

#[tokio::test]
async fn requests_are_framed_by_what_is_known_of_their_body() {
    let post = RequestHead { method: Method::Post, ..get() };
    let got = sent(&get(), async |writer| writer.head(&get(), true).await.unwrap()).await;
    assert_eq!(got, "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let got = sent(&post, async |writer| writer.head(&post, true).await.unwrap()).await;
    assert_eq!(got, "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n");
    let got = sent(&post, async |writer| {
        writer.head(&post, false).await.unwrap();
        writer.take(Bytes::from_static(b"abc"), false);
        writer.flush().await.unwrap();
        writer.trailers(&Fields::default()).await.unwrap();
    })
    .await;
    assert_eq!(
        got,
        "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    let mut sized = post.clone();
    sized.fields.push("content-length", b"3");
    sized.fields.push("connection", b"x-hop");
    let got = sent(&sized, async |writer| {
        writer.head(&sized, false).await.unwrap();
        writer.take(Bytes::from_static(b"abc"), true);
        writer.flush().await.unwrap();
    })
    .await;
    assert_eq!(got, "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 3\r\n\r\nabc");
}

#[tokio::test]
async fn a_response_before_the_whole_request_ends_the_connection() {
    let mut post = RequestHead { method: Method::Post, ..get() };
    post.fields.push("content-length", b"10");
    let (client, mut upstream) = pair().await;
    let (mut writer, mut reader) = connection(client).start(&post);
    writer.head(&post, false).await.unwrap();
    writer.flush().await.unwrap();
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(whole(&mut reader).await.is_ok());
    assert!(ClientConnection::rejoin(writer, reader).is_none());
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_or_spoken_to_is_stale() {
    for speak in [true, false] {
        let (client, mut upstream) = pair().await;
        let idle = connection(client);
        assert!(!idle.is_stale());
        if speak {
            upstream.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        } else {
            drop(upstream);
        }
        while !idle.is_stale() {
            tokio::task::yield_now().await;
        }
    }
}
