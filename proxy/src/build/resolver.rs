//! Which DNS servers are asked, and how.

use std::net::SocketAddr;
use std::time::Duration;

use xds::envoy::config::cluster::v3::Cluster;
use xds::envoy::config::core::v3::{Address, DnsResolutionConfig, TypedExtensionConfig};
use xds::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;

use super::Cx;
use super::place::{Code, Place};
use super::values;

/// DNS servers and how to ask them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolver {
    /// Empty: those of the system.
    pub servers: Vec<SocketAddr>,
    pub tcp_only: bool,
    /// Names are taken as they are, without the system's search domains.
    pub no_search: bool,
    /// For one attempt (5 s).
    pub timeout: Option<Duration>,
    pub attempts: Option<u32>,
}

/// The resolver of a cluster.
pub(crate) fn of_cluster(cx: &mut Cx<'_>, place: &Place<'_>, message: &Cluster) -> Resolver {
    let mut resolver = if let Some(typed) = &message.typed_dns_resolver_config {
        typed_resolver(cx, &place.field("typed_dns_resolver_config"), typed)
    } else if let Some(config) = &message.dns_resolution_config {
        from_config(cx, &place.field("dns_resolution_config"), config)
    } else if message.dns_resolvers.is_empty() {
        cx.resolver.clone()
    } else {
        Resolver {
            servers: servers(cx, place, "dns_resolvers", &message.dns_resolvers),
            ..Resolver::default()
        }
    };
    resolver.tcp_only |= message.use_tcp_for_dns_lookups;
    resolver
}

/// The resolver that a bootstrap names for all clusters.
pub(crate) fn of_bootstrap(
    cx: &mut Cx<'_>,
    typed: Option<&TypedExtensionConfig>,
    config: Option<&DnsResolutionConfig>,
    tcp_only: bool,
) -> Resolver {
    let mut resolver = match (typed, config) {
        (Some(typed), _) => typed_resolver(cx, &Place::ROOT.field("typed_dns_resolver_config"), typed),
        (None, Some(config)) => from_config(cx, &Place::ROOT.field("dns_resolution_config"), config),
        (None, None) => Resolver::default(),
    };
    resolver.tcp_only |= tcp_only;
    resolver
}

fn typed_resolver(cx: &mut Cx<'_>, place: &Place<'_>, typed: &TypedExtensionConfig) -> Resolver {
    let config =
        typed.typed_config.as_ref().and_then(|any| xds::decode_any::<CaresDnsResolverConfig>(any).ok());
    // The other kind, getaddrinfo, is the system's resolver.
    let Some(config) = config else { return Resolver::default() };
    let options = config.dns_resolver_options.unwrap_or_default();
    Resolver {
        servers: servers(cx, &place.field("typed_config"), "resolvers", &config.resolvers),
        tcp_only: options.use_tcp_for_dns_lookups,
        no_search: options.no_default_search_domain,
        timeout: config.query_timeout_seconds.map(Duration::from_secs),
        attempts: config.query_tries,
    }
}

fn from_config(cx: &mut Cx<'_>, place: &Place<'_>, config: &DnsResolutionConfig) -> Resolver {
    let options = config.dns_resolver_options.unwrap_or_default();
    Resolver {
        servers: servers(cx, place, "resolvers", &config.resolvers),
        tcp_only: options.use_tcp_for_dns_lookups,
        no_search: options.no_default_search_domain,
        ..Resolver::default()
    }
}

fn servers(cx: &mut Cx<'_>, place: &Place<'_>, field: &str, addresses: &[Address]) -> Vec<SocketAddr> {
    let mut servers = Vec::with_capacity(addresses.len());
    for (at, address) in addresses.iter().enumerate() {
        let place = place.item(field, at);
        match values::ip_address(cx, &place, Some(address)) {
            Ok(server) => servers.push(server),
            Err(Some(text)) => {
                let message = format!("`{text}` is not an IP address: a DNS server is named by one");
                cx.error(&place.field("socket_address").field("address"), Code::BadValue, message);
            }
            Err(None) => {}
        }
    }
    servers
}
