//! The part of an exchange with an upstream in it: tries until one answers.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Sleep;

use super::limits::Limits;
use super::replay::Replay;
use super::timers::Expiry;
use super::upload::{Ended, Progress, Upload};
use super::{Exchange, Matched};
use crate::attempt::{Attempt, Report};
use crate::cluster::outlier::Seen;
use crate::downstream::{Downstream, ResponseWriter};
use crate::error::{DownstreamError, UpstreamError};
use crate::local_reply::LocalReply;
use crate::message::HeadKind;
use crate::retry::Retries;
use crate::route::Forward;
use crate::time;
use crate::upstream::{LocalCluster, ResponseReader, UpstreamStream};

/// Why a try gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The cluster has no host to use.
    NoHost,
    Upstream(UpstreamError),
    Expired(Expiry),
    Client(DownstreamError),
    /// The answer is to be tried again after, when so much time has passed.
    Answer(Duration),
}

/// What the tries of one exchange have in common.
pub(super) struct Tries<'x> {
    pub cluster: Rc<LocalCluster>,
    pub forward: &'x Forward,
    pub limits: Limits,
    /// None when nothing is to be tried again, or the request cannot be sent again.
    pub retries: Option<Retries>,
    /// Hosts tried, by id.
    pub tried: smallvec::SmallVec<[u64; 4]>,
    pub count: u32,
    /// Something of the request may have reached an upstream.
    pub sent: bool,
    /// Held from the decision to retry until the retry has an answer.
    pub retry_permit: Option<crate::cluster::breaker::Permit>,
}

/// The request's side of a try, which runs beside the wait for the answer.
pub(super) struct RequestSide<'u, F> {
    pub upload: Pin<&'u mut F>,
    /// The upstream took no more of the request; its answer may still come.
    pub refused: bool,
}

impl<F: Future<Output = Ended>> RequestSide<'_, F> {
    /// Goes on with the upload; returns only when the client left.
    pub async fn client_left(&mut self) -> DownstreamError {
        if !self.refused {
            match self.upload.as_mut().await {
                Ended::Client(error) => return error,
                Ended::Upstream => self.refused = true,
            }
        }
        std::future::pending().await
    }
}

impl<'x> Exchange<'x> {
    /// Carries the request to its cluster and the answer back; the error is an answer to be made here.
    pub(super) async fn forward(
        &mut self,
        down: &mut Downstream<'_>,
        matched: Matched<'x>,
        forward: &'x Forward,
    ) -> Result<(), LocalReply> {
        let cluster = self.cluster(matched, forward)?;
        let retries = Retries::of(forward.retry.as_ref(), &self.request);
        let limits = Limits::of(&mut self.request, forward, &self.context.manager.rules);
        self.prepare_request(forward)?;
        self.timers.limit_duration(self.info.start, limits.max_duration);
        if let Some(idle) = forward.idle_timeout {
            self.timers.set_idle((!idle.is_zero()).then_some(idle));
        }
        if self.tunnel {
            self.timers.request_complete(self.info.start, None);
        } else if down.rx.is_end() {
            self.came_whole(limits.timeout);
        }
        let limit = self.replay_limit(forward);
        let mut replay = self.held.take().unwrap_or_else(|| Replay::new(retries.is_some(), limit));
        let tried = smallvec::SmallVec::new();
        let mut tries =
            Tries { cluster, forward, limits, retries, tried, count: 0, sent: false, retry_permit: None };
        let mut timer = pin!(tokio::time::sleep(Duration::from_secs(86_400)));
        loop {
            let failure = match self.attempt(down, &mut tries, &mut replay, timer.as_mut()).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let Some(wait) = self.retry_after(&failure, &mut tries) else {
                return self.failed(failure, &tries);
            };
            if let Err(failure) = self.back_off(down, wait, timer.as_mut()).await {
                return self.failed(failure, &tries);
            }
        }
    }

    /// One try, up to its end: good when the client was answered, in whole or in part.
    async fn attempt(
        &mut self,
        down: &mut Downstream<'_>,
        tries: &mut Tries<'x>,
        replay: &mut Replay,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        let local = &self.context.local;
        let retry = tries.retries.as_ref().and_then(Retries::policy);
        let chosen = Attempt::choose(local, &tries.cluster, retry, &tries.tried, tries.forward.priority);
        let mut attempt = chosen.ok_or(Failure::NoHost)?;
        tries.count += 1;
        self.begin_try(&attempt, tries);
        let mut stream = match self.connect(down, &mut attempt, timer.as_mut()).await {
            Ok(stream) => stream,
            Err(failure) => {
                attempt.report(report_of(&failure));
                self.judge_unconnected(&attempt, &failure).await;
                return Err(failure);
            }
        };
        self.info.upstream.local = stream.local;
        self.info.upstream.version = Some(stream.version);
        tries.sent = true;
        self.timers.begin_try(time::now(), tries.limits.per_try, tries.limits.per_try_idle);
        let result = self.converse(down, &attempt, &mut stream, tries, replay, timer).await;
        self.timers.end_try();
        match result {
            Ok(true) => {
                stream.finish(&tries.cluster.policy);
                Ok(())
            }
            Ok(false) => {
                if self.cut_by_upstream {
                    stream.lost();
                    attempt.judge(&self.context.local, Seen::Failed).await;
                }
                Ok(())
            }
            Err(failure) => {
                if !matches!(failure, Failure::Answer(_)) {
                    attempt.report(report_of(&failure));
                    self.judge_failure(&attempt, &failure).await;
                }
                if matches!(failure, Failure::Upstream(UpstreamError::ConnectionTermination)) {
                    stream.lost();
                }
                self.count_reset(&failure, tries);
                Err(failure)
            }
        }
    }

    /// A stream to the host, unless the client leaves or the time runs out before there is one.
    async fn connect(
        &mut self,
        down: &mut Downstream<'_>,
        attempt: &mut Attempt,
        timer: Pin<&mut Sleep>,
    ) -> Result<UpstreamStream, Failure> {
        let whole = down.rx.is_end();
        tokio::select! {
            biased;
            stream = attempt.connect(&self.request) => stream.map_err(Failure::Upstream),
            error = down.rx.closed(), if whole => Err(Failure::Client(error)),
            expiry = self.timers.expired(timer) => Err(Failure::Expired(expiry)),
        }
    }

    /// Request out, answer in, both at once. True when the connection may carry another request.
    async fn converse(
        &mut self,
        down: &mut Downstream<'_>,
        attempt: &Attempt,
        stream: &mut UpstreamStream,
        tries: &mut Tries<'x>,
        replay: &mut Replay,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<bool, Failure> {
        if self.tunnel {
            return self.converse_as_tunnel(down, attempt, stream, tries, timer).await;
        }
        let Downstream { rx: body, tx: answer } = down;
        let UpstreamStream { tx, rx, .. } = stream;
        let bodyless = body.is_end() && replay.is_empty();
        tokio::select! {
            biased;
            sent = tx.head(&self.request, bodyless) => sent.map_err(Failure::Upstream)?,
            expiry = self.timers.expired(timer.as_mut()) => return Err(Failure::Expired(expiry)),
        }
        let progress = Progress::default();
        let (timers, route_timeout) = (self.timers, tries.limits.timeout);
        let upload = Upload { body, tx, replay, progress: &progress, timers, route_timeout }.run();
        let mut side = RequestSide { upload: pin!(upload), refused: false };
        let end = self.await_head(rx, answer, &mut side, timer.as_mut()).await;
        self.note_progress(&progress, tries);
        let end = end?;
        self.judge_answer(attempt).await;
        if let Some(failure) = self.retry_answer(tries, attempt) {
            return Err(failure);
        }
        self.timers.end_per_try();
        self.answer_head(attempt, &progress);
        let whole = self.send_answer(answer, rx, &mut side, &progress, timer, end).await;
        self.note_progress(&progress, tries);
        attempt.report(if self.complete { Report::Status(self.info.status) } else { Report::Abandoned });
        Ok(whole && progress.sent.get().is_some())
    }

    /// The head of the final answer, into `self.response`; true when it is all there is.
    pub(super) async fn await_head(
        &mut self,
        rx: &mut ResponseReader,
        answer: &mut ResponseWriter<'_>,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<bool, Failure> {
        loop {
            let head = tokio::select! {
                biased;
                head = rx.head(&mut self.response) => head.map_err(Failure::Upstream)?,
                error = side.client_left() => return Err(Failure::Client(error)),
                expiry = self.timers.expired(timer.as_mut()) => return Err(Failure::Expired(expiry)),
            };
            self.timers.touch();
            match head {
                HeadKind::Final { end } => return Ok(end),
                HeadKind::Interim if self.context.manager.proxy_100_continue => {
                    answer.interim(&self.response).await.map_err(Failure::Client)?;
                }
                HeadKind::Interim => {}
            }
        }
    }

    fn note_progress(&mut self, progress: &Progress, tries: &mut Tries<'_>) {
        if progress.overflowed.take() {
            tries.retries = None;
            tries.cluster.stats().retry_or_shadow_abandoned.inc();
        }
        self.info.request_end = self.info.request_end.or(progress.received.get());
        self.info.upstream.request_sent = progress.sent.get();
        self.info.bytes_received += progress.bytes.take();
    }
}

fn report_of(failure: &Failure) -> Report {
    match failure {
        Failure::NoHost | Failure::Client(_) | Failure::Answer(_) => Report::Abandoned,
        Failure::Upstream(_) => Report::Failed,
        Failure::Expired(_) => Report::Timeout,
    }
}
