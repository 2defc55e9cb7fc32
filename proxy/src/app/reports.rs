//! What the proxy prints at its start: diagnostics, notices, and the remedy for an address in use.

use std::net::SocketAddr;

use lifecycle::exit;
use xds::{Diagnostic, Severity};

use crate::args::{Args, DiagnosticsFormat};

/// An error that ends the process.
pub(super) fn failure(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// A file that cannot be used: everything that is wrong with it.
pub(super) fn refused(args: &Args, diagnostics: &[Diagnostic], text: &str) -> u8 {
    print(args, diagnostics, text);
    exit::FAILED
}

/// The output of `--mode validate`.
pub(super) fn validated(args: &Args, name: &str, findings: &[Diagnostic], text: &str) -> u8 {
    let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
    if args.format == DiagnosticsFormat::Json || !findings.is_empty() {
        print(args, findings, text);
    }
    if failed {
        return exit::FAILED;
    }
    if args.format == DiagnosticsFormat::Text {
        println!("configuration '{name}' OK");
    }
    exit::DONE
}

/// What is worth a look in a file that is used.
pub(super) fn warnings(args: &Args, warnings: &[Diagnostic], text: &str) {
    if !warnings.is_empty() {
        print(args, warnings, text);
    }
}

fn print(args: &Args, diagnostics: &[Diagnostic], text: &str) {
    match args.format {
        DiagnosticsFormat::Text => eprintln!("{}", xds::render_text(diagnostics, text)),
        DiagnosticsFormat::Json => println!("{}", xds::render_json(diagnostics)),
    }
}

/// Flags that are accepted and have no effect.
pub(super) fn ignored_flags(args: &Args) {
    for flag in args.ignored.given() {
        tracing::warn!(flag, "this flag of Envoy's has no meaning here and is ignored");
    }
}

/// What helps when an address cannot be bound.
pub(super) fn remedy(address: SocketAddr) -> String {
    let port = address.port();
    if port < 1024 && port != 0 {
        format!("port {port} may need privileges; another process may hold it too")
    } else {
        format!("is another process using it? `ss -ltnp 'sport = :{port}'` tells")
    }
}
