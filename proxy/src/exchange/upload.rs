//! The request's body on its way upstream, and the bounded copy of it that a retry sends again.

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::mirror::Mirrors;
use super::nothing;
use super::timers::{First, Timers, departure, next_or, unless_left};
use crate::downstream::RequestBody;
use crate::error::{DownstreamError, UpstreamError};
use crate::message::{Fields, Frame};
use crate::time;
use crate::upstream::RequestWriter;

/// Pieces that are shorter together are kept as one: many tiny ones would cost far more than their
/// bytes.
const SHORT_PIECE: usize = 1024;

/// What was read of a request's body so far. Longer pieces share their memory with those sent; past the
/// limit the copy is dropped, and with it the retries.
#[derive(Debug)]
pub(super) struct Replay {
    pieces: Vec<Bytes>,
    trailers: Option<Fields>,
    size: usize,
    limit: usize,
    /// False when nothing is kept: there is no retry policy, or the body was larger than the limit.
    keep: bool,
    /// What is read from now on is copied to them.
    pub mirrors: Mirrors,
}

impl Replay {
    /// A copy of at most `limit` bytes, or none at all.
    pub(super) fn new(keep: bool, limit: usize) -> Self {
        Self { pieces: Vec::new(), trailers: None, size: 0, limit, keep, mirrors: Mirrors::default() }
    }

    /// True when the copy is given up with this piece.
    pub(super) fn push(&mut self, piece: &Bytes) -> bool {
        if self.keep && self.size.saturating_add(piece.len()) <= self.limit {
            self.size += piece.len();
            match self.pieces.last_mut() {
                Some(last) if last.len() + piece.len() <= SHORT_PIECE => join(last, piece),
                _ => self.pieces.push(piece.clone()),
            }
            return false;
        }
        self.pieces = Vec::new();
        std::mem::take(&mut self.keep)
    }

    pub(super) fn set_trailers(&mut self, trailers: &Fields) {
        if self.keep {
            self.trailers = Some(trailers.clone());
        }
    }

    /// What was read so far, as it came; behind it the end, where the request is `whole`.
    pub(super) fn frames(&self, whole: bool) -> impl Iterator<Item = Frame> {
        let pieces = self.pieces.iter().map(|piece| Frame::Data(piece.clone()));
        let trailers = self.trailers.as_ref().map(|trailers| Frame::Trailers(trailers.clone()));
        pieces.chain(whole.then(|| trailers.unwrap_or(Frame::End)))
    }

    /// Nothing of a body was read so far.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }
}

fn join(last: &mut Bytes, piece: &[u8]) {
    let mut joined = std::mem::take(last).try_into_mut().unwrap_or_else(|shared| {
        let mut copy = BytesMut::with_capacity(SHORT_PIECE);
        copy.extend_from_slice(&shared);
        copy
    });
    joined.extend_from_slice(piece);
    *last = joined.freeze();
}

/// What the other side of the exchange may see of the upload.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The whole request has been received and handed on.
    pub sent: Cell<Option<Instant>>,
    /// The whole request has been received.
    pub received: Cell<Option<Instant>>,
    /// The body has just become too large for the copy that a retry would send.
    pub overflowed: Cell<bool>,
}

/// Everything that an upload uses.
pub(super) struct Upload<'u, 'c, 't> {
    pub body: &'u mut RequestBody<'c>,
    pub tx: &'u mut RequestWriter,
    pub replay: &'u mut Replay,
    /// The head was sent as the whole request.
    pub bodyless: bool,
    pub progress: &'u Progress,
    /// Counts what comes of the body.
    pub received: &'u Cell<u64>,
    pub timers: &'u Timers<'t>,
    /// The route's timeout, which begins with the end of the request.
    pub route_timeout: Option<Duration>,
    pub trailer_limits: TrailerLimits,
}

/// The limits of headers, which trailers obey as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrailerLimits {
    pub bytes: usize,
    pub fields: usize,
}

impl TrailerLimits {
    /// The error is Envoy's response code detail.
    pub(super) fn check(self, trailers: &Fields) -> Result<(), &'static str> {
        if trailers.len() > self.fields {
            Err("http2.too_many_headers")
        } else if trailers.byte_size() > self.bytes {
            Err("http2.header_list_size_too_large")
        } else {
            Ok(())
        }
    }
}

/// Why an upload ended before its end.
enum Stopped {
    Client(DownstreamError),
    Upstream,
}

impl From<DownstreamError> for Stopped {
    fn from(error: DownstreamError) -> Self {
        Self::Client(error)
    }
}

impl From<UpstreamError> for Stopped {
    fn from(_error: UpstreamError) -> Self {
        Self::Upstream
    }
}

impl Upload<'_, '_, '_> {
    /// Sends the request, then waits for the client to leave; it returns only then.
    pub(super) async fn run(mut self) -> DownstreamError {
        match self.send_body().await {
            Ok(()) => self.progress.sent.set(Some(time::now())),
            Err(Stopped::Client(error)) => return error,
            // The response, or the attempt to read it, says why the upstream takes no more.
            Err(Stopped::Upstream) => {}
        }
        departure(self.body).await
    }

    async fn send_body(&mut self) -> Result<(), Stopped> {
        if self.bodyless {
            // The head, which was sent with its end, is all there is.
            self.received();
            return Ok(());
        }
        let whole = self.body.is_end();
        let trailers = self.replay.trailers.as_ref().filter(|_| whole);
        for (at, piece) in self.replay.pieces.iter().enumerate() {
            let end = whole && trailers.is_none() && at + 1 == self.replay.pieces.len();
            unless_left(self.body, self.tx.data(piece.clone(), end)).await??;
        }
        if !whole {
            return self.pump().await;
        }
        if let Some(trailers) = trailers {
            unless_left(self.body, self.tx.trailers(trailers)).await??;
        } else if self.replay.pieces.is_empty() {
            unless_left(self.body, self.tx.data(nothing(), true)).await??;
        }
        self.received();
        Ok(())
    }

    async fn pump(&mut self) -> Result<(), Stopped> {
        loop {
            // The buffer is sent while the next piece is awaited.
            let frame = match next_or(self.body, self.tx.flush_waiting()).await {
                First::One(frame) => frame?,
                First::Other(flushed) => {
                    flushed?;
                    continue;
                }
            };
            self.timers.touch();
            match frame {
                Frame::Data(piece) => {
                    self.received.set(self.received.get() + piece.len() as u64);
                    self.replay.mirrors.send(|| Frame::Data(piece.clone()));
                    if self.replay.push(&piece) {
                        self.progress.overflowed.set(true);
                    }
                    let end = self.body.is_end();
                    if end {
                        self.replay.mirrors.send(|| Frame::End);
                        self.received();
                    }
                    unless_left(self.body, self.tx.data(piece, end)).await??;
                    if end {
                        return Ok(());
                    }
                    if !self.replay.mirrors.is_empty() {
                        // So that copies keep up where nothing else waits.
                        unless_left(self.body, tokio::task::yield_now()).await?;
                    }
                }
                Frame::Trailers(trailers) => {
                    self.trailer_limits.check(&trailers).map_err(DownstreamError::TooLarge)?;
                    self.replay.set_trailers(&trailers);
                    self.replay.mirrors.send(|| Frame::Trailers(trailers.clone()));
                    self.received();
                    unless_left(self.body, self.tx.trailers(&trailers)).await??;
                    return Ok(());
                }
                Frame::End => {
                    self.replay.mirrors.send(|| Frame::End);
                    self.received();
                    unless_left(self.body, self.tx.data(nothing(), true)).await??;
                    return Ok(());
                }
            }
        }
    }

    fn received(&self) {
        if self.progress.received.get().is_none() {
            let now = time::now();
            self.progress.received.set(Some(now));
            self.timers.request_complete(now, self.route_timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_pieces_are_kept_as_few() {
        let mut replay = Replay::new(true, 10_000);
        let body: Vec<u8> = (0..10_000_u32).map(|at| at as u8).collect();
        for byte in body.chunks(1) {
            assert!(!replay.push(&Bytes::copy_from_slice(byte)));
        }
        assert_eq!(replay.pieces.concat(), body);
        assert!(replay.pieces.len() <= 10);
    }

    #[test]
    fn past_its_limit_the_copy_is_gone_for_good() {
        let mut replay = Replay::new(true, 4);
        assert!(!replay.push(&Bytes::from_static(b"abc")));
        assert!(replay.push(&Bytes::from_static(b"de")));
        assert!(!replay.push(&Bytes::from_static(b"f")));
        assert!(replay.pieces.is_empty());
    }
}
