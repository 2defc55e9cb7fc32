//! What Envoy 1.40 accepts and refuses in the spelling of a file, and the old forms: tables.

use serde_json::json;

use super::json as bootstrap;
use crate::{Code, read_bootstrap};

/// A cluster with further fields, as JSON.
fn cluster(fields: &str) -> Result<serde_json::Value, Vec<Code>> {
    let text = format!("static_resources: {{clusters: [{{name: pet, {fields}}}]}}");
    match read_bootstrap("envoy.yaml", &text) {
        Ok(_) => Ok(bootstrap("envoy.yaml", &text)["static_resources"]["clusters"][0].clone()),
        Err(findings) => Err(findings.iter().filter(|f| f.is_error()).map(|f| f.code).collect()),
    }
}

#[test]
fn envoys_freedoms_are_granted() {
    for (fields, name, expected) in [
        ("type: strict_dns", "type", json!("STRICT_DNS")),
        ("type: Strict_Dns", "type", json!("STRICT_DNS")),
        ("type: 3", "type", json!("EDS")),
        ("connectTimeout: 0.25s", "connect_timeout", json!("0.250s")),
        ("connect_timeout: \"1s\"", "connect_timeout", json!("1s")),
        ("connect_timeout: {seconds: 2, nanos: 0}", "connect_timeout", json!("2s")),
        ("per_connection_buffer_limit_bytes: \"10000\"", "per_connection_buffer_limit_bytes", json!(10000)),
        ("per_connection_buffer_limit_bytes: 8e3", "per_connection_buffer_limit_bytes", json!(8000)),
        ("per_connection_buffer_limit_bytes: 0x1f", "per_connection_buffer_limit_bytes", json!(31)),
        ("per_connection_buffer_limit_bytes: {value: 5}", "per_connection_buffer_limit_bytes", json!(5)),
        ("per_connection_buffer_limit_bytes: null", "per_connection_buffer_limit_bytes", json!(null)),
        ("respect_dns_ttl: yes", "respect_dns_ttl", json!(true)),
        ("respect_dns_ttl: \"true\"", "respect_dns_ttl", json!(true)),
        ("respect_dns_ttl: \"Yes\"", "respect_dns_ttl", json!(true)),
        ("respect_dns_ttl: ON", "respect_dns_ttl", json!(true)),
        ("alt_stat_name: 1.5", "alt_stat_name", json!("1.5")),
        ("alt_stat_name: \"on\"", "alt_stat_name", json!("on")),
        ("alt_stat_name: a, alt_stat_name: b", "alt_stat_name", json!("b")),
        (
            "dns_resolvers: {socket_address: {address: 10.0.0.1, port_value: 53}}",
            "dns_resolvers",
            json!([{"socket_address": {"address": "10.0.0.1", "port_value": 53}}]),
        ),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 0}}",
            "common_lb_config",
            json!({"healthy_panic_threshold": {}}),
        ),
        ("alt_stat_name: 4294967296", "alt_stat_name", json!("4294967296")),
        ("track_timeout_budgets: false, lb_subset_config: null", "lb_subset_config", json!(null)),
    ] {
        let read = cluster(fields).unwrap_or_else(|codes| panic!("{fields}: {codes:?}"));
        assert_eq!(read.get(name).cloned().unwrap_or_default(), expected, "{fields}");
    }
}

#[test]
fn what_envoy_refuses_is_refused() {
    for (fields, code) in [
        ("<<: {type: EDS}", Code::MergeKey),
        ("alt_stat_name: on", Code::WrongType),
        ("alt_stat_name: 5", Code::WrongType),
        ("connect_timeout: 500ms", Code::BadValue),
        ("connect_timeout: 0.5", Code::BadValue),
        ("connect_timeout: 0s", Code::BadValue),
        ("type: STRICT", Code::BadValue),
        ("type: 77", Code::BadValue),
        ("respect_dns_ttl: 1", Code::WrongType),
        ("per_connection_buffer_limit_bytes: -1", Code::BadValue),
        ("per_connection_buffer_limit_bytes: 18446744073709551616", Code::BadValue),
        ("per_connection_buffer_limit_bytes: 1.5", Code::BadValue),
        ("per_connection_buffer_limit_bytes: {value: 5, x: 6}", Code::WrongType),
        ("circuit_breakers: 5", Code::WrongType),
        ("typed_extension_protocol_options: {a: {}}, metadata: []", Code::WrongType),
    ] {
        assert_eq!(cluster(fields), Err(vec![code]), "{fields}");
    }
}

#[test]
fn what_is_not_implemented_is_named_and_never_ignored() {
    for fields in [
        "lb_policy: CLUSTER_PROVIDED",
        "type: ORIGINAL_DST",
        "upstream_bind_config: {}",
        "transport_socket: {name: tls}",
        "tls_context: {}",
        "eds_cluster_config: {eds_config: {ads: {}}}",
        "eds_cluster_config: {eds_config: {api_config_source: {api_type: GRPC}}}",
        "typed_extension_protocol_options: {a: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions}}",
    ] {
        let codes = cluster(fields).unwrap_err();
        assert!(codes.contains(&Code::NotImplemented), "{fields}: {codes:?}");
    }
}

/// Old forms: fields of a route, and what is read.
#[test]
fn old_forms_of_routes_are_read_as_todays() {
    for (old, new) in [
        (
            "match: {regex: /a.*}, route: {cluster: a}",
            json!({"match": {"safe_regex": {"regex": "/a.*"}}, "route": {"cluster": "a"}}),
        ),
        (
            "match: {prefix: /, headers: [{name: a, regex_match: b.*}]}, route: {cluster: a}",
            json!({"match": {"prefix": "/", "headers": [{"name": "a", "string_match": {"safe_regex": {"regex": "b.*"}}}]},
                "route": {"cluster": "a"}}),
        ),
        (
            "match: {prefix: /}, route: {cluster: a, host_rewrite: b}",
            json!({"match": {"prefix": "/"}, "route": {"cluster": "a", "host_rewrite_literal": "b"}}),
        ),
        (
            "match: {prefix: /}, route: {cluster: a, auto_host_rewrite_header: b}",
            json!({"match": {"prefix": "/"}, "route": {"cluster": "a", "host_rewrite_header": "b"}}),
        ),
    ] {
        let text = format!(
            "static_resources: {{listeners: [{{address: {{socket_address: {{address: 0.0.0.0, port_value: 1}}}}, filter_chains: \
             [{{filters: [{{name: envoy.http_connection_manager, config: {{idle_timeout: 5s, stat_prefix: a, route_config: \
             {{virtual_hosts: [{{name: a, domains: '*', routes: [{{{old}}}]}}]}}, http_filters: [{{name: envoy.router, \
             config: {{deprecated_v1: true}}}}]}}}}]}}]}}]}}"
        );
        let json = bootstrap("envoy.yaml", &text);
        let manager =
            &json["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["route_config"]["virtual_hosts"][0]["routes"][0], new, "{old}");
        assert_eq!(manager["common_http_protocol_options"]["idle_timeout"], "5s");
    }
}
