//! Which failures are tried again after, how often, and after what wait.
//!
//! Tests of `retry`.

use super::*;
use crate::matcher::HeaderRule;
use crate::message::FieldValue;

fn policy(on: &str) -> RetryPolicy {
    RetryPolicy {
        on: RetryOn::parse(on),
        num_retries: 1,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        previous_hosts: false,
        host_selection_attempts: 1,
        base_interval: BASE_INTERVAL,
        max_interval: Duration::from_millis(60),
        rate_limited: None,
        status_codes: vec![418],
        headers: Vec::new(),
        request_headers: Vec::new(),
    }
}

fn request(fields: &[(&'static str, &str)]) -> RequestHead {
    let mut head = RequestHead { path: "/".into(), ..RequestHead::default() };
    for (name, value) in fields {
        head.fields.set(*name, FieldValue::new(value.as_bytes()).unwrap());
    }
    head
}

fn retries(on: &str, fields: &[(&'static str, &str)]) -> Option<Retries> {
    Retries::of(Some(&Arc::new(policy(on))), &request(fields))
}

fn response(status: u16, fields: &[(&'static str, &str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    for (name, value) in fields {
        head.fields.set(*name, FieldValue::new(value.as_bytes()).unwrap());
    }
    head
}

/// The statuses of 400 to 511 that are tried again after.
fn covered(on: &str, fields: &[(&'static str, &str)]) -> Vec<u16> {
    let Some(retries) = retries(on, fields) else { return Vec::new() };
    (400..512).filter(|status| retries.cover(Cause::Response(&response(*status, &[])))).collect()
}

#[test]
fn each_condition_names_its_statuses() {
    assert_eq!(covered("gateway-error", &[]), [502, 503, 504]);
    assert_eq!(covered("5xx", &[]), (500..512).collect::<Vec<_>>());
    assert_eq!(covered("retriable-4xx", &[]), [409]);
    assert_eq!(covered("retriable-status-codes", &[]), [418]);
    let named = [("x-envoy-retriable-status-codes", "430, 431")];
    assert_eq!(covered("retriable-status-codes", &named), [418, 430, 431]);
    assert_eq!(covered("connect-failure,reset,nonsense", &[]), [0; 0]);
}

#[test]
fn resets_are_covered_by_the_status_that_would_report_them() {
    let covers = |on: &str, error: &UpstreamError, sent| {
        retries(on, &[]).is_some_and(|retries| retries.cover(Cause::Error { error, sent }))
    };
    let refused = UpstreamError::ConnectFailure(String::new());
    for on in ["reset", "5xx", "gateway-error"] {
        assert!(covers(on, &UpstreamError::ConnectionTermination, true), "{on}");
        assert!(covers(on, &refused, false), "{on}");
        assert!(!covers(on, &UpstreamError::Overflow, false), "{on}");
    }
    assert!(covers("connect-failure", &refused, false));
    assert!(!covers("connect-failure", &UpstreamError::ConnectionTermination, true));
    assert!(covers("refused-stream", &UpstreamError::RemoteRefused, true));
    assert!(!covers("refused-stream", &UpstreamError::RemoteReset, true));
    assert!(covers("reset-before-request", &refused, false));
    assert!(!covers("reset-before-request", &UpstreamError::RemoteReset, true));
    let timeout =
        |on| retries(on, &[]).is_some_and(|retries| retries.cover(Cause::PerTryTimeout { sent: true }));
    assert_eq!([timeout("5xx"), timeout("reset"), timeout("connect-failure")], [true, true, false]);
}

#[test]
fn grpc_codes_and_headers_of_a_response_are_conditions() {
    let unavailable = response(200, &[("grpc-status", "14")]);
    assert!(retries("unavailable", &[]).unwrap().cover(Cause::Response(&unavailable)));
    assert!(!retries("cancelled", &[]).unwrap().cover(Cause::Response(&unavailable)));
    let by_request = retries("", &[("x-envoy-retry-grpc-on", "cancelled,unavailable")]).unwrap();
    assert!(by_request.cover(Cause::Response(&unavailable)));
    let named = [("x-envoy-retriable-header-names", "X-Again,x-more")];
    let again = response(200, &[("x-again", "")]);
    assert!(retries("retriable-headers", &named).unwrap().cover(Cause::Response(&again)));
    assert!(!retries("retriable-headers", &[]).unwrap().cover(Cause::Response(&again)));
}

#[test]
fn a_response_of_a_rate_limit_is_retried_only_by_its_own_condition() {
    let limited = response(503, &[("x-envoy-ratelimited", "true")]);
    assert!(!retries("5xx", &[]).unwrap().cover(Cause::Response(&limited)));
    assert!(retries("envoy-ratelimited", &[]).unwrap().cover(Cause::Response(&limited)));
}

#[test]
fn a_request_may_ask_for_retries_and_for_how_many() {
    let count = |retries: Option<Retries>| {
        let mut retries = retries?;
        Some((0..10).take_while(|_| retries.take()).count())
    };
    assert_eq!(count(Retries::of(None, &request(&[]))), None);
    assert_eq!(count(Retries::of(None, &request(&[("x-envoy-retry-on", "5xx")]))), Some(1));
    let four = [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "4")];
    assert_eq!(count(Retries::of(None, &request(&four))), Some(4));
    assert_eq!(count(retries("5xx", &[("x-envoy-max-retries", "3")])), Some(3));
    assert_eq!(count(retries("", &[("x-envoy-max-retries", "3")])), None);
}

#[test]
fn only_requests_that_the_policy_names_are_retried() {
    let only = HeaderMatcher {
        name: ":method".into(),
        rule: HeaderRule::String(crate::matcher::StringMatch::Exact {
            text: "GET".into(),
            ignore_case: false,
        }),
        invert: false,
        treat_missing_as_empty: false,
    };
    let policy = Arc::new(RetryPolicy { request_headers: vec![only], ..policy("5xx") });
    let post = RequestHead { method: crate::message::Method::Post, ..request(&[]) };
    assert!(Retries::of(Some(&policy), &request(&[])).is_some());
    assert!(Retries::of(Some(&policy), &post).is_none());
}

#[test]
fn the_wait_doubles_up_to_its_limit() {
    let retries = retries("5xx", &[]).unwrap();
    let cause = Cause::PerTryTimeout { sent: true };
    let waits: Vec<_> = (1..=3).map(|retry| retries.wait(cause, retry, 1.0, UNIX_EPOCH)).collect();
    assert_eq!(waits, [25, 50, 60].map(|millis| Wait::Exponential(Duration::from_millis(millis))));
}

#[test]
fn a_response_may_say_when_to_come_again() {
    let header = |name: &str, timestamp| ResetHeader { name: name.into(), timestamp };
    let limits = RateLimitedBackOff {
        reset_headers: vec![header("retry-after", false), header("reset-at", true)],
        max_interval: Duration::from_secs(300),
    };
    let policy = Arc::new(RetryPolicy { rate_limited: Some(limits), ..policy("5xx") });
    let retries = Retries::of(Some(&policy), &request(&[])).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    let wait =
        |fields: &[(&'static str, &str)]| retries.wait(Cause::Response(&response(503, fields)), 1, 0.0, now);
    assert_eq!(wait(&[("retry-after", "7")]), Wait::RateLimited(Duration::from_secs(7)));
    assert_eq!(wait(&[("reset-at", "1030")]), Wait::RateLimited(Duration::from_secs(30)));
    let both = [("retry-after", "301"), ("reset-at", "1030")];
    assert_eq!(wait(&both), Wait::RateLimited(Duration::from_secs(30)), "the first one is too long");
    assert_eq!(wait(&[("retry-after", "soon")]), Wait::Exponential(Duration::ZERO));
}
