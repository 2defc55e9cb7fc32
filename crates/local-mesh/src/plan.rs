//! What runs in the local mesh: the services, their pods' names, addresses and ports. Pure.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A service of the mesh and what one pod of it consists of.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of the Kubernetes Service, of the app's container and of the Envoy file in the configuration folder.
    pub name: &'static str,
    /// Binary of the application, if the pod has one.
    pub app: Option<&'static str>,
    /// Binary of the proxy, if the pod has one.
    pub proxy: Option<&'static str>,
    /// Services that must be ready before the first proxies of this one start. Every part copes with any order (the
    /// tests kill and restart them at will); this order only saves a first, empty poll of discovery.
    pub after: &'static [&'static str],
    /// Pods when the user does not say otherwise.
    pub replicas: u32,
}

/// The services, in the order in which tables show them and addresses are given: as the request path goes, sds last.
pub const SERVICES: [Service; 4] = [
    Service { name: "ingress", app: None, proxy: Some("ingress"), after: &["pet", "petstore"], replicas: 1 },
    Service {
        name: "petstore",
        app: Some("petstore"),
        proxy: Some("proxy"),
        after: &["sds", "pet"],
        replicas: 1,
    },
    Service { name: "pet", app: Some("pet"), proxy: Some("proxy"), after: &["sds"], replicas: 2 },
    Service { name: "sds", app: Some("sds"), proxy: None, after: &[], replicas: 1 },
];

/// More pods of one service than this are refused: each is two processes of the user's machine.
pub const MAX_REPLICAS: u32 = 20;

/// Inbound listener of a proxy.
pub const INBOUND: u16 = 10000;
/// Outbound listener of a proxy.
pub const OUTBOUND: u16 = 9900;
/// Admin interface of a proxy.
pub const ADMIN: u16 = 8081;
/// Probe listener of a proxy.
pub const PROBES: u16 = 10001;
/// The application; for sds its REST API.
pub const APP: u16 = 8080;

/// The service with this name.
#[must_use]
pub fn service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}

impl Service {
    /// Whether calls to a pod of this service pass a sidecar.
    #[must_use]
    pub fn has_sidecar(&self) -> bool {
        self.app.is_some() && self.proxy.is_some()
    }

    /// Whether the service has its one fixed address and therefore exactly one pod.
    #[must_use]
    pub fn is_edge(&self) -> bool {
        self.app.is_none()
    }

    /// The ports that a pod of this service listens on, the one that callers use first.
    #[must_use]
    pub fn ports(&self) -> &'static [u16] {
        match (self.app.is_some(), self.proxy.is_some()) {
            (true, true) => &[INBOUND, OUTBOUND, ADMIN, PROBES, APP],
            (false, _) => &[INBOUND, ADMIN, PROBES],
            (true, false) => &[APP],
        }
    }

    /// Port and path that answer 200 when a pod of this service is ready: the app's readiness through its own proxy.
    #[must_use]
    pub fn readiness(&self) -> (u16, &'static str) {
        match (self.app.is_some(), self.proxy.is_some()) {
            (true, true) => (INBOUND, "/readyz"),
            (false, _) => (PROBES, "/ready"),
            (true, false) => (APP, "/readyz"),
        }
    }
}

/// Where the pods live: the edge has an address of its own, the others count upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The ingress.
    pub ingress: Ipv4Addr,
    /// The first of the other pods.
    pub pods: Ipv4Addr,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { ingress: Ipv4Addr::LOCALHOST, pods: Ipv4Addr::new(127, 0, 1, 1) }
    }
}

/// Hands out addresses. A new pod never gets the address of one that has just left, because a caller that has not yet
/// heard of the change would take it for the old one; after a rest every caller has heard. Times count from one
/// beginning.
#[derive(Debug)]
pub struct Allocator {
    addresses: Addresses,
    rest: Duration,
    used: u32,
    /// Addresses of pods that have left, and since when; the longest first.
    free: VecDeque<(Ipv4Addr, Duration)>,
}

impl Allocator {
    /// Starts at the first address; one that a pod had is given out again after `rest`.
    #[must_use]
    pub fn new(addresses: Addresses, rest: Duration) -> Self {
        Self { addresses, rest, used: 0, free: VecDeque::new() }
    }

    /// The address of the next pod of `service`.
    pub fn next(&mut self, service: &Service, now: Duration) -> Ipv4Addr {
        if service.is_edge() {
            return self.addresses.ingress;
        }
        if self.free.front().is_some_and(|(_, since)| now.saturating_sub(*since) >= self.rest)
            && let Some((address, _)) = self.free.pop_front()
        {
            return address;
        }
        let address = Ipv4Addr::from_bits(self.addresses.pods.to_bits().wrapping_add(self.used));
        self.used += 1;
        address
    }

    /// The pod at this address has left.
    pub fn release(&mut self, address: Ipv4Addr, now: Duration) {
        if address != self.addresses.ingress {
            self.free.push_back((address, now));
        }
    }
}

/// The lowest free pod name of `service`: `pet-1`, `pet-2`, …
#[must_use]
pub fn free_name(service: &Service, taken: &[&str]) -> String {
    let mut number = 1;
    loop {
        let name = format!("{}-{number}", service.name);
        if !taken.contains(&name.as_str()) {
            return name;
        }
        number += 1;
    }
}

/// Whether a folder of this name belongs to a pod (`pet-1`), so that `up` may clear it.
#[must_use]
pub fn is_pod_name(name: &str) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(kind, number)| service(kind).is_some() && number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_mesh_has_the_documented_names_and_addresses() {
        let mut allocator = Allocator::new(Addresses::default(), Duration::ZERO);
        let mut pods = Vec::new();
        for service in &SERVICES {
            for _ in 0..service.replicas {
                let taken: Vec<&str> = pods.iter().map(|(name, _): &(String, _)| name.as_str()).collect();
                pods.push((free_name(service, &taken), allocator.next(service, Duration::ZERO).to_string()));
            }
        }
        let expected = [
            ("ingress-1", "127.0.0.1"),
            ("petstore-1", "127.0.1.1"),
            ("pet-1", "127.0.1.2"),
            ("pet-2", "127.0.1.3"),
            ("sds-1", "127.0.1.4"),
        ];
        let expected: Vec<(String, String)> =
            expected.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect();
        assert_eq!(pods, expected);
    }

    #[test]
    fn a_name_is_taken_again_at_once_and_an_address_after_a_rest() {
        let (pet, rest) = (service("pet").unwrap(), Duration::from_secs(3));
        assert_eq!(free_name(pet, &["pet-1", "pet-3"]), "pet-2");
        let mut allocator = Allocator::new(Addresses::default(), rest);
        let first = allocator.next(pet, Duration::ZERO);
        let left = Duration::from_secs(7);
        allocator.release(first, left);
        let early = allocator.next(pet, left + rest - Duration::from_nanos(1));
        assert_ne!(early, first, "a caller may still take it for the old one");
        assert_eq!(allocator.next(pet, left + rest), first);
        assert!(![first, early].contains(&allocator.next(pet, left + rest)), "no address is given out twice");
    }

    /// Eight addresses exist on a Mac: scaling up and down for ever must not need more.
    #[test]
    fn scaling_up_and_down_for_ever_needs_no_more_addresses_than_pods() {
        let (pet, rest) = (service("pet").unwrap(), Duration::from_secs(3));
        let mut allocator = Allocator::new(Addresses::default(), rest);
        let mut now = Duration::ZERO;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let pods: Vec<Ipv4Addr> = (0..4).map(|_| allocator.next(pet, now)).collect();
            now += Duration::from_secs(1);
            pods.iter().for_each(|pod| allocator.release(*pod, now));
            seen.extend(pods);
            now += rest;
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
        let ingress = Addresses::default().ingress;
        allocator.release(ingress, now);
        assert_ne!(allocator.next(pet, now + rest), ingress);
    }

    #[test]
    fn only_pod_folders_may_be_cleared() {
        assert!(is_pod_name("pet-12"));
        assert!(!is_pod_name("pet"));
        assert!(!is_pod_name("photos-1"));
        assert!(!is_pod_name("pet-one"));
    }
}
