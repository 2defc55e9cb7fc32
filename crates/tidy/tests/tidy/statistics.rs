//! Each statistic that the proxy declares is written by some code: a name that always shows 0 is a
//! false statement about the process.

use std::collections::{BTreeMap, BTreeSet};

use tidy::{Findings, Tree, code, without_tests};

const DECLARATIONS: &str = "proxy/src/stats/groups.rs";

/// What real Envoy shows and never writes either, so that 0 is the truth.
const NEVER_WRITTEN_BY_ENVOY: [&str; 1] = ["rq_redirect"];

#[test]
fn every_declared_statistic_is_written() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut writes = BTreeMap::new();
    let mut all = String::new();
    for file in tree.with_extension("proxy/src/", "rs") {
        if file != DECLARATIONS && !file.ends_with("/tests.rs") && !file.contains("/tests/") {
            let code = without_tests(&code(&tree.text(file)?));
            fields_written(&code, &mut writes);
            all.push_str(&code);
        }
    }
    let mut findings = Findings::default();
    let fields = declared(&code(&tree.text(DECLARATIONS)?));
    assert!(fields.values().flatten().count() > 200, "the declarations are not understood any more");
    let names: BTreeSet<&String> = fields.values().flatten().collect();
    for group in names.into_iter().filter(|name| !all.contains(name.as_str())) {
        findings.add(format!("{DECLARATIONS}: nothing has the statistics of {group}: delete the group"));
    }
    for (field, groups) in fields {
        let written = writes.get(&*field).copied().unwrap_or(0);
        if written < groups.len() && !NEVER_WRITTEN_BY_ENVOY.contains(&&*field) {
            findings.add(format!(
                "{DECLARATIONS}: `{field}` is declared in {} and written in {written} places: write it, or do not declare it",
                groups.join(" and ")
            ));
        }
    }
    findings.none_or()
}

/// Methods that change a statistic.
const WRITES: [&str; 6] = [".inc(", ".dec(", ".add(", ".set(", ".set_hash(", ".record("];

/// How often each field is written: by one of `WRITES`, or by a reference to it that is written
/// later. A reference is taken from something that is called `stats`, `group` or the like, so that
/// a field of another type does not count.
fn fields_written(code: &str, writes: &mut BTreeMap<String, usize>) {
    for (at, _) in code.match_indices('.') {
        let rest = &code[at + 1..];
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (field, after) = rest.split_at(length);
        let written = WRITES.iter().any(|write| after.trim_start().starts_with(write));
        let ends = after.trim_start().starts_with([',', ')', ';', '}']);
        if written || (ends && is_reference_to_statistics(&code[..at])) {
            *writes.entry(field.to_owned()).or_default() += 1;
        }
    }
}

/// Whether code that ends in front of `.field` is `&stats`, or `&….stats`.
fn is_reference_to_statistics(before: &str) -> bool {
    let path = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let start = before.rfind(|c: char| !path(c)).map_or(0, |at| at + 1);
    let (front, path) = before.split_at(start);
    front.trim_end().ends_with('&') && path.ends_with("stats")
}

/// Each field with the groups that declare it.
fn declared(code: &str) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for group in code.split("stats_group! {").skip(1) {
        let name = group.split('{').next().unwrap_or_default().trim();
        for kind in ["counters:", "gauges:", "histograms:", "codes:", "classes:"] {
            let list = group.split(kind).nth(1).and_then(|rest| rest.split('[').nth(1)?.split(']').next());
            for item in list.unwrap_or_default().split(',') {
                let field = item.split('=').next().unwrap_or_default().trim();
                if !field.is_empty() {
                    fields.entry(field.to_owned()).or_default().push(name.to_owned());
                }
            }
        }
    }
    fields
}
