//! Retries: whether a failed attempt may be made again, and after what wait. Pure.
//!
//! Why: a connection that could not be made, a refused or a reset stream says nothing about the next
//! host, and a 503 often little.
//! Triggers: the attempt failed, or got a response, in a way that the route's policy or the request
//! itself names; attempts are left; nothing of a response was sent; the request can be sent again; and
//! the cluster's `max_retries`, or its retry budget, permits it.
//! Recovers: each retry waits for a random part of an exponentially growing interval, or as long as
//! the response asked for.
//! Against Envoy: the same conditions and waits; `http3-post-connect-failure` never occurs without
//! HTTP/3.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smallvec::SmallVec;

use crate::error::UpstreamError;
use crate::matcher::HeaderMatcher;
use crate::message::{Fields, Known, RequestHead, ResponseHead};
use crate::time::Backoff;

mod conditions;
#[cfg(test)]
#[path = "../tests/unit/retry.rs"]
mod tests;

pub(crate) use conditions::RetryOn;

/// A route's or virtual host's `retry_policy`.
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    pub on: RetryOn,
    /// Attempts after the first (1).
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    /// An attempt ends when no byte of its response comes for this long.
    pub per_try_idle_timeout: Option<Duration>,
    /// Hosts used before are avoided (`previous_hosts`); another is looked for at most so many times.
    pub previous_hosts: bool,
    pub host_selection_attempts: u32,
    /// 25 ms.
    pub base_interval: Duration,
    /// Ten times the base.
    pub max_interval: Duration,
    pub rate_limited: Option<RateLimitedBackOff>,
    pub status_codes: Vec<u16>,
    /// Of responses, for `retriable-headers`.
    pub headers: Vec<HeaderMatcher>,
    /// When there are any, only requests that match one of them are retried.
    pub request_headers: Vec<HeaderMatcher>,
}

/// `rate_limited_retry_back_off`: the wait that a response asks for.
#[derive(Debug)]
pub(crate) struct RateLimitedBackOff {
    /// Headers of the response; the first with a usable value counts.
    pub reset_headers: Vec<ResetHeader>,
    /// A response that asks for a longer wait is ignored (300 s).
    pub max_interval: Duration,
}

/// A header that says when a limit is lifted.
#[derive(Debug)]
pub(crate) struct ResetHeader {
    /// In lower case.
    pub name: Box<str>,
    /// The moment as a UNIX time stamp; else seconds from now.
    pub timestamp: bool,
}

/// The retries of one request: those of its policy, as its own headers extend them.
#[derive(Debug)]
pub(crate) struct Retries {
    policy: Option<Arc<RetryPolicy>>,
    on: RetryOn,
    left: u32,
    /// Of `x-envoy-retriable-status-codes`.
    status_codes: SmallVec<[u16; 4]>,
    /// Of `x-envoy-retriable-header-names`: present in the response.
    header_names: HashSet<Box<[u8]>>,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause<'a> {
    Error {
        error: &'a UpstreamError,
        /// Something of the request may have reached an upstream.
        sent: bool,
    },
    /// The attempt took longer than `per_try_timeout` or `per_try_idle_timeout`.
    PerTryTimeout {
        sent: bool,
    },
    Response(&'a ResponseHead),
}

/// How long to wait before another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Exponential(Duration),
    /// As long as the response asked for, and a random part of half of that.
    RateLimited(Duration),
}

impl Retries {
    /// The retries of a request; its control headers (those of untrusted clients are gone by now) are
    /// read, not removed. `None` when no failure could be covered.
    pub(crate) fn of(policy: Option<&Arc<RetryPolicy>>, request: &RequestHead) -> Option<Self> {
        let field = |name: Known| request.fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let (on, grpc_on) = (field(Known::XEnvoyRetryOn), field(Known::XEnvoyRetryGrpcOn));
        if policy.is_none() && on.is_none() && grpc_on.is_none() {
            return None;
        }
        let configured = policy.map_or(RetryOn::default(), |policy| policy.on);
        let on = configured
            | RetryOn::of_http(on.unwrap_or_default())
            | RetryOn::of_grpc(grpc_on.unwrap_or_default());
        let limited = policy.is_some_and(|policy| {
            !policy.request_headers.is_empty()
                && !policy.request_headers.iter().any(|header| header.matches(request))
        });
        if on == RetryOn::default() || limited {
            return None;
        }
        let asked = field(Known::XEnvoyMaxRetries).and_then(|text| text.trim().parse().ok());
        let list = |name| field(name).into_iter().flat_map(|text| text.split(',')).map(str::trim);
        Some(Self {
            policy: policy.cloned(),
            on,
            left: asked.unwrap_or_else(|| policy.map_or(1, |policy| policy.num_retries)),
            status_codes: list(Known::XEnvoyRetriableStatusCodes)
                .filter_map(|code| code.parse().ok())
                .collect(),
            header_names: list(Known::XEnvoyRetriableHeaderNames)
                .filter(|name| !name.is_empty())
                .map(|name| name.to_ascii_lowercase().into_bytes().into())
                .collect(),
        })
    }

    /// Whether the policy retries this failure.
    pub(crate) fn cover(&self, cause: Cause<'_>) -> bool {
        match cause {
            Cause::Error { error, sent } => self.on.covers_error(error, sent),
            Cause::PerTryTimeout { sent } => self.on.covers_timeout(sent),
            Cause::Response(head) => self.cover_response(head),
        }
    }

    fn cover_response(&self, head: &ResponseHead) -> bool {
        if head.fields.get(Known::XEnvoyRateLimited).is_some() {
            return self.on.has(RetryOn::ENVOY_RATELIMITED);
        }
        let status = head.status;
        let policy = self.policy.as_deref();
        let listed = || {
            self.status_codes.contains(&status)
                || policy.is_some_and(|policy| policy.status_codes.contains(&status))
        };
        let marked = || {
            (!self.header_names.is_empty()
                && head.fields.iter().any(|(name, _)| self.header_names.contains(name.as_bytes())))
                || policy
                    .is_some_and(|policy| policy.headers.iter().any(|header| header.matches_response(head)))
        };
        self.on.covers_status(status)
            || (self.on.has(RetryOn::RETRIABLE_STATUS_CODES) && listed())
            || (self.on.has(RetryOn::RETRIABLE_HEADERS) && marked())
            || (self.on.has_grpc() && grpc_status(&head.fields).is_some_and(|code| self.on.covers_grpc(code)))
    }

    /// Takes one of the attempts that are left; false when there is none.
    pub(crate) fn take(&mut self) -> bool {
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }

    /// The wait before retry number `retry` (1 is the first). `random` is in 0..1.
    pub(crate) fn wait(&self, cause: Cause<'_>, retry: u32, random: f64, now: SystemTime) -> Wait {
        let limits = self.policy.as_ref().and_then(|policy| policy.rate_limited.as_ref());
        if let Cause::Response(head) = cause
            && let Some(asked) = limits.and_then(|limits| limits.asked(&head.fields, now))
        {
            return Wait::RateLimited(asked + (asked / 2).mul_f64(random.clamp(0.0, 1.0)));
        }
        let (base, max) = self.policy.as_ref().map_or((BASE_INTERVAL, BASE_INTERVAL * 10), |policy| {
            (policy.base_interval, policy.max_interval)
        });
        Wait::Exponential(Backoff::new(base, max).after(retry.saturating_sub(1)).next(random))
    }

    /// How hosts are chosen for retries.
    pub(crate) fn policy(&self) -> Option<&RetryPolicy> {
        self.policy.as_deref()
    }
}

/// The interval that the first wait is drawn from, unless the policy says otherwise.
pub(crate) const BASE_INTERVAL: Duration = Duration::from_millis(25);

impl RateLimitedBackOff {
    fn asked(&self, fields: &Fields, now: SystemTime) -> Option<Duration> {
        let mut asked = self.reset_headers.iter().filter_map(|header| header.interval(fields, now));
        // Envoy takes no less than two milliseconds for a wait.
        asked.find(|wait| *wait <= self.max_interval).filter(|wait| wait.as_millis() > 1)
    }
}

impl ResetHeader {
    fn interval(&self, fields: &Fields, now: SystemTime) -> Option<Duration> {
        let text = std::str::from_utf8(fields.get(&*self.name)?).ok()?;
        let seconds: u64 = text.trim().parse().ok()?;
        if !self.timestamp {
            return Some(Duration::from_secs(seconds));
        }
        let since = now.duration_since(UNIX_EPOCH).ok()?;
        seconds.checked_sub(since.as_secs()).map(Duration::from_secs)
    }
}

fn grpc_status(fields: &Fields) -> Option<u32> {
    std::str::from_utf8(fields.get(Known::GrpcStatus)?).ok()?.trim().parse().ok()
}
