//! Places in a configuration, and the findings there.
//!
//! A place is a chain on the stack that becomes a string only for a finding.

use std::fmt;

pub(super) use xds::Code;
use xds::{Any, Diagnostic, MAX_FINDINGS, Positions};

/// Bytes of a message.
const MAX_MESSAGE: usize = 1024;

/// A field path from the root of the file, in the names of the schema.
#[derive(Clone, Copy)]
pub(crate) struct Place<'p> {
    before: Option<&'p Place<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Item(&'p str, usize),
    Key(&'p str, &'p str),
}

impl<'p> Place<'p> {
    pub(crate) const ROOT: Place<'static> = Place { before: None, step: Step::Root };

    #[must_use]
    pub(crate) fn field(&'p self, name: &'p str) -> Place<'p> {
        Place { before: Some(self), step: Step::Field(name) }
    }

    #[must_use]
    pub(crate) fn item(&'p self, name: &'p str, at: usize) -> Place<'p> {
        Place { before: Some(self), step: Step::Item(name, at) }
    }

    #[must_use]
    pub(crate) fn key(&'p self, name: &'p str, key: &'p str) -> Place<'p> {
        Place { before: Some(self), step: Step::Key(name, key) }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = self.before {
            before.fmt(f)?;
            if !matches!(before.step, Step::Root) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => f.write_str(name),
            Step::Item(name, at) => write!(f, "{name}[{at}]"),
            Step::Key(name, key) => write!(f, "{name}[{key:?}]"),
        }
    }
}

/// What is wrong at a place; its code says whether it refuses the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub path: String,
    pub code: Code,
    pub message: String,
    /// The remedy.
    pub suggestion: Option<String>,
}

/// A place for extensions: Envoy's category, and what people call one.
#[derive(Clone, Copy)]
pub(super) struct Extension {
    category: &'static str,
    word: &'static str,
}

impl Extension {
    pub(super) const HTTP_FILTER: Self = Self::new("envoy.filters.http", "HTTP filter");
    pub(super) const NETWORK_FILTER: Self = Self::new("envoy.filters.network", "network filter");
    pub(super) const ACCESS_LOG: Self = Self::new("envoy.access_loggers", "access log");
    pub(super) const TRACER: Self = Self::new("envoy.tracers", "tracer");
    pub(super) const PROTOCOL_OPTIONS: Self = Self::new("envoy.upstream_options", "protocol options");
    pub(super) const HOST_PREDICATE: Self = Self::new("envoy.retry_host_predicates", "host predicate");
    pub(super) const RESOURCE_MONITOR: Self = Self::new("envoy.resource_monitors", "resource monitor");

    const fn new(category: &'static str, word: &'static str) -> Self {
        Self { category, word }
    }
}

/// The findings of one build, of errors and of warnings `MAX_FINDINGS` at most; the others are counted.
#[derive(Debug, Default)]
pub(super) struct Findings {
    kept: Vec<Finding>,
    errors: usize,
    warnings: usize,
    /// Findings beyond the limit go here and are dropped.
    spare: Option<Finding>,
}

impl Findings {
    pub(super) fn add(&mut self, place: &Place<'_>, code: Code, message: impl Into<String>) -> &mut Finding {
        let path = if self.is_full(code) { String::new() } else { place.to_string() };
        self.add_at(path, code, message)
    }

    pub(super) fn add_at(&mut self, path: String, code: Code, message: impl Into<String>) -> &mut Finding {
        let full = self.is_full(code);
        let count = if code.is_warning() { &mut self.warnings } else { &mut self.errors };
        *count += 1;
        let finding = Finding { path, code, message: clipped(message.into()), suggestion: None };
        if full {
            return self.spare.insert(finding);
        }
        let at = self.kept.len();
        self.kept.push(finding);
        &mut self.kept[at]
    }

    /// Refuses an extension that is none of ours: Envoy's, or nothing of the kind. `settings` decide what
    /// it is, as in Envoy, and its name without them.
    pub(super) fn no_extension(
        &mut self,
        place: &Place<'_>,
        kind: Extension,
        name: &str,
        settings: Option<&Any>,
    ) -> &mut Finding {
        let Extension { category, word } = kind;
        let full_name = settings.and_then(|any| any.type_url.rsplit('/').next());
        if full_name.is_none() && xds::is_implemented_extension(category, name) {
            let text = format!("the {word} `{name}` needs its configuration");
            let finding = self.add(place, Code::MissingField, text);
            finding.suggest("add `typed_config`");
            return finding;
        }
        if xds::is_extension(category, full_name.unwrap_or(name)) {
            let text = format!("the {word} `{name}` is not implemented");
            return self.add(place, Code::NotImplemented, text);
        }
        if let Some(full_name) = full_name {
            let text = format!("`{full_name}` are not the settings of this kind of extension ({word})");
            return self.add(&place.field("typed_config"), Code::BadValue, text);
        }
        let near = xds::nearest(name, xds::extension_names(category));
        let finding = self.add(place, Code::BadValue, format!("there is no {word} `{name}`"));
        finding.suggestion = near.map(|near| format!("did you mean `{near}`?"));
        finding
    }

    /// Whether one more finding of this kind would only be counted: no need to look for its remedy.
    pub(super) fn is_full(&self, code: Code) -> bool {
        let count = if code.is_warning() { self.warnings } else { self.errors };
        count >= MAX_FINDINGS
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Those that are kept, and how many are not.
    pub(super) fn into_kept(self) -> (Vec<Finding>, usize) {
        let left_out = (self.errors + self.warnings).saturating_sub(self.kept.len());
        (self.kept, left_out)
    }
}

/// A name in the file may be as long as the file.
fn clipped(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

impl Finding {
    /// Adds the remedy.
    pub(crate) fn suggest(&mut self, suggestion: impl Into<String>) {
        self.suggestion = Some(suggestion.into());
    }

    /// As a diagnostic at its place in the file.
    pub(crate) fn diagnostic(self, positions: &Positions) -> Diagnostic {
        let diagnostic = if self.code.is_warning() {
            positions.warning(&self.path, self.code, self.message)
        } else {
            positions.error(&self.path, self.code, self.message)
        };
        match self.suggestion {
            Some(suggestion) => diagnostic.suggestion(suggestion),
            None => diagnostic,
        }
    }
}
