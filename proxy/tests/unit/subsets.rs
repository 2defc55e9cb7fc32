//! Subsets: the same hosts and counts as Envoy's, and laws of groups.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::build::{self, Discovery, Flavor, Graph, Node, Parts};
use crate::cluster::balancer::{Cursor, Policy, Wanted, pick};
use crate::cluster::{Endpoint, EndpointView};
use crate::route::Action;
use crate::snapshot::ListenerKind;
use crate::stats::Registry;

fn graph(text: &str) -> Graph {
    let read = xds::read_bootstrap("subsets.yaml", text).unwrap();
    let registry = Registry::new(1);
    let parts = Parts {
        node: Node::default(),
        flavor: Flavor::Sidecar,
        registry: &registry,
        logs: None,
        runtime: &[],
        files: None,
    };
    let (graph, _) = build::graph(&read, parts, None).unwrap_or_else(|errors| panic!("{errors:?}"));
    graph
}

/// What each route asks for, by its name.
fn criteria(graph: &Graph) -> HashMap<String, Criteria> {
    let chain = &graph.listeners[0].listener.chains.chains[0];
    let ListenerKind::Http(manager) = &chain.kind else { panic!("{chain:?}") };
    let routes = manager.routes.virtual_hosts[0].routes.iter();
    let asked = routes.filter_map(|route| match &route.action {
        Action::Forward(forward) => Some((route.name.to_string(), forward.criteria.clone()?)),
        _ => None,
    });
    asked.collect()
}

#[test]
fn every_pick_and_count_is_envoys() {
    let graph = graph(include_str!("envoy_subsets.yaml"));
    let asked = criteria(&graph);
    let mut cursors: HashMap<&str, Cursor> = HashMap::new();
    let mut random = fastrand::Rng::with_seed(8);
    for line in include_str!("envoy_subsets.txt").lines().filter(|line| !line.starts_with('#')) {
        let [cluster, route, hosts, expected @ ..] = &*line.split(' ').collect::<Vec<_>>() else {
            panic!("{line}")
        };
        let part = &graph.clusters[*cluster];
        let Discovery::Static(endpoints) = &*part.discovery else { panic!("{cluster}") };
        let view = EndpointView::empty(1).laid_out(&part.policy.layout).update(endpoints, String::new());
        let cursor = cursors.entry(cluster).or_default();
        let mut counts = Counts::default();
        let mut picked = Vec::new();
        for key in 0..8 {
            let hash = XxHash64::oneshot(0, format!("k{key}").as_bytes());
            let wanted = Wanted { hash: Some(hash), criteria: asked.get(*route), ..Wanted::default() };
            let mut draw = |bound| random.u64(..bound);
            let host = pick(&view, part.policy.balancer, cursor, &mut draw, wanted, &mut counts);
            picked.push(host.map_or_else(|| "-".to_owned(), |host| host.address.port().to_string()));
        }
        if *cluster != "hash" {
            picked = picked.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        }
        let Counts { panic, selected, fallback, fallback_panic } = counts;
        let ours = [selected, fallback, fallback_panic, panic].map(|count| (count / 8).to_string());
        assert_eq!(
            (picked.concat().as_str(), &ours[..]),
            (*hosts, &expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "{line}"
        );
    }
}

fn endpoint(port: u16, metadata: LbMetadata) -> Endpoint {
    Endpoint { metadata: Some(Arc::new(metadata)), ..Endpoint::new(([127, 0, 0, 1], port).into()) }
}

fn pairs(pairs: &[(&str, u8)]) -> LbMetadata {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
}

proptest! {
    /// What is picked has the metadata that were asked for, and is found where there is any.
    #[test]
    fn a_host_of_the_subset_is_picked_where_there_is_one(
        hosts in prop::collection::vec((0_u8..3, 0_u8..3), 1..12), a in 0_u8..4, b in 0_u8..4, both: bool,
    ) {
        let endpoints: Vec<Endpoint> =
            (1..).zip(&hosts).map(|(port, (a, b))| endpoint(port, pairs(&[("a", *a), ("b", *b)]))).collect();
        let selector = |keys: &[&str]| Selector {
            keys: keys.iter().map(ToString::to_string).collect(),
            single: false,
            fallback: None,
        };
        let rules = SubsetRules { selectors: vec![selector(&["a"]), selector(&["a", "b"])], ..SubsetRules::default() };
        let layout = Layout { subsets: Some(Arc::new(rules)), ..Layout::default() };
        let view = EndpointView::empty(1).laid_out(&Arc::new(layout)).update(&endpoints, String::new());
        let asked = if both { pairs(&[("a", a), ("b", b)]) } else { pairs(&[("a", a)]) };
        let criteria = Criteria::new(asked);
        let wanted = Wanted { criteria: criteria.as_ref(), ..Wanted::default() };
        let fits = |host: &(u8, u8)| host.0 == a && (!both || host.1 == b);
        let mut counts = Counts::default();
        for view in [&view, &view.refreshed()] {
            let host = pick(view, Policy::default(), &mut Cursor::default(), &mut |_| 0, wanted, &mut counts);
            let found = host.map(|host| hosts[usize::from(host.address.port()) - 1]);
            prop_assert_eq!(found.is_some(), hosts.iter().any(fits));
            prop_assert!(found.as_ref().is_none_or(fits));
        }
    }
}

/// Whatever the metadata are: as many subsets as there may be, and picks go on.
#[test]
fn there_are_not_more_subsets_than_the_limit() {
    let endpoints: Vec<Endpoint> =
        (1..6_000).map(|port| endpoint(port, LbMetadata::from([("a".to_owned(), port.into())]))).collect();
    let selector = Selector { keys: vec!["a".to_owned()], single: false, fallback: None };
    let rules = SubsetRules { selectors: vec![selector], fallback: Fallback::Any, ..SubsetRules::default() };
    let layout = Layout { subsets: Some(Arc::new(rules)), ..Layout::default() };
    let view = EndpointView::empty(1).laid_out(&Arc::new(layout)).update(&endpoints, String::new());
    assert_eq!(view.subsets.as_ref().unwrap().len(), MOST_SUBSETS);
    let criteria = Criteria::new(LbMetadata::from([("a".to_owned(), 5_999.into())]));
    let wanted = Wanted { criteria: criteria.as_ref(), ..Wanted::default() };
    let mut counts = Counts::default();
    assert!(
        pick(&view, Policy::default(), &mut Cursor::default(), &mut |_| 0, wanted, &mut counts).is_some()
    );
    assert_eq!(counts.fallback, 1);
}
