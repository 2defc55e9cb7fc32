//! Filter chains: which of a listener's chains takes a connection. Pure.
//!
//! As in Envoy, the conditions are evaluated one after the other, each leaves the chains that fit
//! best, and what an earlier condition has chosen is not given up for a later one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::matcher::Cidr;
use crate::snapshot::{Conditions, FilterChain, FilterChains, Source};

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub peer: SocketAddr,
    pub server_name: &'a str,
    pub transport: &'a str,
    pub applications: &'a [Box<str>],
}

impl FilterChains {
    /// The only chain, if it takes every connection.
    pub(crate) fn only(&self) -> Option<&Arc<FilterChain>> {
        match &*self.chains {
            [only] if only.conditions == Conditions::default() => Some(only),
            _ => None,
        }
    }

    /// The chain of a connection.
    pub(crate) fn choose(&self, facts: &Facts<'_>) -> Option<&Arc<FilterChain>> {
        let mut left: Vec<&Arc<FilterChain>> = self.chains.iter().collect();
        for fit in FITS {
            let best = left.iter().filter_map(|chain| fit(&chain.conditions, facts)).max();
            left.retain(|chain| best.is_some() && fit(&chain.conditions, facts) == best);
        }
        left.first().copied().or(self.default.as_ref())
    }
}

/// How well a chain fits by one condition: `None` not at all, 0 because it does not ask.
type Fit = fn(&Conditions, &Facts<'_>) -> Option<usize>;

/// The conditions in Envoy's order.
const FITS: [Fit; 9] = [
    |conditions, facts| match conditions.destination_port {
        None => Some(0),
        Some(port) => (port == facts.local.port()).then_some(1),
    },
    |conditions, facts| ranges(&conditions.destinations, facts.local.ip()),
    |conditions, facts| names(&conditions.server_names, facts.server_name),
    |conditions, facts| match &*conditions.transport {
        "" => Some(0),
        wanted => (wanted == facts.transport).then_some(1),
    },
    |conditions, facts| applications(&conditions.applications, facts.applications),
    |conditions, facts| ranges(&conditions.direct_sources, facts.peer.ip()),
    |conditions, facts| match conditions.source {
        Source::Any => Some(0),
        wanted => ((wanted == Source::Local) == is_local(facts)).then_some(1),
    },
    |conditions, facts| ranges(&conditions.sources, facts.remote.ip()),
    |conditions, facts| match &*conditions.source_ports {
        [] => Some(0),
        ports => ports.contains(&facts.remote.port()).then_some(1),
    },
];

/// The longest prefix, plus one.
fn ranges(ranges: &[Cidr], address: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    ranges.iter().filter(|range| range.contains(address)).map(|range| usize::from(range.bits()) + 1).max()
}

/// The longest name that ends the client's.
fn names(wanted: &[Box<str>], name: &str) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    let fits = |wanted: &str| {
        wanted == name || wanted.starts_with('.') && name.len() > wanted.len() && name.ends_with(wanted)
    };
    wanted.iter().filter(|wanted| fits(wanted)).map(|wanted| wanted.len()).max()
}

/// The client's first protocol that is asked for.
fn applications(wanted: &[Box<str>], offered: &[Box<str>]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    let first = offered.iter().position(|offered| wanted.contains(offered))?;
    Some(offered.len() - first)
}

fn is_local(facts: &Facts<'_>) -> bool {
    facts.remote.ip() == facts.local.ip() || facts.remote.ip().is_loopback()
}

#[cfg(test)]
#[path = "../../tests/unit/chain.rs"]
mod tests;
