//! `petmesh config validate`: every finding of every file, for people or for programs.
//!
//! Called by `main`; calls the reader in `xds`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xds::{Diagnostic, Severity};

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
pub fn validate(files: &[PathBuf], format: Format) -> Result<()> {
    let mut all = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let found = findings(file, &text);
        if format == Format::Text {
            if !found.is_empty() {
                eprint!("{}", xds::render_text(&found, &text));
            }
            if !has_errors(&found) {
                println!("configuration '{}' OK", file.display());
            }
        }
        all.extend(found);
    }
    if format == Format::Json {
        println!("{}", xds::render_json(&all));
    }
    if has_errors(&all) { Err(Reported.into()) } else { Ok(()) }
}

fn findings(file: &Path, text: &str) -> Vec<Diagnostic> {
    match xds::read_bootstrap(&file.display().to_string(), text) {
        Ok(read) => read.warnings,
        Err(found) => found,
    }
}

fn has_errors(found: &[Diagnostic]) -> bool {
    found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}
