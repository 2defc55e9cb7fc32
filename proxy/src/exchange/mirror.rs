//! Copies of requests to other clusters (`request_mirror_policies`).
//!
//! Why: a new version of a service is tried with real requests. A copy never changes what the client
//! sees: it is a task of its own, its response is dropped, and its failure is counted alone. Bounded:
//! by the breakers of its cluster, by the timeouts of the request, and by what waits for a slow
//! cluster, at most the bytes that are kept for a retry and, of what comes after its beginning,
//! `MOST_PIECES`. A copy that would need more is given up, as is one whose request did not come
//! whole. An early response ends a copy, as it ends the request of a client.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempt::{Attempt, Failure, HostResult, replay_limit, upstream_version};
use super::record::{charge, charge_host, count_failure};
use super::timers::{Expiry, First, Interrupt, Limits, Timers, first, noticed_elsewhere, timer};
use super::upload::Replay;
use super::{Exchange, nothing};
use crate::cluster::balancer::Wanted;
use crate::error::{DownstreamError, UpstreamError};
use crate::local::Local;
use crate::message::{Frame, HeadKind, Known, RequestHead, ResponseHead};
use crate::route::{Forward, Priority};
use crate::time;
use crate::upstream::{LocalCluster, RequestWriter, UpstreamStream};

/// Pieces of a request that wait for the cluster of a copy.
const MOST_PIECES: usize = 64;

/// Where the pieces of a request are copied to.
#[derive(Debug, Default)]
pub(super) struct Mirrors(Vec<Feed>);

/// The way to one copy. Dropped before the end of the request, it ends the copy.
struct Feed {
    frames: mpsc::Sender<Frame>,
    /// Bytes that wait.
    waiting: Rc<Cell<usize>>,
    limit: usize,
    /// Too much waited: the copy is given up.
    broken: Cell<bool>,
    cluster: Rc<LocalCluster>,
}

/// One copy.
struct Shadow {
    local: Rc<Local>,
    cluster: Rc<LocalCluster>,
    head: RequestHead,
    /// What had come of the request when the copy began.
    begun: Vec<Frame>,
    /// What comes after that.
    frames: mpsc::Receiver<Frame>,
    waiting: Rc<Cell<usize>>,
    /// The request has no body.
    bodyless: bool,
    timeout: Option<Duration>,
    idle: Option<Duration>,
}

impl Exchange<'_> {
    /// Begins the copies of the request that its route asks for. `replay` is what was read of its body,
    /// all of it where `whole`.
    pub(super) fn mirror(&self, forward: &Forward, limits: &Limits, replay: &Replay, whole: bool) -> Mirrors {
        let mut mirrors = Mirrors::default();
        if forward.mirrors.is_empty() || self.request.tunnel {
            return mirrors;
        }
        let context = self.record.context;
        let limit = replay_limit(context.listener.buffer_limit, forward);
        for mirror in &forward.mirrors {
            let random = context.local.random_bits()[0];
            let Some((name, by_header)) = mirror.cluster(&self.request.head, random) else { continue };
            let found = context.local.clusters.get(name);
            let usable = |cluster: &Rc<LocalCluster>| !by_header || cluster.policy.selectable_by_header;
            let Some(cluster) = found.filter(usable) else { continue };
            let begun: Vec<Frame> = replay.frames(whole).collect();
            let waiting: usize = begun.iter().map(size).sum();
            if waiting > limit {
                cluster.stats().retry_or_shadow_abandoned.inc();
                continue;
            }
            let mut head = self.request.head.clone();
            head.authority = mirror.host(&head.authority);
            if self.request.matched.is_some_and(|matched| matched.virtual_host.include_request_attempt_count)
            {
                head.fields.set(Known::XEnvoyAttemptCount, 1_u32);
            }
            head.fields.set(Known::XEnvoyInternal, b"true");
            head.fields.append(Known::XForwardedFor, ",", format_args!("{}", context.info.local.ip()));
            let (frames, received) = mpsc::channel(MOST_PIECES);
            let waiting = Rc::new(Cell::new(waiting));
            let shadow = Shadow {
                local: Rc::clone(&context.local),
                cluster: Rc::clone(&cluster),
                head,
                begun,
                frames: received,
                waiting: Rc::clone(&waiting),
                bodyless: whole && replay.is_empty(),
                timeout: limits.timeout,
                idle: forward.idle_timeout.or(context.manager.timeouts.stream_idle),
            };
            tokio::task::spawn_local(shadow.go());
            if !whole {
                mirrors.0.push(Feed { frames, waiting, limit, broken: Cell::new(false), cluster });
            }
        }
        mirrors
    }
}

impl Mirrors {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies a piece of the request; it never waits.
    pub(super) fn send(&self, frame: impl Fn() -> Frame) {
        for feed in &self.0 {
            feed.send(frame());
        }
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Feed {
    fn send(&self, frame: Frame) {
        if self.broken.get() {
            return;
        }
        let waiting = self.waiting.get().saturating_add(size(&frame));
        match self.frames.try_send(frame) {
            Ok(()) if waiting <= self.limit => self.waiting.set(waiting),
            // It has ended already.
            Err(mpsc::error::TrySendError::Closed(_)) => self.broken.set(true),
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {
                self.broken.set(true);
                self.cluster.stats().retry_or_shadow_abandoned.inc();
            }
        }
    }
}

fn size(frame: &Frame) -> usize {
    if let Frame::Data(piece) = frame { piece.len() } else { 0 }
}

impl Shadow {
    /// Sends the copy, and counts what came of it.
    async fn go(mut self) {
        let start = time::now();
        let timer = pin!(timer(start));
        let timers = Timers::new(timer, start, None);
        timers.limit(self.idle, None, None);
        if self.bodyless {
            timers.request_complete(start, self.timeout);
        }
        let cluster = Rc::clone(&self.cluster);
        let stats = cluster.stats();
        match self.exchange(&timers).await {
            Ok(status) => charge_host(stats, status, true, time::millis(start.elapsed())),
            Err(Failure::NoHost) => {
                stats.upstream_cx_none_healthy.inc();
                charge(stats, 503, true);
            }
            Err(Failure::Expired(expiry)) => {
                if expiry == Expiry::Route {
                    stats.upstream_rq_timeout.inc();
                }
                charge(stats, 504, true);
            }
            Err(Failure::Upstream(_)) => charge(stats, 503, true),
            Err(Failure::Client(_) | Failure::Response(_)) => {}
        }
    }

    async fn exchange(&mut self, timers: &Timers<'_>) -> Result<u16, Failure> {
        let attempt = Attempt::of(&self.local, &self.cluster, Priority::Default, Wanted::default());
        let mut attempt = attempt.ok_or(Failure::NoHost)?;
        let version = upstream_version(&self.cluster, &self.head);
        if self.head.check(version).is_err() {
            return Err(Failure::Upstream(UpstreamError::Unsendable));
        }
        let opened = {
            let opening = pin!(attempt.host.stream(&self.cluster, version, Priority::Default, &self.head));
            match timers.race(noticed_elsewhere(), opening).await {
                Ok(opened) => opened.map_err(Failure::Upstream),
                Err(interrupt) => Err(interrupt.into()),
            }
        };
        let mut stream = opened.map_err(|failure| attempt.not_opened(&self.local, failure))?;
        if let Err(error) = attempt.begin() {
            stream.finish();
            return Err(attempt.not_opened(&self.local, Failure::Upstream(error)));
        }
        let mut response = ResponseHead::default();
        let result = self.converse(timers, &mut stream, &mut response).await;
        stream.end(self.cluster.stats());
        match &result {
            Ok(sent) => {
                attempt.report_response(&self.local, &self.head, &response);
                attempt.count_result(HostResult::Status(response.status));
                if *sent {
                    stream.finish();
                }
            }
            Err(failure) => {
                attempt.count_result(HostResult::of(failure));
                attempt.report_failure(&self.local, failure, true);
                if matches!(failure, Failure::Upstream(UpstreamError::ConnectionTermination)) {
                    stream.lost();
                }
                count_failure(self.cluster.stats(), failure);
            }
        }
        result.map(|_| response.status)
    }

    /// Request out, response in, both at once. True when the connection may carry another request.
    async fn converse(
        &mut self,
        timers: &Timers<'_>,
        stream: &mut UpstreamStream,
        response: &mut ResponseHead,
    ) -> Result<bool, Failure> {
        let UpstreamStream { tx, rx, .. } = stream;
        let head = timers.race(noticed_elsewhere(), tx.head(&self.head, self.bodyless)).await?;
        head.map_err(Failure::Upstream)?;
        let sent = Cell::new(self.bodyless);
        let mut upload = pin!(self.upload(timers, tx, &sent));
        let mut end = loop {
            let read = timers.race(upload.as_mut(), rx.head(response)).await?;
            timers.touch();
            match read.map_err(Failure::Upstream)? {
                HeadKind::Final { end } => break end,
                HeadKind::Interim => {}
            }
        };
        while !end {
            let read = timers.race(upload.as_mut(), rx.next()).await?;
            timers.touch();
            end = !matches!(read.map_err(Failure::Upstream)?, Frame::Data(_)) || rx.is_end();
        }
        Ok(sent.get())
    }

    /// Sends the request. Ends only when the request was given up or a timeout ran out.
    async fn upload(&mut self, timers: &Timers<'_>, tx: &mut RequestWriter, sent: &Cell<bool>) -> Interrupt {
        match self.send_frames(timers, tx).await {
            Ok(Ok(())) => sent.set(true),
            // The response, or the attempt to read it, says why the host takes no more.
            Ok(Err(_)) => {}
            Err(interrupt) => return interrupt,
        }
        Interrupt::Expired(timers.expired().await)
    }

    async fn send_frames(
        &mut self,
        timers: &Timers<'_>,
        tx: &mut RequestWriter,
    ) -> Result<Result<(), UpstreamError>, Interrupt> {
        if self.bodyless {
            return Ok(Ok(()));
        }
        let mut begun = std::mem::take(&mut self.begun).into_iter();
        loop {
            let frame = match begun.next() {
                Some(frame) => frame,
                None => {
                    // The buffer is sent while the next piece is awaited.
                    let next = first(self.frames.recv(), tx.flush_waiting());
                    match timers.race(noticed_elsewhere(), next).await? {
                        First::One(Some(frame)) => frame,
                        // The request was given up.
                        First::One(None) => return Err(Interrupt::Client(DownstreamError::Disconnected)),
                        First::Other(Ok(())) => continue,
                        First::Other(Err(error)) => return Ok(Err(error)),
                    }
                }
            };
            timers.touch();
            self.waiting.set(self.waiting.get().saturating_sub(size(&frame)));
            let whole = !matches!(frame, Frame::Data(_));
            if whole {
                timers.request_complete(time::now(), self.timeout);
            }
            let sent = match frame {
                Frame::Data(piece) => timers.race(noticed_elsewhere(), tx.data(piece, false)).await?,
                Frame::Trailers(trailers) => timers.race(noticed_elsewhere(), tx.trailers(&trailers)).await?,
                Frame::End => timers.race(noticed_elsewhere(), tx.data(nothing(), true)).await?,
            };
            if whole || sent.is_err() {
                return Ok(sent);
            }
        }
    }
}
