//! A route of the v1 TCP proxy: its cluster, the ranges of addresses and the ports that it is for.

use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Span, integer};
use super::{Pass, find, from, items, scalar, snake};
use crate::diagnostic::Code;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses, its bits at the left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    v6: bool,
    bits: u128,
    pub(super) len: u32,
}

impl Prefix {
    /// All addresses, in their order.
    pub(super) const ALL: [Self; 2] =
        [Self { v6: false, bits: 0, len: 0 }, Self { v6: true, bits: 0, len: 0 }];

    fn new(address: &str, len: i64) -> Option<Self> {
        let (v6, bits, most) = match address.parse().ok()? {
            IpAddr::V4(address) => (false, u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (true, address.to_bits(), 128),
        };
        let len = u32::try_from(len).ok().filter(|len| *len <= most)?;
        Some(Self { v6, bits: bits & mask(len), len })
    }

    /// Whether the other lies in this one.
    pub(super) fn holds(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.len <= other.len && other.bits & mask(self.len) == self.bits
    }

    /// A `CidrRange`.
    pub(super) fn node(&self, span: Span) -> Node {
        let address = if self.v6 {
            Ipv6Addr::from_bits(self.bits).to_string()
        } else {
            Ipv4Addr::from_bits(u32::try_from(self.bits >> 96).unwrap_or_default()).to_string()
        };
        let len = Entry::new("prefix_len", Node::plain(span, self.len.to_string()));
        Node::map(span, vec![Entry::new("address_prefix", Node::text(span, address)), len])
    }
}

fn mask(len: u32) -> u128 {
    u128::MAX.checked_shl(128 - len).unwrap_or_default()
}

/// One route; what is absent is no condition.
pub(super) struct Route {
    pub(super) span: Span,
    pub(super) cluster: Node,
    pub(super) to: Option<Vec<Prefix>>,
    pub(super) to_ports: Option<BTreeSet<u16>>,
    pub(super) from: Option<Vec<Prefix>>,
    pub(super) from_ports: Option<BTreeSet<u16>>,
}

impl Route {
    /// Whether it is for connections of this case; `None` is a port that no route names.
    pub(super) fn is(&self, port: Option<u16>, to: &Prefix, source: &Prefix, from_port: Option<u16>) -> bool {
        let within = |list: &Option<Vec<Prefix>>, one: &Prefix| {
            list.as_ref().is_none_or(|list| list.iter().any(|prefix| prefix.holds(one)))
        };
        let among = |list: &Option<BTreeSet<u16>>, one: Option<u16>| {
            list.as_ref().is_none_or(|list| one.is_some_and(|one| list.contains(&one)))
        };
        among(&self.to_ports, port)
            && within(&self.to, to)
            && within(&self.from, source)
            && among(&self.from_ports, from_port)
    }
}

/// Reads a route; what is wrong in it has been said when there is none.
pub(super) fn route(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Option<Route> {
    let span = node.span;
    let Some(cluster) = find(&node, "cluster").filter(|cluster| scalar(&cluster.value).is_some()) else {
        let help = "give the name of a cluster";
        pass.cannot("a route of the TCP proxy has no `cluster`".to_owned(), help, span, path);
        return None;
    };
    let cluster = from(cluster.value.clone(), &path.key("cluster"));
    let mut route = Route { span, cluster, to: None, to_ports: None, from: None, from_ports: None };
    let Kind::Map(entries) = node.kind else { return None };
    for entry in entries {
        let here = path.key(&entry.name);
        match snake(&entry.name).as_str() {
            "cluster" => {}
            "destination_ip_list" => route.to = ranges(pass, entry.value, &here)?,
            "source_ip_list" => route.from = ranges(pass, entry.value, &here)?,
            "destination_ports" => route.to_ports = ports(pass, &entry.value, &here)?,
            "source_ports" => route.from_ports = ports(pass, &entry.value, &here)?,
            _ => {
                let name = super::super::scalar::shown(&entry.name);
                let text = format!("unknown field `{name}` in a route of the TCP proxy");
                let finding = pass.out.error(Code::UnknownField, text, entry.span, &here);
                pass.out.push(finding);
                return None;
            }
        }
    }
    Some(route)
}

/// A list of `10.0.0.0/8`, or of `CidrRange` messages.
#[allow(clippy::option_option)] // the outer one says whether it could be read, the inner one whether it is a condition
fn ranges(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Option<Option<Vec<Prefix>>> {
    if node.is_null() {
        return Some(None);
    }
    let mut found = Vec::new();
    for (at, item) in items(node).into_iter().enumerate() {
        let prefix = match &item.kind {
            Kind::Scalar(text) => {
                text.text.split_once('/').and_then(|(address, len)| Prefix::new(address, integer(len)?))
            }
            _ => item.field("address_prefix").and_then(scalar).and_then(|address| {
                let len = match item.field("prefix_len") {
                    None => 0,
                    Some(len) => integer(scalar(len.field("value").unwrap_or(len))?)?,
                };
                Prefix::new(address, len)
            }),
        };
        let Some(prefix) = prefix else {
            let help = "write an address and the length of the prefix, such as `10.0.0.0/8`";
            let text = "this is not a range of addresses".to_owned();
            pass.cannot(text, help, item.span, &path.index(at));
            return None;
        };
        found.push(prefix);
    }
    Some(Some(found).filter(|found| !found.is_empty()))
}

/// `80,8080-8090`; all ports are no condition.
#[allow(clippy::option_option)] // the outer one says whether they could be read, the inner one whether they are a condition
fn ports(pass: &mut Pass<'_, '_>, node: &Node, path: &Path<'_>) -> Option<Option<BTreeSet<u16>>> {
    if node.is_null() || scalar(node) == Some("") {
        return Some(None);
    }
    let mut found = BTreeSet::new();
    for part in scalar(node).unwrap_or("-").split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let (Some(first), Some(last)) =
            (number(first), number(last).filter(|last| number(first) <= Some(*last)))
        else {
            let help = "write ports and ranges of ports, such as `80,8080-8090`";
            pass.cannot("this is not a list of ports".to_owned(), help, node.span, path);
            return None;
        };
        // No connection has the port 0.
        found.extend(first.max(1)..=last);
    }
    Some(Some(found).filter(|found| found.len() < usize::from(u16::MAX)))
}
