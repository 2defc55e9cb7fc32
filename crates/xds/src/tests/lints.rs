//! Each lint on a file that has what it warns of and on one that has not.

use crate::{Code, Diagnostic, lint, read_bootstrap};

const ROUTER: &str = r#"{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"#;

/// A file with these fields of a connection manager, of its virtual host, and of the cluster `c`.
fn file(manager: &str, host: &str, cluster: &str) -> String {
    format!(
        "static_resources: {{clusters: [{{name: c{cluster}}}], listeners: [{{name: l, address: {{socket_address: {{address: \
         0.0.0.0, port_value: 10000}}}}, filter_chains: [{{filters: [{{name: h, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: \
         s{manager}, route_config: {{virtual_hosts: [{{name: v, domains: ['*']{host}}}]}}}}}}]}}]}}]}}"
    )
}

fn filters(filters: &str) -> String {
    format!(", http_filters: [{filters}]")
}

fn host(host: &str) -> String {
    file(&filters(ROUTER), &format!(", {host}"), "")
}

fn routes(routes: &str) -> String {
    host(&format!("routes: [{routes}]"))
}

fn action(fields: &str) -> String {
    routes(&format!("{{match: {{prefix: /}}, route: {{cluster: c, {fields}}}}}"))
}

fn cluster(fields: &str) -> String {
    file(&filters(ROUTER), "", &format!(", {fields}"))
}

fn listener(address: &str, fields: &str) -> String {
    format!(
        "static_resources: {{listeners: [{{name: l, address: {{socket_address: {address}}}{fields}, filter_chains: [{{filters: []}}]}}]}}"
    )
}

fn findings(text: &str, pod: bool) -> Vec<Diagnostic> {
    match read_bootstrap("envoy.yaml", text) {
        Ok(read) => lint(&read, pod).into_iter().chain(read.warnings).collect(),
        Err(findings) => findings,
    }
}

/// Whether a code is found, at which path and place.
fn found(text: &str, code: Code) -> Option<String> {
    let findings = findings(text, true);
    let hit = findings.iter().find(|finding| finding.code == code)?;
    assert!(hit.line.is_some() && hit.column.is_some(), "no place: {hit:?}");
    assert_eq!(hit.is_error(), !code.is_warning(), "{hit:?}");
    assert!(hit.suggestion.is_some() || hit.is_error(), "no remedy: {hit:?}");
    hit.path.clone()
}

#[track_caller]
fn lints(code: Code, path: &str, bad: &str, good: &str) {
    let at =
        found(bad, code).unwrap_or_else(|| panic!("{code:?} not found in {bad}: {:?}", findings(bad, true)));
    assert!(at.ends_with(path), "{code:?} at {at}");
    assert_eq!(found(good, code), None, "{good}");
}

#[test]
fn a_router_is_missed() {
    lints(Code::NoRouter, "typed_config.http_filters", &file("", "", ""), &file(&filters(ROUTER), "", ""));
}

#[test]
fn routes_behind_wider_ones_are_found() {
    let pair = |first: &str, second: &str| {
        routes(&format!(
            "{{match: {{{first}}}, route: {{cluster: c}}}}, {{match: {{{second}}}, route: {{cluster: c}}}}"
        ))
    };
    for (wide, narrow, other) in [
        ("prefix: /", "prefix: /pets", "prefix: ''"),
        ("prefix: ''", "path: /pets", ""),
        ("prefix: /", "safe_regex: {regex: '/a.*'}", ""),
        ("prefix: /pets", "path: /pets/1", "path: /pet"),
        ("prefix: /pets", "path_separated_prefix: /pets/a", "prefix: /pet"),
        ("path: /a", "path: /a, headers: [{name: x, present_match: true}]", "prefix: /a"),
        ("path_separated_prefix: /a", "prefix: /a/b", "prefix: /ab"),
        ("path_separated_prefix: /a", "path: /a", "path: /ab"),
        ("prefix: /a, case_sensitive: false", "prefix: /A/b", "prefix: /b"),
        ("prefix: /a", "prefix: /a/b", "prefix: /a/b, case_sensitive: false"),
        (
            "prefix: /, headers: [{name: x}]",
            "prefix: /, headers: [{name: x}]",
            "prefix: /, headers: [{name: y}]",
        ),
        ("prefix: /a", "prefix: /a", "prefix: /"),
    ] {
        let other = if other.is_empty() || wide == "prefix: /" { "path: /" } else { other };
        let good =
            if wide == "prefix: /" || wide == "prefix: ''" { pair(narrow, wide) } else { pair(wide, other) };
        lints(Code::UnreachableRoute, "routes[1]", &pair(wide, narrow), &good);
    }
    let share = "prefix: /, runtime_fraction: {default_value: {numerator: 5}}";
    assert_eq!(found(&pair(share, share), Code::UnreachableRoute), None);
}

#[test]
fn paths_and_domains_that_never_match_are_found() {
    let path = |path: &str| routes(&format!("{{match: {{path: {path}}}, route: {{cluster: c}}}}"));
    lints(Code::PathWithQuery, "match.path", &path("'/a?b'"), &path("/a"));
    let domain = |domain: &str| host("routes: []").replace("['*']", domain);
    lints(Code::UnmatchedDomain, "domains[0]", &domain("['a*b']"), &domain("['*.b', 'a.*']"));
}

#[test]
fn timeouts_above_their_parents_are_found() {
    let code = Code::TimeoutAboveParent;
    let retry = |time: &str| format!("retry_policy: {{retry_on: connect-failure, per_try_timeout: {time}}}");
    lints(code, "retry_policy.per_try_timeout", &action(&retry("16s")), &action(&retry("15s")));
    lints(
        code,
        "per_try_timeout",
        &action(&format!("timeout: 2s, {}", retry("3s"))),
        &action(&format!("timeout: 0s, {}", retry("3s"))),
    );
    let stream = "max_stream_duration: {max_stream_duration: 5s}";
    lints(
        code,
        "route.timeout",
        &action(&format!("timeout: 6s, {stream}")),
        &action(&format!("timeout: 5s, {stream}")),
    );
    lints(code, "route.timeout", &action("timeout: 301s"), &action("timeout: 301s, idle_timeout: 0s"));
    let manager =
        |fields: &str| action("timeout: 60s").replace("stat_prefix: s", &format!("stat_prefix: s, {fields}"));
    lints(code, "route.timeout", &manager("stream_idle_timeout: 30s"), &manager("stream_idle_timeout: 60s"));
    let common =
        |time: &str| manager(&format!("common_http_protocol_options: {{max_stream_duration: {time}}}"));
    lints(code, "route.timeout", &common("10s"), &common("70s"));
}

#[test]
fn retries_of_posts_are_found() {
    let code = Code::RetryNonIdempotent;
    let retry = |on: &str| action(&format!("retry_policy: {{retry_on: '{on}'}}"));
    lints(
        code,
        "retry_policy.retry_on",
        &retry("connect-failure,reset"),
        &retry("connect-failure,refused-stream"),
    );
    let of_method = |header: &str| {
        routes(&format!(
            "{{match: {{prefix: /, headers: [{{name: ':method', {header}}}]}}, route: {{cluster: c, retry_policy: {{retry_on: 5xx}}}}}}"
        ))
    };
    lints(
        code,
        "retry_on",
        &of_method("string_match: {exact: POST}"),
        &of_method("string_match: {exact: GET}"),
    );
    lints(
        code,
        "retry_on",
        &of_method("invert_match: true, exact_match: GET"),
        &of_method("exact_match: HEAD"),
    );
    let regex = |regex: &str| of_method(&format!("safe_regex_match: {{regex: '{regex}'}}"));
    lints(code, "retry_on", &regex("GET|POST"), &regex("(GET|HEAD)"));
    let inherited =
        host("retry_policy: {retry_on: reset}, routes: [{match: {prefix: /}, route: {cluster: c}}]");
    assert!(found(&inherited, code).is_some());
}

#[test]
fn retry_conditions_that_do_not_exist_are_found() {
    let retry = |on: &str| action(&format!("retry_policy: {{retry_on: '{on}'}}"));
    let code = Code::UnknownRetryCondition;
    lints(code, "retry_policy.retry_on", &retry("connection-failure"), &retry("connect-failure,unavailable"));
}

#[test]
fn breakers_below_the_need_are_found() {
    let code = Code::BreakerBelowPool;
    let breaker = |limits: &str| cluster(&format!("circuit_breakers: {{thresholds: [{{{limits}}}]}}"));
    lints(
        code,
        "thresholds[0].max_pending_requests",
        &breaker("max_pending_requests: 0"),
        &breaker("max_pending_requests: 1"),
    );
    lints(
        code,
        "max_requests",
        &breaker("max_requests: 10"),
        &breaker("max_requests: 10, max_connections: 10"),
    );
    lints(code, "max_connections", &breaker("max_connections: 0"), &breaker("max_connections: 1"));
    let http2 = cluster("http2_protocol_options: {}, circuit_breakers: {thresholds: {max_requests: 10}}");
    assert_eq!(found(&http2, code), None);
    let endpoint = "{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}";
    let pool = |limit: u32| {
        cluster(&format!(
            "circuit_breakers: {{thresholds: [{{max_connections: {limit}}}]}}, load_assignment: {{cluster_name: c, endpoints: \
             [{{lb_endpoints: [{endpoint}, {endpoint}]}}]}}"
        ))
    };
    lints(code, "max_connections", &pool(1), &pool(2));
}

#[test]
fn ejection_of_nobody_is_found() {
    let endpoint = "{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}";
    let detection = |fields: &str| {
        cluster(&format!(
            "outlier_detection: {{{fields}}}, load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{endpoint}, \
             {endpoint}]}}]}}"
        ))
    };
    let code = Code::OutlierEjectsNobody;
    let path = "outlier_detection.max_ejection_percent";
    lints(code, path, &detection("consecutive_5xx: 1"), &detection("max_ejection_percent: 50"));
    lints(
        code,
        path,
        &detection("max_ejection_percent: {value: 49}"),
        &detection("always_eject_one_host: true"),
    );
    lints(code, path, &detection("max_ejection_percent: 0"), &detection("max_ejection_percent: 100"));
}

#[test]
fn spans_without_a_service_name_are_found_where_a_tracer_is_named() {
    let tracer = "provider: {name: envoy.tracers.zipkin, typed_config: {'@type': \
        type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: c, collector_endpoint: /api/v2/spans}}";
    let traced = file(&format!(", tracing: {{{tracer}}}"), "", "");
    let named = format!("{{node: {{id: a, cluster: b}}, {traced}}}");
    lints(Code::TracingWithoutService, "typed_config.tracing", &traced, &named);
    let without = file(", tracing: {}", "", "");
    assert_eq!(found(&without, Code::TracingWithoutService), None, "no tracer, no spans");
}

#[test]
fn addresses_nobody_reaches_or_binds_are_found() {
    let on = |address: &str| format!("{{address: {address}, port_value: 10000}}");
    let loopback = listener(&on("127.0.0.1"), "");
    lints(Code::LoopbackListener, "socket_address.address", &loopback, &listener(&on("0.0.0.0"), ""));
    lints(
        Code::LoopbackListener,
        "address",
        &listener(&on("'::1'"), ""),
        &listener(&on("127.0.0.1"), ", traffic_direction: OUTBOUND"),
    );
    assert!(findings(&loopback, false).is_empty());
    let port = |port: u16| listener(&format!("{{address: 0.0.0.0, port_value: {port}}}"), "");
    lints(Code::PrivilegedPort, "socket_address.port_value", &port(80), &port(1024));
    let admin = |port: u16| {
        format!("admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}")
    };
    lints(Code::PrivilegedPort, "admin.address.socket_address.port_value", &admin(81), &admin(0));
}

#[test]
fn what_envoy_refuses_across_fields_is_an_error() {
    let layers = |layers: &str| format!("layered_runtime: {{layers: [{layers}]}}");
    lints(
        Code::Structure,
        "layers[1].name",
        &layers("{name: a, static_layer: {}}, {name: a, static_layer: {}}"),
        &layers("{name: a, static_layer: {}}, {name: b, static_layer: {}}"),
    );
    lints(
        Code::Structure,
        "layers[1].admin_layer",
        &layers("{name: a, admin_layer: {}}, {name: b, admin_layer: {}}"),
        &layers("{name: a, admin_layer: {}}"),
    );
    let strip = |fields: &str| file(&format!("{}, {fields}", filters(ROUTER)), "", "");
    let both = "strip_matching_host_port: true, strip_any_host_port: true";
    lints(Code::OneOf, "strip_any_host_port", &strip(both), &strip("strip_any_host_port: true"));
    let disabled = filters(&ROUTER.replace("{name: r,", "{name: r, disabled: true,"));
    lints(
        Code::Structure,
        "http_filters[0].disabled",
        &file(&disabled, "", ""),
        &file(&filters(ROUTER), "", ""),
    );
    let weights = |weight: u32| {
        routes(&format!(
            "{{match: {{prefix: /}}, route: {{weighted_clusters: {{clusters: [{{name: c, weight: {weight}}}, {{name: c, weight: 1}}]}}}}}}"
        ))
    };
    lints(Code::BadValue, "route.weighted_clusters", &weights(u32::MAX), &weights(u32::MAX - 1));
    let append =
        |fields: &str| host(&format!("request_headers_to_add: [{{header: {{key: a, value: b}}, {fields}}}]"));
    lints(
        Code::OneOf,
        "[0].append",
        &append("append: true, append_action: ADD_IF_ABSENT"),
        &append("append: false"),
    );
}

#[test]
fn every_code_is_explained_and_a_slip_is_helped() {
    for code in Code::ALL {
        let text = crate::explain(code.as_str()).unwrap();
        assert!(code.explanation().len() > 60 && text.contains(code.explanation()), "{code:?}");
        assert!(code.about().ends_with('.') && code.explanation().ends_with('.'), "{code:?}");
        assert_eq!(Code::named(code.as_str()), Some(*code));
    }
    assert_eq!(
        crate::explain("no-roter").unwrap_err(),
        "there is no code `no-roter`: did you mean `no-router`?"
    );
    assert!(crate::explain("zebra").unwrap_err().contains("lists all codes"));
}
