//! What Envoy 1.40 reads and refuses in single values, as recorded from it (`--mode validate`, and `/clusters` for numbers).

use super::json as bootstrap;
use crate::read_bootstrap;

fn cluster(field: &str) -> String {
    format!("static_resources: {{clusters: [{{name: c, {field}}}]}}")
}

fn route(action: &str) -> String {
    format!(
        "static_resources: {{listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, \
         filter_chains: [{{filters: [{{name: h, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s, \
         route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, {action}}}]}}]}}}}}}]}}]}}]}}"
    )
}

#[test]
fn an_unquoted_zero_in_front_is_octal() {
    for (text, value) in [
        ("010", Some(8)),
        ("0777", Some(511)),
        ("00", Some(0)),
        ("007", Some(7)),
        // No octal number, hence a text, which protobuf reads as decimal.
        ("08", Some(8)),
        ("\"010\"", Some(10)),
        ("0x1f", Some(31)),
        ("\"0x1f\"", Some(31)),
        ("0o10", None),
        ("0b11", None),
        ("1_000", None),
    ] {
        let text = cluster(&format!("per_connection_buffer_limit_bytes: {text}"));
        let read = read_bootstrap("envoy.yaml", &text).ok().map(|_| bootstrap("envoy.yaml", &text));
        let read = read
            .map(|json| json["static_resources"]["clusters"][0]["per_connection_buffer_limit_bytes"].clone());
        assert_eq!(read, value.map(serde_json::Value::from), "{text}");
    }
}

/// What Envoy accepts, and what it refuses.
#[test]
fn values_are_accepted_and_refused_as_envoy_does() {
    for (accepted, fields) in [
        (
            true,
            &[
                "alt_stat_name: 08",
                "alt_stat_name: 5.5",
                "alt_stat_name: 2147483648",
                "alt_stat_name: Null0",
                "alt_stat_name: tRUE",
                "alt_stat_name: !!str 08",
                "alt_stat_name: 0b11",
                "alt_stat_name: 1_000",
                "alt_stat_name: null",
                "per_connection_buffer_limit_bytes: {}",
                "per_connection_buffer_limit_bytes: {value: null}",
                "metadata: {filter_metadata: {a: null}}",
                "circuit_breakers: {thresholds: [null]}",
                "circuit_breakers: {thresholds: [[{}]]}",
                "connect_timeout: 9223372035s",
                "connect_timeout: {nanos: 999999999}",
            ][..],
        ),
        (
            false,
            &[
                "alt_stat_name: 010",
                "alt_stat_name: 0x10",
                "alt_stat_name: -5",
                "alt_stat_name: y",
                "alt_stat_name: On",
                "connect_timeout: 9223372036s",
                "connect_timeout: {nanos: 1000000000}",
                "connect_timeout: {seconds: 1, nanos: -1}",
                "connect_timeout: 1S",
                "connect_timeout: .5s",
                "connect_timeout: +1s",
                "connect_timeout: 0.1234567891s",
                "common_http_protocol_options: {idle_timeout: -1s}",
            ][..],
        ),
    ] {
        for field in fields {
            let text = cluster(field);
            let findings = read_bootstrap("envoy.yaml", &text).err();
            assert_eq!(findings.is_none(), accepted, "{field}: {findings:?}");
        }
    }
    assert!(read_bootstrap("envoy.yaml", "static_resources: {clusters: [[]]}").is_ok());
    assert!(read_bootstrap("envoy.yaml", "static_resources: {clusters: [null]}").is_err());
    assert!(read_bootstrap("envoy.yaml", "stats_flush_interval: 300s").is_err());
}

#[test]
fn bytes_are_base64_with_whole_padding_or_none() {
    for (text, accepted) in [
        ("YQ==", true),
        ("YQ", true),
        ("\"-_8\"", true),
        ("\"+/8=\"", true),
        ("\"\"", true),
        ("\"Y\"", false),
        ("\"YQ=\"", false),
        ("1234", false),
        ("\"%%\"", false),
        ("\"YQ==YQ==\"", false),
    ] {
        let text = route(&format!("direct_response: {{status: 200, body: {{inline_bytes: {text}}}}}"));
        assert_eq!(read_bootstrap("envoy.yaml", &text).is_ok(), accepted, "{text}");
    }
}

#[test]
fn a_type_stands_behind_a_host() {
    let file = |url: &str| {
        route("route: {cluster: c}").replace(
            "stat_prefix: s",
            &format!("stat_prefix: s, http_filters: [{{name: r, typed_config: {{\"@type\": {url}}}}}]"),
        )
    };
    let router = "envoy.extensions.filters.http.router.v3.Router";
    for (url, accepted) in [
        (format!("type.googleapis.com/{router}"), true),
        (format!("a.b/{router}"), true),
        (format!("a/b/{router}"), true),
        (router.to_owned(), false),
        (format!("/{router}"), false),
        (router.replace("Router", "router"), false),
    ] {
        assert_eq!(read_bootstrap("envoy.yaml", &file(&url)).is_ok(), accepted, "{url}");
    }
}
