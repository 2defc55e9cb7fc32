//! A connection for HTTP checks, of either version, and a request over it.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::{Ready, ready};
use futures_util::stream::{Once, once};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::format::Context;
use crate::headers::Changes;
use crate::message::{Method, RequestHead};
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// An open connection; closed on drop.
pub(super) struct Connection {
    sender: Sender,
    driver: AbortHandle,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A request's body: as long as it says; or, as gRPC sends it, of a length that is not announced.
type Body = Either<Full<Bytes>, StreamBody<Once<Ready<Result<Frame<Bytes>, Infallible>>>>>;

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// The connection of the last check, or a new one; `None` when there is none to be had. Between two checks a host may close the
    /// connection: that alone says nothing about its health.
    pub(super) async fn kept_or_new(kept: Option<Self>, address: SocketAddr, http2: bool) -> Option<Self> {
        if let Some(mut connection) = kept
            && connection.is_ready().await
        {
            return Some(connection);
        }
        Self::open(address, http2).await
    }

    async fn open(address: SocketAddr, http2: bool) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let io = TokioIo::new(stream);
        let (sender, driver) = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
            // The next use of the connection reports how it ended.
            let driver = tokio::spawn(async { drop(connection.await) });
            (Sender::Http2(sender), driver)
        } else {
            let (sender, connection) = http1::handshake(io).await.ok()?;
            let driver = tokio::spawn(async { drop(connection.await) });
            (Sender::Http1(sender), driver)
        };
        Some(Self { sender, driver: driver.abort_handle() })
    }

    /// Whether another request can be sent.
    pub(super) async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request; the head of the response and its body to come.
    pub(super) async fn send(&mut self, head: &RequestHead, body: Bytes) -> Option<http::Response<Incoming>> {
        let http2 = matches!(self.sender, Sender::Http2(_));
        let request = request(head, body, http2)?;
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await.ok(),
            Sender::Http2(sender) => sender.send_request(request).await.ok(),
        }
    }
}

fn request(head: &RequestHead, body: Bytes, http2: bool) -> Option<http::Request<Body>> {
    let path = std::str::from_utf8(&head.path).ok()?;
    let authority = std::str::from_utf8(&head.authority).ok()?;
    let mut request = http::Request::builder().method(head.method.as_str());
    request = if http2 {
        request
            .uri(http::Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()?)
    } else {
        request.uri(path).header(http::header::HOST, &*head.authority)
    };
    for (name, value) in head.fields.iter() {
        request = request.header(name.as_bytes(), value);
    }
    // As Envoy frames a request that could have a body.
    if body.is_empty() && !http2 && matches!(head.method, Method::Post | Method::Put | Method::Patch) {
        request = request.header(http::header::CONTENT_LENGTH, 0);
    }
    let body = if head.is_grpc() {
        Either::Right(StreamBody::new(once(ready(Ok(Frame::data(body))))))
    } else {
        Either::Left(Full::new(body))
    };
    request.body(body).ok()
}

/// Applies the header changes of a check, whose values may name the host.
pub(super) fn change(head: &mut RequestHead, changes: &Changes, host: SocketAddr) {
    let ours = SocketAddr::from(([127, 0, 0, 1], 0));
    let connection = ConnectionInfo { id: 0, peer: ours, local: ours, tls: false };
    let (wall, now) = (crate::time::wall(), crate::time::now());
    let mut info = StreamInfo::new(std::rc::Rc::new(connection), head.version, wall, now);
    info.upstream.host = Some(host);
    let values = changes.evaluate(&Context { request: Some(head), ..Context::new(&info) });
    changes.apply(&mut head.fields, &values);
}
