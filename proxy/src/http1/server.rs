//! One HTTP/1 connection of a client: heads in, bodies in, responses out, and whether it may live on.
//!
//! Every verb may be dropped while it waits and called again.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use super::body::{BodyDecoder, Framing, Input, Output};
use super::encode::{self, BodyWriter, RespondingTo};
use super::head::{self, EndScan, Parsed, RequestMeta};
use super::{EncodeOptions, HeadLimits, Malformed, Refusal, ServerOptions};
use crate::error::{DownstreamError, Flag};
use crate::message::{Fields, Frame, Known, Method, RequestHead, ResponseHead, Version};

/// A client's connection, one request after the other.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    input: Input,
    output: Output,
    decoder: BodyDecoder,
    scan: EndScan,
    limits: HeadLimits,
    encode: EncodeOptions,
    shared: Shared,
}

/// What came instead of, or as, a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadEvent {
    Request,
    /// The client closed the connection, perhaps after it had begun a request.
    Closed {
        begun: bool,
    },
    /// The codec responds to the request and closes the connection.
    Refused(Refusal),
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// The preface of HTTP/2 with prior knowledge.
    Http2,
    Other,
    Closed,
}

/// What both halves of one exchange know.
#[derive(Debug, Default)]
struct Shared {
    head: Cell<bool>,
    connect: Cell<bool>,
    /// The request asks for another protocol: what follows may belong to that one.
    upgrade: Cell<bool>,
    http10: Cell<bool>,
    /// The request's last byte has been received.
    request_done: Cell<bool>,
    response: Cell<Progress>,
    /// The connection ends with this response.
    close: Cell<bool>,
    /// The client broke the protocol.
    protocol_error: Cell<bool>,
    /// The client closed its side or the socket failed.
    gone: Cell<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    NotBegun,
    Begun,
    /// The last byte was given to the output buffer.
    Complete,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl ServerConnection {
    pub(crate) fn new(stream: TcpStream, limits: HeadLimits, options: &ServerOptions) -> Self {
        let (read, write) = stream.into_split();
        let encode = options.encode;
        Self {
            input: Input::new(read, BytesMut::new()).limited(options.read_limit),
            output: Output::new(write),
            decoder: BodyDecoder::new(Framing::None, false, limits),
            scan: EndScan::default(),
            limits,
            encode,
            shared: Shared::default(),
        }
    }

    /// Reads until it is certain whether the client speaks HTTP/2. For the first bytes of a connection alone.
    pub(crate) async fn first_bytes(&mut self) -> FirstBytes {
        poll_fn(|cx| {
            loop {
                let rest = &self.input.rest;
                if rest.len() >= PREFACE.len() || !PREFACE.starts_with(rest) {
                    let http2 = rest.starts_with(PREFACE);
                    return Poll::Ready(if http2 { FirstBytes::Http2 } else { FirstBytes::Other });
                }
                match ready!(self.input.poll_fill(cx)) {
                    Ok(0) | Err(_) if self.input.rest.is_empty() => return Poll::Ready(FirstBytes::Closed),
                    Ok(0) | Err(_) => return Poll::Ready(FirstBytes::Other),
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    /// The socket and what was read of it, for another protocol.
    pub(crate) fn into_stream(self) -> Option<(TcpStream, Bytes)> {
        let (read, rest) = self.input.into_half();
        let stream = read.reunite(self.output.into_half()).ok()?;
        Some((stream, rest.freeze()))
    }

    /// Waits for the first byte of the next request, or the end.
    pub(crate) async fn readable(&mut self) {
        self.input.release();
        if self.input.rest.is_empty() {
            poll_fn(|cx| self.input.poll_ready(cx)).await;
        }
    }

    /// Reads the next head into a reused one.
    pub(crate) async fn read_head(&mut self, head: &mut RequestHead, options: &ServerOptions) -> HeadEvent {
        let event = poll_fn(|cx| self.poll_head(cx, head, options)).await;
        self.scan = EndScan::default();
        event
    }

    /// The two sides of the exchange whose head was read.
    pub(crate) fn split(&mut self) -> (RequestBody<'_>, ResponseWriter<'_>) {
        let body = RequestBody { input: &mut self.input, decoder: &mut self.decoder, shared: &self.shared };
        let writer = ResponseWriter {
            output: &mut self.output,
            shared: &self.shared,
            encode: self.encode,
            body: BodyWriter::Done,
        };
        (body, writer)
    }

    /// Whether another request may follow: both sides are whole and neither asked to close.
    pub(crate) fn reusable(&self) -> bool {
        self.shared.request_done.get() && self.responded() && !self.shared.close.get()
    }

    /// Whether the response was given whole (perhaps not yet sent).
    pub(crate) fn responded(&self) -> bool {
        self.shared.response.get() == Progress::Complete
    }

    /// Whether the client broke the protocol, for statistics.
    pub(crate) fn protocol_error(&self) -> bool {
        self.shared.protocol_error.get()
    }

    /// Whether the client went away first, for statistics.
    pub(crate) fn client_gone(&self) -> bool {
        self.shared.gone.get()
    }

    /// The connection ends with the next response, which says so.
    pub(crate) fn close_after(&self) {
        self.shared.close.set(true);
    }

    /// Gives up on a request: the response is its refusal, and the last of the connection.
    pub(crate) fn refuse_head(&mut self, refusal: Refusal) -> HeadEvent {
        // The end of the request is unknown.
        self.decoder = BodyDecoder::new(Framing::UntilClose, false, self.limits);
        self.shared.head.set(false);
        self.shared.connect.set(false);
        self.shared.upgrade.set(false);
        self.shared.request_done.set(false);
        self.shared.response.set(Progress::NotBegun);
        self.shared.close.set(true);
        self.shared.protocol_error.set(refusal.flag == Some(Flag::DownstreamProtocolError));
        HeadEvent::Refused(refusal)
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> Result<(), DownstreamError> {
        poll_fn(|cx| self.output.poll_flush(cx)).await.map_err(|_| DownstreamError::Disconnected)
    }

    /// Ends our side and reads until the client ends its own: closing a socket with unread bytes would destroy the response on its way.
    pub(crate) async fn linger(&mut self) {
        if poll_fn(|cx| self.output.poll_shutdown(cx)).await.is_err() {
            return;
        }
        loop {
            self.input.rest.clear();
            let drop_it = |_: &mut BytesMut, scratch: &mut BytesMut| scratch.len();
            match poll_fn(|cx| self.input.poll_read(cx, drop_it)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Bytes received and sent since the last call.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        (self.input.take_received(), self.output.take_sent())
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut RequestHead,
        options: &ServerOptions,
    ) -> Poll<HeadEvent> {
        let limits = self.limits;
        // Blank lines in front of a request line are skipped (RFC 9112, 2.2).
        skip_blank(&mut self.input.rest);
        let mut fresh = !self.input.rest.is_empty() && self.scan == EndScan::default();
        loop {
            if !self.input.rest.is_empty() && (fresh || self.scan.complete(&self.input.rest)) {
                let parsed = head::request(&self.input.rest, head, options, limits);
                if let Ok((Parsed::Complete(used), _)) = &parsed {
                    self.input.rest.advance(*used);
                }
                if let Some(event) = self.begun(parsed, head) {
                    return Poll::Ready(event);
                }
                self.scan.complete(&self.input.rest);
            }
            if self.input.rest.len() > limits.bytes {
                return Poll::Ready(self.refuse_head(Malformed::TooLarge.refusal()));
            }
            fresh = self.input.rest.is_empty();
            let read = if fresh {
                ready!(self.input.poll_read(cx, |rest, scratch| {
                    let read = scratch.len();
                    skip_blank(scratch);
                    let parsed = head::request(scratch, head, options, limits);
                    if let Ok((Parsed::Complete(used), _)) = &parsed {
                        scratch.advance(*used);
                    }
                    rest.extend_from_slice(scratch);
                    (read, (!scratch.is_empty() || read > 0).then_some(parsed))
                }))
            } else {
                ready!(self.input.poll_fill(cx)).map(|read| (read, None))
            };
            match read {
                Ok((0, _)) | Err(_) => {
                    self.shared.gone.set(true);
                    let begun = !self.input.rest.is_empty();
                    return Poll::Ready(HeadEvent::Closed { begun });
                }
                Ok((_, parsed)) => {
                    if let Some(event) = parsed.and_then(|parsed| self.begun(parsed, head)) {
                        return Poll::Ready(event);
                    }
                    fresh = false;
                }
            }
        }
    }

    /// Sets the connection up for a head that is whole or wrong; `None` when it is neither yet.
    fn begun(
        &mut self,
        parsed: Result<(Parsed, RequestMeta), Malformed>,
        head: &RequestHead,
    ) -> Option<HeadEvent> {
        let meta = match parsed {
            Ok((Parsed::Complete(_), meta)) => meta,
            Ok((Parsed::Partial, _)) => return None,
            Err(error) => {
                let refused = self.refuse_head(error.refusal());
                // The response to HEAD has no body, whatever else is wrong with the request.
                self.shared.head.set(head.method == Method::Head);
                return Some(refused);
            }
        };
        self.decoder = BodyDecoder::new(meta.framing, self.encode.enable_trailers, self.limits);
        self.shared.head.set(head.method == Method::Head);
        self.shared.connect.set(head.method == Method::Connect);
        self.shared.upgrade.set(head.fields.upgrade().is_some());
        self.shared.http10.set(head.version == Version::Http10);
        self.shared.request_done.set(self.decoder.is_end());
        self.shared.response.set(Progress::NotBegun);
        self.shared.close.set(self.shared.close.get() || !meta.keep_alive);
        Some(HeadEvent::Request)
    }
}

fn skip_blank(bytes: &mut BytesMut) {
    let blank = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    if blank > 0 {
        bytes.advance(blank);
    }
}

/// Where the request's body comes from.
#[derive(Debug)]
pub(crate) struct RequestBody<'c> {
    input: &'c mut Input,
    decoder: &'c mut BodyDecoder,
    shared: &'c Shared,
}

/// Where the response goes.
#[derive(Debug)]
pub(crate) struct ResponseWriter<'c> {
    output: &'c mut Output,
    shared: &'c Shared,
    encode: EncodeOptions,
    body: BodyWriter,
}

/// What is read of a client before it is wanted; beyond that, the client has to wait.
const MAX_AHEAD: usize = 16 * 1024;

impl RequestBody<'_> {
    /// Whether the whole request has been received (true at once for one without a body).
    pub(crate) fn is_end(&self) -> bool {
        self.decoder.is_end()
    }

    /// The next piece; `Frame::End` or trailers come once, at the end.
    pub(crate) async fn next(&mut self) -> Result<Frame, DownstreamError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Drops what has been received of the body.
    pub(crate) fn skip_received(&mut self) {
        while !self.decoder.is_end() && matches!(self.decoder.decode(&mut self.input.rest), Ok(Some(_))) {}
        self.shared.request_done.set(self.decoder.is_end());
    }

    /// The upgrade was accepted: from here on everything received is data, until the client ends its side.
    pub(crate) fn tunnel(&mut self) {
        *self.decoder = BodyDecoder::new(Framing::UntilClose, false, HeadLimits::default());
        self.shared.request_done.set(false);
        self.shared.close.set(true);
    }

    /// Waits until the client leaves; a half-close counts as that, as in Envoy. Also before the end of
    /// the request: what is read meanwhile is kept for `next`.
    pub(crate) async fn closed(&mut self) -> DownstreamError {
        poll_fn(|cx| self.poll_read_ahead(cx)).await;
        if !self.shared.gone.get() {
            self.input.peer_closed().await;
            self.shared.gone.set(true);
        }
        DownstreamError::Disconnected
    }

    /// Reads ahead until the client has left or the buffer is full; the rest then waits in the
    /// socket.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.rest.len() < MAX_AHEAD.min(self.input.most) {
            if matches!(ready!(self.input.poll_fill(cx)), Ok(0) | Err(_)) {
                self.shared.gone.set(true);
                return Poll::Ready(());
            }
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, DownstreamError>> {
        loop {
            match self.decoder.decode(&mut self.input.rest) {
                Ok(Some(frame)) => {
                    self.shared.request_done.set(self.decoder.is_end());
                    return Poll::Ready(Ok(frame));
                }
                Ok(None) => {}
                Err(error) => {
                    self.shared.protocol_error.set(true);
                    self.shared.close.set(true);
                    let details = error.refusal().details;
                    let too_large = matches!(error, Malformed::TooLarge | Malformed::TooManyFields);
                    return Poll::Ready(Err(if too_large {
                        DownstreamError::TooLarge(details)
                    } else {
                        DownstreamError::Protocol(details)
                    }));
                }
            }
            let ended = matches!(ready!(self.input.poll_fill(cx)), Ok(0) | Err(_));
            if ended {
                self.shared.close.set(true);
                self.shared.gone.set(true);
                let end = self.decoder.end_of_input();
                self.shared.request_done.set(self.decoder.is_end());
                return Poll::Ready(end.map_err(|_| DownstreamError::Disconnected));
            }
        }
    }
}

impl ResponseWriter<'_> {
    /// Sends an interim (1xx) head at once.
    pub(crate) async fn interim(&mut self, head: &ResponseHead) -> Result<(), DownstreamError> {
        // HTTP/1.0 has none (RFC 9110, 15.2).
        if !self.shared.http10.get() {
            let responding_to = RespondingTo::default();
            encode::response_head(self.output.buffer(), head, true, responding_to, self.encode);
        }
        self.flush().await
    }

    /// The connection ends with this response, which says so when its head is still to come. True when that is new.
    pub(crate) fn close_after(&mut self) -> bool {
        !self.shared.close.replace(true)
    }

    /// The head of the response; with `end` it is whole and sent. Without, it waits for the first data or a `flush`.
    pub(crate) async fn head(&mut self, head: &ResponseHead, end: bool) -> Result<(), DownstreamError> {
        if self.shared.response.get() == Progress::NotBegun {
            self.begin(head, end);
        }
        if end { self.flush().await } else { Ok(()) }
    }

    /// Trailers, which end the response.
    pub(crate) async fn trailers(&mut self, trailers: &Fields) -> Result<(), DownstreamError> {
        match self.body {
            BodyWriter::Chunked => {
                encode::last_chunk(self.output.buffer(), Some(trailers), self.encode);
                self.finish();
            }
            BodyWriter::Done => {}
            _ => self.take(Bytes::new(), true)?,
        }
        self.flush().await
    }

    /// Whether something waits for a `flush`.
    pub(crate) fn needs_flush(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> Result<(), DownstreamError> {
        poll_fn(|cx| self.output.poll_flush(cx)).await.map_err(|_| {
            self.shared.close.set(true);
            self.shared.gone.set(true);
            DownstreamError::Disconnected
        })
    }

    /// Gives up on the response: the connection will be closed in the middle of it.
    pub(crate) fn reset(&mut self) {
        self.shared.close.set(true);
        self.body = BodyWriter::Done;
    }

    /// Whether the connection ends with this response, which says so.
    ///
    /// A response to a request that is not whole ends it, instead of waiting for bytes that are not
    /// needed. So does the refusal of an upgrade: bytes behind the request may be the other
    /// protocol's.
    pub(crate) fn announces_close(&self, head: &ResponseHead) -> bool {
        let shared = self.shared;
        let tunnel = head.status == 101 || (shared.connect.get() && (200..300).contains(&head.status));
        let asked_for_tunnel = shared.upgrade.get() || shared.connect.get();
        let unfinished = !shared.request_done.get() || asked_for_tunnel;
        !tunnel && (shared.close.get() || unfinished || head.fields.has_token(Known::Connection, b"close"))
    }

    fn begin(&mut self, head: &ResponseHead, end: bool) {
        let shared = self.shared;
        shared.close.set(shared.close.get() || self.announces_close(head));
        let responding_to = RespondingTo {
            head: shared.head.get(),
            connect: shared.connect.get(),
            http10: shared.http10.get(),
            close: shared.close.get(),
        };
        let (body, close) =
            encode::response_head(self.output.buffer(), head, end, responding_to, self.encode);
        self.body = body;
        shared.response.set(Progress::Begun);
        shared.close.set(close);
        if end {
            self.finish();
        }
    }

    /// Takes a piece of the body; `flush` sends it. One piece at a time waits without being copied.
    ///
    /// More or less than the announced length is a broken response: the connection is closed in the middle of it.
    pub(crate) fn take(&mut self, data: Bytes, end: bool) -> Result<(), DownstreamError> {
        match self.body {
            BodyWriter::Done | BodyWriter::Swallow => {}
            BodyWriter::UntilClose => self.output.push(data),
            BodyWriter::Length(left) => {
                let left = left.checked_sub(data.len() as u64).filter(|left| !end || *left == 0);
                let Some(left) = left else {
                    self.reset();
                    return Err(DownstreamError::Protocol("http1.content_length_mismatch"));
                };
                self.output.push(data);
                self.body = BodyWriter::Length(left);
            }
            BodyWriter::Chunked => {
                if !data.is_empty() {
                    encode::chunk_line(self.output.buffer(), data.len());
                    self.output.push(data);
                    self.output.buffer().extend_from_slice(b"\r\n");
                }
                if end {
                    encode::last_chunk(self.output.buffer(), None, self.encode);
                }
            }
        }
        if end && self.shared.response.get() == Progress::Begun && self.body != BodyWriter::Done {
            self.finish();
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.body = BodyWriter::Done;
        self.shared.response.set(Progress::Complete);
    }
}
