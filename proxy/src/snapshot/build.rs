//! Envoy's messages -> our own graph, with every finding by field path.
//!
//! One run finds everything that is wrong; nothing is bound, opened or asked. A part whose message did not change keeps its `Arc`.
//! Called by `control` and `app` (`--mode validate`); calls `xds`, `route`, `cluster`, `filter`, `format`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::envoy::config::cluster::v3::Cluster as ClusterMessage;
use xds::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xds::envoy::config::listener::v3::Listener as ListenerMessage;

use super::Listener;
use crate::cluster::ClusterPolicy;
use crate::cluster::breaker::Breaker;
use crate::stats::{ClusterStats, Registry, Scope};

mod action;
mod cluster;
pub mod discovery;
mod listener;
mod logs;
mod manager;
mod matchers;
mod place;
pub mod resolver;
mod routes;
mod runtime;
#[cfg(test)]
mod tests;
mod values;

pub use discovery::Discovery;
pub use place::{Finding, Findings, Kind, Place};
pub use runtime::Runtime;

/// A whole configuration, ready to be used.
#[derive(Debug, Default)]
pub struct Graph {
    pub listeners: Vec<ListenerPart>,
    /// By name.
    pub clusters: BTreeMap<Arc<str>, ClusterPart>,
    /// Where the admin page listens; `None` when there is none.
    pub admin: Option<SocketAddr>,
    runtime: Runtime,
    node: Node,
}

/// A listener and what it was made of.
#[derive(Debug)]
pub struct ListenerPart {
    pub message: ListenerMessage,
    pub listener: Arc<Listener>,
}

/// A cluster and what it was made of.
#[derive(Clone, Debug)]
pub struct ClusterPart {
    pub message: ClusterMessage,
    pub policy: Arc<ClusterPolicy>,
    pub discovery: Arc<Discovery>,
    pub stats: Arc<Scope<ClusterStats>>,
    pub breakers: Arc<[Breaker; 2]>,
}

/// Who this proxy is: the flags, else the file's `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub id: Arc<str>,
    pub cluster: Arc<str>,
}

impl Node {
    /// `--service-node` and `--service-cluster` where they are given, else what the file says.
    pub fn new(bootstrap: &Bootstrap, id: Option<&str>, cluster: Option<&str>) -> Self {
        let node = bootstrap.node.as_ref();
        let given = |flag: Option<&str>, file: Option<&String>| {
            flag.or(file.map(String::as_str)).unwrap_or_default().into()
        };
        Self {
            id: given(id, node.map(|node| &node.id)),
            cluster: given(cluster, node.map(|node| &node.cluster)),
        }
    }
}

/// What the parts of one build share.
pub(super) struct Cx<'a> {
    registry: &'a Registry,
    findings: Findings,
    runtime: Runtime,
    node: Node,
    resolver: resolver::Resolver,
    /// The clusters of the file; whether each is EDS.
    clusters: HashMap<&'a str, bool>,
    /// Clusters that are asked for configuration.
    backing: BTreeSet<&'a str>,
    used: BTreeSet<String>,
}

impl Cx<'_> {
    /// Notes that a cluster is used, and a finding of `kind` when it does not exist.
    fn check_cluster(&mut self, place: &Place<'_>, name: &str, kind: Kind) {
        self.used.insert(name.to_owned());
        if !self.clusters.contains_key(name) {
            let nearest = nearest(name, self.clusters.keys().copied());
            let finding = self.findings.add(place, kind, format!("there is no cluster `{name}`"));
            finding.suggestion = nearest.map(|name| format!("did you mean `{name}`?"));
        }
    }

    /// A cluster that is asked for configuration must be there without asking.
    fn check_backing_cluster(&mut self, place: &Place<'_>, name: &str) {
        self.check_cluster(place, name, Kind::Reference);
        if self.clusters.get(name) == Some(&true) {
            let text = format!("the cluster `{name}` is EDS itself: it cannot be asked for endpoints");
            self.findings.add(place, Kind::Structure, text).suggest("make it STATIC or STRICT_DNS");
        }
    }
}

/// The known name that differs by at most two letters put in, left out or changed.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = known.map(|candidate| (distance(name.as_bytes(), candidate.as_bytes()), candidate));
    near.filter(|(distance, _)| *distance <= 2).min().map(|(_, candidate)| candidate)
}

fn distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, byte) in left.iter().enumerate() {
        let mut diagonal = at;
        row[0] = at + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(byte != other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Everything that is wrong with a bootstrap, without using it.
pub fn check(bootstrap: &Bootstrap, node: Node) -> Vec<Finding> {
    graph(bootstrap, node, &Registry::new(1), None).1
}

/// The graph of a bootstrap; `None` when there are errors among the findings.
pub fn graph(
    bootstrap: &Bootstrap,
    node: Node,
    registry: &Registry,
    previous: Option<&Graph>,
) -> (Option<Graph>, Vec<Finding>) {
    let resources = bootstrap.static_resources.as_ref();
    let clusters = resources.map(|resources| &*resources.clusters).unwrap_or_default();
    let listeners = resources.map(|resources| &*resources.listeners).unwrap_or_default();
    let mut cx = Cx {
        registry,
        findings: Findings::default(),
        runtime: Runtime::new(bootstrap.layered_runtime.as_ref()),
        node,
        resolver: resolver::Resolver::default(),
        clusters: clusters.iter().map(|cluster| (cluster.name.as_str(), is_eds(cluster))).collect(),
        backing: backing(clusters),
        used: BTreeSet::new(),
    };
    cx.resolver = resolver::of_bootstrap(
        &mut cx,
        bootstrap.typed_dns_resolver_config.as_ref(),
        bootstrap.dns_resolution_config.as_ref(),
        bootstrap.use_tcp_for_dns_lookups,
    );
    let admin = admin(&mut cx, bootstrap);
    let clusters = build_clusters(&mut cx, clusters, previous);
    let listeners = build_listeners(&mut cx, listeners, previous);
    let graph = Graph { listeners, clusters, admin, runtime: cx.runtime, node: cx.node };
    let refused = cx.findings.has_errors();
    ((!refused).then_some(graph), cx.findings.0)
}

fn is_eds(cluster: &ClusterMessage) -> bool {
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32))
}

fn backing(clusters: &[ClusterMessage]) -> BTreeSet<&str> {
    let sources =
        clusters.iter().filter_map(|cluster| cluster.eds_cluster_config.as_ref()?.eds_config.as_ref());
    sources.flat_map(discovery::backing_clusters).collect()
}

fn admin(cx: &mut Cx<'_>, bootstrap: &Bootstrap) -> Option<SocketAddr> {
    let admin = bootstrap.admin.as_ref()?;
    let place = Place::ROOT.field("admin");
    let place = place.field("address");
    // Without an address there is no admin page, as in Envoy.
    admin.address.as_ref()?;
    let address = match values::ip_address(cx, &place, admin.address.as_ref()) {
        Ok(address) => address,
        Err(text) => {
            if let Some(text) = text {
                let message = format!("`{text}` is not an IP address: the admin page is bound to one");
                cx.error(&place.field("socket_address").field("address"), Kind::BadValue, message);
            }
            return None;
        }
    };
    if address.ip().is_unspecified() {
        let text =
            format!("the admin page is open to everybody who reaches {address}: it can stop this proxy");
        cx.error(&place.field("socket_address").field("address"), Kind::Lint, text).suggest("127.0.0.1");
    }
    Some(address)
}

fn build_clusters(
    cx: &mut Cx<'_>,
    messages: &[ClusterMessage],
    previous: Option<&Graph>,
) -> BTreeMap<Arc<str>, ClusterPart> {
    let mut parts = BTreeMap::new();
    let root = Place::ROOT.field("static_resources");
    for (at, message) in messages.iter().enumerate() {
        let place = root.item("clusters", at);
        let policy = cluster::policy(cx, &place, message);
        let Some(discovery) = discovery::discovery(cx, &place, message) else { continue };
        let before = previous.and_then(|graph| graph.clusters.get(message.name.as_str()));
        let same = before.filter(|before| {
            before.message == *message && before.policy.selectable_by_header == policy.selectable_by_header
        });
        let part = ClusterPart {
            message: message.clone(),
            policy: same.map_or_else(|| Arc::new(policy), |before| Arc::clone(&before.policy)),
            discovery: match before {
                Some(before) if *before.discovery == discovery => Arc::clone(&before.discovery),
                _ => Arc::new(discovery),
            },
            stats: cluster::stats(cx, message),
            breakers: before.map_or_else(Arc::default, |before| Arc::clone(&before.breakers)),
        };
        if parts.insert(Arc::clone(&part.policy.name), part).is_some() {
            let text = format!("the name `{}` belongs to another cluster already", message.name);
            cx.error(&place.field("name"), Kind::Structure, text);
        }
    }
    parts
}

fn build_listeners(
    cx: &mut Cx<'_>,
    messages: &[ListenerMessage],
    previous: Option<&Graph>,
) -> Vec<ListenerPart> {
    let previous = previous.filter(|graph| graph.runtime == cx.runtime && graph.node == cx.node);
    let mut parts: Vec<ListenerPart> = Vec::with_capacity(messages.len());
    let root = Place::ROOT.field("static_resources");
    for (at, message) in messages.iter().enumerate() {
        let place = root.item("listeners", at);
        let Some(listener) = listener::listener(cx, &place, message) else { continue };
        for other in &parts {
            if other.listener.name == listener.name {
                let text = format!("the name `{}` belongs to another listener already", listener.name);
                cx.error(&place.field("name"), Kind::Structure, text);
            } else if other.listener.address == listener.address && listener.address.port() != 0 {
                let text = format!("`{}` listens on {} already", other.listener.name, listener.address);
                cx.error(&place.field("address"), Kind::Structure, text);
            }
        }
        let before = previous.and_then(|graph| graph.listeners.iter().find(|part| part.message == *message));
        let listener = before.map_or_else(|| Arc::new(listener), |before| Arc::clone(&before.listener));
        parts.push(ListenerPart { message: message.clone(), listener });
    }
    parts
}
