//! The graph that the data plane works from: listeners with their route tables, clusters with their endpoints. Immutable.
//!
//! Parts are shared between versions by their `Arc`s, so that an update touches only what changed; a worker compares pointers.
//! Made by `control` (the single writer) with `build`; read by `worker` and `admin`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::cluster::{ClusterPolicy, EndpointView, breaker::Breaker};
use crate::local_reply::Mappers;
use crate::route::RouteTable;
use crate::state::Direction;
use crate::stats::{ClusterStats, HttpStats, ListenerStats, Scope};

pub mod build;

/// One version of everything the data plane needs.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub version: u64,
    /// Listeners that are ready to be bound, in the file's order.
    pub listeners: Vec<Arc<Listener>>,
    pub clusters: BTreeMap<Arc<str>, Cluster>,
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
    pub backlog: u32,
    /// Bytes buffered for one connection in one direction (`per_connection_buffer_limit_bytes`, 1 MiB).
    pub buffer_limit: usize,
    /// Open connections beyond which new ones are closed at once; `None` is no limit.
    pub max_connections: Option<u32>,
    pub stats: Arc<Scope<ListenerStats>>,
    pub kind: ListenerKind,
}

/// What a listener's connections are.
#[derive(Debug)]
pub enum ListenerKind {
    Http(Arc<HttpManager>),
    Tcp(Arc<TcpProxy>),
}

/// A `tcp_proxy` filter.
#[derive(Debug)]
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    pub cluster: Arc<str>,
    /// Neither side sent anything for this long (1 h); `None` is never.
    pub idle_timeout: Option<Duration>,
    pub max_connect_attempts: u32,
    pub access_log: Vec<Arc<AccessLog>>,
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
    /// The listener's own counts of answers (`listener.<address>.http.<stat_prefix>.`).
    pub listener_stats: Arc<Scope<HttpStats>>,
    pub codec: Codec,
    pub routes: Arc<RouteTable>,
    pub access_log: Vec<Arc<AccessLog>>,
    pub local_reply: Mappers,
    pub addresses: Addresses,
    pub request_id: RequestId,
    pub path: PathOptions,
    pub server: ServerHeader,
    /// Appended to `via` of requests and answers; empty for none.
    pub via: Box<str>,
    pub add_user_agent: bool,
    /// The router adds no `x-envoy-*` fields to requests and answers.
    pub suppress_envoy_headers: bool,
    pub proxy_100_continue: bool,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub underscores: Underscores,
    pub strip_port: StripPort,
    pub http1: crate::http1::ServerOptions,
    pub http2: crate::http2::Options,
    /// `--service-cluster` and `--service-node`, for `x-envoy-downstream-service-*` with `add_user_agent`.
    pub service_cluster: Arc<str>,
    pub service_node: Arc<str>,
}

/// How far a client's word about addresses is believed.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// The peer is the client: `x-forwarded-for` and `x-forwarded-proto` are set from it (`use_remote_address`).
    pub use_remote: bool,
    pub trusted_hops: u32,
    pub skip_append: bool,
    pub append_forwarded_port: bool,
    /// Ranges whose clients count as internal: their `x-envoy-*` fields are kept.
    pub internal: Vec<(IpAddr, u8)>,
}

#[derive(Clone, Copy, Debug)]
pub struct RequestId {
    pub generate: bool,
    /// Keep that of an external client as well.
    pub preserve_external: bool,
    pub always_in_response: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct PathOptions {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Clone, Debug)]
pub enum ServerHeader {
    Overwrite(Box<str>),
    AppendIfAbsent(Box<str>),
    PassThrough,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    #[default]
    Keep,
    /// Only the listener's own port.
    Matching,
    Any,
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
    /// How long a connection that was answered and is to be closed may flush (1 s).
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
