//! THE STORY of one request: rules -> route -> tries -> rules back -> answer -> last byte.
//!
//! Everything about an exchange is decided here, in the order in which it happens; each error becomes an answer made by `local_reply`,
//! and however it ends, it is counted and logged once. `forward` is the part with an upstream in it.
//! Called by `connection`; calls `filter`, `route`, `attempt`, `local_reply`, `access_log`.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::downstream::{Downstream, ResponseWriter};
use crate::error::{DownstreamError, Flag};
use crate::filter::{answer, edge, path};
use crate::format::Context;
use crate::http1::Refusal;
use crate::local::Local;
use crate::local_reply::{self, LocalReply};
use crate::message::{Fields, Known, Method, RequestHead, ResponseHead, Version};
use crate::mutation::Mutations;
use crate::route::{Action, Decision, Route, VirtualHost, direct_location, to_tls};
use crate::snapshot::{HttpManager, Listener};
use crate::state::Drain;
use crate::stats::{HttpStats, ListenerHttpStats};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::time;

mod finish;
mod forward;
mod limits;
mod mutate;
mod outcome;
mod prepare;
mod relay;
mod replay;
mod timers;
mod upload;

use forward::Failure;
use timers::{Expiry, Timers};

/// What the exchanges of one downstream connection share.
pub struct ConnectionContext {
    pub listener: Arc<Listener>,
    pub manager: Arc<HttpManager>,
    pub info: Rc<ConnectionInfo>,
    pub local: Rc<Local>,
    /// How far draining has come for this connection.
    pub drain: watch::Receiver<Drain>,
}

/// What is left after an exchange.
#[derive(Debug)]
pub struct Outcome {
    /// The client got a whole answer.
    pub keep_alive: bool,
    /// The request's head, for its buffers.
    pub head: RequestHead,
}

/// One request on its way.
struct Exchange<'x> {
    context: &'x ConnectionContext,
    request: RequestHead,
    response: ResponseHead,
    trailers: Option<Fields>,
    info: StreamInfo,
    timers: &'x Timers,
    /// The client's `x-envoy-*` fields are believed, and its answers count as internal.
    internal: bool,
    matched: Option<Matched<'x>>,
    /// The head of the answer has been sent.
    answered: bool,
    /// The client got the whole answer.
    complete: bool,
    /// The upstream ended its connection in the middle of the answer.
    cut_by_upstream: bool,
    finished: bool,
}

/// The route that a request took.
#[derive(Clone, Copy)]
struct Matched<'x> {
    virtual_host: &'x VirtualHost,
    route: &'x Route,
    /// Mutations of the chosen entry of a weighted route.
    weighted: Option<&'x Mutations>,
}

/// What the route table said.
enum Step<'x> {
    Forward(Matched<'x>, &'x crate::route::Forward),
    Reply(LocalReply),
}

impl ConnectionContext {
    pub fn http(&self) -> &HttpStats {
        self.manager.stats.shard(self.local.shard)
    }

    fn listener_http(&self) -> &ListenerHttpStats {
        self.manager.listener_stats.shard(self.local.shard)
    }
}

/// Carries one request to its end.
pub async fn run(context: &ConnectionContext, head: RequestHead, mut down: Downstream<'_>) -> Outcome {
    let timers = Timers::default();
    let mut exchange = Exchange::begin(context, &timers, head);
    let reply = match exchange.admit() {
        Step::Reply(reply) => Some(reply),
        Step::Forward(matched, forward) => exchange.forward(&mut down, matched, forward).await.err(),
    };
    if let Some(reply) = reply {
        let whole = down.rx.is_end();
        exchange.send_reply(&mut down.tx, whole, reply).await;
    }
    exchange.end()
}

/// Answers a request that the codec refused; `head` is what could be read of it.
pub async fn refuse(
    context: &ConnectionContext,
    refusal: Refusal,
    head: &RequestHead,
    tx: &mut ResponseWriter<'_>,
) {
    let timers = Timers::default();
    let mut exchange = Exchange::begin(context, &timers, head.clone());
    let reply =
        LocalReply { flag: refusal.flag, ..LocalReply::new(refusal.status, refusal.body, refusal.details) };
    exchange.send_reply(tx, true, reply).await;
    exchange.end();
}

impl<'x> Exchange<'x> {
    fn begin(context: &'x ConnectionContext, timers: &'x Timers, request: RequestHead) -> Self {
        let start = time::now();
        let http = context.http();
        http.downstream_rq_total.inc();
        match request.version {
            Version::Http2 => http.downstream_rq_http2_total.inc(),
            Version::Http10 | Version::Http11 => http.downstream_rq_http1_total.inc(),
        }
        http.downstream_rq_active.inc();
        let timeouts = &context.manager.timeouts;
        timers.start(start, timeouts.stream_idle, timeouts.request, timeouts.max_stream_duration);
        Self {
            info: StreamInfo::new(Rc::clone(&context.info), request.version, time::wall(), start),
            context,
            request,
            response: ResponseHead::default(),
            trailers: None,
            timers,
            internal: false,
            matched: None,
            answered: false,
            complete: false,
            cut_by_upstream: false,
            finished: false,
        }
    }

    /// Rules and route: what is to be done with the request.
    fn admit(&mut self) -> Step<'x> {
        let context = self.context;
        let manager = &*context.manager;
        if edge::is_upgrade(&self.request) {
            context.http().downstream_rq_ws_on_non_ws_route.inc();
            return Step::Reply(LocalReply::upgrade_failed());
        }
        if let Some(reply) = self.normalize_path() {
            return Step::Reply(reply);
        }
        let origin = edge::Origin {
            peer: context.info.peer,
            local: context.info.local,
            random: context.local.random_bits(),
        };
        let client = edge::request(&mut self.request, &manager.rules, origin);
        self.info.remote = client.remote;
        self.internal = client.internal;
        context.http().rq_total.inc();
        let decision = manager.routes.decide(&self.request, context.local.random_bits()[0]);
        let (virtual_host, route) = match decision {
            None => {
                context.http().no_route.inc();
                return Step::Reply(LocalReply::route_not_found());
            }
            Some(Decision::RequireTls(_)) => {
                return Step::Reply(LocalReply::redirect(301, to_tls(&self.request)));
            }
            Some(Decision::Route { virtual_host, route }) => (virtual_host, route),
        };
        self.info.virtual_host = Some(Arc::clone(&virtual_host.name));
        self.info.route_name = Some(Arc::clone(&route.name));
        self.info.route_metadata.clone_from(&route.metadata);
        let matched = Matched { virtual_host, route, weighted: None };
        self.matched = Some(matched);
        match &route.action {
            Action::Forward(forward) => Step::Forward(matched, forward),
            Action::Redirect(redirect) => {
                Step::Reply(LocalReply::redirect(redirect.status, redirect.location(route, &self.request)))
            }
            Action::Direct { status, body } => {
                context.http().rq_direct_response.inc();
                let location = direct_location(*status, &self.request);
                Step::Reply(LocalReply::direct(*status, body.clone(), location))
            }
        }
    }

    fn normalize_path(&mut self) -> Option<LocalReply> {
        if self.request.method == Method::Connect {
            return None;
        }
        let options = self.context.manager.rules.path;
        match path::normalize(&self.request.path, options) {
            path::Normalized::Unchanged => None,
            path::Normalized::Changed(path) => {
                self.request.path = path;
                None
            }
            path::Normalized::Redirect(path) => {
                self.context.http().downstream_rq_redirected_with_normalized_path.inc();
                Some(LocalReply::redirect(307, path))
            }
            path::Normalized::Reject => {
                self.context.http().downstream_rq_failed_path_normalization.inc();
                Some(LocalReply::bad_request("path_normalization_failed"))
            }
        }
    }

    /// Sends an answer that the proxy invents.
    async fn send_reply(&mut self, tx: &mut ResponseWriter<'_>, request_end: bool, reply: LocalReply) {
        if self.answered {
            tx.reset();
            return;
        }
        if let Some(flag) = reply.flag {
            self.info.flags.set(flag);
        }
        self.info.details = reply.details.clone();
        let rendered = local_reply::render(&reply, &self.context.manager.local_reply, &self.format_context());
        self.response = rendered.head;
        self.attempts_in_response();
        self.mutate_response();
        self.own_fields();
        // Whatever of the request is still on its way would have to be read first.
        if !request_end {
            tx.close_after();
        }
        // An answer to HEAD has no body, whatever its fields say (HTTP/2 would send it).
        let end = rendered.body.is_empty() || self.request.method == Method::Head;
        if self.send_head(tx, request_end, end).await.is_err() || end {
            return;
        }
        let size = rendered.body.len() as u64;
        let sent = tokio::select! {
            biased;
            sent = tx.data(rendered.body, true) => sent.map_err(Failure::Client),
            expiry = expired(self.timers) => Err(Failure::Expired(expiry)),
        };
        match sent {
            Ok(()) => {
                self.info.bytes_sent += size;
                self.complete = true;
            }
            Err(failure) => self.cut(tx, &failure),
        }
    }

    /// The fields that every answer gets.
    fn own_fields(&mut self) {
        let rules = &self.context.manager.rules;
        let response = &mut self.response;
        self.context.local.date.with(self.info.start_time, |date| answer::set_own(response, rules, date));
        self.request_id_in_response();
    }

    fn attempts_in_response(&mut self) {
        let asked =
            self.matched.is_some_and(|matched| matched.virtual_host.include_attempt_count_in_response);
        if asked && self.info.attempts > 0 {
            let count = self.info.attempts.to_string();
            self.response.fields.set(Known::XEnvoyAttemptCount, count.as_bytes());
        }
    }

    fn request_id_in_response(&mut self) {
        let rules = self.context.manager.rules.request_id;
        if rules.always_in_response
            && let Some(id) = self.request.fields.get(Known::XRequestId)
        {
            self.response.fields.set(Known::XRequestId, id);
        }
    }

    async fn send_head(
        &mut self,
        tx: &mut ResponseWriter<'_>,
        request_end: bool,
        end: bool,
    ) -> Result<(), DownstreamError> {
        self.about_to_answer(request_end);
        self.answered = true;
        // The drain may have begun after the request.
        if *self.context.drain.borrow() != Drain::No && tx.close_after() {
            self.context.http().downstream_cx_drain_close.inc();
        }
        let sent = tokio::select! {
            biased;
            sent = tx.head(&self.response, end) => sent,
            expiry = expired(self.timers) => {
                self.cut(tx, &Failure::Expired(expiry));
                return Err(DownstreamError::Reset);
            }
        };
        match sent {
            Ok(()) => self.complete = end,
            Err(error) => self.client_left(error),
        }
        sent
    }

    /// The last changes to the head of the answer, and its counts.
    fn about_to_answer(&mut self, request_end: bool) {
        let status = self.response.status;
        self.info.status = status;
        let http = self.context.http();
        http.downstream_rq_completed.inc();
        http.downstream_rq_codes.record(status);
        let listener = self.context.listener_http();
        listener.downstream_rq_completed.inc();
        listener.downstream_rq_codes.record(status);
        if !request_end {
            http.downstream_rq_response_before_rq_complete.inc();
        }
    }

    fn format_context(&self) -> Context<'_> {
        Context {
            info: &self.info,
            request: Some(&self.request),
            response: (self.response.status != 0).then_some(&self.response),
            response_trailers: self.trailers.as_ref(),
            ..Context::new(&self.info)
        }
    }

    /// Nobody is left to answer.
    fn client_left(&mut self, error: DownstreamError) {
        if self.complete {
            return;
        }
        self.context.http().downstream_rq_rx_reset.inc();
        let (flag, details) = match error {
            DownstreamError::Disconnected => {
                (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect")
            }
            DownstreamError::Reset => (Flag::DownstreamRemoteReset, "http2.remote_reset"),
            DownstreamError::Protocol(details) => (Flag::DownstreamProtocolError, details),
        };
        self.info.flags.set(flag);
        self.info.details = Cow::Borrowed(details);
    }
}

/// Waits until a timeout runs out; costs nothing where what it is raced with is ready at once.
async fn expired(timers: &Timers) -> Expiry {
    let timer = std::pin::pin!(tokio::time::sleep(std::time::Duration::from_secs(86_400)));
    timers.expired(timer).await
}

/// An empty piece, to end a body with.
fn nothing() -> Bytes {
    Bytes::new()
}
