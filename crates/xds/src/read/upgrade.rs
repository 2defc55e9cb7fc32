//! Old forms (Envoy 1.5 to 1.8) to today's: a walk over the whole tree, with a warning for each.
//!
//! It knows which message lies below which field from `shapes` and not from the schema, so that the inside of a field that
//! petmesh does not implement is brought up to date too. Reading order: `shapes`, `fields` (one old field, one rule), `names`
//! (extensions), then the forms that take more than a rule: `clusters`, `filters`, `chains`, `globals`, `routes`.

mod chains;
mod clusters;
mod conditions;
mod extensions;
mod fields;
mod filters;
mod globals;
mod names;
pub(crate) mod rewrite;
mod routes;
mod shapes;
mod v1;

use super::convert::Converter;
use super::path::Path;
use super::tree::{Entry, Kind, Node, Origin, Plain, Span};
use crate::diagnostic::{Code, Diagnostic};
use shapes::Shape;

/// What the result is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To be run by petmesh: what it understands stays.
    Read,
    /// To be written as a file for today's Envoy: forms that it calls deprecated change too.
    Rewrite,
}

/// Most nodes that are copied to where they belong today, such as a tracer to each connection manager.
const MAX_COPIED: usize = 200_000;

/// One walk.
pub(crate) struct Pass<'c, 'f> {
    out: &'c mut Converter<'f>,
    mode: Mode,
    /// Forms that today's Envoy refuses.
    old: usize,
    /// All changes, deprecated forms included.
    changes: usize,
    /// Whether the file asks a control plane.
    discovery: bool,
    /// The tracer of the whole process, which each connection manager has for itself today.
    tracer: Option<Node>,
    tracer_used: bool,
    /// The rate limit service of the whole process, which each filter names today.
    rate_limit_service: Option<Node>,
    copied: usize,
    /// The whole file is of the v1 API, which has been said once.
    whole: bool,
    /// What its clusters of the type `sds` ask.
    source: Option<Node>,
}

/// Brings a tree up to date that describes a message of this type.
pub(crate) fn tree<'c, 'f>(
    out: &'c mut Converter<'f>,
    mode: Mode,
    full_name: &str,
    root: &mut Node,
) -> Pass<'c, 'f> {
    shape(out, mode, shapes::of_type(full_name).unwrap_or_default(), root)
}

/// The same by the short name of the message.
fn shape<'c, 'f>(out: &'c mut Converter<'f>, mode: Mode, shape: Shape, root: &mut Node) -> Pass<'c, 'f> {
    let mut pass = Pass {
        out,
        mode,
        old: 0,
        changes: 0,
        discovery: false,
        tracer: None,
        tracer_used: false,
        rate_limit_service: None,
        copied: 0,
        whole: false,
        source: None,
    };
    if shape == "Bootstrap" && v1::is_file(root) {
        v1::file(&mut pass, root);
    }
    pass.walk(shape, root, &Path::ROOT);
    pass
}

impl Pass<'_, '_> {
    /// Brings a message, or each message of a list, up to date.
    fn walk(&mut self, shape: Shape, node: &mut Node, path: &Path<'_>) {
        match &mut node.kind {
            Kind::Scalar(_) => {}
            Kind::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.moved(shape, item, path.index(index));
                }
            }
            Kind::Map(_) if shape == "Any" => self.any(node, path),
            Kind::Map(entries) if shape.ends_with("Map") => {
                let each = shape.strip_suffix("Map").unwrap_or_default();
                for entry in entries {
                    self.moved(each, &mut entry.value, path.key(&entry.name));
                }
            }
            Kind::Map(_) => self.message(shape, node, path),
        }
    }

    /// The same for a node that may have been moved already.
    fn moved(&mut self, shape: Shape, node: &mut Node, path: Path<'_>) {
        let written = node.written.take();
        self.walk(shape, node, &path.moved(written.as_deref()));
        node.written = written;
    }

    fn message(&mut self, shape: Shape, node: &mut Node, path: &Path<'_>) {
        names::upgrade(self, shape, node, path);
        clusters::upgrade(self, shape, node, path);
        filters::upgrade(self, shape, node, path);
        globals::upgrade(self, shape, node, path);
        routes::upgrade(self, shape, node, path);
        fields::upgrade(self, shape, node, path);
        let Kind::Map(entries) = &mut node.kind else { return };
        for Entry { name, written, value, .. } in entries {
            if let Some(child) = shapes::child(shape, &snake(name)) {
                let spelling = written.as_deref().unwrap_or(name);
                self.moved(child, value, path.key(spelling));
            }
        }
        if shape == "Listener" {
            chains::split(self, node, path);
        }
        if shape == "Bootstrap" {
            globals::finish(self, node, path);
        }
    }

    /// A message whose type stands in it.
    fn any(&mut self, node: &mut Node, path: &Path<'_>) {
        let Kind::Map(entries) = &mut node.kind else { return };
        let Some(entry) = entries.iter_mut().find(|entry| entry.name == "@type") else { return };
        let Kind::Scalar(scalar) = &mut entry.value.kind else { return };
        let written = scalar.text.rsplit('/').next().unwrap_or_default().to_owned();
        let full_name = match extensions::todays_type(&written) {
            Some(new) => {
                scalar.text = format!("type.googleapis.com/{new}");
                entry.value.origin = Origin::Made;
                let span = entry.value.span;
                self.note(&written, &new, span, &path.key("@type"));
                new
            }
            None => written,
        };
        if let Some(shape) = shapes::of_type(&full_name) {
            self.message(shape, node, path);
        }
    }

    /// An old form that is now another.
    fn note(&mut self, old: &str, new: &str, span: Span, path: &Path<'_>) {
        if self.whole {
            return;
        }
        let done = self.done();
        self.say(format!("`{old}` is a form of 2018, {done} `{new}`"), span, path);
    }

    /// An old form without a meaning today.
    fn dropped(&mut self, old: &str, why: &str, span: Span, path: &Path<'_>) {
        let done = if self.mode == Mode::Read { "ignored" } else { "left out" };
        self.say(format!("`{old}` is a form of 2018 and is {done}: {why}"), span, path);
    }

    /// A change of something that today's Envoy refuses.
    fn say(&mut self, message: String, span: Span, path: &Path<'_>) {
        self.old += 1;
        self.changes += 1;
        self.out.warn(Code::OldForm, message, span, path);
    }

    /// A form that today's Envoy still reads and calls deprecated: only a rewritten file changes.
    fn deprecated(&mut self, old: &str, new: &str, span: Span, path: &Path<'_>) {
        self.changes += 1;
        if self.whole {
            return;
        }
        let message = format!("`{old}` is deprecated in Envoy, written as `{new}`");
        self.out.warn(Code::OldForm, message, span, path);
    }

    /// What is missing in the mapping that begins here and is written into the new file.
    fn added(&mut self, message: &str, span: Span, path: &Path<'_>) {
        self.changes += 1;
        let begin = Span { end: span.start, ..span };
        self.out.warn(Code::OldForm, message.to_owned(), begin, path);
    }

    /// An old form that cannot be brought up to date.
    fn cannot(&mut self, message: String, help: &str, span: Span, path: &Path<'_>) {
        let finding: Diagnostic = self.out.error(Code::NotImplemented, message, span, path);
        self.out.push(finding.suggestion(help));
    }

    fn done(&self) -> &'static str {
        if self.mode == Mode::Read { "read as" } else { "written as" }
    }

    /// A copy of a node, unless there have been too many.
    fn copy(&mut self, node: &Node) -> Option<Node> {
        self.copied += size(node);
        (self.copied <= MAX_COPIED).then(|| node.clone())
    }
}

/// A field that was taken out of a message.
struct Taken {
    /// Its place among the others.
    index: usize,
    /// The key as the file writes it, and its place.
    name: String,
    span: Span,
    value: Node,
}

impl Taken {
    /// The field as it was.
    fn into_entry(self) -> Entry {
        Entry { name: self.name, written: None, span: self.span, value: self.value, made: false }
    }
}

/// Takes a field out of a message.
fn take(node: &mut Node, name: &str) -> Option<Taken> {
    let Kind::Map(entries) = &mut node.kind else { return None };
    let index = entries.iter().rposition(|entry| is(entry, name))?;
    let entry = entries.remove(index);
    touch(node);
    Some(Taken { index, name: entry.spelling().to_owned(), span: entry.span, value: entry.value })
}

/// Marks a node whose text says no longer what it is.
fn touch(node: &mut Node) {
    if node.origin == Origin::Source {
        node.origin = Origin::Touched;
    }
}

/// Puts a field into a message.
fn put(node: &mut Node, index: usize, entry: Entry) {
    if let Kind::Map(entries) = &mut node.kind {
        entries.insert(index.min(entries.len()), entry);
        touch(node);
    }
}

/// Adds a field at the end of a message.
fn add(node: &mut Node, name: &str, value: Node) {
    put(node, usize::MAX, Entry::new(name, value));
}

/// The field of this name, in snake or camel case.
fn find<'n>(node: &'n Node, name: &str) -> Option<&'n Entry> {
    let Kind::Map(entries) = &node.kind else { return None };
    entries.iter().rev().find(|entry| is(entry, name))
}

/// The same, to be changed.
fn find_mut<'n>(node: &'n mut Node, name: &str) -> Option<&'n mut Entry> {
    let Kind::Map(entries) = &mut node.kind else { return None };
    entries.iter_mut().rev().find(|entry| is(entry, name))
}

/// The text of a field, if it is a scalar.
fn text<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    scalar(&find(node, name)?.value)
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(&scalar.text),
        Kind::List(_) | Kind::Map(_) => None,
    }
}

/// Whether a node says yes, as a boolean or as a text, alone or under `value`.
fn truth(node: &Node) -> bool {
    match &node.kind {
        Kind::Scalar(scalar) => {
            scalar.plain() == Plain::Bool(true) || scalar.text.eq_ignore_ascii_case("true")
        }
        Kind::Map(_) => find(node, "value").is_some_and(|entry| truth(&entry.value)),
        Kind::List(_) => false,
    }
}

/// The items of a list, or a single value.
fn items(node: Node) -> Vec<Node> {
    match node.kind {
        Kind::List(items) => items,
        _ => vec![node],
    }
}

fn is(entry: &Entry, name: &str) -> bool {
    entry.name == name
        || entry.name.bytes().any(|byte| byte.is_ascii_uppercase()) && snake(&entry.name) == name
}

/// `statPrefix` as `stat_prefix`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn size(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar(_) => 1,
        Kind::List(items) => items.iter().map(size).sum::<usize>() + 1,
        Kind::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum::<usize>() + 1,
    }
}

/// An entry in the place of an old one: `written` and the place of the key are the old one's.
fn renamed(old: &str, span: Span, name: &str, value: Node) -> Entry {
    Entry { name: name.to_owned(), written: Some(old.into()), span, value, made: false }
}

/// A value that moves below another field: its path stays the one of the file.
fn from(mut value: Node, path: &Path<'_>) -> Node {
    if value.written.is_none() {
        value.written = Some(path.to_string().into());
    }
    value
}
