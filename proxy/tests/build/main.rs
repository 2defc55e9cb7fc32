//! A bootstrap's facts, defaults and findings.
//!
//! Texts go through the real reader.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

use std::sync::Arc;
use std::time::Duration;

use proxy::build::{Discovery, Flavor, Graph, Node, Parts, graph};
use proxy::cluster::UpstreamProtocol;
use proxy::route::{Action, Target};
use proxy::snapshot::{Codec, HttpManager, ListenerKind};
use proxy::state::Direction;
use proxy::stats::Registry;
use xds::{Code, Diagnostic};

mod broken;
mod chains;
mod mutated;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A bootstrap with one listener, whose connection manager and clusters are given as YAML in flow style.
fn bootstrap(manager: &str, clusters: &str) -> String {
    format!(
        "static_resources:
  listeners:
  - name: main
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 10000 }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config: {{ \"@type\": {HCM}, stat_prefix: main, http_filters: [{{ name: r, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}], {manager} }}
  clusters: [{clusters}]
"
    )
}

/// The same with these routes.
fn routes(routes: &str, clusters: &str) -> String {
    bootstrap(
        &format!("route_config: {{ virtual_hosts: [{{ name: all, domains: ['*'], routes: [{routes}] }}] }}"),
        clusters,
    )
}

fn cluster(more: &str) -> String {
    format!("{{ name: c, {more} }}")
}

fn parts<'a>(node: &Node, registry: &'a Registry) -> Parts<'a> {
    Parts { node: node.clone(), flavor: Flavor::Sidecar, registry, logs: None, runtime: &[], files: None }
}

fn built(text: &str) -> Result<(Graph, Vec<Diagnostic>), Vec<Diagnostic>> {
    let read = xds::read_bootstrap("t.yaml", text)?;
    graph(&read, parts(&Node::new(&read.message, None, None), &Registry::new(1)), None)
}

/// What is found, each as `path: message`.
fn findings(text: &str) -> Vec<String> {
    let found = match built(text) {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    };
    let shown = |found: Diagnostic| {
        assert!(found.line.is_some(), "no position: {found:?}");
        format!("{}: {}", found.path.unwrap_or_default(), found.message)
    };
    found.into_iter().map(shown).collect()
}

#[track_caller]
fn refused(text: &str, path: &str, message: &str) {
    assert!(built(text).is_err(), "accepted: {text}");
    let found = findings(text);
    let hit = found.iter().any(|found| {
        let (at, said) = found.split_once(": ").unwrap();
        at.ends_with(path) && said.contains(message)
    });
    assert!(hit, "no `{message}` at `{path}` in {found:#?}");
}

fn manager(graph: &Graph) -> Arc<HttpManager> {
    match &graph.listeners[0].listener.chains.chains[0].kind {
        ListenerKind::Http(manager) => Arc::clone(manager),
        ListenerKind::Tcp(_) => panic!("not HTTP"),
    }
}

const TO_C: &str = "{ match: { prefix: / }, route: { cluster: c } }";
const STATIC: &str = "type: STATIC, load_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } } }] }] }";

#[test]
fn defaults_are_envoys() {
    let (graph, warnings) = built(&routes(TO_C, &cluster(STATIC))).unwrap();
    assert_eq!(warnings, []);
    let listener = &graph.listeners[0].listener;
    assert_eq!(
        (listener.direction, listener.bind, listener.buffer_limit),
        (Direction::Outbound, true, 1 << 20)
    );
    let manager = manager(&graph);
    let seconds = |value: Option<Duration>| value.map(|value| value.as_secs());
    let timeouts = manager.timeouts;
    assert_eq!(seconds(timeouts.idle), Some(3600));
    assert_eq!(seconds(timeouts.stream_idle), Some(300));
    assert_eq!((seconds(timeouts.delayed_close), timeouts.drain.as_secs()), (Some(1), 5));
    assert_eq!(
        (timeouts.request, timeouts.request_headers, timeouts.max_stream_duration),
        (None, None, None)
    );
    assert_eq!((manager.limits.max_request_headers_bytes, manager.limits.max_headers), (60 * 1024, 100));
    assert_eq!(manager.codec, Codec::Auto);
    assert!(manager.rules.request_id.generate && manager.http1.allow_absolute_url);
    let Action::Forward(forward) = &manager.routes.virtual_hosts[0].routes[0].action else { panic!() };
    assert_eq!(seconds(forward.timeout), Some(15));
    let policy = &graph.clusters["c"].policy;
    assert_eq!((policy.connect_timeout.as_secs(), seconds(policy.idle_timeout)), (5, Some(3600)));
    assert_eq!((policy.buffer_limit, policy.protocol), (1 << 20, UpstreamProtocol::Http1));
    assert_eq!((policy.breakers[0].max_retries, policy.breakers[1].max_requests), (3, 1024));
}

#[test]
fn a_clusters_limits_of_buffers_and_headers_reach_both_protocols() {
    let limits =
        "per_connection_buffer_limit_bytes: 32768, common_http_protocol_options: { max_headers_count: 7 }";
    let text = routes(TO_C, &cluster(&format!("{STATIC}, {limits}")));
    let (graph, _) = built(&text).unwrap();
    let policy = &graph.clusters["c"].policy;
    assert_eq!(policy.http1.read_limit, 32_768);
    assert_eq!((policy.http2.initial_stream_window, policy.http2.send_buffer), (32_768, 32_768));
    assert_eq!((policy.http1.limits.fields, policy.http2.max_fields), (7, 7));
}

#[test]
fn a_listener_for_all_addresses_is_inbound_unless_it_says_otherwise() {
    let text = routes(TO_C, &cluster(STATIC)).replacen("127.0.0.1", "0.0.0.0", 1);
    assert_eq!(built(&text).unwrap().0.listeners[0].listener.direction, Direction::Inbound);
    let text = text.replace("- name: main", "- name: main\n    traffic_direction: OUTBOUND");
    assert_eq!(built(&text).unwrap().0.listeners[0].listener.direction, Direction::Outbound);
}

#[test]
fn every_finding_of_a_file_comes_in_one_run_with_its_place() {
    let text =
        routes("{ match: { prefix: / }, route: { cluster: cc } }", "{ name: c, type: EDS }, { name: c }");
    let found = findings(&text);
    let base = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config";
    assert!(
        found.contains(&format!("{base}.virtual_hosts[0].routes[0].route.cluster: there is no cluster `cc`")),
        "{found:#?}"
    );
    assert!(found.iter().any(|found| found.starts_with("static_resources.clusters[0].eds_cluster_config: an EDS cluster")));
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn what_routes_cannot_do_is_refused() {
    let c = cluster(STATIC);
    let check = |route: &str, path: &str, message: &str| refused(&routes(route, &c), path, message);
    let to = |action: &str| format!("{{ match: {{ prefix: / }}, route: {{ {action} }} }}");
    check(&to("cluster: x"), "route.cluster", "there is no cluster `x`");
    check(
        &to("weighted_clusters: { clusters: [{ name: c, weight: 0 }] }"),
        "weighted_clusters",
        "sum of the weights",
    );
    check(&to("weighted_clusters: { clusters: [{ weight: 1 }] }"), "clusters[0]", "one of `name`");
    check(&to("weighted_clusters: { clusters: [{ name: c }] }"), "clusters[0]", "`weight` is needed");
    check(
        &to("cluster: c, prefix_rewrite: /, regex_rewrite: { pattern: { regex: a }, substitution: b }"),
        "regex_rewrite",
        "only one of",
    );
    check(
        &to("cluster: c, retry_policy: { retry_host_predicate: [{ name: omit_some }] }"),
        "retry_policy.retry_host_predicate[0].name",
        "there is no host predicate `omit_some`",
    );
    check(
        "{ match: { safe_regex: { regex: '[' } }, route: { cluster: c } }",
        "match.safe_regex.regex",
        "not a regular expression",
    );
    check(
        "{ match: { prefix: / }, redirect: { regex_rewrite: { pattern: { regex: a }, substitution: '\\1' } } }",
        "regex_rewrite.substitution",
        "group 1",
    );
    let long = "x".repeat(5000);
    check(
        &format!(
            "{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {long} }} }} }}"
        ),
        "direct_response.body",
        "5000 bytes",
    );
    check(
        "{ match: { prefix: / }, route: { cluster: c }, request_headers_to_add: [{ header: { key: Host, value: x } }] }",
        "header.key",
        "`Host` cannot be changed",
    );
}

#[test]
fn a_domain_stands_once() {
    let host =
        |name: &str, domain: &str| format!("{{ name: {name}, domains: ['{domain}'], routes: [{TO_C}] }}");
    let table = |hosts: &[String]| {
        bootstrap(&format!("route_config: {{ virtual_hosts: [{}] }}", hosts.join(", ")), &cluster(STATIC))
    };
    refused(&table(&[host("a", "pet"), host("b", "PET")]), "virtual_hosts[1].domains[0]", "host `a` already");
    refused(&table(&[host("a", "*"), host("b", "*")]), "virtual_hosts[1].domains[0]", "host `a` already");
    assert!(
        built(&table(&[host("a", "p*t")])).unwrap().1.iter().any(|found| found.code == Code::UnmatchedDomain)
    );
}

#[test]
fn what_clusters_cannot_be_is_refused() {
    let check = |more: &str, path: &str, message: &str| refused(&routes(TO_C, &cluster(more)), path, message);
    let endpoint = |host: &str| {
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: 80 }} }} }} }}")
    };
    let assignment = |members: &str| {
        format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{members}] }}] }}")
    };
    check(&assignment(&endpoint("pet")), "socket_address.address", "`pet` is not an IP address");
    check("type: LOGICAL_DNS", "load_assignment", "exactly one endpoint");
    check("type: EDS", "eds_cluster_config", "needs an `eds_config`");
    let sds = |more: &str| {
        format!(
            "type: EDS, eds_cluster_config: {{ eds_config: {{ api_config_source: {{ api_type: REST_LEGACY, {more} }} }} }}"
        )
    };
    check(&sds("cluster_names: [x], refresh_delay: 1s"), "cluster_names[0]", "there is no cluster `x`");
    check(&sds("cluster_names: [c], refresh_delay: 1s"), "cluster_names[0]", "is EDS itself");
    check(&sds("refresh_delay: 1s"), "cluster_names", "exactly one cluster");
    let two = format!("{}, {}", cluster(STATIC), cluster(STATIC));
    refused(&routes(TO_C, &two), "clusters[1].name", "belongs to another cluster");
}

#[test]
fn what_listeners_cannot_be_is_refused() {
    let text = routes(TO_C, &cluster(STATIC));
    refused(
        &text.replacen("127.0.0.1", "localhost", 1),
        "address.socket_address.address",
        "`localhost` is not an IP",
    );
    let (head, tail) = text.split_once("    filter_chains:").unwrap();
    let (_, clusters) = tail.split_once("  clusters:").unwrap();
    refused(&format!("{head}  clusters:{clusters}"), "filter_chains", "needs a filter chain");
    let listener = format!(
        "  - name: main{}",
        text.split_once("- name: main").unwrap().1.split_once("  clusters").unwrap().0
    );
    let twice = text.replace("  clusters:", &format!("{listener}  clusters:"));
    refused(&twice, "listeners[1].name", "belongs to another listener");
    refused(
        &twice.replacen("name: main", "name: other", 1),
        "listeners[1].address",
        "listens on 127.0.0.1:10000 already",
    );
    let router = "{ name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }";
    refused(&text.replace(router, &format!("{router}, {router}")), "http_filters[0]", "must be the last");
}

#[test]
fn udp_is_for_dns_servers_only() {
    let text = routes(TO_C, &cluster(STATIC));
    let udp = text.replacen("socket_address: {", "socket_address: { protocol: UDP,", 1);
    refused(&udp, "address.socket_address.protocol", "UDP is not implemented");
    let server = "dns_resolution_config: { resolvers: [{ socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 53 } }] }\n";
    let (graph, _) = built(&format!("{server}{}", text.replace("type: STATIC", "type: STRICT_DNS"))).unwrap();
    let Discovery::Dns(dns) = &*graph.clusters["c"].discovery else { panic!() };
    assert_eq!(dns.resolver.servers, ["127.0.0.1:53".parse().unwrap()]);
}

#[test]
fn a_missing_router_is_added_with_a_warning() {
    let router = "http_filters: [{ name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }], ";
    let (_, warnings) = built(&routes(TO_C, &cluster(STATIC)).replace(router, "")).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message.contains("no router filter"), "{warnings:?}");
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let warned = |text: &str, message: &str| {
        let (_, warnings) = built(text).unwrap();
        assert!(warnings.iter().any(|warning| warning.message.contains(message)), "{warnings:?}");
    };
    warned(&routes(&format!("{TO_C}, {TO_C}"), &cluster(STATIC)), "no request reaches this route");
    warned(&routes("", &cluster(STATIC)), "nothing in this file uses the cluster `c`");
    let admin = "admin: { address: { socket_address: { address: 0.0.0.0, port_value: 8081 } } }\n";
    warned(&format!("{admin}{}", routes(TO_C, &cluster(STATIC))), "the admin page is open to everybody");
}

#[test]
fn a_cluster_that_is_asked_for_configuration_is_not_selectable_by_header() {
    let eds = "{ name: e, type: EDS, eds_cluster_config: { eds_config: { api_config_source: { api_type: REST_LEGACY, cluster_names: [c], refresh_delay: 2s } } } }";
    let text = routes(
        "{ match: { prefix: / }, route: { cluster_header: X-Pick } }",
        &format!("{}, {eds}", cluster(STATIC)),
    );
    let (graph, _) = built(&text).unwrap();
    assert!(!graph.clusters["c"].policy.selectable_by_header);
    assert!(graph.clusters["e"].policy.selectable_by_header);
    let Discovery::SdsV1(sds) = &*graph.clusters["e"].discovery else { panic!() };
    assert_eq!((&*sds.cluster, &*sds.service, sds.refresh_delay.as_secs()), ("c", "e", 2));
    let manager = manager(&graph);
    let Action::Forward(forward) = &manager.routes.virtual_hosts[0].routes[0].action else { panic!() };
    assert!(matches!(&forward.target, Target::Header(name) if &**name == "x-pick"));
}

#[test]
fn what_did_not_change_is_shared_with_the_graph_before() {
    let read = |text: &str| xds::read_bootstrap("t.yaml", text).unwrap();
    let registry = Registry::new(1);
    let build = |text: &str, previous: Option<&Graph>| {
        let read = read(text);
        graph(&read, parts(&Node::new(&read.message, None, None), &registry), previous).unwrap().0
    };
    let text = routes(TO_C, &cluster(STATIC));
    let first = build(&text, None);
    let second = build(&text.replace("name: c, type", "name: c, connect_timeout: 1s, type"), Some(&first));
    assert!(Arc::ptr_eq(&first.listeners[0].listener, &second.listeners[0].listener));
    let (before, after) = (&first.clusters["c"], &second.clusters["c"]);
    assert!(!Arc::ptr_eq(&before.policy, &after.policy));
    assert!(Arc::ptr_eq(&before.discovery, &after.discovery));
    assert!(Arc::ptr_eq(&before.breakers, &after.breakers));
    assert!(Arc::ptr_eq(&before.stats, &after.stats));
}

#[test]
fn the_runtime_of_the_file_decides_fractions() {
    let route = "{ match: { prefix: /, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: r.share } }, route: { cluster: c } }";
    let layer = "layered_runtime: { layers: [{ name: s, static_layer: { r: { share: 30 } } }] }\n";
    let (graph, _) = built(&format!("{layer}{}", routes(route, &cluster(STATIC)))).unwrap();
    let fraction = manager(&graph).routes.virtual_hosts[0].routes[0]
        .fraction
        .as_ref()
        .map(|f| (f.numerator, f.denominator));
    assert_eq!(fraction, Some((30, 100)));
}
