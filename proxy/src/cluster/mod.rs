//! Clusters: the policy of one, its endpoints, and the pure decisions on them.
//!
//! A policy is immutable and kept by a request for its whole life; the endpoint view is read again
//! by each attempt.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::affinity::HashPolicies;
use crate::memory::SocketBuffers;

pub(crate) mod balancer;
pub(crate) mod breaker;
pub(crate) mod flags;
pub(crate) mod hashing;
pub(crate) mod health;
mod host;
pub mod outlier;
pub(crate) mod pool;
pub mod report;
pub(crate) mod shares;
pub(crate) mod subsets;

pub(crate) use host::{EndpointView, Host, HostShard, HostStats, Locality};
pub(crate) use pool::PrioritySet;

/// Everything about a cluster but its endpoints.
#[derive(Debug)]
pub struct ClusterPolicy {
    pub name: Arc<str>,
    pub connect_timeout: Duration,
    pub protocol: UpstreamProtocol,
    pub(crate) balancer: balancer::Policy,
    /// An upstream connection without requests is closed after this long (1 h in Envoy); `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Requests after which an upstream connection is closed; `None` is no limit.
    pub max_requests_per_connection: Option<u32>,
    /// An upstream connection takes no more requests after this long.
    pub max_connection_duration: Option<Duration>,
    /// Of one attempt.
    pub max_stream_duration: Option<Duration>,
    /// Body bytes buffered for one stream in one direction (`per_connection_buffer_limit_bytes`, 1 MiB).
    pub buffer_limit: usize,
    /// Default and high priority.
    pub breakers: [breaker::Thresholds; 2],
    /// How its endpoints are laid out for picks.
    pub(crate) layout: Arc<pool::Layout>,
    /// What of a request is hashed, instead of what its route says.
    pub(crate) hash: Option<HashPolicies>,
    /// Ejection of hosts that fail requests.
    pub outlier: Option<Arc<outlier::Policy>>,
    /// Active health checks.
    pub(crate) health: Option<Arc<health::Settings>>,
    /// HTTP/1 options of upstream connections.
    pub http1: crate::http1::ClientOptions,
    /// HTTP/2 options of upstream connections.
    pub http2: crate::http2::Options,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    /// `upstream_bind_config` of the cluster manager.
    pub(crate) socket_buffers: SocketBuffers,
    /// Same when connections made under one policy may serve another.
    pub fingerprint: u64,
    /// Whether `cluster_header` may select it: false for clusters that the file names as a configuration source or collector.
    pub selectable_by_header: bool,
}

/// Which protocol upstream connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// That of the downstream request.
    Downstream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// An endpoint as discovery gives it, before it becomes a `Host`.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The name it was resolved from, or the endpoint's own `hostname`; empty when neither.
    pub hostname: String,
    pub weight: u32,
    pub priority: u32,
    pub locality: Locality,
    pub locality_weight: u32,
    pub canary: bool,
    pub(crate) metadata: Option<Arc<LbMetadata>>,
    pub(crate) health: Health,
    /// How its health is checked.
    pub(crate) check: health::Target,
}

impl Endpoint {
    /// A healthy endpoint of weight 1 about which nothing else is known.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            hostname: String::new(),
            weight: 1,
            priority: 0,
            locality: Locality::default(),
            locality_weight: 0,
            canary: false,
            metadata: None,
            health: Health::Healthy,
            check: health::Target::default(),
        }
    }
}

/// What the metadata of an endpoint say to balancing (`envoy.lb`).
pub(crate) type LbMetadata = BTreeMap<String, serde_json::Value>;

/// The health that the configuration or discovery says (`health_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Health {
    #[default]
    Healthy,
    Degraded,
    Unhealthy,
    Draining,
    Timeout,
}

/// Makes numbers that no two hosts of this process share.
pub(crate) static NEXT_HOST: AtomicU64 = AtomicU64::new(1);
