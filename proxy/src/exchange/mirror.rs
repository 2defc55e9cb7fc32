//! Copies of requests to other clusters (`request_mirror_policies`).
//!
//! Why: a new version of a service is tried with real requests. A copy never changes what the client
//! sees: it is a task of its own, its response is dropped, and its failure is counted alone. Bounded:
//! by the breakers of its cluster, by the timeouts of the request, and by what waits for a slow
//! cluster, at most `MOST_PIECES` and the bytes that are kept for a retry. A copy that would need
//! more is given up, as is one whose request did not come whole.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempt::{Attempt, Failure, HostResult, replay_limit, upstream_version};
use super::record::{charge, charge_host, count_failure};
use super::timers::{Expiry, Limits, Timers, noticed_elsewhere, timer};
use super::upload::Replay;
use super::{Exchange, nothing};
use crate::cluster::balancer::Wanted;
use crate::error::{DownstreamError, UpstreamError};
use crate::local::Local;
use crate::message::{Frame, HeadKind, Known, RequestHead, ResponseHead};
use crate::route::{Forward, Priority};
use crate::time;
use crate::upstream::{LocalCluster, UpstreamStream};

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
        for mirror in &forward.mirrors {
            let random = context.local.random_bits()[0];
            let Some((name, by_header)) = mirror.cluster(&self.request.head, random) else { continue };
            let found = context.local.clusters.get(name);
            let usable = |cluster: &Rc<LocalCluster>| !by_header || cluster.policy.selectable_by_header;
            let Some(cluster) = found.filter(usable) else { continue };
            let mut head = self.request.head.clone();
            head.authority = mirror.host(&head.authority);
            if self.request.matched.is_some_and(|matched| matched.virtual_host.include_request_attempt_count)
            {
                head.fields.set(Known::XEnvoyAttemptCount, 1_u32);
            }
            head.fields.set(Known::XEnvoyInternal, b"true");
            head.fields.append(Known::XForwardedFor, ",", format_args!("{}", context.info.local.ip()));
            let (frames, received) = mpsc::channel(MOST_PIECES);
            let waiting = Rc::new(Cell::new(0));
            let shadow = Shadow {
                local: Rc::clone(&context.local),
                cluster: Rc::clone(&cluster),
                head,
                frames: received,
                waiting: Rc::clone(&waiting),
                bodyless: whole && replay.is_empty(),
                timeout: limits.timeout,
                idle: forward.idle_timeout.or(context.manager.timeouts.stream_idle),
            };
            tokio::task::spawn_local(shadow.go());
            let limit = replay_limit(context.listener.buffer_limit, forward);
            mirrors.0.push(Feed { frames, waiting, limit, broken: Cell::new(false), cluster });
        }
        for feed in &mirrors.0 {
            replay.frames(whole).for_each(|frame| feed.send(frame));
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
        let size = if let Frame::Data(piece) = &frame { piece.len() } else { 0 };
        let waiting = self.waiting.get().saturating_add(size);
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
            Ok(()) => {
                attempt.report_response(&self.local, &self.head, &response);
                attempt.count_result(HostResult::Status(response.status));
                stream.finish();
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
        result.map(|()| response.status)
    }

    /// The whole request out, then the whole response in.
    async fn converse(
        &mut self,
        timers: &Timers<'_>,
        stream: &mut UpstreamStream,
        response: &mut ResponseHead,
    ) -> Result<(), Failure> {
        let UpstreamStream { tx, rx, .. } = stream;
        let sent = timers.race(noticed_elsewhere(), tx.head(&self.head, self.bodyless)).await?;
        sent.map_err(Failure::Upstream)?;
        let mut whole = self.bodyless;
        while !whole {
            let frame = timers.race(noticed_elsewhere(), self.frames.recv()).await?;
            timers.touch();
            let sent = match frame {
                Some(Frame::Data(piece)) => {
                    self.waiting.set(self.waiting.get().saturating_sub(piece.len()));
                    timers.race(noticed_elsewhere(), tx.data(piece, false)).await?
                }
                Some(Frame::Trailers(trailers)) => {
                    whole = true;
                    timers.race(noticed_elsewhere(), tx.trailers(&trailers)).await?
                }
                Some(Frame::End) => {
                    whole = true;
                    timers.race(noticed_elsewhere(), tx.data(nothing(), true)).await?
                }
                // The request was given up.
                None => return Err(Failure::Client(DownstreamError::Disconnected)),
            };
            sent.map_err(Failure::Upstream)?;
        }
        timers.request_complete(time::now(), self.timeout);
        timers.race(noticed_elsewhere(), tx.flush()).await?.map_err(Failure::Upstream)?;
        loop {
            let read = timers.race(noticed_elsewhere(), rx.head(response)).await?;
            match read.map_err(Failure::Upstream)? {
                HeadKind::Final { end: true } => return Ok(()),
                HeadKind::Final { end: false } => break,
                HeadKind::Interim => {}
            }
        }
        while !rx.is_end() {
            let read = timers.race(noticed_elsewhere(), rx.next()).await?;
            timers.touch();
            match read.map_err(Failure::Upstream)? {
                Frame::Data(_) => {}
                Frame::Trailers(_) | Frame::End => break,
            }
        }
        Ok(())
    }
}
