//! What limits a request's tries: the route's timeouts and retries, as the fields of a believed client change them.

use std::time::Duration;

use crate::headers::Rules;
use crate::message::{Known, RequestHead};
use crate::route::Forward;

/// The limits of one request.
#[derive(Debug)]
pub struct Limits {
    /// From the end of the request; `None` is no limit.
    pub timeout: Option<Duration>,
    pub per_try: Option<Duration>,
    pub per_try_idle: Option<Duration>,
    pub max_duration: Option<Duration>,
}

impl Limits {
    /// Reads and removes the control fields (those of clients not believed are gone by now), and tells the upstream how long we wait.
    pub fn of(request: &mut RequestHead, forward: &Forward, rules: &Rules) -> Self {
        let mut timeout = forward.timeout;
        let mut max_duration = forward.max_stream_duration;
        if let Some(longest) = forward.grpc_timeout_header_max
            && let Some(asked) = request.fields.get(Known::GrpcTimeout).and_then(grpc_timeout)
        {
            let asked = if longest.is_zero() { asked } else { asked.min(longest) };
            let offset = forward.grpc_timeout_header_offset.unwrap_or_default();
            max_duration = Some(if asked > offset { asked.saturating_sub(offset) } else { asked });
            timeout = None;
        }
        if let Some(asked) = take_millis(request, Known::XEnvoyUpstreamRqTimeoutMs) {
            timeout = (!asked.is_zero()).then_some(asked);
        }
        let policy = forward.retry.as_deref();
        let configured = policy.and_then(|policy| policy.per_try_timeout);
        let per_try = take_millis(request, Known::XEnvoyUpstreamRqPerTryTimeoutMs).or(configured);
        let per_try = per_try.filter(|limit| !limit.is_zero() && timeout.is_none_or(|whole| *limit < whole));
        for name in [
            Known::XEnvoyRetryOn,
            Known::XEnvoyRetryGrpcOn,
            Known::XEnvoyMaxRetries,
            Known::XEnvoyRetriableStatusCodes,
            Known::XEnvoyRetriableHeaderNames,
            Known::XEnvoyHedgeOnPerTryTimeout,
            Known::XEnvoyUpstreamRqTimeoutAltResponse,
        ] {
            request.fields.remove(name);
        }
        if !rules.suppress_envoy_headers
            && let Some(expected) = per_try.or(timeout)
        {
            request.fields.set(Known::XEnvoyExpectedRqTimeoutMs, format_args!("{}", expected.as_millis()));
        }
        let per_try_idle = policy.and_then(|policy| policy.per_try_idle_timeout);
        Self { timeout, per_try, per_try_idle, max_duration }
    }
}

fn take_millis(request: &mut RequestHead, name: Known) -> Option<Duration> {
    let value = request.fields.get(name)?;
    let millis = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    request.fields.remove(name);
    millis.map(Duration::from_millis)
}

/// A `grpc-timeout` value: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let amount: u64 = std::str::from_utf8(digits).ok().filter(|digits| digits.len() <= 8)?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_timeout_has_a_unit_and_at_most_eight_digits() {
        assert_eq!(grpc_timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout(b"2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(grpc_timeout(b"123456789S"), None);
        assert_eq!(grpc_timeout(b"5"), None);
    }
}
