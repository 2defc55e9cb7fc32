//! Each statistic that the proxy declares is written by some code: a name that always shows 0 is a
//! false statement about the process.

use std::collections::{BTreeMap, BTreeSet};

use tidy::{Findings, Tree, code, without_tests};

const DECLARATIONS: &str = "proxy/src/stats/groups.rs";

/// What real Envoy shows and never writes either, so that 0 is the truth.
const NEVER_WRITTEN_BY_ENVOY: [&str; 1] = ["rq_redirect"];

/// What writes a statistic. `dec` only takes back what `inc` has added.
const WRITES: [&str; 5] = ["inc", "add", "set", "set_hash", "record"];

#[test]
fn every_declared_statistic_is_written() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut all = String::new();
    for file in tree.with_extension("proxy/src/", "rs") {
        if file != DECLARATIONS && !file.ends_with("/tests.rs") && !file.contains("/tests/") {
            all.push_str(&without_tests(&code(&tree.text(file)?)));
        }
    }
    let mut findings = Findings::default();
    let fields = declared(&code(&tree.text(DECLARATIONS)?));
    assert!(fields.values().flatten().count() > 200, "the declarations are not understood any more");
    let names: BTreeSet<&String> = fields.values().flatten().collect();
    for group in names.into_iter().filter(|name| !all.contains(name.as_str())) {
        findings.add(format!("{DECLARATIONS}: nothing has the statistics of {group}: delete the group"));
    }
    let written = written(&all);
    for (field, groups) in &fields {
        if groups.len() > 1 {
            let groups = groups.join(" and ");
            findings.add(format!(
                "{DECLARATIONS}: `{field}` is a field of {groups}, so that a write does not say of which: rename one, \
                 and give the name to print behind `=`"
            ));
        }
        if all.contains(&format!(" {field}: Cell<")) {
            findings.add(format!("{DECLARATIONS}: `{field}` is a `Cell`, too: rename one"));
        }
        if !written.contains(field) && !NEVER_WRITTEN_BY_ENVOY.contains(&&**field) {
            findings.add(format!(
                "{DECLARATIONS}: no code writes `{field}` ({}): write it (`.{field}.inc()`, not through a reference), \
                 or do not declare it",
                groups.join(" and ")
            ));
        }
    }
    findings.none_or()
}

/// The fields that are written: `.field.inc(` and so on, with any white space between. A reference
/// `&stats.field` counts as well: nothing else takes one.
fn written(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices('.') {
        let Some((field, after)) = word(code.get(at + 1..).unwrap_or_default()) else { continue };
        if code.get(..at).is_some_and(|before| before.ends_with("&stats")) && !after.starts_with(['.', '(']) {
            found.insert(field.to_owned());
        }
        let Some((call, after)) = after.trim_start().strip_prefix('.').and_then(word) else { continue };
        if WRITES.contains(&call) && after.starts_with('(') {
            found.insert(field.to_owned());
        }
    }
    found
}

/// The identifier that `text` begins with, and the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Declared statistics that no test of the proxy names yet. The list only gets shorter.
const WITHOUT_A_CASE: &[&str] = &[
    "active_clusters",
    "active_connections",
    "canary_upstream_rq_time",
    "circuit_breakers_default_cx_pool_open",
    "circuit_breakers_high_cx_open",
    "circuit_breakers_high_cx_pool_open",
    "circuit_breakers_high_remaining_cx",
    "circuit_breakers_high_remaining_pending",
    "circuit_breakers_high_remaining_retries",
    "circuit_breakers_high_rq_open",
    "circuit_breakers_high_rq_pending_open",
    "circuit_breakers_high_rq_retry_open",
    "cluster_added",
    "cluster_modified",
    "cluster_removed",
    "cluster_updated",
    "days_until_first_cert_expiring",
    "downstream_cx_delayed_close_timeout",
    "downstream_cx_http1_active",
    "downstream_cx_http2_active",
    "downstream_cx_length_ms",
    "downstream_cx_no_route",
    "downstream_cx_overflow",
    "downstream_cx_rx_bytes_total",
    "downstream_cx_tx_bytes_total",
    "downstream_cx_upgrades_active",
    "downstream_cx_upgrades_total",
    "downstream_rq_time",
    "dropped_headers_with_underscores",
    "ejections_consecutive_5xx",
    "ejections_detected_consecutive_gateway_failure",
    "ejections_detected_failure_percentage",
    "ejections_detected_local_origin_failure_percentage",
    "ejections_detected_local_origin_success_rate",
    "ejections_detected_success_rate",
    "ejections_enforced_local_origin_failure_percentage",
    "ejections_enforced_local_origin_success_rate",
    "ejections_success_rate",
    "external_upstream_rq_time",
    "failed_cluster_empty",
    "failed_cluster_unhealthy",
    "failed_updates",
    "flushed_by_timer",
    "header_overflow",
    "http2_dropped_headers_with_underscores",
    "http2_requests_rejected_with_underscores_in_headers",
    "initialization_time_ms",
    "internal_upstream_rq_completed",
    "internal_upstream_rq_time",
    "lb_subsets_active",
    "lb_subsets_created",
    "lb_subsets_fallback",
    "lb_subsets_fallback_panic",
    "lb_subsets_removed",
    "lb_subsets_selected",
    "lb_subsets_single_host_per_subset_duplicate",
    "limited_connections",
    "listener_added",
    "listener_create_success",
    "listener_cx_length_ms",
    "listener_removed",
    "max_entries_per_host",
    "max_hashes_per_host",
    "max_host_weight",
    "memory_heap_size",
    "memory_physical_size",
    "min_entries_per_host",
    "min_hashes_per_host",
    "no_filter_chain_match",
    "reopen_failed",
    "reports_dropped",
    "reports_failed",
    "reports_sent",
    "reports_skipped_no_cluster",
    "requests_rejected_with_underscores_in_headers",
    "rq_redirect",
    "rx_messaging_error",
    "shrink_count",
    "skipped_updates",
    "spans_dropped",
    "spans_sent",
    "streams_active",
    "tcp_cx_rx_bytes_total",
    "tcp_cx_tx_bytes_total",
    "timer_flushed",
    "total_connections",
    "update_no_rebuild",
    "upstream_cx_connect_attempts_exceeded",
    "upstream_cx_connect_ms",
    "upstream_cx_max_duration_reached",
    "upstream_rq_per_cx",
    "upstream_rq_retry_backoff_ratelimited",
    "upstream_rq_retry_success",
    "vcluster_rq_retry_success",
    "verify_cluster",
    "warming_clusters",
    "warming_state",
    "workers_started",
    "write_completed",
    "write_failed",
    "write_total_buffered",
];

/// Each declared statistic stands in a test of the proxy or in a table that its tests compare: there
/// is a case that moves it.
#[test]
fn every_declared_statistic_has_a_case_that_moves_it() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut tests = String::new();
    for end in ["rs", "txt"] {
        let files = tree.with_extension("proxy/tests/", end);
        for file in files.filter(|file| !file.ends_with("/idle_envoy.txt")) {
            tests.push_str(&tree.text(file)?);
        }
    }
    let mut findings = Findings::default();
    for (_, item) in items(&tree.text(DECLARATIONS)?) {
        let (field, name) = item.split_once('=').unwrap_or((&item, &item));
        let (field, name) = (field.trim(), name.trim().trim_matches('"'));
        let has_case = stands(&tests, field) || stands(&tests, name);
        match (has_case, WITHOUT_A_CASE.contains(&field)) {
            (false, false) => findings.add(format!(
                "no test in proxy/tests moves `{name}` (`{field}`): add a case, such as a kind of request in \
                 proxy/tests/clients/accounts/kinds.rs"
            )),
            (true, true) => findings.add(format!("`{field}` has a case: take it out of WITHOUT_A_CASE")),
            _ => {}
        }
    }
    findings.none_or()
}

#[test]
fn only_a_write_counts_as_one() {
    let code = "a.inc_total.inc(); let b = &a.borrowed; a.read.get(); a.level.dec(); a\n    .broken\n    .add(1); \
                a.set(1); a.called().inc(); x.passed, y.shard(0).sharded.set(-1); a.codes.record(200); a.incs.incr(1); \
                (&stats.referred, &stats.called(), &stats.got.get())";
    let expected = ["broken", "codes", "inc_total", "referred", "sharded"].map(str::to_owned);
    assert_eq!(written(code), expected.into());
}

/// Each field with the groups that declare it.
fn declared(code: &str) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, item) in items(code) {
        let field = item.split('=').next().unwrap_or_default().trim();
        fields.entry(field.to_owned()).or_default().push(group);
    }
    fields
}

/// Each group with what it declares: `field`, or `field = "printed.name"`.
fn items(code: &str) -> Vec<(String, String)> {
    let mut items = Vec::new();
    for group in code.split("stats_group! {").skip(1) {
        let lines = group.lines().filter(|line| !line.trim_start().starts_with("///"));
        let name = lines.clone().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let name = name.split('{').next().unwrap_or_default().trim();
        for kind in ["counters:", "gauges:", "histograms:", "codes:", "classes:"] {
            let list = group.split(kind).nth(1).and_then(|rest| rest.split('[').nth(1)?.split(']').next());
            let each = list.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty());
            items.extend(each.map(|item| (name.to_owned(), item.to_owned())));
        }
    }
    items
}

/// Whether a name stands in a text as a whole word, or with a status or a class of them behind it.
fn stands(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let code = after.strip_prefix('_').and_then(|after| after.get(..3)).filter(|code| {
            let is_class = |c: &char| ('1'..='5').contains(c);
            code.starts_with(|c| is_class(&c)) && (code.ends_with("xx") || code.parse::<u16>().is_ok())
        });
        let after = if code.is_some() { &after[4..] } else { after };
        !before.ends_with(is_part) && !after.starts_with(is_part)
    })
}

#[test]
fn a_name_stands_as_a_word_or_with_a_status() {
    for (text, is_there) in [
        ("a.rq_total 1", true),
        ("rq_total_2xx", true),
        ("\"rq_total_404\"", true),
        ("up_rq_total", false),
        ("rq_total_ms", false),
        ("rq_total_2xxx", false),
    ] {
        assert_eq!(stands(text, "rq_total"), is_there, "{text}");
    }
}
