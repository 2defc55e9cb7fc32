//! `petmesh config validate`: every finding of every file, for people or for programs; `petmesh config upgrade`: a file of 2018 as one
//! of today; `petmesh config explain`: what a code means.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use proxy::build::{Flavor, check};
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

/// Prints the file that today's Envoy accepts on standard output, and what was changed on standard error.
pub fn upgrade(file: &Path, format: Format) -> Result<()> {
    let stdin = file == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let read = match stdin {
        true => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        false => std::fs::read_to_string(file).map(|read| text = read),
    };
    let upgraded = match read {
        Ok(()) => xds::upgrade_bootstrap(&name, &text),
        Err(error) => {
            let message = format!("cannot read the configuration {name}: {error}");
            Err(vec![Diagnostic::error(&name, Code::Unreadable, message)])
        }
    };
    let (found, new) = match upgraded {
        Ok(upgraded) => (upgraded.notices, Some(upgraded.text)),
        Err(found) => (found, None),
    };
    match format {
        Format::Text if !found.is_empty() => eprint!("{}", xds::render_text(&found, &text)),
        Format::Text => {}
        Format::Json => eprintln!("{}", xds::render_json(&found)),
    }
    match new {
        Some(new) => Ok(std::io::stdout().write_all(new.as_bytes())?),
        None => Err(Reported.into()),
    }
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
