//! Network filters -> what a chain does with its connections.

use std::sync::Arc;
use std::time::Duration;

use xds::Any;
use xds::envoy::config::core::v3::{BackoffStrategy, RuntimeFeatureFlag};
use xds::envoy::config::listener::v3::Filter;
use xds::envoy::config::listener::v3::filter::ConfigType;
use xds::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit as LimitMessage;
use xds::envoy::extensions::filters::network::echo::v3::Echo;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit;
use xds::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as TcpMessage;
use xds::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

use super::place::{Code, Extension, Place};
use super::{Cx, http_filters, logs, manager, values};
use crate::snapshot::{ConnectionLimit, Gate, ListenerKind, RateLimit, TcpEnd, TcpProxy};

/// One network filter.
enum Part {
    Gate(Gate),
    End(ListenerKind),
}

/// The filters of a chain: those that let in, and the last.
pub(super) fn filters(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    filters: &[Filter],
    prefix: &str,
) -> Option<(Vec<Gate>, ListenerKind)> {
    let Some((last, before)) = filters.split_last() else {
        let text = "without a network filter every connection is closed at once";
        cx.error(&place.field("filters"), Code::NoNetworkFilter, text)
            .suggest("add envoy.filters.network.http_connection_manager or envoy.filters.network.tcp_proxy");
        return Some((Vec::new(), ListenerKind::Tcp(Arc::new(TcpEnd::Close))));
    };
    let mut gates = Some(Vec::with_capacity(before.len()));
    for (at, filter) in before.iter().enumerate() {
        match part(cx, &place.item("filters", at), filter, prefix) {
            Some(Part::Gate(gate)) => gates.iter_mut().for_each(|gates| gates.push(gate.clone())),
            Some(Part::End(_)) => {
                let text = format!("`{}` ends the chain: nothing can follow it", filter.name);
                cx.error(&place.item("filters", at + 1), Code::Structure, text);
                gates = None;
            }
            None => gates = None,
        }
    }
    let place = place.item("filters", before.len());
    match part(cx, &place, last, prefix)? {
        Part::End(end) => gates.map(|gates| (gates, end)),
        Part::Gate(_) => {
            let text = format!("`{}` is the last filter and does not end the chain", last.name);
            cx.error(&place, Code::Structure, text).suggest("add envoy.filters.network.tcp_proxy behind it");
            None
        }
    }
}

fn part(cx: &mut Cx<'_>, place: &Place<'_>, filter: &Filter, prefix: &str) -> Option<Part> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        let text = format!("the filter `{}` needs its configuration", filter.name);
        cx.error(place, Code::MissingField, text).suggest("add `typed_config`");
        return None;
    };
    let config = place.field("typed_config");
    if let Ok(message) = xds::decode_any::<HttpConnectionManager>(any) {
        let manager = manager::manager(cx, &config, &message, prefix);
        return Some(Part::End(ListenerKind::Http(Arc::new(manager))));
    }
    if let Some(end) = tcp_end(cx, &config, any) {
        return end.map(|end| Part::End(ListenerKind::Tcp(Arc::new(end))));
    }
    if let Ok(message) = xds::decode_any::<LimitMessage>(any) {
        return Some(Part::Gate(Gate::ConnectionLimit(Arc::new(connection_limit(cx, &message)))));
    }
    if let Ok(message) = xds::decode_any::<LocalRateLimit>(any) {
        return rate_limit(cx, &config, &message).map(|limit| Part::Gate(Gate::RateLimit(Arc::new(limit))));
    }
    cx.findings.no_extension(place, Extension::NETWORK_FILTER, &filter.name, Some(any));
    None
}

/// A filter of TCP that ends a chain; the inner `None` is one with an error.
fn tcp_end(cx: &mut Cx<'_>, place: &Place<'_>, any: &Any) -> Option<Option<TcpEnd>> {
    if let Ok(message) = xds::decode_any::<TcpMessage>(any) {
        return Some(tcp_proxy(cx, place, &message).map(TcpEnd::Proxy));
    }
    xds::decode_any::<Echo>(any).ok().map(|_| Some(TcpEnd::Echo))
}

fn connection_limit(cx: &mut Cx<'_>, message: &LimitMessage) -> ConnectionLimit {
    ConnectionLimit {
        // Envoy takes an absent limit for none at all: every connection is one too many.
        most: message.max_connections.unwrap_or_default(),
        delay: values::limit(message.delay.as_ref(), None),
        enabled: enabled(cx, message.runtime_enabled.as_ref()),
        stats: cx.registry.scope(&format!("connection_limit.{}.", message.stat_prefix)),
        open: 0.into(),
    }
}

fn rate_limit(cx: &mut Cx<'_>, place: &Place<'_>, message: &LocalRateLimit) -> Option<RateLimit> {
    let bucket = message.token_bucket.as_ref()?;
    let bucket = http_filters::bucket(cx, &place.field("token_bucket"), bucket);
    Some(RateLimit {
        enabled: enabled(cx, message.runtime_enabled.as_ref()),
        bucket,
        stats: cx.registry.scope(&format!("local_rate_limit.{}.", message.stat_prefix)),
    })
}

/// A switch, on unless a file says otherwise.
pub(super) fn enabled(cx: &Cx<'_>, flag: Option<&RuntimeFeatureFlag>) -> bool {
    let Some(flag) = flag else { return true };
    let default = flag.default_value.unwrap_or(true);
    cx.runtime.number(&flag.runtime_key).map_or(default, |number| number != 0)
}

fn tcp_proxy(cx: &mut Cx<'_>, place: &Place<'_>, message: &TcpMessage) -> Option<TcpProxy> {
    let clusters = clusters(cx, place, message)?;
    let options = message.access_log_options.as_ref();
    let interval = options.and_then(|options| options.access_log_flush_interval.as_ref());
    let jitter = message.max_downstream_connection_duration_jitter_percentage.as_ref();
    Some(TcpProxy {
        stats: cx.registry.scope(&format!("tcp.{}.", message.stat_prefix)),
        clusters,
        idle_timeout: values::limit(message.idle_timeout.as_ref(), Some(Duration::from_secs(3600))),
        max_duration: values::duration(message.max_downstream_connection_duration.as_ref()),
        max_duration_jitter: jitter.map_or(0.0, |percent| percent.value / 100.0),
        max_connect_attempts: message.max_connect_attempts.unwrap_or(1).max(1),
        back_off: message.backoff_options.as_ref().and_then(|options| back_off(cx, place, options)),
        access_log: logs::access_logs(cx, place, &message.access_log),
        log_interval: values::duration(interval.or(message.access_log_flush_interval.as_ref())),
        log_connected: options
            .map_or(message.flush_access_log_on_connected, |options| options.flush_access_log_on_connected),
    })
}

fn clusters(cx: &mut Cx<'_>, place: &Place<'_>, message: &TcpMessage) -> Option<Vec<(Arc<str>, u32)>> {
    match message.cluster_specifier.as_ref()? {
        ClusterSpecifier::Cluster(cluster) => {
            // Envoy starts with it and closes every connection.
            cx.check_cluster(&place.field("cluster"), cluster, Code::UnknownTcpCluster);
            Some(vec![(cluster.as_str().into(), 1)])
        }
        ClusterSpecifier::WeightedClusters(weighted) => {
            let place = place.field("weighted_clusters");
            for (at, cluster) in weighted.clusters.iter().enumerate() {
                let place = place.item("clusters", at);
                cx.check_cluster(&place.field("name"), &cluster.name, Code::UnknownTcpCluster);
            }
            let each = weighted.clusters.iter();
            Some(each.map(|cluster| (cluster.name.as_str().into(), cluster.weight)).collect())
        }
    }
}

/// The first and the longest wait.
fn back_off(cx: &mut Cx<'_>, place: &Place<'_>, message: &BackoffStrategy) -> Option<(Duration, Duration)> {
    let first = values::duration(message.base_interval.as_ref())?;
    let longest = values::duration(message.max_interval.as_ref()).unwrap_or(first * 10);
    if longest < first {
        let place = place.field("backoff_options");
        let text = "`max_interval` is shorter than `base_interval`";
        cx.error(&place.field("max_interval"), Code::BadValue, text);
    }
    Some((first, longest))
}
