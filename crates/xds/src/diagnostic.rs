//! What is wrong with a configuration, where, and what to do about it.

mod code;
#[cfg(test)]
mod page;
mod render;

use std::collections::HashSet;

use serde::Serialize;

pub use code::{Code, explain};
#[cfg(test)]
pub(crate) use page::diagnostics_page;
pub use render::{render_json, render_text};

use crate::read::Span;

/// One finding; absent values are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnostic {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// 1-based.
    pub line: Option<u32>,
    /// 1-based, in characters. An unknown field: the key; a bad value: the value.
    pub column: Option<u32>,
    /// The field in the file's own spelling, as `static_resources.listeners[0].name`.
    pub path: Option<String>,
    pub severity: Severity,
    pub code: Code,
    pub message: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// The nearest name or value, or a remedy.
    pub suggestion: Option<String>,
    /// Bytes of the text to underline.
    #[serde(skip)]
    pub(crate) bytes: Option<(usize, usize)>,
}

/// An error refuses the file, a warning does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(file: &str, code: Code, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            column: None,
            path: None,
            severity: Severity::Error,
            code,
            message: message.into(),
            expected: None,
            suggestion: None,
            bytes: None,
        }
    }

    /// A warning without a place.
    pub fn warning(file: &str, code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, code, message) }
    }

    /// The same, with what would have been right.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// The same, with a remedy.
    #[must_use]
    pub fn suggestion(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    pub(crate) fn at(mut self, span: Span) -> Self {
        self.line = Some(span.line);
        self.column = Some(span.column);
        self.bytes = Some((span.start as usize, span.end as usize));
        self
    }

    pub(crate) fn path(mut self, path: String) -> Self {
        self.path = Some(path).filter(|path| !path.is_empty());
        self
    }

    /// Whether this refuses the file.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// One line: `envoy.yaml:7:5: static_resources.clusters[0]: unknown field …`; a resource of a control plane has no line.
impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        if let Some(path) = &self.path {
            write!(f, ": {path}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, ", expected {expected}")?;
        }
        self.suggestion.as_ref().map_or(Ok(()), |suggestion| write!(f, "; {suggestion}"))
    }
}

/// Keeps each finding once: what an alias repeats stands at one place of the text.
pub fn keep_once(findings: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    findings.retain(|found| {
        let place = (found.line, found.column, found.code.as_str(), found.message.clone());
        found.line.is_none() || seen.insert(place)
    });
}

/// Orders by place; what has no place comes first.
pub(crate) fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
}
