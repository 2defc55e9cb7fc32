//! HTTP filters -> `filter::chain`, and their settings on routes.

use std::collections::BTreeMap;

use xds::Any;
use xds::envoy::config::route::v3::{CorsPolicy as OldCors, FilterConfig};
use xds::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override as BufferOverride;
use xds::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute};
use xds::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use xds::envoy::extensions::filters::http::fault::v3::HttpFault;
use xds::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use xds::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use xds::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use xds::envoy::extensions::filters::http::router::v3::Router;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};

use super::Cx;
use super::place::{Code, Extension, Place};
use crate::filter::chain::{Chain, Filter, Override, Overrides, RouteSettings, Settings};

mod cors;
mod fault;
mod health_check;
mod local_rate_limit;
mod rbac;

pub(super) use local_rate_limit::bucket;

/// The filters of a connection manager, and whether the router keeps its `x-envoy-*` fields to itself.
pub(super) fn chain(cx: &mut Cx<'_>, place: &Place<'_>, message: &HttpConnectionManager) -> (Chain, bool) {
    let mut chain = Chain::default();
    let mut suppress = false;
    // A chain without any filter is said as a lint: the router is added.
    let Some(last) = message.http_filters.len().checked_sub(1) else { return (chain, suppress) };
    let prefix = format!("http.{}.", message.stat_prefix);
    for (at, filter) in message.http_filters.iter().enumerate() {
        let place = place.item("http_filters", at);
        match router(filter) {
            Some(router) if at == last => suppress = router.suppress_envoy_headers,
            Some(_) => {
                let text = "the router ends the chain: it must be the last HTTP filter";
                cx.error(&place, Code::Structure, text);
            }
            None => {
                let built = settings(cx, &place, filter, &prefix);
                if built.is_some() && at == last {
                    let text =
                        format!("`{}` does not end the chain: the last filter is the router", filter.name);
                    cx.error(&place, Code::Structure, text)
                        .suggest("add `envoy.filters.http.router` behind it");
                }
                chain.0.extend(built.map(|settings| Filter {
                    name: filter.name.as_str().into(),
                    disabled: filter.disabled,
                    settings,
                }));
            }
        }
    }
    (chain, suppress)
}

fn router(filter: &HttpFilter) -> Option<Router> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => xds::decode_any::<Router>(any).ok(),
        // Envoy's own old form: a filter without configuration, known by its name.
        _ => (filter.name == "envoy.filters.http.router").then(Router::default),
    }
}

fn settings(cx: &mut Cx<'_>, place: &Place<'_>, filter: &HttpFilter, prefix: &str) -> Option<Settings> {
    if let Some(ConfigType::TypedConfig(any)) = &filter.config_type {
        let place = place.field("typed_config");
        if let Ok(message) = xds::decode_any::<HttpFault>(any) {
            return Some(Settings::Fault(fault::fault(cx, &place, &message, prefix)));
        }
        if xds::decode_any::<Cors>(any).is_ok() {
            return Some(Settings::Cors(cors::cors(cx, prefix)));
        }
        if let Ok(message) = xds::decode_any::<HealthCheck>(any) {
            return Some(Settings::HealthCheck(health_check::health_check(cx, &place, &message, prefix)));
        }
        if let Ok(message) = xds::decode_any::<Buffer>(any) {
            return Some(Settings::Buffer(bytes(&message)));
        }
        if let Ok(message) = xds::decode_any::<LocalRateLimit>(any) {
            return Some(Settings::LocalRateLimit(local_rate_limit::limit(cx, &place, &message, false)));
        }
        if let Ok(message) = xds::decode_any::<Rbac>(any) {
            return Some(Settings::Rbac(rbac::rbac(cx, &place, &message, prefix)));
        }
    }
    let any = filter.config_type.as_ref().and_then(|config| match config {
        ConfigType::TypedConfig(any) => Some(any),
        _ => None,
    });
    cx.findings.no_extension(place, Extension::HTTP_FILTER, &filter.name, any);
    None
}

/// The filter settings on one level of the routes; `cors` is the older form of the policy for that
/// filter.
pub(super) fn overrides(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    by_name: &BTreeMap<String, Any>,
    cors: Option<&OldCors>,
) -> Overrides {
    let mut overrides = Overrides::default();
    for (name, any) in by_name {
        let place = place.key("typed_per_filter_config", name);
        overrides.by_name.extend(one(cx, &place, any).map(|said| (name.as_str().into(), said)));
    }
    overrides.cors = cors.map(|policy| cors::old_policy(cx, &place.field("cors"), policy));
    overrides
}

fn one(cx: &mut Cx<'_>, place: &Place<'_>, any: &Any) -> Option<Override> {
    let Ok(wrapped) = xds::decode_any::<FilterConfig>(any) else {
        let settings = route_settings(cx, place, any)?;
        return Some(Override { disabled: false, settings: Some(settings) });
    };
    if wrapped.disabled {
        return Some(Override { disabled: true, settings: None });
    }
    let place = place.field("config");
    let Some(any) = wrapped.config else {
        let text = "neither settings nor `disabled: true`: this says nothing of the filter";
        cx.error(&place, Code::MissingField, text).suggest("`config: {}` switches the filter on as it is");
        return None;
    };
    // An empty one only switches the filter on.
    if any.type_url.is_empty() {
        return Some(Override { disabled: false, settings: None });
    }
    Some(Override { disabled: false, settings: Some(route_settings(cx, &place, &any)?) })
}

fn route_settings(cx: &mut Cx<'_>, place: &Place<'_>, any: &Any) -> Option<RouteSettings> {
    if let Ok(message) = xds::decode_any::<HttpFault>(any) {
        return Some(RouteSettings::Fault(Box::new(fault::settings(cx, place, &message))));
    }
    if let Ok(message) = xds::decode_any::<CorsPolicy>(any) {
        return Some(RouteSettings::Cors(cors::policy(cx, place, &message)));
    }
    // As in Envoy, the filter's own message is an empty policy.
    if xds::decode_any::<Cors>(any).is_ok() {
        return Some(RouteSettings::Cors(cors::policy(cx, place, &CorsPolicy::default())));
    }
    if let Ok(message) = xds::decode_any::<BufferPerRoute>(any) {
        let limit = match &message.r#override {
            Some(BufferOverride::Buffer(buffer)) => Some(bytes(buffer)),
            Some(BufferOverride::Disabled(_)) | None => None,
        };
        return Some(RouteSettings::Buffer(limit));
    }
    if let Ok(message) = xds::decode_any::<LocalRateLimit>(any) {
        let limit = local_rate_limit::limit(cx, place, &message, true);
        return Some(RouteSettings::LocalRateLimit(Box::new(limit)));
    }
    if let Ok(message) = xds::decode_any::<RbacPerRoute>(any) {
        let own = message.rbac.as_ref();
        let engines = own.map(|own| rbac::engines(cx, &place.field("rbac"), own));
        return Some(RouteSettings::Rbac(engines.unwrap_or_default()));
    }
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let text = format!("`{name}` holds no settings of an HTTP filter for single routes");
    cx.error(place, Code::BadValue, text);
    None
}

fn bytes(message: &Buffer) -> usize {
    message.max_request_bytes.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
