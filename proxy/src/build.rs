//! Envoy's messages -> our own graph, with every finding by field path.
//!
//! One run finds everything that is wrong; nothing is bound or asked, and only access logs are opened. A part whose message did not change keeps its `Arc`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message as _;
use xds::envoy::config::bootstrap::v3::{Bootstrap, LayeredRuntime};
use xds::envoy::config::cluster::v3::Cluster as ClusterMessage;
use xds::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds::envoy::config::listener::v3::Listener as ListenerMessage;
use xds::{Diagnostic, Read};

use crate::access_log::{AccessLog, LogWriter};
use crate::cluster::breaker::Breaker;
use crate::cluster::{ClusterPolicy, Endpoint};
use crate::memory::SocketBuffers;
use crate::snapshot::{FilterChain, Listener};
use crate::stats::{ClusterStats, HealthCheckStats, MaglevStats, Registry, RingHashStats, Scope};

mod action;
mod admin;
mod balancing;
mod chains;
pub mod check;
mod cluster;
pub(crate) mod discovery;
mod edge;
pub(crate) mod files;
mod health;
mod http_filters;
mod listener;
mod log_filter;
mod logs;
mod manager;
mod matchers;
mod network;
mod overload;
mod place;
pub(crate) mod resolver;
mod retries;
mod routes;
mod runtime;
mod tracing;
mod values;

pub use discovery::Discovery;
pub use edge::Flavor;
pub(crate) use files::Files;
use place::{Code, Findings, Place};
pub(crate) use runtime::Runtime;

/// A message as its bytes, a tenth of its size in memory. Equal messages have equal bytes.
#[derive(Debug)]
pub struct Packed<M> {
    bytes: Arc<[u8]>,
    message: PhantomData<fn() -> M>,
}

impl<M: prost::Message + Default> Packed<M> {
    pub fn new(message: &M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: PhantomData }
    }

    pub(crate) fn unpack(&self) -> M {
        // A message reads what it wrote.
        M::decode(&*self.bytes).unwrap_or_default()
    }
}

impl<M> Clone for Packed<M> {
    fn clone(&self) -> Self {
        Self { bytes: Arc::clone(&self.bytes), message: PhantomData }
    }
}

impl<M> PartialEq for Packed<M> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// A whole configuration, ready to be used.
#[derive(Debug, Default)]
pub struct Graph {
    pub listeners: Vec<ListenerPart>,
    /// By name.
    pub clusters: BTreeMap<Arc<str>, ClusterPart>,
    /// Where the admin page listens; `None` when there is none.
    pub admin: Option<SocketAddr>,
    /// Where the admin interface logs its requests.
    pub admin_log: Vec<Arc<AccessLog>>,
    pub runtime: Runtime,
    pub node: Node,
    /// The gauge `server.version`, which shows what the process started with.
    pub server_version: u64,
    /// Read at the start alone.
    pub overload: Option<Arc<crate::overload::Config>>,
}

/// A listener and what it was made of.
#[derive(Debug)]
pub struct ListenerPart {
    pub message: Packed<ListenerMessage>,
    /// Same as long as the files that it takes data from are.
    pub files: u64,
    pub listener: Arc<Listener>,
}

/// A cluster and what it was made of.
#[derive(Clone, Debug)]
pub struct ClusterPart {
    pub message: Packed<ClusterMessage>,
    pub policy: Arc<ClusterPolicy>,
    pub discovery: Arc<Discovery>,
    pub stats: Arc<Scope<ClusterStats>>,
    pub health_stats: Option<Arc<Scope<HealthCheckStats>>>,
    pub table_stats: Option<TableStats>,
    pub breakers: Arc<[Breaker; 2]>,
}

/// Statistics of a table that hosts are picked from by hash.
#[derive(Clone, Debug)]
pub enum TableStats {
    Ring(Arc<Scope<RingHashStats>>),
    Maglev(Arc<Scope<MaglevStats>>),
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

/// What a build needs besides the messages.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    pub node: Node,
    pub flavor: Flavor,
    pub registry: &'a Registry,
    /// Opens access logs; `None` opens nothing, and makes none.
    pub logs: Option<&'a LogWriter>,
    /// What the admin interface laid over the runtime values of the file.
    pub runtime: &'a [(String, String)],
    /// Notes the files that data is taken from.
    pub files: Option<&'a Files>,
}

/// What the parts of one build share.
pub(crate) struct Cx<'a> {
    registry: &'a Registry,
    /// `None` when nothing may be opened.
    logs: Option<&'a LogWriter>,
    findings: Findings,
    runtime: Runtime,
    node: Node,
    flavor: Flavor,
    resolver: resolver::Resolver,
    /// The clusters of the file; whether each is EDS.
    clusters: HashMap<&'a str, bool>,
    /// Clusters that are asked for configuration.
    backing: BTreeSet<&'a str>,
    used: BTreeSet<String>,
    /// A route takes the cluster's name from a header, so any cluster may be used.
    any_by_header: bool,
    /// The listener that is built leads out of this service.
    egress: bool,
    /// Its `per_connection_buffer_limit_bytes`.
    buffer_limit: Option<usize>,
    /// Of the sockets to all clusters.
    upstream_buffers: SocketBuffers,
    files: Option<&'a Files>,
    /// Of the content of the files that the listener takes data from.
    digest: DefaultHasher,
}

impl<'a> Cx<'a> {
    fn new(clusters: &'a [ClusterMessage], parts: Parts<'a>, runtime: Option<&LayeredRuntime>) -> Self {
        Self {
            registry: parts.registry,
            logs: parts.logs,
            findings: Findings::default(),
            runtime: Runtime::new(runtime, parts.runtime),
            node: parts.node,
            flavor: parts.flavor,
            resolver: resolver::Resolver::default(),
            clusters: clusters.iter().map(|cluster| (cluster.name.as_str(), is_eds(cluster))).collect(),
            backing: backing(clusters),
            used: BTreeSet::new(),
            any_by_header: false,
            egress: false,
            buffer_limit: None,
            upstream_buffers: SocketBuffers::default(),
            files: parts.files,
            digest: DefaultHasher::new(),
        }
    }

    /// Notes that a cluster is used, and a finding of `kind` when it does not exist.
    fn check_cluster(&mut self, place: &Place<'_>, name: &str, kind: Code) {
        self.used.insert(name.to_owned());
        if !self.clusters.contains_key(name) {
            let keys = self.clusters.keys().copied();
            let nearest = (!self.findings.is_full(kind)).then(|| xds::nearest(name, keys)).flatten();
            let finding = self.findings.add(place, kind, format!("there is no cluster `{name}`"));
            finding.suggestion = nearest.map(|name| format!("did you mean `{name}`?"));
        }
    }

    /// A cluster that is asked for configuration must be there without asking.
    fn check_backing_cluster(&mut self, place: &Place<'_>, name: &str) {
        self.check_cluster(place, name, Code::Reference);
        if self.clusters.get(name) == Some(&true) {
            let text = format!("the cluster `{name}` is EDS itself: it cannot be asked for endpoints");
            self.findings.add(place, Code::Structure, text).suggest("make it STATIC or STRICT_DNS");
        }
    }
}

/// The graph of a bootstrap with the warnings, or all findings (at least one of them an error); both ordered by place, those of the
/// reader included.
pub fn graph(
    read: &Read<Bootstrap>,
    parts: Parts<'_>,
    previous: Option<&Graph>,
) -> Result<(Graph, Vec<Diagnostic>), Vec<Diagnostic>> {
    diagnose(read, parts, previous, check::in_pod())
}

fn diagnose(
    read: &Read<Bootstrap>,
    parts: Parts<'_>,
    previous: Option<&Graph>,
    pod: bool,
) -> Result<(Graph, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (graph, findings) = build(&read.message, parts, previous);
    let mut diagnostics = read.warnings.clone();
    let (findings, mut left_out) = findings.into_kept();
    let mut lints = xds::lint(read, pod);
    left_out += lints.len().saturating_sub(xds::MAX_FINDINGS);
    lints.truncate(xds::MAX_FINDINGS);
    diagnostics.extend(lints);
    diagnostics.extend(findings.into_iter().map(|finding| finding.diagnostic(&read.positions)));
    check::sort(&mut diagnostics);
    xds::keep_once(&mut diagnostics);
    if left_out > 0 {
        let text = format!("{left_out} further findings are not shown");
        diagnostics.push(read.positions.warning("", xds::Code::Limit, text));
    }
    match graph.filter(|_| !diagnostics.iter().any(Diagnostic::is_error)) {
        Some(graph) => Ok((graph, diagnostics)),
        None => Err(diagnostics),
    }
}

fn build(bootstrap: &Bootstrap, parts: Parts<'_>, previous: Option<&Graph>) -> (Option<Graph>, Findings) {
    let resources = bootstrap.static_resources.as_ref();
    let clusters = resources.map(|resources| &*resources.clusters).unwrap_or_default();
    let listeners = resources.map(|resources| &*resources.listeners).unwrap_or_default();
    let mut cx = Cx::new(clusters, parts, bootstrap.layered_runtime.as_ref());
    cx.resolver = resolver::of_bootstrap(
        &mut cx,
        bootstrap.typed_dns_resolver_config.as_ref(),
        bootstrap.dns_resolution_config.as_ref(),
        bootstrap.use_tcp_for_dns_lookups,
    );
    let upstreams =
        bootstrap.cluster_manager.as_ref().and_then(|manager| manager.upstream_bind_config.as_ref());
    let place = Place::ROOT.field("cluster_manager");
    let options = upstreams.map(|config| &*config.socket_options).unwrap_or_default();
    cx.upstream_buffers = values::socket_buffers(&mut cx, &place.field("upstream_bind_config"), options);
    let admin = admin::address(&mut cx, bootstrap);
    let admin_log = admin::access_log(&mut cx, bootstrap);
    let clusters = build_clusters(&mut cx, clusters, previous);
    let listeners = build_listeners(&mut cx, listeners, previous);
    unused_clusters(&mut cx, resources.map(|resources| &*resources.clusters).unwrap_or_default());
    let server_version = bootstrap.stats_server_version_override.unwrap_or_else(own_version);
    let overload = overload::config(&mut cx, bootstrap).map(Arc::new);
    let (runtime, node) = (cx.runtime, cx.node);
    let graph = Graph { listeners, clusters, admin, admin_log, runtime, node, server_version, overload };
    let refused = cx.findings.has_errors();
    ((!refused).then_some(graph), cx.findings)
}

/// The version of petmesh as one number: 1.2.3 is 10203.
fn own_version() -> u64 {
    let parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    parts.fold(0, |sum, part| sum * 100 + part)
}

/// The endpoints of an assignment that came by discovery; the error says everything that is wrong with it.
pub(crate) fn assignment(message: &ClusterLoadAssignment) -> Result<Vec<Endpoint>, String> {
    let registry = Registry::new(0);
    let mut cx = Cx::new(
        &[],
        Parts {
            node: Node::default(),
            flavor: Flavor::Sidecar,
            registry: &registry,
            logs: None,
            runtime: &[],
            files: None,
        },
        None,
    );
    let endpoints = discovery::endpoints(&mut cx, &Place::ROOT, message);
    if !cx.findings.has_errors() {
        return Ok(endpoints);
    }
    let (findings, _) = cx.findings.into_kept();
    let all: Vec<_> =
        findings.into_iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect();
    Err(all.join("; "))
}

fn unused_clusters(cx: &mut Cx<'_>, messages: &[ClusterMessage]) {
    let root = Place::ROOT.field("static_resources");
    for (at, message) in messages.iter().enumerate() {
        let unused = !cx.used.contains(&message.name) && !cx.any_by_header;
        if unused && !cx.backing.contains(message.name.as_str()) {
            let text = format!("nothing in this file uses the cluster `{}`", message.name);
            cx.error(&root.item("clusters", at).field("name"), Code::UnusedCluster, text);
        }
    }
}

fn is_eds(cluster: &ClusterMessage) -> bool {
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32))
}

fn backing(clusters: &[ClusterMessage]) -> BTreeSet<&str> {
    let sources =
        clusters.iter().filter_map(|cluster| cluster.eds_cluster_config.as_ref()?.eds_config.as_ref());
    sources.flat_map(discovery::backing_clusters).collect()
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
        let packed = Packed::new(message);
        let policy = cluster::policy(cx, &place, message);
        let Some(discovery) = discovery::discovery(cx, &place, message) else { continue };
        let before = previous.and_then(|graph| graph.clusters.get(message.name.as_str()));
        let same = before.filter(|before| {
            before.message == packed && before.policy.selectable_by_header == policy.selectable_by_header
        });
        let part = ClusterPart {
            message: packed,
            health_stats: cluster::health_stats(cx, message, &policy),
            table_stats: cluster::table_stats(cx, message, &policy),
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
            cx.error(&place.field("name"), Code::Structure, text);
        }
    }
    parts
}

fn build_listeners(
    cx: &mut Cx<'_>,
    messages: &[ListenerMessage],
    previous: Option<&Graph>,
) -> Vec<ListenerPart> {
    let same_values = previous.is_some_and(|graph| graph.runtime == cx.runtime && graph.node == cx.node);
    let mut parts: Vec<ListenerPart> = Vec::with_capacity(messages.len());
    let (mut names, mut addresses) = (HashSet::new(), HashMap::new());
    let before: Vec<&ListenerPart> = previous.into_iter().flat_map(|graph| &graph.listeners).collect();
    let by_name: HashMap<&str, &ListenerPart> =
        before.iter().map(|part| (&*part.listener.name, *part)).collect();
    let bound = before.iter().map(|part| &*part.listener).filter(|listener| listener.bind);
    let bound: HashMap<SocketAddr, &Listener> = bound.map(|listener| (listener.address, listener)).collect();
    let root = Place::ROOT.field("static_resources");
    for (at, message) in messages.iter().enumerate() {
        let place = root.item("listeners", at);
        cx.digest = DefaultHasher::new();
        let Some(mut listener) = listener::listener(cx, &place, message) else { continue };
        let files = cx.digest.finish();
        if !names.insert(Arc::clone(&listener.name)) {
            let text = format!("the name `{}` belongs to another listener already", listener.name);
            cx.error(&place.field("name"), Code::Structure, text);
        }
        let first = addresses.entry(listener.address).or_insert_with(|| Arc::clone(&listener.name));
        if *first != listener.name && listener.address.port() != 0 {
            let text = format!("`{first}` listens on {} already", listener.address);
            cx.error(&place.field("address"), Code::Structure, text);
        }
        if let Some(bound) = bound.get(&listener.address) {
            fixed_at_bind(cx, &place, &listener, bound);
        }
        let packed = Packed::new(message);
        let listener = match by_name.get(&*listener.name) {
            Some(before) if same_values && before.files == files && before.message == packed => {
                Arc::clone(&before.listener)
            }
            Some(before) => {
                let keep = if same_values && before.files == files { keep_chain } else { renew_chain };
                keep_chains(&mut listener, message, before, keep);
                Arc::new(listener)
            }
            None => Arc::new(listener),
        };
        parts.push(ListenerPart { message: packed, files, listener });
    }
    parts
}

/// What a socket is bound with stays as long as a listener has its address.
fn fixed_at_bind(cx: &mut Cx<'_>, place: &Place<'_>, new: &Listener, old: &Listener) {
    if !new.bind {
        return;
    }
    let address = place.field("address");
    let socket = address.field("socket_address");
    for (place, field, old, now) in [
        (place, "enable_reuse_port", old.reuse_port, new.reuse_port),
        (&socket, "ipv4_compat", old.ipv4_compat, new.ipv4_compat),
    ] {
        if old != now {
            let text = format!(
                "listener `{}`: `{field}` cannot be changed during an update: {} was bound with {old}",
                new.name, new.address
            );
            cx.error(&place.field(field), Code::Structure, text)
                .suggest("restart the proxy, or give the listener another port");
        }
    }
}

/// Keeps the chains that did not change, if only chains of the listener did: their connections
/// stay.
fn keep_chains(
    listener: &mut Listener,
    message: &ListenerMessage,
    before: &ListenerPart,
    keep: fn(&mut Arc<FilterChain>, &Arc<FilterChain>),
) {
    let old = before.message.unpack();
    let bare = |message: &ListenerMessage| {
        let (filter_chains, default_filter_chain) = (Vec::new(), None);
        ListenerMessage { filter_chains, default_filter_chain, ..message.clone() }
    };
    if bare(message) != bare(&old) {
        return;
    }
    let kept = &before.listener.chains;
    let pairs = old.filter_chains.iter().zip(&kept.chains);
    let by_message: HashMap<_, _> = pairs.map(|(old, chain)| (old.encode_to_vec(), chain)).collect();
    for (chain, new) in listener.chains.chains.iter_mut().zip(&message.filter_chains) {
        if let Some(same) = by_message.get(&new.encode_to_vec()) {
            keep(chain, same);
        }
    }
    if message.default_filter_chain == old.default_filter_chain
        && let (Some(chain), Some(same)) = (&mut listener.chains.default, &kept.default)
    {
        keep(chain, same);
    }
}

fn keep_chain(chain: &mut Arc<FilterChain>, same: &Arc<FilterChain>) {
    *chain = Arc::clone(same);
}

/// A chain that was built of the same message with other runtime values or files.
fn renew_chain(chain: &mut Arc<FilterChain>, same: &Arc<FilterChain>) {
    if let Some(chain) = Arc::get_mut(chain) {
        chain.generation = Arc::new(same.generation.renew());
    }
}
