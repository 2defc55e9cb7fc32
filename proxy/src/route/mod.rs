//! Route tables: (table, request head) -> what to do with the request. Pure.
//!
//! Virtual hosts by domain (exact, then longest suffix wildcard, then longest prefix wildcard, then `*`), then the routes of that
//! host in their order: the first that matches wins, as in Envoy. Compiled once by `build`.

use std::sync::Arc;
use std::time::Duration;

use crate::affinity::{Criteria, HashPolicies};
use crate::filter::chain::Overrides;
use crate::headers::Mutations;
use crate::matcher::{FractionMatcher, HeaderMatcher, QueryMatcher, Rewrite};
use crate::message::Authority;
use crate::retry::RetryPolicy;
use crate::stats::{Scope, VirtualClusterStats};
use crate::trace::{Decorator, Sampling};

mod rewrite;
mod table;
#[cfg(test)]
#[path = "../../tests/unit/route.rs"]
mod tests;

pub(crate) use rewrite::{Chosen, direct_location, to_tls};
pub(crate) use table::{Decision, Domains};

/// A compiled route configuration.
#[derive(Debug, Default)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub(crate) domains: Domains,
    pub virtual_hosts: Vec<VirtualHost>,
    pub(crate) mutations: Mutations,
    /// The table's mutations are applied last, so that the more specific ones win (Envoy's `most_specific_header_mutations_wins`).
    pub most_specific_wins: bool,
    pub ignore_port_in_host: bool,
    pub(crate) filters: Overrides,
}

#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub routes: Vec<Arc<Route>>,
    pub(crate) mutations: Mutations,
    pub(crate) require_tls: RequireTls,
    pub include_request_attempt_count: bool,
    pub include_attempt_count_in_response: bool,
    pub(crate) virtual_clusters: Vec<VirtualCluster>,
    pub(crate) filters: Overrides,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequireTls {
    #[default]
    None,
    ExternalOnly,
    All,
}

/// Statistics of a part of a virtual host's requests, by header match.
#[derive(Debug)]
pub(crate) struct VirtualCluster {
    pub name: Arc<str>,
    pub headers: Vec<HeaderMatcher>,
    pub stats: Arc<Scope<VirtualClusterStats>>,
}

#[derive(Debug)]
pub struct Route {
    /// For access logs; empty when the file gives none.
    pub name: Arc<str>,
    /// Where the route has a `stat_prefix`.
    pub stats: Option<Arc<Scope<VirtualClusterStats>>>,
    pub(crate) path: PathMatch,
    pub(crate) headers: Vec<HeaderMatcher>,
    pub(crate) query: Vec<QueryMatcher>,
    pub fraction: Option<FractionMatcher>,
    /// Only gRPC requests match.
    pub grpc: bool,
    pub action: Action,
    pub(crate) mutations: Mutations,
    /// `metadata.filter_metadata`, for `%METADATA(ROUTE:…)%`.
    pub metadata: Option<Arc<serde_json::Value>>,
    pub(crate) filters: Overrides,
    /// Shares of traced requests, where the route has its own.
    pub(crate) sampling: Option<Sampling>,
    /// The name of spans.
    pub(crate) decorator: Option<Decorator>,
}

/// How a route matches the path (always without the query).
#[derive(Debug)]
pub(crate) enum PathMatch {
    Prefix {
        text: Box<str>,
        ignore_case: bool,
    },
    Exact {
        text: Box<str>,
        ignore_case: bool,
    },
    /// The prefix, then nothing or a slash.
    Separated {
        text: Box<str>,
        ignore_case: bool,
    },
    /// The whole path matches.
    Regex(regex::bytes::Regex),
    /// CONNECT requests only.
    Connect,
}

#[derive(Debug)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct { status: u16, body: bytes::Bytes },
}

/// A route to an upstream cluster.
#[derive(Debug)]
pub struct Forward {
    pub target: Target,
    /// The status when the cluster does not exist (503 unless set).
    pub not_found_status: u16,
    pub(crate) path: PathRewrite,
    pub(crate) host: HostRewrite,
    pub append_x_forwarded_host: bool,
    /// From the end of the request to the end of the response; `None` is no limit, the default is
    /// 15 s unless the route has a `max_stream_duration`.
    pub timeout: Option<Duration>,
    /// Without any byte in either direction; `None` when the listener's applies.
    pub idle_timeout: Option<Duration>,
    pub(crate) stream: Option<StreamLimits>,
    pub(crate) retry: Option<Arc<RetryPolicy>>,
    pub(crate) body_buffer: BodyBuffer,
    pub(crate) upgrades: Upgrades,
    pub(crate) priority: Priority,
    /// What of a request is hashed, for clusters that pick hosts by it.
    pub(crate) hash: HashPolicies,
    /// The metadata that hosts are to have.
    pub(crate) criteria: Option<Criteria>,
    /// Where copies of the request go.
    pub(crate) mirrors: Vec<Mirror>,
}

/// A cluster that gets copies of requests.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    pub cluster: ClusterName,
    /// The share of requests; `None` is all.
    pub fraction: Option<FractionMatcher>,
    pub host: MirrorHost,
}

/// The host that a copy asks for.
#[derive(Clone, Debug)]
pub(crate) enum MirrorHost {
    /// That of the request with `-shadow`.
    Shadow,
    Keep,
    Literal(Authority),
}

/// `max_stream_duration` of a route.
#[derive(Debug)]
pub(crate) struct StreamLimits {
    /// `None` when the listener's applies; 0 is no limit.
    pub longest: Option<Duration>,
    /// The limit of `grpc-timeout`, where it is looked at; 0 for any.
    pub grpc_longest: Option<Duration>,
    /// Taken from `grpc-timeout`.
    pub grpc_offset: Duration,
}

/// `upgrade_configs`: protocols by their names in `upgrade` (or `CONNECT`), and whether requests may change to them.
#[derive(Debug, Default)]
pub(crate) struct Upgrades(pub Vec<(Box<str>, bool)>);

/// How much of a request's body is kept for sending it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BodyBuffer {
    /// What the listener buffers.
    #[default]
    Listener,
    /// That, and at most so much (`per_request_buffer_limit_bytes`).
    AtMost(usize),
    /// `request_body_buffer_limit`.
    Exactly(usize),
}

/// Which cluster a request goes to.
#[derive(Debug)]
pub enum Target {
    Cluster(Arc<str>),
    /// The cluster named by this request header (`:authority` among others).
    Header(Box<str>),
    Weighted(Vec<Weighted>),
}

#[derive(Debug)]
pub struct Weighted {
    pub(crate) cluster: ClusterName,
    pub weight: u32,
    pub(crate) mutations: Mutations,
    pub host_rewrite: Option<Authority>,
    /// The metadata that hosts are to have: those of the route with its own laid over.
    pub(crate) criteria: Option<Criteria>,
    pub(crate) filters: Overrides,
}

/// How an entry of a weighted choice, or a mirror, names its cluster.
#[derive(Clone, Debug)]
pub(crate) enum ClusterName {
    Given(Arc<str>),
    /// By this request header.
    Header(Box<str>),
}

/// Which of a cluster's two sets of circuit breakers counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Priority {
    #[default]
    Default,
    High,
}

#[derive(Debug, Default)]
pub(crate) enum PathRewrite {
    #[default]
    Keep,
    /// Replaces what the prefix or exact match matched.
    Prefix(Box<str>),
    Regex(Rewrite),
}

#[derive(Debug, Default)]
pub(crate) enum HostRewrite {
    #[default]
    Keep,
    Literal(Authority),
    Header(Box<str>),
    /// The host name of the endpoint, for DNS clusters (`auto_host_rewrite`).
    Endpoint,
    /// What becomes of the path without its query (`host_rewrite_path_regex`).
    Path(Rewrite),
}

#[derive(Debug)]
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub(crate) path: RedirectPath,
    pub status: u16,
    pub strip_query: bool,
}

#[derive(Debug, Default)]
pub(crate) enum RedirectPath {
    #[default]
    Keep,
    /// Replaces path and, unless it carries its own, keeps the query.
    Path(Box<str>),
    Prefix(Box<str>),
    Regex(Rewrite),
}
