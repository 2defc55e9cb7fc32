//! What tries come to: the head of an answer, or the answer that reports the failure; and what is counted of it.

use super::Exchange;
use super::finish::millis;
use super::forward::{Failure, Tries};
use super::timers::Expiry;
use super::upload::Progress;
use crate::attempt::Attempt;
use crate::error::{Flag, UpstreamError};
use crate::headers;
use crate::local_reply::LocalReply;
use crate::message::Known;
use crate::stats::ClusterStats;
use crate::time;

impl Exchange<'_> {
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
            // It is tried again, or forwarded; there is nothing to say in its place.
            Failure::Answer(_) => return Ok(()),
            Failure::Expired(Expiry::PerTry) => LocalReply::per_try_timeout(),
            Failure::Expired(Expiry::PerTryIdle) => LocalReply::per_try_idle_timeout(),
            Failure::Expired(expiry) => self.too_late(expiry),
        };
        self.charge(cluster, reply.status);
        Err(reply)
    }

    /// Counts a timeout before the answer began; the answer that reports it.
    pub(super) fn too_late(&self, expiry: Expiry) -> LocalReply {
        self.count_expiry(expiry);
        match expiry {
            Expiry::Route | Expiry::PerTry | Expiry::PerTryIdle => LocalReply::upstream_timeout(),
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
            Expiry::PerTryIdle => (Flag::StreamIdleTimeout, "upstream_per_try_idle_timeout"),
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
            Failure::Expired(Expiry::PerTryIdle) => {
                stats.upstream_rq_per_try_idle_timeout.inc();
                stats.upstream_rq_tx_reset.inc();
            }
            Failure::Answer(_) | Failure::Expired(_) | Failure::Client(_) => stats.upstream_rq_tx_reset.inc(),
            Failure::NoHost | Failure::Upstream(_) => {}
        }
    }

    /// An answer's head has come from the upstream: what it becomes, and its counts.
    pub(super) fn answer_head(&mut self, attempt: &Attempt, progress: &Progress) {
        let now = time::now();
        self.info.response_start = Some(now);
        self.info.details = std::borrow::Cow::Borrowed("via_upstream");
        let status = self.response.status;
        self.charge(attempt.cluster.stats(), status);
        let rules = &self.context.manager.rules;
        let response = &mut self.response;
        if rules.suppress_envoy_headers {
            response.fields.remove(Known::XEnvoyUpstreamServiceTime);
        } else if !self.tunnel {
            let since = self
                .info
                .request_end
                .or(progress.received.get())
                .unwrap_or(self.info.start)
                .max(self.forwarded);
            let millis = super::finish::millis(now.saturating_duration_since(since));
            response.fields.set(Known::XEnvoyUpstreamServiceTime, millis);
        }
        self.context
            .local
            .date
            .with(self.info.start_time, |date| headers::response::apply(response, rules, date));
        self.request_id_in_response();
        self.attempts_in_response();
        self.info.status = status;
        self.decorate_response();
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
