//! What a try says about its host: to outlier detection, and to health checks where the answer asks for it.
//!
//! What makes the writer act is waited for before the client has its answer, so that its next request finds the host out.

use super::Exchange;
use super::forward::Failure;
use super::timers::Expiry;
use crate::attempt::Attempt;
use crate::cluster::outlier::Seen;
use crate::error::UpstreamError;
use crate::grpc;
use crate::message::Known;

/// What the client is told when the upstream did not answer in time.
const GATEWAY_TIMEOUT: u16 = 504;

impl Exchange<'_> {
    /// The head of an answer has come.
    pub(super) async fn judge_answer(&self, attempt: &Attempt) {
        let local = &self.context.local;
        if attempt.cluster.policy.outlier.is_some() {
            attempt.judge(local, Seen::Answer(self.status_of_answer())).await;
        }
        if attempt.cluster.policy.health.is_some()
            && self.response.fields.contains("x-envoy-immediate-health-check-fail")
        {
            attempt.fail_now(local).await;
        }
    }

    /// There was no connection, or no permit to use it.
    pub(super) async fn judge_unconnected(&self, attempt: &Attempt, failure: &Failure) {
        // Who waits for a connection waits for the cluster, not for a host.
        if !matches!(failure, Failure::Expired(_)) {
            self.judge_failure(attempt, failure).await;
        }
    }

    /// There was no answer.
    pub(super) async fn judge_failure(&self, attempt: &Attempt, failure: &Failure) {
        let seen = match failure {
            Failure::NoHost
            | Failure::Client(_)
            // It was judged by its status.
            | Failure::Answer(_)
            | Failure::Upstream(UpstreamError::Overflow) => return,
            Failure::Upstream(_) => Seen::Failed,
            Failure::Expired(Expiry::PerTry | Expiry::PerTryIdle | Expiry::Route) => Seen::Timeout(GATEWAY_TIMEOUT),
            Failure::Expired(_) => return,
        };
        attempt.judge(&self.context.local, seen).await;
    }

    /// The status of the answer; that which its gRPC status stands for where it has one already.
    fn status_of_answer(&self) -> u16 {
        let grpc = self.response.fields.get(Known::GrpcStatus).filter(|_| self.request.is_grpc());
        let code = grpc.and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        code.map_or(self.response.status, grpc::http_of_status)
    }
}
