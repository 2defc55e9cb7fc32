//! Every source file has a header and a size that fits a reader.

use tidy::{Findings, Tree, code, in_file_tests};

const MOST_LINES: usize = 600;
const MOST_TEST_LINES: usize = 100;

#[test]
fn every_rust_file_opens_with_its_header() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("", "rs") {
        let text = tree.text(file)?;
        let first = text.lines().next().unwrap_or_default();
        if first.strip_prefix("//!").is_none_or(|words| words.trim().is_empty()) {
            findings.add(format!("{file}:1: open it with `//! what it is for`"));
        }
    }
    findings.none_or()
}

#[test]
fn no_rust_file_is_too_long() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("", "rs") {
        let text = tree.text(file)?;
        let lines = text.lines().count();
        let generated = text.lines().take(5).any(|line| line.contains("@generated"));
        if lines > MOST_LINES && !generated {
            findings.add(format!(
                "{file}: {lines} lines: split it by topic, {MOST_LINES} is the most (tests count)"
            ));
        }
    }
    findings.none_or()
}

#[test]
fn long_tests_live_in_a_file_of_their_own() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("", "rs") {
        let lines = in_file_tests(&code(&tree.text(file)?));
        if lines > MOST_TEST_LINES {
            findings.add(format!(
                "{file}: {lines} lines of tests: more than {MOST_TEST_LINES} live in a file of their own: in the proxy below tests/unit, elsewhere a sibling `tests.rs`"
            ));
        }
    }
    findings.none_or()
}

#[test]
fn the_proxys_sources_hold_no_files_of_tests() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("proxy/src/", "rs") {
        if file.ends_with("/tests.rs") || file.contains("/tests/") {
            findings.add(format!("{file}: move it to proxy/tests/unit and name it there with `#[path]`"));
        }
    }
    findings.none_or()
}
