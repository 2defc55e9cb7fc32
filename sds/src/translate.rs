//! Slices of one Service in, its endpoints out. Pure: the same slices in any order give the same answer.
//!
//! 1. A slice without TCP ports, or with host names for addresses, is skipped. IPv4 slices count; IPv6 slices only for a
//!    Service that has no IPv4 slice, so that a dual-stack pod is not counted twice.
//! 2. An address that is listed more than once is one endpoint ([`Candidate::merge`] says whose conditions count).
//! 3. Ready endpoints are routable. When there is none, those that are terminating but still serving are (KEP-1669):
//!    better a pod that is finishing than no pod at all.
//! 4. A pod is reached through its sidecar: its port is replaced, unless `petmesh.dev/sidecar` is `"false"`.
//!
//! Options come from the slice: annotation, else the label of the same name (Kubernetes copies a Service's labels onto its
//! slices, not its annotations). A bad value is ignored and reported in [`Translation::ignored`].

mod merge;
mod options;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::slice::{AddressType, EndpointSlice, SlicePort};

use merge::Candidate;
pub(crate) use merge::LAST_CHANGE;
use options::Options;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What the answers for one Service are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Sorted by address, then port; no two share both.
    pub endpoints: Vec<Endpoint>,
    /// What was ignored, in the order of the slices' names.
    pub ignored: Vec<Ignored>,
}

/// One address to send requests to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    /// Empty when Kubernetes knows none.
    pub zone: String,
    pub canary: bool,
    /// 1 to 100.
    pub weight: u32,
}

/// A value that could not be used, for `/debug`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ignored {
    /// `namespace/name` of the EndpointSlice.
    pub slice: String,
    pub what: String,
    pub value: String,
    pub why: &'static str,
}

/// The Service that a slice belongs to: its label, else its owner. `None`: a slice of nobody, which is ignored.
pub fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let metadata = &slice.metadata;
    match metadata.labels.get(SERVICE_LABEL) {
        Some(name) if !name.is_empty() => Some(name),
        _ => metadata.owner_references.iter().find(|owner| owner.kind == "Service").map(|o| o.name.as_str()),
    }
}

/// Joins all slices of one Service. `envoy_port` is where every sidecar takes requests from other pods.
pub fn translate<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>, envoy_port: u16) -> Translation {
    let mut slices: Vec<&EndpointSlice> = slices.into_iter().collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let has_ipv4 = slices.iter().any(|slice| slice.address_type == AddressType::IPv4);
    let family = if has_ipv4 { AddressType::IPv4 } else { AddressType::IPv6 };

    let mut ignored = Vec::new();
    let mut candidates: BTreeMap<(IpAddr, u16), Vec<Candidate<'_>>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family && speaks_tcp(slice)) {
        let options = Options::of(slice, &mut ignored);
        for endpoint in &slice.endpoints {
            // Kubernetes gives further addresses of one endpoint no meaning; its controller writes one.
            let Some(text) = endpoint.addresses.first() else { continue };
            let address = match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == has_ipv4 => address,
                _ => {
                    ignored.push(ignore(slice, "address", text, "not an address of the slice's addressType"));
                    continue;
                }
            };
            let is_pod =
                endpoint.target_ref.as_ref().and_then(|target| target.kind.as_deref()) == Some("Pod");
            let port = if is_pod && options.sidecar { Some(envoy_port) } else { own_port(&slice.ports) };
            let Some(port) = port else {
                ignored.push(ignore(
                    slice,
                    "address",
                    text,
                    "the slice names no TCP port and it has no sidecar",
                ));
                continue;
            };
            candidates.entry((address, port)).or_default().push(Candidate { slice, endpoint, options });
        }
    }
    Translation { endpoints: routable(candidates), ignored }
}

/// An empty list means "all ports", so it may well be TCP.
fn speaks_tcp(slice: &EndpointSlice) -> bool {
    slice.ports.is_empty() || slice.ports.iter().any(SlicePort::is_tcp)
}

/// The port of an endpoint without sidecar: the one named `http`, else the first TCP port by name and number.
fn own_port(ports: &[SlicePort]) -> Option<u16> {
    let tcp = ports.iter().filter(|port| port.is_tcp()).filter_map(|p| Some((p.name.as_deref(), p.port?)));
    tcp.min_by_key(|(name, port)| (*name != Some("http"), *name, *port)).map(|(_, port)| port)
}

fn routable(candidates: BTreeMap<(IpAddr, u16), Vec<Candidate<'_>>>) -> Vec<Endpoint> {
    let unique: Vec<_> =
        candidates.into_iter().filter_map(|(place, all)| Some((place, Candidate::merge(all)?))).collect();
    let any_ready = unique.iter().any(|(_, candidate)| candidate.conditions().ready());
    unique
        .into_iter()
        .filter(|(_, candidate)| {
            let conditions = candidate.conditions();
            if any_ready { conditions.ready() } else { conditions.serving() && conditions.terminating() }
        })
        .map(|((address, port), candidate)| Endpoint {
            address,
            port,
            zone: candidate.endpoint.zone.clone().unwrap_or_default(),
            canary: candidate.options.canary,
            weight: candidate.options.weight,
        })
        .collect()
}

fn ignore(slice: &EndpointSlice, what: &str, value: &str, why: &'static str) -> Ignored {
    let slice = format!("{}/{}", slice.metadata.namespace, slice.metadata.name);
    Ignored { slice, what: what.to_owned(), value: value.chars().take(80).collect(), why }
}
