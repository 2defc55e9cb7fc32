//! Listeners -> `snapshot::Listener`.
//!
//! Part of `build`; calls `manager`, `logs`, `values`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::core::v3::TrafficDirection;
use xds::envoy::config::listener::v3::filter::ConfigType;
use xds::envoy::config::listener::v3::{Filter, Listener as Message};
use xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as TcpMessage;
use xds::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

use super::place::{Code, Place};
use super::{Cx, logs, manager, values};
use crate::snapshot::{Listener, ListenerKind, TcpProxy};
use crate::state::Direction;

/// A listener, if nothing essential is wrong with it.
pub fn listener(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<Listener> {
    values::only_tcp(cx, &place.field("address"), message.address.as_ref());
    let address = match values::ip_address(cx, &place.field("address"), message.address.as_ref()) {
        Ok(address) => Some(address),
        Err(text) => {
            if let Some(text) = text {
                let place = place.field("address");
                let message = format!("`{text}` is not an IP address: a listener is bound to one");
                cx.error(&place.field("socket_address").field("address"), Code::BadValue, message)
                    .suggest("use 127.0.0.1 or 0.0.0.0");
            }
            None
        }
    };
    let shown = address.map(|address| address.to_string()).unwrap_or_default();
    let prefix = if message.stat_prefix.is_empty() {
        format!("listener.{}.", shown.replace(':', "_"))
    } else {
        format!("listener.{}.", message.stat_prefix)
    };
    let kind = kind(cx, place, message, &prefix);
    let address = address?;
    let name = if message.name.is_empty() { shown } else { message.name.clone() };
    if !message.access_log.is_empty() {
        let place = place.field("access_log");
        cx.error(&place, Code::NotImplemented, "access logs of a listener are not implemented")
            .suggest("put the access log into the connection manager");
    }
    Some(Listener {
        name: name.as_str().into(),
        address,
        direction: direction(message, address),
        bind: message.bind_to_port.unwrap_or(true),
        reuse_port: message.enable_reuse_port.unwrap_or(true),
        backlog: message.tcp_backlog_size.unwrap_or(1024),
        buffer_limit: message.per_connection_buffer_limit_bytes.unwrap_or(1 << 20) as usize,
        max_connections: cx
            .runtime
            .number(&format!("envoy.resource_limits.listener.{name}.connection_limit"))
            .or(cx.flavor.max_connections()),
        stats: cx.registry.scope(&prefix),
        kind: kind?,
    })
}

/// `traffic_direction`, else a listener that only this machine can reach serves the application: outbound.
fn direction(message: &Message, address: SocketAddr) -> Direction {
    match TrafficDirection::try_from(message.traffic_direction) {
        Ok(TrafficDirection::Inbound) => Direction::Inbound,
        Ok(TrafficDirection::Outbound) => Direction::Outbound,
        _ if address.ip().is_loopback() => Direction::Outbound,
        _ => Direction::Inbound,
    }
}

fn kind(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message, prefix: &str) -> Option<ListenerKind> {
    let chain = match &*message.filter_chains {
        [] => {
            cx.error(&place.field("filter_chains"), Code::MissingField, "a listener needs a filter chain");
            return None;
        }
        [chain] => chain,
        [_, ..] => {
            let text = "only one filter chain is implemented";
            cx.error(&place.item("filter_chains", 1), Code::NotImplemented, text)
                .suggest("give each kind of connection a listener of its own");
            return None;
        }
    };
    let place = place.item("filter_chains", 0);
    match &*chain.filters {
        [] => {
            let text = "without a network filter every connection would be closed at once";
            cx.error(&place.field("filters"), Code::MissingField, text).suggest(
                "add envoy.filters.network.http_connection_manager or envoy.filters.network.tcp_proxy",
            );
            None
        }
        [only] => network_filter(cx, &place.item("filters", 0), only, prefix),
        [first, ..] => {
            let first_kind = network_filter(cx, &place.item("filters", 0), first, prefix);
            if first_kind.is_some() {
                let text = format!("`{}` ends the chain: nothing can follow it", first.name);
                cx.error(&place.item("filters", 1), Code::Structure, text);
            }
            first_kind
        }
    }
}

fn network_filter(cx: &mut Cx<'_>, place: &Place<'_>, filter: &Filter, prefix: &str) -> Option<ListenerKind> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        let text = format!("the filter `{}` needs its configuration", filter.name);
        cx.error(place, Code::MissingField, text).suggest("add `typed_config`");
        return None;
    };
    let place_of_config = place.field("typed_config");
    if let Ok(message) = xds::decode_any::<HttpConnectionManager>(any) {
        let manager = manager::manager(cx, &place_of_config, &message, prefix);
        return Some(ListenerKind::Http(Arc::new(manager)));
    }
    if let Ok(message) = xds::decode_any::<TcpMessage>(any) {
        return tcp_proxy(cx, &place_of_config, &message).map(|proxy| ListenerKind::Tcp(Arc::new(proxy)));
    }
    cx.error(place, Code::NotImplemented, format!("the network filter `{}` is not implemented", filter.name));
    None
}

fn tcp_proxy(cx: &mut Cx<'_>, place: &Place<'_>, message: &TcpMessage) -> Option<TcpProxy> {
    let cluster = match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => cluster,
        Some(ClusterSpecifier::WeightedClusters(_)) => {
            let place = place.field("weighted_clusters");
            cx.error(&place, Code::NotImplemented, "a choice of clusters is not implemented for TCP");
            return None;
        }
        None => return None,
    };
    // Envoy starts with it and closes every connection.
    cx.check_cluster(&place.field("cluster"), cluster, Code::UnknownTcpCluster);
    Some(TcpProxy {
        stat_prefix: message.stat_prefix.as_str().into(),
        cluster: cluster.as_str().into(),
        idle_timeout: values::limit(message.idle_timeout.as_ref(), Some(Duration::from_secs(3600))),
        max_connect_attempts: message.max_connect_attempts.unwrap_or(1).max(1),
        access_log: logs::access_logs(cx, place, &message.access_log),
    })
}
