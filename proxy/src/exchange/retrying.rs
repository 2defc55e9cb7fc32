//! From a failed try to the next one: whether the request may be sent again, the counts of it, and the wait.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Sleep;

use super::Exchange;
use super::forward::{Failure, Tries};
use super::timers::Expiry;
use crate::attempt::{Attempt, Report};
use crate::cluster::breaker::Permit;
use crate::downstream::Downstream;
use crate::error::Flag;
use crate::retry::{Trouble, Wait};
use crate::stats::{Counter, VirtualClusterStats};
use crate::time;

impl Exchange<'_> {
    /// How long to wait before another try; `None` when there is to be none.
    pub(super) fn retry_after(&mut self, failure: &Failure, tries: &mut Tries<'_>) -> Option<Duration> {
        let sent = tries.sent;
        let trouble = match failure {
            Failure::Answer(wait) => return Some(*wait),
            Failure::Upstream(error) => Trouble::Error { error, sent },
            Failure::Expired(Expiry::PerTry | Expiry::PerTryIdle) => Trouble::PerTryTimeout { sent },
            Failure::NoHost | Failure::Client(_) | Failure::Expired(_) => return None,
        };
        self.retry_wait(trouble, tries)
    }

    /// The upstream answered: the failure that is to be tried again after, or none when the answer goes to the client.
    pub(super) fn retry_answer(&mut self, tries: &mut Tries<'_>, attempt: &Attempt) -> Option<Failure> {
        tries.retries.as_ref()?;
        let response = std::mem::take(&mut self.response);
        let wait = self.retry_wait(Trouble::Answer(&response), tries);
        self.response = response;
        let wait = wait?;
        let status = self.response.status;
        let stats = tries.cluster.stats();
        stats.retry_upstream_rq_completed.inc();
        stats.retry_upstream_rq_codes.record(status);
        attempt.report(Report::Status(status));
        self.response.clear();
        Some(Failure::Answer(wait))
    }

    fn retry_wait(&mut self, trouble: Trouble<'_>, tries: &mut Tries<'_>) -> Option<Duration> {
        let stats = tries.cluster.stats();
        // The permit of the retry that ended now is given back before another one is asked for.
        let was_retry = tries.retry_permit.take().is_some();
        let retries = tries.retries.as_mut()?;
        if !retries.cover(trouble) {
            if was_retry {
                stats.upstream_rq_retry_success.inc();
                self.count_retry(|part| &part.upstream_rq_retry_success);
            }
            return None;
        }
        if !retries.take() {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.count_retry(|part| &part.upstream_rq_retry_limit_exceeded);
            self.info.flags.set(Flag::UpstreamRetryLimitExceeded);
            return None;
        }
        let Some(permit) = retry_permit(tries) else {
            stats.upstream_rq_retry_overflow.inc();
            self.count_retry(|part| &part.upstream_rq_retry_overflow);
            self.info.flags.set(Flag::UpstreamOverflow);
            return None;
        };
        tries.retry_permit = Some(permit);
        stats.upstream_rq_retry.inc();
        self.count_retry(|part| &part.upstream_rq_retry);
        let random = self.context.local.random_share();
        match tries.retries.as_ref()?.wait(trouble, tries.count, random, time::wall()) {
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

    fn count_retry(&self, counter: impl Fn(&VirtualClusterStats) -> &Counter) {
        let part = self.matched.and_then(|matched| matched.virtual_host.virtual_cluster(&self.request));
        if let Some(part) = part {
            counter(part.stats.shard(self.context.local.shard)).inc();
        }
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
}

fn retry_permit(tries: &Tries<'_>) -> Option<Permit> {
    let (breaker, limits) = tries.cluster.breaker(tries.forward.priority);
    breaker.retries.acquire(breaker.retry_limit(limits))
}
