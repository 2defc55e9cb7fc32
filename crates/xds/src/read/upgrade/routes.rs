//! Old forms around routes: matchers, header changes, CORS, mirroring.

use super::super::path::Path;
use super::super::tree::{Entry, Node};
use super::clusters::says_yes;
use super::fields::{merge, percent};
use super::shapes::Shape;
use super::{Mode, Pass, find, find_mut, from, put, renamed, scalar, take, truth};

/// Brings one message up to date.
pub(super) fn upgrade(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    match shape {
        "Route" => headers_of_action(pass, node, path),
        "RouteAction" => host_rewrite(pass, node, path),
        "RouteMatch" => runtime(pass, node, path),
        "HeaderMatcher" | "QueryParameterMatcher" => value(pass, node, path),
        "VirtualCluster" => virtual_cluster(pass, node, path),
        "MirrorPolicy" => mirror(pass, node, path),
        "CorsPolicy" => cors(pass, node, path),
        "HeaderValueOption" if pass.mode == Mode::Rewrite => append(pass, node, path),
        _ => {}
    }
}

/// Header changes that stood in the action stand in the route today.
fn headers_of_action(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let here = path.key("route");
    for name in ["request_headers_to_add", "response_headers_to_add", "response_headers_to_remove"] {
        let Some(action) = find_mut(node, "route") else { return };
        let Some(old) = take(&mut action.value, name) else { continue };
        let written = here.key(&old.name);
        pass.note(&format!("route.{name}"), name, old.span, &written);
        let value = old.value;
        let value = from(value, &written);
        let list = Node::list(value.span, super::items(value));
        merge(node, renamed(&old.name, old.span, name, list));
    }
}

/// `host_rewrite` is a text with operators today; without one it is the old field, a literal.
fn host_rewrite(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let literal = find(node, "host_rewrite").and_then(|e| scalar(&e.value)).is_some_and(|t| !t.contains('%'));
    if !literal {
        return;
    }
    let Some(old) = take(node, "host_rewrite") else { return };
    if pass.mode == Mode::Rewrite {
        pass.deprecated("host_rewrite", "host_rewrite_literal", old.span, &path.key(&old.name));
    }
    let value = old.value;
    put(node, old.index, renamed(&old.name, old.span, "host_rewrite_literal", value));
}

/// `runtime`, a share of a hundred, to `runtime_fraction`.
fn runtime(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "runtime") else { return };
    let written = path.key(&old.name);
    pass.note("runtime", "runtime_fraction", old.span, &written);
    let mut value = old.value;
    if let Some(share) = take(&mut value, "default_value") {
        put(&mut value, share.index, renamed(&share.name, share.span, "default_value", percent(share.value)));
    } else {
        let none = percent(Node::plain(value.span, "0"));
        put(&mut value, 0, Entry::new("default_value", none));
    }
    put(node, old.index, renamed(&old.name, old.span, "runtime_fraction", from(value, &written)));
}

/// `value` with `regex` of a header or parameter to a matcher of texts.
fn value(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let regex = says_yes(node, "regex");
    if let Some(old) = take(node, "regex") {
        let written = path.key(&old.name);
        if find(node, "value").is_none() || !regex {
            pass.dropped("regex", "the kind of matcher is the name of its field", old.span, &written);
        } else {
            pass.note("regex", "string_match.safe_regex", old.span, &written);
        }
    }
    let Some(old) = take(node, "value") else { return };
    let written = path.key(&old.name);
    let value = old.value;
    if value.is_null() {
        return;
    }
    let value = from(value, &written);
    let (spelled, matcher) = if regex {
        ("string_match.safe_regex.regex", Node::wrap("safe_regex", Node::wrap("regex", value)))
    } else {
        ("string_match.exact", Node::wrap("exact", value))
    };
    pass.note("value", spelled, old.span, &written);
    put(node, old.index, renamed(&old.name, old.span, "string_match", matcher));
}

/// `pattern` and `method` to matchers of `:path` and `:method`.
fn virtual_cluster(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    for (field, header, regex) in [("pattern", ":path", true), ("method", ":method", false)] {
        let Some(old) = take(node, field) else { continue };
        let written = path.key(&old.name);
        pass.note(field, "headers", old.span, &written);
        let value = old.value;
        let span = value.span;
        let value = from(value, &written);
        let matcher = if regex {
            Node::wrap("safe_regex", Node::wrap("regex", value))
        } else {
            Node::wrap("exact", value)
        };
        let name = Entry::new("name", Node::text(span, header));
        let header = Node::map(span, vec![name, Entry::new("string_match", matcher)]);
        merge(node, renamed(&old.name, old.span, "headers", Node::list(span, vec![header])));
    }
}

/// `runtime_key`, a share of ten thousand that is 0 by default, to `runtime_fraction`.
fn mirror(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "runtime_key") else { return };
    let written = path.key(&old.name);
    pass.note("runtime_key", "runtime_fraction", old.span, &written);
    let value = old.value;
    let span = value.span;
    let share = vec![
        Entry::new("numerator", Node::plain(span, "0")),
        Entry::new("denominator", Node::plain(span, "TEN_THOUSAND")),
    ];
    let default = Entry::new("default_value", Node::map(span, share));
    let fraction = Node::map(span, vec![default, Entry::new("runtime_key", from(value, &written))]);
    put(node, old.index, renamed(&old.name, old.span, "runtime_fraction", fraction));
}

/// `enabled` to a share of all or nothing.
fn cors(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "enabled") else { return };
    let written = path.key(&old.name);
    pass.note("enabled", "filter_enabled", old.span, &written);
    let value = old.value;
    let share = if truth(&value) { "100" } else { "0" };
    let fraction = percent(Node::plain(value.span, share));
    put(
        node,
        old.index,
        renamed(&old.name, old.span, "filter_enabled", Node::wrap("default_value", fraction)),
    );
}

/// `append` to `append_action`.
fn append(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    if find(node, "append_action").is_some() {
        return;
    }
    let Some(old) = take(node, "append") else { return };
    let written = path.key(&old.name);
    let value = old.value;
    let yes = truth(&value) || value.is_null();
    let action = if yes { "APPEND_IF_EXISTS_OR_ADD" } else { "OVERWRITE_IF_EXISTS_OR_ADD" };
    pass.deprecated("append", &format!("append_action: {action}"), old.span, &written);
    put(node, old.index, renamed(&old.name, old.span, "append_action", Node::plain(value.span, action)));
}
