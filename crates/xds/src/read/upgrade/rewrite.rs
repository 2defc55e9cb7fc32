//! A whole file for today's Envoy: the tree brought up to date, written as YAML, and read again before it is given out.

use super::super::convert::Converter;
use super::super::path::Path;
use super::super::tree::{Kind, Node, Scalar};
use super::super::{descriptor, emit, empty, yaml};
use super::{Mode, tree};
use crate::diagnostic::{Code, Diagnostic, Severity};

/// A file for today's Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct Upgraded {
    /// The file as YAML.
    pub text: String,
    /// A warning for each change, and for each field that petmesh does not implement; ordered by place in the old file.
    pub notices: Vec<Diagnostic>,
}

/// The file as today's Envoy accepts it, or every error of the file. What petmesh does not implement is kept, with a warning.
pub(crate) fn file(name: &str, text: &str, full_name: &str) -> Result<Upgraded, Vec<Diagnostic>> {
    let descriptor = descriptor(name, full_name)?;
    let mut root = match yaml::parse(name, text) {
        Ok(Some(root)) if !root.is_null() => root,
        Ok(_) => return Err(vec![empty(name, &descriptor)]),
        Err(error) => return Err(vec![*error]),
    };
    let mut converter = Converter::new(name);
    let changes = tree(&mut converter, Mode::Rewrite, full_name, &mut root).changes;
    let lost = converter.errors;
    let flow = text.get(root.span.start as usize..).is_some_and(|rest| rest.starts_with('{'));
    let written = if changes == 0 && !flow { text.to_owned() } else { emit::file(text, &root) };
    if lost == 0
        && !yaml::parse(name, &written).is_ok_and(|again| again.is_some_and(|again| same(&again, &root)))
    {
        let text =
            "the upgraded file would not say the same as this one, because of the way in which it is written";
        let finding = Diagnostic::error(name, Code::Structure, text);
        return Err(vec![finding.suggestion("write aliases, tags and long texts out")]);
    }
    converter.message(&descriptor, &mut root, &Path::ROOT);
    let failed = lost > 0 || converter.errors > converter.not_implemented;
    let mut notices = converter.into_findings();
    if failed {
        return Err(notices);
    }
    notices.retain(|finding| finding.is_error() || matches!(finding.code, Code::OldForm | Code::Limit));
    for finding in &mut notices {
        finding.severity = Severity::Warning;
    }
    Ok(Upgraded { text: written, notices })
}

/// Whether two trees say the same, whatever the places and the quotes.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Scalar(a), Kind::Scalar(b)) => a.text == b.text && kind(a) == kind(b),
        (Kind::List(a), Kind::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Kind::Map(a), Kind::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name == b.name && same(&a.value, &b.value))
        }
        _ => false,
    }
}

fn kind(scalar: &Scalar) -> super::Plain {
    scalar.plain()
}

/// The text with only those old forms changed that the reader itself reads as others, for tests.
#[cfg(test)]
pub(crate) fn kept_by_reader(name: &str, text: &str) -> String {
    let Ok(Some(mut root)) = yaml::parse(name, text) else { return text.to_owned() };
    let mut converter = Converter::new(name);
    tree(&mut converter, Mode::Read, "envoy.config.bootstrap.v3.Bootstrap", &mut root);
    emit::file(text, &root)
}

/// A piece of a file on one line, by the short name of its message, with the number of notices; for the page of old forms.
#[cfg(test)]
pub(crate) fn fragment(shape: &str, text: &str) -> (String, usize) {
    let Ok(Some(mut root)) = yaml::parse("fragment", text) else { return (text.to_owned(), 0) };
    let mut converter = Converter::new("fragment");
    let shapes = super::shapes::all();
    if let Some(shape) = shapes.into_iter().find(|one| *one == shape) {
        super::shape(&mut converter, Mode::Rewrite, shape, &mut root);
    }
    (emit::one_line(text, &root), converter.findings.len())
}
