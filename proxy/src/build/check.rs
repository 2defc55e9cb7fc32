//! A configuration's text to a message, and everything that is wrong with it in one run.
//!
//! What the reader finds does not hide what the builder would find.

use std::convert::Infallible;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

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
    // The builder would report the consequences of each broken part again.
    let full = findings.len() >= xds::MAX_FINDINGS;
    if let Some(partial) = partial.filter(|_| !full) {
        let further = check(&partial, flavor, pod);
        let further: Vec<_> = further.into_iter().filter(|found| !follows(found, &findings)).collect();
        findings.extend(further);
        sort(&mut findings);
    }
    Err(findings)
}

/// A configuration that was read on a thread of its own, for a process that goes on.
///
/// Reading takes several MiB for a moment, mostly for the schema and the parsed file. On its own
/// thread they come from one region of the allocator, and as that thread frees them, the region goes
/// back to the system as a whole. Anywhere else they would stay resident between what is kept.
pub(crate) struct ReadApart {
    pub read: Arc<Read<Bootstrap>>,
    reader: Option<(mpsc::Sender<Infallible>, JoinHandle<()>)>,
}

impl ReadApart {
    /// Reads as [`read`] does.
    pub(crate) fn new(name: &str, text: &str, flavor: Flavor, pod: bool) -> Result<Self, Vec<Diagnostic>> {
        let (sender, result) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::channel::<Infallible>();
        let (own_name, own_text) = (name.to_owned(), text.to_owned());
        let reader = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
            let read = read(&own_name, &own_text, flavor, pod).map(Arc::new);
            let kept = read.as_ref().ok().cloned();
            // The caller waits for it, and then ends the channel.
            let _ = sender.send(read);
            let _ = ended.recv();
            drop(kept);
            xds::release_schema();
        });
        match (reader, result.recv()) {
            (Ok(reader), Ok(read)) => Ok(Self { read: read?, reader: Some((end, reader)) }),
            // There is no thread to be had: the caller's does as well.
            _ => Ok(Self { read: Arc::new(read(name, text, flavor, pod)?), reader: None }),
        }
    }

    /// Frees it all, unless the caller has kept `read`.
    pub(crate) fn free(self) {
        drop(self.read);
        if let Some((end, reader)) = self.reader {
            drop(end);
            // It frees and ends.
            let _ = reader.join();
        }
    }
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
pub(crate) fn sort(findings: &mut [Diagnostic]) {
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

/// Whether a path equals another one or is below it.
fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
