//! The part of an exchange with an upstream in it: cluster, headers, tries until one answers, and the answer's way back.
//!
//! Part of `exchange`; calls `attempt`, `retry`, `upload`.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Sleep;

use super::limits::Limits;
use super::replay::Replay;
use super::timers::Expiry;
use super::upload::{Ended, Progress, Upload};
use super::{Exchange, Matched, nothing};
use crate::attempt::{Attempt, Report};
use crate::downstream::{Downstream, ResponseWriter};
use crate::error::{DownstreamError, Flag, UpstreamError};
use crate::local_reply::{LocalReply, details_after_response};
use crate::message::{Frame, HeadKind};
use crate::route::{Forward, HostRewrite};
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
}

/// What the tries of one exchange have in common.
pub(super) struct Tries<'x> {
    pub cluster: Rc<LocalCluster>,
    pub forward: &'x Forward,
    pub limits: Limits,
    pub replay: Replay,
    /// Hosts tried, by id.
    pub tried: smallvec::SmallVec<[u64; 4]>,
    pub count: u32,
    /// Held from the decision to retry until the retry has an answer.
    pub retry_permit: Option<crate::cluster::breaker::Permit>,
}

/// The request's side of a try, which runs beside the wait for the answer.
struct RequestSide<'u, F> {
    upload: Pin<&'u mut F>,
    /// The upstream took no more of the request; its answer may still come.
    refused: bool,
}

impl<F: Future<Output = Ended>> RequestSide<'_, F> {
    /// Goes on with the upload; returns only when the client left.
    async fn client_left(&mut self) -> DownstreamError {
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
        let limits = Limits::of(&mut self.request, forward, &self.context.manager.rules);
        self.prepare_request(forward);
        self.timers.limit_duration(self.info.start, limits.max_duration);
        if let Some(idle) = forward.idle_timeout {
            self.timers.set_idle((!idle.is_zero()).then_some(idle));
        }
        if down.rx.is_end() {
            self.came_whole(limits.timeout);
        }
        let replay = Replay::new(limits.retry.is_some(), cluster.policy.buffer_limit);
        let tried = smallvec::SmallVec::new();
        let mut tries = Tries { cluster, forward, limits, replay, tried, count: 0, retry_permit: None };
        let mut timer = pin!(tokio::time::sleep(Duration::from_secs(86_400)));
        loop {
            let failure = match self.attempt(down, &mut tries, timer.as_mut()).await {
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

    fn cluster(
        &mut self,
        matched: Matched<'x>,
        forward: &'x Forward,
    ) -> Result<Rc<LocalCluster>, LocalReply> {
        let local = &self.context.local;
        let chosen = forward.target.choose(&self.request, local.random_bits()[0]);
        let by_header = chosen.is_some_and(|chosen| chosen.by_header);
        let found = chosen.and_then(|chosen| local.clusters.get(chosen.cluster));
        let weighted = chosen.and_then(|chosen| chosen.weighted);
        let Some(cluster) = found.filter(|cluster| !by_header || cluster.policy.selectable_by_header) else {
            self.context.http().no_cluster.inc();
            return Err(LocalReply::cluster_not_found(forward.not_found_status));
        };
        self.info.cluster = Some(Arc::clone(&cluster.policy.name));
        self.matched = Some(Matched { weighted: weighted.map(|entry| &entry.mutations), ..matched });
        if let Some(host) = weighted.and_then(|entry| entry.host_rewrite.as_deref()) {
            self.rewrite_host(host.as_bytes().to_vec(), forward);
        }
        Ok(cluster)
    }

    /// The configured changes to the request: fields, host, path.
    fn prepare_request(&mut self, forward: &Forward) {
        self.mutate_request();
        match &forward.host {
            HostRewrite::Keep | HostRewrite::Endpoint => {}
            HostRewrite::Literal(host) => self.rewrite_host(host.as_bytes().to_vec(), forward),
            HostRewrite::Header(name) => {
                if let Some(host) = self.request.get(name).map(<[u8]>::to_vec) {
                    self.rewrite_host(host, forward);
                }
            }
        }
        let Some(matched) = self.matched else { return };
        if let Some(path) = forward.rewrite_path(&matched.route.path, &self.request.path) {
            let original = std::mem::replace(&mut self.request.path, path);
            if !self.context.manager.rules.suppress_envoy_headers {
                self.request.fields.set("x-envoy-original-path", &original);
            }
        }
    }

    fn rewrite_host(&mut self, host: Vec<u8>, forward: &Forward) {
        let original = std::mem::replace(&mut self.request.authority, host);
        if forward.append_x_forwarded_host && original != self.request.authority {
            let before = self.request.fields.get("x-forwarded-host").map(<[u8]>::to_vec);
            let all = before.map_or(original.clone(), |before| [&before[..], b",", &original].concat());
            self.request.fields.set("x-forwarded-host", &all);
        }
    }

    /// One try, up to its end: good when the client was answered, in whole or in part.
    async fn attempt(
        &mut self,
        down: &mut Downstream<'_>,
        tries: &mut Tries<'x>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        let local = &self.context.local;
        let retry = tries.limits.retry.as_deref();
        let chosen = Attempt::choose(local, &tries.cluster, retry, &tries.tried, tries.forward.priority);
        let mut attempt = chosen.ok_or(Failure::NoHost)?;
        tries.count += 1;
        self.begin_try(&attempt, tries);
        let mut stream = self
            .connect(down, &mut attempt, timer.as_mut())
            .await
            .inspect_err(|failure| attempt.report(report_of(failure)))?;
        self.info.upstream.local = stream.local;
        self.info.upstream.version = Some(stream.version);
        self.timers.set_per_try(time::now(), tries.limits.per_try);
        let result = self.converse(down, &attempt, &mut stream, tries, timer).await;
        self.timers.set_per_try(time::now(), None);
        match result {
            Ok(true) => {
                stream.finish(&tries.cluster.policy);
                Ok(())
            }
            Ok(false) => {
                if self.cut_by_upstream {
                    stream.lost();
                }
                Ok(())
            }
            Err(failure) => {
                attempt.report(report_of(&failure));
                if matches!(failure, Failure::Upstream(UpstreamError::ConnectionTermination)) {
                    stream.lost();
                }
                self.count_reset(&failure, tries);
                Err(failure)
            }
        }
    }

    fn begin_try(&mut self, attempt: &Attempt, tries: &mut Tries<'_>) {
        tries.tried.push(attempt.host.host.id);
        self.info.attempts = tries.count;
        self.info.upstream.host = Some(attempt.host.host.address);
        if matches!(tries.forward.host, HostRewrite::Endpoint) && !attempt.host.host.hostname.is_empty() {
            self.rewrite_host(attempt.host.host.hostname.clone().into_bytes(), tries.forward);
        }
        if self.matched.is_some_and(|matched| matched.virtual_host.include_request_attempt_count) {
            self.request.fields.set("x-envoy-attempt-count", tries.count.to_string().as_bytes());
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
        mut timer: Pin<&mut Sleep>,
    ) -> Result<bool, Failure> {
        let Downstream { rx: body, tx: answer } = down;
        let UpstreamStream { tx, rx, .. } = stream;
        let bodyless = body.is_end() && tries.replay.is_empty();
        tokio::select! {
            biased;
            sent = tx.head(&self.request, bodyless) => sent.map_err(Failure::Upstream)?,
            expiry = self.timers.expired(timer.as_mut()) => return Err(Failure::Expired(expiry)),
        }
        let progress = Progress::default();
        let (replay, timers, route_timeout) = (&mut tries.replay, self.timers, tries.limits.timeout);
        let upload = Upload { body, tx, replay, progress: &progress, timers, route_timeout }.run();
        let mut side = RequestSide { upload: pin!(upload), refused: false };
        let end = self.await_head(rx, answer, &mut side, timer.as_mut()).await;
        self.note_progress(&progress);
        let end = end?;
        tries.retry_permit = None;
        self.timers.set_per_try(time::now(), None);
        self.answer_head(attempt, &progress);
        let whole = self.send_answer(answer, rx, &mut side, &progress, timer, end).await;
        self.note_progress(&progress);
        attempt.report(if self.complete { Report::Status(self.info.status) } else { Report::Abandoned });
        Ok(whole && progress.sent.get().is_some())
    }

    /// The head of the final answer, into `self.response`; true when it is all there is.
    async fn await_head(
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

    /// Sends the answer on as it comes. True when the upstream's answer was whole.
    async fn send_answer(
        &mut self,
        answer: &mut ResponseWriter<'_>,
        rx: &mut ResponseReader,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        progress: &Progress,
        mut timer: Pin<&mut Sleep>,
        end: bool,
    ) -> bool {
        if self.send_head(answer, progress.received.get().is_some(), end).await.is_err() || end {
            return end;
        }
        loop {
            let frame = tokio::select! {
                biased;
                frame = rx.next() => frame.map_err(Failure::Upstream),
                flushed = answer.flush(), if answer.needs_flush() => match flushed {
                    Ok(()) => continue,
                    Err(error) => Err(Failure::Client(error)),
                },
                error = side.client_left() => Err(Failure::Client(error)),
                expiry = self.timers.expired(timer.as_mut()) => Err(Failure::Expired(expiry)),
            };
            self.timers.touch();
            let (last, sent) = match frame {
                Err(failure) => {
                    self.cut(answer, &failure);
                    return false;
                }
                Ok(Frame::Trailers(trailers)) => {
                    let sent = tokio::select! {
                        biased;
                        sent = answer.trailers(&trailers) => sent.map_err(Failure::Client),
                        expiry = self.timers.expired(timer.as_mut()) => Err(Failure::Expired(expiry)),
                    };
                    self.trailers = Some(trailers);
                    (true, sent)
                }
                Ok(Frame::End) => {
                    (true, self.send_piece(answer, nothing(), true, side, timer.as_mut()).await)
                }
                Ok(Frame::Data(piece)) => {
                    (false, self.send_piece(answer, piece, false, side, timer.as_mut()).await)
                }
            };
            if let Err(failure) = sent {
                self.cut(answer, &failure);
                return last;
            }
            if last {
                self.complete = true;
                return true;
            }
        }
    }

    /// A piece of the body, to a client that may be slow to take it.
    async fn send_piece(
        &mut self,
        answer: &mut ResponseWriter<'_>,
        piece: bytes::Bytes,
        end: bool,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        let size = piece.len() as u64;
        tokio::select! {
            biased;
            sent = answer.data(piece, end) => sent.map_err(Failure::Client)?,
            error = side.client_left() => return Err(Failure::Client(error)),
            expiry = self.timers.expired(timer) => return Err(Failure::Expired(expiry)),
        }
        self.info.bytes_sent += size;
        Ok(())
    }

    /// The answer has begun and cannot be ended well.
    pub(super) fn cut(&mut self, answer: &mut ResponseWriter<'_>, failure: &Failure) {
        answer.reset();
        match failure {
            Failure::Client(error) => self.client_left(*error),
            Failure::Upstream(error) => {
                self.cut_by_upstream = true;
                // What ends a body early is a broken message, whoever closed the connection.
                self.info.flags.set(error.flag());
                self.info.details = Cow::Owned(details_after_response(error));
            }
            Failure::Expired(expiry) => {
                let (flag, details) = self.count_expiry(*expiry);
                self.info.flags.set(flag);
                self.info.details = Cow::Borrowed(details);
            }
            Failure::NoHost => self.info.flags.set(Flag::NoHealthyUpstream),
        }
    }

    fn note_progress(&mut self, progress: &Progress) {
        self.info.request_end = self.info.request_end.or(progress.received.get());
        self.info.upstream.request_sent = progress.sent.get();
        self.info.bytes_received += progress.bytes.take();
    }
}

fn report_of(failure: &Failure) -> Report {
    match failure {
        Failure::NoHost | Failure::Client(_) => Report::Abandoned,
        Failure::Upstream(_) => Report::Failed,
        Failure::Expired(_) => Report::Timeout,
    }
}
