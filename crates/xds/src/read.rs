//! The reader: text → tree → today's forms → message → checks, with every finding on the way.
//!
//! Called through `lib.rs`; calls the stations below in the order of their names in `text`.

mod check;
mod comments;
mod convert;
mod emit;
mod nearest;
mod path;
mod positions;
mod scalar;
pub(crate) mod tree;
mod upgrade;
mod wellknown;
pub(crate) mod yaml;

use prost_reflect::{DynamicMessage, MessageDescriptor};

pub use positions::Positions;
pub(crate) use tree::Span;
pub use upgrade::rewrite::Upgraded;
pub(crate) use upgrade::rewrite::file as upgraded;
#[cfg(test)]
pub(crate) use upgrade::rewrite::{fragment, kept_by_reader};

use crate::diagnostic::{Code, Diagnostic};
use crate::schema;
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

/// Reads one message of a type from a text.
pub(crate) fn text(file: &str, text: &str, full_name: &str) -> ReadResult<DynamicMessage> {
    let descriptor = descriptor(file, full_name)?;
    let mut root = match yaml::parse(file, text) {
        Ok(Some(root)) if !root.is_null() => root,
        Ok(_) => return Err(vec![empty(file, &descriptor)]),
        Err(error) => return Err(vec![*error]),
    };
    let mut converter = convert::Converter::new(file);
    upgrade::tree(&mut converter, upgrade::Mode::Read, full_name, &mut root);
    let message = converter.message(&descriptor, &mut root, &Path::ROOT);
    let errors = converter.errors;
    let findings = converter.into_findings();
    match message {
        Some(message) if errors == 0 => {
            Ok(Read { message, warnings: findings, positions: Positions::new(file, root) })
        }
        _ => Err(findings),
    }
}

/// The rules that a message breaks which did not come as text, by path; messages inside Any included.
pub(crate) fn check_message(message: &DynamicMessage) -> Vec<String> {
    check::tree(message)
}

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
