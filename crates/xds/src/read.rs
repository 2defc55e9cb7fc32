//! The reader: text → tree → today's forms → message → checks, with every finding on the way.

mod binary;
mod cause;
mod check;
mod comments;
mod convert;
mod emit;
mod encode;
mod json;
mod nearest;
mod path;
mod positions;
mod scalar;
pub(crate) mod tree;
mod upgrade;
mod wellknown;
pub(crate) mod yaml;

use prost_reflect::{DynamicMessage, MessageDescriptor};

pub use convert::MAX_FINDINGS;
pub(crate) use encode::message as encoded;
pub use nearest::nearest;
pub use positions::Positions;
pub(crate) use tree::Span;
pub use upgrade::rewrite::Upgraded;
pub(crate) use upgrade::rewrite::file as upgraded;
#[cfg(test)]
pub(crate) use upgrade::rewrite::{fragment, kept_by_reader};

use crate::diagnostic::{self, Code, Diagnostic};
use crate::{lint, schema};
use path::Path;

/// What was read, with all that is worth saying about it.
#[derive(Debug, Clone)]
pub struct Read<T> {
    pub message: T,
    /// Warnings only, ordered by place.
    pub warnings: Vec<Diagnostic>,
    pub positions: Positions,
}

/// A message, or every finding of the file (at least one of them an error), ordered by place.
pub type ReadResult<T> = Result<Read<T>, Vec<Diagnostic>>;

/// The findings of a text with errors, and what could be read of it all the same.
type Refused = (Vec<Diagnostic>, Option<Box<Read<DynamicMessage>>>);

/// Reads one message of a type from a text.
pub(crate) fn text(file: &str, text: &str, full_name: &str) -> Result<Read<DynamicMessage>, Refused> {
    let descriptor = descriptor(file, full_name).map_err(|findings| (findings, None))?;
    let mut notes = Vec::new();
    let mut root = match yaml::parse_noting(file, text, &mut notes) {
        Ok(Some(root)) if !root.is_null() => root,
        Ok(_) => return Err((vec![empty(file, &descriptor)], None)),
        Err(error) => return Err((vec![*error], None)),
    };
    let mut converter = convert::Converter::new(file);
    upgrade::tree(&mut converter, upgrade::Mode::Read, full_name, &mut root);
    let message = converter.message(&descriptor, &mut root, &Path::ROOT);
    let errors = converter.errors;
    let mut findings = converter.into_findings();
    findings.extend(notes);
    let positions = Positions::new(file, root);
    if full_name == "envoy.config.bootstrap.v3.Bootstrap" {
        findings.extend(lint::unread::bootstrap(positions.root(), &positions));
    }
    diagnostic::sort(&mut findings);
    let partial = message.map(|message| Read { message, warnings: Vec::new(), positions });
    match partial {
        Some(read) if errors == 0 => Ok(Read { warnings: findings, ..read }),
        partial => Err((findings, partial.map(Box::new))),
    }
}

pub(crate) use binary::check as check_message;

fn descriptor(file: &str, full_name: &str) -> Result<MessageDescriptor, Vec<Diagnostic>> {
    schema::message(full_name).ok_or_else(|| {
        let message = format!("`{full_name}` is not a type that petmesh implements");
        vec![Diagnostic::error(file, Code::UnknownType, message)]
    })
}

fn empty(file: &str, descriptor: &MessageDescriptor) -> Diagnostic {
    Diagnostic::error(file, Code::Empty, "the file is empty")
        .expected(format!("a {} in YAML or JSON", descriptor.name()))
}
