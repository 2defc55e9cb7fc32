//! The way of a request through the HTTP filters. Filters decide and never wait; what they want
//! waited for is waited for here.

use std::time::Duration;

use super::attempt::Failure;
use super::timers::noticed_elsewhere;
use super::upload::Replay;
use super::{Exchange, Matched};
use crate::downstream::Downstream;
use crate::filter::chain::{Facts, FilterStatus, Levels, Running};
use crate::local_reply::LocalReply;
use crate::message::{Frame, Known, RequestHead, ResponseHead};
use crate::route::{Action, Chosen};
use crate::time;

/// How a request ended at a filter.
pub(super) enum Stopped {
    Reply(LocalReply),
    /// With this head and no body.
    Response(ResponseHead),
    /// The client is gone.
    Left,
}

impl<'x> Exchange<'x> {
    /// Takes the request through the filters; the error is how it ended there.
    pub(super) async fn filter_request(&mut self, down: &mut Downstream<'_>) -> Result<(), Stopped> {
        self.filters = Some(self.begin_filters());
        if down.rx.is_end() {
            self.request_ended(None);
        }
        let mut at = 0;
        while self.filters.as_ref().is_some_and(|filters| at < filters.len()) {
            let mut outcome = self.ask(at, Running::request);
            loop {
                match outcome {
                    FilterStatus::Continue => break,
                    FilterStatus::Reply(reply) => return Err(Stopped::Reply(reply)),
                    FilterStatus::Respond(head) => return Err(Stopped::Response(head)),
                    FilterStatus::Wait(wait) => self.delay(down, wait).await?,
                    FilterStatus::Hold(limit) => {
                        self.hold(down, limit).await?;
                        break;
                    }
                    FilterStatus::Discard => self.discard(down).await?,
                }
                outcome = self.ask(at, Running::resume);
            }
            at += 1;
        }
        Ok(())
    }

    fn begin_filters(&self) -> Running<'x> {
        let mut levels = Levels::new();
        let manager = &self.record.context.manager;
        let matched = self.request.matched;
        if let Some(matched) = matched {
            let chosen = self.chosen(matched);
            levels.extend(chosen.and_then(|chosen| chosen.weighted).map(|entry| &entry.filters));
            levels.extend([&matched.route.filters, &matched.virtual_host.filters]);
        }
        levels.push(&manager.routes.filters);
        levels.retain(|level| !level.is_empty());
        let forwards = matched.is_some_and(|matched| matches!(matched.route.action, Action::Forward(_)));
        manager.chain.begin(&levels, forwards)
    }

    fn chosen(&self, matched: Matched<'x>) -> Option<Chosen<'x, '_>> {
        match &matched.route.action {
            Action::Forward(forward) => forward.target.choose(&self.request.head, self.request.draw),
            Action::Redirect(_) | Action::Direct { .. } => None,
        }
    }

    fn ask(
        &mut self,
        at: usize,
        question: impl Fn(&mut Running<'x>, usize, &mut Facts<'_>) -> FilterStatus,
    ) -> FilterStatus {
        let (context, draw) = (self.record.context, self.request.draw);
        let target = self.request.matched.and_then(|matched| match &matched.route.action {
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
            request: &mut self.request.head,
            info: &mut self.record.info,
            goes_to: &goes_to,
            random: &random,
            now: time::now(),
            shard: context.local.shard,
            health_failed: context.local.state.health_failed(),
            membership: &membership,
        };
        self.filters.as_mut().map_or(FilterStatus::Continue, |filters| question(filters, at, &mut facts))
    }

    /// Waits as long as a filter wants.
    async fn delay(&mut self, down: &mut Downstream<'_>, wait: Duration) -> Result<(), Stopped> {
        let waited = self.timers.race(down.rx.closed(), tokio::time::sleep(wait)).await;
        self.record.forwarded = time::now();
        self.request.waited = true;
        waited.map_err(|interrupt| self.stopped(&interrupt.into()))
    }

    /// Waits for the whole request and keeps its body for the upstream.
    async fn hold(&mut self, down: &mut Downstream<'_>, limit: usize) -> Result<(), Stopped> {
        if down.rx.is_end() {
            return Ok(());
        }
        let mut held = Replay::new(true, usize::MAX);
        let mut size = 0usize;
        while !down.rx.is_end() {
            match self.next_piece(down).await? {
                Frame::Data(piece) => {
                    size = size.saturating_add(piece.len());
                    if size > limit {
                        self.record.context.http().downstream_rq_too_large.inc();
                        // As in Envoy, even if the bytes over the limit are the last of the
                        // request.
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
        let fields = &mut self.request.head.fields;
        if !fields.contains(Known::ContentLength) {
            fields.set(Known::ContentLength, size);
        }
        self.request.held = Some(held);
        Ok(())
    }

    /// Waits for the end of the request and drops its body.
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
        let frame = match self.timers.race(noticed_elsewhere(), down.rx.next()).await {
            Ok(frame) => frame.map_err(Failure::Client),
            Err(interrupt) => Err(interrupt.into()),
        };
        self.timers.touch();
        if let Ok(Frame::Data(piece)) = &frame {
            self.received.set(self.received.get() + piece.len() as u64);
        }
        frame.map_err(|failure| self.stopped(&failure))
    }

    /// The request has come whole, while a filter waited for it.
    fn came_later(&mut self) {
        let now = time::now();
        self.record.forwarded = now;
        self.record.info.request_end = self.record.info.request_end.or(Some(now));
        self.timers.request_complete(now, None);
    }

    fn stopped(&mut self, failure: &Failure) -> Stopped {
        match failure {
            Failure::Client(error) => match self.client_failed(*error) {
                Err(reply) => Stopped::Reply(reply),
                Ok(()) => Stopped::Left,
            },
            Failure::Expired(expiry) => Stopped::Reply(self.too_late(*expiry)),
            Failure::Upstream(_) | Failure::NoHost | Failure::Response(_) => Stopped::Left,
        }
    }
}
