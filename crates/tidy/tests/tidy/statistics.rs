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
