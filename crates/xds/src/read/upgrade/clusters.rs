//! Old forms around clusters: `hosts`, `tls_context`, health checks, sources of configuration.

use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Origin, Scalar};
use super::shapes::Shape;
use super::{Mode, Pass, add, find, find_mut, from, items, put, renamed, scalar, take, text, truth};

/// Brings one message up to date.
pub(super) fn upgrade(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    match shape {
        "Cluster" => {
            hosts(pass, node, path);
            tls_context(pass, "Upstream", node, path);
        }
        "FilterChain" => tls_context(pass, "Downstream", node, path),
        "Listener" => bind_to_port(pass, node, path),
        "HealthCheck" => redis(pass, node, path),
        "ConfigSource" => pass.discovery |= find(node, "ads").is_some(),
        "ApiConfigSource" => source(pass, node, path),
        _ => {}
    }
}

/// `hosts`, a list of addresses or one, to a load assignment.
fn hosts(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let cluster = text(node, "name").unwrap_or_default().to_owned();
    let Some(old) = take(node, "hosts") else { return };
    let written = path.key(&old.name);
    pass.note("hosts", "load_assignment", old.span, &written);
    let span = old.value.span;
    let value = old.value;
    let addresses: Vec<_> = match value.kind {
        Kind::List(items) => {
            items.into_iter().enumerate().map(|(i, item)| from(item, &written.index(i))).collect()
        }
        _ => vec![from(value, &written)],
    };
    let endpoints =
        addresses.into_iter().map(|address| Node::wrap("endpoint", Node::wrap("address", address)));
    let endpoints = Node::list(span, endpoints.collect());
    let locality = Node::list(span, vec![Node::wrap("lb_endpoints", endpoints)]);
    let name = Entry::new("cluster_name", Node::text(span, cluster));
    let assignment = Node::map(span, vec![name, Entry::new("endpoints", locality)]);
    put(node, old.index, renamed(&old.name, old.span, "load_assignment", from(assignment, &written)));
}

/// `tls_context` to a transport socket.
fn tls_context(pass: &mut Pass<'_, '_>, side: &str, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "tls_context") else { return };
    let written = path.key(&old.name);
    pass.note("tls_context", "transport_socket", old.span, &written);
    let span = old.value.span;
    let mut settings = old.value;
    if settings.is_null() {
        settings = Node::map(span, Vec::new());
    }
    let full_name = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    put(&mut settings, 0, Entry::new("@type", Node::text(span, full_name)));
    let name = Entry::new("name", Node::text(span, "envoy.transport_sockets.tls"));
    let settings = Entry::new("typed_config", from(settings, &written));
    let socket = Node::map(span, vec![name, settings]);
    put(node, old.index, renamed(&old.name, old.span, "transport_socket", from(socket, &written)));
}

/// `deprecated_v1: {bind_to_port: …}` to `bind_to_port`.
fn bind_to_port(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(mut old) = take(node, "deprecated_v1") else { return };
    let written = path.key("deprecated_v1");
    let Some(bind) = take(&mut old.value, "bind_to_port") else {
        return pass.dropped("deprecated_v1", "nothing stands in it", old.span, &written);
    };
    pass.note("deprecated_v1.bind_to_port", "bind_to_port", old.span, &written);
    let value = from(bind.value, &written.key("bind_to_port"));
    put(node, old.index, renamed(&old.name, old.span, "bind_to_port", value));
}

/// `redis_health_check` to a custom one.
fn redis(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "redis_health_check") else { return };
    let written = path.key(&old.name);
    pass.note("redis_health_check", "custom_health_check", old.span, &written);
    let span = old.value.span;
    let mut settings = old.value;
    let full_name = "type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis";
    put(&mut settings, 0, Entry::new("@type", Node::text(span, full_name)));
    let name = Entry::new("name", Node::text(span, "envoy.health_checkers.redis"));
    let settings = Entry::new("typed_config", from(settings, &written));
    let check = Node::map(span, vec![name, settings]);
    put(node, old.index, renamed(&old.name, old.span, "custom_health_check", from(check, &written)));
}

/// How to ask a control plane.
fn source(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    pass.discovery = true;
    let kind = text(node, "api_type").unwrap_or_default().to_ascii_uppercase();
    match kind.as_str() {
        "REST_LEGACY" | "0" => legacy(pass, node, path),
        "GRPC" | "2" => clusters_of_grpc(pass, node, path),
        // Before 1.9, the first value of the enum was REST_LEGACY, and hence what an absent one meant.
        "" if find(node, "cluster_names").is_some() && find(node, "grpc_services").is_none() => {
            let span = node.span;
            let value = Node::plain(span, "REST_LEGACY");
            let message = format!("`api_type` is missing: {} `REST_LEGACY`, as in 2018", pass.done());
            pass.say(message, span, path);
            put(node, 0, Entry::new("api_type", value));
            legacy(pass, node, path);
        }
        _ => {}
    }
    if pass.mode == Mode::Rewrite {
        transport(pass, node, path);
    }
}

/// The v1 API is polled at run time; in a file for today's Envoy it becomes the v3 API.
fn legacy(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(entry) = find_mut(node, "api_type") else { return };
    let number = scalar(&entry.value) == Some("0");
    if pass.mode == Mode::Read && !number {
        return; // a value of the schema, and read without a word
    }
    let new = if pass.mode == Mode::Read { "REST_LEGACY" } else { "REST" };
    entry.value.kind = Kind::Scalar(Scalar { text: new.to_owned(), quoted: false });
    entry.value.origin = Origin::Made;
    let span = entry.value.span;
    let here = path.key("api_type");
    if pass.mode == Mode::Read {
        return pass.note("0", new, span, &here);
    }
    let message = "`REST_LEGACY` asks the v1 API and is written as `REST`: the server must speak the v3 API (petmesh still polls \
                   v1 with the old file)";
    pass.say(message.to_owned(), span, &here);
    if find(node, "refresh_delay").is_none() {
        add(node, "refresh_delay", Node::plain(span, "30s"));
        pass.added("`refresh_delay` is missing, written as `30s`, the default of the v1 API", span, path);
    }
}

/// `cluster_names` of a gRPC source to `grpc_services`.
fn clusters_of_grpc(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    if find(node, "grpc_services").is_some() {
        return;
    }
    let Some(old) = take(node, "cluster_names") else { return };
    let written = path.key(&old.name);
    pass.note("cluster_names", "grpc_services", old.span, &written);
    let span = old.value.span;
    let names = items(old.value);
    let service =
        |(i, name)| Node::wrap("envoy_grpc", Node::wrap("cluster_name", from(name, &written.index(i))));
    let services = Node::list(span, names.into_iter().enumerate().map(service).collect());
    put(node, old.index, renamed(&old.name, old.span, "grpc_services", services));
}

/// Today's Envoy speaks v3 only.
pub(super) fn transport(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let span = node.span;
    let message = "the transport is that of the v3 API, written as `transport_api_version: V3`";
    match find_mut(node, "transport_api_version") {
        None => {
            add(node, "transport_api_version", Node::plain(span, "V3"));
            pass.added(message, span, path);
        }
        Some(entry) => {
            let old = scalar(&entry.value)
                .is_some_and(|text| matches!(text.to_ascii_uppercase().as_str(), "AUTO" | "V2" | "0" | "1"));
            if old {
                let span = entry.value.span;
                entry.value.kind = Kind::Scalar(Scalar { text: "V3".to_owned(), quoted: false });
                entry.value.origin = Origin::Made;
                pass.added(message, span, path);
            }
        }
    }
}

/// Whether a field says yes.
pub(super) fn says_yes(node: &Node, name: &str) -> bool {
    find(node, name).is_some_and(|entry| truth(&entry.value))
}
