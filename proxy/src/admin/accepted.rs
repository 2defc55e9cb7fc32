//! The current configuration and its source, as the messages that it was read from, for
//! `/config_dump`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use xds::Diagnostic;

use xds::envoy::config::bootstrap::v3::Bootstrap;

use crate::build::Packed;

/// The configuration as accepted. What the file holds is in `bootstrap` alone.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The file, after a reload the new one.
    pub bootstrap: Packed<Bootstrap>,
    pub loaded_at: SystemTime,
    /// The last change of the file, if it was refused; the one above stays.
    pub rejected: Option<Rejected>,
    /// Listeners that could not be bound, and are not active.
    pub unbound: Vec<Unbound>,
    /// Clusters that wait for their first endpoints.
    pub warming: BTreeSet<Arc<str>>,
    /// The values of the admin layer.
    pub runtime: BTreeMap<String, String>,
}

/// A listener that could not be bound.
#[derive(Clone, Debug)]
pub struct Unbound {
    pub listener: Arc<str>,
    pub error: Arc<str>,
}

/// A file that was refused. Shown as one line, with the first error.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub at: SystemTime,
    pub diagnostics: Arc<[Diagnostic]>,
    /// The same for people: each with its line, a caret below the place, and the reason.
    pub details: Arc<str>,
}

impl Rejected {
    pub(crate) fn new(diagnostics: Vec<Diagnostic>, text: &str) -> Self {
        let details = xds::render_text(&diagnostics, text).into();
        Self { at: crate::time::wall(), diagnostics: diagnostics.into(), details }
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("configuration refused")?;
        let first = self.diagnostics.iter().find(|diagnostic| diagnostic.is_error());
        first.map_or(Ok(()), |first| write!(f, ": {first}"))
    }
}
