//! The endpoints of every cluster as they are now (`?include_eds`), wherever they came from.

use regex::Regex;
use serde_json::{Value, json};

use super::AdminContext;
use crate::cluster::{Health, Host};
use crate::snapshot::Cluster;

/// An assignment for each cluster that the filter names, in order of their names.
pub(super) fn assignments(
    context: &AdminContext,
    filter: Option<&Regex>,
) -> impl Iterator<Item = Value> + use<> {
    let snapshot = context.snapshot.borrow().clone();
    let named = |name: &str| filter.is_none_or(|filter| filter.is_match(name));
    let clusters = snapshot.clusters.iter().filter(|(name, _)| named(name));
    clusters
        .map(|(name, cluster)| json!({"endpoint_config": assignment(name, cluster)}))
        .collect::<Vec<_>>()
        .into_iter()
}

fn assignment(name: &str, cluster: &Cluster) -> Value {
    let mut groups: Vec<(&Host, Vec<Value>)> = Vec::new();
    for host in &cluster.endpoints.hosts {
        let same = |(first, _): &&mut (&Host, Vec<Value>)| {
            first.priority == host.priority && first.locality == host.locality
        };
        match groups.iter_mut().find(same) {
            Some((_, members)) => members.push(member(host)),
            None => groups.push((host, vec![member(host)])),
        }
    }
    groups.sort_by_key(|(first, _)| first.priority);
    let groups: Vec<Value> = groups.into_iter().map(|(first, members)| group(first, &members)).collect();
    let mut assignment = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "policy": {"overprovisioning_factor": cluster.policy.layout.balance.overprovisioning},
    });
    if let Some(fields) = assignment.as_object_mut().filter(|_| !groups.is_empty()) {
        fields.insert("endpoints".to_owned(), groups.into());
    }
    assignment
}

fn group(first: &Host, members: &[Value]) -> Value {
    let mut locality = json!({});
    let place = &first.locality;
    let names = [("region", &place.region), ("zone", &place.zone), ("sub_zone", &place.sub_zone)];
    for (name, text) in names.into_iter().filter(|(_, text)| !text.is_empty()) {
        locality[name] = text.as_str().into();
    }
    let mut group = json!({
        "locality": locality,
        "lb_endpoints": members,
        "load_balancing_weight": first.locality_weight,
    });
    if first.priority > 0 {
        group["priority"] = first.priority.into();
    }
    group
}

fn member(host: &Host) -> Value {
    let address = json!({"address": host.address.ip().to_string(), "port_value": host.address.port()});
    let mut endpoint = json!({"address": {"socket_address": address}, "health_check_config": {}});
    if !host.hostname.is_empty() {
        endpoint["hostname"] = host.hostname.as_str().into();
    }
    let health = match host.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
        Health::Timeout => "TIMEOUT",
    };
    json!({"endpoint": endpoint, "health_status": health, "load_balancing_weight": host.weight})
}
