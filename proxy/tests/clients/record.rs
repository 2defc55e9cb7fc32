//! Tables of what Envoy does, in `recorded/`, and their comparison with what the proxy does.

use std::fmt::Write as _;
use std::path::Path;

use super::injection::report;

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
