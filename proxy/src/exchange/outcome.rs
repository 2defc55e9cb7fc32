//! What tries come to: another try, the head of an answer, or the answer that reports the failure; and what is counted of it.
//!
//! Part of `exchange`; calls `retry`, `local_reply`.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Sleep;

use super::Exchange;
use super::finish::millis;
use super::forward::{Failure, Tries};
use super::timers::Expiry;
use super::upload::Progress;
use crate::attempt::Attempt;
use crate::downstream::Downstream;
use crate::error::{Flag, UpstreamError};
use crate::filter::answer;
use crate::local_reply::LocalReply;
use crate::message::Known;
use crate::stats::ClusterStats;
use crate::time;

impl Exchange<'_> {
    /// How long to wait before another try; `None` when there is to be none.
    pub(super) fn retry_after(&mut self, failure: &Failure, tries: &mut Tries<'_>) -> Option<Duration> {
        let stats = tries.cluster.stats();
        let covered = match failure {
            Failure::Upstream(error) => tries.limits.retry.as_ref()?.on.covers(error),
            Failure::Expired(Expiry::PerTry) => tries.limits.retry.as_ref()?.on.reset,
            Failure::NoHost | Failure::Client(_) | Failure::Expired(_) => false,
        };
        let policy = tries.limits.retry.as_ref().filter(|_| covered)?;
        tries.retry_permit = None;
        if tries.count > policy.num_retries {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.info.flags.set(Flag::UpstreamRetryLimitExceeded);
            return None;
        }
        if !tries.replay.is_whole() {
            stats.retry_or_shadow_abandoned.inc();
            return None;
        }
        let (breaker, limits) = tries.cluster.breaker(tries.forward.priority);
        let Some(permit) = breaker.retries.acquire(limits.max_retries) else {
            stats.upstream_rq_retry_overflow.inc();
            return None;
        };
        tries.retry_permit = Some(permit);
        stats.upstream_rq_retry.inc();
        stats.upstream_rq_retry_backoff_exponential.inc();
        Some(policy.back_off(tries.count, self.context.local.random_share()))
    }

    /// Waits before a retry, unless the client leaves or the time runs out.
    pub(super) async fn back_off(
        &mut self,
        down: &mut Downstream<'_>,
        wait: Duration,
        timer: Pin<&mut Sleep>,
    ) -> Result<(), Failure> {
        let whole = down.rx.is_end();
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            error = down.rx.closed(), if whole => Err(Failure::Client(error)),
            expiry = self.timers.expired(timer) => Err(Failure::Expired(expiry)),
        }
    }

    /// The answer that reports the last failure; none when the client is gone.
    pub(super) fn failed(&mut self, failure: Failure, tries: &Tries<'_>) -> Result<(), LocalReply> {
        let cluster = tries.cluster.stats();
        let retried = tries.count > 1;
        let reply = match failure {
            Failure::Client(error) => {
                self.client_left(error);
                return Ok(());
            }
            Failure::NoHost => {
                cluster.upstream_cx_none_healthy.inc();
                // Envoy counts the try that found nobody.
                self.info.attempts = tries.count + 1;
                LocalReply::no_healthy_upstream()
            }
            Failure::Upstream(error) => {
                self.info.upstream.transport_failure = error.transport_failure();
                let mut reply = LocalReply::upstream(&error, retried);
                if self.context.manager.rules.suppress_envoy_headers {
                    reply.headers.clear();
                }
                reply
            }
            Failure::Expired(Expiry::PerTry) => LocalReply::per_try_timeout(),
            Failure::Expired(expiry) => self.too_late(expiry),
        };
        self.charge(cluster, reply.status);
        Err(reply)
    }

    /// Counts a timeout before the answer began; the answer that reports it.
    pub(super) fn too_late(&self, expiry: Expiry) -> LocalReply {
        self.count_expiry(expiry);
        match expiry {
            Expiry::Route | Expiry::PerTry => LocalReply::upstream_timeout(),
            Expiry::StreamIdle => LocalReply::stream_idle_timeout(self.info.request_end.is_some()),
            Expiry::Request => LocalReply::request_timeout(),
            Expiry::MaxDuration => LocalReply::max_duration(self.info.request_end.is_some()),
        }
    }

    /// Counts a timeout; its flag and its detail.
    pub(super) fn count_expiry(&self, expiry: Expiry) -> (Flag, &'static str) {
        let http = self.context.http();
        let cluster = self.info.cluster.as_deref().and_then(|name| self.context.local.clusters.get(name));
        match expiry {
            Expiry::Route => {
                if let Some(cluster) = cluster {
                    cluster.stats().upstream_rq_timeout.inc();
                }
                (Flag::UpstreamRequestTimeout, "response_timeout")
            }
            Expiry::PerTry => (Flag::UpstreamRequestTimeout, "upstream_per_try_timeout"),
            Expiry::StreamIdle => {
                http.downstream_rq_idle_timeout.inc();
                (Flag::StreamIdleTimeout, "stream_idle_timeout")
            }
            Expiry::Request => {
                http.downstream_rq_timeout.inc();
                (Flag::DownstreamProtocolError, "request_overall_timeout")
            }
            Expiry::MaxDuration => {
                http.downstream_rq_max_duration_reached.inc();
                (Flag::DurationTimeout, "max_duration_timeout")
            }
        }
    }

    /// Counts a stream that ended without an answer.
    pub(super) fn count_reset(&self, failure: &Failure, tries: &Tries<'_>) {
        let stats = tries.cluster.stats();
        match failure {
            Failure::Upstream(
                UpstreamError::RemoteReset
                | UpstreamError::RemoteRefused
                | UpstreamError::ConnectionTermination,
            ) => {
                stats.upstream_rq_rx_reset.inc();
            }
            Failure::Upstream(UpstreamError::Protocol(_)) => stats.upstream_cx_protocol_error.inc(),
            Failure::Expired(Expiry::PerTry) => {
                stats.upstream_rq_per_try_timeout.inc();
                stats.upstream_rq_tx_reset.inc();
            }
            Failure::Expired(_) | Failure::Client(_) => stats.upstream_rq_tx_reset.inc(),
            Failure::NoHost | Failure::Upstream(_) => {}
        }
    }

    /// An answer's head has come from the upstream: what it becomes, and its counts.
    pub(super) fn answer_head(&mut self, attempt: &Attempt, progress: &Progress) {
        let now = time::now();
        self.info.response_start = Some(now);
        if self.info.flags.is_empty() {
            self.info.details = std::borrow::Cow::Borrowed("via_upstream");
        }
        let status = self.response.status;
        self.charge(attempt.cluster.stats(), status);
        if self.info.attempts > 1 && status < 500 {
            attempt.cluster.stats().upstream_rq_retry_success.inc();
        }
        let rules = &self.context.manager.rules;
        let response = &mut self.response;
        if rules.suppress_envoy_headers {
            response.fields.remove(Known::XEnvoyUpstreamServiceTime);
        } else {
            let since = self
                .info
                .request_end
                .or(progress.received.get())
                .unwrap_or(self.info.start)
                .max(self.forwarded);
            let millis = now.saturating_duration_since(since).as_millis();
            response
                .fields
                .set(Known::XEnvoyUpstreamServiceTime, itoa::Buffer::new().format(millis).as_bytes());
        }
        self.context.local.date.with(self.info.start_time, |date| answer::response(response, rules, date));
        self.request_id_in_response();
        self.attempts_in_response();
        self.info.status = status;
        self.mutate_response();
    }

    /// Counts an answer of the cluster, or one made in its place.
    fn charge(&self, stats: &ClusterStats, status: u16) {
        stats.upstream_rq_completed.inc();
        stats.upstream_rq_codes.record(status);
        let time = millis(self.forwarded.elapsed());
        stats.upstream_rq_time.record(time);
        if self.internal {
            stats.internal_upstream_rq_codes.record(status);
            stats.internal_upstream_rq_time.record(time);
        } else {
            stats.external_upstream_rq_codes.record(status);
            stats.external_upstream_rq_completed.inc();
            stats.external_upstream_rq_time.record(time);
        }
    }
}
