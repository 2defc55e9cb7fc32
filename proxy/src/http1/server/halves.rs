//! The two halves of one exchange on an HTTP/1 connection: the request's body coming in, the answer going out.
//!
//! Every verb may be dropped while it waits and called again.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::super::body::{BodyDecoder, Framing};
use super::super::buffers::{Input, Output};
use super::super::encode::{self, Answering, BodyWriter};
use super::super::{EncodeOptions, Malformed};
use super::{Progress, Shared};
use crate::error::DownstreamError;
use crate::message::{Fields, Frame, Known, ResponseHead};

/// Where the request's body comes from.
#[derive(Debug)]
pub struct RequestBody<'c> {
    pub(super) input: &'c mut Input,
    pub(super) decoder: &'c mut BodyDecoder,
    pub(super) shared: &'c Shared,
}

/// Where the answer goes.
#[derive(Debug)]
pub struct ResponseWriter<'c> {
    pub(super) output: &'c mut Output,
    pub(super) shared: &'c Shared,
    pub(super) encode: EncodeOptions,
    pub(super) body: BodyWriter,
}

/// What is read of a client before it is wanted; beyond that, the client has to wait.
const MAX_AHEAD: usize = 16 * 1024;

impl RequestBody<'_> {
    /// Whether the whole request has been received (true at once for one without a body).
    pub fn is_end(&self) -> bool {
        self.decoder.is_end()
    }

    /// The next piece; `Frame::End` or trailers come once, at the end.
    pub async fn next(&mut self) -> Result<Frame, DownstreamError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The upgrade was accepted: from here on everything received is data, until the client ends its side.
    pub fn tunnel(&mut self) {
        *self.decoder = BodyDecoder::new(Framing::UntilClose, false);
        self.shared.request_done.set(false);
        self.shared.close.set(true);
    }

    /// Waits until the client leaves; a half-close counts as that, as in Envoy. Also before the end of
    /// the request: what is read meanwhile is kept for `next`.
    pub async fn closed(&mut self) -> DownstreamError {
        poll_fn(|cx| self.poll_read_ahead(cx)).await;
        if !self.shared.gone.get() {
            self.input.peer_closed().await;
            self.shared.gone.set(true);
        }
        DownstreamError::Disconnected
    }

    /// Reads ahead until the client has left or enough lies here; the rest then waits in the socket.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.rest.len() < MAX_AHEAD {
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
    pub async fn interim(&mut self, head: &ResponseHead) -> Result<(), DownstreamError> {
        // HTTP/1.0 has none (RFC 9110, 15.2).
        if !self.shared.http10.get() {
            let answering = Answering::default();
            encode::response_head(self.output.buffer(), head, true, answering, self.encode);
        }
        self.flush().await
    }

    /// The connection ends with this answer, which says so when its head is still to come. True when that is new.
    pub fn close_after(&mut self) -> bool {
        !self.shared.close.replace(true)
    }

    /// The head of the answer; with `end` it is whole and sent. Without, it waits for the first data or a `flush`.
    pub async fn head(&mut self, head: &ResponseHead, end: bool) -> Result<(), DownstreamError> {
        if self.shared.response.get() == Progress::NotBegun {
            self.begin(head, end);
        }
        if end { self.flush().await } else { Ok(()) }
    }

    /// Trailers, which end the answer.
    pub async fn trailers(&mut self, trailers: &Fields) -> Result<(), DownstreamError> {
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
    pub fn needs_flush(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), DownstreamError> {
        poll_fn(|cx| self.output.poll_flush(cx)).await.map_err(|_| {
            self.shared.close.set(true);
            self.shared.gone.set(true);
            DownstreamError::Disconnected
        })
    }

    /// Gives up on the answer: the connection will be closed in the middle of it.
    pub fn reset(&mut self) {
        self.shared.close.set(true);
        self.body = BodyWriter::Done;
    }

    fn begin(&mut self, head: &ResponseHead, end: bool) {
        let shared = self.shared;
        // An answer to a request that is not whole ends the connection, rather than wait for bytes that nobody wants.
        // So does the refusal of an upgrade: bytes behind the request may be the other protocol's.
        let tunnel = head.status == 101 || (shared.connect.get() && (200..300).contains(&head.status));
        let asked_for_tunnel = shared.upgrade.get() || shared.connect.get();
        let unfinished = !tunnel && (!shared.request_done.get() || asked_for_tunnel);
        let asked = encode::has_token(&head.fields, Known::Connection, b"close");
        shared.close.set(shared.close.get() || unfinished || asked);
        let answering = Answering {
            head: shared.head.get(),
            connect: shared.connect.get(),
            http10: shared.http10.get(),
            close: shared.close.get(),
        };
        self.body = encode::response_head(self.output.buffer(), head, end, answering, self.encode);
        shared.response.set(Progress::Begun);
        if self.body == BodyWriter::UntilClose {
            shared.close.set(true);
        }
        if end {
            self.finish();
        }
    }

    /// Takes a piece of the body; `flush` sends it. One piece at a time waits without being copied.
    ///
    /// More or less than the announced length is a broken answer: the connection is closed in the middle of it.
    pub fn take(&mut self, data: Bytes, end: bool) -> Result<(), DownstreamError> {
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
