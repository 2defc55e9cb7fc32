//! Rules on listeners and connection managers.

use std::net::IpAddr;

use super::{Lint, routes};
use crate::diagnostic::Code;
use crate::dump::decode_any;
use crate::envoy::config::core::v3::{Address, TrafficDirection, address, socket_address};
use crate::envoy::config::listener::v3::{Listener, filter};
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, StripPortMode,
};

pub(super) fn listener(lint: &mut Lint<'_>, path: &str, listener: &Listener) {
    if let Some(address) = listener.address.as_ref().filter(|_| listener.bind_to_port.unwrap_or(true)) {
        let address_path = format!("{path}.address");
        privileged_port(lint, &address_path, address);
        if lint.pod && listener.traffic_direction != TrafficDirection::Outbound as i32 {
            loopback(lint, &address_path, address);
        }
    }
    let each = listener.filter_chains.iter().enumerate();
    let chains = each.map(|(at, chain)| (format!("{path}.filter_chains[{at}]"), chain));
    let default = listener.default_filter_chain.iter();
    for (path, chain) in chains.chain(default.map(|chain| (format!("{path}.default_filter_chain"), chain))) {
        for (at, filter) in chain.filters.iter().enumerate() {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
            if let Ok(manager) = decode_any::<HttpConnectionManager>(any) {
                let path = format!("{path}.filters[{at}].typed_config");
                self::manager(lint, &path, &manager);
            }
        }
    }
}

fn manager(lint: &mut Lint<'_>, path: &str, manager: &HttpConnectionManager) {
    if manager.strip_matching_host_port
        && matches!(manager.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)))
    {
        let text = "`strip_matching_host_port` and `strip_any_host_port` exclude each other";
        lint.add(&format!("{path}.strip_any_host_port"), Code::OneOf, text, "remove one of them");
    }
    let filters = &manager.http_filters;
    if filters.is_empty() {
        let text = "there is no router filter: it is added, as no request would be answered without it";
        lint.add(&format!("{path}.http_filters"), Code::NoRouter, text, "add `envoy.filters.http.router`");
    }
    if let Some((last, _)) = filters.split_last().filter(|(last, _)| last.disabled) {
        let text = format!("the last filter, `{}`, ends the chain and cannot be disabled", last.name);
        let path = format!("{path}.http_filters[{}].disabled", filters.len() - 1);
        lint.add(&path, Code::Structure, text, "remove `disabled`");
    }
    if let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier {
        routes::table(lint, &format!("{path}.route_config"), table, manager);
    }
}

/// An address and port that is bound with privileges only.
pub(super) fn privileged_port(lint: &mut Lint<'_>, path: &str, address: &Address) {
    let Some((_, port @ 1..=1023)) = socket(address) else { return };
    let text = format!("port {port} needs the privilege to bind ports below 1024");
    let path = format!("{path}.socket_address.port_value");
    lint.add(&path, Code::PrivilegedPort, text, "use a port from 1024 on; a Service can map port 80 to it");
}

fn loopback(lint: &mut Lint<'_>, path: &str, address: &Address) {
    let Some((host, _)) = socket(address) else { return };
    if host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) {
        let text = format!("in a pod nobody reaches {host} but the pod's own containers");
        let path = format!("{path}.socket_address.address");
        let remedy = "bind it to 0.0.0.0, or set `traffic_direction: OUTBOUND` if that is meant";
        lint.add(&path, Code::LoopbackListener, text, remedy);
    }
}

fn socket(address: &Address) -> Option<(&str, u32)> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else { return None };
    let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some((&socket.address, port))
}
