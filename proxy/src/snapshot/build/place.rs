//! Where in a configuration something stands, and what was found there.
//!
//! A place is a chain on the stack that becomes a text only for a finding. Part of `build`; calls `xds` for positions.

use std::fmt;

pub use xds::Code;
use xds::{Diagnostic, Positions};

/// A field path from the root of the file, in the names of the schema.
#[derive(Clone, Copy)]
pub struct Place<'p> {
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
    pub const ROOT: Place<'static> = Place { before: None, step: Step::Root };

    #[must_use]
    pub fn field(&'p self, name: &'p str) -> Place<'p> {
        Place { before: Some(self), step: Step::Field(name) }
    }

    #[must_use]
    pub fn item(&'p self, name: &'p str, at: usize) -> Place<'p> {
        Place { before: Some(self), step: Step::Item(name, at) }
    }

    #[must_use]
    pub fn key(&'p self, name: &'p str, key: &'p str) -> Place<'p> {
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
pub struct Finding {
    pub path: String,
    pub code: Code,
    pub message: String,
    /// The remedy.
    pub suggestion: Option<String>,
}

/// All findings of one build.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    pub fn add(&mut self, place: &Place<'_>, code: Code, message: impl Into<String>) -> &mut Finding {
        self.add_at(place.to_string(), code, message)
    }

    pub fn add_at(&mut self, path: String, code: Code, message: impl Into<String>) -> &mut Finding {
        let at = self.0.len();
        self.0.push(Finding { path, code, message: message.into(), suggestion: None });
        &mut self.0[at]
    }

    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| !finding.code.is_warning())
    }
}

impl Finding {
    /// Adds the remedy.
    pub fn suggest(&mut self, suggestion: impl Into<String>) {
        self.suggestion = Some(suggestion.into());
    }

    /// As a diagnostic at its place in the file.
    pub fn diagnostic(self, positions: &Positions) -> Diagnostic {
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
