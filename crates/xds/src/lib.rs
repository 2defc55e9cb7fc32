//! The part of Envoy's v3 API that petmesh speaks, and the reader on it. No I/O.
//!
//! Reading order: `proto/` (what is understood: Envoy's messages with our marks), `read` (text to message, station by
//! station), `diagnostic` (what is wrong and where), `dump` (message to JSON), `resource` (what stands on its own),
//! `extensions` (those of Envoy), `rewrite` (a file with other addresses), `sds_v1` (the discovery answer of 2017),
//! `fields` (what is implemented, for tests), `re2` (which regular expressions Envoy takes), `supported` (prints docs/supported-fields.md).
//!
//! ```
//! let read = xds::read_bootstrap("envoy.yaml", "static_resources: {clusters: [{name: pet, type: eds}]}");
//! assert_eq!(read.map(|read| read.message.static_resources.map(|s| s.clusters.len())).ok(), Some(Some(1)));
//! ```

mod diagnostic;
mod dump;
mod extensions;
mod fields;
mod lint;
pub mod re2;
mod read;
mod resource;
mod rewrite;
mod schema;
pub mod sds_v1;
#[cfg(test)]
mod supported;
#[cfg(test)]
mod tests;

/// Envoy's packages, generated from `proto/`.
#[allow(clippy::all, missing_docs)] // generated
mod api {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

pub use api::{envoy, google};
pub use diagnostic::{Code, Diagnostic, Severity, explain, keep_once, render_json, render_text};
pub use dump::{AnyError, decode_any, decode_any_checked, dump_any, pack, resources, to_json};
pub use extensions::{extension_names, implemented_extensions, is_extension, is_implemented_extension};
pub use fields::{implemented_fields, is_implemented, message_descriptor};
pub use lint::lint;
pub use prost_types::Any;
pub use read::{MAX_FINDINGS, Positions, Read, ReadResult, Upgraded, nearest};
pub use resource::Resource;
pub use rewrite::{add_dns_resolver, rewrite_addresses};
pub use schema::release as release_schema;

use prost_reflect::DynamicMessage;

use envoy::config::bootstrap::v3::Bootstrap;
use envoy::service::discovery::v3::DiscoveryResponse;

/// Reads a configuration file. `name` is for the diagnostics.
pub fn read_bootstrap(name: &str, text: &str) -> ReadResult<Bootstrap> {
    read_message(name, text)
}

/// The configuration file as YAML that today's Envoy accepts, old forms brought up to date; or every error of the file.
pub fn upgrade_bootstrap(name: &str, text: &str) -> Result<Upgraded, Vec<Diagnostic>> {
    read::upgraded(name, text, &Bootstrap::full_name())
}

/// Reads the answer of a control plane from JSON or YAML, or a file of that form.
pub fn read_discovery_response(name: &str, text: &str) -> ReadResult<DiscoveryResponse> {
    read_message(name, text)
}

/// Reads a configuration file with errors as far as possible: the reader's findings, and what of the file could be read, for
/// whoever looks for further errors. `Ok` is a file without errors.
pub fn read_bootstrap_partly(name: &str, text: &str) -> Result<Read<Bootstrap>, Partly> {
    match read::text(name, text, &Bootstrap::full_name()) {
        Ok(read) => typed(name, read).map_err(|findings| (findings, None)),
        Err((findings, partial)) => {
            Err((findings, partial.and_then(|read| typed(name, *read).ok()).map(Box::new)))
        }
    }
}

/// The findings in a file with errors, and what of it could be read.
pub type Partly = (Vec<Diagnostic>, Option<Box<Read<Bootstrap>>>);

/// Reads one message of a type, as a `Listener` in a file of its own.
pub fn read_message<M: Resource>(name: &str, text: &str) -> ReadResult<M> {
    read::text(name, text, &M::full_name())
        .map_err(|(findings, _)| findings)
        .and_then(|read| typed(name, read))
}

fn typed<M: Resource>(name: &str, read: Read<DynamicMessage>) -> ReadResult<M> {
    match M::from_bytes(&read::encoded(&read.message)) {
        Ok(message) => Ok(Read { message, warnings: read.warnings, positions: read.positions }),
        Err(error) => Err(vec![Diagnostic::error(name, Code::Limit, format!("cannot be packed: {error}"))]),
    }
}
