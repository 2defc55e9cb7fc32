//! Old forms of the bootstrap: what the whole process had once and its parts have today, and what is missing.

use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node};
use super::shapes::Shape;
use super::{Mode, Pass, add, find, from, put, renamed, take};

const FILE_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Fields that say more of the protocol of a cluster than `http2_protocol_options` alone.
const OTHER_OPTIONS: &[&str] = &[
    "http_protocol_options",
    "common_http_protocol_options",
    "upstream_http_protocol_options",
    "protocol_selection",
    "typed_extension_protocol_options",
];

/// Brings one message up to date.
pub(super) fn upgrade(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    match shape {
        "Bootstrap" => {
            tracing(pass, node, path);
            rate_limit_service(pass, node, path);
            runtime(pass, node, path);
        }
        "Admin" if pass.mode == Mode::Rewrite => access_log_path(pass, node, path),
        "Cluster" if pass.mode == Mode::Rewrite => http2(pass, node, path),
        _ => {}
    }
}

/// What is known only after everything below has been read.
pub(super) fn finish(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    if let Some(tracer) = pass.tracer.take()
        && !pass.tracer_used
    {
        let why = "no connection manager has `tracing` without a `provider`";
        pass.dropped("tracing.http", why, tracer.span, &path.key("tracing").key("http"));
    }
    let node_is_needed = pass.old > 0 || pass.discovery;
    if pass.mode == Mode::Rewrite
        && node_is_needed
        && find(node, "node").is_none_or(|entry| entry.value.is_null())
    {
        take(node, "node");
        let span = node.span;
        let id = Entry::new("id", Node::text(span, "envoy"));
        let cluster = Entry::new("cluster", Node::text(span, "envoy"));
        add(node, "node", Node::map(span, vec![id, cluster]));
        let message = "`node` is missing, and today's Envoy asks no control plane without it: it is added with the names \
                       `envoy`, which `--service-node` and `--service-cluster` replace";
        pass.added(message, span, path);
    }
}

/// `tracing.http`: kept until a connection manager wants it.
fn tracing(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(mut old) = take(node, "tracing") else { return };
    let written = path.key(&old.name);
    let Some(http) = take(&mut old.value, "http") else {
        return pass.dropped("tracing", "nothing stands in it", old.span, &written);
    };
    let here = written.key("http");
    pass.note("tracing.http", "typed_config.tracing.provider", http.span, &here);
    let mut tracer = http.value;
    tracer.span = http.span;
    pass.walk("Tracer", &mut tracer, &here);
    pass.tracer = Some(from(tracer, &here));
}

/// `rate_limit_service`: kept until a filter wants it.
fn rate_limit_service(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(mut old) = take(node, "rate_limit_service") else { return };
    let written = path.key(&old.name);
    pass.note("rate_limit_service", "typed_config.rate_limit_service", old.span, &written);
    take(&mut old.value, "use_data_plane_proto"); // the proto of today is the only one
    if let Some(name) = take(&mut old.value, "cluster_name") {
        let value = from(name.value, &written.key("cluster_name"));
        let service = Node::wrap("envoy_grpc", Node::wrap("cluster_name", value));
        put(&mut old.value, name.index, renamed(&name.name, name.span, "grpc_service", service));
    }
    if find(&old.value, "transport_api_version").is_none() {
        let span = old.span;
        add(&mut old.value, "transport_api_version", Node::plain(span, "V3"));
    }
    pass.rate_limit_service = Some(from(old.value, &written));
}

/// `runtime`, folders, to layers in the order in which the folders won.
fn runtime(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(mut old) = take(node, "runtime") else { return };
    let written = path.key(&old.name);
    let span = old.span;
    pass.note("runtime", "layered_runtime", span, &written);
    let mut layers = Vec::new();
    if let Some(base) = take(&mut old.value, "base") {
        layers.push(layer("base", "static_layer", from(base.value, &written.key("base"))));
    }
    let root = take(&mut old.value, "symlink_root").map(|root| root.value);
    let folders = [("root", "subdirectory", false), ("override", "override_subdirectory", true)];
    for (name, field, of_cluster) in folders {
        let folder = take(&mut old.value, field).map(|folder| folder.value);
        let (Some(root), Some(folder)) = (&root, folder) else { continue };
        let mut disk = vec![
            Entry::new("symlink_root", from(root.clone(), &written.key("symlink_root"))),
            Entry::new("subdirectory", from(folder, &written.key(field))),
        ];
        if of_cluster {
            disk.push(Entry::new("append_service_cluster", Node::plain(span, "true")));
        }
        layers.push(layer(name, "disk_layer", Node::map(span, disk)));
    }
    if let (Some(root), true) = (&root, layers.is_empty()) {
        let root = Entry::new("symlink_root", from(root.clone(), &written.key("symlink_root")));
        layers.push(layer("root", "disk_layer", Node::map(span, vec![root])));
    }
    layers.push(layer("admin", "admin_layer", Node::map(span, Vec::new())));
    let runtime = Node::wrap("layers", Node::list(span, layers));
    put(node, old.index, renamed(&old.name, old.span, "layered_runtime", from(runtime, &written)));
}

fn layer(name: &str, kind: &str, value: Node) -> Node {
    let span = value.span;
    Node::map(span, vec![Entry::new("name", Node::text(span, name)), Entry::new(kind, value)])
}

/// The admin page's log as any other.
fn access_log_path(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "access_log_path") else { return };
    if find(node, "access_log").is_some() || old.value.is_null() {
        return put(node, old.index, old.into_entry());
    }
    let written = path.key(&old.name);
    pass.deprecated("access_log_path", "access_log", old.span, &written);
    let span = old.value.span;
    let value = old.value;
    let kind = Entry::new("@type", Node::text(span, FILE_LOG));
    let settings = Node::map(span, vec![kind, Entry::new("path", from(value, &written))]);
    let name = Entry::new("name", Node::text(span, "envoy.access_loggers.file"));
    let log = Node::map(span, vec![name, Entry::new("typed_config", settings)]);
    put(node, old.index, renamed(&old.name, old.span, "access_log", Node::list(span, vec![log])));
}

/// `http2_protocol_options` of a cluster that says nothing else of its protocol.
fn http2(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    if OTHER_OPTIONS.iter().any(|other| find(node, other).is_some()) {
        return;
    }
    let Some(old) = take(node, "http2_protocol_options") else { return };
    if !matches!(old.value.kind, Kind::Map(_)) {
        return put(node, old.index, old.into_entry());
    }
    let written = path.key(&old.name);
    pass.deprecated("http2_protocol_options", "typed_extension_protocol_options", old.span, &written);
    let span = old.value.span;
    let value = old.value;
    let kind = Entry::new("@type", Node::text(span, format!("type.googleapis.com/{HTTP_OPTIONS}")));
    let explicit = Node::wrap("http2_protocol_options", from(value, &written));
    let options = Node::map(span, vec![kind, Entry::new("explicit_http_config", explicit)]);
    let options = Node::wrap(HTTP_OPTIONS, options);
    put(node, old.index, renamed(&old.name, old.span, "typed_extension_protocol_options", options));
}
