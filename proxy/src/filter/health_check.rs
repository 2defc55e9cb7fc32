//! `envoy.filters.http.health_check`: responds to health checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::chain::{Facts, FilterStatus, Responding};
use crate::error::Flag;
use crate::local_reply::LocalReply;
use crate::matcher::HeaderMatcher;
use crate::message::FieldValueBuf;
use crate::message::ResponseHead;
use crate::stats::{HealthCheckFilterStats, Scope};

/// The filter of one connection manager.
#[derive(Debug)]
pub(crate) struct HealthCheck {
    pub stats: Arc<Scope<HealthCheckFilterStats>>,
    /// The upstream responds.
    pub pass_through: bool,
    pub cache: Option<Cache>,
    /// Clusters, and the whole percentage of their hosts that must be healthy.
    pub clusters: Vec<(Box<str>, u64)>,
    /// Which requests are health checks.
    pub headers: Vec<HeaderMatcher>,
    /// `--service-cluster`, which each response names.
    pub service_cluster: FieldValueBuf,
}

/// The upstream's last response; it holds until the next multiple of the time from the filter's
/// beginning on, as in Envoy.
#[derive(Debug)]
pub(crate) struct Cache {
    time: Duration,
    begin: Begin,
    /// The period it came in, from 1 on, whether it was degraded, and the status; 0 before the first.
    last: AtomicU64,
}

/// The filter's beginning, which says nothing about its settings.
struct Begin(Instant);

/// One request.
pub(crate) struct Running<'x> {
    filter: &'x HealthCheck,
    is_check: bool,
    /// The upstream's response is to be kept.
    keep: bool,
    cached: Option<Cached>,
}

/// What is kept of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    status: u16,
    /// It had `x-envoy-degraded`.
    degraded: bool,
}

const DEGRADED_HEADER: &str = "x-envoy-degraded";
const STATUS_BITS: u32 = 16;
/// Above every status.
const DEGRADED: u64 = 1 << 15;

impl std::fmt::Debug for Begin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Begin")
    }
}

impl Cache {
    pub(crate) fn new(time: Duration, now: Instant) -> Self {
        Self { time, begin: Begin(now), last: AtomicU64::new(0) }
    }

    fn period(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.begin.0).as_nanos();
        u64::try_from(since / self.time.as_nanos().max(1) + 1).unwrap_or(u64::MAX >> STATUS_BITS)
    }

    fn get(&self, now: Instant) -> Option<Cached> {
        let last = self.last.load(Relaxed);
        let fresh = last >> STATUS_BITS == self.period(now) && last != 0;
        let status = u16::try_from(last & (DEGRADED - 1)).unwrap_or(503);
        fresh.then_some(Cached { status, degraded: last & DEGRADED != 0 })
    }

    fn set(&self, cached: Cached, now: Instant) {
        let degraded = if cached.degraded { DEGRADED } else { 0 };
        self.last.store(self.period(now) << STATUS_BITS | degraded | u64::from(cached.status), Relaxed);
    }
}

impl HealthCheck {
    pub(crate) fn begin(&self) -> Running<'_> {
        Running { filter: self, is_check: false, keep: false, cached: None }
    }
}

impl Running<'_> {
    pub(crate) fn request(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        self.is_check = self.filter.headers.iter().all(|header| header.matches(facts.request));
        if !self.is_check {
            return FilterStatus::Continue;
        }
        facts.info.health_check = true;
        self.cached = self.filter.cache.as_ref().and_then(|cache| cache.get(facts.now));
        if !self.filter.pass_through || facts.health_failed || self.cached.is_some() {
            return FilterStatus::Discard;
        }
        self.keep = true;
        FilterStatus::Continue
    }

    /// The whole request has come.
    pub(crate) fn resume(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        let (status, details) = self.own_response(facts);
        let good = (200..300).contains(&status);
        let stats = self.filter.stats.shard(facts.shard);
        stats.request_total.inc();
        if good {
            stats.ok_responses.inc();
        } else {
            stats.failed.inc();
        }
        let flag = (!good).then_some(Flag::FailedLocalHealthCheck);
        FilterStatus::Reply(LocalReply { flag, ..LocalReply::new(status, "", details) })
    }

    fn own_response(&self, facts: &Facts<'_>) -> (u16, &'static str) {
        let stats = self.filter.stats.shard(facts.shard);
        if facts.health_failed {
            return (503, "health_check_failed");
        }
        if let Some(cached) = self.cached {
            stats.cached_response.inc();
            if cached.degraded {
                stats.kept_degraded.inc();
            }
            return (cached.status, "health_check_cached");
        }
        if self.filter.clusters.is_empty() {
            return (200, "health_check_ok");
        }
        for (cluster, least) in &self.filter.clusters {
            match (facts.membership)(cluster) {
                None => {
                    stats.failed_cluster_not_found.inc();
                    return (503, "health_check_failed_no_cluster_found");
                }
                Some((0, _)) if *least > 0 => {
                    stats.failed_cluster_empty.inc();
                    return (503, "health_check_failed_cluster_empty");
                }
                Some((all, healthy)) if 100 * healthy < all * least => {
                    stats.failed_cluster_unhealthy.inc();
                    return (503, "health_check_failed_cluster_unhealthy");
                }
                Some(_) => {}
            }
        }
        (200, "health_check_ok_cluster_healthy")
    }

    pub(crate) fn response(&mut self, response: &mut ResponseHead, responding: Responding) {
        if self.is_check {
            if let Some(cache) = self.filter.cache.as_ref().filter(|_| self.keep) {
                let degraded = response.fields.contains(DEGRADED_HEADER);
                cache.set(Cached { status: response.status, degraded }, responding.now);
            }
            if self.cached.is_some_and(|cached| cached.degraded) {
                response.fields.set(DEGRADED_HEADER, b"");
            }
            let name = &self.filter.service_cluster;
            response.fields.set("x-envoy-upstream-healthchecked-cluster", name);
        }
        if responding.health_failed {
            response.fields.set("x-envoy-immediate-health-check-fail", b"true");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_holds_until_the_period_ends() {
        let begin = Instant::now();
        let cache = Cache::new(Duration::from_secs(10), begin);
        assert_eq!(cache.get(begin), None);
        for degraded in [true, false] {
            let teapot = Cached { status: 418, degraded };
            cache.set(teapot, begin + Duration::from_secs(7));
            assert_eq!(cache.get(begin + Duration::from_secs(9)), Some(teapot));
        }
        assert_eq!(cache.get(begin + Duration::from_secs(10)), None);
    }
}
