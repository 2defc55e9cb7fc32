//! The request's way upstream after its head: the body as it comes, and then the watch for a client that leaves.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::replay::Replay;
use super::timers::Timers;
use crate::downstream::RequestBody;
use crate::error::{DownstreamError, UpstreamError};
use crate::message::Frame;
use crate::time;
use crate::upstream::RequestWriter;

/// Why the request's side of a try ended. It never ends well: when all is sent, it waits for the client to leave.
#[derive(Debug)]
pub enum Ended {
    Client(DownstreamError),
    /// The upstream takes no more of the request. Its answer, or the reading of it, tells why.
    Upstream,
}

fn upstream(_reading_tells: UpstreamError) -> Ended {
    Ended::Upstream
}

/// What the other side of the exchange may see of the upload.
#[derive(Debug, Default)]
pub struct Progress {
    /// The whole request has been received and handed on.
    pub sent: Cell<Option<Instant>>,
    /// The whole request has been received.
    pub received: Cell<Option<Instant>>,
    pub bytes: Cell<u64>,
    /// The body has just become too large for the copy that a retry would send.
    pub overflowed: Cell<bool>,
}

/// Everything that an upload uses.
pub struct Upload<'u, 'c> {
    pub body: &'u mut RequestBody<'c>,
    pub tx: &'u mut RequestWriter,
    pub replay: &'u mut Replay,
    pub progress: &'u Progress,
    pub timers: &'u Timers,
    /// The route's timeout, which begins with the end of the request.
    pub route_timeout: Option<Duration>,
}

impl Upload<'_, '_> {
    /// Sends the request; then waits for the client to leave.
    pub async fn run(mut self) -> Ended {
        match self.send().await {
            Err(ended) => return ended,
            Ok(()) => self.progress.sent.set(Some(time::now())),
        }
        Ended::Client(self.body.closed().await)
    }

    async fn send(&mut self) -> Result<(), Ended> {
        if self.is_bodyless() {
            self.received();
            return Ok(());
        }
        for piece in self.replay.pieces() {
            self.tx.data(piece.clone(), false).await.map_err(upstream)?;
        }
        if self.body.is_end() {
            self.received();
            return match self.replay.trailers() {
                Some(trailers) => self.tx.trailers(trailers).await,
                None => self.tx.data(super::nothing(), true).await,
            }
            .map_err(upstream);
        }
        self.pump().await
    }

    /// Whether the head, which was sent with its end, is all there is.
    fn is_bodyless(&self) -> bool {
        self.body.is_end() && self.replay.is_empty()
    }

    async fn pump(&mut self) -> Result<(), Ended> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.body.next() => frame.map_err(Ended::Client)?,
                flushed = self.tx.flush(), if self.tx.needs_flush() => {
                    flushed.map_err(upstream)?;
                    continue;
                }
            };
            self.timers.touch();
            match frame {
                Frame::Data(piece) => {
                    self.progress.bytes.set(self.progress.bytes.get() + piece.len() as u64);
                    if self.replay.push(&piece) {
                        self.progress.overflowed.set(true);
                    }
                    let end = self.body.is_end();
                    if end {
                        self.received();
                    }
                    self.tx.data(piece, end).await.map_err(upstream)?;
                    if end {
                        return Ok(());
                    }
                }
                Frame::Trailers(trailers) => {
                    self.replay.set_trailers(&trailers);
                    self.received();
                    return self.tx.trailers(&trailers).await.map_err(upstream);
                }
                Frame::End => {
                    self.received();
                    return self.tx.data(super::nothing(), true).await.map_err(upstream);
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
