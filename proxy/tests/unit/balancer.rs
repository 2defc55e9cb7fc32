//! Shares of hosts over long runs, short-lived views and many workers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cluster::health::Target;
use crate::cluster::shares::Balance;
use crate::cluster::{Endpoint, Health, Locality};

fn endpoint(port: u16, weight: u32, priority: u32) -> Endpoint {
    Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        hostname: String::new(),
        weight,
        priority,
        locality: Locality::default(),
        locality_weight: 0,
        canary: false,
        health: if priority == 0 && port == 1 { Health::Unhealthy } else { Health::Healthy },
        check: Target::default(),
    }
}

/// A view in which panic is never the remedy.
fn view(endpoints: &[Endpoint]) -> EndpointView {
    let balance = Balance { panic_threshold: 0.0, ..Balance::default() };
    EndpointView::empty(1).balanced(balance).update(endpoints, String::new())
}

/// How often each port is picked in `count` picks; `renew` makes the view of the next pick.
fn shares_of(
    mut view: EndpointView,
    policy: Policy,
    cursor: &mut Cursor,
    random: &mut fastrand::Rng,
    count: u32,
    renew: impl Fn(EndpointView) -> EndpointView,
) -> BTreeMap<u16, u32> {
    let mut picked = BTreeMap::new();
    for _ in 0..count {
        let (host, _) = pick(&view, policy, cursor, &mut |bound| random.u64(..bound), (&[], 0)).unwrap();
        *picked.entry(host.address.port()).or_default() += 1;
        view = renew(view);
    }
    picked
}

fn weighted(weights: &[u32]) -> Vec<Endpoint> {
    (10..).zip(weights).map(|(port, &weight)| endpoint(port, weight, 0)).collect()
}

/// Fails where a host's picks differ from its weight's share by more than `slack`.
fn assert_by_weight(picked: &BTreeMap<u16, u32>, weights: &[u32], slack: f64) {
    let (all, sum) = (picked.values().sum::<u32>(), weights.iter().sum::<u32>());
    for (port, weight) in (10..).zip(weights) {
        let expected = f64::from(all) * f64::from(*weight) / f64::from(sum);
        let got = f64::from(picked.get(&port).copied().unwrap_or(0));
        assert!((got - expected).abs() <= slack, "{port}: {got} instead of {expected} of {picked:?}");
    }
}

proptest! {
    /// Ten is the longest first wait with a turn at each end.
    #[test]
    fn each_host_is_picked_by_its_weight(
        weights in prop::collection::vec(1_u32..=20, 2..8), seed: u64, least_request: bool,
    ) {
        let policy = if least_request { Policy::LeastRequest { choices: 2 } } else { Policy::RoundRobin };
        prop_assume!(weights.iter().any(|weight| *weight != weights[0]));
        let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(seed));
        let view = view(&weighted(&weights));
        let picked = shares_of(view, policy, &mut cursor, &mut random, 500, |view| view);
        assert_by_weight(&picked, &weights, 10.0);
    }

    #[test]
    fn views_that_live_for_one_request_change_no_share(
        weights in prop::collection::vec(1_u32..=20, 2..8), seed: u64,
    ) {
        prop_assume!(weights.iter().any(|weight| *weight != weights[0]));
        let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(seed));
        let members = weighted(&weights);
        let renew = |view: EndpointView| view.update(&members, String::new());
        let picked =
            shares_of(view(&members), Policy::RoundRobin, &mut cursor, &mut random, 300, renew);
        assert_by_weight(&picked, &weights, 10.0);
    }
}

#[test]
fn the_first_picks_of_many_workers_are_by_weight() {
    let (weights, mut random) = ([1, 3, 6], fastrand::Rng::with_seed(1));
    let members = weighted(&weights);
    for picks in [1, 2, 5] {
        let mut all = BTreeMap::new();
        for _ in 0..4_000 {
            let mut cursor = Cursor::default();
            let few =
                shares_of(view(&members), Policy::RoundRobin, &mut cursor, &mut random, picks, |view| view);
            few.into_iter().for_each(|(port, count)| *all.entry(port).or_default() += count);
        }
        assert_by_weight(&all, &weights, f64::from(picks) * 4_000.0 * 0.03);
    }
}

#[test]
fn least_request_weighs_hosts_against_their_active_requests() {
    let view = view(&weighted(&[1, 3]));
    view.hosts[1].stats.shard(0).rq_active.set(2);
    let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(2));
    let policy = Policy::LeastRequest { choices: 2 };
    let picked = shares_of(view, policy, &mut cursor, &mut random, 1_000, |view| view);
    assert_by_weight(&picked, &[1, 1], 10.0);
}

#[test]
fn each_priority_has_a_weighted_rotation_of_its_own() {
    let all = [endpoint(1, 1, 0), endpoint(2, 2, 0), endpoint(3, 1, 1), endpoint(4, 3, 1)];
    let members = view(&all);
    let mut cursor = Cursor::default();
    let mut pick_at = |share: u64| {
        let mut random = |bound: u64| share.min(bound - 1);
        let (host, _) = pick(&members, Policy::RoundRobin, &mut cursor, &mut random, (&[], 0)).unwrap();
        host.address.port()
    };
    assert_eq!(pick_at(0), 2);
    let picked: Vec<u16> = (0..400).map(|_| pick_at(99)).collect();
    assert!((290..=310).contains(&picked.iter().filter(|port| **port == 4).count()), "{picked:?}");
}
