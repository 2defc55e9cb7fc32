//! The client side of HTTP/2: a connection to an upstream, and the requests on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::convert;
use super::sender::Outgoing;
use super::{Counts, Frames, Io, Options, Side};
use crate::error::UpstreamError;
use crate::message::{Fields, Frame, HeadKind, Invalid, RequestHead, ResponseHead};

/// A connection to an upstream, shared by many requests; it closes when it is dropped and the last of
/// them has ended.
pub(crate) struct ClientConnection {
    send: RefCell<SendRequest<Bytes>>,
    counts: Counts,
    settings: Rc<Settings>,
    window: Rc<Window>,
    max_head_bytes: usize,
    max_fields: usize,
}

/// Drives a connection until it ends; to be spawned on the worker's thread.
pub(crate) struct Driver {
    connection: h2::client::Connection<Io, Bytes>,
    counts: Counts,
    settings: Rc<Settings>,
    window: Rc<Window>,
}

/// How much the upstream may send on the whole connection. A client that does not read holds back
/// up to the window of its stream; what the other streams may still use of the connection's window
/// must not shrink by it. So the window grows with the number of streams that there are at once.
/// In Envoy, all streams stall when the ones that are not read have used up the connection's window.
struct Window {
    connection: u64,
    stream: u64,
    /// Streams now, the most there were, and the most that the window has grown for.
    streams: Cell<u64>,
    most: Cell<u64>,
    granted: Cell<u64>,
}

/// Counts a stream of a connection while it lives.
struct Streaming(Rc<Window>);

impl Streaming {
    fn new(window: &Rc<Window>) -> Self {
        window.streams.set(window.streams.get().saturating_add(1));
        window.most.set(window.most.get().max(window.streams.get()));
        Self(Rc::clone(window))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

impl Window {
    fn new(options: &Options) -> Rc<Self> {
        let per_stream = if options.connection_window_grows { options.initial_stream_window } else { 0 };
        Rc::new(Self {
            connection: options.initial_connection_window.into(),
            stream: per_stream.into(),
            streams: Cell::new(0),
            most: Cell::new(1),
            granted: Cell::new(1),
        })
    }

    /// The window's size, when it is to grow.
    fn growth(&self) -> Option<u32> {
        /// The most that the protocol allows (RFC 9113, 6.9.1).
        const LARGEST: u64 = (1 << 31) - 1;
        let most = self.most.get();
        if self.granted.replace(most) == most {
            return None;
        }
        let size = self.connection.saturating_add(self.stream.saturating_mul(most.saturating_sub(1)));
        u32::try_from(size.min(LARGEST)).ok()
    }
}

/// The upstream's first SETTINGS, before which it is not known whether it takes upgrades.
#[derive(Default)]
struct Settings {
    /// They came, or never will.
    over: Cell<bool>,
    came: Notify,
}

/// Where the request goes.
pub(crate) struct RequestWriter {
    send: SendRequest<Bytes>,
    stream: Option<SendStream<Bytes>>,
    outgoing: Outgoing,
    /// For an upgrade.
    settings: Option<Rc<Settings>>,
    response: Rc<RefCell<PendingResponse>>,
}

/// The receiving side: the response.
pub(crate) struct ResponseReader {
    response: Rc<RefCell<PendingResponse>>,
    body: Option<RecvStream>,
    _streaming: Streaming,
    counts: Counts,
    done: bool,
    failed: Option<UpstreamError>,
    /// The request asked for another protocol, so that 200 means 101.
    upgrade: bool,
    max_head_bytes: usize,
    max_fields: usize,
}

/// What the writer leaves for the reader once the head was sent.
#[derive(Default)]
struct PendingResponse {
    future: Option<ResponseFuture>,
    waker: Option<Waker>,
}

impl ClientConnection {
    /// Prepares the connection; nothing is sent before the driver runs.
    pub(crate) async fn handshake(
        stream: TcpStream,
        options: &Options,
    ) -> Result<(Self, Driver), UpstreamError> {
        let io = Io::new(stream, Bytes::new(), Side::Client);
        let counts = io.counts.clone();
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(options.initial_stream_window)
            .initial_connection_window_size(options.initial_connection_window)
            .header_table_size(options.header_table_size)
            .max_header_list_size(options.decode_limit())
            .max_send_buffer_size(options.send_buffer)
            // Until the upstream's SETTINGS say how many it allows.
            .initial_max_send_streams(1);
        let (send, connection) = builder.handshake(io).await.map_err(|error| upstream(&error))?;
        let Options { max_head_bytes, max_fields, .. } = *options;
        let (send, settings) = (RefCell::new(send), Rc::<Settings>::default());
        let window = Window::new(options);
        let driver = Driver {
            connection,
            counts: counts.clone(),
            settings: Rc::clone(&settings),
            window: Rc::clone(&window),
        };
        Ok((Self { send, counts, settings, window, max_head_bytes, max_fields }, driver))
    }

    /// Whether new requests may be started: false once the upstream said GOAWAY or the connection
    /// ended.
    pub(crate) fn is_usable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !matches!(self.send.borrow_mut().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// How many requests the upstream allows at once; 1 until it has said so.
    pub(crate) fn max_streams(&self) -> usize {
        self.send.borrow().current_max_send_streams()
    }

    /// Bytes received and sent since the last call.
    pub(crate) fn take_counts(&self) -> (u64, u64) {
        self.counts.take()
    }

    /// Frames received and sent since the last call.
    pub(crate) fn take_frames(&self) -> Frames {
        self.counts.take_frames()
    }

    /// The two sides of a request; `head` is the one that will be written.
    pub(crate) fn start(&self, head: &RequestHead) -> (RequestWriter, ResponseReader) {
        let response = Rc::<RefCell<PendingResponse>>::default();
        let upgrade = convert::wants_upgrade(head);
        let writer = RequestWriter {
            send: self.send.borrow().clone(),
            stream: None,
            outgoing: Outgoing::default(),
            settings: upgrade.then(|| Rc::clone(&self.settings)),
            response: response.clone(),
        };
        let Self { max_head_bytes, max_fields, .. } = *self;
        let reader = ResponseReader {
            response,
            body: None,
            _streaming: Streaming::new(&self.window),
            counts: self.counts.clone(),
            done: false,
            failed: None,
            upgrade,
            max_head_bytes,
            max_fields,
        };
        (writer, reader)
    }
}

impl Future for Driver {
    type Output = Result<(), UpstreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(size) = self.window.growth() {
            self.connection.set_target_window_size(size);
        }
        let polled = pin!(&mut self.connection).poll(cx).map_err(|error| upstream(&error));
        if !self.settings.over.get() && self.counts.has_settings() {
            self.settings.end();
        }
        polled
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.settings.end();
    }
}

impl Settings {
    fn end(&self) {
        self.over.set(true);
        self.came.notify_waiters();
    }

    async fn wait(&self) {
        while !self.over.get() {
            self.came.notified().await;
        }
    }
}

impl RequestWriter {
    /// The request's head; with `end` it is whole.
    pub(crate) async fn head(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamError> {
        if self.stream.is_some() {
            return Ok(());
        }
        if let Some(settings) = &self.settings {
            settings.wait().await;
        }
        poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(|error| upstream(&error))?;
        // The reset of an upgrade that the upstream never offered would count against its host.
        if self.settings.is_some() && !self.send.is_extended_connect_protocol_enabled() {
            return Err(UpstreamError::Unsendable);
        }
        let request = convert::request_out(head).ok_or(UpstreamError::Unsendable)?;
        let (future, stream) = self.send.send_request(request, end).map_err(|error| sending(&error))?;
        self.stream = Some(stream);
        if end {
            self.outgoing.finish();
        }
        let mut response = self.response.borrow_mut();
        response.future = Some(future);
        if let Some(waker) = response.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Takes a piece of the body; `flush` sends it.
    pub(crate) fn take(&mut self, data: Bytes, end: bool) {
        self.outgoing.take(data, end);
    }

    /// Trailers, which end the request.
    pub(crate) async fn trailers(&mut self, trailers: &Fields) -> Result<(), UpstreamError> {
        match convert::trailers_out(trailers) {
            Some(trailers) => self.outgoing.take_trailers(trailers),
            None => self.outgoing.take(Bytes::new(), true),
        }
        self.flush().await
    }

    /// Whether something waits for a `flush`.
    pub(crate) fn needs_flush(&self) -> bool {
        self.outgoing.is_waiting()
    }

    /// Whether the upstream knows of the request.
    pub(crate) fn is_begun(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the whole request was given to the connection.
    pub(crate) fn is_whole(&self) -> bool {
        self.outgoing.is_done()
    }

    /// Sends what waits, as the upstream's window opens.
    pub(crate) async fn flush(&mut self) -> Result<(), UpstreamError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        poll_fn(|cx| self.outgoing.poll_send(stream, cx)).await.map_err(|error| upstream(&error))
    }
}

impl ResponseReader {
    /// The next head, into a reused one; whether it is interim and whether the response ends with
    /// it.
    pub(crate) async fn head(&mut self, head: &mut ResponseHead) -> Result<HeadKind, UpstreamError> {
        let read = poll_fn(|cx| self.poll_head(cx, head)).await;
        read.inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Whether the whole response has been received.
    pub(crate) fn is_end(&self) -> bool {
        self.done || self.body.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    /// The next piece of the body; taking it opens the window for more.
    pub(crate) async fn next(&mut self) -> Result<Frame, UpstreamError> {
        let read = poll_fn(|cx| self.poll_next(cx)).await;
        read.inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Why the response could not be read.
    pub(crate) fn failed(&self) -> Option<&UpstreamError> {
        self.failed.as_ref()
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<HeadKind, UpstreamError>> {
        let mut response = self.response.borrow_mut();
        let Some(future) = &mut response.future else {
            response.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match future.poll_informational(cx) {
            // HTTP/2 has no other protocol to switch to (RFC 9113, 8.6).
            Poll::Ready(Some(Ok(interim))) if interim.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                return Poll::Ready(Err(UpstreamError::Protocol("unexpected interim response")));
            }
            Poll::Ready(Some(Ok(interim))) => {
                convert::response_in(&interim, head).map_err(malformed)?;
                return Poll::Ready(Ok(HeadKind::Interim));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(upstream(&error))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        let Poll::Ready(response) = Pin::new(future).poll(cx) else { return Poll::Pending };
        let response = response.map_err(|error| upstream(&error))?;
        let (bytes, fields) = convert::measure(response.headers());
        // `:status` counts as well. Envoy resets such a stream, and reports it as reset by the host.
        if bytes > self.max_head_bytes || fields >= self.max_fields {
            return Poll::Ready(Err(UpstreamError::RemoteReset));
        }
        convert::response_in(&response, head).map_err(malformed)?;
        if self.upgrade && head.status == 200 {
            head.status = 101;
        }
        let body = response.into_body();
        let end = body.is_end_stream();
        if end {
            // They were its headers, not trailers.
            self.counts.take_lines(body.stream_id().into());
        }
        self.body = Some(body);
        Poll::Ready(Ok(HeadKind::Final { end }))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, UpstreamError>> {
        let Some(body) = self.body.as_mut().filter(|_| !self.done) else {
            return Poll::Ready(Ok(Frame::End));
        };
        match body.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(data))) => {
                // Only fails for a stream that has ended, where the window no longer matters.
                let _ = body.flow_control().release_capacity(data.len());
                return Poll::Ready(Ok(Frame::Data(data)));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(upstream(&error))),
            Poll::Ready(None) => {}
        }
        body.poll_trailers(cx).map(|trailers| {
            self.done = true;
            match trailers.map_err(|error| upstream(&error))? {
                None => Ok(Frame::End),
                Some(map) => {
                    let trailers = self.counts.trailers(body.stream_id().into(), &map);
                    let trailers = trailers.map_err(|_| UpstreamError::Protocol("malformed trailers"))?;
                    Ok(trailers.map_or(Frame::End, Frame::Trailers))
                }
            }
        })
    }
}

/// A name that is no token.
fn malformed(_: Invalid) -> UpstreamError {
    UpstreamError::Protocol("invalid header name")
}

/// The reason for a request that was not even sent: what `h2` refuses by itself is not the upstream's
/// fault (an upgrade, for one, where it does not take extended CONNECT).
fn sending(error: &h2::Error) -> UpstreamError {
    let of_connection =
        error.is_io() || error.is_remote() || error.is_library() || error.is_go_away() || error.is_reset();
    if of_connection { upstream(error) } else { UpstreamError::Unsendable }
}

/// Envoy's reason for an `h2` error. A GOAWAY that leaves our stream out means that it was not processed.
fn upstream(error: &h2::Error) -> UpstreamError {
    let refused = error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        UpstreamError::RemoteRefused
    } else if error.is_reset() && (error.is_remote() || refused) {
        // `h2` itself refuses a response whose headers are far too large: as below our own limit.
        UpstreamError::RemoteReset
    } else if error.is_library() || (error.is_reset() && !error.is_remote()) {
        UpstreamError::Protocol("HTTP/2 protocol error")
    } else {
        UpstreamError::ConnectionTermination
    }
}
