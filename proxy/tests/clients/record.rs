//! Tables of what Envoy does, in `recorded/`, and their comparison with what the proxy does.

use std::fmt::Write as _;
use std::path::Path;

use super::injection::report;
use super::proxy::{Proxy, active};

/// Compares each case's outcome with the recorded one. `differs` gets a case and what Envoy does,
/// and says what petmesh does on purpose instead.
pub fn compare(table: &str, found: &[(String, String)], differs: impl Fn(&str, &str) -> Option<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/clients/recorded/{table}.txt"));
    if std::env::var_os("CLIENTS_RECORD").is_some() {
        let mut text = "# What Envoy 1.40 does. Written by the tests of proxy/tests/clients.\n".to_owned();
        for (case, outcome) in found {
            let _ = writeln!(text, "{case} => {outcome}");
        }
        std::fs::write(path, text).unwrap();
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let recorded: std::collections::BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(" =>"))
        .map(|(case, outcome)| (case, outcome.trim()))
        .collect();
    let faults: Vec<String> = found
        .iter()
        .filter_map(|(case, outcome)| {
            let envoys = recorded.get(case.as_str()).copied().unwrap_or("(not recorded)");
            let expected = differs(case, envoys).unwrap_or_else(|| envoys.to_owned());
            (*outcome != expected).then(|| format!("{case}: {outcome:?}, not {expected:?}"))
        })
        .collect();
    report(&faults, found.len());
}

const OF_CLUSTER: &[&str] = &[
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_cancelled",
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_cx_destroy_local",
    "upstream_cx_destroy_remote",
    "upstream_cx_destroy_with_active_rq",
    "upstream_cx_destroy_local_with_active_rq",
    "upstream_cx_destroy_remote_with_active_rq",
    "upstream_cx_protocol_error",
    "upstream_rq_pending_failure_eject",
    "http2.rx_reset",
    "http2.tx_reset",
];

const OF_HTTP: &[&str] = &[
    "rq_reset_after_downstream_response_started",
    "downstream_rq_rx_reset",
    "downstream_rq_tx_reset",
    "downstream_cx_destroy_local",
    "downstream_cx_destroy_remote",
    "downstream_cx_destroy_active_rq",
    "downstream_cx_destroy_local_active_rq",
    "downstream_cx_destroy_remote_active_rq",
    "downstream_cx_protocol_error",
];

/// The resets and ends that were counted for a cluster and a connection manager of that name, once
/// no connection is left.
pub fn counted(proxy: &Proxy, name: &str, port: u16) -> String {
    for gauge in [format!("cluster.{name}.upstream_cx_active"), active(port)] {
        proxy.wait_stat(&gauge, |active| active == 0);
    }
    let stats = proxy.stats();
    let scopes = [(format!("cluster.{name}"), OF_CLUSTER), (format!("http.{name}"), OF_HTTP)];
    let names = scopes.iter().flat_map(|(scope, names)| names.iter().map(move |name| (scope, name)));
    let counted = names.filter_map(|(scope, name)| {
        let value = stats.get(&format!("{scope}.{name}")).copied().unwrap_or(0);
        (value > 0).then(|| format!("{name} {value}"))
    });
    counted.collect::<Vec<_>>().join(", ")
}
