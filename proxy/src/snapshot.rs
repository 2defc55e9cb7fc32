//! The graph that the data plane works from: listeners with their route tables, clusters with their endpoints. Immutable.
//!
//! Parts are shared between versions by their `Arc`s, so that an update touches only what changed; a worker compares pointers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

mod clusters;

pub use clusters::Clusters;

use crate::access_log::AccessLog;
use crate::cluster::{ClusterPolicy, EndpointView, breaker::Breaker};
use crate::filter::chain::Chain;
use crate::filter::local_rate_limit::TokenBucket;
use crate::headers::Rules;
use crate::local_reply::Mappers;
use crate::matcher::Cidr;
use crate::memory::SocketBuffers;
use crate::overload::{Overload, Relief};
use crate::route::RouteTable;
use crate::state::{Direction, Generation};
use crate::stats::{
    ClusterStats, ConnectionLimitStats, Http1Stats, Http2Stats, HttpStats, ListenerHttpStats, ListenerStats,
    LocalRateLimitStats, Scope, TcpStats, TracingStats,
};
use crate::trace::Tracing;

/// One version of everything the data plane needs.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub version: u64,
    /// Listeners that are ready to be bound, in the file's order. Shared with the version before
    /// unless the configuration changed.
    pub listeners: Arc<[Arc<Listener>]>,
    pub clusters: Clusters,
}

/// A cluster: its policy, its members, and what outlives both.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub policy: Arc<ClusterPolicy>,
    pub endpoints: Arc<EndpointView>,
    pub stats: Arc<Scope<ClusterStats>>,
    /// Default and high priority.
    pub breakers: Arc<[Breaker; 2]>,
}

#[derive(Debug)]
pub struct Listener {
    /// As given, or Envoy's default: the address.
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub direction: Direction,
    /// False for listeners that only exist in the file (`bind_to_port: false`).
    pub bind: bool,
    pub reuse_port: bool,
    /// A listener on an IPv6 address serves IPv4 as well (`ipv4_compat`).
    pub ipv4_compat: bool,
    pub backlog: u32,
    /// Bytes buffered for one connection in one direction (`per_connection_buffer_limit_bytes`, 1 MiB).
    pub buffer_limit: usize,
    /// The kernel's buffers of its sockets.
    pub socket_buffers: SocketBuffers,
    /// Open connections beyond which new ones are closed at once; `None` is no limit.
    pub max_connections: Option<u32>,
    /// The actions of the overload manager do not apply to it (`bypass_overload_manager`).
    pub bypasses_overload: bool,
    /// It accepts beyond the limit of all listeners together (`ignore_global_conn_limit`).
    pub ignores_global_limit: bool,
    pub stats: Arc<Scope<ListenerStats>>,
    pub chains: FilterChains,
}

impl Listener {
    /// What the overload manager asks of this listener.
    pub(crate) fn relief(&self, overload: &Overload) -> Relief {
        if self.bypasses_overload { Relief::default() } else { overload.relief() }
    }
}

/// The filters of one kind of connection.
#[derive(Debug)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub(crate) conditions: Conditions,
    /// The filters before the last.
    pub gates: Vec<Gate>,
    pub kind: ListenerKind,
    /// How its connections learn that it is no longer configured.
    pub(crate) generation: Arc<Generation>,
}

/// The chains of a listener.
#[derive(Debug, Default)]
pub struct FilterChains {
    pub chains: Vec<Arc<FilterChain>>,
    /// For connections that match none of them.
    pub default: Option<Arc<FilterChain>>,
}

/// `FilterChainMatch`: empty lists and absent values take everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub destination_port: Option<u16>,
    pub destinations: Vec<Cidr>,
    /// In lower case; `.example.com` means `*.example.com`.
    pub server_names: Vec<Box<str>>,
    pub transport: Box<str>,
    pub applications: Vec<Box<str>>,
    pub direct_sources: Vec<Cidr>,
    pub source: Source,
    pub sources: Vec<Cidr>,
    pub source_ports: Vec<u16>,
}

/// `source_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    #[default]
    Any,
    /// From the address that it goes to, or from a loopback address.
    Local,
    External,
}

impl FilterChains {
    /// Every chain, the default last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default)
    }
}

/// A network filter before the last one of a chain: it lets a connection in or closes it.
#[derive(Clone, Debug)]
pub enum Gate {
    ConnectionLimit(Arc<ConnectionLimit>),
    RateLimit(Arc<RateLimit>),
}

/// `connection_limit`: the connections of a chain at one time, counted over all workers.
#[derive(Debug)]
pub struct ConnectionLimit {
    pub most: u64,
    /// How long a connection beyond the limit is held.
    pub delay: Option<Duration>,
    pub enabled: bool,
    pub stats: Arc<Scope<ConnectionLimitStats>>,
    pub open: AtomicU64,
}

/// `local_ratelimit`: the connections of a chain in a time, counted over all workers.
#[derive(Debug)]
pub struct RateLimit {
    pub enabled: bool,
    pub(crate) bucket: TokenBucket,
    pub stats: Arc<Scope<LocalRateLimitStats>>,
}

/// What the connections of a filter chain are: its last filter.
#[derive(Debug)]
pub enum ListenerKind {
    Http(Arc<HttpManager>),
    Tcp(Arc<TcpEnd>),
}

/// The last filter of a chain that knows nothing of HTTP.
#[derive(Debug)]
pub enum TcpEnd {
    Proxy(TcpProxy),
    /// `echo`: what comes is sent back.
    Echo,
    /// There is no filter: connections are closed at once.
    Close,
}

/// A `tcp_proxy` filter.
#[derive(Debug)]
pub struct TcpProxy {
    pub stats: Arc<Scope<TcpStats>>,
    /// With their weights; a single one has any.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// Neither side sent anything for this long (1 h); `None` is never.
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
    /// At most this share (1 is all of it) is added to `max_duration`.
    pub max_duration_jitter: f64,
    pub max_connect_attempts: u32,
    /// The first and the longest back-off between attempts.
    pub back_off: Option<(Duration, Duration)>,
    pub access_log: Vec<Arc<AccessLog>>,
    /// A line each time this has passed.
    pub log_interval: Option<Duration>,
    /// A line when the upstream is connected.
    pub log_connected: bool,
}

/// Which protocol the clients of a listener speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Codec {
    /// HTTP/2 when the connection begins with its preface.
    #[default]
    Auto,
    Http1,
    Http2,
}

/// A connection manager: everything that `connection` and `exchange` need to know about a listener.
#[derive(Debug)]
pub struct HttpManager {
    pub stats: Arc<Scope<HttpStats>>,
    /// The listener's own counts of responses (`listener.<address>.http.<stat_prefix>.`).
    pub listener_stats: Arc<Scope<ListenerHttpStats>>,
    /// Counts of the codecs, which all listeners share (`http1.`, `http2.`).
    pub http1_stats: Arc<Scope<Http1Stats>>,
    pub http2_stats: Arc<Scope<Http2Stats>>,
    pub codec: Codec,
    pub routes: Arc<RouteTable>,
    /// The HTTP filters before the router.
    pub(crate) chain: Chain,
    pub access_log: Vec<Arc<AccessLog>>,
    pub(crate) local_reply: Mappers,
    pub(crate) tracing: Option<Tracing>,
    pub tracing_stats: Arc<Scope<TracingStats>>,
    /// Which headers are trusted, set and removed, in both directions.
    pub rules: Rules,
    pub proxy_100_continue: bool,
    pub(crate) upgrades: crate::route::Upgrades,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub(crate) underscores: Underscores,
    pub http1: crate::http1::ServerOptions,
    pub http2: crate::http2::Options,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Underscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

/// Each `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// No request on a downstream connection (1 h).
    pub idle: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    /// No byte in either direction of a request (5 min).
    pub stream_idle: Option<Duration>,
    /// The whole request has not come.
    pub request: Option<Duration>,
    /// The request's head has not come.
    pub request_headers: Option<Duration>,
    /// How long a draining connection lives on (5 s).
    pub drain: Duration,
    /// How long a connection that is to be closed may flush its last response (1 s).
    pub delayed_close: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// 60 KiB in Envoy.
    pub max_request_headers_bytes: usize,
    /// 100 in Envoy.
    pub max_headers: usize,
    pub max_requests_per_connection: Option<u32>,
}
