//! The server side of HTTP/2: accepted streams as request bodies and response writers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::net::TcpStream;

use super::convert;
use super::sender::Outgoing;
use super::{Counts, Io, Options, Side};
use crate::error::DownstreamError;
use crate::message::{Fields, Frame, RequestHead, ResponseHead};

/// A client's connection.
pub(crate) struct ServerConnection {
    inner: h2::server::Connection<Io, Bytes>,
    counts: Counts,
    max_head_bytes: usize,
    max_fields: usize,
}

/// What `accept` found.
pub(crate) enum Accepted {
    /// Its head is in the one that was given.
    Request(RequestBody, ResponseWriter),
    /// A head over the limits; its stream was reset.
    TooLarge,
    /// A head that breaks a rule of HTTP; its stream was reset.
    Malformed,
    /// The connection is over; whether by a breach of protocol.
    Closed { protocol_error: bool },
}

/// Where the request's body comes from.
pub(crate) struct RequestBody {
    stream: RecvStream,
    counts: Counts,
    sending: Rc<RefCell<Sending>>,
    done: bool,
}

/// Where the response goes.
pub(crate) struct ResponseWriter {
    sending: Rc<RefCell<Sending>>,
    outgoing: Outgoing,
    extended_connect: bool,
}

/// The sending side, shared because a client's reset of a whole request is only seen there.
enum Sending {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

impl Sending {
    fn reset(&mut self, reason: Reason) {
        match self {
            Self::Head(respond) => respond.send_reset(reason),
            Self::Body(stream) => stream.send_reset(reason),
        }
    }
}

impl ServerConnection {
    /// `front` are bytes that were read from the socket already, the preface among them.
    pub(crate) async fn handshake(
        stream: TcpStream,
        front: Bytes,
        options: &Options,
    ) -> Result<Self, DownstreamError> {
        let io = Io::new(stream, front, Side::Server);
        let counts = io.counts.clone();
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(options.max_concurrent_streams)
            .initial_window_size(options.initial_stream_window)
            .initial_connection_window_size(options.initial_connection_window)
            .header_table_size(options.header_table_size)
            .max_header_list_size(options.decode_limit())
            .max_send_buffer_size(options.send_buffer);
        if options.allow_connect {
            builder.enable_connect_protocol();
        }
        let inner = builder.handshake(io).await.map_err(|error| downstream(&error))?;
        let Options { max_head_bytes, max_fields, .. } = *options;
        Ok(Self { inner, counts, max_head_bytes, max_fields })
    }

    /// Bytes received and sent, shared: it outlives the connection.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Drives the connection until the next request, whose head goes into a reused one. May be dropped while it waits.
    pub(crate) async fn accept(&mut self, head: &mut RequestHead) -> Accepted {
        let (request, mut respond) = match poll_fn(|cx| self.inner.poll_accept(cx)).await {
            None => return Accepted::Closed { protocol_error: false },
            Some(Err(error)) => {
                let protocol_error = !error.is_io() && !error.is_remote();
                return Accepted::Closed { protocol_error };
            }
            Some(Ok(accepted)) => accepted,
        };
        let (bytes, fields) = convert::measure(request.headers());
        let target = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
        if bytes + target > self.max_head_bytes || fields > self.max_fields {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Accepted::TooLarge;
        }
        let Ok(extended_connect) = convert::request_in(&request, head) else {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return Accepted::Malformed;
        };
        let sending = Rc::new(RefCell::new(Sending::Head(respond)));
        let counts = self.counts();
        let body = RequestBody { stream: request.into_body(), counts, sending: sending.clone(), done: false };
        let writer = ResponseWriter { sending, outgoing: Outgoing::default(), extended_connect };
        Accepted::Request(body, writer)
    }

    /// Announces the end (GOAWAY): accepted streams are finished, then `accept` says closed.
    pub(crate) fn graceful_shutdown(&mut self) {
        self.inner.graceful_shutdown();
    }

    /// Ends the connection at once.
    pub(crate) fn abort(&mut self) {
        self.inner.abrupt_shutdown(Reason::NO_ERROR);
    }
}

impl RequestBody {
    /// Whether the whole request has been received.
    pub(crate) fn is_end(&self) -> bool {
        self.done || self.stream.is_end_stream()
    }

    /// The next piece; taking it opens the window for more.
    pub(crate) async fn next(&mut self) -> Result<Frame, DownstreamError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits until the client resets the stream or the connection ends; also while the body is unread.
    pub(crate) async fn closed(&mut self) -> DownstreamError {
        poll_fn(|cx| {
            let mut sending = self.sending.borrow_mut();
            let reset = match &mut *sending {
                Sending::Head(respond) => respond.poll_reset(cx),
                Sending::Body(stream) => stream.poll_reset(cx),
            };
            reset.map(|reason| match reason {
                Ok(_) => DownstreamError::Reset,
                Err(error) => downstream(&error),
            })
        })
        .await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, DownstreamError>> {
        if self.done {
            return Poll::Ready(Ok(Frame::End));
        }
        match self.stream.poll_data(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(data))) => {
                // Only fails for a stream that has ended, where the window no longer matters.
                let _ = self.stream.flow_control().release_capacity(data.len());
                return Poll::Ready(Ok(Frame::Data(data)));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(downstream(&error))),
            Poll::Ready(None) => {}
        }
        self.stream.poll_trailers(cx).map(|trailers| {
            self.done = true;
            match trailers {
                Ok(None) => Ok(Frame::End),
                Ok(Some(map)) => {
                    let trailers = self.counts.trailers(self.stream.stream_id().into(), &map);
                    let Ok(trailers) = trailers else {
                        self.sending.borrow_mut().reset(Reason::PROTOCOL_ERROR);
                        return Err(DownstreamError::Protocol("http2.invalid.header.field"));
                    };
                    Ok(trailers.map_or(Frame::End, Frame::Trailers))
                }
                Err(error) => Err(downstream(&error)),
            }
        })
    }
}

impl ResponseWriter {
    /// Sends an interim (1xx) head.
    pub(crate) fn interim(&mut self, head: &ResponseHead) -> Result<(), DownstreamError> {
        let Some(response) = convert::response_out(head, false) else { return Ok(()) };
        match &mut *self.sending.borrow_mut() {
            Sending::Head(respond) => {
                respond.send_informational(response).map_err(|error| downstream(&error))
            }
            Sending::Body(_) => Ok(()),
        }
    }

    /// The head of the response; with `end`, the response is whole.
    pub(crate) fn head(&mut self, head: &ResponseHead, end: bool) -> Result<(), DownstreamError> {
        let mut sending = self.sending.borrow_mut();
        let Sending::Head(respond) = &mut *sending else { return Ok(()) };
        let Some(response) = convert::response_out(head, self.extended_connect) else {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Err(DownstreamError::Protocol("http2.invalid_response_head"));
        };
        let stream = respond.send_response(response, end).map_err(|error| downstream(&error))?;
        *sending = Sending::Body(stream);
        if end {
            self.outgoing.finish();
        }
        Ok(())
    }

    /// Takes a piece of the body; `flush` sends it.
    pub(crate) fn take(&mut self, data: Bytes, end: bool) {
        self.outgoing.take(data, end);
    }

    /// Trailers, which end the response.
    pub(crate) async fn trailers(&mut self, trailers: &Fields) -> Result<(), DownstreamError> {
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

    /// Sends what waits, as the client's window opens.
    pub(crate) async fn flush(&mut self) -> Result<(), DownstreamError> {
        let Self { sending, outgoing, .. } = self;
        poll_fn(|cx| match &mut *sending.borrow_mut() {
            Sending::Head(_) => Poll::Ready(Ok(())),
            Sending::Body(stream) => {
                outgoing.poll_send(stream, cx).map_err(|error| match stream.poll_reset(cx) {
                    // A failed write does not say why the stream has ended.
                    Poll::Ready(Ok(_reason)) => DownstreamError::Reset,
                    Poll::Ready(Err(why)) => downstream(&why),
                    Poll::Pending => downstream(&error),
                })
            }
        })
        .await
    }

    /// Gives up on the response: resets the stream.
    pub(crate) fn reset(&mut self) {
        self.reset_with(Reason::INTERNAL_ERROR);
    }

    /// The connection behind a CONNECT failed (RFC 9113, 8.5).
    pub(crate) fn reset_connect(&mut self) {
        self.reset_with(Reason::CONNECT_ERROR);
    }

    /// Nothing was done for the stream: the client may send its request elsewhere.
    pub(crate) fn refuse(&mut self) {
        self.reset_with(Reason::REFUSED_STREAM);
    }

    fn reset_with(&mut self, reason: Reason) {
        if !self.outgoing.is_done() {
            self.sending.borrow_mut().reset(reason);
        }
        self.outgoing.finish();
    }
}

fn malformed() -> DownstreamError {
    DownstreamError::Protocol("http2.violation.of.messaging.rule")
}

fn downstream(error: &h2::Error) -> DownstreamError {
    if error.is_reset() && error.is_remote() {
        DownstreamError::Reset
    } else if error.is_library() {
        malformed()
    } else {
        DownstreamError::Disconnected
    }
}
