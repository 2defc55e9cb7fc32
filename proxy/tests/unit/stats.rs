//! What is shown of shards, and what idle scopes cost.

use super::*;

fn show(registry: &Registry, wanted: &str) -> Vec<String> {
    let collected = registry.collect();
    let shown = collected.iter().filter(|(name, _)| name.contains(wanted));
    shown
        .map(|(name, stat)| match &stat.value {
            Value::Counter(count) => format!("{name}: {count}"),
            Value::Gauge { value, .. } => format!("{name}: {value}"),
            Value::Histogram(summary) => format!("{name}: {} values", summary.count()),
        })
        .collect()
}

#[test]
fn an_idle_scope_has_no_shard_of_a_worker_and_no_histogram() {
    let registry = Registry::new(32);
    let cluster = registry.scope::<ClusterStats>("cluster.one.");
    assert_eq!(registry.collect().len(), registry.scopes().len() * show(&registry, "cluster.one.").len());
    assert_eq!((cluster.shards().count(), registry.histograms().len()), (1, 0));
    cluster.shard(7).upstream_cx_length_ms.record(5);
    assert_eq!(cluster.shards().count(), 2);
    assert_eq!(registry.histograms().into_keys().collect::<Vec<_>>(), ["cluster.one.upstream_cx_length_ms"]);
    assert!(size_of::<ClusterStats>() <= 1_280, "{} bytes", size_of::<ClusterStats>());
}

#[test]
fn a_counter_saturates() {
    let counter = Counter::default();
    counter.add(u64::MAX);
    counter.inc();
    assert_eq!(counter.get(), u64::MAX);
}

#[test]
fn shards_are_added_up_under_envoys_names() {
    let registry = Registry::new(2);
    let cluster = registry.scope::<ClusterStats>("cluster.one.");
    cluster.shard(0).upstream_rq_codes.record(200);
    cluster.shard(1).upstream_rq_codes.record(204);
    cluster.shard(1).external_upstream_rq_codes.record(204);
    cluster.shard(0).circuit_breakers_default_cx_open.set(1);
    assert_eq!(
        show(&registry, "upstream_rq_2"),
        [
            "cluster.one.external.upstream_rq_204: 1",
            "cluster.one.external.upstream_rq_2xx: 1",
            "cluster.one.upstream_rq_200: 1",
            "cluster.one.upstream_rq_204: 1",
            "cluster.one.upstream_rq_2xx: 2"
        ]
    );
    assert_eq!(show(&registry, "default.cx_open"), ["cluster.one.circuit_breakers.default.cx_open: 1"]);
}

#[test]
fn what_is_made_on_demand_appears_with_its_first_value() {
    let registry = Registry::new(1);
    let cluster = registry.scope::<ClusterStats>("cluster.one.");
    assert!(show(&registry, "remaining").is_empty());
    assert!(show(&registry, "upstream_rq_time").iter().all(|line| line.contains("timeout")));
    cluster.shard(1).circuit_breakers_high_remaining_rq.set(0);
    cluster.shard(0).upstream_rq_time.record(3);
    assert_eq!(show(&registry, "remaining"), ["cluster.one.circuit_breakers.high.remaining_rq: 0"]);
    assert!(
        show(&registry, "upstream_rq_time").contains(&"cluster.one.upstream_rq_time: 1 values".to_owned())
    );
}

#[test]
fn responses_of_a_connection_manager_are_shown_by_class_from_the_start() {
    let registry = Registry::new(1);
    let http = registry.scope::<HttpStats>("http.in.");
    http.shard(0).downstream_rq_codes.record(404);
    let classes: Vec<_> = show(&registry, "xx");
    assert_eq!(
        classes,
        [
            "http.in.downstream_rq_1xx: 0",
            "http.in.downstream_rq_2xx: 0",
            "http.in.downstream_rq_3xx: 0",
            "http.in.downstream_rq_4xx: 1",
            "http.in.downstream_rq_5xx: 0"
        ]
    );
}

#[test]
fn a_listener_shows_its_connections_by_worker() {
    let registry = Registry::new(2);
    let listener = registry.scope::<ListenerStats>("listener.0.0.0.0_1.");
    listener.shard(1).listener_cx_total.inc();
    assert_eq!(
        show(&registry, "downstream_cx_total"),
        [
            "listener.0.0.0.0_1.downstream_cx_total: 1",
            "listener.0.0.0.0_1.worker_0.downstream_cx_total: 0",
            "listener.0.0.0.0_1.worker_1.downstream_cx_total: 1"
        ]
    );
}

#[test]
fn a_gauge_that_was_set_to_nothing_is_used_and_one_that_was_not_is_not() {
    let registry = Registry::new(1);
    let cluster = registry.scope::<ClusterStats>("cluster.one.");
    cluster.shard(1).membership_degraded.set(0);
    let collected = registry.collect();
    assert!(collected["cluster.one.membership_degraded"].value.is_used());
    assert!(!collected["cluster.one.membership_excluded"].value.is_used());
}
