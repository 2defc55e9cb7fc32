//! One HTTP/1 connection to an upstream: a request out, its response in, and the connection back when both are whole.
//!
//! The two halves are owned, so that a connection can only be used again by joining them (`ClientConnection::rejoin`).
//! Every verb may be dropped while it waits.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use super::body::{BodyDecoder, Framing, Input, Output};
use super::encode::{self, BodyWriter};
use super::head::{self, Asked, EndScan, Parsed, ResponseMeta};
use super::{EncodeOptions, HeadLimits, Malformed};
use crate::error::UpstreamError;
use crate::message::{Fields, Frame, HeadKind, Method, RequestHead, ResponseHead};

/// How a connection to an upstream writes and what it reads at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    pub(crate) encode: EncodeOptions,
    pub limits: HeadLimits,
    /// Bytes read at once at most (`per_connection_buffer_limit_bytes`); 0 for the default.
    pub read_limit: usize,
}

impl Default for ClientOptions {
    /// Envoy's for responses over HTTP/1: 80 KiB, 100 headers.
    fn default() -> Self {
        let limits = HeadLimits { bytes: 80 * 1024, ..HeadLimits::default() };
        Self { encode: EncodeOptions::default(), limits, read_limit: 0 }
    }
}

/// A connection between two requests.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    input: Input,
    output: Output,
    options: ClientOptions,
}

/// Where the request goes.
#[derive(Debug)]
pub(crate) struct RequestWriter {
    output: Output,
    options: ClientOptions,
    state: Writing,
}

/// Where the response comes from.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    input: Input,
    options: ClientOptions,
    asked: Asked,
    scan: EndScan,
    decoder: BodyDecoder,
    /// `None` before the final head.
    meta: Option<ResponseMeta>,
    interim: u32,
    failed: bool,
    /// The host ended the connection.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Head,
    Body(BodyWriter),
    /// Whole, as far as it was given to us.
    Complete,
    Tunnel,
    /// The tunnel's end: our side of the connection ends once all was sent.
    TunnelEnd,
    /// More or less was given than the head announced.
    Broken,
}

/// Interim responses that are read before one request's response; beyond that they are an attack.
const MAX_INTERIM: u32 = 32;

impl ClientConnection {
    pub(crate) fn new(stream: TcpStream, options: ClientOptions) -> Self {
        let (read, write) = stream.into_split();
        Self {
            input: Input::new(read, BytesMut::new()).limited(options.read_limit),
            output: Output::new(write),
            options,
        }
    }

    /// The two sides of the next request; `head` is the one that will be written.
    pub(crate) fn start(self, head: &RequestHead) -> (RequestWriter, ResponseReader) {
        let asked = Asked {
            head: head.method == Method::Head,
            connect: head.method == Method::Connect,
            upgrade: head.fields.upgrade().is_some(),
        };
        let writer = RequestWriter { output: self.output, options: self.options, state: Writing::Head };
        let reader = ResponseReader {
            input: self.input,
            options: self.options,
            asked,
            scan: EndScan::default(),
            decoder: BodyDecoder::new(Framing::None, false, self.options.limits),
            meta: None,
            interim: 0,
            failed: false,
            gone: false,
        };
        (writer, reader)
    }

    /// The connection again, when the request was sent whole, the response received whole, and both sides keep it alive; or when nothing
    /// was sent at all.
    pub(crate) fn rejoin(writer: RequestWriter, mut reader: ResponseReader) -> Option<Self> {
        let unused = writer.state == Writing::Head && reader.untouched();
        if !(unused || (writer.is_complete() && reader.reusable())) {
            return None;
        }
        reader.input.release();
        Some(Self { input: reader.input, output: writer.output, options: reader.options })
    }

    /// Whether an idle connection was closed by the upstream, or holds bytes that were not asked for. No system call while nothing came.
    pub(crate) fn is_stale(&self) -> bool {
        self.input.is_disturbed()
    }
}

impl RequestWriter {
    /// The request's head; with `end` it is whole and sent at once. Without, it waits for the first data or a `flush`.
    pub(crate) async fn head(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamError> {
        if self.state == Writing::Head {
            let body = encode::request_head(self.output.buffer(), head, end, self.options.encode);
            self.state = if body == BodyWriter::Done { Writing::Complete } else { Writing::Body(body) };
        }
        if end { self.flush().await } else { Ok(()) }
    }

    /// Trailers, which end the request.
    pub(crate) async fn trailers(&mut self, trailers: &Fields) -> Result<(), UpstreamError> {
        if self.state == Writing::Body(BodyWriter::Chunked) {
            encode::last_chunk(self.output.buffer(), Some(trailers), self.options.encode);
            self.state = Writing::Complete;
        } else {
            self.take(Bytes::new(), true);
        }
        self.flush().await
    }

    /// The upgrade was accepted: data now goes as it is; its end ends our side of the connection.
    pub(crate) fn tunnel(&mut self) {
        self.state = Writing::Tunnel;
    }

    /// Whether something waits for a `flush`.
    pub(crate) fn needs_flush(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> Result<(), UpstreamError> {
        let ends = self.state == Writing::TunnelEnd;
        let sent = poll_fn(|cx| match ready!(self.output.poll_flush(cx)) {
            Ok(()) if ends => self.output.poll_shutdown(cx),
            flushed => Poll::Ready(flushed),
        });
        let sent = sent.await;
        match (sent, self.state) {
            (Err(_), _) => Err(UpstreamError::ConnectionTermination),
            (Ok(()), Writing::Broken) => Err(UpstreamError::Protocol("content-length mismatch")),
            (Ok(()), _) => Ok(()),
        }
    }

    /// The request was sent whole.
    pub(crate) fn is_complete(&self) -> bool {
        self.state == Writing::Complete && self.output.is_empty()
    }

    /// Bytes sent since the last call.
    pub(crate) fn take_sent(&mut self) -> u64 {
        self.output.take_sent()
    }

    /// Takes a piece of the body; `flush` sends it. One piece at a time waits without being copied.
    pub(crate) fn take(&mut self, data: Bytes, end: bool) {
        match self.state {
            Writing::Tunnel => {
                self.output.push(data);
                if end {
                    self.state = Writing::TunnelEnd;
                }
            }
            Writing::Body(BodyWriter::Length(left)) => {
                match left.checked_sub(data.len() as u64).filter(|left| !end || *left == 0) {
                    None => self.state = Writing::Broken,
                    Some(left) => {
                        self.output.push(data);
                        self.state = Writing::Body(BodyWriter::Length(left));
                    }
                }
            }
            Writing::Body(BodyWriter::Chunked) => {
                if !data.is_empty() {
                    encode::chunk_line(self.output.buffer(), data.len());
                    self.output.push(data);
                    self.output.buffer().extend_from_slice(b"\r\n");
                }
                if end {
                    encode::last_chunk(self.output.buffer(), None, self.options.encode);
                }
            }
            Writing::Head | Writing::Body(_) | Writing::Complete | Writing::TunnelEnd | Writing::Broken => {}
        }
        if end && matches!(self.state, Writing::Body(_)) {
            self.state = Writing::Complete;
        }
    }
}

impl ResponseReader {
    /// The next head, into a reused one; whether it is interim and whether the response ends with it.
    pub(crate) async fn head(&mut self, head: &mut ResponseHead) -> Result<HeadKind, UpstreamError> {
        let read = poll_fn(|cx| self.poll_head(cx, head)).await;
        self.scan = EndScan::default();
        let meta = read.inspect_err(|_| self.failed = true)?;
        if head.status < 200 && !meta.tunnel {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                self.failed = true;
                return Err(UpstreamError::Protocol(Malformed::Interim.upstream()));
            }
            return Ok(HeadKind::Interim);
        }
        self.decoder =
            BodyDecoder::new(meta.framing, self.options.encode.enable_trailers, self.options.limits);
        self.meta = Some(meta);
        Ok(HeadKind::Final { end: self.decoder.is_end() })
    }

    /// Whether the whole response has been received.
    pub(crate) fn is_end(&self) -> bool {
        self.meta.is_some() && self.decoder.is_end()
    }

    /// The next piece of the body; `Frame::End` or trailers come once, at the end.
    pub(crate) async fn next(&mut self) -> Result<Frame, UpstreamError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether the response left HTTP.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.meta.is_some_and(|meta| meta.tunnel)
    }

    /// Whether the host ended the connection.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received(&mut self) -> u64 {
        self.input.take_received()
    }

    fn reusable(&self) -> bool {
        let keep_alive = self.meta.is_some_and(|meta| meta.keep_alive && !meta.tunnel);
        keep_alive && self.decoder.is_end() && !self.failed && self.input.rest.is_empty()
    }

    /// Nothing has come.
    fn untouched(&self) -> bool {
        self.meta.is_none() && self.interim == 0 && !self.failed && self.input.rest.is_empty()
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<ResponseMeta, UpstreamError>> {
        let (limits, asked) = (self.options.limits, self.asked);
        let protocol = |error: Malformed| UpstreamError::Protocol(error.upstream());
        let mut fresh = !self.input.rest.is_empty() && self.scan == EndScan::default();
        loop {
            if fresh || (!self.input.rest.is_empty() && self.scan.complete(&self.input.rest)) {
                let parsed = head::response(&self.input.rest, head, asked, limits).map_err(protocol)?;
                if let (Parsed::Complete(used), meta) = parsed {
                    self.input.rest.advance(used);
                    return Poll::Ready(Ok(meta));
                }
                self.scan.complete(&self.input.rest);
                fresh = false;
            }
            if self.input.rest.len() > limits.bytes {
                return Poll::Ready(Err(protocol(Malformed::TooLarge)));
            }
            let read = if self.input.rest.is_empty() {
                ready!(self.input.poll_read(cx, |rest, scratch| {
                    let read = scratch.len();
                    let parsed = head::response(scratch, head, asked, limits);
                    if let Ok((Parsed::Complete(used), _)) = &parsed {
                        scratch.advance(*used);
                    }
                    rest.extend_from_slice(scratch);
                    (read, Some(parsed))
                }))
            } else {
                ready!(self.input.poll_fill(cx)).map(|read| (read, None))
            };
            match read {
                // Before the first byte, the upstream has only closed; after it, the response is
                // cut off.
                Ok((0, _)) | Err(_) => {
                    self.gone = true;
                    let begun = !self.input.rest.is_empty();
                    return Poll::Ready(Err(if begun {
                        protocol(Malformed::EarlyEnd)
                    } else {
                        UpstreamError::ConnectionTermination
                    }));
                }
                Ok((_, Some(parsed))) => {
                    if let (Parsed::Complete(_), meta) = parsed.map_err(protocol)? {
                        return Poll::Ready(Ok(meta));
                    }
                }
                Ok((_, None)) => {}
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, UpstreamError>> {
        loop {
            match self.decoder.decode(&mut self.input.rest) {
                Ok(Some(frame)) => return Poll::Ready(Ok(frame)),
                Ok(None) => {}
                Err(error) => {
                    self.failed = true;
                    return Poll::Ready(Err(UpstreamError::Protocol(error.upstream())));
                }
            }
            let read = ready!(self.input.poll_fill(cx));
            if matches!(read, Ok(read) if read > 0) {
                continue;
            }
            self.gone = true;
            let ended = match (read, self.decoder.end_of_input()) {
                // A reset is not the end of a body, however it is framed.
                (Err(_), Ok(_)) => Err(UpstreamError::ConnectionTermination),
                (_, end) => end.map_err(|error| UpstreamError::Protocol(error.upstream())),
            };
            self.failed |= ended.is_err();
            return Poll::Ready(ended);
        }
    }
}
