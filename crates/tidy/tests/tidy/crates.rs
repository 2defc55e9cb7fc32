//! Who may depend on whom. The table is the architecture's; a change of it is a decision to be written down.

use std::process::Command;

use serde_json::Value;
use tidy::{Findings, Tree};

/// A crate and those of ours that it may use.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("lifecycle", &[]),
    ("telemetry", &[]),
    ("xds", &[]),
    ("kube-api", &[]),
    ("tidy", &[]),
    ("differential", &["xds"]),
    ("pet", &["lifecycle", "telemetry"]),
    ("petstore", &["lifecycle", "telemetry"]),
    ("proxy", &["lifecycle", "telemetry", "xds"]),
    ("sds", &["lifecycle", "telemetry", "xds"]),
    ("ingress", &["proxy"]),
    ("local-mesh", &["kube-api", "xds"]),
    ("petmesh", &["local-mesh", "xds", "proxy"]),
    ("e2e", &["local-mesh", "kube-api", "xds"]),
];
/// What the tests of any crate may use besides.
const TESTS_MAY_USE: &[&str] = &["kube-api"];

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() -> Result<(), Findings> {
    let packages = packages()?;
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Findings::default();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, may_use)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            findings.add(format!("crate {name} is not in the table of crates/tidy/tests/tidy/crates.rs: give it a place there and in ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev" && TESTS_MAY_USE.contains(&on);
            if ours.contains(&on) && !may_use.contains(&on) && !for_tests {
                findings.add(format!("{name} depends on {on}, but may use only {may_use:?} of ours: turn the dependency round or move the code down"));
            }
        }
    }
    for (name, _) in MAY_USE.iter().filter(|(name, _)| !ours.contains(name)) {
        findings.add(format!("crate {name} is gone: remove it from crates/tidy/tests/tidy/crates.rs"));
    }
    findings.none_or()
}

#[test]
fn versions_of_dependencies_are_written_once() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for file in tree.with_extension("", "toml").filter(|file| file.ends_with("/Cargo.toml")) {
        let text = tree.text(file)?;
        // A workspace of its own (the fuzz targets) cannot take versions from the root's.
        if text.lines().any(|line| line.trim_end() == "[workspace]") {
            continue;
        }
        let mut in_dependencies = false;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.trim_end().ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
                findings.add(format!(
                    "{file}:{}: write `x.workspace = true`, and the version in the root's Cargo.toml",
                    index + 1
                ));
            }
        }
    }
    findings.none_or()
}

fn packages() -> Result<Vec<Value>, Findings> {
    let failed = |error: &dyn std::fmt::Display| Findings::one(format!("cargo metadata: {error}"));
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(Tree::read()?.root);
    let output = cargo.output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))?;
    metadata["packages"].as_array().cloned().ok_or_else(|| failed(&"no packages"))
}
