//! `/clusters`: each cluster's limits and the counts of its hosts; and the gauges of circuit breakers.

use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::AdminContext;
use super::page::{Page, Params};
use crate::cluster::breaker::{Breaker, Thresholds};
use crate::cluster::flags::HealthFlag;
use crate::cluster::outlier::Percent;
use crate::cluster::{Health, Host};
use crate::snapshot::{Cluster, Snapshot};

pub(super) fn page(context: &AdminContext, params: &Params) -> Page {
    let Ok(filter) = params.get("filter").map(super::stats::regex).transpose() else {
        return Page::error(400, "Invalid re2 regex");
    };
    let snapshot = context.snapshot.borrow().clone();
    let shown = snapshot
        .clusters
        .iter()
        .filter(|(name, _)| filter.as_ref().is_none_or(|filter| filter.is_match(name)))
        .map(|(_, cluster)| &**cluster);
    if params.get("format") == Some("json") {
        let statuses: Vec<_> = shown.map(to_json).collect();
        return Page::json(&without_defaults(json!({ "cluster_statuses": statuses })));
    }
    let mut out = String::new();
    for cluster in shown {
        // Writing to a string cannot fail.
        let _ = write_text(&mut out, cluster);
    }
    Page::text(out)
}

fn write_text(out: &mut String, cluster: &Cluster) -> std::fmt::Result {
    let name = &cluster.policy.name;
    writeln!(out, "{name}::observability_name::{name}")?;
    if let Some(outlier) = &cluster.policy.outlier {
        for (averages, origin) in outlier.averages.iter().zip(["", "local_origin_"]) {
            writeln!(out, "{name}::outlier::{origin}success_rate_average::{}", rate(&averages.mean))?;
            let threshold = rate(&averages.threshold);
            writeln!(out, "{name}::outlier::{origin}success_rate_ejection_threshold::{threshold}")?;
        }
    }
    for (priority, limits) in ["default", "high"].into_iter().zip(&cluster.policy.breakers) {
        writeln!(out, "{name}::{priority}_priority::max_connections::{}", limits.max_connections)?;
        writeln!(out, "{name}::{priority}_priority::max_pending_requests::{}", limits.max_pending_requests)?;
        writeln!(out, "{name}::{priority}_priority::max_requests::{}", limits.max_requests)?;
        writeln!(out, "{name}::{priority}_priority::max_retries::{}", limits.max_retries)?;
    }
    writeln!(out, "{name}::added_via_api::false")?;
    for host in &cluster.endpoints.hosts {
        let address = host.address;
        for (stat, value) in gauges(host).into_iter().chain(counters(host)) {
            writeln!(out, "{name}::{address}::{stat}::{value}")?;
        }
        writeln!(out, "{name}::{address}::hostname::{}", host.hostname)?;
        writeln!(out, "{name}::{address}::health_flags::{}", host.flags())?;
        writeln!(out, "{name}::{address}::weight::{}", host.weight)?;
        writeln!(out, "{name}::{address}::region::{}", host.locality.region)?;
        writeln!(out, "{name}::{address}::zone::{}", host.locality.zone)?;
        writeln!(out, "{name}::{address}::sub_zone::{}", host.locality.sub_zone)?;
        writeln!(out, "{name}::{address}::canary::{}", host.canary)?;
        writeln!(out, "{name}::{address}::priority::{}", host.priority)?;
        let tally = &host.stats.tally;
        writeln!(out, "{name}::{address}::success_rate::{}", rate(&tally.success_rate))?;
        let local_origin = rate(&tally.local_origin_success_rate);
        writeln!(out, "{name}::{address}::local_origin_success_rate::{local_origin}")?;
    }
    Ok(())
}

fn gauges(host: &Host) -> [(&'static str, u64); 3] {
    // A gauge of several threads may be below zero for a moment.
    let level = |value: i64| u64::try_from(value).unwrap_or(0);
    [
        ("cx_active", level(host.stats.level(|shard| &shard.cx_active))),
        ("rq_active", level(host.stats.level(|shard| &shard.rq_active))),
        // Requests wait for a cluster's connection, not for a host's.
        ("rq_pending_active", 0),
    ]
}

fn counters(host: &Host) -> [(&'static str, u64); 6] {
    let stats = &host.stats;
    [
        ("cx_connect_fail", stats.total(|shard| &shard.cx_connect_fail)),
        ("cx_total", stats.total(|shard| &shard.cx_total)),
        ("rq_error", stats.total(|shard| &shard.rq_error)),
        ("rq_success", stats.total(|shard| &shard.rq_success)),
        ("rq_timeout", stats.total(|shard| &shard.rq_timeout)),
        ("rq_total", stats.total(|shard| &shard.rq_total)),
    ]
}

/// A success rate as Envoy prints it: six digits at most, -1 when there were too few requests.
fn rate(percent: &Percent) -> String {
    let value = percent.get();
    if value < 0.0 {
        return "-1".to_owned();
    }
    let whole = value.trunc().to_string().len();
    let text = format!("{value:.0$}", 6_usize.saturating_sub(whole));
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn to_json(cluster: &Cluster) -> Value {
    let thresholds: Vec<_> = ["DEFAULT", "HIGH"]
        .into_iter()
        .zip(&cluster.policy.breakers)
        .map(|(priority, limits)| {
            let limits = json!({
                "max_connections": limits.max_connections,
                "max_pending_requests": limits.max_pending_requests,
                "max_requests": limits.max_requests,
                "max_retries": limits.max_retries,
            });
            // These are messages, whose zero is a value; the first priority is the default one.
            if priority == "DEFAULT" { limits } else { merged(json!({ "priority": priority }), limits) }
        })
        .collect();
    let hosts: Vec<_> = cluster.endpoints.hosts.iter().map(|host| host_json(host)).collect();
    let mut json = without_defaults(json!({
        "name": *cluster.policy.name,
        "observability_name": *cluster.policy.name,
        "circuit_breakers": { "thresholds": thresholds },
        "host_statuses": hosts,
    }));
    if let Some(outlier) = &cluster.policy.outlier {
        let [external, local_origin] = &outlier.averages;
        percent(&mut json, "success_rate_ejection_threshold", &external.threshold);
        percent(&mut json, "local_origin_success_rate_ejection_threshold", &local_origin.threshold);
    }
    json
}

/// A message's fields without those that protobuf leaves out: zeros, empty texts and empty lists.
pub(super) fn without_defaults(mut message: Value) -> Value {
    if let Some(fields) = message.as_object_mut() {
        fields.retain(|_, value| match value {
            Value::Null => false,
            Value::Bool(set) => *set,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(_) => true,
        });
    }
    message
}

/// The fields of both.
fn merged(mut one: Value, mut other: Value) -> Value {
    if let (Some(one), Some(other)) = (one.as_object_mut(), other.as_object_mut()) {
        one.append(other);
    }
    one
}

/// A 64-bit number is a text in JSON.
fn long(value: u64) -> Value {
    if value == 0 { Value::Null } else { value.to_string().into() }
}

/// Flags under their names in `HostHealthStatus`.
const HEALTH_STATUS: [(HealthFlag, &str); 7] = [
    (HealthFlag::FailedActiveHc, "failed_active_health_check"),
    (HealthFlag::FailedOutlierCheck, "failed_outlier_check"),
    (HealthFlag::DegradedActiveHc, "failed_active_degraded_check"),
    (HealthFlag::PendingDynamicRemoval, "pending_dynamic_removal"),
    (HealthFlag::PendingActiveHc, "pending_active_hc"),
    (HealthFlag::ExcludedViaImmediateHcFail, "excluded_via_immediate_hc_fail"),
    (HealthFlag::ActiveHcTimeout, "active_hc_timeout"),
];

/// Adds a `type.v3.Percent`, where there were enough requests for one.
fn percent(json: &mut Value, name: &str, percent: &Percent) {
    if percent.get() >= 0.0 {
        json[name] = without_defaults(json!({ "value": percent.get() }));
    }
}

fn host_json(host: &Host) -> Value {
    let counters =
        counters(host).map(|(name, value)| without_defaults(json!({"name": name, "value": long(value)})));
    let gauges = gauges(host)
        .map(|(name, value)| without_defaults(json!({"type": "GAUGE", "name": name, "value": long(value)})));
    let mut status = serde_json::Map::new();
    for (flag, name) in HEALTH_STATUS {
        if host.flags().has(flag) {
            status.insert(name.to_owned(), true.into());
        }
    }
    let health = match host.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
        Health::Timeout => "TIMEOUT",
    };
    status.insert("eds_health_status".to_owned(), health.into());
    let locality = without_defaults(json!({
        "region": host.locality.region,
        "zone": host.locality.zone,
        "sub_zone": host.locality.sub_zone,
    }));
    let mut json = without_defaults(json!({
        "address": address(host.address),
        "stats": counters.into_iter().chain(gauges).collect::<Vec<_>>(),
        "health_status": status,
        "weight": host.weight,
        "hostname": host.hostname,
        "priority": host.priority,
        "locality": locality,
    }));
    let tally = &host.stats.tally;
    percent(&mut json, "success_rate", &tally.success_rate);
    percent(&mut json, "local_origin_success_rate", &tally.local_origin_success_rate);
    json
}

/// `config.core.v3.Address` as JSON.
pub(super) fn address(address: SocketAddr) -> Value {
    json!({"socket_address": without_defaults(
        json!({"address": address.ip().to_string(), "port_value": address.port()})
    )})
}

/// Sets each cluster's circuit breaker gauges from the permits that are out.
pub(super) fn refresh(context: &AdminContext) {
    let snapshot: std::sync::Arc<Snapshot> = context.snapshot.borrow().clone();
    for (_, cluster) in snapshot.clusters.iter() {
        // These gauges have no other writer, so that their shard is ours.
        let stats = cluster.stats.shard(context.registry.admin_shard());
        stats.circuit_breakers_default_cx_pool_open.set(0);
        stats.circuit_breakers_high_cx_pool_open.set(0);
        let gauges = [
            [
                (&stats.circuit_breakers_default_cx_open, &stats.circuit_breakers_default_remaining_cx),
                (
                    &stats.circuit_breakers_default_rq_pending_open,
                    &stats.circuit_breakers_default_remaining_pending,
                ),
                (&stats.circuit_breakers_default_rq_open, &stats.circuit_breakers_default_remaining_rq),
                (
                    &stats.circuit_breakers_default_rq_retry_open,
                    &stats.circuit_breakers_default_remaining_retries,
                ),
            ],
            [
                (&stats.circuit_breakers_high_cx_open, &stats.circuit_breakers_high_remaining_cx),
                (
                    &stats.circuit_breakers_high_rq_pending_open,
                    &stats.circuit_breakers_high_remaining_pending,
                ),
                (&stats.circuit_breakers_high_rq_open, &stats.circuit_breakers_high_remaining_rq),
                (&stats.circuit_breakers_high_rq_retry_open, &stats.circuit_breakers_high_remaining_retries),
            ],
        ];
        let priorities = cluster.breakers.iter().zip(&cluster.policy.breakers);
        for (gauges, (breaker, limits)) in gauges.iter().zip(priorities) {
            for ((open, remaining), left) in gauges.iter().zip(left(breaker, limits)) {
                open.set(i64::from(left == 0));
                if limits.track_remaining {
                    remaining.set(left.into());
                }
            }
        }
    }
}

/// How many more connections, pending requests, requests and retries are allowed.
fn left(breaker: &Breaker, limits: &Thresholds) -> [u32; 4] {
    [
        limits.max_connections.saturating_sub(breaker.connections.used()),
        limits.max_pending_requests.saturating_sub(breaker.pending.used()),
        limits.max_requests.saturating_sub(breaker.requests.used()),
        breaker.retry_limit(limits).saturating_sub(breaker.retries.used()),
    ]
}
