//! `/stats/prometheus`: Envoy's names and labels. What varies in a name (cluster, listener, status) becomes a label.
//!
//! Against Envoy: the name of a cluster is known, not guessed from its dots, so that `pet.default` is one label.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Admin;
use super::page::{Page, Params};
use super::stats::{BOUNDS, BUCKETS_USAGE, Wanted, count_up_to};
use crate::stats::{Collected, Stat, Summary, Value};

pub(super) fn page(admin: &Admin, params: &Params) -> Page {
    match params.get("histogram_buckets") {
        None | Some("" | "cumulative") => {}
        Some("summary" | "prometheusnative") => {
            return Page::error(
                501,
                "These histogram_buckets are not implemented in petmesh: use cumulative.\n",
            );
        }
        Some(_) => return Page::error(400, BUCKETS_USAGE),
    }
    match Wanted::new(params) {
        Ok(wanted) => Page::text(render(&wanted.collect(admin))),
        Err(page) => page,
    }
}

/// Counters, then gauges, then histograms, each in order of their metrics' names.
fn render(all: &Collected) -> String {
    let mut metrics: BTreeMap<(u8, String), Vec<(Labels, &Value)>> = BTreeMap::new();
    for (name, stat) in all {
        let (metric, labels) = metric(name, stat);
        let order = match stat.value {
            Value::Counter(_) => 0,
            Value::Gauge { .. } => 1,
            Value::Histogram(_) => 2,
        };
        metrics.entry((order, metric)).or_default().push((labels, &stat.value));
    }
    let mut out = String::new();
    for ((_, metric), samples) in &metrics {
        let kind = match samples.first().map(|(_, value)| *value) {
            Some(Value::Gauge { .. }) => "gauge",
            Some(Value::Histogram(_)) => "histogram",
            Some(Value::Counter(_)) | None => "counter",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# TYPE {metric} {kind}");
        for (labels, value) in samples {
            let labels = labels_text(labels);
            let _ = match value {
                Value::Counter(count) => writeln!(out, "{metric}{{{labels}}} {count}"),
                Value::Gauge { value, .. } => writeln!(out, "{metric}{{{labels}}} {value}"),
                Value::Histogram(summary) => write_histogram(&mut out, metric, &labels, summary),
            };
        }
    }
    out
}

fn write_histogram(out: &mut String, metric: &str, labels: &str, summary: &Summary) -> std::fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in BOUNDS {
        let count = count_up_to(summary, bound);
        writeln!(out, "{metric}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}")?;
    }
    let count = summary.count();
    writeln!(out, "{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
    writeln!(out, "{metric}_sum{{{labels}}} {}", summary.sum)?;
    writeln!(out, "{metric}_count{{{labels}}} {count}")
}

type Labels = Vec<(&'static str, String)>;

/// A statistic's metric, and what varies in its name as labels in Envoy's order: status, worker, then the scope's from the inside out.
fn metric(name: &str, stat: &Stat) -> (String, Labels) {
    let (prefix, rest) = name.split_at_checked(stat.prefix).unwrap_or(("", name));
    let mut labels = Labels::new();
    let rest = without_status(rest, &mut labels);
    let rest = without_worker(&rest, &mut labels);
    let scope = without_names(prefix.trim_end_matches('.'), &mut labels);
    let dot = if scope.is_empty() { "" } else { "." };
    let metric = format!("envoy_{scope}{dot}{rest}");
    (metric.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect(), labels)
}

/// `upstream_rq_200` -> `upstream_rq`, `upstream_rq_2xx` -> `upstream_rq_xx`.
fn without_status(rest: &str, labels: &mut Labels) -> String {
    let Some((before, status)) = rest.rsplit_once("_rq_") else { return rest.to_owned() };
    match status.as_bytes() {
        [class @ b'1'..=b'5', b'x', b'x'] => {
            labels.push(("envoy_response_code_class", char::from(*class).to_string()));
            format!("{before}_rq_xx")
        }
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            labels.push(("envoy_response_code", status.to_owned()));
            format!("{before}_rq")
        }
        _ => rest.to_owned(),
    }
}

/// `worker_0.downstream_cx_total` -> `worker.downstream_cx_total`.
fn without_worker(rest: &str, labels: &mut Labels) -> String {
    let worker = rest.strip_prefix("worker_").and_then(|rest| rest.split_once('.'));
    match worker.filter(|(id, _)| id.bytes().all(|byte| byte.is_ascii_digit())) {
        Some((id, after)) => {
            labels.push(("envoy_worker_id", id.to_owned()));
            format!("worker.{after}")
        }
        None => rest.to_owned(),
    }
}

/// The scope without its names, such as `cluster` for `cluster.pet`.
fn without_names(scope: &str, labels: &mut Labels) -> String {
    let (kind, name) = scope.split_once('.').unwrap_or((scope, ""));
    match kind {
        "listener" => {
            let (address, inner) =
                name.split_once(".http.").map_or((name, None), |(address, inner)| (address, Some(inner)));
            labels.extend(inner.map(|inner| ("envoy_http_conn_manager_prefix", inner.to_owned())));
            let inside = if inner.is_some() { ".http" } else { "" };
            // Only addresses are labels: `listener.admin` is not one.
            if address.bytes().any(|byte| byte == b'_') && address.bytes().any(|byte| byte.is_ascii_digit()) {
                labels.push(("envoy_listener_address", address.to_owned()));
                return format!("listener{inside}");
            }
            format!("listener.{address}{inside}")
        }
        "vhost" => match name.split_once(".vcluster.") {
            Some((host, cluster)) => {
                labels.push(("envoy_virtual_cluster", cluster.to_owned()));
                labels.push(("envoy_virtual_host", host.to_owned()));
                "vhost.vcluster".to_owned()
            }
            None => scope.to_owned(),
        },
        "cluster" => {
            let inner = ["outlier_detection", "health_check"].into_iter().find_map(|inner| {
                let name = name.strip_suffix(inner)?.strip_suffix('.')?;
                Some((name, inner))
            });
            let (name, inner) =
                inner.map_or((name, String::new()), |(name, inner)| (name, format!(".{inner}")));
            labelled("cluster", "envoy_cluster_name", name, labels) + &inner
        }
        "http" => labelled(kind, "envoy_http_conn_manager_prefix", name, labels),
        "tcp" => labelled(kind, "envoy_tcp_prefix", name, labels),
        _ => scope.to_owned(),
    }
}

fn labelled(kind: &str, label: &'static str, name: &str, labels: &mut Labels) -> String {
    labels.push((label, name.to_owned()));
    kind.to_owned()
}

fn labels_text(labels: &Labels) -> String {
    let pairs = labels.iter().map(|(label, value)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{label}=\"{value}\"")
    });
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(prefix: &str, rest: &str) -> String {
        let stat = Stat { prefix: prefix.len(), value: Value::Counter(3) };
        let all = Collected::from([(format!("{prefix}{rest}"), stat)]);
        render(&all).lines().last().unwrap().to_owned()
    }

    #[test]
    fn names_and_labels_are_envoys() {
        for (prefix, rest, expected) in [
            (
                "cluster.one.",
                "upstream_rq_200",
                "envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"one\"} 3",
            ),
            (
                "cluster.one.",
                "external.upstream_rq_2xx",
                "envoy_cluster_external_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"one\"} 3",
            ),
            (
                "cluster.one.",
                "circuit_breakers.default.cx_open",
                "envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name=\"one\"} 3",
            ),
            (
                "listener.127.0.0.1_29902.http.ingress_http.",
                "downstream_rq_1xx",
                "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"1\",\
                 envoy_http_conn_manager_prefix=\"ingress_http\",envoy_listener_address=\"127.0.0.1_29902\"} 3",
            ),
            (
                "listener.127.0.0.1_29902.",
                "worker_0.downstream_cx_total",
                "envoy_listener_worker_downstream_cx_total{envoy_worker_id=\"0\",envoy_listener_address=\"127.0.0.1_29902\"} 3",
            ),
            ("listener.admin.", "downstream_cx_total", "envoy_listener_admin_downstream_cx_total{} 3"),
            (
                "http.in.",
                "downstream_rq_total",
                "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"in\"} 3",
            ),
            ("server.", "uptime", "envoy_server_uptime{} 3"),
            (
                "cluster.pet.default.",
                "upstream_rq_total",
                "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"pet.default\"} 3",
            ),
        ] {
            assert_eq!(line(prefix, rest), expected);
        }
    }
}
