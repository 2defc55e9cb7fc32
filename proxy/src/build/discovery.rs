//! Where a cluster's endpoints come from: written in the file, DNS, SDS v1, a file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::cluster::v3::Cluster as Message;
use xds::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
use xds::envoy::config::core::v3::api_config_source::ApiType;
use xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use xds::envoy::config::core::v3::{ApiConfigSource, ConfigSource, HealthStatus};
use xds::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xds::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};

use super::files::Stamp;
use super::place::{Code, Place};
use super::values::{self, duration, limit};
use super::{Cx, balancing, health, resolver};
use crate::cluster::{Endpoint, Health, Locality};
use crate::time::in_time;

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    Static(Vec<Endpoint>),
    Dns(Dns),
    SdsV1(SdsV1),
    File(File),
}

/// Names to look up again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Only the first address is used, and open connections outlive a change.
    pub logical: bool,
    pub(crate) names: Vec<Name>,
    pub(crate) family: Family,
    /// Between two look-ups (5 s).
    pub refresh: Duration,
    /// Between two look-ups after a failure: first and longest wait.
    pub failure_refresh: Option<(Duration, Duration)>,
    pub jitter: Duration,
    /// The record's own life instead of `refresh`.
    pub respect_ttl: bool,
    pub resolver: resolver::Resolver,
}

/// A host name (or an address, which needs no look-up) with what its endpoints are like.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Name {
    pub host: String,
    /// Its address has the port; the IP is replaced by each that the name has.
    pub template: Endpoint,
}

/// Which address families a name is looked up in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv6 first, IPv4 if there is none.
    #[default]
    Auto,
    V4Only,
    V6Only,
    /// IPv4 first, IPv6 if there is none.
    V4Preferred,
    All,
}

/// Registrations from sds: `GET /v1/registration/{service}`, again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct SdsV1 {
    /// The cluster to ask.
    pub cluster: String,
    pub service: String,
    pub refresh_delay: Duration,
    /// For one response (1 s).
    pub request_timeout: Duration,
    /// How long the cluster may wait for the first response (15 s); `None` is for ever.
    pub initial_fetch_timeout: Option<Duration>,
}

/// A file with a `DiscoveryResponse`, read again when it changes.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub path: String,
    pub service: String,
    pub initial_fetch_timeout: Option<Duration>,
}

/// The discovery of a cluster.
pub(crate) fn discovery(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<Discovery> {
    let kind = match message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).unwrap_or(DiscoveryType::Static)
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            cx.error(
                &place.field("cluster_type"),
                Code::NotImplemented,
                "cluster types by name are not implemented",
            );
            return None;
        }
        None => DiscoveryType::Static,
    };
    match kind {
        DiscoveryType::Static => Some(Discovery::Static(fixed(cx, place, message))),
        DiscoveryType::StrictDns => Some(Discovery::Dns(dns(cx, place, message, false))),
        DiscoveryType::LogicalDns => Some(Discovery::Dns(dns(cx, place, message, true))),
        DiscoveryType::Eds => eds(cx, place, message),
        DiscoveryType::OriginalDst => {
            cx.error(
                &place.field("type"),
                Code::NotImplemented,
                "original-destination clusters are not implemented",
            );
            None
        }
    }
}

fn fixed(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Vec<Endpoint> {
    let Some(assignment) = &message.load_assignment else { return Vec::new() };
    endpoints(cx, &place.field("load_assignment"), assignment)
}

/// Endpoints whose addresses are IPs.
pub(crate) fn endpoints(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    assignment: &ClusterLoadAssignment,
) -> Vec<Endpoint> {
    let names = names(cx, place, assignment);
    let mut endpoints = Vec::with_capacity(names.len());
    for (path, name) in names {
        match name.host.parse::<IpAddr>() {
            Ok(ip) => endpoints.push(at(&name.template, ip)),
            Err(_) => {
                cx.findings
                    .add_at(path, Code::BadValue, format!("`{}` is not an IP address", name.host))
                    .suggest("set the cluster's `type` to STRICT_DNS or LOGICAL_DNS for host names");
            }
        }
    }
    endpoints
}

/// The endpoint that a template makes at an address.
pub(crate) fn at(template: &Endpoint, ip: IpAddr) -> Endpoint {
    Endpoint { address: SocketAddr::new(ip, template.address.port()), ..template.clone() }
}

/// Each endpoint as it is written, with the path of its address.
fn names(cx: &mut Cx<'_>, place: &Place<'_>, assignment: &ClusterLoadAssignment) -> Vec<(String, Name)> {
    let mut names = Vec::new();
    for (at, group) in assignment.endpoints.iter().enumerate() {
        let place = place.item("endpoints", at);
        for (nth, member) in group.lb_endpoints.iter().enumerate() {
            names.extend(name(cx, &place.item("lb_endpoints", nth), group, member));
        }
    }
    names
}

fn name(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    group: &LocalityLbEndpoints,
    member: &LbEndpoint,
) -> Option<(String, Name)> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &member.host_identifier else {
        cx.error(place, Code::MissingField, "an `endpoint` is needed");
        return None;
    };
    let place = place.field("endpoint");
    let check =
        health::target(cx, &place.field("health_check_config"), endpoint.health_check_config.as_ref());
    let place = place.field("address");
    values::only_tcp(cx, &place, endpoint.address.as_ref());
    let socket = values::socket_address(cx, &place, endpoint.address.as_ref())?;
    let locality = group.locality.clone().unwrap_or_default();
    let metadata = member.metadata.as_ref().and_then(balancing::metadata).map(Arc::new);
    let template = Endpoint {
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), values::port(socket)),
        hostname: endpoint.hostname.clone(),
        weight: member.load_balancing_weight.unwrap_or(1),
        priority: group.priority,
        locality: Locality { region: locality.region, zone: locality.zone, sub_zone: locality.sub_zone },
        locality_weight: group.load_balancing_weight.unwrap_or(0),
        canary: metadata.as_ref().is_some_and(|data| data.get("canary") == Some(&true.into())),
        metadata,
        health: match HealthStatus::try_from(member.health_status) {
            Ok(HealthStatus::Unhealthy) => Health::Unhealthy,
            Ok(HealthStatus::Draining) => Health::Draining,
            Ok(HealthStatus::Timeout) => Health::Timeout,
            Ok(HealthStatus::Degraded) => Health::Degraded,
            Ok(HealthStatus::Unknown | HealthStatus::Healthy) | Err(_) => Health::Healthy,
        },
        check,
    };
    let path = place.field("socket_address").field("address").to_string();
    Some((path, Name { host: socket.address.clone(), template }))
}

fn dns(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message, logical: bool) -> Dns {
    let place_of_assignment = place.field("load_assignment");
    let names: Vec<_> = match &message.load_assignment {
        Some(assignment) => names(cx, &place_of_assignment, assignment),
        None => Vec::new(),
    };
    if logical && names.len() != 1 {
        let text = format!("a LOGICAL_DNS cluster has exactly one endpoint, this one has {}", names.len());
        cx.error(&place_of_assignment, Code::Structure, text).suggest("use STRICT_DNS for several");
    } else if names.is_empty() {
        cx.error(place, Code::NoEndpoints, "the cluster has no endpoint").suggest("add `load_assignment`");
    }
    let failure = message.dns_failure_refresh_rate.as_ref();
    let base = failure.and_then(|rate| duration(rate.base_interval.as_ref()));
    let max = failure.and_then(|rate| duration(rate.max_interval.as_ref()));
    Dns {
        logical,
        names: names.into_iter().map(|(_, name)| named(name)).collect(),
        family: match DnsLookupFamily::try_from(message.dns_lookup_family) {
            Ok(DnsLookupFamily::V4Only) => Family::V4Only,
            Ok(DnsLookupFamily::V6Only) => Family::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => Family::V4Preferred,
            Ok(DnsLookupFamily::All) => Family::All,
            Ok(DnsLookupFamily::Auto) | Err(_) => Family::Auto,
        },
        refresh: duration(message.dns_refresh_rate.as_ref()).unwrap_or(Duration::from_secs(5)),
        failure_refresh: base.map(|base| (base, max.unwrap_or(base * 10).max(base))),
        jitter: duration(message.dns_jitter.as_ref()).unwrap_or_default(),
        respect_ttl: message.respect_dns_ttl,
        resolver: resolver::of_cluster(cx, place, message),
    }
}

/// A looked-up endpoint is called by the name it was found under.
fn named(mut name: Name) -> Name {
    if name.template.hostname.is_empty() {
        name.template.hostname.clone_from(&name.host);
    }
    name
}

fn eds(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<Discovery> {
    let place = place.field("eds_cluster_config");
    let config = message.eds_cluster_config.as_ref();
    let Some(source) = config.and_then(|config| config.eds_config.as_ref()) else {
        cx.error(&place, Code::MissingField, "an EDS cluster needs an `eds_config`");
        return None;
    };
    let service = config.map(|config| config.service_name.clone()).filter(|name| !name.is_empty());
    let service = service.unwrap_or_else(|| message.name.clone());
    let place = place.field("eds_config");
    let initial_fetch_timeout = limit(source.initial_fetch_timeout.as_ref(), Some(Duration::from_secs(15)));
    match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Path(path)) => {
            check_file(cx, &place.field("path"), path);
            Some(Discovery::File(File { path: path.clone(), service, initial_fetch_timeout }))
        }
        Some(ConfigSourceSpecifier::PathConfigSource(file)) => {
            check_file(cx, &place.field("path_config_source").field("path"), &file.path);
            Some(Discovery::File(File { path: file.path.clone(), service, initial_fetch_timeout }))
        }
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
            sds_v1(cx, &place.field("api_config_source"), api, service, initial_fetch_timeout)
        }
        _ => {
            cx.error(&place, Code::NotImplemented, "this source of endpoints is not implemented")
                .suggest("use `api_config_source` with REST_LEGACY, or `path_config_source`");
            None
        }
    }
}

/// As in Envoy, a file of discovery is there from the beginning.
fn check_file(cx: &mut Cx<'_>, place: &Place<'_>, path: &str) {
    let owned = PathBuf::from(path);
    let found = in_time(move || Ok(Stamp::of(&owned).is_some())).unwrap_or(false);
    if !found {
        let text = format!("there is no file `{path}`");
        cx.error(place, Code::BadValue, text)
            .suggest("create it before the proxy starts, with no resources in it");
    }
}

fn sds_v1(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    api: &ApiConfigSource,
    service: String,
    initial_fetch_timeout: Option<Duration>,
) -> Option<Discovery> {
    if !matches!(ApiType::try_from(api.api_type), Ok(ApiType::RestLegacy)) {
        cx.error(
            &place.field("api_type"),
            Code::NotImplemented,
            "this way to ask for endpoints is not implemented",
        )
        .suggest("REST_LEGACY");
        return None;
    }
    let [cluster] = &*api.cluster_names else {
        let text = format!("exactly one cluster to ask is needed, there are {}", api.cluster_names.len());
        cx.error(&place.field("cluster_names"), Code::Structure, text);
        return None;
    };
    cx.check_backing_cluster(&place.item("cluster_names", 0), cluster);
    let Some(refresh_delay) = limit(api.refresh_delay.as_ref(), None) else {
        cx.error(
            &place.field("refresh_delay"),
            Code::MissingField,
            "a `refresh_delay` above 0 is needed to ask again",
        );
        return None;
    };
    Some(Discovery::SdsV1(SdsV1 {
        cluster: cluster.clone(),
        service,
        refresh_delay,
        request_timeout: duration(api.request_timeout.as_ref()).unwrap_or(Duration::from_secs(1)),
        initial_fetch_timeout,
    }))
}

/// The clusters that a source of configuration is asked through.
pub(crate) fn backing_clusters(source: &ConfigSource) -> impl Iterator<Item = &str> {
    let api = match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => Some(api),
        _ => None,
    };
    api.into_iter().flat_map(|api| api.cluster_names.iter().map(String::as_str))
}
