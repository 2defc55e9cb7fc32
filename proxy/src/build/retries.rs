//! Retry policies -> `retry::RetryPolicy`.

use std::time::Duration;

use xds::envoy::config::route::v3::RetryPolicy as Message;
use xds::envoy::config::route::v3::retry_policy::{RateLimitedRetryBackOff, ResetHeaderFormat};

use super::place::{Code, Extension, Place};
use super::values::{duration, limit};
use super::{Cx, matchers};
use crate::matcher::HeaderMatcher;
use crate::retry::{BASE_INTERVAL, RateLimitedBackOff, ResetHeader, RetryOn, RetryPolicy};

/// A retry policy.
pub(super) fn policy(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<RetryPolicy> {
    let back_off = message.retry_back_off.as_ref();
    let base = back_off.and_then(|interval| duration(interval.base_interval.as_ref()));
    // Envoy counts whole milliseconds, at least one.
    let base_interval = base.unwrap_or(BASE_INTERVAL).max(Duration::from_millis(1));
    let max = back_off.and_then(|interval| duration(interval.max_interval.as_ref()));
    if max.is_some_and(|max| max < base_interval) {
        let place = place.field("retry_back_off");
        let text = "`max_interval` is shorter than `base_interval`";
        cx.error(&place.field("max_interval"), Code::BadValue, text);
    }
    let status_codes = message.retriable_status_codes.iter().filter_map(|code| u16::try_from(*code).ok());
    Some(RetryPolicy {
        on: RetryOn::parse(&message.retry_on),
        num_retries: message.num_retries.unwrap_or(1),
        per_try_timeout: limit(message.per_try_timeout.as_ref(), None),
        per_try_idle_timeout: limit(message.per_try_idle_timeout.as_ref(), None),
        previous_hosts: previous_hosts(cx, place, message),
        host_selection_attempts: u32::try_from(message.host_selection_retry_max_attempts.max(1)).unwrap_or(1),
        base_interval,
        max_interval: max.unwrap_or(base_interval * 10),
        rate_limited: message.rate_limited_retry_back_off.as_ref().map(rate_limited),
        status_codes: status_codes.collect(),
        headers: headers(cx, place, "retriable_headers", &message.retriable_headers),
        request_headers: headers(cx, place, "retriable_request_headers", &message.retriable_request_headers),
    })
}

fn previous_hosts(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> bool {
    let mut previous_hosts = false;
    for (at, predicate) in message.retry_host_predicate.iter().enumerate() {
        let place = place.item("retry_host_predicate", at);
        if predicate.name.ends_with("previous_hosts") {
            previous_hosts = true;
        } else {
            cx.findings
                .no_extension(&place.field("name"), Extension::HOST_PREDICATE, &predicate.name, None)
                .suggest("envoy.retry_host_predicates.previous_hosts");
        }
    }
    previous_hosts
}

fn rate_limited(message: &RateLimitedRetryBackOff) -> RateLimitedBackOff {
    let header = |header: &xds::envoy::config::route::v3::retry_policy::ResetHeader| ResetHeader {
        name: header.name.to_ascii_lowercase().into(),
        timestamp: header.format == ResetHeaderFormat::UnixTimestamp as i32,
    };
    RateLimitedBackOff {
        reset_headers: message.reset_headers.iter().map(header).collect(),
        max_interval: duration(message.max_interval.as_ref()).unwrap_or(Duration::from_secs(300)),
    }
}

fn headers(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    field: &'static str,
    messages: &[xds::envoy::config::route::v3::HeaderMatcher],
) -> Vec<HeaderMatcher> {
    let each = messages.iter().enumerate();
    each.filter_map(|(at, message)| matchers::header(cx, &place.item(field, at), message)).collect()
}
