//! The sending side of a stream: one piece at a time, as fast as the peer's window and our own buffer limit let it go.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::SendStream;
use http::HeaderMap;

/// What is to be sent behind a head.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    data: Bytes,
    end: bool,
    trailers: Option<HeaderMap>,
    /// The end was given to `h2`.
    done: bool,
}

impl Outgoing {
    pub(super) fn take(&mut self, data: Bytes, end: bool) {
        if self.done || self.end {
            return;
        }
        // A second piece before the first has gone: joined, which callers avoid by waiting.
        self.data = if self.data.is_empty() { data } else { [&self.data[..], &data[..]].concat().into() };
        self.end = end;
    }

    pub(super) fn take_trailers(&mut self, trailers: HeaderMap) {
        self.trailers = Some(trailers);
    }

    /// Nothing may follow.
    pub(super) fn finish(&mut self) {
        self.done = true;
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.done && (!self.data.is_empty() || self.end || self.trailers.is_some())
    }

    /// Gives everything to the stream, waiting for capacity.
    pub(super) fn poll_send(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        while !self.data.is_empty() {
            stream.reserve_capacity(self.data.len());
            let room = match ready!(stream.poll_capacity(cx)) {
                Some(room) => room?.min(self.data.len()),
                // The stream was closed under us.
                None => return Poll::Ready(Err(h2::Reason::STREAM_CLOSED.into())),
            };
            if room == 0 {
                continue;
            }
            let piece = self.data.split_to(room);
            let last = self.end && !self.data.has_remaining() && self.trailers.is_none();
            stream.send_data(piece, last)?;
            self.done |= last;
        }
        if let Some(trailers) = self.trailers.take() {
            stream.send_trailers(trailers)?;
            self.done = true;
        } else if self.end && !self.done {
            stream.send_data(Bytes::new(), true)?;
            self.done = true;
        }
        Poll::Ready(Ok(()))
    }
}
