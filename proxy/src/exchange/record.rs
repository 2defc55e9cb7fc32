//! The record of an exchange: what is counted, logged and traced of it, and what outlier detection
//! hears of its attempts.
//!
//! An exchange is counted and logged once, however it ends.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use super::attempt::{Attempt, Failure};
use super::timers::Expiry;
use super::{ConnectionContext, Exchange, Phase};
use crate::cluster::outlier::Seen;
use crate::error::{DownstreamError, Flag, UpstreamError};
use crate::grpc;
use crate::local::Local;
use crate::local_reply::ATTEMPT_TOO_LONG;
use crate::message::{Known, RequestHead, ResponseHead};
use crate::route::{Action, VirtualCluster};
use crate::state::Drain;
use crate::stats::{ClusterStats, VirtualClusterStats};
use crate::stream_info::StreamInfo;
use crate::time::{self, millis};
use crate::trace::{self, Span};

/// The proxy closed the client's connection.
const LOCAL_DISCONNECT: &str = "downstream_local_disconnect";

/// What outlier detection takes a timeout for.
const GATEWAY_TIMEOUT: u16 = 504;

/// What is known of one exchange.
pub(super) struct Record<'x> {
    pub context: &'x ConnectionContext,
    pub info: StreamInfo,
    /// Why the request is traced or not, where the connection manager traces.
    pub traced: Option<trace::Reason>,
    /// The request's span, where it is traced.
    pub span: Option<Span>,
    /// When the request came to the router.
    pub forwarded: Instant,
    /// The client's `x-envoy-*` headers are trusted, and its responses count as internal.
    pub internal: bool,
    /// The router took it to a cluster.
    pub routed: bool,
}

impl Record<'_> {
    /// The head of a response is about to be sent.
    pub(super) fn response(&mut self, status: u16, request_end: bool) {
        self.info.status = status;
        self.count_response(status);
        if !request_end {
            self.context.http().downstream_rq_response_before_rq_complete.inc();
        }
    }

    /// An interim response goes to the client: it counts as a response.
    pub(super) fn interim(&self, status: u16) {
        self.count_response(status);
    }

    /// Responses to health checks are not counted.
    fn count_response(&self, status: u16) {
        if self.info.health_check {
            return;
        }
        let http = self.context.http();
        http.downstream_rq_completed.inc();
        http.downstream_rq_codes.record(status);
        let listener = self.context.listener_http();
        listener.listener_rq_completed.inc();
        listener.listener_rq_codes.record(status);
    }

    /// Counts a response of the cluster, or one made in its place.
    pub(super) fn charge(&self, stats: &ClusterStats, status: u16) {
        if !self.info.health_check {
            charge(stats, status, self.internal);
        }
    }

    /// Counts a response that a host of the cluster gave.
    pub(super) fn charge_host(&self, stats: &ClusterStats, status: u16, canary: bool) {
        if self.info.health_check {
            return;
        }
        let time = millis(self.forwarded.elapsed());
        charge_host(stats, status, self.internal, time);
        if canary {
            stats.canary_upstream_rq_codes.record(status);
            stats.canary_upstream_rq_completed.inc();
            stats.canary_upstream_rq_time.record(time);
        }
    }

    /// Counts a timeout; its flag and its response code detail.
    pub(super) fn expiry(&self, expiry: Expiry) -> (Option<Flag>, &'static str) {
        let http = self.context.http();
        let cluster = self.info.cluster.as_deref().and_then(|name| self.context.local.clusters.get(name));
        let (flag, details) = match expiry {
            // Envoy sets no flag for it.
            Expiry::MaxDuration => {
                http.downstream_rq_max_duration_reached.inc();
                return (None, "max_duration_timeout");
            }
            Expiry::Route => {
                if let Some(cluster) = cluster {
                    cluster.stats().upstream_rq_timeout.inc();
                }
                (Flag::UpstreamRequestTimeout, "response_timeout")
            }
            Expiry::PerTry => (Flag::UpstreamRequestTimeout, "upstream_per_try_timeout"),
            Expiry::PerTryIdle => (Flag::UpstreamRequestTimeout, "upstream_per_try_idle_timeout"),
            Expiry::AttemptMaxDuration => (Flag::UpstreamMaxStreamDurationReached, ATTEMPT_TOO_LONG),
            Expiry::StreamIdle => {
                http.downstream_rq_idle_timeout.inc();
                (Flag::StreamIdleTimeout, "stream_idle_timeout")
            }
            Expiry::Request => {
                http.downstream_rq_timeout.inc();
                (Flag::DownstreamProtocolError, "request_overall_timeout")
            }
        };
        (Some(flag), details)
    }

    /// The client left before it had its response.
    pub(super) fn client_left(&mut self, error: DownstreamError) {
        let (flag, details) = match error {
            // A stream sees that its connection has ended, not why.
            DownstreamError::Disconnected if *self.context.drain.borrow() == Drain::Over => {
                (Flag::DownstreamConnectionTermination, LOCAL_DISCONNECT)
            }
            DownstreamError::Disconnected => {
                (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect")
            }
            DownstreamError::Reset => (Flag::DownstreamRemoteReset, "http2.remote_reset"),
            DownstreamError::TooLarge(details) => (Flag::DownstreamRemoteReset, details),
            DownstreamError::Protocol(details) => (Flag::DownstreamProtocolError, details),
        };
        self.info.flags.set(flag);
        self.info.details = Cow::Borrowed(details);
    }
}

/// Counts a response of the cluster, or one made in its place; `internal` where the request is.
pub(super) fn charge(stats: &ClusterStats, status: u16, internal: bool) {
    stats.upstream_rq_completed.inc();
    stats.upstream_rq_codes.record(status);
    if internal {
        stats.internal_upstream_rq_codes.record(status);
        stats.internal_upstream_rq_completed.inc();
    } else {
        stats.external_upstream_rq_codes.record(status);
        stats.external_upstream_rq_completed.inc();
    }
}

/// Counts a response that a host gave after so many milliseconds.
pub(super) fn charge_host(stats: &ClusterStats, status: u16, internal: bool, time: u64) {
    charge(stats, status, internal);
    stats.upstream_rq_time.record(time);
    if internal {
        stats.internal_upstream_rq_time.record(time);
    } else {
        stats.external_upstream_rq_time.record(time);
    }
}

/// Counts an attempt that ended without a response.
pub(super) fn count_failure(stats: &ClusterStats, failure: &Failure) {
    match failure {
        Failure::Upstream(UpstreamError::Protocol(_)) => stats.upstream_cx_protocol_error.inc(),
        Failure::Expired(Expiry::PerTry) => stats.upstream_rq_per_try_timeout.inc(),
        Failure::Expired(Expiry::PerTryIdle) => stats.upstream_rq_per_try_idle_timeout.inc(),
        Failure::Expired(Expiry::AttemptMaxDuration) => stats.upstream_rq_max_duration_reached.inc(),
        Failure::Response(_)
        | Failure::Expired(_)
        | Failure::Client(_)
        | Failure::NoHost
        | Failure::Upstream(_) => {}
    }
}

impl Attempt {
    /// Reports the head of a response to outlier detection, and to health checks where it asks for it.
    pub(super) fn report_response(&self, local: &Local, request: &RequestHead, response: &ResponseHead) {
        let policy = &self.cluster.policy;
        if policy.outlier.is_some() {
            self.report_seen(local, Seen::Response(effective_status(request, response)));
        }
        if policy.health.is_some() && response.fields.contains("x-envoy-immediate-health-check-fail") {
            self.report_unhealthy(local);
        }
    }

    /// Reports an attempt without a response to outlier detection. `connected` is false when it had
    /// no stream: a timeout is then that of the cluster, not that of a host.
    pub(super) fn report_failure(&self, local: &Local, failure: &Failure, connected: bool) {
        let seen = match failure {
            Failure::NoHost
            | Failure::Client(_)
            // It was reported by its status.
            | Failure::Response(_)
            | Failure::Upstream(UpstreamError::Overflow | UpstreamError::Unsendable) => return,
            Failure::Upstream(_) => Seen::Failed,
            Failure::Expired(Expiry::PerTry | Expiry::PerTryIdle | Expiry::Route) if connected => {
                Seen::Timeout(GATEWAY_TIMEOUT)
            }
            Failure::Expired(_) => return,
        };
        self.report_seen(local, seen);
    }
}

/// The status of the response; the one for its gRPC status if it has one already.
fn effective_status(request: &RequestHead, response: &ResponseHead) -> u16 {
    let grpc = response.fields.get(Known::GrpcStatus).filter(|_| request.is_grpc());
    let code = grpc.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    code.map_or(response.status, grpc::http_of_status)
}

impl Exchange<'_> {
    /// Begins the span once the route is known.
    pub(super) fn begin_span(&mut self) {
        let context = self.record.context;
        let Some(tracing) = &context.manager.tracing else { return };
        let route = self.request.matched.map(|matched| matched.route);
        let sampling = route.and_then(|route| route.sampling.as_ref()).unwrap_or(&tracing.sampling);
        let decorator = route.and_then(|route| route.decorator.as_ref());
        let head = &mut self.request.head;
        let reason = trace::decide(head, sampling);
        self.record.traced = Some(reason);
        self.record.span = trace::begin(tracing, reason, head, decorator, context.local.random_bits());
    }

    /// Counts and logs the exchange; a second call does nothing.
    pub(super) fn finish(&mut self) {
        let phase = std::mem::replace(&mut self.response.phase, Phase::Finished);
        if phase == Phase::Finished {
            return;
        }
        let complete = phase == Phase::Complete;
        let now = time::now();
        self.record.info.end = Some(now);
        self.record.info.whole = complete;
        self.note_cluster();
        self.record.info.bytes_received = self.received.get();
        if complete {
            self.record.info.upstream.response_end = self.record.info.response_start.and(Some(now));
        }
        let virtual_cluster = self.virtual_cluster().filter(|part| !part.headers.is_empty());
        self.record.info.virtual_cluster = virtual_cluster.map(|part| Arc::clone(&part.name));
        let context = self.record.context;
        let http = context.http();
        http.downstream_rq_active.dec();
        // Envoy counts every stream that does not end on both sides, also those that it resets itself.
        if !complete || self.record.info.request_end.is_none() {
            http.downstream_rq_rx_reset.inc();
        }
        if self.request.tunnel {
            http.downstream_cx_upgrades_active.dec();
        }
        http.downstream_rq_time.record(millis(now.saturating_duration_since(self.record.info.start)));
        self.count_parts();
        let health_check = self.record.info.health_check;
        let stats = context.manager.tracing_stats.shard(context.local.shard);
        if health_check {
            stats.health_check.inc();
        }
        if let (Some(reason), Some(tracing)) = (self.record.traced, &context.manager.tracing) {
            reason.count(stats, health_check);
            if let Some(span) = self.record.span.as_ref().filter(|_| !health_check) {
                span.end(tracing, context.local.shard, &self.record.info, &self.request.head);
            }
        }
        for log in &context.manager.access_log {
            log.log(context.local.shard, &self.format_context());
        }
    }

    /// Counts the request for its virtual cluster and its route, if they have statistics.
    fn count_parts(&self) {
        let info = &self.record.info;
        if !self.record.routed {
            return;
        }
        for stats in self.parts() {
            stats.vcluster_rq_total.inc();
            if info.status != 0 {
                stats.vcluster_rq_completed.inc();
                stats.vcluster_rq_codes.record(info.status);
            }
            if info.response_start.is_some() {
                stats.vcluster_rq_time.record(millis(self.record.forwarded.elapsed()));
            }
            if info.flags.has(Flag::UpstreamRequestTimeout) {
                stats.vcluster_rq_timeout.inc();
            }
        }
    }

    /// The cluster that the route names is known even where the request did not come so far.
    pub(super) fn note_cluster(&mut self) {
        if self.record.info.cluster.is_some() {
            return;
        }
        let Some(Action::Forward(forward)) = self.request.matched.map(|matched| &matched.route.action) else {
            return;
        };
        let chosen = forward.target.choose(&self.request.head, self.request.draw);
        let found = chosen.and_then(|chosen| self.record.context.local.clusters.get(chosen.cluster));
        self.record.info.cluster = found.map(|cluster| Arc::clone(&cluster.policy.name));
    }

    fn virtual_cluster(&self) -> Option<&VirtualCluster> {
        let matched = self.request.matched?;
        matched.virtual_host.virtual_cluster(&self.request.head)
    }

    /// The statistics of the request's virtual cluster and of its route, where they have any.
    pub(super) fn parts(&self) -> impl Iterator<Item = &VirtualClusterStats> {
        let part = self.virtual_cluster();
        let route = self.request.matched.and_then(|matched| matched.route.stats.as_ref());
        let shard = self.record.context.local.shard;
        part.map(|part| &part.stats).into_iter().chain(route).map(move |scope| scope.shard(shard))
    }
}

/// An exchange that is dropped on its way (its connection or the worker ended) is counted and logged like any other.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.response.phase != Phase::Finished {
            self.record.info.flags.set(Flag::DownstreamConnectionTermination);
            self.record.info.details = Cow::Borrowed(LOCAL_DISCONNECT);
            self.finish();
        }
    }
}
