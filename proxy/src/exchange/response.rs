//! The response on its way to the client: its head, its body piece by piece, and local replies.

use std::borrow::Cow;
use std::pin::Pin;

use bytes::Bytes;

use super::attempt::{Attempt, Failure};
use super::timers::{First, Interrupt, first};
use super::upload::{Progress, TrailerLimits};
use super::{Exchange, Phase, nothing};
use crate::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::error::{DownstreamError, Flag, UpstreamError};
use crate::filter::chain::{Responding, Running};
use crate::headers;
use crate::local_reply::{self, LocalReply, details_after_response};
use crate::message::{Frame, Known, Method, ResponseHead, Version};
use crate::state::Drain;
use crate::time;
use crate::upstream::ResponseReader;

/// The client's side of a response that comes from an upstream.
pub(super) struct ToClient<'a, 'c, C> {
    pub tx: &'a mut ResponseWriter<'c>,
    /// Goes on with the upload; resolves when the client has left.
    pub client: Pin<&'a mut C>,
}

impl Exchange<'_> {
    /// Sends a local reply.
    pub(super) async fn send_reply(&mut self, down: &mut Downstream<'_>, reply: LocalReply) {
        if self.response.phase != Phase::Waiting {
            down.tx.reset();
            return;
        }
        if let Some(flag) = reply.flag {
            self.record.info.flags.set(flag);
        }
        self.record.info.details = reply.details.clone();
        self.note_cluster();
        let manager = &self.record.context.manager;
        self.response.head = reply.head(self.record.info.version);
        if reply.is_of_router() {
            self.attempts_in_response();
        }
        self.decorate_response();
        self.mutate_response();
        let head = std::mem::take(&mut self.response.head);
        let rendered = local_reply::render(&reply, &manager.local_reply, &self.format_context(), head);
        self.response.head = rendered.head;
        self.own_headers();
        if self.request.waited || reply.flag == Some(Flag::UpstreamConnectionFailure) {
            // The connection goes on if the whole request is here, although no host took its body.
            down.rx.skip_received();
        }
        if reply.status == 400 {
            // As in Envoy, one of these is enough for a client of HTTP/1.
            down.tx.close_after();
        }
        // A response to HEAD has no body, even if its headers say so (HTTP/2 would send it).
        let end = rendered.body.is_empty() || self.request.head.method == Method::Head;
        if self.send_whole_head(down, end).await.is_err() || end {
            return;
        }
        let size = rendered.body.len() as u64;
        let Downstream { rx, tx } = down;
        let sent = self.timers.race(rx.closed(), tx.data(rendered.body, true)).await;
        match flat(sent) {
            Ok(()) => {
                self.record.info.bytes_sent += size;
                self.response.phase = Phase::Complete;
            }
            Err(failure) => self.cut(tx, &failure),
        }
    }

    /// Sends the head with which a filter responds.
    pub(super) async fn send_filters_response(&mut self, down: &mut Downstream<'_>, head: ResponseHead) {
        self.response.head = ResponseHead { version: self.record.info.version, ..head };
        if self.record.info.version != Version::Http2 {
            self.response.head.fields.set(Known::ContentLength, b"0");
        }
        self.own_headers();
        // The phase says whether it was sent.
        let _ = self.send_whole_head(down, true).await;
    }

    /// The head of a response that no upstream has a part in.
    async fn send_whole_head(&mut self, down: &mut Downstream<'_>, end: bool) -> Result<(), Failure> {
        let Downstream { rx, tx } = down;
        // What is missing of the request would have to be read before the next one.
        // What follows the refusal of a tunnel is not read.
        let head = &self.request.head;
        let asks_tunnel = head.method == Method::Connect || head.fields.upgrade().is_some();
        let request_end = rx.is_end() && !(asks_tunnel && matches!(rx, RequestBody::Http1(_)));
        if request_end {
            let info = &mut self.record.info;
            info.request_end = info.request_end.or(Some(info.start));
        } else {
            tx.close_after();
        }
        self.send_head(tx, rx.closed(), request_end, end).await
    }

    /// The last changes to the head of the response, and the head.
    pub(super) async fn send_head(
        &mut self,
        tx: &mut ResponseWriter<'_>,
        client: impl Future<Output = DownstreamError>,
        request_end: bool,
        end: bool,
    ) -> Result<(), Failure> {
        let context = self.record.context;
        let health_failed = context.local.state.health_failed();
        if let Some(filters) = &mut self.filters {
            filters.response(&mut self.response.head, Responding { now: time::now(), health_failed });
        }
        self.record.response(self.response.head.status, request_end);
        self.response.phase = Phase::Responding;
        // The drain may have begun after the request. An unhealthy proxy wants its clients to leave, too.
        let no_keepalive = context.relief().no_keepalive;
        let closes = health_failed || no_keepalive || *context.drain.borrow() != Drain::No;
        if closes && tx.close_after() {
            context.http().downstream_cx_drain_close.inc();
            if no_keepalive {
                context.http().downstream_cx_overload_disable_keepalive.inc();
            }
        }
        if context.last.is_some_and(|last| time::now() >= last) && tx.close_after() {
            context.http().downstream_cx_max_duration_reached.inc();
        }
        if tx.announces_close(&self.response.head) {
            // Written by the codec; here it is for the log.
            self.response.head.fields.set(Known::Connection, b"close");
        }
        let sent = flat(self.timers.race(client, tx.head(&self.response.head, end)).await);
        match &sent {
            Ok(()) if end => self.response.phase = Phase::Complete,
            Ok(()) => {}
            Err(failure) => self.cut(tx, failure),
        }
        sent
    }

    /// The head of a response has come from the upstream: what it becomes, and its counts.
    pub(super) fn take_over_response(&mut self, attempt: &Attempt, progress: &Progress) {
        let now = time::now();
        let record = &mut self.record;
        record.info.response_start = Some(now);
        record.info.details = Cow::Borrowed("via_upstream");
        let response = &mut self.response.head;
        let status = response.status;
        let canary = attempt.host.host.canary
            || response.fields.get(Known::XEnvoyUpstreamCanary).is_some_and(|value| value == b"true");
        record.charge_host(attempt.cluster.stats(), status, canary);
        let rules = &record.context.manager.rules;
        if !rules.suppress_envoy_headers && !self.request.tunnel {
            let info = &record.info;
            let since = info.request_end.or(progress.received.get()).unwrap_or(info.start);
            let since = since.max(record.forwarded);
            let millis = time::millis(now.saturating_duration_since(since));
            response.fields.set(Known::XEnvoyUpstreamServiceTime, millis);
        }
        headers::response::hop_by_hop(response);
        for cookie in std::mem::take(&mut self.response.cookies) {
            response.fields.push(Known::SetCookie, &cookie);
        }
        record.info.status = status;
        self.attempts_in_response();
        self.decorate_response();
        self.mutate_response();
        self.own_headers();
    }

    /// Sends the response on as it comes. True when the upstream's response was whole.
    pub(super) async fn send_response(
        &mut self,
        to: &mut ToClient<'_, '_, impl Future<Output = DownstreamError>>,
        rx: &mut ResponseReader,
        request_end: bool,
        end: bool,
        limits: TrailerLimits,
    ) -> bool {
        if self.send_head(to.tx, to.client.as_mut(), request_end, end).await.is_err() || end {
            return end;
        }
        loop {
            // The head is sent while the body is awaited.
            let work = first(rx.next(), to.tx.flush_waiting());
            let frame = match self.timers.race(to.client.as_mut(), work).await {
                Ok(First::One(frame)) => frame.map_err(Failure::Upstream),
                Ok(First::Other(Ok(()))) => continue,
                Ok(First::Other(Err(error))) => Err(Failure::Client(error)),
                Err(interrupt) => Err(interrupt.into()),
            };
            self.timers.touch();
            let (last, sent) = match frame {
                Ok(Frame::Data(piece)) => {
                    // Where the end is known with the last piece, the two go out together.
                    let last = rx.is_end();
                    (last, self.send_piece(to, piece, last).await)
                }
                Ok(Frame::End) => (true, self.send_piece(to, nothing(), true).await),
                Ok(Frame::Trailers(trailers)) if limits.check(&trailers).is_ok() => {
                    let sent = flat(self.timers.race(to.client.as_mut(), to.tx.trailers(&trailers)).await);
                    self.response.trailers = Some(trailers);
                    (true, sent)
                }
                Ok(Frame::Trailers(_)) => {
                    (false, Err(Failure::Upstream(UpstreamError::Protocol("response trailers too large"))))
                }
                Err(failure) => (false, Err(failure)),
            };
            if let Err(failure) = sent {
                if matches!(failure, Failure::Upstream(_)) {
                    // What came before goes out first: a reset of HTTP/2 takes back what is queued.
                    let _ = self.timers.race(to.client.as_mut(), tokio::task::yield_now()).await;
                }
                self.cut(to.tx, &failure);
                return last;
            }
            if last {
                self.response.phase = Phase::Complete;
                return true;
            }
        }
    }

    /// A piece of the body, to a client that may be slow to take it.
    async fn send_piece(
        &mut self,
        to: &mut ToClient<'_, '_, impl Future<Output = DownstreamError>>,
        piece: Bytes,
        end: bool,
    ) -> Result<(), Failure> {
        if self.filters.is_some() {
            return self.send_at_pace(to, piece, end).await;
        }
        self.send_part(to, piece, end).await
    }

    /// A piece of the body as fast as a filter lets it go.
    async fn send_at_pace(
        &mut self,
        to: &mut ToClient<'_, '_, impl Future<Output = DownstreamError>>,
        mut piece: Bytes,
        end: bool,
    ) -> Result<(), Failure> {
        loop {
            let next = match self.filters.as_mut().and_then(Running::pace) {
                Some(pace) if !piece.is_empty() => pace.next(&mut piece, time::now()),
                _ => Ok(std::mem::take(&mut piece)),
            };
            match next {
                Ok(part) => {
                    let last = piece.is_empty();
                    self.send_part(to, part, end && last).await?;
                    self.timers.touch();
                    if last {
                        return Ok(());
                    }
                }
                Err(wait) => self.timers.race(to.client.as_mut(), tokio::time::sleep(wait)).await?,
            }
        }
    }

    /// A part of a piece that no filter holds back.
    async fn send_part(
        &mut self,
        to: &mut ToClient<'_, '_, impl Future<Output = DownstreamError>>,
        piece: Bytes,
        end: bool,
    ) -> Result<(), Failure> {
        let size = piece.len() as u64;
        flat(self.timers.race(to.client.as_mut(), to.tx.data(piece, end)).await)?;
        self.record.info.bytes_sent += size;
        Ok(())
    }

    /// The response has begun and cannot be completed.
    pub(super) fn cut(&mut self, tx: &mut ResponseWriter<'_>, failure: &Failure) {
        tx.reset();
        self.response.phase = Phase::Cut { by_upstream: matches!(failure, Failure::Upstream(_)) };
        if matches!(failure, Failure::Upstream(_) | Failure::Expired(_)) {
            self.record.context.http().downstream_rq_tx_reset.inc();
        }
        let is_grpc = self.request.head.is_grpc();
        let record = &mut self.record;
        match failure {
            Failure::Client(error) => record.client_left(*error),
            Failure::Upstream(error) => {
                // Of gRPC, the status is in what is missing.
                if is_grpc && self.response.head.fields.get(Known::GrpcStatus).is_none() {
                    record.context.http().rq_reset_after_downstream_response_started.inc();
                }
                // A body that ends early is a broken message, on either side.
                record.info.flags.set(error.flag());
                record.info.details = Cow::Owned(details_after_response(error));
            }
            Failure::Expired(expiry) => {
                let (flag, details) = record.expiry(*expiry);
                if let Some(flag) = flag {
                    record.info.flags.set(flag);
                }
                record.info.details = Cow::Borrowed(details);
            }
            Failure::NoHost => record.info.flags.set(Flag::NoHealthyUpstream),
            // A response that has begun is not retried.
            Failure::Response(_) => {}
        }
    }

    /// The headers that every response gets.
    fn own_headers(&mut self) {
        let context = self.record.context;
        let (rules, response) = (&context.manager.rules, &mut self.response.head);
        headers::response::set_own(response, rules, &context.local.dates, self.record.info.start_time);
        self.request_id_in_response();
    }

    fn attempts_in_response(&mut self) {
        let matched = self.request.matched;
        let asked = matched.is_some_and(|matched| matched.virtual_host.include_attempt_count_in_response);
        if asked && self.record.info.attempts > 0 {
            self.response.head.fields.set(Known::XEnvoyAttemptCount, self.record.info.attempts);
        }
    }

    fn request_id_in_response(&mut self) {
        let rules = self.record.context.manager.rules.request_id;
        if rules.always_in_response
            && let Some(id) = self.request.head.fields.value(Known::XRequestId)
        {
            self.response.head.fields.set(Known::XRequestId, id);
        }
    }

    /// The response names the operation: outbound to us, inbound to the client.
    fn decorate_response(&mut self) {
        let tracing = &self.record.context.manager.tracing;
        let (Some(span), Some(tracing)) = (&mut self.record.span, tracing) else { return };
        let fields = &mut self.response.head.fields;
        if let Some(operation) = span.announce.take() {
            fields.set(Known::XEnvoyDecoratorOperation, format_args!("{operation}"));
        } else if tracing.egress
            && let Some(said) = fields.get(Known::XEnvoyDecoratorOperation)
        {
            span.operation = Some(String::from_utf8_lossy(said).as_ref().into());
            fields.remove(Known::XEnvoyDecoratorOperation);
        }
    }

    /// Applies the response mutations of route, virtual host and table.
    fn mutate_response(&mut self) {
        let levels = self.mutations();
        let values: Vec<_> =
            levels.iter().map(|level| level.response.evaluate(&self.format_context())).collect();
        for (level, values) in levels.iter().zip(&values) {
            level.response.apply(&mut self.response.head.fields, values);
        }
    }
}

/// What the client's side said, or why it was not heard.
pub(super) fn flat<T>(sent: Result<Result<T, DownstreamError>, Interrupt>) -> Result<T, Failure> {
    sent?.map_err(Failure::Client)
}
