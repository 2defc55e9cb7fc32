//! Statistics that Envoy shows while nothing happens move when something does, as in Envoy.

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, fields};
use super::proxy::{Proxy, at, cluster, config, free_port, http, merged, route, router, typed};
use super::upstream;

fn tracing(cluster: &str) -> Value {
    json!({ "tracing": { "provider": typed(
        "envoy.tracers.zipkin",
        "envoy.config.trace.v3.ZipkinConfig",
        json!({
            "collector_cluster": cluster,
            "collector_endpoint": "/spans",
            "collector_endpoint_version": "HTTP_JSON",
        }),
    ) } })
}

fn health_check(pass_through: bool) -> Value {
    typed(
        "envoy.filters.http.health_check",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        json!({
            "pass_through_mode": pass_through,
            "headers": [{ "name": ":path", "string_match": { "exact": "/checked" } }],
        }),
    )
}

/// Recorded from Envoy 1.40: a check counts as a check and as not traceable, whatever it asks for.
#[test]
fn a_health_check_is_never_traced() {
    let (host, collector) = (upstream::ok(), upstream::ok());
    for pass_through in [false, true] {
        let port = free_port();
        let filters = json!({ "http_filters": [health_check(pass_through), router()] });
        let manager = merged(tracing("collector"), filters);
        let listener = http("h", port, &route("host"), manager);
        let clusters = [cluster("host", host, json!({})), cluster("collector", collector, json!({}))];
        let proxy = Proxy::start(&config(&[listener], &clusters));
        let mut client = http1::Connection::new(at(port));
        for (path, more) in
            [("/other", ""), ("/checked", ""), ("/checked", "x-client-trace-id: a\r\n"), ("/checked", "")]
        {
            client.send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n{more}\r\n"));
            assert_eq!(client.response().unwrap().status, 200, "{path}");
        }
        proxy.wait_stat("http.h.tracing.health_check", |count| count == 3);
        let counted = ["not_traceable", "random_sampling", "client_enabled", "service_forced"]
            .map(|name| proxy.stat(&format!("http.h.tracing.{name}")));
        assert_eq!(counted, [3, 1, 0, 0], "pass_through_mode: {pass_through}");
    }
}

#[test]
fn trailers_of_http2_clients_are_counted() {
    let port = free_port();
    let listener = http("h", port, &route("host"), json!({}));
    let proxy = Proxy::start(&config(&[listener], &[cluster("host", upstream::ok(), json!({}))]));
    let mut client = http2::Connection::client(at(port));
    let mut post = http2::get("/");
    post[0] = (b":method".to_vec(), b"POST".to_vec());
    for number in 0..3 {
        let stream = client.request(&post, false);
        client.send(DATA, 0, stream, b"body").unwrap();
        client.headers(stream, &fields(&[("x-checksum", "1")]), true).unwrap();
        assert_eq!(client.response(stream).unwrap().status(), 200, "{number}");
    }
    let stream = client.request(&post, false);
    client.send(DATA, END_STREAM, stream, b"body").unwrap();
    assert_eq!(client.response(stream).unwrap().status(), 200);
    proxy.wait_stat("http2.trailers", |count| count == 3);
}

/// Envoy shows the hash of `version_info`, and of nothing where there is none.
#[test]
fn the_version_of_discovered_endpoints_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eds.json");
    let host = upstream::ok();
    let write = |version: Option<&str>, weight: u32| {
        let one = cluster("one", host, json!({}))["load_assignment"].clone();
        let mut resource =
            json!({ "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment" });
        super::proxy::merge(&mut resource, one);
        resource["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] = json!(weight);
        let mut response = json!({ "resources": [resource] });
        if let Some(version) = version {
            response["version_info"] = json!(version);
        }
        let next = folder.path().join("next.json");
        std::fs::write(&next, response.to_string()).unwrap();
        std::fs::rename(next, &path).unwrap();
    };
    write(Some("v7"), 1);
    let from_file = json!({
        "type": "EDS", "load_assignment": null,
        "eds_cluster_config": { "eds_config": { "path_config_source": { "path": path } } },
    });
    let proxy = Proxy::start(&config(&[], &[cluster("one", host, from_file)]));
    proxy.wait_stat("cluster.one.version", |version| version == 7_308_050_424_466_892_544);
    write(None, 2);
    proxy.wait_stat("cluster.one.version", |version| version == 17_241_709_254_077_376_921);
}

#[test]
fn the_version_of_the_server_is_shown_or_what_the_file_says() {
    let proxy = Proxy::start(&config(&[], &[]));
    assert!(proxy.stat("server.version") > 0);
    let said = merged(config(&[], &[]), json!({ "stats_server_version_override": 77 }));
    assert_eq!(Proxy::start(&said).stat("server.version"), 77);
}

/// Recorded from Envoy 1.40: the kept response says so without a value.
#[test]
fn a_kept_response_of_a_degraded_host_is_counted_as_degraded() {
    let host = upstream::http1(|head, _, connection| {
        let degraded = if http1::path(head) == "/checked" { "x-envoy-degraded: true\r\n" } else { "" };
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{degraded}\r\nok"));
        true
    });
    let port = free_port();
    let mut check = health_check(true);
    check["typed_config"]["cache_time"] = json!("600s");
    let listener = http("h", port, &route("host"), json!({ "http_filters": [check, router()] }));
    let proxy = Proxy::start(&config(&[listener], &[cluster("host", host, json!({}))]));
    let mut client = http1::Connection::new(at(port));
    let degraded = [(); 3].map(|()| client.get("/checked").unwrap().header("x-envoy-degraded").unwrap());
    assert_eq!(degraded, ["true", "", ""]);
    for (name, count) in [("degraded", 2), ("cached_response", 2), ("ok", 2)] {
        assert_eq!(proxy.stat(&format!("http.h.health_check.{name}")), count, "{name}");
    }
}
