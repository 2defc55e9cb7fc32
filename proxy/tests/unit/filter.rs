//! One request's way through a chain: which filters run for a route, what they want, what the
//! response gets.
//!
//! Tests of `chain`, `fault`, `cors` and `rbac`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::chain::{
    Chain, Facts, Filter, FilterStatus, Levels, Override, Overrides, Responding, RouteSettings, Settings,
};
use super::{cors, fault, rbac};
use crate::error::Flag;
use crate::matcher::{Cidr, FractionMatcher, StringMatch};
use crate::message::{FieldValue, Method, RequestHead, ResponseHead, Version};
use crate::stats::Registry;
use crate::stream_info::{ConnectionInfo, StreamInfo};

fn share(percent: u32) -> FractionMatcher {
    FractionMatcher { numerator: percent, denominator: 100, ..FractionMatcher::default() }
}

fn abort(kind: fault::AbortKind) -> fault::Settings {
    let abort =
        fault::Abort { kind, share: share(100), runtime_http: None, runtime_grpc: None, text: "".into() };
    fault::Settings { abort: Some(abort), ..fault::Settings::default() }
}

fn fault_filter(registry: &Registry, settings: fault::Settings) -> Settings {
    Settings::Fault(fault::Fault {
        stats: registry.scope("fault."),
        by_cluster: fault::ByCluster::new(|_| None),
        settings,
    })
}

fn chain(name: &str, disabled: bool, settings: Settings) -> Chain {
    Chain(vec![Filter { name: name.into(), disabled, settings }])
}

fn level(name: &str, disabled: bool, settings: Option<RouteSettings>) -> Overrides {
    Overrides { by_name: vec![(name.into(), Override { disabled, settings })], cors: None }
}

/// What the first filter that wants something wants, and what is known of the exchange then. `resume`: a wait is over at once.
fn run(
    chain: &Chain,
    levels: &[&Overrides],
    request: &mut RequestHead,
    resume: bool,
) -> (FilterStatus, StreamInfo) {
    let address = "127.0.0.1:80".parse().unwrap();
    let connection = Rc::new(ConnectionInfo { id: 1, peer: address, local: address, tls: false });
    let mut info = StreamInfo::new(connection, Version::Http11, UNIX_EPOCH, Instant::now());
    let levels: Levels<'_> = levels.iter().copied().collect();
    let mut running = chain.begin(&levels, true);
    let drawn = Cell::new(0);
    let random = || drawn.replace(drawn.get() + 1) * 37;
    let mut facts = Facts {
        request,
        info: &mut info,
        goes_to: &|_, name| name == "pet",
        random: &random,
        now: Instant::now(),
        shard: 0,
        health_failed: false,
        membership: &|_| None,
    };
    let mut outcome = FilterStatus::Continue;
    for at in 0..running.len() {
        outcome = running.request(at, &mut facts);
        if resume && matches!(outcome, FilterStatus::Wait(_)) {
            outcome = running.resume(at, &mut facts);
        }
        if !matches!(outcome, FilterStatus::Continue) {
            break;
        }
    }
    (outcome, info)
}

fn status(outcome: &FilterStatus) -> Option<u16> {
    match outcome {
        FilterStatus::Reply(reply) => Some(reply.status),
        _ => None,
    }
}

#[test]
fn the_most_specific_level_says_whether_a_filter_runs_and_how() {
    let registry = Registry::new(1);
    let own = |status| Some(RouteSettings::Fault(Box::new(abort(fault::AbortKind::Http(status)))));
    let (route, host) = (level("f", false, own(503)), level("f", true, None));
    let asked = |disabled, levels: &[&Overrides]| {
        let settings = fault_filter(&registry, abort(fault::AbortKind::Http(418)));
        status(&run(&chain("f", disabled, settings), levels, &mut RequestHead::default(), false).0)
    };
    assert_eq!(asked(false, &[]), Some(418));
    assert_eq!(asked(true, &[]), None);
    assert_eq!(asked(false, &[&host]), None);
    assert_eq!(asked(false, &[&route, &host]), Some(503));
    assert_eq!(asked(true, &[&route]), Some(503));
    assert_eq!(asked(false, &[&level("other", true, None)]), Some(418));
    assert_eq!(asked(true, &[&level("f", false, None)]), Some(418));
}

#[test]
fn a_delay_comes_before_an_abort_and_ends_with_its_request() {
    let registry = Registry::new(1);
    let delay = fault::Delay { fixed: Some(Duration::from_secs(1)), share: share(100), runtime: None };
    let settings = fault::Settings { delay: Some(delay), ..abort(fault::AbortKind::Http(418)) };
    let chain = chain("f", false, fault_filter(&registry, settings));
    let (outcome, info) = run(&chain, &[], &mut RequestHead::default(), false);
    assert!(matches!(outcome, FilterStatus::Wait(wait) if wait.as_secs() == 1));
    assert!(info.flags.has(Flag::DelayInjected));
    let (outcome, _) = run(&chain, &[], &mut RequestHead::default(), true);
    assert_eq!(status(&outcome), Some(418));
    let stats = registry.scope::<crate::stats::FaultStats>("fault.");
    let stats = stats.shard(0);
    assert_eq!((stats.delays_injected.get(), stats.aborts_injected.get()), (2, 1));
    assert_eq!(stats.active_faults.get(), 0);
}

#[test]
fn a_request_may_ask_for_a_fault_and_lower_its_share_but_not_raise_it() {
    let registry = Registry::new(1);
    let chain = chain("f", false, fault_filter(&registry, abort(fault::AbortKind::Header)));
    let asked = |fields: &[(&'static str, &str)]| {
        let mut request = RequestHead::default();
        fields
            .iter()
            .for_each(|(name, value)| request.fields.push(*name, FieldValue::new(value.as_bytes()).unwrap()));
        let outcome = run(&chain, &[], &mut request, false).0;
        match outcome {
            FilterStatus::Reply(reply) => Some((reply.status, reply.grpc_status)),
            _ => None,
        }
    };
    let name = "x-envoy-fault-abort-request";
    assert_eq!(asked(&[(name, "503")]), Some((503, None)));
    assert_eq!(asked(&[(name, "999")]), None);
    assert_eq!(asked(&[(name, "503"), ("x-envoy-fault-abort-request-percentage", "0")]), None);
    assert_eq!(asked(&[("x-envoy-fault-abort-grpc-request", "5")]), Some((200, Some(5))));
    assert_eq!(asked(&[]), None);
}

#[test]
fn faults_mean_the_cluster_and_the_nodes_that_they_name() {
    let registry = Registry::new(1);
    let asked = |cluster: &str, nodes: &[&str]| {
        let settings = fault::Settings {
            upstream_cluster: cluster.into(),
            downstream_nodes: nodes.iter().map(|node| (*node).into()).collect(),
            ..abort(fault::AbortKind::Http(418))
        };
        let mut request = RequestHead::default();
        request.fields.push("x-envoy-downstream-service-node", b"n1");
        let chain = chain("f", false, fault_filter(&registry, settings));
        status(&run(&chain, &[], &mut request, false).0).is_some()
    };
    assert!(asked("pet", &["n1"]));
    assert!(!asked("other", &[]));
    assert!(!asked("", &["n2"]));
}

fn policy(origin: &str, forward: Option<bool>) -> Arc<cors::Policy> {
    Arc::new(cors::Policy {
        origins: vec![StringMatch::Exact { text: origin.into(), ignore_case: false }],
        methods: "*".into(),
        headers: "x-a".into(),
        expose: "x-e".into(),
        max_age: "7".into(),
        credentials: Some(true),
        private_network: None,
        forward_not_matching: forward,
        enabled: share(100),
        shadow: None,
    })
}

fn preflight(origin: &str) -> RequestHead {
    let mut request = RequestHead { method: Method::Options, ..RequestHead::default() };
    request.fields.push("origin", FieldValue::new(origin.as_bytes()).unwrap());
    request.fields.push("access-control-request-method", b"PUT");
    request
}

#[test]
fn a_preflight_of_an_allowed_origin_gets_a_response_and_others_are_forwarded_unless_that_is_off() {
    let registry = Registry::new(1);
    let chain = chain("c", false, Settings::Cors(cors::Cors { stats: registry.scope("cors.") }));
    let asked = |level: &Overrides, origin| run(&chain, &[level], &mut preflight(origin), false).0;
    let named = level("c", false, Some(RouteSettings::Cors(policy("https://a", None))));
    let FilterStatus::Respond(head) = asked(&named, "https://a") else { panic!("no response") };
    assert_eq!(head.fields.get("access-control-allow-methods"), Some(&b"PUT"[..]));
    assert_eq!(head.fields.get("access-control-max-age"), Some(&b"7"[..]));
    assert!(matches!(asked(&named, "https://b"), FilterStatus::Continue));
    let strict = level("c", false, Some(RouteSettings::Cors(policy("https://a", Some(false)))));
    let FilterStatus::Respond(head) = asked(&strict, "https://b") else { panic!("no response") };
    assert!(!head.fields.contains("access-control-allow-origin"));
    // The older field counts where nothing is under the filter's name.
    let old = Overrides { by_name: Vec::new(), cors: Some(policy("https://a", None)) };
    assert!(matches!(asked(&old, "https://a"), FilterStatus::Respond(_)));
}

#[test]
fn an_allowed_origin_may_read_the_response() {
    let registry = Registry::new(1);
    let chain = chain("c", false, Settings::Cors(cors::Cors { stats: registry.scope("cors.") }));
    let level = level("c", false, Some(RouteSettings::Cors(policy("*", None))));
    let levels: Levels<'_> = [&level].into_iter().collect();
    let mut running = chain.begin(&levels, true);
    let address = "127.0.0.1:80".parse().unwrap();
    let connection = Rc::new(ConnectionInfo { id: 1, peer: address, local: address, tls: false });
    let mut info = StreamInfo::new(connection, Version::Http11, UNIX_EPOCH, Instant::now());
    let mut request = RequestHead::default();
    request.fields.push("origin", b"https://any");
    let mut facts = Facts {
        request: &mut request,
        info: &mut info,
        goes_to: &|_, _| true,
        random: &|| 0,
        now: Instant::now(),
        shard: 0,
        health_failed: false,
        membership: &|_| None,
    };
    assert!(matches!(running.request(0, &mut facts), FilterStatus::Continue));
    let mut response = ResponseHead::new(200);
    running.response(&mut response, Responding { now: Instant::now(), health_failed: false });
    assert_eq!(response.fields.get("access-control-allow-origin"), Some(&b"https://any"[..]));
    assert_eq!(response.fields.get("access-control-expose-headers"), Some(&b"x-e"[..]));
}

#[test]
fn rules_allow_or_deny_what_matches_and_a_route_may_have_none() {
    let registry = Registry::new(1);
    let rules = |action, bits| rbac::Rules {
        action,
        policies: vec![rbac::Policy {
            name: "my policy".into(),
            permissions: vec![rbac::Condition::Port(80, 81)],
            principals: vec![rbac::Condition::Address(
                rbac::Whose::Peer,
                Cidr::new("127.0.0.0".parse().unwrap(), bits),
            )],
        }],
    };
    let asked = |rules, levels: &[&Overrides]| {
        let settings = Settings::Rbac(rbac::Rbac {
            stats: registry.scope("rbac."),
            shadow_stats: registry.scope("rbac."),
            engines: rbac::Engines { rules: Some(rules), shadow: None },
        });
        match run(&chain("r", false, settings), levels, &mut RequestHead::default(), false).0 {
            FilterStatus::Reply(reply) => reply.details.into_owned(),
            _ => String::new(),
        }
    };
    assert_eq!(asked(rules(rbac::Action::Allow, 8), &[]), "");
    assert_eq!(asked(rules(rbac::Action::Allow, 32), &[]), "rbac_access_denied_matched_policy[none]");
    assert_eq!(asked(rules(rbac::Action::Deny, 8), &[]), "rbac_access_denied_matched_policy[my_policy]");
    let none = level("r", false, Some(RouteSettings::Rbac(rbac::Engines::default())));
    assert_eq!(asked(rules(rbac::Action::Deny, 8), &[&none]), "");
}
