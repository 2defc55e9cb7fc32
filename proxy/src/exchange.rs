//! THE STORY of one request: rules -> route -> filters -> tries -> filters and rules back -> answer -> last byte.
//!
//! Everything about an exchange is decided here, in the order in which it happens; each error becomes an answer made by `local_reply`,
//! and however it ends, it is counted and logged once. `forward` is the part with an upstream in it.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::downstream::{Downstream, ResponseWriter};
use crate::error::{DownstreamError, Flag};
use crate::filter::chain::Running;

use crate::format::Context;
use crate::headers::Mutations;
use crate::headers::{self, path};
use crate::http1::Refusal;
use crate::local::Local;
use crate::local_reply::LocalReply;
use crate::message::{Fields, Method, Path, RequestHead, ResponseHead, Version};
use crate::route::{Action, Decision, Route, VirtualHost, direct_location, to_tls};
use crate::snapshot::{HttpManager, Listener};
use crate::state::Drain;
use crate::stats::{HttpStats, ListenerHttpStats};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::time;
use crate::trace::Span;

mod answer;
mod filters;
mod finish;
mod forward;
mod judge;
mod limits;
mod mutate;
mod outcome;
mod prepare;
mod relay;
mod replay;
mod retrying;
mod spans;
mod timers;
mod tunnel;
mod upload;

use filters::Stopped;

use replay::Replay;
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
    /// It may leave HTTP: an upgrade or CONNECT.
    tunnel: bool,
    /// The HTTP filters, where there are any besides the router.
    filters: Option<Running<'x>>,
    /// The request's body, where a filter waited for all of it.
    held: Option<Replay>,
    /// What chance says of a choice of clusters, for filters and router alike.
    draw: u64,
    /// The request's span, where it is traced.
    span: Option<Span>,
    /// When the request came to the router.
    forwarded: Instant,
}

/// The route that a request took.
#[derive(Clone, Copy)]
struct Matched<'x> {
    virtual_host: &'x VirtualHost,
    route: &'x Route,
    /// Mutations of the chosen entry of a weighted route.
    weighted: Option<&'x Mutations>,
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
    let served = match exchange.admit() {
        Err(reply) => Err(reply),
        Ok(decision) => exchange.serve(&mut down, decision).await,
    };
    if let Err(reply) = served {
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
            tunnel: false,
            filters: None,
            held: None,
            span: None,
            draw: context.local.random_bits()[0],
            forwarded: start,
        }
    }

    /// Rules and route: what is to be done with the request.
    fn admit(&mut self) -> Result<Option<Decision<'x>>, LocalReply> {
        let context = self.context;
        let manager = &*context.manager;
        if let Some(reply) = self.normalize_path() {
            return Err(reply);
        }
        let origin = headers::request::Origin {
            peer: context.info.peer,
            local: context.info.local,
            tls: context.info.tls,
            random: context.local.random_bits(),
        };
        let client = headers::request::apply(&mut self.request, &manager.rules, origin);
        self.info.remote = client.remote;
        self.internal = client.internal;
        let decision = manager.routes.decide(&self.request, context.local.random_bits()[0]);
        if let Some(Decision::Route { virtual_host, route }) = &decision {
            self.info.virtual_host = Some(Arc::clone(&virtual_host.name));
            self.info.route_name = Some(Arc::clone(&route.name));
            self.info.route_metadata.clone_from(&route.metadata);
            self.matched = Some(Matched { virtual_host, route, weighted: None });
        }
        self.begin_span();
        self.admit_tunnel(self.matched)?;
        Ok(decision)
    }

    /// Through the filters, then as the route says; the error is an answer to be made here.
    async fn serve(
        &mut self,
        down: &mut Downstream<'_>,
        decision: Option<Decision<'x>>,
    ) -> Result<(), LocalReply> {
        if !self.context.manager.chain.0.is_empty() {
            match self.filter_request(down).await {
                Ok(()) => {}
                Err(Stopped::Reply(reply)) => return Err(reply),
                Err(Stopped::Left) => return Ok(()),
                Err(Stopped::Answer(head)) => {
                    let whole = down.rx.is_end();
                    self.send_filters_answer(&mut down.tx, whole, head).await;
                    return Ok(());
                }
            }
        }
        let http = self.context.http();
        http.rq_total.inc();
        match (decision, self.matched) {
            (Some(Decision::RequireTls(_)), _) => Err(LocalReply::redirect(301, to_tls(&self.request))),
            (Some(Decision::Route { route, .. }), Some(matched)) => match &route.action {
                Action::Forward(forward) => self.forward(down, matched, forward).await,
                Action::Redirect(redirect) => {
                    Err(LocalReply::redirect(redirect.status, redirect.location(route, &self.request)))
                }
                Action::Direct { status, body } => {
                    http.rq_direct_response.inc();
                    let location = direct_location(*status, &self.request);
                    Err(LocalReply::direct(*status, body.clone(), location))
                }
            },
            (None | Some(Decision::Route { .. }), _) => {
                http.no_route.inc();
                Err(LocalReply::route_not_found())
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
            // Only characters that a path may hold are unescaped.
            path::Normalized::Changed(path) => match Path::new(path) {
                Ok(path) => {
                    self.request.path = path;
                    None
                }
                Err(_) => Some(LocalReply::bad_request("path_normalization_failed")),
            },
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
