//! Filter chains and their conditions -> `snapshot`.

use std::collections::HashMap;
use std::hash::Hash;
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
    let each = message.filter_chains.iter().enumerate();
    let chains: Vec<_> =
        each.map(|(at, message)| chain(cx, &place.item("filter_chains", at), message, prefix)).collect();
    overlaps(cx, place, &chains);
    let mut whole = chains.iter().all(Option::is_some);
    let chains = chains.into_iter().flatten().map(Arc::new).collect();
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

/// Combinations of conditions that the chains of a listener may have.
const MAX_COMBINATIONS: usize = 100_000;

/// Finds chains that take the same connections: for some connection, neither is the more specific one.
fn overlaps(cx: &mut Cx<'_>, place: &Place<'_>, chains: &[Option<FilterChain>]) {
    let mut taken = HashMap::new();
    let mut left = MAX_COMBINATIONS;
    for (at, chain) in chains.iter().enumerate() {
        let Some(FilterChain { conditions, .. }) = chain else { continue };
        let place = place.item("filter_chains", at);
        let place = place.field("filter_chain_match");
        let count = combinations(conditions);
        let Some(rest) = left.checked_sub(count) else {
            let text = format!(
                "the chains of this listener have more than {MAX_COMBINATIONS} combinations of conditions"
            );
            cx.error(&place, Code::Structure, text).suggest("use wider ranges, or several listeners");
            return;
        };
        left = rest;
        let others = (0..count).map(|one| *taken.entry(combination(conditions, one)).or_insert(at));
        if let Some(other) = others.filter(|other| *other != at).min() {
            let text = format!("takes the same connections as `filter_chains[{other}]`");
            cx.error(&place, Code::Structure, text).suggest("give each chain a condition of its own");
        }
    }
}

/// In how many ways one value of each condition can be chosen.
fn combinations(conditions: &Conditions) -> usize {
    let lengths = [
        conditions.destinations.len(),
        conditions.server_names.len(),
        conditions.applications.len(),
        conditions.direct_sources.len(),
        conditions.sources.len(),
        conditions.source_ports.len(),
    ];
    lengths.iter().fold(1, |count, length| count.saturating_mul((*length).max(1)))
}

/// One of them. Chains overlap where they have a combination in common.
fn combination(conditions: &Conditions, number: usize) -> impl Eq + Hash {
    let mut rest = number;
    let mut next = |length: usize| {
        let length = length.max(1);
        let at = rest % length;
        rest /= length;
        at
    };
    let Conditions {
        destinations, server_names, applications, direct_sources, sources, source_ports, ..
    } = conditions;
    (
        (conditions.destination_port, &conditions.transport, conditions.source),
        destinations.get(next(destinations.len())),
        server_names.get(next(server_names.len())),
        applications.get(next(applications.len())),
        direct_sources.get(next(direct_sources.len())),
        sources.get(next(sources.len())),
        source_ports.get(next(source_ports.len())),
    )
}
