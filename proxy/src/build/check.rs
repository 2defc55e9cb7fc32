//! A configuration's text to a message, and everything that is wrong with it in one run.
//!
//! What the reader finds does not hide what the builder would find.

use std::thread::ScopedJoinHandle;

use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Code, Diagnostic, Read};

use super::{Flavor, Node, Parts};
use crate::stats::Registry;

/// Whether this process runs in a pod.
pub fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Reads a configuration, or says everything that is wrong with it: by the reader and, as far as the rest could be read, by the
/// builder.
pub fn read(name: &str, text: &str, flavor: Flavor, pod: bool) -> Result<Read<Bootstrap>, Vec<Diagnostic>> {
    let (mut findings, partial) = match xds::read_bootstrap_partly(name, text) {
        Ok(read) => return Ok(read),
        Err(refused) => refused,
    };
    // More than anyone reads: the builder would say of each broken part again what follows from it.
    let full = findings.len() >= xds::MAX_FINDINGS;
    if let Some(partial) = partial.filter(|_| !full) {
        let further = check(&partial, flavor, pod);
        let further: Vec<_> = further.into_iter().filter(|found| !follows(found, &findings)).collect();
        findings.extend(further);
        sort(&mut findings);
    }
    Err(findings)
}

/// The same on a thread of its own, for a process that goes on.
///
/// Reading takes several MiB for a moment, mostly for the schema. On its own thread they come from
/// one region of the allocator, which returns them to the system once the result has been dropped
/// and the schema released; on the caller's thread they would stay.
pub fn read_apart(
    name: &str,
    text: &str,
    flavor: Flavor,
    pod: bool,
) -> Result<Read<Bootstrap>, Vec<Diagnostic>> {
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().name("reader".to_owned());
        match reader.spawn_scoped(scope, || read(name, text, flavor, pod)).map(ScopedJoinHandle::join) {
            Ok(Ok(read)) => read,
            // No thread is to be had, or it ended: the caller's does as well.
            Ok(Err(_)) | Err(_) => read(name, text, flavor, pod),
        }
    })
}

/// Everything that is wrong with a bootstrap, ordered by place, without using it (`--mode validate`).
pub fn check(read: &Read<Bootstrap>, flavor: Flavor, pod: bool) -> Vec<Diagnostic> {
    let parts = Parts {
        node: Node::new(&read.message, None, None),
        flavor,
        registry: &Registry::new(1),
        logs: None,
        runtime: &[],
        files: None,
    };
    match super::diagnose(read, parts, None, pod) {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    }
}

/// By place; what has none comes first.
pub fn sort(findings: &mut [Diagnostic]) {
    findings.sort_by_key(|finding| (finding.line, finding.column));
}

/// Whether a finding about a file that was read in part may be due to what could not be read.
fn follows(found: &Diagnostic, read: &[Diagnostic]) -> bool {
    // Names and warnings depend on the whole file.
    if !found.is_error() || found.code == Code::Reference {
        return true;
    }
    let path = found.path.as_deref().unwrap_or_default();
    let errors = read.iter().filter(|finding| finding.is_error());
    errors.filter_map(|error| error.path.as_deref()).any(|error| within(path, error) || within(error, path))
}

/// Whether a path is another one or stands below it.
fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
