//! Filter chains and network filters from their messages.
//!
//! Tests of `build`; texts go through the real reader.

use super::*;
use proxy::snapshot::TcpEnd;

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";

/// A bootstrap whose listener has these chains, in flow style; the clusters are `c` and `d`.
fn listener(rest: &str) -> String {
    let clusters = "[{ name: c, type: STATIC, load_assignment: { cluster_name: c } }, \
                     { name: d, type: STATIC, load_assignment: { cluster_name: d } }]";
    format!(
        "static_resources:
  listeners:
  - name: main
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 10000 }} }}
    {rest}
  clusters: {clusters}
"
    )
}

fn filter(name: &str, kind: &str, more: &str) -> String {
    format!("{{ name: {name}, typed_config: {{ \"@type\": {NETWORK}.{kind}, stat_prefix: t, {more} }} }}")
}

fn proxy(more: &str) -> String {
    filter("tcp", "tcp_proxy.v3.TcpProxy", more)
}

fn one_chain(filters: &str) -> String {
    listener(&format!("filter_chains: [{{ filters: [{filters}] }}]"))
}

const DOWN_TO_BOTH: &str =
    "weighted_clusters: { clusters: [{ name: c, weight: 1 }, { name: d, weight: 3 }] }";

#[test]
fn two_chains_for_the_same_connections_are_refused_and_others_are_not() {
    let both = |one: &str, other: &str| {
        let filters = proxy(DOWN_TO_BOTH);
        listener(&format!(
            "filter_chains: [{{ filter_chain_match: {{ {one} }}, filters: [{filters}] }}, \
             {{ filter_chain_match: {{ {other} }}, filters: [{filters}] }}]"
        ))
    };
    let range = "prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }]";
    let same = "prefix_ranges: [{ address_prefix: 10.9.9.9, prefix_len: 8 }]";
    refused(&both(range, same), "filter_chains[1].filter_chain_match", "takes the same connections");
    refused(&both("", ""), "filter_chains[1].filter_chain_match", "takes the same connections");
    let (graph, _) = built(&both(range, "destination_port: 80")).unwrap();
    assert_eq!(graph.listeners[0].listener.chains.chains.len(), 2);
}

/// Pairs of chains with small lists of ranges, against the law that two chains overlap when they have
/// a value of every condition in common.
#[test]
fn chains_overlap_when_they_share_a_value_of_every_condition() {
    let lists: [&[u32]; 5] = [&[], &[1], &[2], &[1, 2], &[3, 1]];
    let ranges = |field: &str, ends: &[u32]| {
        let items: Vec<_> =
            ends.iter().map(|end| format!("{{ address_prefix: 10.0.0.{end}, prefix_len: 32 }}")).collect();
        format!("{field}: [{}]", items.join(", "))
    };
    let ports = |ends: &[u32]| format!("source_ports: {ends:?}");
    let shares = |one: &[u32], other: &[u32]| {
        one.is_empty() && other.is_empty() || one.iter().any(|end| other.contains(end))
    };
    let filters = proxy(DOWN_TO_BOTH);
    for choice in 0..lists.len().pow(4) {
        let list = |digit: u32| lists[choice / lists.len().pow(digit) % lists.len()];
        let chain = |destinations, source_ports| {
            let conditions = [ranges("prefix_ranges", destinations), ports(source_ports)].join(", ");
            format!("{{ filter_chain_match: {{ {conditions} }}, filters: [{filters}] }}")
        };
        let text =
            listener(&format!("filter_chains: [{}, {}]", chain(list(0), list(1)), chain(list(2), list(3))));
        let overlap = shares(list(0), list(2)) && shares(list(1), list(3));
        match built(&text) {
            Ok(_) => assert!(!overlap, "{text}"),
            Err(found) => {
                assert!(
                    overlap && found[0].message.contains("same connections as `filter_chains[0]`"),
                    "{found:?}"
                );
            }
        }
    }
}

#[test]
fn chains_with_too_many_combinations_of_conditions_are_refused_by_name() {
    let ports: Vec<_> = (1..=400).collect();
    let ranges: Vec<_> =
        (0..200).map(|end| format!("{{ address_prefix: 10.0.0.{end}, prefix_len: 32 }}")).collect();
    let chains = |ports: &[u32]| {
        let filters = proxy(DOWN_TO_BOTH);
        listener(&format!(
            "filter_chains: [{{ filter_chain_match: {{ source_ports: {ports:?}, prefix_ranges: [{0}], \
             source_prefix_ranges: [{0}] }}, filters: [{filters}] }}]",
            ranges.join(", ")
        ))
    };
    refused(&chains(&ports), "filter_chains[0].filter_chain_match", "more than 100000 combinations");
    assert!(built(&chains(&[1, 2])).is_ok());
}

#[test]
fn the_last_filter_must_end_the_chain_and_no_other_may() {
    let limit = filter("lim", "connection_limit.v3.ConnectionLimit", "max_connections: 1");
    let echo = "{ name: e, typed_config: { \"@type\": \
        type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } }";
    let all = proxy(DOWN_TO_BOTH);
    refused(&one_chain(&limit), "filters[0]", "does not end the chain");
    refused(&one_chain(&format!("{all}, {limit}")), "filters[1]", "does not end the chain");
    refused(&one_chain(&format!("{all}, {echo}")), "filters[1]", "nothing can follow it");
    let (graph, _) = built(&one_chain(&format!("{limit}, {all}"))).unwrap();
    let chain = &graph.listeners[0].listener.chains.chains[0];
    assert_eq!(chain.gates.len(), 1);
    let ListenerKind::Tcp(end) = &chain.kind else { panic!("not TCP") };
    let TcpEnd::Proxy(proxy) = &**end else { panic!("not tcp_proxy") };
    assert_eq!(proxy.clusters, [("c".into(), 1), ("d".into(), 3)]);
}

#[test]
fn a_listener_with_a_default_chain_alone_is_complete() {
    let text = listener(&format!("default_filter_chain: {{ filters: [{}] }}", proxy(DOWN_TO_BOTH)));
    let (graph, _) = built(&text).unwrap();
    let chains = &graph.listeners[0].listener.chains;
    assert!(chains.chains.is_empty() && chains.default.is_some());
}

#[test]
fn what_only_a_listener_filter_could_tell_is_refused_without_one() {
    let text = listener(&format!(
        "filter_chains: [{{ filter_chain_match: {{ server_names: [a.example] }}, filters: [{}] }}]",
        proxy(DOWN_TO_BOTH)
    ));
    refused(&text, "filter_chain_match.server_names", "not implemented");
}

/// What an extension is called that is not one of ours.
#[test]
fn an_extension_in_the_wrong_place_is_not_called_missing() {
    let filter = |filter: &str| {
        let listener = format!(
            "{{ name: l, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 1 }} }}, \
             filter_chains: [{{ filters: [{filter}] }}] }}"
        );
        format!("static_resources: {{ listeners: [{listener}] }}")
    };
    let typed = |name: &str| {
        filter(&format!(
            "{{ name: x, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.{name} }} }}"
        ))
    };
    let only = |text: &str, said: &str| {
        let found = super::broken::findings("t.yaml", text);
        let errors: Vec<_> = found.iter().filter(|found| found.is_error()).collect();
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert!(errors[0].to_string().contains(said), "{errors:#?}");
    };
    only(
        &typed("filters.http.router.v3.Router"),
        "are not the settings of this kind of extension (network filter)",
    );
    only(
        &typed("filters.network.sni_cluster.v3.SniCluster"),
        "an extension of Envoy that petmesh does not implement",
    );
    only(&filter("{ name: envoy.filters.network.tcp_proxy }"), "needs its configuration");
}
