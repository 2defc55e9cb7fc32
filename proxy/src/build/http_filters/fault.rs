//! The fault filter and its settings for single routes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use xds::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use xds::envoy::extensions::filters::common::fault::v3::fault_rate_limit::LimitType;
use xds::envoy::extensions::filters::common::fault::v3::{FaultDelay, FaultRateLimit};
use xds::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use xds::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};

use super::super::{Cx, matchers, values};
use super::Place;
use crate::filter::fault::{Abort, AbortKind, ByCluster, Delay, Fault, Limit, Settings};
use crate::stats::{FaultClusterStats, Scope};

/// Most downstream clusters with counts of their own: their names come from requests.
const MAX_CLUSTERS: usize = 256;

/// The filter of the connection manager whose statistics begin with `prefix`.
pub(super) fn fault(cx: &mut Cx<'_>, place: &Place<'_>, message: &HttpFault, prefix: &str) -> Fault {
    Fault {
        stats: cx.registry.scope(&format!("{prefix}fault.")),
        by_cluster: by_cluster(cx, prefix),
        settings: settings(cx, place, message),
    }
}

fn by_cluster(cx: &Cx<'_>, prefix: &str) -> ByCluster {
    let (registry, prefix) = (cx.registry.clone(), prefix.to_owned());
    let known: Mutex<BTreeMap<String, Arc<Scope<FaultClusterStats>>>> = Mutex::default();
    ByCluster::new(move |cluster| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = known.get(cluster) {
            return Some(Arc::clone(scope));
        }
        if known.len() >= MAX_CLUSTERS {
            return None;
        }
        let scope = registry.scope(&format!("{prefix}fault.{cluster}."));
        known.insert(cluster.to_owned(), Arc::clone(&scope));
        Some(scope)
    })
}

/// The settings of the filter, or those of a route.
pub(super) fn settings(cx: &mut Cx<'_>, place: &Place<'_>, message: &HttpFault) -> Settings {
    let max_active = or(&message.max_active_faults_runtime, "fault.http.max_active_faults");
    Settings {
        delay: message.delay.as_ref().and_then(|delay| self::delay(cx, message, delay)),
        abort: message.abort.as_ref().and_then(|abort| self::abort(cx, message, abort)),
        limit: message.response_rate_limit.as_ref().and_then(|limit| self::limit(cx, message, limit)),
        upstream_cluster: message.upstream_cluster.as_str().into(),
        headers: matchers::headers(cx, place, &message.headers),
        downstream_nodes: message.downstream_nodes.iter().map(|node| node.as_str().into()).collect(),
        max_active: cx.runtime.number(max_active).or(message.max_active_faults).map(u64::from),
        count_by_cluster: !message.disable_downstream_cluster_stats,
        runtime: Arc::new(cx.runtime.below("fault.http.")),
    }
}

fn delay(cx: &Cx<'_>, fault: &HttpFault, message: &FaultDelay) -> Option<Delay> {
    let fixed = match message.fault_delay_secifier.as_ref()? {
        FaultDelaySecifier::FixedDelay(delay) => {
            // Envoy counts whole milliseconds.
            let millis = values::duration(Some(delay)).unwrap_or_default().as_millis();
            Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
        }
        FaultDelaySecifier::HeaderDelay(_) => None,
    };
    let share_key = or(&fault.delay_percent_runtime, "fault.http.delay.fixed_delay_percent");
    let key = or(&fault.delay_duration_runtime, "fault.http.delay.fixed_duration_ms");
    let runtime = cx.runtime.number(key).map(|millis| Duration::from_millis(millis.into()));
    Some(Delay { fixed, share: matchers::share(cx, share_key, message.percentage.as_ref()), runtime })
}

fn abort(cx: &Cx<'_>, fault: &HttpFault, message: &FaultAbort) -> Option<Abort> {
    let kind = match message.error_type.as_ref()? {
        ErrorType::HttpStatus(status) => AbortKind::Http(u16::try_from(*status).unwrap_or(500)),
        ErrorType::GrpcStatus(status) => AbortKind::Grpc(*status),
        ErrorType::HeaderAbort(_) => AbortKind::Header,
    };
    let share_key = or(&fault.abort_percent_runtime, "fault.http.abort.abort_percent");
    let http = cx.runtime.number(or(&fault.abort_http_status_runtime, "fault.http.abort.http_status"));
    let http =
        http.and_then(|status| u16::try_from(status).ok()).filter(|status| (200..600).contains(status));
    Some(Abort {
        kind,
        share: matchers::share(cx, share_key, message.percentage.as_ref()),
        runtime_http: http,
        runtime_grpc: cx.runtime.number(or(&fault.abort_grpc_status_runtime, "fault.http.abort.grpc_status")),
        text: message.response_body.as_str().into(),
    })
}

fn limit(cx: &Cx<'_>, fault: &HttpFault, message: &FaultRateLimit) -> Option<Limit> {
    let fixed = match message.limit_type.as_ref()? {
        LimitType::FixedLimit(limit) => Some(limit.limit_kbps),
        LimitType::HeaderLimit(_) => None,
    };
    let key = or(&fault.response_rate_limit_percent_runtime, "fault.http.rate_limit.response_percent");
    Some(Limit { fixed, share: matchers::share(cx, key, message.percentage.as_ref()) })
}

fn or<'a>(key: &'a str, default: &'a str) -> &'a str {
    if key.is_empty() { default } else { key }
}
