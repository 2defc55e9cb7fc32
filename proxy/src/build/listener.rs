//! Listeners -> `snapshot::Listener`.

use std::net::SocketAddr;

use xds::envoy::config::core::v3::TrafficDirection;
use xds::envoy::config::listener::v3::Listener as Message;

use super::place::{Code, Place};
use super::{Cx, chains, values};
use crate::snapshot::Listener;
use crate::state::Direction;

/// A listener, if nothing essential is wrong with it.
pub(super) fn listener(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<Listener> {
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
    cx.egress = message.traffic_direction() == TrafficDirection::Outbound;
    cx.buffer_limit = message.per_connection_buffer_limit_bytes.map(|limit| limit as usize);
    let socket_buffers = values::socket_buffers(cx, place, &message.socket_options);
    let chains = chains::chains(cx, place, message, &prefix);
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
        ipv4_compat: values::ipv4_compat(message.address.as_ref()),
        backlog: message.tcp_backlog_size.unwrap_or(1024),
        buffer_limit: cx.buffer_limit.unwrap_or(1 << 20),
        socket_buffers,
        max_connections: cx
            .runtime
            .number(&format!("envoy.resource_limits.listener.{name}.connection_limit"))
            .or(cx.flavor.max_connections()),
        bypasses_overload: message.bypass_overload_manager,
        ignores_global_limit: message.ignore_global_conn_limit,
        stats: cx.registry.scope(&prefix),
        chains: chains?,
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
