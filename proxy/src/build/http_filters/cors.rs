//! CORS policies, the older form included.

use std::sync::Arc;

use xds::envoy::config::route::v3::CorsPolicy as Old;
use xds::envoy::config::route::v3::cors_policy::EnabledSpecifier;
use xds::envoy::extensions::filters::http::cors::v3::CorsPolicy;

use super::super::{Cx, matchers, values};
use super::Place;
use crate::filter::cors::{Cors, Policy};

/// The filter, which has statistics and no settings.
pub(super) fn cors(cx: &Cx<'_>, prefix: &str) -> Cors {
    Cors { stats: cx.registry.scope(&format!("{prefix}cors.")) }
}

/// The policy of one level.
pub(super) fn policy(cx: &mut Cx<'_>, place: &Place<'_>, message: &CorsPolicy) -> Arc<Policy> {
    let mut origins = Vec::with_capacity(message.allow_origin_string_match.len());
    for (at, origin) in message.allow_origin_string_match.iter().enumerate() {
        origins.extend(matchers::string(cx, &place.item("allow_origin_string_match", at), origin));
    }
    let enabled = message.filter_enabled.as_ref().map(|share| matchers::fraction(cx, share));
    let text = |cx: &mut Cx<'_>, field, text| values::header_value(cx, &place.field(field), text);
    Arc::new(Policy {
        origins,
        methods: text(cx, "allow_methods", &message.allow_methods),
        headers: text(cx, "allow_headers", &message.allow_headers),
        expose: text(cx, "expose_headers", &message.expose_headers),
        max_age: text(cx, "max_age", &message.max_age),
        credentials: message.allow_credentials,
        private_network: message.allow_private_network_access,
        forward_not_matching: message.forward_not_matching_preflights,
        enabled: enabled.unwrap_or_else(matchers::all),
        shadow: message.shadow_enabled.as_ref().map(|share| matchers::fraction(cx, share)),
    })
}

/// The older form, which says the same.
pub(super) fn old_policy(cx: &mut Cx<'_>, place: &Place<'_>, old: &Old) -> Arc<Policy> {
    let old = old.clone();
    let message = CorsPolicy {
        allow_origin_string_match: old.allow_origin_string_match,
        allow_methods: old.allow_methods,
        allow_headers: old.allow_headers,
        expose_headers: old.expose_headers,
        max_age: old.max_age,
        allow_credentials: old.allow_credentials,
        filter_enabled: old.enabled_specifier.map(|EnabledSpecifier::FilterEnabled(share)| share),
        shadow_enabled: old.shadow_enabled,
        allow_private_network_access: old.allow_private_network_access,
        forward_not_matching_preflights: old.forward_not_matching_preflights,
    };
    policy(cx, place, &message)
}
