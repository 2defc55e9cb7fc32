//! Rules across fields: what Envoy refuses when it builds a configuration, and what is valid but hardly meant.
//!
//! Works on messages, whether they came as a text or from a control plane; what is valid is a warning with a code of its own.
//! `clusters`, `listeners` and `routes` hold the rules, `unread` those on fields that the schema does not open.

mod clusters;
mod listeners;
mod routes;
pub(crate) mod unread;

use std::time::Duration;

use crate::diagnostic::{self, Code, Diagnostic};
use crate::envoy::config::bootstrap::v3::{Bootstrap, LayeredRuntime, runtime_layer};
use crate::read::{Positions, Read};

/// Everything found by these rules, ordered by place. `pod` says that the proxy runs in a pod, where loopback is no address to be
/// reached at.
pub fn lint(read: &Read<Bootstrap>, pod: bool) -> Vec<Diagnostic> {
    let mut lint = Lint { positions: &read.positions, findings: Vec::new(), pod };
    if let Some(runtime) = &read.message.layered_runtime {
        layers(&mut lint, runtime);
    }
    if let Some(resources) = &read.message.static_resources {
        for (at, listener) in resources.listeners.iter().enumerate() {
            listeners::listener(&mut lint, &format!("static_resources.listeners[{at}]"), listener);
        }
        for (at, cluster) in resources.clusters.iter().enumerate() {
            clusters::cluster(&mut lint, &format!("static_resources.clusters[{at}]"), cluster);
        }
    }
    if let Some(address) = read.message.admin.as_ref().and_then(|admin| admin.address.as_ref()) {
        listeners::privileged_port(&mut lint, "admin.address", address);
    }
    diagnostic::sort(&mut lint.findings);
    lint.findings
}

/// What is found while one message is looked at.
struct Lint<'r> {
    positions: &'r Positions,
    findings: Vec<Diagnostic>,
    pod: bool,
}

impl Lint<'_> {
    /// Notes a finding at a path; the code says whether it refuses the configuration.
    fn add(&mut self, path: &str, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        let finding = if code.is_warning() {
            self.positions.warning(path, code, message)
        } else {
            self.positions.error(path, code, message)
        };
        self.findings.push(finding.suggestion(remedy));
    }
}

/// Envoy refuses a second layer of one name, and a second layer for the admin page.
fn layers(lint: &mut Lint<'_>, runtime: &LayeredRuntime) {
    let mut admin = false;
    for (at, layer) in runtime.layers.iter().enumerate() {
        let path = format!("layered_runtime.layers[{at}]");
        if runtime.layers[..at].iter().any(|before| before.name == layer.name) {
            let text = format!("the name `{}` belongs to another layer already", layer.name);
            lint.add(&format!("{path}.name"), Code::Structure, text, "give it another name");
        }
        if matches!(layer.layer_specifier, Some(runtime_layer::LayerSpecifier::AdminLayer(_))) {
            if admin {
                let text = "there is an `admin_layer` already";
                lint.add(&format!("{path}.admin_layer"), Code::Structure, text, "remove one of them");
            }
            admin = true;
        }
    }
}

/// A duration; the reader has refused negative ones.
fn duration(message: Option<&prost_types::Duration>) -> Option<Duration> {
    let message = message?;
    let seconds = u64::try_from(message.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(message.nanos).ok()?))
}

/// A timeout as a file writes it: none given is the default, and 0 is none at all.
fn limit(message: Option<&prost_types::Duration>, default: Option<Duration>) -> Option<Duration> {
    match duration(message) {
        Some(given) => Some(given).filter(|given| !given.is_zero()),
        None => default,
    }
}
