//! One try: permit -> endpoint -> connection. What came of it is reported to the host.

use std::rc::Rc;

use crate::cluster::UpstreamProtocol;
use crate::cluster::breaker::Permit;
use crate::cluster::outlier::{Seen, observe};
use crate::cluster::report::What;
use crate::error::UpstreamError;
use crate::local::Local;
use crate::message::{RequestHead, Version};
use crate::retry::RetryPolicy;
use crate::route::Priority;
use crate::upstream::{LocalCluster, LocalHost, UpstreamStream};

/// A try that holds its host; the counts are given back on drop.
pub struct Attempt {
    pub cluster: Rc<LocalCluster>,
    pub host: Rc<LocalHost>,
    priority: Priority,
    active: Active,
}

/// The host and cluster count a request as active while this lives.
struct Active {
    cluster: Rc<LocalCluster>,
    host: Rc<LocalHost>,
    permit: Option<Permit>,
    counted: bool,
}

/// How a try ended, for the host's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Status(u16),
    Failed,
    Timeout,
    /// The client left, or the answer was cut by it: nothing about the host.
    Abandoned,
}

impl Attempt {
    /// Chooses a host; `tried` holds the ids of those used before. `None` when the cluster has none to use.
    pub fn choose(
        local: &Local,
        cluster: &Rc<LocalCluster>,
        retry: Option<&RetryPolicy>,
        tried: &[u64],
        priority: Priority,
    ) -> Option<Self> {
        let (avoid, draws) = match retry {
            Some(policy) if policy.previous_hosts => (tried, policy.host_selection_attempts),
            _ => (&[][..], 0),
        };
        let host = cluster.pick(&mut |bound| local.random_below(bound), avoid, draws)?;
        let active =
            Active { cluster: Rc::clone(cluster), host: Rc::clone(&host), permit: None, counted: false };
        Some(Self { cluster: Rc::clone(cluster), host, priority, active })
    }

    /// A stream to the host, and the permit of `max_requests`.
    pub async fn connect(&mut self, head: &RequestHead) -> Result<UpstreamStream, UpstreamError> {
        let version = match self.cluster.policy.protocol {
            UpstreamProtocol::Http1 => Version::Http11,
            UpstreamProtocol::Http2 => Version::Http2,
            UpstreamProtocol::Downstream if head.version == Version::Http2 => Version::Http2,
            UpstreamProtocol::Downstream => Version::Http11,
        };
        let stream = self.host.stream(&self.cluster, version, self.priority, head).await?;
        if let Some(outlier) = &self.cluster.policy.outlier {
            // A connection never crosses a threshold.
            observe(&outlier.settings, &self.host.host.stats, self.cluster.shard(), Seen::Connected);
        }
        let (breaker, limits) = self.cluster.breaker(self.priority);
        let Some(permit) = breaker.requests.acquire(limits.max_requests) else {
            if version != Version::Http2 {
                self.cluster.stats().upstream_rq_pending_overflow.inc();
            }
            stream.finish(&self.cluster.policy);
            return Err(UpstreamError::Overflow);
        };
        self.active.begin(permit);
        Ok(stream)
    }

    /// Counts for outlier detection what came of the try; where that crosses a threshold, waits for what the writer makes of it.
    pub async fn judge(&self, local: &Local, seen: Seen) {
        local.judge(&self.cluster, &self.host, seen).await;
    }

    /// The host says itself that it is not to be used.
    pub async fn fail_now(&self, local: &Local) {
        local.report(&self.cluster, &self.host, What::FailNow).await;
    }

    /// Counts the end of the try at its host.
    pub fn report(&self, report: Report) {
        let stats = self.host.host.stats.shard(self.cluster.shard());
        match report {
            Report::Status(status) if status < 500 => stats.rq_success.inc(),
            Report::Status(_) | Report::Failed => stats.rq_error.inc(),
            Report::Timeout => stats.rq_timeout.inc(),
            Report::Abandoned => {}
        }
    }
}

impl Active {
    fn begin(&mut self, permit: Permit) {
        self.permit = Some(permit);
        self.counted = true;
        let stats = self.cluster.stats();
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let host = self.host.host.stats.shard(self.cluster.shard());
        host.rq_total.inc();
        host.rq_active.inc();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.counted {
            self.cluster.stats().upstream_rq_active.dec();
            self.host.host.stats.shard(self.cluster.shard()).rq_active.dec();
        }
    }
}
