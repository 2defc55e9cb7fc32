//! The messages that stand on their own: files, resources of a control plane, configurations of extensions.
//!
//! Their decoding and encoding is compiled here once: prost's own functions are generic, and every crate that called
//! them would compile the whole of it again.

use prost::{DecodeError, Message, Name};

use crate::api::envoy::config::{
    bootstrap::v3::Bootstrap, cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment,
    listener::v3::Listener, overload::v3::ScaleTimersOverloadActionConfig, overload::v3::ShrinkHeapConfig,
    route::v3::FilterConfig, route::v3::RouteConfiguration,
};
use crate::api::envoy::extensions::{
    access_loggers::file::v3::FileAccessLog,
    access_loggers::stream::v3::{StderrAccessLog, StdoutAccessLog},
    filters::http::buffer::v3::{Buffer, BufferPerRoute},
    filters::http::cors::v3::{Cors, CorsPolicy},
    filters::http::fault::v3::HttpFault,
    filters::http::health_check::v3::HealthCheck,
    filters::http::local_ratelimit::v3::LocalRateLimit,
    filters::http::rbac::v3::{Rbac, RbacPerRoute},
    filters::http::router::v3::Router,
    filters::network::connection_limit::v3::ConnectionLimit,
    filters::network::echo::v3::Echo,
    filters::network::http_connection_manager::v3::HttpConnectionManager,
    filters::network::local_ratelimit::v3::LocalRateLimit as ConnectionRateLimit,
    filters::network::tcp_proxy::v3::TcpProxy,
    load_balancing_policies::{
        least_request::v3::LeastRequest, maglev::v3::Maglev, random::v3::Random, ring_hash::v3::RingHash,
        round_robin::v3::RoundRobin, subset::v3::Subset,
    },
    network::dns_resolver::cares::v3::CaresDnsResolverConfig,
    network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig,
    resource_monitors::cgroup_memory::v3::CgroupMemoryConfig,
    resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig,
    resource_monitors::fixed_heap::v3::FixedHeapConfig,
    retry::host::previous_hosts::v3::PreviousHostsPredicate,
    upstreams::http::v3::HttpProtocolOptions,
};
use crate::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

/// A message that stands on its own.
pub trait Resource: Sized {
    /// Full name, as `envoy.config.cluster.v3.Cluster`.
    fn full_name() -> String;
    /// From protobuf's binary form. Unknown fields are skipped.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError>;
    /// To protobuf's binary form; equal messages have equal bytes, but for what lies in an Any.
    fn to_bytes(&self) -> Vec<u8>;

    /// Type URL, as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
    fn url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

macro_rules! resources {
    ($($message:ty),* $(,)?) => {
        $(impl Resource for $message {
            fn full_name() -> String {
                <Self as Name>::full_name()
            }

            fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
                <Self as Message>::decode(bytes)
            }

            fn to_bytes(&self) -> Vec<u8> {
                self.encode_to_vec()
            }
        })*
    };
}

resources!(
    Bootstrap,
    Buffer,
    BufferPerRoute,
    CaresDnsResolverConfig,
    Cluster,
    ClusterLoadAssignment,
    Cors,
    CorsPolicy,
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    FileAccessLog,
    FilterConfig,
    GetAddrInfoDnsResolverConfig,
    HealthCheck,
    HttpFault,
    HttpConnectionManager,
    HttpProtocolOptions,
    Listener,
    LocalRateLimit,
    PreviousHostsPredicate,
    Rbac,
    RbacPerRoute,
    RouteConfiguration,
    Router,
    StderrAccessLog,
    StdoutAccessLog,
    TcpProxy,
);

// Tracers.
resources!(crate::api::envoy::config::trace::v3::ZipkinConfig);

// The overload manager.
resources!(CgroupMemoryConfig, DownstreamConnectionsConfig, FixedHeapConfig);
resources!(ScaleTimersOverloadActionConfig, ShrinkHeapConfig);

// Network filters.
resources!(ConnectionLimit, ConnectionRateLimit, Echo);

// Balancing policies.
resources!(LeastRequest, Maglev, Random, RingHash, RoundRobin, Subset);
