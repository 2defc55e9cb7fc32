//! The part of an exchange with an upstream in it: the cluster, the request as the route changes it,
//! and attempts until one of them has a response.
//!
//! Each attempt reads the cluster's hosts again, so that a retry does not pick one that has left.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::record::count_failure;
use super::response::{ToClient, flat};
use super::timers::{Expiry, Interrupt, Limits};
use super::upload::{Progress, Replay, TrailerLimits, Upload};
use super::{Exchange, Matched, Phase};
use crate::affinity::{Client, Criteria};
use crate::cluster::UpstreamProtocol;
use crate::cluster::balancer::{Method, Wanted};
use crate::cluster::breaker::Permit;
use crate::cluster::outlier::{Seen, observe};
use crate::cluster::report::What;
use crate::downstream::Downstream;
use crate::error::{DownstreamError, UpstreamError};
use crate::headers::Mutations;
use crate::local::Local;
use crate::local_reply::LocalReply;
use crate::message::{Authority, HeadKind, Known, Name, Path, RequestHead, Version};
use crate::retry::{Retries, RetryPolicy};
use crate::route::{BodyBuffer, Forward, HostRewrite, Priority, Weighted};
use crate::stats::ClusterStats;
use crate::time;
use crate::upstream::{LocalCluster, LocalHost, ResponseReader, UpstreamStream};

/// Why an attempt has no response that goes to the client.
#[derive(Debug)]
pub(super) enum Failure {
    /// The cluster has no host to use.
    NoHost,
    Upstream(UpstreamError),
    Expired(Expiry),
    Client(DownstreamError),
    /// The response is retried after this back-off.
    Response(Duration),
}

impl From<Interrupt> for Failure {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Client(error) => Self::Client(error),
            Interrupt::Expired(expiry) => Self::Expired(expiry),
        }
    }
}

/// What the attempts of one exchange have in common.
pub(super) struct Attempts<'x> {
    pub cluster: Rc<LocalCluster>,
    pub forward: &'x Forward,
    pub limits: Limits,
    /// `None` if there is no retry policy, or the request cannot be sent again.
    pub retries: Option<Retries>,
    /// Of the request, where hosts are picked by hash.
    pub hash: Option<u64>,
    /// The metadata that its hosts are to have.
    pub criteria: Option<&'x Criteria>,
    /// Ids of the hosts used so far.
    pub hosts: SmallVec<[u64; 4]>,
    pub count: u32,
    /// The head is the whole request. Every attempt says the same, however much of the body has come.
    pub bodyless: bool,
    /// Something of the request may have reached an upstream.
    pub sent: bool,
    /// Held from the decision to retry until the retry has the head of a response.
    pub retry_permit: Option<Permit>,
}

/// One attempt, with its host; the counts return on drop.
pub(super) struct Attempt {
    pub cluster: Rc<LocalCluster>,
    pub host: Rc<LocalHost>,
    priority: Priority,
    /// While it is there, host and cluster count a request as active.
    permit: Option<Permit>,
}

/// What came of an attempt, for the host's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostResult {
    Status(u16),
    Failed,
    Timeout,
    /// The client left: that says nothing about the host.
    Abandoned,
}

impl<'x> Exchange<'x> {
    /// Carries the request to its cluster and the response back; the error is a local reply to be
    /// sent.
    pub(super) async fn forward(
        &mut self,
        down: &mut Downstream<'_>,
        matched: Matched<'x>,
        forward: &'x Forward,
    ) -> Result<(), LocalReply> {
        let (cluster, weighted) = self.cluster(matched, forward)?;
        let context = self.record.context;
        let retries = Retries::of(forward.retry.as_ref(), &self.request.head);
        let limits = Limits::of(&mut self.request.head, forward, &context.manager, &cluster.policy);
        self.prepare_request(forward)?;
        if self.request.head.check(upstream_version(&cluster, &self.request.head)).is_err() {
            return Err(LocalReply::refused(400, "http2.invalid_target"));
        }
        let hash = self.hash(&cluster, forward);
        self.timers.limit_duration(self.record.info.start, limits.max_duration);
        if let Some(idle) = forward.idle_timeout {
            self.timers.set_idle((!idle.is_zero()).then_some(idle));
        }
        if self.request.tunnel {
            self.timers.request_complete(self.record.info.start, None);
        } else if down.rx.is_end() {
            self.request_ended(limits.timeout);
        }
        let replay_limit = replay_limit(context.listener.buffer_limit, forward);
        let held = self.request.held.take();
        let mut replay = held.unwrap_or_else(|| Replay::new(retries.is_some(), replay_limit));
        replay.mirrors = self.mirror(forward, &limits, &replay, down.rx.is_end());
        let mut attempts = Attempts {
            cluster,
            forward,
            limits,
            retries,
            hash,
            criteria: weighted.map_or(forward.criteria.as_ref(), |entry| entry.criteria.as_ref()),
            hosts: SmallVec::new(),
            count: 0,
            bodyless: down.rx.is_end() && replay.is_empty(),
            sent: false,
            retry_permit: None,
        };
        loop {
            let failure = match self.attempt(down, &mut attempts, &mut replay).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let Some(wait) = self.retry_after(&failure, &mut attempts) else {
                return self.failed(failure, &attempts);
            };
            if let Err(failure) = self.back_off(down, wait).await {
                return self.failed(failure, &attempts);
            }
        }
    }

    /// One attempt, up to its end: good when the client had a response, in whole or in part.
    async fn attempt(
        &mut self,
        down: &mut Downstream<'_>,
        attempts: &mut Attempts<'x>,
        replay: &mut Replay,
    ) -> Result<(), Failure> {
        let context = self.record.context;
        let mut attempt = Attempt::choose(&context.local, attempts).ok_or(Failure::NoHost)?;
        attempts.count = attempts.count.saturating_add(1);
        self.begin_attempt(&attempt, attempts);
        let opened = {
            let head = &self.request.head;
            let version = upstream_version(&attempt.cluster, head);
            // Pinned here and used by reference below: a stream is large, and moving it costs.
            let opening = pin!(attempt.host.stream(&attempt.cluster, version, attempt.priority, head));
            self.timers.race(down.rx.closed(), opening).await
        };
        let mut stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.record.info.upstream.ready = Some(time::now());
                if error == UpstreamError::Overflow {
                    // As in Envoy, no host is named that nothing was tried at.
                    self.record.info.upstream.host = None;
                    self.record.info.upstream.hostname = None;
                }
                return Err(attempt.not_opened(&context.local, Failure::Upstream(error)));
            }
            Err(interrupt) => return Err(attempt.not_opened(&context.local, interrupt.into())),
        };
        if let Err(error) = attempt.begin() {
            stream.finish();
            return Err(attempt.not_opened(&context.local, Failure::Upstream(error)));
        }
        self.record.info.upstream.local = stream.local;
        self.record.info.upstream.version = Some(stream.version);
        attempts.sent = true;
        let now = time::now();
        self.record.info.upstream.ready = Some(now);
        self.record.info.upstream.request_begin = Some(now);
        self.timers.begin_attempt(now, &attempts.limits);
        let result = if self.request.tunnel {
            self.converse_as_tunnel(down, &attempt, &mut stream, attempts).await
        } else {
            self.converse(down, &attempt, &mut stream, attempts, replay).await
        };
        self.timers.end_attempt();
        stream.end(attempts.cluster.stats());
        match result {
            Ok(true) => {
                stream.finish();
                Ok(())
            }
            Ok(false) => {
                if self.response.phase == (Phase::Cut { by_upstream: true }) {
                    if self.request.tunnel {
                        stream.lost();
                    }
                    if stream.version != Version::Http2 && !self.request.tunnel {
                        attempts.cluster.stats().upstream_cx_protocol_error.inc();
                    }
                    attempt.report_seen(&context.local, Seen::Failed);
                }
                Ok(())
            }
            Err(failure) => {
                if !matches!(failure, Failure::Response(_)) {
                    attempt.count_result(HostResult::of(&failure));
                    attempt.report_failure(&context.local, &failure, true);
                }
                if matches!(failure, Failure::Upstream(UpstreamError::ConnectionTermination)) {
                    stream.lost();
                }
                count_failure(attempts.cluster.stats(), &failure);
                if matches!(failure, Failure::Response(_)) {
                    // Of a response without a body nothing is left to read.
                    stream.finish();
                }
                Err(failure)
            }
        }
    }

    /// Request out, response in, both at once. True when the connection may carry another request.
    async fn converse(
        &mut self,
        down: &mut Downstream<'_>,
        attempt: &Attempt,
        stream: &mut UpstreamStream,
        attempts: &mut Attempts<'x>,
        replay: &mut Replay,
    ) -> Result<bool, Failure> {
        let Downstream { rx: body, tx: to_client } = down;
        let UpstreamStream { tx, rx, version, .. } = stream;
        let bodyless = attempts.bodyless;
        let sent = self.timers.race(body.closed(), tx.head(&self.request.head, bodyless)).await?;
        sent.map_err(Failure::Upstream)?;
        let context = self.record.context;
        let progress = Progress::default();
        let timers = self.timers;
        let manager = &context.manager.limits;
        let upload = Upload {
            body,
            tx,
            replay,
            bodyless,
            progress: &progress,
            received: self.received,
            timers,
            route_timeout: attempts.limits.timeout,
            trailer_limits: TrailerLimits {
                bytes: manager.max_request_headers_bytes,
                fields: manager.max_headers,
            },
        };
        let upload = pin!(upload.run());
        let mut to = ToClient { tx: to_client, client: upload };
        let end = self.response_head(&mut to, rx, attempts.cluster.stats()).await;
        attempts.retry_permit = None;
        self.note_progress(&progress, attempts);
        let end = end?;
        attempt.report_response(&context.local, &self.request.head, &self.response.head);
        if let Some(failure) = self.retry_response(attempts, attempt) {
            return Err(failure);
        }
        timers.end_per_try();
        self.take_over_response(attempt, &progress);
        let limits = attempt.trailer_limits(*version);
        let request_end = progress.received.get().is_some();
        let whole = self.send_response(&mut to, rx, request_end, end, limits).await;
        self.note_progress(&progress, attempts);
        self.count_result(attempt);
        Ok(whole && progress.sent.get().is_some())
    }

    /// The head of the final response; true when it is all there is.
    pub(super) async fn response_head(
        &mut self,
        to: &mut ToClient<'_, '_, impl Future<Output = DownstreamError>>,
        rx: &mut ResponseReader,
        stats: &ClusterStats,
    ) -> Result<bool, Failure> {
        let passes = self.record.context.manager.proxy_100_continue;
        // As in Envoy, the first one that is known, and no more.
        let mut first = true;
        loop {
            let head = &mut self.response.head;
            let read = self.timers.race(to.client.as_mut(), rx.head(head)).await?;
            self.timers.touch();
            match read.map_err(Failure::Upstream)? {
                HeadKind::Final { end } => return Ok(end),
                HeadKind::Interim if matches!(head.status, 100 | 102..=104) && std::mem::take(&mut first) => {
                    self.record.charge(stats, head.status);
                    if passes {
                        self.record.interim(head.status);
                        flat(self.timers.race(to.client.as_mut(), to.tx.interim(head)).await)?;
                    }
                }
                HeadKind::Interim => {}
            }
        }
    }

    /// Counts at its host what came of an attempt that had a response.
    pub(super) fn count_result(&self, attempt: &Attempt) {
        let complete = self.response.phase == Phase::Complete;
        let status = HostResult::Status(self.record.info.status);
        attempt.count_result(if complete { status } else { HostResult::Abandoned });
    }

    fn note_progress(&mut self, progress: &Progress, attempts: &mut Attempts<'_>) {
        if progress.overflowed.take() {
            attempts.retries = None;
            attempts.cluster.stats().retry_or_shadow_abandoned.inc();
        }
        let info = &mut self.record.info;
        info.request_end = info.request_end.or(progress.received.get());
        info.upstream.request_sent = progress.sent.get();
        info.bytes_received = self.received.get();
    }

    /// The cluster that the route sends the request to, and the entry that says so of several.
    fn cluster(
        &mut self,
        matched: Matched<'x>,
        forward: &'x Forward,
    ) -> Result<(Rc<LocalCluster>, Option<&'x Weighted>), LocalReply> {
        let context = self.record.context;
        let chosen = forward.target.choose(&self.request.head, self.request.draw);
        let by_header = chosen.is_some_and(|chosen| chosen.by_header);
        let found = chosen.and_then(|chosen| context.local.clusters.get(chosen.cluster));
        let weighted = chosen.and_then(|chosen| chosen.weighted);
        let Some(cluster) = found.filter(|cluster| !by_header || cluster.policy.selectable_by_header) else {
            context.http().no_cluster.inc();
            return Err(LocalReply::cluster_not_found(forward.not_found_status));
        };
        self.record.info.cluster = Some(Arc::clone(&cluster.policy.name));
        self.record.routed = true;
        self.request.matched = Some(Matched { weighted: weighted.map(|entry| &entry.mutations), ..matched });
        if let Some(host) = weighted.and_then(|entry| entry.host_rewrite.as_ref()) {
            // As in Envoy, no header says what it was.
            self.request.head.authority = host.clone();
        }
        Ok((cluster, weighted))
    }

    /// The hash of the request, where the cluster picks hosts by it. What it makes of a cookie goes
    /// into the response.
    fn hash(&mut self, cluster: &LocalCluster, forward: &Forward) -> Option<u64> {
        if !matches!(cluster.policy.balancer.method, Method::Hash { .. }) {
            return None;
        }
        let info = &self.record.info;
        let (peer, local) = (info.connection.peer, info.connection.local);
        let policies = cluster.policy.hash.as_ref().unwrap_or(&forward.hash);
        let hashed = policies.hash(&self.request.head, Client { remote: info.remote, peer, local });
        self.response.cookies = hashed.cookies;
        hashed.hash
    }

    /// The configured changes to the request: headers, host, path.
    fn prepare_request(&mut self, forward: &Forward) -> Result<(), LocalReply> {
        let levels = self.mutations();
        let values: Vec<_> =
            levels.iter().map(|level| level.request.evaluate(&self.format_context())).collect();
        let head = &mut self.request.head;
        for (level, values) in levels.iter().zip(&values) {
            let applied = level.request.apply_to_request(&mut head.fields, values);
            applied.map_err(|name| LocalReply::invalid_header_value(name.as_name()))?;
        }
        let says_original = !self.record.context.manager.rules.suppress_envoy_headers;
        let invalid = |_| LocalReply::invalid_header_value(Name::Other(b":authority"));
        if let Some(host) = forward.host.host(head).transpose().map_err(invalid)? {
            rewrite_host(head, host, forward.append_x_forwarded_host, says_original);
        }
        let Some(matched) = self.request.matched else { return Ok(()) };
        if let Some(path) = forward.rewrite_path(&matched.route.path, &head.path) {
            let invalid = |_| LocalReply::invalid_header_value(Name::Other(b":path"));
            let original = std::mem::replace(&mut head.path, Path::new(path).map_err(invalid)?);
            if says_original {
                head.fields.set(Known::XEnvoyOriginalPath, &original);
            }
        }
        Ok(())
    }

    /// The levels of the routes that change headers, in the order in which they are applied: the
    /// last one wins.
    pub(super) fn mutations(&self) -> SmallVec<[&'x Mutations; 4]> {
        let mut levels = SmallVec::new();
        let Some(matched) = self.request.matched else { return levels };
        let routes = &self.record.context.manager.routes;
        levels.extend(matched.weighted);
        levels.extend([&matched.route.mutations, &matched.virtual_host.mutations, &routes.mutations]);
        if routes.most_specific_wins {
            levels.reverse();
        }
        levels.retain(|level| !level.is_empty());
        levels
    }

    /// The result of an attempt, for outlier detection and for the log.
    fn begin_attempt(&mut self, attempt: &Attempt, attempts: &mut Attempts<'_>) {
        let (host, head) = (&attempt.host.host, &mut self.request.head);
        attempts.hosts.push(host.id);
        self.record.info.attempts = attempts.count;
        self.record.info.upstream.host = Some(host.address);
        self.record.info.upstream.hostname.clone_from(&attempt.host.hostname);
        if matches!(attempts.forward.host, HostRewrite::Endpoint)
            && !host.hostname.is_empty()
            && let Ok(host) = Authority::new(host.hostname.as_str())
        {
            let says_original = !self.record.context.manager.rules.suppress_envoy_headers;
            rewrite_host(head, host, attempts.forward.append_x_forwarded_host, says_original);
        }
        if attempts.count > 1 && !self.record.context.manager.rules.suppress_envoy_headers {
            let since = self.record.info.request_end.map(|end| end.max(self.record.forwarded));
            let waited = since.map(|since| time::now().saturating_duration_since(since));
            attempts.limits.announce(head, waited.unwrap_or_default());
        }
        if self.request.matched.is_some_and(|matched| matched.virtual_host.include_request_attempt_count) {
            head.fields.set("x-envoy-attempt-count", attempts.count);
        }
    }
}

/// How much of the request's body is kept for sending it again.
pub(super) fn replay_limit(of_listener: usize, forward: &Forward) -> usize {
    match forward.body_buffer {
        BodyBuffer::Listener => of_listener,
        BodyBuffer::AtMost(limit) => limit.min(of_listener),
        BodyBuffer::Exactly(limit) => limit,
    }
}

/// A host instead of the one that the request names. `append_x_forwarded_host` and
/// `x-envoy-original-host` tell the upstream which that was.
fn rewrite_host(head: &mut RequestHead, host: Authority, append: bool, says_original: bool) {
    let original = std::mem::replace(&mut head.authority, host);
    let last =
        head.fields.get(Known::XForwardedHost).and_then(|list| list.rsplit(|&byte| byte == b',').next());
    if original.is_empty() {
        return;
    }
    if append && last != Some(&*original) {
        head.fields.append(Known::XForwardedHost, ",", &original);
    }
    if says_original {
        head.fields.set(Known::XEnvoyOriginalHost, &original);
    }
}

impl Attempt {
    /// Chooses a host; `None` when the cluster has none to use.
    fn choose(local: &Local, attempts: &Attempts<'_>) -> Option<Self> {
        let wanted = Wanted { hash: attempts.hash, criteria: attempts.criteria, ..Wanted::default() };
        let wanted = match attempts.retries.as_ref().and_then(Retries::policy) {
            Some(RetryPolicy { previous_hosts: true, host_selection_attempts, .. }) => {
                Wanted { avoid: &attempts.hosts, draws: *host_selection_attempts, ..wanted }
            }
            _ => wanted,
        };
        Self::of(local, &attempts.cluster, attempts.forward.priority, wanted)
    }

    /// Chooses a host of a cluster; `None` when it has none to use.
    pub(super) fn of(
        local: &Local,
        cluster: &Rc<LocalCluster>,
        priority: Priority,
        wanted: Wanted<'_>,
    ) -> Option<Self> {
        let host = cluster.pick(&mut |bound| local.random_below(bound), wanted)?;
        Some(Self { cluster: Rc::clone(cluster), host, priority, permit: None })
    }

    /// The attempt has its stream: takes the permit of `max_requests` and counts it as active.
    pub(super) fn begin(&mut self) -> Result<(), UpstreamError> {
        let host = &self.host.host.stats;
        if let Some(outlier) = &self.cluster.policy.outlier {
            // A connection never crosses a threshold.
            observe(&outlier.settings, host, self.cluster.shard(), Seen::Connected);
        }
        let (breaker, limits) = self.cluster.breaker(self.priority);
        let stats = self.cluster.stats();
        let Some(permit) = breaker.requests.acquire(limits.max_requests) else {
            stats.upstream_rq_active_overflow.inc();
            return Err(UpstreamError::Overflow);
        };
        self.permit = Some(permit);
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let host = host.shard(self.cluster.shard());
        host.rq_total.inc();
        host.rq_active.inc();
        Ok(())
    }

    /// Counts and reports an attempt that had no stream.
    pub(super) fn not_opened(&self, local: &Local, failure: Failure) -> Failure {
        if matches!(failure, Failure::Client(_) | Failure::Expired(_)) {
            self.cluster.stats().upstream_rq_cancelled.inc();
        }
        self.count_result(HostResult::of(&failure));
        self.report_failure(local, &failure, false);
        failure
    }

    /// Reports to outlier detection what was seen of the host.
    pub(super) fn report_seen(&self, local: &Local, seen: Seen) {
        local.report_outcome(&self.cluster, &self.host, seen);
    }

    /// The host says itself that it is not to be used.
    pub(super) fn report_unhealthy(&self, local: &Local) {
        local.report(&self.cluster, &self.host, What::FailNow { responses: 1 });
    }

    /// Counts at the host what came of the attempt.
    pub(super) fn count_result(&self, result: HostResult) {
        let stats = self.host.host.stats.shard(self.cluster.shard());
        match result {
            HostResult::Status(status) if status < 500 => stats.rq_success.inc(),
            HostResult::Status(_) | HostResult::Failed => stats.rq_error.inc(),
            HostResult::Timeout => stats.rq_timeout.inc(),
            HostResult::Abandoned => {}
        }
    }

    /// What the trailers of a response may be: as its headers.
    pub(super) fn trailer_limits(&self, version: Version) -> TrailerLimits {
        let policy = &self.cluster.policy;
        if version == Version::Http2 {
            return TrailerLimits { bytes: policy.http2.max_head_bytes, fields: policy.http2.max_fields };
        }
        TrailerLimits { bytes: policy.http1.limits.bytes, fields: policy.http1.limits.fields }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.cluster.stats().upstream_rq_active.dec();
            self.host.host.stats.shard(self.cluster.shard()).rq_active.dec();
        }
    }
}

impl HostResult {
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::NoHost
            | Failure::Client(_)
            | Failure::Response(_)
            | Failure::Upstream(UpstreamError::Unsendable) => Self::Abandoned,
            Failure::Upstream(_) => Self::Failed,
            Failure::Expired(_) => Self::Timeout,
        }
    }
}

/// The protocol in which a cluster's hosts are spoken to.
pub(super) fn upstream_version(cluster: &LocalCluster, head: &RequestHead) -> Version {
    match cluster.policy.protocol {
        UpstreamProtocol::Http1 => Version::Http11,
        UpstreamProtocol::Http2 => Version::Http2,
        UpstreamProtocol::Downstream if head.version == Version::Http2 => Version::Http2,
        UpstreamProtocol::Downstream => Version::Http11,
    }
}
