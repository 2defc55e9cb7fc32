//! One request: admit -> filters -> route -> attempts -> response -> last byte.
//!
//! Everything about an exchange is decided here, in the order in which it happens. An error becomes a
//! local reply, and however the exchange ends, it is counted and logged once.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::downstream::Downstream;
use crate::error::DownstreamError;
use crate::filter::chain::Running;
use crate::format::Context;
use crate::headers::{self, Mutations, path};
use crate::http1::Refusal;
use crate::local::{IdlePlace, Local};
use crate::local_reply::LocalReply;
use crate::message::{FieldValueBuf, Fields, Known, Method, Path, RequestHead, ResponseHead, Version};
use crate::overload::{Overload, Relief};
use crate::route::{Action, Decision, Route, VirtualHost, direct_location, to_tls};
use crate::snapshot::{HttpManager, Listener};
use crate::state::Drain;
use crate::stats::{HttpStats, ListenerHttpStats};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::time;

mod attempt;
mod filters;
mod mirror;
mod record;
mod response;
mod retry;
mod timers;
mod tunnel;
mod upload;

use filters::Stopped;
use record::Record;
use timers::Timers;
use upload::Replay;

/// What the exchanges of one downstream connection share.
pub(crate) struct ConnectionContext {
    pub listener: Arc<Listener>,
    pub manager: Arc<HttpManager>,
    pub info: Rc<ConnectionInfo>,
    pub local: Rc<Local>,
    /// How far draining has come for this connection.
    pub drain: watch::Receiver<Drain>,
    /// When `max_connection_duration` is over.
    pub last: Option<Instant>,
}

/// What is left after an exchange.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The client has a whole response.
    pub keep_alive: bool,
    /// The request's head, for its buffers.
    pub head: RequestHead,
}

/// One request on its way.
struct Exchange<'x> {
    timers: &'x Timers<'x>,
    /// Bytes of the request's body, counted as they come: whatever ends the exchange, they are logged.
    received: &'x Cell<u64>,
    request: Request<'x>,
    response: Response,
    /// The HTTP filters, where there are any besides the router.
    filters: Option<Running<'x>>,
    record: Record<'x>,
}

/// What the client sent, and where it goes.
struct Request<'x> {
    head: RequestHead,
    matched: Option<Matched<'x>>,
    /// It may leave HTTP: an upgrade or CONNECT.
    tunnel: bool,
    /// The body, where a filter waited for all of it.
    held: Option<Replay>,
    /// A filter has held the request back: its body had time to come.
    waited: bool,
    /// The random number of a choice of clusters, for filters and router alike.
    draw: u64,
}

/// What goes back.
#[derive(Default)]
struct Response {
    head: ResponseHead,
    /// Values of `set-cookie` for a response of the upstream.
    cookies: Vec<FieldValueBuf>,
    trailers: Option<Fields>,
    phase: Phase,
}

/// How far the response has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing of it was sent.
    #[default]
    Waiting,
    /// Its head was sent, or at least begun.
    Responding,
    /// The client has the whole response.
    Complete,
    /// It broke off.
    Cut { by_upstream: bool },
    /// The exchange was counted and logged.
    Finished,
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
    pub(crate) fn http(&self) -> &HttpStats {
        self.manager.stats.shard(self.local.shard)
    }

    /// What the overload manager asks for.
    pub(crate) fn relief(&self) -> Relief {
        self.listener.relief(&self.local.state.overload)
    }

    /// Where the idle timeouts of streams may shrink.
    fn reduced(&self) -> Option<&Overload> {
        let overload = &self.local.state.overload;
        (!self.listener.bypasses_overload && overload.reduces_stream_idle()).then_some(overload)
    }

    /// How long the connection may be idle now.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        let full = self.manager.timeouts.idle;
        if self.listener.bypasses_overload { full } else { self.local.state.overload.connection_idle(full) }
    }

    /// The connection's place among those that make way for new ones.
    pub(crate) fn idle_place(&self) -> IdlePlace {
        let evicts = !self.listener.bypasses_overload && self.local.state.overload.evicts_idle();
        IdlePlace::new(evicts.then(|| Rc::clone(&self.local.idle)))
    }

    fn listener_http(&self) -> &ListenerHttpStats {
        self.manager.listener_stats.shard(self.local.shard)
    }
}

/// Carries one request to its end; it began with the first byte of its head, at `start`.
pub(crate) async fn run(
    context: &ConnectionContext,
    head: RequestHead,
    start: Instant,
    mut down: Downstream<'_>,
) -> Outcome {
    let timer = pin!(timers::timer(start));
    let timers = Timers::new(timer, start, context.reduced());
    let received = Cell::new(0);
    let mut exchange = Exchange::begin(context, &timers, &received, head);
    if let Err(reply) = exchange.serve(&mut down).await {
        exchange.send_reply(&mut down, reply).await;
    }
    if exchange.response.phase == Phase::Waiting {
        // The client has gone, or broke the protocol of HTTP/2: there is no response to send.
        down.tx.reset();
    }
    let keep_alive = exchange.response.phase == Phase::Complete;
    exchange.finish();
    Outcome { keep_alive, head: std::mem::take(&mut exchange.request.head) }
}

/// Responds to a request that the codec refused; `head` is what could be read of it.
pub(crate) async fn refuse(
    context: &ConnectionContext,
    refusal: Refusal,
    head: &RequestHead,
    start: Instant,
    mut down: Downstream<'_>,
) {
    let timer = pin!(timers::timer(start));
    let timers = Timers::new(timer, start, context.reduced());
    let received = Cell::new(0);
    let mut exchange = Exchange::begin(context, &timers, &received, head.clone());
    let reply =
        LocalReply { flag: refusal.flag, ..LocalReply::new(refusal.status, refusal.body, refusal.details) };
    exchange.send_reply(&mut down, reply).await;
    exchange.finish();
}

/// Records a client that left before its request had all headers.
pub(crate) fn leave(context: &ConnectionContext, head: &RequestHead, start: Instant) {
    let timer = pin!(timers::timer(start));
    let timers = Timers::new(timer, start, context.reduced());
    let received = Cell::new(0);
    let mut exchange = Exchange::begin(context, &timers, &received, head.clone());
    exchange.record.client_left(DownstreamError::Disconnected);
    exchange.finish();
}

/// Counts and logs a request of HTTP/2 whose stream was reset because it breaks a rule; nothing of it is known.
pub(crate) fn malformed(context: &ConnectionContext, head: &RequestHead) {
    let start = time::now();
    let timer = pin!(timers::timer(start));
    let timers = Timers::new(timer, start, None);
    let received = Cell::new(0);
    let mut exchange = Exchange::begin(context, &timers, &received, head.clone());
    exchange.record.client_left(DownstreamError::Protocol("http2.violation.of.messaging.rule"));
    exchange.finish();
}

impl<'x> Exchange<'x> {
    fn begin(
        context: &'x ConnectionContext,
        timers: &'x Timers<'x>,
        received: &'x Cell<u64>,
        head: RequestHead,
    ) -> Self {
        let start = timers.start();
        let http = context.http();
        http.downstream_rq_total.inc();
        match head.version {
            Version::Http2 => http.downstream_rq_http2_total.inc(),
            Version::Http10 | Version::Http11 => http.downstream_rq_http1_total.inc(),
        }
        http.downstream_rq_active.inc();
        let timeouts = &context.manager.timeouts;
        timers.limit(timeouts.stream_idle, timeouts.request, timeouts.max_stream_duration);
        let draw = context.local.random_bits()[0];
        Self {
            record: Record {
                context,
                info: StreamInfo::new(Rc::clone(&context.info), head.version, time::wall(), start),
                traced: None,
                span: None,
                forwarded: time::now(),
                internal: false,
                routed: false,
            },
            timers,
            received,
            request: Request { head, matched: None, tunnel: false, held: None, waited: false, draw },
            response: Response::default(),
            filters: None,
        }
    }

    /// Rules, route, filters, and what the route says; the error is a local reply to be sent.
    async fn serve(&mut self, down: &mut Downstream<'_>) -> Result<(), LocalReply> {
        if self.record.context.relief().stop_requests {
            self.record.context.http().downstream_rq_overload_close.inc();
            return Err(LocalReply::overloaded());
        }
        if let Err(reply) = self.check_target() {
            self.find_route_of_refused();
            return Err(reply);
        }
        self.continue_request(down).await;
        let decision = self.admit()?;
        let manager = &self.record.context.manager;
        if !manager.chain.0.is_empty() {
            match self.filter_request(down).await {
                Ok(()) => {}
                Err(Stopped::Reply(reply)) => return Err(reply),
                Err(Stopped::Left) => return Ok(()),
                Err(Stopped::Response(head)) => {
                    self.send_filters_response(down, head).await;
                    return Ok(());
                }
            }
        }
        let http = self.record.context.http();
        http.rq_total.inc();
        let head = &self.request.head;
        match (decision, self.request.matched) {
            (Some(Decision::RequireTls), _) => {
                http.rq_direct_response.inc();
                Err(LocalReply::redirect(301, to_tls(head)))
            }
            (Some(Decision::Route { route, .. }), Some(matched)) => match &route.action {
                Action::Forward(forward) => self.forward(down, matched, forward).await,
                Action::Redirect(redirect) => {
                    http.rq_direct_response.inc();
                    Err(LocalReply::redirect(redirect.status, redirect.location(route, head)))
                }
                Action::Direct { status, body } => {
                    http.rq_direct_response.inc();
                    let location = direct_location(*status, head);
                    Err(LocalReply::direct(*status, body.clone(), location))
                }
            },
            (None | Some(Decision::Route { .. }), _) => {
                http.no_route.inc();
                Err(LocalReply::route_not_found())
            }
        }
    }

    /// Sends the 100 that `expect: 100-continue` asks for in the upstream's place, unless the
    /// expectation is passed on.
    async fn continue_request(&mut self, down: &mut Downstream<'_>) {
        let fields = &mut self.request.head.fields;
        if self.record.context.manager.proxy_100_continue {
            return;
        }
        // One line with that alone: whatever else is expected is for the upstream.
        let expects = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        let alone = fields.get_all(Known::Expect).nth(1).is_none();
        if alone && fields.get(Known::Expect).is_some_and(expects) {
            fields.remove(Known::Expect);
            let Downstream { rx, tx } = down;
            let interim = ResponseHead::new(100);
            self.record.interim(interim.status);
            // A client that has left, or does not take it, is noticed by the next wait.
            let _ = self.timers.race(rx.closed(), tx.interim(&interim)).await;
        }
    }

    /// Refuses a request without a host, and one whose target is no path.
    fn check_target(&mut self) -> Result<(), LocalReply> {
        let head = &self.request.head;
        if !head.has_host() {
            return Err(LocalReply::bad_request("missing_host_header"));
        }
        if head.method == Method::Connect {
            return Ok(());
        }
        if head.path.first() != Some(&b'/') {
            // `*`, or a query right behind an authority.
            self.record.context.http().downstream_rq_non_relative_path.inc();
            return Err(LocalReply::path_not_relative());
        }
        if head.path.contains(&b'#') {
            self.record.context.http().downstream_rq_failed_path_normalization.inc();
            return Err(LocalReply::bad_request("path_normalization_failed"));
        }
        self.normalize_path()
    }

    /// The route of a request that is refused before it was admitted: Envoy looks for one where the
    /// client says which scheme its request came by.
    fn find_route_of_refused(&mut self) {
        if self.request.head.fields.contains(Known::XForwardedProto) {
            self.find_route();
        }
    }

    /// Applies the rules and finds the route.
    fn admit(&mut self) -> Result<Option<Decision<'x>>, LocalReply> {
        let context = self.record.context;
        let manager = &*context.manager;
        let origin = headers::request::Origin {
            peer: context.info.peer,
            local: context.info.local,
            tls: context.info.tls,
            random: context.local.random_bits(),
        };
        let client = headers::request::apply(&mut self.request.head, &manager.rules, origin);
        self.record.info.remote = client.remote;
        self.record.internal = client.internal;
        let decision = self.find_route();
        self.begin_span();
        self.admit_tunnel(decision.is_some())?;
        Ok(decision)
    }

    fn find_route(&mut self) -> Option<Decision<'x>> {
        let context = self.record.context;
        let decision = context.manager.routes.decide(&self.request.head, context.local.random_bits()[0]);
        if let Some(Decision::Route { virtual_host, route }) = &decision {
            self.record.info.virtual_host = Some(Arc::clone(&virtual_host.name));
            self.record.info.route_name = Some(Arc::clone(&route.name));
            self.record.info.route_metadata.clone_from(&route.metadata);
            self.request.matched = Some(Matched { virtual_host, route, weighted: None });
        }
        decision
    }

    fn normalize_path(&mut self) -> Result<(), LocalReply> {
        let context = self.record.context;
        // Only characters that a path may hold are unescaped.
        let take = |head: &mut RequestHead, path| match Path::new(path) {
            Ok(path) => {
                head.path = path;
                Ok(())
            }
            Err(_) => Err(LocalReply::bad_request("path_normalization_failed")),
        };
        let head = &mut self.request.head;
        match path::normalize(&head.path, context.manager.rules.path) {
            path::Normalized::Unchanged => Ok(()),
            path::Normalized::Changed(path) => take(head, path),
            path::Normalized::Redirect(path) => {
                context.http().downstream_rq_redirected_with_normalized_path.inc();
                take(head, path.clone())?;
                let reply = LocalReply::redirect(307, path);
                Err(LocalReply { details: "path_normalization_failed".into(), ..reply })
            }
            path::Normalized::Reject(path) => {
                context.http().downstream_rq_failed_path_normalization.inc();
                take(head, path)?;
                Err(LocalReply::bad_request("path_normalization_failed"))
            }
        }
    }

    /// The request ended with its head: the route's timeout begins, so that it covers the wait for a
    /// connection, too.
    fn request_ended(&mut self, route_timeout: Option<Duration>) {
        let info = &mut self.record.info;
        info.request_end = info.request_end.or(Some(info.start));
        self.timers.request_complete(self.record.forwarded, route_timeout);
    }

    fn format_context(&self) -> Context<'_> {
        let info = &self.record.info;
        let response = &self.response.head;
        Context {
            info,
            request: self.request.head.is_known().then_some(&self.request.head),
            response: (response.status != 0).then_some(response),
            response_trailers: self.response.trailers.as_ref(),
            ..Context::new(info)
        }
    }
}

/// An empty piece, to end a body with.
fn nothing() -> Bytes {
    Bytes::new()
}
