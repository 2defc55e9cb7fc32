//! Broken files that the reader alone accepts, and their diagnostics, committed beside them (`UPDATE=1` writes them anew).
//!
//! Tests of `check`; the reader's own broken files lie in `xds`.

use xds::Diagnostic;

use proxy::build::Flavor;
use proxy::build::check::{check, read};

pub(crate) fn findings(name: &str, text: &str) -> Vec<Diagnostic> {
    match read(name, text, Flavor::Sidecar, false) {
        Ok(read) => check(&read, Flavor::Sidecar, false),
        Err(findings) => findings,
    }
}

#[test]
fn each_broken_file_gets_its_diagnostics() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/broken");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = names.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    assert!(files.len() >= 25, "{files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let findings = findings(name, &text);
        assert!(findings.iter().any(Diagnostic::is_error), "{name} is accepted");
        let rendered = xds::render_text(&findings, &text);
        let path = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &rendered).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(committed, rendered, "{} differs; UPDATE=1 writes it anew", path.display());
    }
}

/// The builder sees what is left of a file in pieces, too.
#[test]
fn any_part_of_a_file_gets_an_answer() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/petstore.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(findings("petstore.yaml", &text).iter().find(|found| found.is_error()), None);
    let lines: Vec<_> = text.lines().collect();
    let mut refused = 0;
    for at in 0..lines.len() {
        let without = [&lines[..at], &lines[at + 1..]].concat().join("\n");
        let emptied = lines[at].split_once(": ").map_or("", |(key, _)| key);
        let emptied =
            [&lines[..at], &[format!("{emptied}: {{}}").as_str()], &lines[at + 1..]].concat().join("\n");
        for changed in [without, emptied] {
            refused += usize::from(findings("t.yaml", &changed).iter().any(Diagnostic::is_error));
        }
    }
    assert!(refused > lines.len() / 4, "{refused} of {}", lines.len());
}

/// What cannot be read says nothing about the rest, and hides nothing of it.
#[test]
fn the_readers_errors_do_not_hide_the_builders() {
    let text = "admin: { address: { socket_address: { address: localhost, port_value: 1 } } }
static_resources: { clusters: [{ nam: a }, { name: b, conect_timeout: 1s }, { name: b }] }\n";
    let found = findings("t.yaml", text);
    let found: Vec<_> =
        found.iter().map(|found| (found.code.as_str(), found.path.as_deref().unwrap())).collect();
    let expected = [
        ("bad-value", "admin.address.socket_address.address"),
        ("unknown-field", "static_resources.clusters[0].nam"),
        ("unknown-field", "static_resources.clusters[1].conect_timeout"),
        ("structure", "static_resources.clusters[2].name"),
    ];
    assert_eq!(found, expected);
}
