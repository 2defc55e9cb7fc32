//! Extensions: short names to today's, `config` to `typed_config` with a type, types of the v2 API to those of v3.

use prost_reflect::DynamicMessage;

use super::super::check;
use super::super::nearest::nearest;
use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Origin, Scalar, Span};
use super::extensions::{extension, row};
use super::shapes::Shape;
use super::{Mode, Pass, find, find_mut, renamed, scalar, take, text};
use crate::schema;

/// Messages that name an extension in `name` and hold its settings in `config` or `typed_config`.
const NAMED: &[Shape] = &[
    "NetworkFilter",
    "HttpFilter",
    "ListenerFilter",
    "AccessLog",
    "Tracer",
    "StatsSink",
    "ServerSocket",
    "ClientSocket",
    "RetryHostPredicate",
    "RetryPriority",
    "CustomHealthCheck",
    "ResourceMonitor",
];

/// Messages with settings of single routes.
const PER_FILTER: &[Shape] = &["VirtualHost", "Route", "ClusterWeight"];

/// Brings the extension that a message names, or those of single routes, up to date.
pub(super) fn upgrade(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    if NAMED.contains(&shape) {
        named(pass, shape, node, path);
    } else if PER_FILTER.contains(&shape) {
        by_filter(pass, "PerRoute", ("per_filter_config", "typed_per_filter_config"), node, path);
    } else if shape == "Cluster" {
        let names = ("extension_protocol_options", "typed_extension_protocol_options");
        by_filter(pass, "PerCluster", names, node, path);
    }
}

fn named(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    let Some(name) = text(node, "name").map(str::to_owned) else { return };
    for field in ["typed_config", "config_discovery"] {
        if find(node, field).is_some_and(|entry| entry.value.is_null()) {
            take(node, field); // a field without a value is an absent one
        }
    }
    let known = extension(shape, &name);
    // Until 1.13, settings without any could do without their type too.
    let untyped = find(node, "typed_config")
        .is_some_and(|entry| matches!(&entry.value.kind, Kind::Map(entries) if entries.is_empty()));
    if untyped
        && known.is_some()
        && let Some(old) = take(node, "typed_config")
    {
        pass.note("typed_config: {}", "typed_config with its `@type`", old.span, &path.key(&old.name));
    }
    let typed = find(node, "typed_config").is_some() || find(node, "config_discovery").is_some();
    if let Some((today, _)) = &known
        && **today != *name
        && let Some(entry) = find_mut(node, "name")
    {
        let span = entry.value.span;
        set_text(&mut entry.value, today);
        pass.note(&name, today, span, &path.key("name"));
    }
    if let Some(old) = take(node, "deprecated_v1") {
        pass.dropped(
            "deprecated_v1",
            "it marked settings of the v1 API",
            old.span,
            &path.key("deprecated_v1"),
        );
    }
    if typed {
        return;
    }
    let Some((today, full_name)) = known else { return unknown(pass, &name, node, path) };
    let Some(old) = take(node, "config") else {
        if !may_be_empty(&full_name) || misspelt(node) {
            return;
        }
        // A name alone was enough for an extension without settings.
        let span = find(node, "name").map_or(node.span, |entry| entry.value.span);
        let value = Node::map(span, vec![type_entry(span, &full_name)]);
        if pass.mode == Mode::Rewrite {
            pass.added(&format!("`{name}` has no `typed_config`, written with an empty one"), span, path);
        }
        return super::add(node, "typed_config", value);
    };
    pass.note("config", "typed_config", old.span, &path.key(&old.name));
    let value =
        with_type(pass, old.value, old.span, (of_2018(shape, today), &full_name), &path.key(&old.name));
    super::put(node, old.index, renamed(&old.name, old.span, "typed_config", value));
}

/// Whether settings of a type may say nothing.
fn may_be_empty(full_name: &str) -> bool {
    let empty = schema::message(full_name).map(DynamicMessage::new);
    empty.is_none_or(|empty| check::message(&empty).is_empty())
}

/// Whether the settings are there under a wrong name.
fn misspelt(node: &Node) -> bool {
    let Kind::Map(entries) = &node.kind else { return false };
    entries.iter().any(|entry| nearest(&entry.name, ["typed_config", "config"].into_iter()).is_some())
}

/// Settings with their type. Those of the v1 API stood under `value`.
fn with_type(
    pass: &mut Pass<'_, '_>,
    mut value: Node,
    span: Span,
    (name, full_name): (&str, &str),
    here: &Path<'_>,
) -> Node {
    let marked = find(&value, "deprecated_v1").is_some_and(|mark| scalar(&mark.value).is_some());
    if let Some(mark) = marked.then(|| take(&mut value, "deprecated_v1")).flatten() {
        pass.dropped(
            "deprecated_v1",
            "it marked settings of the v1 API",
            mark.span,
            &here.key("deprecated_v1"),
        );
        if let Some(inner) = take(&mut value, "value") {
            let below = here.key("value");
            value = super::from(super::v1::filter(pass, name, inner.value, &below), &below);
        }
    }
    if value.is_null() {
        value = Node::map(span, Vec::new());
    }
    super::put(&mut value, 0, type_entry(span, full_name));
    value
}

/// The name of an extension in 2018.
fn of_2018(shape: Shape, today: &'static str) -> &'static str {
    row(shape, today).and_then(|row| row.3.first().copied()).unwrap_or(today)
}

/// A `config` block gives no type, so an unknown name says nothing about what is inside.
fn unknown(pass: &mut Pass<'_, '_>, name: &str, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "config") else { return };
    let name = super::super::scalar::shown(name);
    let text = format!("`config` of `{name}`: this is not an extension that petmesh knows");
    let help = "its settings stand in `typed_config` today, with an `@type`";
    pass.cannot(text, help, old.span, &path.key(&old.name));
}

/// Settings by the name of a filter.
fn by_filter(
    pass: &mut Pass<'_, '_>,
    shape: Shape,
    (old, new): (&str, &str),
    node: &mut Node,
    path: &Path<'_>,
) {
    if let Some(entry) = find_mut(node, new) {
        let spelling = entry.spelling().to_owned();
        let here = path.key(&spelling);
        for (today, key) in names_of(shape, &mut entry.value) {
            pass.note(&key.name, today, key.span, &here.key(&key.name));
            key.written = Some(std::mem::replace(&mut key.name, today.to_owned()).into());
        }
    }
    let Some(taken) = take(node, old) else { return };
    let here = path.key(&taken.name);
    pass.note(old, new, taken.span, &here);
    let Kind::Map(filters) = taken.value.kind else { return };
    let mut done = Vec::new();
    for filter in filters {
        let Some((_, today, full_name, _)) = row(shape, &filter.name) else {
            let name = super::super::scalar::shown(&filter.name);
            let text = format!("`{old}` of `{name}`: this is not an extension that petmesh knows");
            let help = format!("its settings stand in `{new}` today, with an `@type`");
            pass.cannot(text, &help, filter.span, &here.key(&filter.name));
            continue;
        };
        let full_name = format!("envoy.{full_name}");
        let value = with_type(pass, filter.value, filter.span, ("", &full_name), &here.key(&filter.name));
        done.push(renamed(&filter.name, filter.span, today, value));
    }
    let value = Node { origin: Origin::Touched, ..Node::new(taken.value.span, Kind::Map(done)) };
    super::put(node, taken.index, renamed(&taken.name, taken.span, new, value));
}

/// Keys of a mapping that have another name today.
fn names_of(shape: Shape, node: &mut Node) -> Vec<(&'static str, &mut Entry)> {
    let Kind::Map(entries) = &mut node.kind else { return Vec::new() };
    let today = |entry: &mut Entry| row(shape, &entry.name).map(|row| row.1).filter(|new| *new != entry.name);
    entries.iter_mut().filter_map(|entry| Some((today(entry)?, entry))).collect()
}

fn type_entry(span: Span, full_name: &str) -> Entry {
    Entry::new("@type", Node::text(span, format!("type.googleapis.com/{full_name}")))
}

fn set_text(node: &mut Node, text: &str) {
    if scalar(node).is_some() {
        node.kind = Kind::Scalar(Scalar { text: text.to_owned(), quoted: true });
        node.origin = Origin::Made;
    }
}
