//! Both HTTP/2 adapters against each other, and against a bare `h2` peer where the peer misbehaves.

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::{
    Accepted, ClientConnection, Options, RequestBody, ResponseReader, ResponseWriter, ServerConnection,
};
use crate::error::{DownstreamError, UpstreamError};
use crate::message::{
    Authority, FieldNameBuf, FieldValueBuf, Fields, Frame, HeadKind, Known, Method, Path, RequestHead,
    ResponseHead, Version,
};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn post(path: &str) -> RequestHead {
    let mut head = RequestHead {
        method: Method::Post,
        authority: "a.test".into(),
        path: Path::new(path).unwrap(),
        ..RequestHead::default()
    };
    head.fields.push("x-a", b"1");
    head
}

/// Serves every stream with `response` on a task of its own; a client's connection to it.
async fn served<F, A>(options: Options, response: F) -> ClientConnection
where
    F: Fn(RequestHead, RequestBody, ResponseWriter) -> A + 'static,
    A: Future<Output = ()> + 'static,
{
    served_until(options, response).await.0
}

/// The same with the task that drives the client's connection.
async fn served_until<F, A>(options: Options, response: F) -> (ClientConnection, tokio::task::AbortHandle)
where
    F: Fn(RequestHead, RequestBody, ResponseWriter) -> A + 'static,
    A: Future<Output = ()> + 'static,
{
    let (client, server) = pair().await;
    tokio::task::spawn_local(async move {
        let mut server = ServerConnection::handshake(server, Bytes::new(), &options).await.unwrap();
        let mut head = RequestHead::default();
        loop {
            match server.accept(&mut head).await {
                Accepted::Request(rx, tx) => {
                    tokio::task::spawn_local(response(std::mem::take(&mut head), rx, tx));
                }
                Accepted::TooLarge | Accepted::Malformed => {}
                Accepted::Closed { .. } => return,
            }
        }
    });
    let (connection, driver) = ClientConnection::handshake(client, &Options::default()).await.unwrap();
    (connection, tokio::task::spawn_local(driver).abort_handle())
}

/// Sends the body back, with its trailers.
async fn echo(head: RequestHead, mut rx: RequestBody, mut tx: ResponseWriter) {
    let mut response = ResponseHead::new(200);
    response.fields.push("x-path", &head.path);
    response.fields.push(Known::Connection, b"close");
    if let Some(cookie) = head.fields.value(Known::Cookie) {
        response.fields.push("x-cookie", cookie);
    }
    tx.head(&response, false).unwrap();
    loop {
        match rx.next().await.unwrap() {
            Frame::Data(data) => {
                tx.take(data, false);
                tx.flush().await.unwrap();
            }
            Frame::Trailers(trailers) => return tx.trailers(&trailers).await.unwrap(),
            Frame::End => {
                tx.take(Bytes::new(), true);
                return tx.flush().await.unwrap();
            }
        }
    }
}

/// Reads a response to its end: head, length of the body, trailers.
async fn whole(rx: &mut ResponseReader) -> Result<(ResponseHead, usize, Option<Fields>), UpstreamError> {
    let (mut head, mut length, mut trailers) = (ResponseHead::default(), 0, None);
    while rx.head(&mut head).await? == HeadKind::Interim {}
    while !rx.is_end() {
        match rx.next().await? {
            Frame::Data(data) => length += data.len(),
            Frame::Trailers(fields) => trailers = Some(fields),
            Frame::End => {}
        }
    }
    Ok((head, length, trailers))
}

/// The error of a request without a body that `response` handles.
async fn failed(response: impl Fn(ResponseWriter) + 'static) -> UpstreamError {
    let response = move |_, _, tx| {
        response(tx);
        std::future::ready(())
    };
    let connection = served(Options::default(), response).await;
    let head = post("/");
    let (mut tx, mut rx) = connection.start(&head);
    tx.head(&head, true).await.unwrap();
    whole(&mut rx).await.unwrap_err()
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn heads_bodies_and_trailers_go_both_ways() {
    local(async {
        let connection = served(Options::default(), echo).await;
        let mut head = post("/p?q=1");
        head.fields.push(Known::TransferEncoding, b"chunked");
        head.fields.push(Known::Te, b"gzip");
        head.fields.push(Known::Cookie, b"a=1");
        head.fields.push(Known::Cookie, b"b=2");
        let (mut tx, mut rx) = connection.start(&head);
        tx.head(&head, false).await.unwrap();
        tx.take("hello".into(), false);
        tx.flush().await.unwrap();
        let mut trailers = Fields::default();
        trailers.push("x-t", b"1");
        tx.trailers(&trailers).await.unwrap();
        let (response, length, trailers) = whole(&mut rx).await.unwrap();
        assert_eq!((response.status, length), (200, 5));
        assert_eq!(response.fields.get("x-path"), Some(&b"/p?q=1"[..]));
        assert_eq!(response.fields.get("x-cookie"), Some(&b"a=1; b=2"[..]));
        assert!(!response.fields.contains(Known::Connection));
        assert_eq!(trailers.unwrap().get("x-t"), Some(&b"1"[..]));
    })
    .await;
}

#[tokio::test]
async fn large_bodies_respect_small_windows() {
    local(async {
        let windows = Options {
            initial_stream_window: 65_535,
            initial_connection_window: 65_535,
            ..Options::default()
        };
        let connection = served(windows, echo).await;
        let head = post("/");
        let (mut tx, mut rx) = connection.start(&head);
        tx.head(&head, false).await.unwrap();
        let send = async {
            for at in 0..40 {
                tx.take(vec![0; 50_000].into(), at == 39);
                tx.flush().await.unwrap();
            }
        };
        let ((), response) = tokio::join!(send, whole(&mut rx));
        assert_eq!(response.unwrap().1, 2_000_000);
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_up() {
    local(async {
        let (send, receive) = tokio::sync::oneshot::channel();
        let send = std::cell::Cell::new(Some(send));
        let response = move |_, _, mut tx: ResponseWriter| {
            let done = send.take();
            async move {
                tx.head(&ResponseHead::new(200), false).unwrap();
                let mut sent = 0u64;
                loop {
                    tx.take(vec![0; 1 << 20].into(), false);
                    tx.flush().now_or_never();
                    if tx.needs_flush() {
                        break;
                    }
                    sent += 1;
                }
                let _ = done.map(|done| done.send(sent));
                tx.flush().await.unwrap();
                tx.take(Bytes::new(), true);
                tx.flush().await.unwrap();
            }
        };
        let connection = served(Options::default(), response).await;
        let head = post("/");
        let (mut tx, mut rx) = connection.start(&head);
        tx.head(&head, true).await.unwrap();
        assert_eq!(receive.await.unwrap(), 0, "more than the send buffer was taken at once");
        assert_eq!(whole(&mut rx).await.unwrap().1, 1 << 20);
    })
    .await;
}

#[tokio::test]
async fn interim_responses_come_first() {
    local(async {
        let connection = served(Options::default(), |_, _, mut tx: ResponseWriter| async move {
            tx.interim(&ResponseHead::new(103)).unwrap();
            tx.head(&ResponseHead::new(204), true).unwrap();
        })
        .await;
        let request = post("/");
        let (mut tx, mut rx) = connection.start(&request);
        tx.head(&request, true).await.unwrap();
        let mut head = ResponseHead::default();
        assert_eq!((rx.head(&mut head).await, head.status), (Ok(HeadKind::Interim), 103));
        assert_eq!((rx.head(&mut head).await, head.status), (Ok(HeadKind::Final { end: true }), 204));
        assert!(matches!(rx.next().await, Ok(Frame::End)));
    })
    .await;
}

#[tokio::test]
async fn a_reset_differs_from_a_lost_connection() {
    local(async {
        let reset = failed(|mut tx| tx.reset()).await;
        assert_eq!(reset, UpstreamError::RemoteReset);
        let (client, server) = pair().await;
        let (connection, driver) = ClientConnection::handshake(client, &Options::default()).await.unwrap();
        tokio::task::spawn_local(driver);
        let head = post("/");
        let (mut tx, mut rx) = connection.start(&head);
        tx.head(&head, true).await.unwrap();
        drop(server);
        assert_eq!(whole(&mut rx).await.unwrap_err(), UpstreamError::ConnectionTermination);
        assert!(!connection.is_usable());
    })
    .await;
}

#[tokio::test]
async fn a_refused_stream_may_be_tried_elsewhere() {
    local(async {
        for go_away in [true, false] {
            let (client, server) = pair().await;
            let (connection, driver) =
                ClientConnection::handshake(client, &Options::default()).await.unwrap();
            tokio::task::spawn_local(driver);
            tokio::task::spawn_local(async move {
                let mut server = h2::server::handshake(server).await.unwrap();
                if go_away {
                    server.abrupt_shutdown(h2::Reason::NO_ERROR);
                }
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
            let head = post("/");
            let (mut tx, mut rx) = connection.start(&head);
            tx.head(&head, true).await.unwrap();
            assert_eq!(whole(&mut rx).await.unwrap_err(), UpstreamError::RemoteRefused, "GOAWAY: {go_away}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_is_a_protocol_error() {
    local(async {
        let connection = served(Options::default(), |_, _, mut tx: ResponseWriter| async move {
            let mut response = ResponseHead::new(200);
            response.fields.push("content-length", b"5");
            tx.head(&response, false).unwrap();
            tx.take("abc".into(), true);
            let _ = tx.flush().await;
        })
        .await;
        let head = post("/");
        let (mut tx, mut rx) = connection.start(&head);
        tx.head(&head, true).await.unwrap();
        assert!(matches!(whole(&mut rx).await, Err(UpstreamError::Protocol(_))));
    })
    .await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_reset_and_the_next_request_served() {
    local(async {
        let options = Options { max_head_bytes: 2_000, max_fields: 10, ..Options::default() };
        let connection = served(options, echo).await;
        let mut large = post("/");
        large.fields.push("x-big", &[b'b'; 3_000]);
        let mut many = post("/");
        (0..20).for_each(|_| many.fields.push("x-many", b"1"));
        for head in [large, many] {
            let (mut tx, mut rx) = connection.start(&head);
            tx.head(&head, true).await.unwrap();
            assert_eq!(whole(&mut rx).await.unwrap_err(), UpstreamError::RemoteReset);
        }
        let head = post("/");
        let (mut tx, mut rx) = connection.start(&head);
        tx.head(&head, true).await.unwrap();
        assert_eq!(whole(&mut rx).await.unwrap().0.status, 200);
    })
    .await;
}

#[tokio::test]
async fn the_end_comes_with_the_last_data_and_in_no_frame_of_its_own() {
    local(async {
        let (client, server) = pair().await;
        let (connection, driver) = ClientConnection::handshake(client, &Options::default()).await.unwrap();
        tokio::task::spawn_local(driver);
        let mut server = h2::server::handshake(server).await.unwrap();
        let head = post("/");
        let (mut tx, _rx) = connection.start(&head);
        tx.head(&head, false).await.unwrap();
        tx.take("hello".into(), true);
        tx.flush().await.unwrap();
        let (request, _respond) = server.accept().await.unwrap().unwrap();
        tokio::task::spawn_local(async move { while server.accept().await.is_some() {} });
        let mut body = request.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        assert!(body.is_end_stream(), "the last DATA frame has END_STREAM");
    })
    .await;
}

#[tokio::test]
async fn a_response_over_the_limits_is_reported_as_reset() {
    local(async {
        for (many, fits) in [(98, true), (99, true), (100, false)] {
            let connection = served(Options::default(), move |_, _, mut tx: ResponseWriter| async move {
                let mut response = ResponseHead::new(200);
                (0..many).for_each(|_| response.fields.push("x-many", b"1"));
                tx.head(&response, true).unwrap();
            })
            .await;
            let head = post("/");
            let (mut tx, mut rx) = connection.start(&head);
            tx.head(&head, true).await.unwrap();
            let error = whole(&mut rx).await.err();
            assert_eq!(error, (!fits).then_some(UpstreamError::RemoteReset), "{many}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resets_or_leaves_is_noticed() {
    local(async {
        for (leave, expected) in [(true, DownstreamError::Disconnected), (false, DownstreamError::Reset)] {
            let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
            let (connection, driver) = served_until(Options::default(), move |_, mut rx: RequestBody, tx| {
                let report = report.clone();
                async move {
                    report.send(rx.closed().now_or_never()).unwrap();
                    report.send(Some(rx.closed().await)).unwrap();
                    drop(tx);
                }
            })
            .await;
            let head = post("/");
            let (mut tx, rx) = connection.start(&head);
            tx.head(&head, true).await.unwrap();
            assert_eq!(reports.recv().await, Some(None));
            let kept = leave.then_some((tx, rx));
            if leave {
                driver.abort();
            }
            assert_eq!(reports.recv().await, Some(Some(expected)));
            drop(kept);
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_becomes_an_extended_connect_and_back() {
    local(async {
        let options = Options { allow_connect: true, ..Options::default() };
        let connection = served(options, |head: RequestHead, _, mut tx: ResponseWriter| async move {
            let upgrade = head.fields.get(Known::Upgrade) == Some(b"websocket") && head.method == Method::Get;
            tx.head(&ResponseHead::new(if upgrade { 101 } else { 200 }), true).unwrap();
        })
        .await;
        // The client learns from the server's settings that extended CONNECT is allowed; a first
        // response shows that they have arrived.
        let mut head = post("/");
        for status in [200, 101] {
            let (mut tx, mut rx) = connection.start(&head);
            tx.head(&head, true).await.unwrap();
            assert_eq!(whole(&mut rx).await.unwrap().0.status, status);
            head.fields.push(Known::Connection, b"keep-alive, Upgrade");
            head.fields.push(Known::Upgrade, b"websocket");
        }
    })
    .await;
}

/// Any request that the codecs let in: every byte that a part may hold, more often the odd ones.
fn any_head() -> impl Strategy<Value = RequestHead> {
    let bytes = |most| prop::collection::vec(prop_oneof![any::<u8>(), 33..127u8], 0..most);
    let path = bytes(40).prop_filter_map("path", |bytes| Path::new([b"/", &bytes[..]].concat()).ok());
    let authority = bytes(12).prop_map(|bytes| Authority::new(bytes).unwrap_or_else(|_| "a.test".into()));
    let fields = prop::collection::vec(("[!#$%&'*+.^_`|~0-9a-z-]{1,20}", bytes(20)), 0..6);
    let method = prop_oneof!["[A-Z]{1,8}", "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}"];
    (method, path, authority, fields).prop_map(|(method, path, authority, fields)| {
        let method = Method::try_from(&*method).unwrap();
        let mut head = RequestHead { method, path, authority, ..RequestHead::default() };
        for (name, value) in fields {
            if let (Ok(name), Ok(value)) = (FieldNameBuf::new(&name), FieldValueBuf::new(value)) {
                head.fields.push(&name, &value);
            }
        }
        head
    })
}

proptest! {
    #[test]
    fn what_can_be_carried_is_sent_and_no_error_of_a_host_that_behaves_well(
        heads in prop::collection::vec(any_head(), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(local(async {
            let connection = served(Options::default(), |_, _, mut tx: ResponseWriter| async move {
                tx.head(&ResponseHead::new(200), true).unwrap();
            })
            .await;
            for head in heads {
                let (mut tx, mut rx) = connection.start(&head);
                let sent = tx.head(&head, true).await;
                if head.check(Version::Http2).is_ok() {
                    assert_eq!(sent, Ok(()), "{head:?}");
                    assert_eq!(whole(&mut rx).await.map(|response| response.0.status), Ok(200), "{head:?}");
                } else {
                    // Sending it all the same is not an error of the host.
                    assert!(matches!(sent, Ok(()) | Err(UpstreamError::Unsendable)), "{head:?}");
                }
            }
        }));
    }
}

#[test]
fn frames_are_found_in_whatever_pieces_they_come() {
    // SETTINGS, its acknowledgement, DATA of two bytes that look like a frame's head, RST_STREAM, GOAWAY.
    let frames: &[&[u8]] = &[
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        &[0, 0, 0, 4, 1, 0, 0, 0, 0],
        &[0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0],
        &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8],
        &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
    ];
    let bytes = [&[b'P'; 24][..], &frames.concat()].concat();
    for size in 1..=bytes.len() {
        let (mut scan, mut found) = (super::FrameScan::new(super::Side::Server, true), Vec::new());
        for piece in bytes.chunks(size) {
            scan.scan(piece, |frame| found.push((frame.kind, frame.flags)));
        }
        assert_eq!(found, [(4, 0), (4, 1), (0, 0), (3, 0), (7, 0)], "pieces of {size}");
    }
}

/// A field line or a change of the table's size, as HPACK spells it, and whether it is a line.
fn any_representation() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let string = || {
        (any::<bool>(), prop_oneof![0..4_usize, 120..140_usize, 250..400_usize]).prop_map(
            |(huffman, length)| {
                let first = if huffman { 0x80 } else { 0 };
                [integer(first, 7, length), vec![0xff; length]].concat()
            },
        )
    };
    let at = || prop_oneof![1..70_usize, 120..300_usize];
    let named = |kind: u8, bits: u32| {
        (at(), string()).prop_map(move |(at, value)| ([integer(kind, bits, at), value].concat(), true))
    };
    let new = |kind: u8| {
        (string(), string()).prop_map(move |(name, value)| ([vec![kind], name, value].concat(), true))
    };
    prop_oneof![
        at().prop_map(|at| (integer(0x80, 7, at), true)),
        (0..5000_usize).prop_map(|size| (integer(0x20, 5, size), false)),
        named(0x40, 6),
        named(0, 4),
        named(0x10, 4),
        new(0x40),
        new(0),
        new(0x10),
    ]
}

/// An integer of HPACK behind the first bits of its byte (RFC 7541, 5.1).
fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    let byte = |value: usize| u8::try_from(value).unwrap();
    let Some(mut left) = value.checked_sub(most) else { return vec![first | byte(value)] };
    let mut bytes = vec![first | byte(most)];
    while left >= 128 {
        bytes.push(byte(left % 128) | 128);
        left /= 128;
    }
    bytes.push(byte(left));
    bytes
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

proptest! {
    #[test]
    fn every_line_of_trailers_is_counted_however_they_are_cut(
        block in prop::collection::vec(any_representation(), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        padding in prop::option::of(any::<u8>()),
        has_priority in any::<bool>(),
        piece in 1..60_usize,
    ) {
        let lines = block.iter().filter(|(_, is_line)| *is_line).count();
        let bytes: Vec<u8> = block.into_iter().flat_map(|(bytes, _)| bytes).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let ends: Vec<usize> = cuts.iter().copied().chain([bytes.len()]).collect();
        let starts = [0].into_iter().chain(cuts);
        let mut wire = [frame(1, 4, &[0x82]), frame(0, 0, &[1; 40])].concat();
        for (at, (start, end)) in starts.zip(&ends).enumerate() {
            let end_headers = if at + 1 == ends.len() { 4 } else { 0 };
            let part = &bytes[start..*end];
            if at > 0 {
                wire.extend(frame(9, end_headers, part));
                continue;
            }
            let mut flags = end_headers | 1;
            let mut payload = Vec::new();
            if let Some(padding) = padding {
                flags |= 8;
                payload.push(padding);
            }
            if has_priority {
                flags |= 32;
                payload.extend([0x82; 5]);
            }
            payload.extend_from_slice(part);
            payload.extend(vec![0x82; padding.unwrap_or(0).into()]);
            wire.extend(frame(1, flags, &payload));
        }
        wire.extend(frame(3, 0, &[0, 0, 0, 8]));
        let with_preface = [&[b'P'; 24][..], &wire].concat();
        for (side, sent) in [(super::Side::Server, &with_preface), (super::Side::Client, &wire)] {
            let (mut scan, mut found) = (super::FrameScan::new(side, true), Vec::new());
            for piece in sent.chunks(piece) {
                scan.scan(piece, |frame| found.push((frame.kind, frame.lines)));
            }
            prop_assert_eq!(&found, &[(1, None), (0, None), (1, Some(lines)), (3, None)]);
        }
    }
}
