//! Rules on clusters: circuit breakers.
//!
//! Called by `lint`.

use super::Lint;
use crate::diagnostic::Code;
use crate::envoy::config::cluster::v3::{Cluster, circuit_breakers::Thresholds};

/// What every limit is unless a file says otherwise.
const DEFAULT_LIMIT: u32 = 1024;

pub(super) fn cluster(lint: &mut Lint<'_>, path: &str, cluster: &Cluster) {
    let breakers = cluster.circuit_breakers.as_ref();
    for (at, thresholds) in breakers.iter().flat_map(|breakers| &breakers.thresholds).enumerate() {
        breaker(lint, &format!("{path}.circuit_breakers.thresholds[{at}]"), cluster, thresholds);
    }
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
