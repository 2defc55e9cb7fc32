//! Old forms around filters: the TCP proxy's routes, tags of spans, the services that filters ask.

use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Origin, Scalar, Span};
use super::clusters::transport;
use super::fields::merge;
use super::shapes::Shape;
use super::{Mode, Pass, add, find, find_mut, from, items, put, renamed, scalar, take};

const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// Brings one message up to date.
pub(super) fn upgrade(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    match shape {
        "HttpConnectionManager" => {
            provider(pass, node, path);
            if pass.mode == Mode::Rewrite {
                router(pass, node, path);
            }
        }
        "Tracing" => tags(pass, node, path),
        "Zipkin" => zipkin(pass, node, path),
        "TcpProxy" => tcp_routes(pass, node, path),
        "HealthCheckFilter" => endpoint(pass, node, path),
        "RateLimitFilter" => rate_limit_service(pass, node, path),
        "FileAccessLog" => {
            for field in ["format", "json_format"] {
                operators(pass, node, field, path);
            }
        }
        "HeaderValueOption" => operators(pass, node, "header", path),
        "RateLimitService" | "GrpcCommon"
            if pass.mode == Mode::Rewrite && find(node, "grpc_service").is_some() =>
        {
            transport(pass, node, path);
        }
        _ => {}
    }
}

/// The tracer of the whole process, which each manager that traces has for itself today.
fn provider(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(tracer) = pass.tracer.take() else { return };
    if let Some(tracing) = find_mut(node, "tracing") {
        if tracing.value.is_null() {
            tracing.value.kind = Kind::Map(Vec::new());
            tracing.value.origin = Origin::Touched;
        }
        if find(&tracing.value, "provider").is_none() {
            match pass.copy(&tracer) {
                Some(copy) => add(&mut tracing.value, "provider", copy),
                None => {
                    let text = "`tracing.http` is to be copied to very many connection managers".to_owned();
                    pass.cannot(text, "write `tracing.provider` where it is needed", tracing.span, path);
                }
            }
            pass.tracer_used = true;
        }
    }
    pass.tracer = Some(tracer);
}

/// Without the router filter every request hangs in Envoy.
fn router(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let there = find(node, "http_filters");
    if there.is_some_and(|entry| {
        !matches!(&entry.value.kind, Kind::List(items) if items.is_empty()) && !entry.value.is_null()
    }) {
        return;
    }
    let span = there.map_or(node.span, |entry| entry.span);
    let index = take(node, "http_filters").map_or(usize::MAX, |old| old.index);
    let settings = Node::map(span, vec![Entry::new("@type", Node::text(span, ROUTER))]);
    let name = Entry::new("name", Node::text(span, "envoy.filters.http.router"));
    let filter = Node::map(span, vec![name, Entry::new("typed_config", settings)]);
    put(node, index, Entry::new("http_filters", Node::list(span, vec![filter])));
    pass.added("there is no router filter, and every request would hang: it is added", span, path);
}

/// `request_headers_for_tags` to `custom_tags`.
fn tags(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "request_headers_for_tags") else { return };
    let written = path.key(&old.name);
    pass.note("request_headers_for_tags", "custom_tags", old.span, &written);
    let span = old.value.span;
    let names = items(old.value);
    let tag = |(index, name): (usize, Node)| {
        let tag = Entry::new("tag", from(name.clone(), &written.index(index)));
        let header = Node::wrap("name", from(name, &written.index(index)));
        Node::map(tag.span, vec![tag, Entry::new("request_header", header)])
    };
    let tags = Node::list(span, names.into_iter().enumerate().map(tag).collect());
    merge(node, renamed(&old.name, old.span, "custom_tags", tags));
}

/// Spans go to the collector in its second API: the first, which an absent version meant, is gone from Envoy.
fn zipkin(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    if find(node, "collector_cluster").is_none() {
        return;
    }
    let version = find(node, "collector_endpoint_version").map(|entry| &entry.value);
    let message = match version.map(|version| scalar(version).unwrap_or_default()) {
        None => "`collector_endpoint_version` is missing, which meant `HTTP_JSON_V1` in 2018".to_owned(),
        Some(old) if old.eq_ignore_ascii_case("HTTP_JSON_V1") || old == "0" => {
            format!("`{old}` is a form of 2018")
        }
        Some(_) => return,
    };
    let (index, span) = match take(node, "collector_endpoint_version") {
        Some(old) => (old.index, old.value.span),
        None => (usize::MAX, Span { end: node.span.start, ..node.span }),
    };
    put(node, index, Entry::new("collector_endpoint_version", Node::plain(span, "HTTP_JSON")));
    let done = pass.done();
    pass.say(format!("{message}, {done} `HTTP_JSON`"), span, path);
    let Some(entry) = find_mut(node, "collector_endpoint") else { return };
    let Some(new) = scalar(&entry.value)
        .filter(|text| text.contains("/api/v1/"))
        .map(|text| text.replace("/api/v1/", "/api/v2/"))
    else {
        return;
    };
    let old = scalar(&entry.value).unwrap_or_default().to_owned();
    let span = entry.value.span;
    entry.value.kind = Kind::Scalar(Scalar { text: new.clone(), quoted: true });
    entry.value.origin = Origin::Made;
    pass.note(&old, &new, span, &path.key("collector_endpoint"));
}

/// The routes of the v1 API: one without conditions is the cluster; others are left to `chains`.
fn tcp_routes(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let name = if find(node, "route_config").is_some() { "route_config" } else { "deprecated_v1" };
    let Some(old) = take(node, name) else { return };
    let written = path.key(&old.name);
    let Some(routes) = find(&old.value, "routes").map(|entry| entry.value.clone()) else {
        return pass.dropped(name, "it marked settings of the v1 API", old.span, &written);
    };
    let mut routes = items(routes);
    let cluster = match routes.as_mut_slice() {
        [route] if matches!(&route.kind, Kind::Map(entries) if entries.len() == 1) => take(route, "cluster"),
        _ => None,
    };
    let Some(cluster) = cluster else {
        let index = old.index;
        return put(node, index, old.into_entry());
    };
    pass.note(name, "cluster", old.span, &written);
    let value = from(cluster.value, &written.key("routes").index(0).key("cluster"));
    put(node, old.index, renamed(&old.name, old.span, "cluster", value));
}

/// `endpoint`, a path, to a condition on `:path`.
fn endpoint(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    let Some(old) = take(node, "endpoint") else { return };
    let written = path.key(&old.name);
    pass.note("endpoint", "headers", old.span, &written);
    let span = old.value.span;
    let value = old.value;
    let matcher = Entry::new("string_match", Node::wrap("exact", from(value, &written)));
    let header = Node::map(span, vec![Entry::new("name", Node::text(span, ":path")), matcher]);
    merge(node, renamed(&old.name, old.span, "headers", Node::list(span, vec![header])));
}

/// The rate limit service of the whole process, which each filter names today.
fn rate_limit_service(pass: &mut Pass<'_, '_>, node: &mut Node, path: &Path<'_>) {
    if find(node, "rate_limit_service").is_some() {
        return;
    }
    let Some(service) = pass.rate_limit_service.take() else {
        if pass.mode == Mode::Rewrite {
            let text =
                "`rate_limit_service` is missing: without it this filter did nothing in 2018".to_owned();
            let help = "name the service in `rate_limit_service.grpc_service`, or remove the filter";
            pass.cannot(text, help, Span { end: node.span.start, ..node.span }, path);
        }
        return;
    };
    match pass.copy(&service) {
        Some(copy) => add(node, "rate_limit_service", copy),
        None => {
            let text = "`rate_limit_service` is to be copied to very many filters".to_owned();
            pass.cannot(text, "write it where it is needed", node.span, path);
        }
    }
    pass.rate_limit_service = Some(service);
}

/// Operators that have another name today.
const OPERATORS: &[(&str, &str)] = &[
    ("%DOWNSTREAM_ADDRESS%", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("%CLIENT_IP%", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
];

/// Old operators in a text, or in all texts below a field.
fn operators(pass: &mut Pass<'_, '_>, node: &mut Node, field: &str, path: &Path<'_>) {
    let Some(entry) = find_mut(node, field) else { return };
    let written = path.key(entry.written.as_deref().unwrap_or(&entry.name));
    let value = &mut entry.value;
    match &mut value.kind {
        Kind::Scalar(scalar) => {
            for (old, new) in OPERATORS {
                if scalar.text.contains(old) {
                    scalar.text = scalar.text.replace(old, new);
                    value.origin = Origin::Made;
                    pass.note(old, new, value.span, &written);
                }
            }
        }
        Kind::Map(entries) => {
            let names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
            for name in names {
                operators(pass, value, &name, &written);
            }
        }
        Kind::List(_) => {}
    }
}
