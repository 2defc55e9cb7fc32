//! Slices of one Service in, its endpoints out. Pure: the same slices in any order give the same
//! endpoints.
//!
//! 1. A slice without TCP ports, or with host names for addresses, is skipped, and so is one of the
//!    other address family ([`Family`]), so that a dual-stack pod is not counted twice.
//! 2. An address that is listed more than once is one endpoint ([`merge`] says whose conditions
//!    count).
//! 3. Ready endpoints are routable. When there is none, those that are terminating but still serving
//!    are (KEP-1669). When there is none of these either, those whose pods are still there and were
//!    ready until recently are, as [`Health::Unhealthy`]: see [`crate::catalog`].
//! 4. A pod is reached through its sidecar: its port is replaced, unless `petmesh.dev/sidecar` is
//!    `"false"`.
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

pub(crate) use merge::LAST_CHANGE;
use merge::{Candidate, Rank};
use options::Options;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What the answers for one Service are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Sorted by address, then port; no two share both.
    pub endpoints: Vec<Endpoint>,
    /// What was ignored, in the order of the slices' names.
    pub ignored: Vec<Ignored>,
    /// Every pod that is not on its way out, whether routable or not.
    pub pods: Vec<Pod>,
}

/// How slices become endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where every sidecar takes requests from other pods.
    pub envoy_port: u16,
    pub family: Family,
}

/// Which addresses of a Service are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4 where the Service has an IPv4 slice, else IPv6.
    #[default]
    Auto,
    Ipv4,
    Ipv6,
}

/// A pod at an address, as a slice names it: the same pod at another address is another one, and so
/// is another pod at the same address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    pub address: IpAddr,
    /// `targetRef.uid`
    pub uid: String,
}

/// What the slices say of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub id: PodId,
    pub ready: bool,
}

/// What is known of an endpoint that is given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    #[default]
    Healthy,
    /// Not ready, and given out because no endpoint of the Service is. The v1 API has no field for
    /// it; in xDS it is `UNHEALTHY`.
    Unhealthy,
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
    pub health: Health,
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

/// Joins all slices of one Service. `keeps` says whether a pod that is not ready was so until
/// recently.
pub fn translate<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    rules: Rules,
    keeps: impl Fn(&PodId) -> bool,
) -> Translation {
    let mut slices: Vec<&EndpointSlice> = slices.into_iter().collect();
    slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let family = family(&slices, rules.family);

    let mut ignored = Vec::new();
    let mut candidates: BTreeMap<(IpAddr, u16), Vec<Candidate<'_>>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family && speaks_tcp(slice)) {
        let options = Options::of(slice, &mut ignored);
        for endpoint in &slice.endpoints {
            // Kubernetes gives further addresses of one endpoint no meaning; its controller writes one.
            let Some(text) = endpoint.addresses.first() else { continue };
            let address = match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == (family == AddressType::IPv4) => address,
                _ => {
                    ignored.push(ignore(slice, "address", text, "not an address of the slice's addressType"));
                    continue;
                }
            };
            let is_pod =
                endpoint.target_ref.as_ref().and_then(|target| target.kind.as_deref()) == Some("Pod");
            let port =
                if is_pod && options.sidecar { Some(rules.envoy_port) } else { own_port(&slice.ports) };
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
    let (endpoints, pods) = resolve(candidates, keeps);
    Translation { endpoints, ignored, pods }
}

fn family(slices: &[&EndpointSlice], wanted: Family) -> AddressType {
    let has_ipv4 = slices.iter().any(|slice| slice.address_type == AddressType::IPv4);
    match wanted {
        Family::Ipv6 => AddressType::IPv6,
        Family::Auto if !has_ipv4 => AddressType::IPv6,
        Family::Auto | Family::Ipv4 => AddressType::IPv4,
    }
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

/// One endpoint for each place, of those only that are routable; and the pods of all places.
fn resolve(
    candidates: BTreeMap<(IpAddr, u16), Vec<Candidate<'_>>>,
    keeps: impl Fn(&PodId) -> bool,
) -> (Vec<Endpoint>, Vec<Pod>) {
    let (mut unique, mut pods) = (Vec::new(), Vec::new());
    for ((address, port), all) in candidates {
        let all = merge::same_pod(all);
        let id = |candidate: &Candidate<'_>| Some(PodId { address, uid: candidate.uid()?.to_owned() });
        let kept = |candidate: &Candidate<'_>| id(candidate).is_some_and(|id| keeps(&id));
        pods.extend(
            all.iter().filter(|candidate| candidate.stays()).filter_map(|candidate| {
                Some(Pod { id: id(candidate)?, ready: candidate.conditions().ready() })
            }),
        );
        unique
            .extend(merge::same_place(all, kept).map(|(candidate, rank)| ((address, port), candidate, rank)));
    }
    let best = unique.iter().map(|(_, _, rank)| *rank).max().unwrap_or(Rank::Unroutable);
    let routable = unique.into_iter().filter(|(_, _, rank)| *rank == best && best > Rank::Unroutable);
    let endpoint = |((address, port), candidate, rank): (_, Candidate<'_>, _)| Endpoint {
        address,
        port,
        zone: candidate.endpoint.zone.clone().unwrap_or_default(),
        canary: candidate.options.canary,
        weight: candidate.options.weight,
        health: if rank == Rank::Kept { Health::Unhealthy } else { Health::Healthy },
    };
    (routable.map(endpoint).collect(), pods)
}

fn ignore(slice: &EndpointSlice, what: &str, value: &str, why: &'static str) -> Ignored {
    let slice = format!("{}/{}", slice.metadata.namespace, slice.metadata.name);
    Ignored { slice, what: what.to_owned(), value: value.chars().take(80).collect(), why }
}
