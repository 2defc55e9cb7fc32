//! `envoy.filters.http.fault`: delays, aborts and slow responses on purpose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::chain::{Facts, FilterStatus, text};
use super::pace::Pace;
use crate::error::Flag;
use crate::local_reply::LocalReply;
use crate::matcher::{FractionMatcher, HeaderMatcher};
use crate::message::{Known, RequestHead};
use crate::stats::{FaultClusterStats, FaultStats, Scope};

/// The default body of an abort.
const TEXT: &str = "fault filter abort";

/// The filter of one connection manager.
#[derive(Debug)]
pub(crate) struct Fault {
    pub stats: Arc<Scope<FaultStats>>,
    /// Counts by the name in `x-envoy-downstream-service-cluster`.
    pub by_cluster: ByCluster,
    pub settings: Settings,
}

/// The counts of single downstream clusters, made when a cluster's first fault is injected.
pub(crate) struct ByCluster(Box<ScopeOf>);

/// The counts of a cluster; `None` when there are enough of them.
type ScopeOf = dyn Fn(&str) -> Option<Arc<Scope<FaultClusterStats>>> + Send + Sync;

/// The filter's settings, or those of a route.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
    pub limit: Option<Limit>,
    /// Only requests to this cluster; empty for all.
    pub upstream_cluster: Box<str>,
    pub headers: Vec<HeaderMatcher>,
    /// Only requests of these nodes; empty for all.
    pub downstream_nodes: Vec<Box<str>>,
    /// Most requests with a fault at a time.
    pub max_active: Option<u64>,
    pub count_by_cluster: bool,
    /// The runtime's numbers below `fault.http.`, for the keys of single downstream clusters.
    pub runtime: Arc<BTreeMap<String, u64>>,
}

#[derive(Debug)]
pub(crate) struct Delay {
    /// `None`: as the request says.
    pub fixed: Option<Duration>,
    pub share: FractionMatcher,
    /// What the runtime says in place of either.
    pub runtime: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Abort {
    pub kind: AbortKind,
    pub share: FractionMatcher,
    /// What the runtime says in place of an HTTP or a gRPC status.
    pub runtime_http: Option<u16>,
    pub runtime_grpc: Option<u32>,
    /// Empty for the usual one.
    pub text: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AbortKind {
    Http(u16),
    Grpc(u32),
    /// As the request says.
    Header,
}

#[derive(Debug)]
pub(crate) struct Limit {
    /// KiB a second; `None`: as the request says.
    pub fixed: Option<u64>,
    pub share: FractionMatcher,
}

/// One request.
pub(crate) struct Running<'x> {
    fault: &'x Fault,
    settings: &'x Settings,
    shard: usize,
    /// Counts among the active faults.
    active: bool,
    /// The response goes this slowly.
    pub pace: Option<Pace>,
}

impl ByCluster {
    pub(crate) fn new(
        scope: impl Fn(&str) -> Option<Arc<Scope<FaultClusterStats>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(scope))
    }
}

impl std::fmt::Debug for ByCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByCluster")
    }
}

impl Fault {
    /// `own` are the settings of the request's route.
    pub(crate) fn begin<'x>(&'x self, own: Option<&'x Settings>) -> Running<'x> {
        Running { fault: self, settings: own.unwrap_or(&self.settings), shard: 0, active: false, pace: None }
    }
}

impl Settings {
    fn means(&self, facts: &Facts<'_>) -> bool {
        let node = facts.request.fields.get(Known::XEnvoyDownstreamServiceNode);
        (self.upstream_cluster.is_empty() || (facts.goes_to)(facts.request, &self.upstream_cluster))
            && (self.downstream_nodes.is_empty()
                || node.is_some_and(|node| self.downstream_nodes.iter().any(|one| one.as_bytes() == node)))
            && self.headers.iter().all(|header| header.matches(facts.request))
    }

    /// The runtime's number for one downstream cluster.
    fn of_cluster(&self, request: &RequestHead, key: &str) -> Option<u64> {
        if self.runtime.is_empty() {
            return None;
        }
        let cluster = request.fields.get(Known::XEnvoyDownstreamServiceCluster)?;
        let cluster = std::str::from_utf8(cluster).ok().filter(|cluster| !cluster.is_empty())?;
        self.runtime.get(&format!("fault.http.{cluster}.{key}")).copied()
    }

    /// Whether a request is among a share, or among that of its downstream cluster.
    fn draws(&self, share: &FractionMatcher, facts: &Facts<'_>, key: &str, limited_by: Option<&str>) -> bool {
        let most = limited_by.and_then(|name| number(facts.request, name)).unwrap_or(u64::MAX);
        let numerator = share.numerator.min(u32::try_from(most).unwrap_or(u32::MAX));
        // What the runtime says is not for clients to lower.
        let numerator = if share.from_runtime { share.numerator } else { numerator };
        let drawn = share.draws((facts.random)(), numerator);
        let of_cluster = || {
            let percent = self.of_cluster(facts.request, key)?;
            Some((facts.random)() % 100 < percent)
        };
        drawn || (!key.is_empty() && of_cluster().unwrap_or(false))
    }
}

impl Running<'_> {
    pub(crate) fn request(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        self.shard = facts.shard;
        if !self.settings.means(facts) {
            return FilterStatus::Continue;
        }
        self.slow_down(facts);
        if let Some(wait) = self.delay(facts)
            && self.activate()
        {
            facts.info.flags.set(Flag::DelayInjected);
            self.stats().delays_injected.inc();
            self.count_by_cluster(facts.request, |stats| stats.cluster_delays_injected.inc());
            return FilterStatus::Wait(wait);
        }
        self.resume(facts)
    }

    /// After the delay: an abort or nothing.
    pub(crate) fn resume(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        let Some(reply) = self.abort(facts) else { return FilterStatus::Continue };
        if !self.activate() {
            return FilterStatus::Continue;
        }
        self.stats().aborts_injected.inc();
        self.count_by_cluster(facts.request, |stats| stats.cluster_aborts_injected.inc());
        FilterStatus::Reply(reply)
    }

    fn slow_down(&mut self, facts: &Facts<'_>) {
        let Some(limit) = &self.settings.limit else { return };
        let asked = || number(facts.request, "x-envoy-fault-throughput-response").filter(|rate| *rate > 0);
        let Some(rate) = limit.fixed.or_else(asked) else { return };
        let lowered = limit.fixed.is_none().then_some("x-envoy-fault-throughput-response-percentage");
        if self.settings.draws(&limit.share, facts, "", lowered) && self.activate() {
            self.stats().response_rl_injected.inc();
            self.pace = Some(Pace::new(rate, facts.now));
        }
    }

    fn delay(&self, facts: &Facts<'_>) -> Option<Duration> {
        let delay = self.settings.delay.as_ref()?;
        let by_header = delay.fixed.is_none();
        let lowered = by_header.then_some("x-envoy-fault-delay-request-percentage");
        if !self.settings.draws(&delay.share, facts, "delay.fixed_delay_percent", lowered) {
            return None;
        }
        let asked = || number(facts.request, "x-envoy-fault-delay-request").map(Duration::from_millis);
        let configured = delay.fixed.or_else(asked)?;
        let of_cluster = self.settings.of_cluster(facts.request, "delay.fixed_duration_ms");
        let wait = of_cluster.map(Duration::from_millis).or(delay.runtime).unwrap_or(configured);
        (!wait.is_zero()).then_some(wait)
    }

    fn abort(&self, facts: &Facts<'_>) -> Option<LocalReply> {
        let abort = self.settings.abort.as_ref()?;
        let by_header = abort.kind == AbortKind::Header;
        let lowered = by_header.then_some("x-envoy-fault-abort-request-percentage");
        if !self.settings.draws(&abort.share, facts, "abort.abort_percent", lowered) {
            return None;
        }
        let http = match abort.kind {
            AbortKind::Http(status) => Some(status),
            AbortKind::Grpc(_) => None,
            AbortKind::Header => number(facts.request, "x-envoy-fault-abort-request")
                .and_then(|status| u16::try_from(status).ok())
                .filter(|status| (200..600).contains(status)),
        };
        let grpc = || match abort.kind {
            AbortKind::Grpc(status) => Some(status),
            AbortKind::Http(_) => None,
            AbortKind::Header => number(facts.request, "x-envoy-fault-abort-grpc-request")
                .and_then(|status| u32::try_from(status).ok()),
        };
        let valid = |status: u64| u16::try_from(status).ok().filter(|status| (200..600).contains(status));
        let (status, grpc_status) = match http {
            Some(status) => {
                let of_cluster = self.settings.of_cluster(facts.request, "abort.http_status").and_then(valid);
                (of_cluster.or(abort.runtime_http).unwrap_or(status), None)
            }
            None => (200, Some(grpc().map(|status| abort.runtime_grpc.unwrap_or(status))?)),
        };
        let text = if abort.text.is_empty() { TEXT.into() } else { text(&abort.text) };
        let reply = LocalReply { body: text, ..LocalReply::new(status, "", "fault_filter_abort") };
        Some(LocalReply { flag: Some(Flag::FaultInjected), grpc_status, ..reply })
    }

    /// Counts the request among the active faults, once; false when there are enough of them.
    fn activate(&mut self) -> bool {
        if self.active {
            return true;
        }
        let active = || self.fault.stats.shards().map(|shard| shard.active_faults.get()).sum::<i64>();
        let full = |most: u64| u64::try_from(active()).unwrap_or(0) >= most;
        if self.settings.max_active.is_some_and(full) {
            self.stats().faults_overflow.inc();
            return false;
        }
        self.stats().active_faults.inc();
        self.active = true;
        true
    }

    fn stats(&self) -> &FaultStats {
        self.fault.stats.shard(self.shard)
    }

    fn count_by_cluster(&self, request: &RequestHead, count: impl Fn(&FaultClusterStats)) {
        let cluster = request.fields.get(Known::XEnvoyDownstreamServiceCluster);
        let cluster = cluster.and_then(|name| std::str::from_utf8(name).ok());
        let Some(cluster) = cluster.filter(|name| self.settings.count_by_cluster && !name.is_empty()) else {
            return;
        };
        if let Some(scope) = (self.fault.by_cluster.0)(cluster) {
            count(scope.shard(self.shard));
        }
    }
}

/// However the exchange ends, its fault ends with it.
impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.active {
            self.stats().active_faults.dec();
        }
    }
}

/// A request header as a number.
fn number(request: &RequestHead, name: &str) -> Option<u64> {
    std::str::from_utf8(request.fields.get(name)?).ok()?.trim().parse().ok()
}
