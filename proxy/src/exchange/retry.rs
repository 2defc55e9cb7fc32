//! From a failed attempt to the next one: whether the request may be sent again, the counts of it,
//! and the back-off; or the local reply that reports the last failure.

use std::time::Duration;

use super::Exchange;
use super::attempt::{Attempt, Attempts, Failure, HostResult};
use super::timers::Expiry;
use crate::cluster::breaker::Permit;
use crate::downstream::Downstream;
use crate::error::{DownstreamError, Flag};
use crate::local_reply::LocalReply;
use crate::message::Version;
use crate::retry::{Cause, Wait};
use crate::stats::VirtualClusterStats;
use crate::time;

impl Exchange<'_> {
    /// The back-off before another attempt; `None` if there is no other attempt.
    pub(super) fn retry_after(&mut self, failure: &Failure, attempts: &mut Attempts<'_>) -> Option<Duration> {
        let sent = attempts.sent;
        let cause = match failure {
            Failure::Response(wait) => return Some(*wait),
            Failure::Upstream(error) => Cause::Error { error, sent },
            Failure::Expired(Expiry::PerTry | Expiry::PerTryIdle | Expiry::AttemptMaxDuration) => {
                Cause::PerTryTimeout { sent }
            }
            Failure::NoHost | Failure::Client(_) | Failure::Expired(_) => return None,
        };
        self.retry_wait(cause, attempts)
    }

    /// Whether the response that has come is retried; none when it goes to the client.
    pub(super) fn retry_response(
        &mut self,
        attempts: &mut Attempts<'_>,
        attempt: &Attempt,
    ) -> Option<Failure> {
        attempts.retries.as_ref()?;
        let response = std::mem::take(&mut self.response.head);
        let wait = self.retry_wait(Cause::Response(&response), attempts);
        self.response.head = response;
        let wait = wait?;
        let status = self.response.head.status;
        let stats = attempts.cluster.stats();
        stats.retry_upstream_rq_completed.inc();
        stats.retry_upstream_rq_codes.record(status);
        attempt.count_result(HostResult::Status(status));
        self.response.head.clear();
        Some(Failure::Response(wait))
    }

    fn retry_wait(&mut self, cause: Cause<'_>, attempts: &mut Attempts<'_>) -> Option<Duration> {
        // The permit of the retry that ended returns before another one is taken.
        attempts.retry_permit = None;
        let stats = attempts.cluster.stats();
        let retries = attempts.retries.as_mut()?;
        if !retries.cover(cause) {
            if attempts.count > 1 {
                stats.upstream_rq_retry_success.inc();
                self.count_retry(|part| part.vcluster_rq_retry_success.inc());
            }
            return None;
        }
        if !retries.take() {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.count_retry(|part| part.vcluster_rq_retry_limit_exceeded.inc());
            self.record.info.flags.set(Flag::UpstreamRetryLimitExceeded);
            return None;
        }
        let Some(permit) = retry_permit(attempts) else {
            stats.upstream_rq_retry_overflow.inc();
            self.count_retry(|part| part.vcluster_rq_retry_overflow.inc());
            self.record.info.flags.set(Flag::UpstreamOverflow);
            return None;
        };
        attempts.retry_permit = Some(permit);
        stats.upstream_rq_retry.inc();
        self.count_retry(|part| part.vcluster_rq_retry.inc());
        let random = self.record.context.local.random_share();
        match attempts.retries.as_ref()?.wait(cause, attempts.count, random, time::wall()) {
            Wait::Exponential(wait) => {
                stats.upstream_rq_retry_backoff_exponential.inc();
                Some(wait)
            }
            Wait::RateLimited(wait) => {
                stats.upstream_rq_retry_backoff_ratelimited.inc();
                Some(wait)
            }
        }
    }

    fn count_retry(&self, count: impl Fn(&VirtualClusterStats)) {
        self.parts().for_each(count);
    }

    /// Waits before a retry, unless the client leaves or a timeout runs out.
    pub(super) async fn back_off(
        &mut self,
        down: &mut Downstream<'_>,
        wait: Duration,
    ) -> Result<(), Failure> {
        Ok(self.timers.race(down.rx.closed(), tokio::time::sleep(wait)).await?)
    }

    /// The local reply that reports the last failure; none when the client is gone.
    pub(super) fn failed(&mut self, failure: Failure, attempts: &Attempts<'_>) -> Result<(), LocalReply> {
        let cluster = attempts.cluster.stats();
        let reply = match failure {
            Failure::Client(error) => return self.client_failed(error),
            Failure::NoHost => {
                cluster.upstream_cx_none_healthy.inc();
                // Envoy counts the attempt that found no host.
                self.record.info.attempts = attempts.count.saturating_add(1);
                LocalReply::no_healthy_upstream()
            }
            Failure::Upstream(error) => {
                self.record.info.upstream.transport_failure = error.transport_failure();
                let mut reply = LocalReply::upstream(&error, attempts.count > 1);
                if self.record.context.manager.rules.suppress_envoy_headers {
                    reply.headers.clear();
                }
                reply
            }
            // It is retried or forwarded: no local reply takes its place.
            Failure::Response(_) => return Ok(()),
            // As in Envoy, it is not charged.
            Failure::Expired(expiry @ Expiry::AttemptMaxDuration) => return Err(self.too_late(expiry)),
            Failure::Expired(Expiry::PerTry) => LocalReply::per_try_timeout(),
            Failure::Expired(Expiry::PerTryIdle) => LocalReply::per_try_idle_timeout(),
            // These are the connection manager's, whose replies no cluster is charged with.
            Failure::Expired(expiry @ (Expiry::StreamIdle | Expiry::Request | Expiry::MaxDuration)) => {
                return Err(self.too_late(expiry));
            }
            Failure::Expired(expiry) => self.too_late(expiry),
        };
        self.record.charge(cluster, reply.status);
        Err(reply)
    }

    /// Records a client that left; one that broke the protocol of HTTP/1 gets a response.
    pub(super) fn client_failed(&mut self, error: DownstreamError) -> Result<(), LocalReply> {
        let http1 = self.request.head.version != Version::Http2;
        match error {
            DownstreamError::Protocol(details) if http1 => Err(LocalReply::codec_error(details)),
            DownstreamError::TooLarge(details) if http1 => Err(LocalReply::trailers_too_large(details)),
            _ => {
                self.record.client_left(error);
                Ok(())
            }
        }
    }

    /// Counts a timeout before the response began; the local reply that reports it.
    pub(super) fn too_late(&self, expiry: Expiry) -> LocalReply {
        self.record.expiry(expiry);
        let request_end = self.record.info.request_end.is_some();
        match expiry {
            Expiry::Route | Expiry::PerTry | Expiry::PerTryIdle => LocalReply::upstream_timeout(),
            Expiry::AttemptMaxDuration => LocalReply::attempt_too_long(request_end),
            Expiry::StreamIdle => LocalReply::stream_idle_timeout(request_end),
            Expiry::Request => LocalReply::request_timeout(),
            Expiry::MaxDuration => LocalReply::max_duration(request_end),
        }
    }
}

fn retry_permit(attempts: &Attempts<'_>) -> Option<Permit> {
    let (breaker, limits) = attempts.cluster.breaker(attempts.forward.priority);
    breaker.retries.acquire(breaker.retry_limit(limits))
}
