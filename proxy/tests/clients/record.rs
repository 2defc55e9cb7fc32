//! Tables of what Envoy does, in `recorded/`, and their comparison with what the proxy does.

use std::fmt::Write as _;
use std::path::Path;

use super::injection::report;

/// Compares each case's outcome with the recorded one. `differences` are cases, by a part of their name, in which
/// petmesh differs on purpose: what it does instead and why.
pub fn compare(table: &str, found: &[(String, String)], differences: &[(&str, &str, &str)]) {
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
            let different = differences.iter().find(|(part, _, _)| case.contains(part));
            let expected = match different {
                Some((_, instead, _)) => *instead,
                None => recorded.get(case.as_str()).copied().unwrap_or("(not recorded)"),
            };
            (outcome != expected).then(|| format!("{case}: {outcome:?}, not {expected:?}"))
        })
        .collect();
    report(&faults, found.len());
}
