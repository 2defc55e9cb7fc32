//! `petmesh config validate`: every finding of every file, for people or for programs; `petmesh config explain`: what a code means.
//!
//! Called by `main`; calls the reader in `xds` and the proxy's builder.

use std::path::PathBuf;

use anyhow::Result;
use proxy::snapshot::build::{Flavor, check};
use xds::{Code, Diagnostic, Severity};

use crate::args::Format;

/// Failed, and the reasons have been printed.
#[derive(Debug)]
pub struct Reported;

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("see the diagnostics above")
    }
}

impl std::error::Error for Reported {}

/// Reads each file and prints what is wrong with it: text on standard error, or one JSON array on standard output.
pub fn validate(files: &[PathBuf], format: Format, pod: bool) -> Result<()> {
    let pod = pod || check::in_pod();
    let mut all = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let (found, text) = match proxy::control::read_file(file) {
            Ok(text) => (findings(&name, &text, pod), text),
            Err(error) => {
                let text = format!("cannot read the configuration {name}: {error}");
                (vec![Diagnostic::error(&name, Code::Unreadable, text)], String::new())
            }
        };
        if format == Format::Text {
            if !found.is_empty() {
                eprint!("{}", xds::render_text(&found, &text));
            }
            if !has_errors(&found) {
                println!("configuration '{name}' OK");
            }
        }
        all.extend(found);
    }
    if format == Format::Json {
        println!("{}", xds::render_json(&all));
    }
    if has_errors(&all) { Err(Reported.into()) } else { Ok(()) }
}

/// What `proxy --mode validate` finds.
fn findings(name: &str, text: &str, pod: bool) -> Vec<Diagnostic> {
    match check::read(name, text, Flavor::Sidecar, pod) {
        Ok(read) => check::check(&read, Flavor::Sidecar, pod),
        Err(found) => found,
    }
}

/// Prints what a code means, or all codes with a sentence each.
pub fn explain(code: Option<&str>) -> Result<()> {
    match code {
        Some(code) => print!("{}", xds::explain(code).map_err(anyhow::Error::msg)?),
        None => {
            for code in Code::ALL {
                println!("{:<24} {}", code.as_str(), code.about());
            }
        }
    }
    Ok(())
}

fn has_errors(found: &[Diagnostic]) -> bool {
    found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}
