//! Which chain takes which connection.

use super::*;
use crate::snapshot::{ListenerKind, TcpEnd};

fn chain(name: &str, conditions: Conditions) -> Arc<FilterChain> {
    let kind = ListenerKind::Tcp(Arc::new(TcpEnd::Echo));
    Arc::new(FilterChain {
        name: name.into(),
        conditions,
        gates: Vec::new(),
        kind,
        generation: Arc::default(),
    })
}

fn facts<'a>(local: &str, remote: &str) -> Facts<'a> {
    let remote = remote.parse().unwrap();
    let local = local.parse().unwrap();
    Facts { local, remote, peer: remote, server_name: "", transport: "raw_buffer", applications: &[] }
}

fn cidr(text: &str) -> Cidr {
    let (address, bits) = text.split_once('/').unwrap();
    Cidr::new(address.parse().unwrap(), bits.parse().unwrap())
}

fn chosen<'c>(chains: &'c FilterChains, facts: &Facts<'_>) -> &'c str {
    chains.choose(facts).map_or("none", |chain| &*chain.name)
}

#[test]
fn a_port_once_chosen_is_not_given_up_for_a_chain_without_one() {
    let chains = FilterChains {
        chains: vec![
            chain("any", Conditions::default()),
            chain(
                "port",
                Conditions {
                    destination_port: Some(80),
                    sources: vec![cidr("10.0.0.0/8")],
                    ..Conditions::default()
                },
            ),
        ],
        default: Some(chain("default", Conditions::default())),
    };
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "10.1.1.1:5")), "port");
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "11.1.1.1:5")), "default");
    assert_eq!(chosen(&chains, &facts("192.0.2.1:81", "10.1.1.1:5")), "any");
}

#[test]
fn the_longest_range_the_source_and_its_port_decide_in_this_order() {
    let sources = |ranges: &[&str], ports: &[u16]| Conditions {
        sources: ranges.iter().map(|range| cidr(range)).collect(),
        source_ports: ports.to_vec(),
        ..Conditions::default()
    };
    let chains = FilterChains {
        chains: vec![
            chain("wide", sources(&["10.0.0.0/8", "192.168.0.0/16"], &[])),
            chain("narrow", sources(&["10.1.0.0/16"], &[7])),
            chain("here", Conditions { source: Source::Local, ..Conditions::default() }),
        ],
        default: None,
    };
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "192.168.9.9:5")), "wide");
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "10.2.0.1:7")), "wide");
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "10.1.0.1:7")), "narrow");
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "10.1.0.1:8")), "none");
    assert_eq!(chosen(&chains, &facts("192.0.2.1:80", "127.0.0.2:8")), "here");
    assert_eq!(chosen(&chains, &facts("10.1.0.1:80", "10.1.0.1:7")), "here");
}

#[test]
fn an_exact_server_name_wins_over_the_longest_wildcard() {
    let named = |name: &str| Conditions { server_names: vec![name.into()], ..Conditions::default() };
    let chains = FilterChains {
        chains: vec![
            chain("com", named(".com")),
            chain("example", named(".example.com")),
            chain("www", named("www.example.com")),
            chain("h2", Conditions { applications: vec!["h2".into()], ..Conditions::default() }),
        ],
        default: None,
    };
    let name = |server_name| Facts { server_name, ..facts("192.0.2.1:443", "10.1.1.1:5") };
    for (server_name, wanted) in [
        ("www.example.com", "www"),
        ("api.example.com", "example"),
        ("example.com", "com"),
        ("example.org", "none"),
    ] {
        assert_eq!(chosen(&chains, &name(server_name)), wanted, "{server_name}");
    }
    let offered = ["http/1.1".into(), "h2".into()];
    assert_eq!(chosen(&chains, &Facts { applications: &offered, ..name("") }), "h2");
}
