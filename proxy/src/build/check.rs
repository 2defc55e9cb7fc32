//! A configuration's text to a message, and everything that is wrong with it in one run.
//!
//! What the reader finds does not hide what the builder would find.

use std::convert::Infallible;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Code, Diagnostic, Read};

use super::{ClusterMessage, Flavor, Node, Parts};
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
        let further: Vec<_> =
            further.into_iter().filter(|found| !follows(found, &findings, &partial.message)).collect();
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
    reader: Option<(mpsc::Sender<Infallible>, JoinHandle<Vec<ClusterMessage>>)>,
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
            xds::release_schema();
            kept.and_then(Arc::into_inner).map(emptied).unwrap_or_default()
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
            // It frees and ends, and then its list is freed.
            drop(reader.join());
        }
    }
}

/// Frees everything but the empty list of clusters. glibc maps a list of that size by itself; once it
/// is unmapped, as much of a region as that stays resident, so the region has to go first.
fn emptied(read: Read<Bootstrap>) -> Vec<ClusterMessage> {
    let resources = read.message.static_resources.unwrap_or_default();
    let mut clusters = resources.clusters;
    clusters.clear();
    clusters
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
fn follows(found: &Diagnostic, read: &[Diagnostic], partial: &Bootstrap) -> bool {
    // Warnings depend on the whole file.
    if !found.is_error() {
        return true;
    }
    let path = found.path.as_deref().unwrap_or_default();
    let errors = || read.iter().filter(|finding| finding.is_error());
    if found.code == Code::Reference && !is_list_whole(path, errors(), partial) {
        return true;
    }
    errors().any(|error| {
        let at = error.path.as_deref().unwrap_or_default();
        let meant = meant(error);
        [Some(at), meant.as_deref()].into_iter().flatten().any(|at| {
            let inside = within(at, path) && !settings_alone(at, path);
            within(path, at) || inside || beside(found, path, at) || depends(path, at)
        })
    })
}

/// The path of the field that an unknown one was probably meant to be.
fn meant(error: &Diagnostic) -> Option<String> {
    let near = error.suggestion.as_deref()?.strip_prefix("did you mean `")?.strip_suffix("`?")?;
    let parent = error.path.as_deref()?.rsplit_once('.').map_or("", |(parent, _)| parent);
    let dot = if parent.is_empty() { "" } else { "." };
    (error.code == Code::UnknownField).then(|| format!("{parent}{dot}{near}"))
}

/// Whether a finding in one field of a message depends on another field of it.
fn depends(path: &str, error: &str) -> bool {
    const FIELDS: [(&str, &str); 5] = [
        ("type", "load_assignment"),
        ("cluster_type", "load_assignment"),
        ("typed_extension_protocol_options", "health_checks"),
        ("http2_protocol_options", "health_checks"),
        ("filter_chain_matcher", "filter_chains"),
    ];
    FIELDS.iter().any(|(field, dependent)| {
        let marked = format!(".{field}");
        error.match_indices(&marked).any(|(at, _)| {
            let message = &error[..at];
            within(&error[at..], &marked) && within(path, &format!("{message}.{dependent}"))
        })
    })
}

/// Whether the list that a reference at `path` looks into was read to its end, with all names.
fn is_list_whole<'d>(path: &str, errors: impl Iterator<Item = &'d Diagnostic>, partial: &Bootstrap) -> bool {
    let resources = partial.static_resources.as_ref();
    let clusters = resources.map(|resources| &*resources.clusters).unwrap_or_default();
    let monitors = partial.overload_manager.as_ref().map(|manager| &*manager.resource_monitors);
    let (list, named) = if within(path, "overload_manager") {
        let monitors = monitors.unwrap_or_default();
        ("overload_manager.resource_monitors", monitors.iter().all(|monitor| !monitor.name.is_empty()))
    } else {
        let named = clusters.iter().all(|cluster| !cluster.name.is_empty());
        ("static_resources.clusters", named)
    };
    let mut errors = errors.map(|error| (error, error.path.as_deref().unwrap_or_default()));
    named
        && !errors.any(|(error, at)| {
            // A list under a misspelt key is taken for an absent one.
            let key = error.code == Code::UnknownField
                && !at.strip_prefix("static_resources.").unwrap_or(at).contains('.');
            let misspelt = key && meant(error).is_none_or(|meant| within(list, &meant));
            within(list, at) || misspelt
        })
}

/// Whether an error deep in the settings of an extension leaves what is said of the extension true.
fn settings_alone(error: &str, found: &str) -> bool {
    let inside = error.strip_prefix(found).and_then(|rest| rest.strip_prefix(".typed_config."));
    inside.is_some_and(|inside| inside != "@type")
}

/// Whether something is only missing because what stands beside it, in the same message or in the
/// one around it, could not be read; or whether a listener was refused as a whole already.
fn beside(found: &Diagnostic, path: &str, error: &str) -> bool {
    let parent = |path: &str| {
        let cut = if path.ends_with("\"]") { path.rfind("[\"") } else { path.rfind('.') };
        path[..cut.unwrap_or(0)].to_owned()
    };
    let other_kind = [".udp_listener_config", ".internal_listener"];
    if let Some(listener) = other_kind.iter().find_map(|field| error.strip_suffix(field)) {
        return within(path, listener);
    }
    let around = parent(error);
    let missing = found.code == Code::MissingField || found.message.starts_with("`` ");
    missing && !around.is_empty() && (around == *path || around == parent(path))
}

/// Whether a path equals another one or is below it.
fn within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
