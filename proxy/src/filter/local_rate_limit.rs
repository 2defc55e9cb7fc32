//! `envoy.filters.http.local_ratelimit`: limits of this proxy's own on the rate of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::chain::{Facts, FilterStatus};
use crate::error::Flag;
use crate::format::Context;
use crate::headers::{Changes, Values};
use crate::local_reply::LocalReply;
use crate::matcher::FractionMatcher;
use crate::message::ResponseHead;
use crate::stats::{HttpLocalRateLimitStats, Scope};

const TEXT: &str = "local_rate_limited";
const RESOURCE_EXHAUSTED: u32 = 8;

/// The filter's settings, or those of a route with a bucket of its own.
#[derive(Debug)]
pub(crate) struct Limit {
    pub stats: Arc<Scope<HttpLocalRateLimitStats>>,
    pub status: u16,
    /// `None` limits nothing.
    pub bucket: Option<TokenBucket>,
    pub enabled: Option<FractionMatcher>,
    pub enforced: Option<FractionMatcher>,
    /// Of the responses to refused requests.
    pub response: Changes,
    /// Of requests without a token that are forwarded.
    pub request: Changes,
    pub resource_exhausted: bool,
    /// `x-ratelimit-limit`, `-remaining`, `-reset`.
    pub rate_fields: bool,
    pub retry_after: bool,
}

/// Tokens that come back steadily. Shared by all workers; what they take is exact.
pub(crate) struct TokenBucket {
    max: f64,
    /// Tokens a second.
    rate: f64,
    begin: Instant,
    /// Seconds from the beginning to the time at which the bucket would have been empty, as the bits of an `f64`.
    empty_at: AtomicU64,
}

/// What a bucket said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub taken: bool,
    pub remaining: u64,
    /// Seconds until there is a token again.
    pub wait: u64,
}

/// One request.
pub(crate) struct Running<'x> {
    limit: &'x Limit,
    said: Option<Taken>,
    /// The values of the response's headers, when the request was refused.
    refused: Option<Values>,
}

/// Of what a token may fall short by rounding.
const ROUNDING: f64 = 1e-6;

impl TokenBucket {
    pub(crate) fn new(max: u32, tokens: u32, interval: Duration, now: Instant) -> Self {
        let rate = f64::from(tokens) / interval.as_secs_f64();
        let empty_at = AtomicU64::new((-f64::from(max) / rate).to_bits());
        Self { max: f64::from(max), rate, begin: now, empty_at }
    }

    /// Takes a token if there is a whole one.
    pub(crate) fn take(&self, now: Instant) -> Taken {
        let now = now.saturating_duration_since(self.begin).as_secs_f64();
        let mut before = self.empty_at.load(Relaxed);
        loop {
            let empty_at = f64::from_bits(before).max(now - self.max / self.rate);
            let tokens = (now - empty_at) * self.rate + ROUNDING;
            if tokens < 1.0 {
                return Taken {
                    taken: false,
                    remaining: 0,
                    wait: whole(((1.0 - tokens) / self.rate).ceil()),
                };
            }
            let after = (empty_at + 1.0 / self.rate).to_bits();
            match self.empty_at.compare_exchange_weak(before, after, Relaxed, Relaxed) {
                Ok(_) => {
                    let left = tokens - 1.0;
                    let wait = if left >= 1.0 { 0 } else { whole(((1.0 - left) / self.rate).ceil()) };
                    return Taken { taken: true, remaining: whole(left), wait };
                }
                Err(other) => before = other,
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is never negative
fn whole(number: f64) -> u64 {
    number.max(0.0) as u64
}

/// What it was made of; how full it is says nothing about the configuration.
impl std::fmt::Debug for TokenBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenBucket")
            .field("max", &self.max)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

impl Limit {
    pub(crate) fn begin(&self) -> Running<'_> {
        Running { limit: self, said: None, refused: None }
    }
}

impl Running<'_> {
    pub(crate) fn request(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        let limit = self.limit;
        let among =
            |share: &Option<FractionMatcher>| share.as_ref().is_some_and(|s| s.matches((facts.random)()));
        if !among(&limit.enabled) {
            return FilterStatus::Continue;
        }
        let stats = limit.stats.shard(facts.shard);
        stats.enabled.inc();
        self.said = limit.bucket.as_ref().map(|bucket| bucket.take(facts.now));
        if self.said.is_none_or(|said| said.taken) {
            stats.ok.inc();
            return FilterStatus::Continue;
        }
        stats.rate_limited.inc();
        let context = Context { request: Some(facts.request), ..Context::new(facts.info) };
        if !among(&limit.enforced) {
            let values = limit.request.evaluate(&context);
            let applied = limit.request.apply_to_request(&mut facts.request.fields, &values);
            return match applied {
                Ok(()) => FilterStatus::Continue,
                Err(name) => FilterStatus::Reply(LocalReply::invalid_header_value(name.as_name())),
            };
        }
        stats.enforced.inc();
        self.refused = Some(limit.response.evaluate(&context));
        let reply = LocalReply::new(limit.status, TEXT, TEXT);
        let grpc_status = limit.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
        FilterStatus::Reply(LocalReply { flag: Some(Flag::RateLimited), grpc_status, ..reply })
    }

    pub(crate) fn response(&mut self, response: &mut ResponseHead) {
        if let Some(values) = self.refused.take() {
            self.limit.response.apply(&mut response.fields, &values);
            if let Some(said) = self.said.filter(|_| self.limit.retry_after) {
                response.fields.set("retry-after", said.wait);
            }
        }
        let (Some(said), Some(bucket)) = (self.said, &self.limit.bucket) else { return };
        if self.limit.rate_fields {
            let fields = &mut response.fields;
            fields.push("x-ratelimit-limit", whole(bucket.max));
            fields.push("x-ratelimit-remaining", said.remaining);
            fields.push("x-ratelimit-reset", said.wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_are_not_saved_beyond_the_bucket() {
        let begin = Instant::now();
        let bucket = TokenBucket::new(2, 1, Duration::from_secs(1), begin);
        assert_eq!(bucket.take(begin), Taken { taken: true, remaining: 1, wait: 0 });
        assert_eq!(bucket.take(begin), Taken { taken: true, remaining: 0, wait: 1 });
        assert_eq!(bucket.take(begin), Taken { taken: false, remaining: 0, wait: 1 });
        let later = begin + Duration::from_secs(1);
        assert!(bucket.take(later).taken);
        assert!(!bucket.take(later).taken);
        let much_later = begin + Duration::from_secs(100);
        assert_eq!(bucket.take(much_later).remaining, 1);
        assert!(bucket.take(much_later).taken && !bucket.take(much_later).taken);
    }
}
