//! Filter chains and their conditions -> `snapshot`.

use std::net::IpAddr;
use std::sync::Arc;

use xds::envoy::config::core::v3::CidrRange;
use xds::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use xds::envoy::config::listener::v3::{FilterChain as Message, FilterChainMatch, Listener};

use super::place::{Code, Place};
use super::{Cx, network};
use crate::matcher::Cidr;
use crate::snapshot::{Conditions, FilterChain, FilterChains, Source};

/// The chains of a listener, if nothing essential is wrong with them.
pub(super) fn chains(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &Listener,
    prefix: &str,
) -> Option<FilterChains> {
    if message.filter_chains.is_empty() && message.default_filter_chain.is_none() {
        cx.error(&place.field("filter_chains"), Code::MissingField, "a listener needs a filter chain");
        return None;
    }
    let mut chains: Vec<Arc<FilterChain>> = Vec::new();
    let mut whole = true;
    for (at, message) in message.filter_chains.iter().enumerate() {
        let place = place.item("filter_chains", at);
        let Some(chain) = chain(cx, &place, message, prefix) else {
            whole = false;
            continue;
        };
        if let Some(other) = chains.iter().position(|other| overlap(&other.conditions, &chain.conditions)) {
            let text = format!("takes the same connections as `filter_chains[{other}]`");
            cx.error(&place.field("filter_chain_match"), Code::Structure, text)
                .suggest("give each chain a condition of its own");
        }
        chains.push(Arc::new(chain));
    }
    let default = match &message.default_filter_chain {
        Some(message) => {
            let place = place.field("default_filter_chain");
            let chain = chain(cx, &place, message, prefix);
            whole &= chain.is_some();
            chain.map(Arc::new)
        }
        None => None,
    };
    whole.then_some(FilterChains { chains, default })
}

fn chain(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message, prefix: &str) -> Option<FilterChain> {
    let conditions = message.filter_chain_match.as_ref();
    let conditions = conditions.map(|conditions| self::conditions(cx, place, conditions));
    let (gates, kind) = network::filters(cx, place, &message.filters, prefix)?;
    Some(FilterChain {
        name: message.name.as_str().into(),
        conditions: conditions.unwrap_or_default(),
        gates,
        kind,
        generation: Arc::default(),
    })
}

fn conditions(cx: &mut Cx<'_>, place: &Place<'_>, message: &FilterChainMatch) -> Conditions {
    let place = place.field("filter_chain_match");
    uninspected(cx, &place, message);
    let texts = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
    let port = |port: u32| u16::try_from(port).unwrap_or_default();
    Conditions {
        destination_port: message.destination_port.map(port),
        destinations: ranges(cx, &place, "prefix_ranges", &message.prefix_ranges),
        server_names: server_names(cx, &place, &message.server_names),
        transport: message.transport_protocol.as_str().into(),
        applications: texts(&message.application_protocols),
        direct_sources: ranges(
            cx,
            &place,
            "direct_source_prefix_ranges",
            &message.direct_source_prefix_ranges,
        ),
        source: match message.source_type() {
            ConnectionSourceType::Any => Source::Any,
            ConnectionSourceType::SameIpOrLoopback => Source::Local,
            ConnectionSourceType::External => Source::External,
        },
        sources: ranges(cx, &place, "source_prefix_ranges", &message.source_prefix_ranges),
        source_ports: message.source_ports.iter().copied().map(port).collect(),
    }
}

/// Conditions on the first bytes of a connection.
fn uninspected(cx: &mut Cx<'_>, place: &Place<'_>, message: &FilterChainMatch) {
    let asked = [
        ("server_names", !message.server_names.is_empty()),
        ("application_protocols", !message.application_protocols.is_empty()),
        ("transport_protocol", !matches!(&*message.transport_protocol, "" | "raw_buffer")),
    ];
    for (field, _) in asked.into_iter().filter(|(_, asked)| *asked) {
        let text = "looking at the first bytes of a connection is not implemented";
        cx.error(&place.field(field), Code::NotImplemented, text)
            .suggest("give each kind of connection a listener of its own");
    }
}

/// Ranges of addresses.
pub(super) fn ranges(cx: &mut Cx<'_>, place: &Place<'_>, field: &str, messages: &[CidrRange]) -> Vec<Cidr> {
    let all = messages.iter().enumerate();
    all.filter_map(|(at, message)| range(cx, &place.item(field, at), message)).collect()
}

/// A range of addresses.
pub(super) fn range(cx: &mut Cx<'_>, place: &Place<'_>, message: &CidrRange) -> Option<Cidr> {
    if let Ok(address) = message.address_prefix.parse::<IpAddr>() {
        return Some(Cidr::new(address, message.prefix_len.unwrap_or(0)));
    }
    let text = format!("`{}` is not an IP address", message.address_prefix);
    cx.error(&place.field("address_prefix"), Code::BadValue, text);
    None
}

/// Names in lower case; `*.example.com` becomes `.example.com`.
fn server_names(cx: &mut Cx<'_>, place: &Place<'_>, names: &[String]) -> Vec<Box<str>> {
    for (at, name) in names.iter().enumerate() {
        let rest = if name.starts_with("*.") { &name[1..] } else { name };
        if rest.contains('*') {
            let text = format!("`{name}` has a `*` that does not stand for whole first labels");
            cx.error(&place.item("server_names", at), Code::BadValue, text).suggest("`*.example.com`");
        }
    }
    names.iter().map(|name| name.strip_prefix('*').unwrap_or(name).to_ascii_lowercase().into()).collect()
}

/// Whether there is a connection for which neither of two chains is the more specific one.
fn overlap(one: &Conditions, other: &Conditions) -> bool {
    let strings = |one: &[Box<str>], other: &[Box<str>]| shares(one, other);
    one.destination_port == other.destination_port
        && shares(&one.destinations, &other.destinations)
        && strings(&one.server_names, &other.server_names)
        && one.transport == other.transport
        && strings(&one.applications, &other.applications)
        && shares(&one.direct_sources, &other.direct_sources)
        && one.source == other.source
        && shares(&one.sources, &other.sources)
        && shares(&one.source_ports, &other.source_ports)
}

fn shares<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    one.is_empty() && other.is_empty() || one.iter().any(|item| other.contains(item))
}
