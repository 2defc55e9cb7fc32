//! Values of the v1 API that take more than a rule.

#![allow(clippy::needless_pass_by_value)] // the table calls them all in one way

use super::super::super::path::Path;
use super::super::super::tree::{Entry, Kind, Node, Origin, Scalar, Span};
use super::super::fields::{duration, merge};
use super::super::{Pass, add, find, from, items, put, scalar, take, text};
use super::message;
use crate::diagnostic::Code;

/// A value that says nothing today.
pub(super) fn nothing(_: &mut Pass<'_, '_>, node: Node, _: &Path<'_>) -> Node {
    Node::map(node.span, Vec::new())
}

/// What a message needs besides its fields.
pub(super) fn complete(pass: &mut Pass<'_, '_>, shape: &str, node: &mut Node) {
    if shape != "Cluster" {
        return;
    }
    // The v1 API asked DNS for IPv4 addresses alone unless told otherwise; today's default is both.
    let dns = text(node, "type").is_some_and(|kind| kind.to_ascii_lowercase().ends_with("dns"));
    if dns && find(node, "dns_lookup_family").is_none() {
        let span = node.span;
        add(node, "dns_lookup_family", Node::plain(span, "V4_ONLY"));
    }
    if text(node, "type") == Some("EDS")
        && let Some(source) = pass.source.clone()
    {
        let config = Node::wrap("eds_config", Node::wrap("api_config_source", source));
        merge(node, Entry::new("eds_cluster_config", config));
    }
}

/// `tcp://host:port` or `unix://path`.
pub(super) fn address(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let found = scalar(&node).and_then(|url| match url.strip_prefix("unix://") {
        Some(file) => Some(Node::wrap("pipe", Node::wrap("path", Node::text(span, file)))),
        None => socket(url.strip_prefix("tcp://")?, span),
    });
    found.unwrap_or_else(|| bad_address(pass, node, path, "`tcp://HOST:PORT` or `unix://PATH`"))
}

/// `host:port`, the host in brackets where it is an IPv6 address.
fn socket(text: &str, span: Span) -> Option<Node> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().ok()?;
    let address = Entry::new("address", Node::text(span, host));
    let port = Entry::new("port_value", Node::plain(span, port.to_string()));
    Some(Node::wrap("socket_address", Node::map(span, vec![address, port]))).filter(|_| !host.is_empty())
}

fn bad_address(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>, expected: &str) -> Node {
    let message = format!("found {}", super::super::super::scalar::describe(&node));
    let finding = pass.out.error(Code::BadValue, message, node.span, path).expected(expected);
    pass.out.push(finding);
    Node::map(node.span, Vec::new())
}

/// The words of a text.
pub(super) fn split(node: Node, by: char) -> Node {
    let Some(text) = scalar(&node) else { return node };
    let words = text.split(by).map(str::trim).filter(|word| !word.is_empty());
    let words = words.map(|word| Node::text(node.span, word)).collect();
    Node::list(node.span, words)
}

/// Changes each item of a list.
fn each(node: Node, path: &Path<'_>, mut change: impl FnMut(Node, &Path<'_>) -> Node) -> Node {
    let span = node.span;
    let items = items(node).into_iter().enumerate();
    let items: Vec<_> = items.map(|(at, item)| change(item, &path.index(at))).collect();
    Node { origin: Origin::Touched, ..Node::new(span, Kind::List(items)) }
}

/// A field of a message, if there is one, moved out of it.
fn part(node: &mut Node, name: &str, path: &Path<'_>) -> Option<Node> {
    take(node, name).map(|taken| from(taken.value, &path.key(name)))
}

/// `{cluster, refresh_delay_ms, api_type}`: how to ask a control plane. `cluster` is a name, or a cluster with one.
pub(super) fn source(_: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let kind = part(&mut node, "api_type", path).unwrap_or_else(|| Node::plain(span, "REST_LEGACY"));
    let mut entries = vec![Entry::new("api_type", kind)];
    let name = part(&mut node, "cluster", path);
    if let Some(name) = name.and_then(|mut name| match &name.kind {
        Kind::Map(_) => take(&mut name, "name").map(|taken| taken.value),
        _ => Some(name),
    }) {
        entries.push(Entry::new("cluster_names", Node::list(span, vec![name])));
    }
    let delay = part(&mut node, "refresh_delay_ms", path).unwrap_or_else(|| Node::plain(span, "30000"));
    entries.push(Entry::new("refresh_delay", duration(delay, 1000.0)));
    Node::map(span, entries)
}

/// What clusters of the type `sds` ask, for the whole file.
pub(super) fn discovery_service(root: &Node) -> Option<Node> {
    let sds = &find(&find(root, "cluster_manager")?.value, "sds")?.value;
    let (span, clone) = (sds.span, sds.clone());
    let path = Path::ROOT;
    let path = path.key("cluster_manager");
    let mut node = clone;
    let name = take(&mut take(&mut node, "cluster")?.value, "name")?.value;
    let delay = part(&mut node, "refresh_delay_ms", &path.key("sds"));
    let delay = duration(delay.unwrap_or_else(|| Node::plain(span, "30000")), 1000.0);
    Some(Node::map(
        span,
        vec![
            Entry::new("api_type", Node::plain(span, "REST_LEGACY")),
            Entry::new("cluster_names", Node::list(span, vec![name])),
            Entry::new("refresh_delay", delay),
        ],
    ))
}

/// The cluster of a control plane is one of the file's.
pub(super) fn cluster_of_source(pass: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let here = path.key("cluster");
    let cluster = take(&mut node, "cluster").map(|taken| taken.value);
    let cluster = cluster.map(|cluster| from(message(pass, "Cluster", cluster, &here), &here));
    Node::list(span, cluster.into_iter().collect())
}

/// The control plane for clusters: its own cluster, and how to ask it.
pub(super) fn cds(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let clusters = cluster_of_source(pass, node.clone(), path);
    let source = Node::wrap("api_config_source", self::source(pass, node, path));
    let resources = Entry::new("static_resources", Node::wrap("clusters", clusters));
    let dynamic = Entry::new("dynamic_resources", Node::wrap("cds_config", source));
    Node::map(span, vec![resources, dynamic])
}

/// `{type: zipkin, config}`.
pub(super) fn driver(_: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let name = format!("envoy.{}", text(&node, "type").unwrap_or_default());
    let mut entries = vec![Entry::new("name", Node::text(span, name))];
    entries.extend(part(&mut node, "config", path).map(|config| Entry::new("config", config)));
    Node::map(span, entries)
}

pub(super) fn statsd_address(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let address = scalar(&node).and_then(|text| socket(text, span));
    let address = address.unwrap_or_else(|| bad_address(pass, node, path, "`ADDRESS:PORT`"));
    statsd(span, "address", address)
}

pub(super) fn statsd_cluster(_: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    statsd(node.span, "tcp_cluster_name", from(node, path))
}

fn statsd(span: Span, field: &str, value: Node) -> Node {
    let name = Entry::new("name", Node::text(span, "envoy.statsd"));
    let sink = Node::map(span, vec![name, Entry::new("config", Node::wrap(field, value))]);
    Node::list(span, vec![sink])
}

pub(super) fn network_filters(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |item, path| filter(pass, item, path))
}

pub(super) fn http_filters(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |item, path| filter(pass, item, path))
}

/// `{name, config}`; the names of the v2 API have `envoy.` in front. The type (read, write, both) is known without saying.
fn filter(pass: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    take(&mut node, "type");
    let name = text(&node, "name").unwrap_or_default();
    let name = if name.starts_with("envoy.") { name.to_owned() } else { format!("envoy.{name}") };
    if let Some(old) = take(&mut node, "name") {
        put(&mut node, old.index, Entry::new("name", Node::text(old.value.span, name.clone())));
    }
    if let Some(old) = take(&mut node, "config") {
        let index = old.index;
        let mut entry = old.into_entry();
        entry.value = super::filter(pass, &name, entry.value, &path.key("config"));
        put(&mut node, index, entry);
    }
    node
}

/// `{cluster, route_config_name, refresh_delay_ms, api_type}`.
pub(super) fn rds(pass: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let name = part(&mut node, "route_config_name", path).map(|name| Entry::new("route_config_name", name));
    let source = Node::wrap("api_config_source", source(pass, node, path));
    let config = Entry::new("config_source", source);
    Node::map(span, name.into_iter().chain([config]).collect())
}

/// `[Subject, SAN]` to a mapping.
pub(super) fn cert_details(_: &mut Pass<'_, '_>, node: Node, _: &Path<'_>) -> Node {
    let span = node.span;
    let name = |item: &Node| scalar(item).map(|text| if text == "SAN" { "uri" } else { "subject" });
    let names: Vec<_> = items(node).iter().filter_map(name).collect();
    Node::map(span, names.into_iter().map(|name| Entry::new(name, Node::plain(span, "true"))).collect())
}

/// `{path, format, filter}`: files were the only logs.
pub(super) fn access_logs(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |mut item, path| {
        if !matches!(item.kind, Kind::Map(_)) {
            return item;
        }
        let span = item.span;
        let filter = take(&mut item, "filter").map(|taken| taken.value);
        let filter = filter.map(|filter| log_filter(pass, filter, &path.key("filter")));
        let name = Entry::new("name", Node::text(span, "envoy.file_access_log"));
        let config = Entry::new("config", from(item, path));
        let filter = filter.map(|filter| Entry::new("filter", filter));
        Node::map(span, [name, config].into_iter().chain(filter).collect())
    })
}

/// `{type, …}` to the field of that type.
fn log_filter(pass: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let kind = text(&node, "type").unwrap_or_default().to_owned();
    let all = |pass: &mut Pass<'_, '_>, node: &mut Node| {
        let filters = take(node, "filters").map_or_else(|| Node::list(span, Vec::new()), |taken| taken.value);
        let filters = each(filters, &path.key("filters"), |item, path| log_filter(pass, item, path));
        Node::wrap("filters", filters)
    };
    let (name, value) = match kind.as_str() {
        "status_code" => ("status_code_filter", comparison(node, path)),
        "duration" => ("duration_filter", comparison(node, path)),
        "runtime" => {
            let key = part(&mut node, "key", path).map(|key| Entry::new("runtime_key", key));
            ("runtime_filter", Node::map(span, key.into_iter().collect()))
        }
        "logical_or" => ("or_filter", all(pass, &mut node)),
        "logical_and" => ("and_filter", all(pass, &mut node)),
        "not_healthcheck" => ("not_health_check_filter", Node::map(span, Vec::new())),
        "traceable_request" => ("traceable_filter", Node::map(span, Vec::new())),
        _ => return bad_type(pass, &node, path),
    };
    from(Node::wrap(name, value), path)
}

/// `{op, value, runtime_key}`.
fn comparison(mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let mut entries = Vec::new();
    if let Some(op) = take(&mut node, "op") {
        let name = if scalar(&op.value) == Some(">=") { "GE" } else { "EQ" };
        entries.push(Entry::new("op", Node::plain(op.value.span, name)));
    }
    let mut value = Vec::new();
    value.extend(part(&mut node, "value", path).map(|number| Entry::new("default_value", number)));
    // A text must stand here, though no key was needed in the v1 API.
    let key = part(&mut node, "runtime_key", path).unwrap_or_else(|| Node::text(span, "access_log.none"));
    value.push(Entry::new("runtime_key", key));
    entries.push(Entry::new("value", Node::map(span, value)));
    Node::wrap("comparison", Node::map(span, entries))
}

fn bad_type(pass: &mut Pass<'_, '_>, node: &Node, path: &Path<'_>) -> Node {
    let kind = find(node, "type").map(|entry| &entry.value);
    let found = kind.map_or_else(|| "nothing".to_owned(), super::super::super::scalar::describe);
    let span = kind.map_or(node.span, |kind| kind.span);
    let finding = pass.out.error(Code::BadValue, format!("found {found}"), span, &path.key("type"));
    pass.out.push(finding.expected("a type of the v1 API"));
    Node::map(node.span, Vec::new())
}

pub(super) fn rate_limit_actions(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |mut item, path| {
        let Some(kind) = text(&item, "type").map(str::to_owned) else { return bad_type(pass, &item, path) };
        take(&mut item, "type");
        Node::wrap(&kind, from(item, path))
    })
}

/// Lists of `{key, value}`.
pub(super) fn descriptors(_: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |item, path| Node::wrap("entries", from(item, path)))
}

pub(super) fn file_names(_: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |item, path| Node::wrap("filename", from(item, path)))
}

/// `sds` is today's EDS; the others keep their names.
pub(super) fn cluster_type(_: &mut Pass<'_, '_>, mut node: Node, _: &Path<'_>) -> Node {
    if scalar(&node) == Some("sds") {
        node.kind = Kind::Scalar(Scalar { text: "EDS".to_owned(), quoted: false });
        node.origin = Origin::Made;
    }
    node
}

/// `{url}` to addresses.
pub(super) fn hosts(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |mut item, path| match take(&mut item, "url") {
        Some(url) => from(address(pass, url.value, &path.key("url")), path),
        None => bad_address(pass, item, path, "`{url: tcp://HOST:PORT}`"),
    })
}

pub(super) fn resolvers(pass: &mut Pass<'_, '_>, node: Node, path: &Path<'_>) -> Node {
    each(node, path, |item, path| {
        let found = scalar(&item).and_then(|text| socket(text, item.span));
        found.unwrap_or_else(|| bad_address(pass, item, path, "`ADDRESS:PORT`"))
    })
}

/// `type` decides which of the checks it is.
pub(super) fn health_check(pass: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let kind = text(&node, "type").unwrap_or_default().to_owned();
    let name = match kind.as_str() {
        "http" => "http_health_check",
        "tcp" => "tcp_health_check",
        "redis" => "redis_health_check",
        _ => return bad_type(pass, &node, path),
    };
    take(&mut node, "type");
    let mut check = message(pass, "HealthCheck", node, path);
    if find(&check, name).is_none() {
        add(&mut check, name, Node::map(span, Vec::new()));
    }
    Node { origin: Origin::Touched, ..Node::new(span, Kind::List(vec![from(check, path)])) }
}

/// Pieces of hexadecimal text, one after the other.
pub(super) fn bytes_to_send(_: &mut Pass<'_, '_>, node: Node, _: &Path<'_>) -> Node {
    let span = node.span;
    let pieces = items(node);
    let text: String = pieces.iter().filter_map(|piece| text(piece, "binary")).collect();
    Node::wrap("text", Node::text(span, text))
}

/// `default` and `high` to thresholds with a priority.
pub(super) fn circuit_breakers(_: &mut Pass<'_, '_>, mut node: Node, path: &Path<'_>) -> Node {
    let span = node.span;
    let mut thresholds = Vec::new();
    for name in ["default", "high"] {
        let Some(mut values) = part(&mut node, name, path) else { continue };
        let priority = Node::plain(values.span, name.to_ascii_uppercase());
        put(&mut values, 0, Entry::new("priority", priority));
        thresholds.push(values);
    }
    let thresholds = Entry::new("thresholds", Node::list(span, thresholds));
    let rest = match node.kind {
        Kind::Map(entries) => entries, // unknown names are found by the reader
        _ => Vec::new(),
    };
    Node::map(span, [thresholds].into_iter().chain(rest).collect())
}

/// `http2` was the one feature.
pub(super) fn features(_: &mut Pass<'_, '_>, node: Node, _: &Path<'_>) -> Node {
    let span = node.span;
    if scalar(&node) == Some("http2") {
        return Node::wrap("http2_protocol_options", Node::map(span, Vec::new()));
    }
    Node::map(span, Vec::new())
}
