//! Old forms (2017-2018) to today's, one mapping at a time, each with a warning.
//!
//! Called by `convert` before it reads a mapping; changes the tree in place and keeps the file's own paths.

use super::convert::Converter;
use super::path::Path;
use super::tree::{Entry, Kind, Node, Span};
use crate::diagnostic::Code;

/// What becomes of an old field.
enum Change {
    /// Another name, the same value.
    Rename(&'static str),
    /// Another name, and the value one or more levels deeper.
    Wrap(&'static str, &'static [&'static str]),
    /// Nothing: it has no meaning any more.
    Drop,
    /// An error with this help: petmesh implements neither the old form nor today's.
    Refuse(&'static str),
    /// Addresses of endpoints to a load assignment.
    Hosts,
}

/// The old fields of each message, by its full name.
const FIELDS: &[(&str, &str, Change)] = &[
    ("envoy.config.cluster.v3.Cluster", "hosts", Change::Hosts),
    ("envoy.config.cluster.v3.Cluster", "tls_context", Change::Rename("transport_socket")),
    ("envoy.config.listener.v3.FilterChain", "tls_context", Change::Rename("transport_socket")),
    ("envoy.config.route.v3.RouteMatch", "regex", Change::Wrap("safe_regex", &["regex"])),
    (
        "envoy.config.route.v3.HeaderMatcher",
        "regex_match",
        Change::Wrap("string_match", &["safe_regex", "regex"]),
    ),
    ("envoy.config.route.v3.QueryParameterMatcher", "value", Change::Wrap("string_match", &["exact"])),
    ("envoy.config.route.v3.RouteAction", "request_mirror_policy", Change::Rename("request_mirror_policies")),
    ("envoy.config.route.v3.RouteAction", "auto_host_rewrite_header", Change::Rename("host_rewrite_header")),
    ("envoy.config.route.v3.VirtualHost", "per_filter_config", Change::Rename("typed_per_filter_config")),
    ("envoy.config.route.v3.Route", "per_filter_config", Change::Rename("typed_per_filter_config")),
    (
        "envoy.config.route.v3.WeightedCluster.ClusterWeight",
        "per_filter_config",
        Change::Rename("typed_per_filter_config"),
    ),
    ("envoy.extensions.filters.http.router.v3.Router", "deprecated_v1", Change::Drop),
    (HCM, "deprecated_v1", Change::Drop),
    (HCM, "idle_timeout", Change::Wrap("common_http_protocol_options", &["idle_timeout"])),
    (
        "envoy.config.bootstrap.v3.Bootstrap",
        "runtime",
        Change::Refuse(
            "runtime values stand in `layered_runtime` today, and those of a folder are not implemented",
        ),
    ),
];

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Messages that name an extension, whose configuration stood in `config`.
const NAMED: &[&str] = &[
    "envoy.config.listener.v3.Filter",
    "envoy.config.accesslog.v3.AccessLog",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
];

/// Names of extensions, old and new, and the types of their configurations.
const TYPES: &[(&str, &str)] = &[
    ("envoy.http_connection_manager", HCM),
    ("envoy.filters.network.http_connection_manager", HCM),
    ("envoy.tcp_proxy", TCP_PROXY),
    ("envoy.filters.network.tcp_proxy", TCP_PROXY),
    ("envoy.router", "envoy.extensions.filters.http.router.v3.Router"),
    ("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
    ("envoy.file_access_log", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    ("envoy.access_loggers.file", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    ("envoy.access_loggers.stdout", "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
    ("envoy.access_loggers.stderr", "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"),
];

/// Types of the v2 API and what they are called today.
const V2_TYPES: &[(&str, &str)] = &[
    ("envoy.config.filter.network.http_connection_manager.v2.HttpConnectionManager", HCM),
    ("envoy.config.filter.network.tcp_proxy.v2.TcpProxy", TCP_PROXY),
    ("envoy.config.filter.http.router.v2.Router", "envoy.extensions.filters.http.router.v3.Router"),
    ("envoy.config.accesslog.v2.FileAccessLog", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    ("envoy.api.v2.ClusterLoadAssignment", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("envoy.api.v2.Cluster", "envoy.config.cluster.v3.Cluster"),
    ("envoy.api.v2.Listener", "envoy.config.listener.v3.Listener"),
    ("envoy.api.v2.RouteConfiguration", "envoy.config.route.v3.RouteConfiguration"),
];

/// Brings the old forms of one mapping up to date.
pub(crate) fn message(converter: &mut Converter<'_>, full_name: &str, node: &mut Node, path: &Path<'_>) {
    if NAMED.contains(&full_name) {
        named(converter, node, path);
    }
    if full_name == "envoy.config.route.v3.RouteAction" {
        host_rewrite(node);
    }
    if !FIELDS.iter().any(|(message, ..)| *message == full_name) {
        return;
    }
    let name = node.get_text("name").unwrap_or_default().to_owned();
    let Kind::Map(entries) = &mut node.kind else { return };
    let mut done = Vec::with_capacity(entries.len());
    for mut entry in std::mem::take(entries) {
        let change =
            FIELDS.iter().find(|(message, old, _)| *message == full_name && *old == entry.name).map(|f| &f.2);
        let Some(change) = change else {
            done.push(entry);
            continue;
        };
        let old = path.key(&entry.name);
        let new = match change {
            Change::Rename(new) | Change::Wrap(new, _) => Some(*new),
            Change::Hosts => Some("load_assignment"),
            Change::Drop => None,
            Change::Refuse(help) => {
                let text = format!("`{}` is a form of 2018, and petmesh does not implement it", entry.name);
                let finding = converter.error(Code::NotImplemented, text, entry.span, &old);
                converter.push(finding.suggestion(*help));
                continue;
            }
        };
        old_form(converter, &entry.name, new, entry.span, &old);
        match change {
            Change::Drop | Change::Refuse(_) => continue,
            Change::Rename(new) => {
                entry.written = Some(entry.name.as_str().into());
                entry.name = (*new).to_owned();
            }
            Change::Wrap(new, inner) => {
                entry.value.written = Some(old.to_string().into());
                let wrapped = inner.iter().rev().fold(entry.value, |value, name| Node::wrap(name, value));
                entry = Entry { name: (*new).to_owned(), value: wrapped, ..moved(&entry.name, entry.span) };
            }
            Change::Hosts => {
                let written = old.to_string();
                entry = Entry { span: entry.span, ..hosts(entry.value, &written, &name) };
            }
        }
        done.push(entry);
    }
    *entries = done;
}

/// Brings the `@type` of an Any up to date.
pub(crate) fn any(converter: &mut Converter<'_>, node: &mut Node, path: &Path<'_>) {
    let Kind::Map(entries) = &mut node.kind else { return };
    let Some(entry) = entries.iter_mut().find(|entry| entry.name == "@type") else { return };
    let Kind::Scalar(scalar) = &mut entry.value.kind else { return };
    let old = scalar.text.rsplit('/').next().unwrap_or_default();
    if let Some((old, new)) = V2_TYPES.iter().find(|(v2, _)| *v2 == old) {
        old_form(converter, old, Some(new), entry.value.span, &path.key("@type"));
        scalar.text = format!("type.googleapis.com/{new}");
    }
}

/// `name` and `config` to `typed_config` with the type that the name stands for.
fn named(converter: &mut Converter<'_>, node: &mut Node, path: &Path<'_>) {
    let Some(name) = node.get_text("name").map(str::to_owned) else { return };
    let Some((_, full_name)) = TYPES.iter().find(|(known, _)| *known == name) else {
        return unknown_name(converter, &name, node, path);
    };
    let span = node.span;
    let Kind::Map(entries) = &mut node.kind else { return };
    // A field without a value is an absent one.
    entries.retain(|entry| entry.name == "name" || entry.name == "config" || !entry.value.is_null());
    if entries
        .iter()
        .any(|entry| matches!(entry.name.as_str(), "typed_config" | "typedConfig" | "config_discovery"))
    {
        return;
    }
    let type_entry = Entry::new("@type", Node::text(span, format!("type.googleapis.com/{full_name}")));
    if let Some(entry) = entries.iter_mut().find(|entry| entry.name == "config") {
        old_form(converter, "config", Some("typed_config"), entry.span, &path.key("config"));
        entry.written = Some("config".into());
        entry.name = "typed_config".to_owned();
        if entry.value.is_null() {
            entry.value.kind = Kind::Map(Vec::new());
        }
        if let Kind::Map(fields) = &mut entry.value.kind {
            fields.push(type_entry);
        }
    } else {
        // A name alone was enough for a filter without settings.
        let value = Node::new(span, Kind::Map(vec![type_entry]));
        entries.push(Entry::new("typed_config", value));
    }
}

/// A `config` block gives no type, so an unknown name says nothing about what is inside.
fn unknown_name(converter: &mut Converter<'_>, name: &str, node: &mut Node, path: &Path<'_>) {
    let Kind::Map(entries) = &mut node.kind else { return };
    let Some(index) = entries.iter().position(|entry| entry.name == "config") else { return };
    let entry = entries.remove(index);
    let text = format!("`{}` is not an extension that petmesh implements", super::scalar::shown(name));
    let finding = converter.error(Code::NotImplemented, text, entry.span, &path.key("config"));
    converter.push(finding.suggestion("its settings stand in `typed_config` today, with an `@type`"));
}

/// `host_rewrite` is a text with operators today; without one it is the old field, a literal.
fn host_rewrite(node: &mut Node) {
    let Kind::Map(entries) = &mut node.kind else { return };
    for entry in entries.iter_mut().filter(|entry| entry.name == "host_rewrite") {
        if matches!(&entry.value.kind, Kind::Scalar(scalar) if !scalar.text.contains('%')) {
            entry.written = Some("host_rewrite".into());
            entry.name = "host_rewrite_literal".to_owned();
        }
    }
}

/// A list of addresses, or one, to a load assignment.
fn hosts(value: Node, written: &str, cluster: &str) -> Entry {
    let span = value.span;
    let addresses = match value.kind {
        Kind::List(items) => {
            items.into_iter().enumerate().map(|(i, item)| (format!("{written}[{i}]"), item)).collect()
        }
        _ => vec![(written.to_owned(), value)],
    };
    let endpoints = addresses.into_iter().map(|(written, mut address)| {
        address.written = Some(written.into());
        Node::wrap("endpoint", Node::wrap("address", address))
    });
    let endpoints = Node::new(span, Kind::List(endpoints.collect()));
    let locality = Node::new(span, Kind::List(vec![Node::wrap("lb_endpoints", endpoints)]));
    let name = Entry::new("cluster_name", Node::text(span, cluster));
    let mut assignment = Node::new(span, Kind::Map(vec![name, Entry::new("endpoints", locality)]));
    assignment.written = Some(written.into());
    Entry { written: Some("hosts".into()), ..Entry::new("load_assignment", assignment) }
}

fn moved(written: &str, span: Span) -> Entry {
    let value = Node::new(span, Kind::Map(Vec::new()));
    Entry { name: String::new(), written: Some(written.into()), span, value }
}

fn old_form(converter: &mut Converter<'_>, old: &str, new: Option<&str>, span: Span, path: &Path<'_>) {
    let message = match new {
        Some(new) => format!("`{old}` is a form of 2018, read as `{new}`"),
        None => format!("`{old}` has had no meaning since 2018 and is ignored"),
    };
    converter.warn(Code::OldForm, message, span, path);
}
