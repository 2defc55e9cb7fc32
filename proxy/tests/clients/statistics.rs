//! Statistics that few requests move: the same requests move them as in Envoy 1.40.

use serde_json::json;

use super::http1;
use super::proxy::{Proxy, at, cluster, config, free_port, http, router, typed};
use super::upstream;

#[test]
fn checks_of_health_are_counted_by_tracing_as_in_envoy() {
    let port = free_port();
    let zipkin = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
        "collector_cluster": "spans", "collector_endpoint": "/spans", "collector_endpoint_version": "HTTP_JSON",
    });
    let check = typed(
        "envoy.filters.http.health_check",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        json!({
            "pass_through_mode": false,
            "headers": [{ "name": ":path", "string_match": { "exact": "/health" } }],
        }),
    );
    let manager = json!({
        "tracing": { "provider": { "name": "zipkin", "typed_config": zipkin } },
        "http_filters": [check, router()],
    });
    let direct = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    let listener = http("one", port, &direct, manager);
    let proxy = Proxy::start(&config(&[listener], &[cluster("spans", upstream::ok(), json!({}))]));
    for path in ["/", "/health", "/health", "/health", "/other"] {
        let mut client = http1::Connection::new(at(port));
        client.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"));
        client.rest();
    }
    let names = ["http.one.tracing.health_check", "http.one.health_check.ok"];
    let found = names.map(|name| (name.to_owned(), proxy.stat(name).to_string()));
    super::record::compare("statistics", &found, |_, _| None);
}

#[test]
fn the_version_is_a_statistic() {
    let proxy = Proxy::start(&config(&[], &[]));
    assert_ne!(proxy.stat("server.version"), 0);
}
