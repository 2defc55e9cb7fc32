//! What pure code must not do, and where Envoy's wire types may appear.

use tidy::{Findings, Tree, code, paths_below, without_tests};

/// State machines over (state, now, event): a test replays a month in a second.
const POLICIES: [&str; 3] = ["proxy/src/retry", "proxy/src/route", "proxy/src/cluster"];
const IMPURE: [(&str, &str); 4] = [
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime::now", "take `now` as an argument"),
    (".await", "return what is to be done, and let the caller wait"),
    ("Rng::new", "take the random source as an argument"),
];

const MAY_SEE_WIRE_TYPES: [&str; 5] =
    ["proxy/src/build", "proxy/src/control", "proxy/src/admin", "proxy/src/app", "proxy/src/main.rs"];

#[test]
fn policies_never_wait_read_a_clock_or_draw_randomness() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in
        tree.with_extension("proxy/src/", "rs").filter(|file| is_below(file, &POLICIES) && !is_test(file))
    {
        let code = without_tests(&code(&tree.text(file)?));
        for (index, line) in code.lines().enumerate() {
            for (word, remedy) in IMPURE.iter().filter(|(word, _)| line.contains(word)) {
                findings.add(format!("{file}:{}: a policy does not use `{word}`: {remedy}", index + 1));
            }
        }
        for (line, name) in paths_below(&code, "fastrand") {
            if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                findings.add(format!("{file}:{line}: a policy does not use `fastrand::{name}`: take the random source as an argument"));
            }
        }
    }
    findings.none_or()
}

#[test]
fn envoys_wire_types_stay_at_the_border() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("proxy/src/", "rs").filter(|file| !is_below(file, &MAY_SEE_WIRE_TYPES)) {
        for (line, name) in paths_below(&code(&tree.text(file)?), "xds") {
            if name == "envoy" {
                findings.add(format!("{file}:{line}: `xds::envoy` belongs to build, control, admin and app: give the data plane a type of our own"));
            }
        }
    }
    findings.none_or()
}

/// A module is `x.rs` and everything in `x/`.
fn is_below(file: &str, modules: &[&str]) -> bool {
    modules.iter().any(|module| {
        let rest = file.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    })
}

fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}
