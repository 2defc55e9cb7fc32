//! Local rate limits, of the filter and of single routes.

use std::time::Duration;

use xds::envoy::extensions::common::ratelimit::v3::XRateLimitHeadersRfcVersion;
use xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use xds::envoy::r#type::v3::TokenBucket as TokenBucketMessage;

use super::super::{Cx, matchers, values};
use super::{Code, Place};
use crate::filter::local_rate_limit::{Limit, TokenBucket};
use crate::headers::Changes;
use crate::time;

/// Envoy fills no faster.
const SHORTEST: Duration = Duration::from_millis(50);

/// A limit; that of a single route needs a bucket.
pub(super) fn limit(cx: &mut Cx<'_>, place: &Place<'_>, message: &LocalRateLimit, of_route: bool) -> Limit {
    if of_route && message.token_bucket.is_none() {
        let text = "a route's own limit needs a `token_bucket`";
        cx.error(&place.field("token_bucket"), Code::MissingField, text);
    }
    let bucket = message.token_bucket.as_ref();
    let bucket = bucket.map(|bucket| self::bucket(cx, &place.field("token_bucket"), bucket));
    let status = message.status.as_ref().and_then(|status| u16::try_from(status.code).ok());
    let request = &message.request_headers_to_add_when_not_enforced;
    let fields = XRateLimitHeadersRfcVersion::DraftVersion03 as i32;
    Limit {
        stats: cx.registry.scope(&format!("{}.http_local_rate_limit.", message.stat_prefix)),
        status: status.filter(|status| *status >= 400).unwrap_or(429),
        bucket,
        enabled: message.filter_enabled.as_ref().map(|share| matchers::fraction(cx, share)),
        enforced: message.filter_enforced.as_ref().map(|share| matchers::fraction(cx, share)),
        response: Changes {
            add: values::additions(cx, place, "response_headers_to_add", &message.response_headers_to_add),
            remove: Vec::new(),
        },
        request: Changes {
            add: values::additions(cx, place, "request_headers_to_add_when_not_enforced", request),
            remove: Vec::new(),
        },
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        rate_fields: message.enable_x_ratelimit_headers == fields,
        retry_after: message.enable_retry_after_header,
    }
}

/// A bucket of tokens; Envoy refuses one that is filled more often than each 50 ms.
pub(crate) fn bucket(cx: &mut Cx<'_>, place: &Place<'_>, message: &TokenBucketMessage) -> TokenBucket {
    let interval = values::duration(message.fill_interval.as_ref()).unwrap_or(SHORTEST);
    if interval < SHORTEST {
        let text = format!("{} ms is too short to fill a bucket", interval.as_millis());
        cx.error(&place.field("fill_interval"), Code::BadValue, text).suggest("at least 0.05s");
    }
    let tokens = message.tokens_per_fill.unwrap_or(1);
    TokenBucket::new(message.max_tokens, tokens, interval.max(SHORTEST), time::now())
}
