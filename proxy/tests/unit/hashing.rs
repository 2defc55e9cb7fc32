//! Picks by hash: the same as Envoy's, by share, with little moved when a host goes.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::cluster::balancer::{Cursor, Method, Policy, Wanted, pick};
use crate::cluster::pool::Layout;
use crate::cluster::subsets::Counts;
use crate::cluster::{Endpoint, EndpointView, Health, Locality};

const RING: TableKind = TableKind::Ring { min: 1024, max: 8 << 20, murmur: false };
const MAGLEV: TableKind = TableKind::Maglev { size: 65_537 };
const BY_HASH: Policy = Policy { method: Method::Hash { limit: None }, slow_start: None };

fn at(port: u16) -> Endpoint {
    Endpoint::new(([127, 0, 0, 1], port).into())
}

fn weighted(hosts: &[(u16, u32)]) -> Vec<Endpoint> {
    hosts.iter().map(|&(port, weight)| Endpoint { weight, ..at(port) }).collect()
}

fn keyed(port: u16, key: &str) -> Endpoint {
    let metadata = BTreeMap::from([("hash_key".to_owned(), key.into())]);
    Endpoint { metadata: Some(Arc::new(metadata)), ..at(port) }
}

fn named(port: u16, hostname: &str) -> Endpoint {
    Endpoint { hostname: hostname.to_owned(), ..at(port) }
}

/// A zone with its weight and its hosts with theirs.
type Zone<'z> = (&'z str, u32, &'z [(u16, u32)]);

fn zones(zones: &[Zone<'_>]) -> Vec<Endpoint> {
    let zone = |(zone, locality_weight, hosts): &Zone<'_>| {
        let locality = Locality { zone: (*zone).to_owned(), ..Locality::default() };
        let locality_weight = *locality_weight;
        weighted(hosts)
            .into_iter()
            .map(move |endpoint| Endpoint { locality: locality.clone(), locality_weight, ..endpoint })
            .collect::<Vec<_>>()
    };
    zones.iter().flat_map(zone).collect()
}

fn view(kind: TableKind, endpoints: &[Endpoint]) -> EndpointView {
    let layout = Layout {
        localities: endpoints.iter().any(|endpoint| endpoint.locality_weight > 0),
        table: Some(TableRules { kind, by_hostname: endpoints.iter().any(|one| !one.hostname.is_empty()) }),
        ..Layout::default()
    };
    EndpointView::empty(2).laid_out(&Arc::new(layout)).update(endpoints, String::new())
}

fn picked(view: &EndpointView, policy: Policy, hash: u64) -> Option<u16> {
    picked_among(view, policy, hash, 0)
}

/// While the cluster has so many active requests.
fn picked_among(view: &EndpointView, policy: Policy, hash: u64, active: i64) -> Option<u16> {
    let wanted = Wanted { hash: Some(hash), active, ..Wanted::default() };
    let found = pick(view, policy, &mut Cursor::default(), &mut |_| 0, wanted, &mut Counts::default());
    found.map(|host| host.address.port())
}

fn key(number: u64) -> u64 {
    XxHash64::oneshot(0, format!("k{number}").as_bytes())
}

#[test]
fn every_pick_is_envoys() {
    let five = weighted(&[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
    let unequal = weighted(&[(5, 5), (1, 1), (3, 2)]);
    let places: [Zone<'_>; 2] = [("a", 3, &[(1, 1), (2, 2)]), ("b", 1, &[(3, 1), (4, 1)])];
    let none: Zone<'_> = ("c", 0, &[(6, 1)]);
    let ill = |port| Endpoint { health: Health::Unhealthy, ..at(port) };
    let second = |port| Endpoint { priority: 1, ..at(port) };
    let degraded = |port| Endpoint { health: Health::Degraded, ..at(port) };
    let v6 = |port| Endpoint { address: format!("[::1]:{port}").parse().unwrap(), ..at(port) };
    let small = TableKind::Maglev { size: 11 };
    let cases: [(&str, TableKind, Vec<Endpoint>); 16] = [
        ("ring", RING, five.clone()),
        ("murmur", TableKind::Ring { min: 1024, max: 8 << 20, murmur: true }, five.clone()),
        ("ringw", TableKind::Ring { min: 64, max: 8 << 20, murmur: false }, unequal.clone()),
        (
            "ringmax",
            TableKind::Ring { min: 10, max: 37, murmur: false },
            weighted(&[(5, 50), (1, 1), (3, 20)]),
        ),
        ("ringloc", RING, zones(&[places[0], places[1], none])),
        ("maglev", MAGLEV, five),
        ("maglevw", MAGLEV, unequal),
        ("maglevt", small, weighted(&[(5, 1), (1, 1), (3, 2), (2, 1)])),
        ("maglevloc", MAGLEV, zones(&places)),
        ("names", MAGLEV, vec![named(1, "one"), named(2, "two"), named(3, "three"), keyed(4, "four")]),
        ("prio", RING, vec![at(1), ill(2), second(3), second(4)]),
        ("panic", MAGLEV, vec![at(1), ill(2), ill(3), ill(4)]),
        ("degraded", MAGLEV, vec![at(1), degraded(2), degraded(3)]),
        ("ip6", MAGLEV, vec![v6(1), v6(2), v6(3), v6(4)]),
        ("unsorted", small, vec![at(100), at(9), at(20), at(10)]),
        ("keys", small, vec![keyed(1, "z"), keyed(2, "b"), keyed(3, "a"), keyed(4, "y")]),
    ];
    let recorded = include_str!("envoy_picks.txt").lines().filter_map(|line| line.split_once(' '));
    let recorded: HashMap<&str, &str> = recorded.collect();
    for (name, kind, endpoints) in cases {
        let view = view(kind, &endpoints);
        let ours: String =
            (0..150).map(|number| picked(&view, BY_HASH, key(number)).unwrap().to_string()).collect();
        assert_eq!(ours, recorded[name], "{name}");
    }
}

fn kinds() -> impl Strategy<Value = TableKind> {
    prop_oneof![
        Just(RING),
        Just(MAGLEV),
        Just(TableKind::Ring { min: 1024, max: 8 << 20, murmur: true }),
        Just(TableKind::Maglev { size: 1009 }),
    ]
}

/// How many of some hashes each host has.
fn spread(view: &EndpointView) -> BTreeMap<u16, u32> {
    let mut spread = BTreeMap::new();
    for number in 0..4_000 {
        *spread.entry(picked(view, BY_HASH, key(number)).unwrap()).or_default() += 1;
    }
    spread
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn hosts_have_hashes_by_their_weight(
        kind in kinds(), weights in prop::collection::vec(1_u32..=10, 1..8),
    ) {
        let hosts: Vec<(u16, u32)> = (1..).zip(weights.iter().copied()).collect();
        let (spread, sum) = (spread(&view(kind, &weighted(&hosts))), weights.iter().sum::<u32>());
        for (port, weight) in hosts {
            let expected = 4_000.0 * f64::from(weight) / f64::from(sum);
            let got = f64::from(spread.get(&port).copied().unwrap_or(0));
            // A ring of 1024 entries is less even than Maglev's table.
            prop_assert!((got - expected).abs() <= 0.35 * expected + 60.0, "{port}: {got}, not {expected}");
        }
    }

    /// Far fewer than a host has.
    #[test]
    fn a_host_that_goes_moves_few_other_hashes(kind in kinds(), count in 3_u16..12, gone in 0_u16..12) {
        let hosts: Vec<Endpoint> = (1..=count).map(at).collect();
        let gone = gone % count + 1;
        let rest: Vec<Endpoint> = (1..=count).filter(|port| *port != gone).map(at).collect();
        let (before, after) = (view(kind, &hosts), view(kind, &rest));
        let moved = (0..2_000).filter(|number| {
            let owner = picked(&before, BY_HASH, key(*number)).unwrap();
            owner != gone && picked(&after, BY_HASH, key(*number)) != Some(owner)
        });
        let moved = moved.count();
        match kind {
            TableKind::Maglev { .. } => prop_assert!(moved < 300, "{moved} of 2000"),
            // The ring keeps its size: other hosts get more entries.
            TableKind::Ring { .. } => prop_assert!(moved < 2_000 / usize::from(count), "{moved} of 2000"),
        }
    }

    /// Each worker has a cursor and random numbers of its own.
    #[test]
    fn every_worker_picks_the_same_host_for_a_hash(kind in kinds(), hash: u64, count in 1_u16..20) {
        let view = view(kind, &(1..=count).map(at).collect::<Vec<_>>());
        let wanted = Wanted { hash: Some(hash), ..Wanted::default() };
        let mut one = fastrand::Rng::with_seed(1);
        let mut cursor = Cursor::default();
        for _ in 0..20 {
            let mut random = |bound| one.u64(..bound);
            let host = pick(&view, BY_HASH, &mut cursor, &mut random, wanted, &mut Counts::default()).unwrap();
            prop_assert_eq!(Some(host.address.port()), picked(&view, BY_HASH, hash));
        }
    }

    /// A limit of 150 % of the average: no host has more, whatever the hashes are.
    #[test]
    fn no_host_has_more_requests_than_the_limit(kind in kinds(), count in 2_u16..10, hot: u64) {
        let view = view(kind, &(1..=count).map(at).collect::<Vec<_>>());
        let policy = Policy { method: Method::Hash { limit: Some(150) }, slow_start: None };
        for active in 0_i64..200 {
            let port = picked_among(&view, policy, hot, active).unwrap();
            let host = view.hosts.iter().find(|host| host.address.port() == port).unwrap();
            let rq_active = &host.stats.shard(0).rq_active;
            rq_active.set(rq_active.get() + 1);
            let most = ((active + 1) as f64 * 1.5 / f64::from(count)).ceil() as i64 + 1;
            prop_assert!(rq_active.get() <= most, "{} of {active}, not {most}", rq_active.get());
        }
    }
}

/// As in Envoy: the requests of hosts that have left count as well.
#[test]
fn the_limit_is_a_part_of_the_clusters_requests() {
    let view = view(MAGLEV, &weighted(&[(1, 1), (2, 1), (3, 1)]));
    let policy = Policy { method: Method::Hash { limit: Some(150) }, slow_start: None };
    let own = picked(&view, policy, key(1)).unwrap();
    let host = view.hosts.iter().find(|host| host.address.port() == own).unwrap();
    host.stats.shard(0).rq_active.set(5);
    assert_ne!(picked_among(&view, policy, key(1), 5), Some(own));
    assert_eq!(picked_among(&view, policy, key(1), 100), Some(own));
}

#[test]
fn without_a_hash_the_host_is_random() {
    let view = view(MAGLEV, &weighted(&[(1, 1), (2, 1), (3, 1)]));
    let mut random = fastrand::Rng::with_seed(6);
    let mut seen = BTreeMap::new();
    for _ in 0..600 {
        let mut draw = |bound| random.u64(..bound);
        let wanted = Wanted::default();
        let host =
            pick(&view, BY_HASH, &mut Cursor::default(), &mut draw, wanted, &mut Counts::default()).unwrap();
        *seen.entry(host.address.port()).or_insert(0) += 1;
    }
    assert!(seen.len() == 3 && seen.values().all(|count| (140..260).contains(count)), "{seen:?}");
}

#[test]
fn a_table_is_built_again_only_when_hosts_or_weights_change() {
    let endpoints = weighted(&[(1, 1), (2, 1)]);
    let first = view(MAGLEV, &endpoints);
    let same = first.update(&endpoints, "2".to_owned());
    let other = first.update(&weighted(&[(1, 1), (2, 3)]), "3".to_owned());
    let entries = |view: &EndpointView| Arc::as_ptr(&view.pool.tables[0].entries);
    assert_eq!(entries(&first), entries(&same));
    assert_ne!(entries(&first), entries(&other));
}

/// The first numbers of MT19937 with the seed 5489, as the C++ standard says (the 10000th is 4123659995).
#[test]
fn the_twister_is_mersennes() {
    let mut twister = Twister::new(5489);
    assert_eq!(twister.next(), 3_499_211_612);
    let last = (1..10_000).map(|_| twister.next()).last();
    assert_eq!(last, Some(4_123_659_995));
}

proptest! {
    /// Against the same shuffle of a list of all.
    #[test]
    fn an_order_that_is_made_step_by_step_is_that_of_a_whole_list(count in 0_usize..300, seed: u64) {
        let mut twister = Twister::new(seed);
        let mut order: Vec<usize> = (0..count).collect();
        for at in 0..count {
            let other = at + twister.below(count - at);
            order.swap(at, other);
        }
        let mut shuffle = Shuffle::new(count, seed);
        for (taken, member) in (1..).zip(order) {
            prop_assert_eq!(shuffle.next(), Some(member));
            prop_assert!(shuffle.moved.len() <= taken);
        }
        prop_assert_eq!(shuffle.next(), None);
    }
}
