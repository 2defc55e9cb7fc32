//! Route configurations -> `route::RouteTable`.

use std::collections::HashMap;
use std::sync::Arc;

use xds::envoy::config::core::v3::Metadata;
use xds::envoy::config::route::v3::route::Action as ActionMessage;
use xds::envoy::config::route::v3::route_match::PathSpecifier;
use xds::envoy::config::route::v3::virtual_host::TlsRequirementType;
use xds::envoy::config::route::v3::{
    Route as RouteMessage, RouteConfiguration, RouteMatch, VirtualHost as HostMessage,
};

use super::place::{Code, Place};
use super::values::{self, level};
use super::{Cx, action, http_filters, logs, matchers, tracing};
use crate::route::{
    Action, BodyBuffer, Domains, Forward, Mirror, PathMatch, RequireTls, Route, RouteTable, VirtualCluster,
    VirtualHost,
};

/// What the routes of one table share.
pub(super) struct TableOptions {
    /// A route to an unknown cluster is an error.
    pub check_clusters: bool,
    pub max_direct_body: usize,
    /// Where copies of requests go, unless a route says it itself.
    pub mirrors: Vec<Mirror>,
}

/// A route table.
pub(super) fn table(cx: &mut Cx<'_>, place: &Place<'_>, message: &RouteConfiguration) -> RouteTable {
    let check_clusters = message.validate_clusters.unwrap_or(true);
    let mut options = TableOptions {
        check_clusters,
        mirrors: action::mirrors(cx, place, &message.request_mirror_policies, check_clusters),
        max_direct_body: message.max_direct_response_body_size_bytes.unwrap_or(4096) as usize,
    };
    let domains = domains(cx, place, &message.virtual_hosts);
    let mutations = values::mutations(cx, place, &level!(message));
    let mut virtual_hosts = Vec::with_capacity(message.virtual_hosts.len());
    for (at, host) in message.virtual_hosts.iter().enumerate() {
        let place = place.item("virtual_hosts", at);
        let of_table = match &*host.request_mirror_policies {
            [] => None,
            own => {
                let own = action::mirrors(cx, &place, own, check_clusters);
                Some(std::mem::replace(&mut options.mirrors, own))
            }
        };
        virtual_hosts.push(virtual_host(cx, &place, host, &options));
        if let Some(of_table) = of_table {
            options.mirrors = of_table;
        }
    }
    RouteTable {
        name: message.name.as_str().into(),
        domains,
        virtual_hosts,
        mutations,
        most_specific_wins: message.most_specific_header_mutations_wins,
        ignore_port_in_host: message.ignore_port_in_host_matching,
        filters: http_filters::overrides(cx, place, &message.typed_per_filter_config, None),
    }
}

fn domains(cx: &mut Cx<'_>, place: &Place<'_>, hosts: &[HostMessage]) -> Domains {
    let mut domains = Domains::default();
    let mut owners: HashMap<String, &str> = HashMap::new();
    for (at, host) in hosts.iter().enumerate() {
        let place = place.item("virtual_hosts", at);
        for (nth, domain) in host.domains.iter().enumerate() {
            let place = place.item("domains", nth);
            let lower = domain.to_ascii_lowercase();
            if domains.insert(domain, at) {
                owners.insert(lower, &host.name);
                continue;
            }
            let owner = owners.get(&lower).copied().unwrap_or_default();
            let message = format!("the domain `{domain}` belongs to the virtual host `{owner}` already");
            cx.error(&place, Code::Structure, message).suggest("each domain stands once in a route table");
        }
    }
    domains
}

fn virtual_host(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &HostMessage,
    options: &TableOptions,
) -> VirtualHost {
    let mut routes = Vec::with_capacity(message.routes.len());
    for (at, route_message) in message.routes.iter().enumerate() {
        let place = place.item("routes", at);
        if let Some(route) = route(cx, &place, route_message, message, options) {
            routes.push(Arc::new(route));
        }
    }
    VirtualHost {
        name: message.name.as_str().into(),
        routes,
        mutations: values::mutations(cx, place, &level!(message)),
        require_tls: match TlsRequirementType::try_from(message.require_tls) {
            Ok(TlsRequirementType::All) => RequireTls::All,
            Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
            Ok(TlsRequirementType::None) | Err(_) => RequireTls::None,
        },
        include_request_attempt_count: message.include_request_attempt_count,
        include_attempt_count_in_response: message.include_attempt_count_in_response,
        virtual_clusters: virtual_clusters(cx, place, message),
        filters: http_filters::overrides(cx, place, &message.typed_per_filter_config, message.cors.as_ref()),
    }
}

/// The configured parts, then one named `other` for all remaining requests.
fn virtual_clusters(cx: &mut Cx<'_>, place: &Place<'_>, message: &HostMessage) -> Vec<VirtualCluster> {
    let mut parts = Vec::new();
    for (at, part) in message.virtual_clusters.iter().enumerate() {
        let headers = matchers::headers(cx, &place.item("virtual_clusters", at), &part.headers);
        parts.push((part.name.as_str(), headers));
    }
    if !parts.is_empty() {
        parts.push(("other", Vec::new()));
    }
    let scope = |name: &str| cx.registry.scope(&format!("vhost.{}.vcluster.{name}.", message.name));
    parts
        .into_iter()
        .map(|(name, headers)| VirtualCluster { name: name.into(), headers, stats: scope(name) })
        .collect()
}

fn route(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &RouteMessage,
    host: &HostMessage,
    options: &TableOptions,
) -> Option<Route> {
    let conditions = message.r#match.as_ref()?;
    let path = path(cx, &place.field("match"), conditions);
    let headers = matchers::headers(cx, &place.field("match"), &conditions.headers);
    let query = matchers::query(cx, &place.field("match"), &conditions.query_parameters);
    let fraction = conditions.runtime_fraction.as_ref().map(|fraction| matchers::fraction(cx, fraction));
    let mutations = values::mutations(cx, place, &level!(message));
    let action = match message.action.as_ref()? {
        ActionMessage::Route(action) => {
            let forward = action::forward(cx, &place.field("route"), action, host, options);
            forward.map(|forward| {
                Action::Forward(Box::new(Forward { body_buffer: body_buffer(message, host), ..forward }))
            })
        }
        ActionMessage::Redirect(redirect) => {
            let redirect = action::redirect(cx, &place.field("redirect"), redirect);
            redirect.map(|redirect| Action::Redirect(Box::new(redirect)))
        }
        ActionMessage::DirectResponse(direct) => {
            Some(action::direct(cx, &place.field("direct_response"), direct, options))
        }
        ActionMessage::FilterAction(_) | ActionMessage::NonForwardingAction(_) => {
            cx.error(place, Code::NotImplemented, "this action of a route is not implemented");
            None
        }
    };
    let cors = match &message.action {
        Some(ActionMessage::Route(action)) => action.cors.as_ref(),
        _ => None,
    };
    let filters = http_filters::overrides(cx, place, &message.typed_per_filter_config, cors);
    let name = message.name.as_str().into();
    let stats = (!message.stat_prefix.is_empty())
        .then(|| cx.registry.scope(&format!("vhost.{}.route.{}.", host.name, message.stat_prefix)));
    Some(Route {
        name,
        stats,
        path: path?,
        headers,
        query,
        fraction,
        grpc: conditions.grpc.is_some(),
        action: action?,
        mutations,
        metadata: message.metadata.as_ref().map(|metadata| Arc::new(filter_metadata(metadata))),
        filters,
        sampling: message.tracing.as_ref().map(tracing::of_route),
        decorator: message.decorator.as_ref().map(tracing::decorator),
    })
}

/// The route's own limit, else that of its virtual host; of the two fields the newer one counts.
fn body_buffer(route: &RouteMessage, host: &HostMessage) -> BodyBuffer {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let exactly = route.request_body_buffer_limit.or(host.request_body_buffer_limit);
    let at_most = route.per_request_buffer_limit_bytes.or(host.per_request_buffer_limit_bytes);
    match (exactly, at_most) {
        (Some(bytes), _) => BodyBuffer::Exactly(size(bytes)),
        (None, Some(bytes)) => BodyBuffer::AtMost(size(bytes.into())),
        (None, None) => BodyBuffer::Listener,
    }
}

fn filter_metadata(metadata: &Metadata) -> serde_json::Value {
    metadata.filter_metadata.iter().map(|(filter, fields)| (filter.clone(), logs::object(fields))).collect()
}

fn path(cx: &mut Cx<'_>, place: &Place<'_>, conditions: &RouteMatch) -> Option<PathMatch> {
    let ignore_case = !conditions.case_sensitive.unwrap_or(true);
    let boxed = |text: &String| Box::<str>::from(text.as_str());
    match conditions.path_specifier.as_ref()? {
        PathSpecifier::Prefix(text) => Some(PathMatch::Prefix { text: boxed(text), ignore_case }),
        PathSpecifier::Path(text) => Some(PathMatch::Exact { text: boxed(text), ignore_case }),
        PathSpecifier::PathSeparatedPrefix(text) => {
            Some(PathMatch::Separated { text: boxed(text), ignore_case })
        }
        PathSpecifier::SafeRegex(value) => {
            matchers::full_regex(cx, &place.field("safe_regex"), value).map(PathMatch::Regex)
        }
        PathSpecifier::ConnectMatcher(_) => Some(PathMatch::Connect),
        PathSpecifier::PathMatchPolicy(_) => {
            let place = place.field("path_match_policy");
            cx.error(&place, Code::NotImplemented, "path match policies are not implemented");
            None
        }
    }
}
