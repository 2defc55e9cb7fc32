//! The way through the HTTP filters: what they want waited for is waited for here, with an eye on client and timeouts.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Sleep;

use super::forward::{Failure, RequestSide};
use super::replay::Replay;
use super::upload::Ended;
use super::{Exchange, Matched, expired};
use crate::downstream::{Downstream, ResponseWriter};
use crate::filter::chain::{Facts, Levels, Running, Verdict};
use crate::local_reply::LocalReply;
use crate::message::{Frame, Known, RequestHead, ResponseHead, Version};
use crate::route::{Action, Chosen};
use crate::time;

/// How a request ended at a filter.
pub(super) enum Stopped {
    Reply(LocalReply),
    /// With this head and no body.
    Answer(ResponseHead),
    /// The client is gone.
    Left,
}

impl<'x> Exchange<'x> {
    /// Takes the request through the filters; the error is how it ended there.
    pub(super) async fn filter_request(&mut self, down: &mut Downstream<'_>) -> Result<(), Stopped> {
        self.filters = Some(self.begin_filters());
        if down.rx.is_end() {
            self.came_whole(None);
        }
        let mut at = 0;
        while self.filters.as_ref().is_some_and(|filters| at < filters.len()) {
            let mut verdict = self.ask(at, Running::request);
            loop {
                match verdict {
                    Verdict::Continue => break,
                    Verdict::Reply(reply) => return Err(Stopped::Reply(reply)),
                    Verdict::Answer(head) => return Err(Stopped::Answer(head)),
                    Verdict::Wait(wait) => self.wait(down, wait).await?,
                    Verdict::Hold(limit) => {
                        self.hold(down, limit).await?;
                        break;
                    }
                    Verdict::Discard => self.discard(down).await?,
                }
                verdict = self.ask(at, Running::resume);
            }
            at += 1;
        }
        Ok(())
    }

    fn begin_filters(&self) -> Running<'x> {
        let mut levels = Levels::new();
        if let Some(matched) = self.matched {
            levels
                .extend(self.chosen(matched).and_then(|chosen| chosen.weighted).map(|entry| &entry.filters));
            levels.extend([&matched.route.filters, &matched.virtual_host.filters]);
        }
        levels.push(&self.context.manager.routes.filters);
        levels.retain(|level| !level.is_empty());
        let forwards = self.matched.is_some_and(|matched| matches!(matched.route.action, Action::Forward(_)));
        self.context.manager.chain.begin(&levels, forwards)
    }

    fn chosen(&self, matched: Matched<'x>) -> Option<Chosen<'x, '_>> {
        match &matched.route.action {
            Action::Forward(forward) => forward.target.choose(&self.request, self.draw),
            Action::Redirect(_) | Action::Direct { .. } => None,
        }
    }

    fn ask(
        &mut self,
        at: usize,
        question: impl Fn(&mut Running<'x>, usize, &mut Facts<'_>) -> Verdict,
    ) -> Verdict {
        let (context, draw) = (self.context, self.draw);
        let target = self.matched.and_then(|matched| match &matched.route.action {
            Action::Forward(forward) => Some(&forward.target),
            Action::Redirect(_) | Action::Direct { .. } => None,
        });
        let goes_to = |request: &RequestHead, name: &str| {
            let chosen = target.and_then(|target| target.choose(request, draw));
            chosen.is_some_and(|chosen| chosen.cluster == name)
        };
        let random = || context.local.random_bits()[0];
        let membership = |name: &str| context.local.clusters.get(name).map(|cluster| cluster.membership());
        let mut facts = Facts {
            request: &mut self.request,
            info: &mut self.info,
            goes_to: &goes_to,
            random: &random,
            now: time::now(),
            shard: context.local.shard,
            health_failed: context.local.state.health_failed(),
            membership: &membership,
        };
        self.filters.as_mut().map_or(Verdict::Continue, |filters| question(filters, at, &mut facts))
    }

    /// Waits as a filter wants, unless the client leaves or the time runs out.
    async fn wait(&mut self, down: &mut Downstream<'_>, wait: Duration) -> Result<(), Stopped> {
        let whole = down.rx.is_end();
        let waited = tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            error = down.rx.closed(), if whole => Err(Failure::Client(error)),
            expiry = expired(self.timers) => Err(Failure::Expired(expiry)),
        };
        self.forwarded = time::now();
        waited.map_err(|failure| self.stopped(&failure))
    }

    /// Waits for the whole request and keeps its body for the upstream.
    async fn hold(&mut self, down: &mut Downstream<'_>, limit: usize) -> Result<(), Stopped> {
        if down.rx.is_end() {
            return Ok(());
        }
        let mut held = Replay::new(true, usize::MAX);
        let mut size = 0;
        while !down.rx.is_end() {
            match self.next_piece(down).await? {
                Frame::Data(piece) => {
                    size += piece.len();
                    if size > limit {
                        self.context.http().downstream_rq_too_large.inc();
                        // As in Envoy, even when what is too much was the end of the request.
                        down.tx.close_after();
                        return Err(Stopped::Reply(LocalReply::payload_too_large()));
                    }
                    held.push(&piece);
                }
                Frame::Trailers(trailers) => {
                    held.set_trailers(&trailers);
                    break;
                }
                Frame::End => break,
            }
        }
        self.came_later();
        if !self.request.fields.contains(Known::ContentLength) {
            self.request.fields.set(Known::ContentLength, size);
        }
        self.held = Some(held);
        Ok(())
    }

    /// Waits for the end of the request, whose body nobody wants.
    async fn discard(&mut self, down: &mut Downstream<'_>) -> Result<(), Stopped> {
        while !down.rx.is_end() {
            if !matches!(self.next_piece(down).await?, Frame::Data(_)) {
                break;
            }
        }
        self.came_later();
        Ok(())
    }

    async fn next_piece(&mut self, down: &mut Downstream<'_>) -> Result<Frame, Stopped> {
        let frame = tokio::select! {
            biased;
            frame = down.rx.next() => frame.map_err(Failure::Client),
            expiry = expired(self.timers) => Err(Failure::Expired(expiry)),
        };
        self.timers.touch();
        if let Ok(Frame::Data(piece)) = &frame {
            self.info.bytes_received += piece.len() as u64;
        }
        frame.map_err(|failure| self.stopped(&failure))
    }

    /// The request has come whole, while a filter waited for it.
    fn came_later(&mut self) {
        self.forwarded = time::now();
        self.info.request_end = self.info.request_end.or(Some(self.forwarded));
        self.timers.request_complete(self.forwarded, None);
    }

    fn stopped(&mut self, failure: &Failure) -> Stopped {
        match failure {
            Failure::Client(error) => {
                self.client_left(*error);
                Stopped::Left
            }
            Failure::Expired(expiry) => Stopped::Reply(self.too_late(*expiry)),
            Failure::Upstream(_) | Failure::NoHost | Failure::Answer(_) => Stopped::Left,
        }
    }

    /// Sends the head with which a filter answers.
    pub(super) async fn send_filters_answer(
        &mut self,
        tx: &mut ResponseWriter<'_>,
        request_end: bool,
        head: ResponseHead,
    ) {
        self.response = ResponseHead { version: self.info.version, ..head };
        if self.info.version != Version::Http2 {
            self.response.fields.set(Known::ContentLength, b"0");
        }
        self.own_fields();
        if !request_end {
            tx.close_after();
        }
        // Whether it was sent is known to the exchange.
        let _ = self.send_head(tx, request_end, true).await;
    }

    /// A piece of the body as fast as a filter lets it go.
    pub(super) async fn send_slowly(
        &mut self,
        answer: &mut ResponseWriter<'_>,
        mut piece: Bytes,
        end: bool,
        side: &mut RequestSide<'_, impl Future<Output = Ended>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        loop {
            let next = match self.filters.as_mut().and_then(Running::pace) {
                Some(pace) if !piece.is_empty() => pace.next(&mut piece, time::now()),
                _ => Ok(std::mem::take(&mut piece)),
            };
            match next {
                Ok(part) => {
                    let last = piece.is_empty();
                    self.send_part(answer, part, end && last, side, timer.as_mut()).await?;
                    self.timers.touch();
                    if last {
                        return Ok(());
                    }
                }
                Err(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    error = side.client_left() => return Err(Failure::Client(error)),
                    expiry = self.timers.expired(timer.as_mut()) => return Err(Failure::Expired(expiry)),
                },
            }
        }
    }
}
