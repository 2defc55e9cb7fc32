//! Files of the v1 API, which Envoy 1.5 to 1.8 read beside those of v2, to the v2 API; the walk in `upgrade` does the rest.
//!
//! Such a file has its clusters below `cluster_manager` and its addresses as texts, `tcp://0.0.0.0:80`. Reading order: this file
//! (which file it is, and the walk), `tables` (the fields), `forms` (what takes more than a rule).

mod forms;
mod tables;

use super::super::nearest::nearest;
use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Origin, Span};
use super::fields::{duration, merge};
use super::{Pass, add, find, find_mut, from, renamed, scalar};
use crate::diagnostic::Code;
use tables::{Field, MESSAGES, Rule};

/// Whether this is a file of the v1 API, and not one of today's with a list in the wrong place.
pub(super) fn is_file(root: &Node) -> bool {
    if find(root, "static_resources").is_some() || find(root, "dynamic_resources").is_some() {
        return false;
    }
    let clusters =
        find(root, "cluster_manager").is_some_and(|entry| find(&entry.value, "clusters").is_some());
    let address = |item: &Node| {
        let text = find(item, "address").and_then(|entry| scalar(&entry.value));
        text.is_some_and(|text| text.starts_with("tcp://") || text.starts_with("unix://"))
    };
    let listeners = find(root, "listeners").map(|entry| &entry.value.kind);
    clusters || matches!(listeners, Some(Kind::List(items)) if items.iter().any(address))
}

/// Makes a bootstrap of the v2 API of it.
pub(super) fn file(pass: &mut Pass<'_, '_>, root: &mut Node) {
    let begin = Span { end: root.span.start, ..root.span };
    let done = pass.done();
    pass.say(format!("this is a file of the v1 API, {done} one of the v3 API"), begin, &Path::ROOT);
    pass.whole = true;
    pass.source = forms::discovery_service(root);
    let whole = std::mem::replace(root, Node::map(root.span, Vec::new()));
    *root = message(pass, "Bootstrap", whole, &Path::ROOT);
}

/// The settings of a filter by its name of the v2 API; those of which nothing is known stay as they are.
pub(super) fn filter(pass: &mut Pass<'_, '_>, name: &str, settings: Node, path: &Path<'_>) -> Node {
    let shape = if name == "envoy.http_connection_manager" { "HttpConnectionManager" } else { name };
    if !MESSAGES.iter().any(|(message, _)| *message == shape) {
        return settings;
    }
    message(pass, shape, settings, path)
}

/// A message, or each of a list.
fn message(pass: &mut Pass<'_, '_>, shape: &str, node: Node, path: &Path<'_>) -> Node {
    match node.kind {
        Kind::Scalar(_) => node,
        Kind::List(items) => {
            let items = items.into_iter().enumerate();
            let items = items.map(|(at, item)| message(pass, shape, item, &path.index(at))).collect();
            Node { kind: Kind::List(items), ..node }
        }
        Kind::Map(entries) => {
            let fields =
                MESSAGES.iter().find(|(name, _)| *name == shape).map_or(&[][..], |(_, fields)| fields);
            let mut out = Node { kind: Kind::Map(Vec::new()), origin: Origin::Touched, ..node };
            for entry in entries {
                match fields.iter().find(|(name, ..)| *name == entry.name) {
                    Some(field) => self::field(pass, field, entry, &mut out, path),
                    // Settings of a filter in a file of the v2 API: the reader knows what else may stand there.
                    None if !pass.whole => merge(&mut out, entry),
                    None => unknown(pass, shape, fields, &entry, path),
                }
            }
            forms::complete(pass, shape, &mut out);
            out
        }
    }
}

fn field(pass: &mut Pass<'_, '_>, field: &Field, entry: Entry, out: &mut Node, path: &Path<'_>) {
    let (name, target, rule) = *field;
    let Entry { span, value, .. } = entry;
    let here = path.key(name);
    let value = match rule {
        Rule::Same => value,
        Rule::Millis => duration(value, 1000.0),
        Rule::Seconds => duration(value, 1.0),
        Rule::Address => forms::address(pass, value, &here),
        Rule::Split(by) => forms::split(value, by),
        Rule::Message(shape) => message(pass, shape, value, &here),
        Rule::By(change) => change(pass, value, &here),
    };
    match target {
        [] => merge(out, Entry { name: name.to_owned(), written: None, span, value, made: false }),
        // What it holds stands in the message itself.
        [""] => {
            if let Kind::Map(entries) = value.kind {
                for mut entry in entries {
                    let below = here.key(&entry.name);
                    entry.value = from(entry.value, &below);
                    merge(out, entry);
                }
            }
        }
        target => {
            let mut value = from(value, &here);
            if let Kind::List(items) = &mut value.kind {
                // Other items may come to stand in front of them.
                for (at, item) in items.iter_mut().enumerate().filter(|(_, item)| item.written.is_none()) {
                    item.written = Some(here.index(at).to_string().into());
                }
            }
            place(out, target, (name, span), value, path);
        }
    }
}

/// Puts a value where the way leads, and makes the way.
fn place(node: &mut Node, target: &[&str], (old, span): (&str, Span), value: Node, path: &Path<'_>) {
    let Some((first, rest)) = target.split_first() else { return };
    let (name, list) = first.strip_suffix("[]").map_or((*first, false), |name| (name, true));
    if rest.is_empty() {
        return merge(node, renamed(old, span, name, value));
    }
    if find(node, name).is_none() {
        // What is made on the way has no place of its own: its fields are those of the message in the file.
        let below = from(Node::map(value.span, Vec::new()), path);
        add(node, name, if list { from(Node::list(value.span, vec![below]), path) } else { below });
    }
    let Some(entry) = find_mut(node, name) else { return };
    match &mut entry.value.kind {
        Kind::List(items) => {
            if let Some(item) = items.first_mut() {
                place(item, rest, (old, span), value, path);
            }
        }
        _ => place(&mut entry.value, rest, (old, span), value, path),
    }
}

fn unknown(pass: &mut Pass<'_, '_>, shape: &str, fields: &[Field], entry: &Entry, path: &Path<'_>) {
    let name = super::super::scalar::shown(&entry.name);
    let text = format!("unknown field `{name}` in {shape} of the v1 API");
    let mut finding = pass.out.error(Code::UnknownField, text, entry.span, &path.key(&entry.name));
    if let Some(near) = nearest(&entry.name, fields.iter().map(|(name, ..)| *name)) {
        finding = finding.suggestion(format!("did you mean `{near}`?"));
    }
    pass.out.push(finding);
}
