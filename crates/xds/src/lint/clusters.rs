//! Rules on clusters: circuit breakers, outlier detection.

use super::Lint;
use crate::diagnostic::Code;
use crate::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use crate::envoy::config::cluster::v3::{Cluster, OutlierDetection, circuit_breakers::Thresholds};

/// What every limit is unless a file says otherwise.
const DEFAULT_LIMIT: u32 = 1024;
/// Share of the hosts that may be ejected unless a file says otherwise.
const MAX_EJECTION_PERCENT: u32 = 10;

pub(super) fn cluster(lint: &mut Lint<'_>, path: &str, cluster: &Cluster) {
    let breakers = cluster.circuit_breakers.as_ref();
    for (at, thresholds) in breakers.iter().flat_map(|breakers| &breakers.thresholds).enumerate() {
        breaker(lint, &format!("{path}.circuit_breakers.thresholds[{at}]"), cluster, thresholds);
    }
    if let Some(detection) = &cluster.outlier_detection {
        outlier(lint, path, cluster, detection);
    }
}

/// Detection that can never eject anybody. How many hosts there are is known of static clusters alone.
fn outlier(lint: &mut Lint<'_>, path: &str, cluster: &Cluster, detection: &OutlierDetection) {
    let is_static = match cluster.cluster_discovery_type {
        None => true,
        Some(ClusterDiscoveryType::Type(kind)) => kind == DiscoveryType::Static as i32,
        Some(ClusterDiscoveryType::ClusterType(_)) => false,
    };
    let hosts = if is_static { endpoints(cluster) } else { 0 };
    let share = detection.max_ejection_percent.unwrap_or(MAX_EJECTION_PERCENT);
    let text = match (share, hosts) {
        _ if detection.always_eject_one_host == Some(true) => return,
        (0, _) => "`max_ejection_percent: 0` ejects nobody".to_owned(),
        (share, 1..) if share as usize * hosts < 100 => {
            format!("{share} % of {hosts} hosts is less than one: nobody is ejected")
        }
        _ => return,
    };
    let least = if hosts == 0 { 100 } else { 100usize.div_ceil(hosts) };
    let remedy = format!("at least {least}, or `always_eject_one_host: true`");
    lint.add(
        &format!("{path}.outlier_detection.max_ejection_percent"),
        Code::OutlierEjectsNobody,
        text,
        remedy,
    );
}

fn breaker(lint: &mut Lint<'_>, path: &str, cluster: &Cluster, thresholds: &Thresholds) {
    let limits = [
        ("max_connections", thresholds.max_connections),
        ("max_pending_requests", thresholds.max_pending_requests),
        ("max_requests", thresholds.max_requests),
    ];
    let mut closed = false;
    for (name, _) in limits.iter().filter(|(_, limit)| *limit == Some(0)) {
        let text = format!("`{name}: 0` lets no request through: the first one waits for a connection too");
        lint.add(
            &format!("{path}.{name}"),
            Code::BreakerBelowPool,
            text,
            format!("remove it: the default is {DEFAULT_LIMIT}"),
        );
        closed = true;
    }
    if closed {
        return;
    }
    let connections = thresholds.max_connections.unwrap_or(DEFAULT_LIMIT);
    let requests = thresholds.max_requests.unwrap_or(DEFAULT_LIMIT);
    let endpoints = endpoints(cluster);
    if thresholds.max_connections.is_some() && (connections as usize) < endpoints {
        let text =
            format!("{connections} connections for {endpoints} endpoints: each has a pool that needs one");
        lint.add(
            &format!("{path}.max_connections"),
            Code::BreakerBelowPool,
            text,
            format!("at least {endpoints}"),
        );
    }
    // Over HTTP/2 one connection carries many requests.
    if thresholds.max_requests.is_some() && requests < connections && !speaks_http2(cluster) {
        let text =
            format!("at most {requests} requests at once never need {connections} connections of HTTP/1");
        let remedy = format!("set `max_connections` to {requests}, or raise `max_requests`");
        lint.add(&format!("{path}.max_requests"), Code::BreakerBelowPool, text, remedy);
    }
}

fn endpoints(cluster: &Cluster) -> usize {
    let localities = cluster.load_assignment.iter().flat_map(|assignment| &assignment.endpoints);
    localities.map(|locality| locality.lb_endpoints.len()).sum()
}

/// Whether the cluster may speak HTTP/2: then requests share connections.
fn speaks_http2(cluster: &Cluster) -> bool {
    cluster.http2_protocol_options.is_some() || !cluster.typed_extension_protocol_options.is_empty()
}
