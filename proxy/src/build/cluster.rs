//! Clusters -> `cluster::ClusterPolicy`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::cluster::v3::Cluster as Message;
use xds::envoy::config::cluster::v3::circuit_breakers::Thresholds as ThresholdsMessage;
use xds::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use xds::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common, RoutingPriority,
};
use xds::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use xds::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use xds::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;

use super::place::{Extension, Place};
use super::values::limit;
use super::{Cx, TableStats, balancing, health, manager};
use crate::cluster::breaker::{RetryBudget, Thresholds};
use crate::cluster::hashing::TableKind;
use crate::cluster::{ClusterPolicy, TcpKeepalive, UpstreamProtocol};
use crate::http1::HeadLimits;
use crate::stats::{ClusterStats, HealthCheckStats, Scope};
use crate::{http1, http2};

/// Where today's files keep a cluster's HTTP settings.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster's policy; `selectable_by_header` is decided by `build`.
pub(super) fn policy(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> ClusterPolicy {
    let http = http_options(cx, place, message);
    let balancing = balancing::of_cluster(cx, place, message);
    let common = http.common.unwrap_or_default();
    let buffer_limit = message.per_connection_buffer_limit_bytes.map(|limit| limit as usize);
    let http1 = http1::ClientOptions::default();
    let max_fields = common.max_headers_count.map_or(http1.limits.fields, |most| most as usize);
    let max_bytes = common.max_response_headers_kb.map(|most| most as usize * 1024);
    let mut policy = ClusterPolicy {
        name: message.name.as_str().into(),
        connect_timeout: super::values::duration(message.connect_timeout.as_ref())
            .unwrap_or(Duration::from_secs(5)),
        protocol: http.protocol,
        balancer: balancing.policy,
        idle_timeout: limit(common.idle_timeout.as_ref(), Some(Duration::from_secs(3600))),
        max_connection_duration: super::values::duration(common.max_connection_duration.as_ref()),
        max_stream_duration: limit(common.max_stream_duration.as_ref(), None),
        max_requests_per_connection: common
            .max_requests_per_connection
            .or(message.max_requests_per_connection)
            .filter(|count| *count > 0),
        buffer_limit: buffer_limit.unwrap_or(1 << 20),
        breakers: breakers(message),
        layout: Arc::new(balancing.layout),
        hash: balancing.hash,
        outlier: health::outlier(cx, place, message),
        health: health::checks(cx, place, message, http.protocol),
        http1: http1::ClientOptions {
            encode: manager::encode(http.http1.as_ref()),
            limits: HeadLimits { fields: max_fields, bytes: max_bytes.unwrap_or(http1.limits.bytes) },
            read_limit: buffer_limit.unwrap_or(0),
        },
        http2: http2::Options {
            max_fields,
            max_head_bytes: max_bytes.unwrap_or(http2::Options::default().max_head_bytes),
            ..manager::http2(http.http2.as_ref(), buffer_limit)
        },
        tcp_keepalive: keepalive(message),
        socket_buffers: cx.upstream_buffers,
        fingerprint: 0,
        selectable_by_header: !cx.backing.contains(message.name.as_str()),
    };
    policy.fingerprint = fingerprint(&policy);
    policy
}

/// The HTTP settings, wherever the file has them.
#[derive(Default)]
struct HttpOptions {
    protocol: UpstreamProtocol,
    common: Option<Common>,
    http1: Option<Http1ProtocolOptions>,
    http2: Option<Http2ProtocolOptions>,
}

fn http_options(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> HttpOptions {
    let typed = message.typed_extension_protocol_options.get(HTTP_OPTIONS);
    if let Some(options) = typed.and_then(|any| xds::decode_any::<HttpProtocolOptions>(any).ok()) {
        return today(options);
    }
    for name in message.typed_extension_protocol_options.keys().filter(|name| *name != HTTP_OPTIONS) {
        let place = place.key("typed_extension_protocol_options", name);
        cx.findings.no_extension(&place, Extension::PROTOCOL_OPTIONS, name, None);
    }
    let selection = ClusterProtocolSelection::try_from(message.protocol_selection);
    HttpOptions {
        protocol: match (selection, message.http2_protocol_options.is_some()) {
            (Ok(ClusterProtocolSelection::UseDownstreamProtocol), _) => UpstreamProtocol::Downstream,
            (_, true) => UpstreamProtocol::Http2,
            (_, false) => UpstreamProtocol::Http1,
        },
        common: message.common_http_protocol_options,
        http1: message.http_protocol_options.clone(),
        http2: message.http2_protocol_options.clone(),
    }
}

fn today(options: HttpProtocolOptions) -> HttpOptions {
    let common = options.common_http_protocol_options;
    match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                HttpOptions { protocol: UpstreamProtocol::Http2, common, http1: None, http2: Some(http2) }
            }
            Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
                HttpOptions { common, http1: Some(http1), ..HttpOptions::default() }
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) | None => {
                HttpOptions { common, ..HttpOptions::default() }
            }
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => HttpOptions {
            protocol: UpstreamProtocol::Downstream,
            common,
            http1: config.http_protocol_options,
            http2: config.http2_protocol_options,
        },
        Some(UpstreamProtocolOptions::AutoConfig(_)) | None => {
            HttpOptions { common, ..HttpOptions::default() }
        }
    }
}

/// Default and high priority; of several entries for one priority the first counts, as in Envoy.
fn breakers(message: &Message) -> [Thresholds; 2] {
    let all = message.circuit_breakers.as_ref().map(|breakers| &*breakers.thresholds).unwrap_or_default();
    [RoutingPriority::Default, RoutingPriority::High].map(|priority| {
        let of_priority = all.iter().find(|thresholds| thresholds.priority == priority as i32);
        of_priority.map_or_else(Thresholds::default, thresholds)
    })
}

fn thresholds(message: &ThresholdsMessage) -> Thresholds {
    let default = Thresholds::default();
    Thresholds {
        max_connections: message.max_connections.unwrap_or(default.max_connections),
        max_pending_requests: message.max_pending_requests.unwrap_or(default.max_pending_requests),
        max_requests: message.max_requests.unwrap_or(default.max_requests),
        max_retries: message.max_retries.unwrap_or(default.max_retries),
        retry_budget: message.retry_budget.as_ref().map(|budget| RetryBudget {
            percent: budget.budget_percent.map_or(20.0, |percent| percent.value),
            min_concurrency: budget.min_retry_concurrency.unwrap_or(3),
        }),
        track_remaining: message.track_remaining,
    }
}

fn keepalive(message: &Message) -> Option<TcpKeepalive> {
    let keepalive = message.upstream_connection_options.as_ref()?.tcp_keepalive?;
    let seconds = |value: Option<u32>| value.map(|seconds| Duration::from_secs(seconds.into()));
    Some(TcpKeepalive {
        probes: keepalive.keepalive_probes,
        time: seconds(keepalive.keepalive_time),
        interval: seconds(keepalive.keepalive_interval),
    })
}

/// What a connection is made with, and how long it may be used.
fn fingerprint(policy: &ClusterPolicy) -> u64 {
    let ClusterPolicy { protocol, http1, http2, tcp_keepalive, socket_buffers, .. } = policy;
    let use_limits = (policy.idle_timeout, policy.max_requests_per_connection);
    let mut hasher = DefaultHasher::new();
    format!("{protocol:?} {http1:?} {http2:?} {tcp_keepalive:?} {socket_buffers:?} {use_limits:?}")
        .hash(&mut hasher);
    hasher.finish()
}

/// A cluster's statistics.
pub(super) fn stats(cx: &Cx<'_>, message: &Message) -> Arc<Scope<ClusterStats>> {
    cx.registry.scope(&prefix(message))
}

/// The statistics of a cluster's health checks, if it has any.
pub(super) fn health_stats(
    cx: &Cx<'_>,
    message: &Message,
    policy: &ClusterPolicy,
) -> Option<Arc<Scope<HealthCheckStats>>> {
    let prefix = prefix(message);
    policy.health.as_ref().map(|_| cx.registry.scope(&format!("{prefix}health_check.")))
}

/// The statistics of a cluster's table, if it picks hosts by hash.
pub(super) fn table_stats(cx: &Cx<'_>, message: &Message, policy: &ClusterPolicy) -> Option<TableStats> {
    let prefix = prefix(message);
    Some(match policy.layout.table?.kind {
        TableKind::Ring { .. } => TableStats::Ring(cx.registry.scope(&format!("{prefix}ring_hash_lb."))),
        TableKind::Maglev { .. } => TableStats::Maglev(cx.registry.scope(&format!("{prefix}maglev_lb."))),
    })
}

pub(super) fn prefix(message: &Message) -> String {
    let name = if message.alt_stat_name.is_empty() { &message.name } else { &message.alt_stat_name };
    format!("cluster.{}.", name.replace(':', "_"))
}
