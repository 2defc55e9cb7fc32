//! Shares of hosts over long runs, short-lived views and many workers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cluster::pool::Layout;
use crate::cluster::shares::Balance;
use crate::cluster::subsets::Counts;
use crate::cluster::{Endpoint, Health, Locality};

const LEAST_REQUEST: Policy =
    Policy { method: Method::LeastRequest { choices: Choices::Some(2), bias: 1.0 }, slow_start: None };

fn endpoint(port: u16, weight: u32, priority: u32) -> Endpoint {
    Endpoint {
        weight,
        priority,
        health: if priority == 0 && port == 1 { Health::Unhealthy } else { Health::Healthy },
        ..Endpoint::new(([127, 0, 0, 1], port).into())
    }
}

fn laid_out(layout: Layout, endpoints: &[Endpoint]) -> EndpointView {
    EndpointView::empty(1).laid_out(&Arc::new(layout)).update(endpoints, String::new())
}

/// A view in which panic is never the remedy.
fn view(endpoints: &[Endpoint]) -> EndpointView {
    let balance = Balance { panic_threshold: 0.0, ..Balance::default() };
    laid_out(Layout { balance, ..Layout::default() }, endpoints)
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
        let mut draw = |bound| random.u64(..bound);
        let host = pick(&view, policy, cursor, &mut draw, Wanted::default(), &mut Counts::default()).unwrap();
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
        let policy = if least_request { LEAST_REQUEST } else { Policy::default() };
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
            shares_of(view(&members), Policy::default(), &mut cursor, &mut random, 300, renew);
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
                shares_of(view(&members), Policy::default(), &mut cursor, &mut random, picks, |view| view);
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
    let picked = shares_of(view, LEAST_REQUEST, &mut cursor, &mut random, 1_000, |view| view);
    assert_by_weight(&picked, &[1, 1], 10.0);
}

#[test]
fn each_priority_has_a_weighted_rotation_of_its_own() {
    let all = [endpoint(1, 1, 0), endpoint(2, 2, 0), endpoint(3, 1, 1), endpoint(4, 3, 1)];
    let members = view(&all);
    let mut cursor = Cursor::default();
    let mut pick_at = |share: u64| {
        let mut random = |bound: u64| share.min(bound - 1);
        let wanted = Wanted::default();
        let host =
            pick(&members, Policy::default(), &mut cursor, &mut random, wanted, &mut Counts::default())
                .unwrap();
        host.address.port()
    };
    assert_eq!(pick_at(0), 2);
    let picked: Vec<u16> = (0..400).map(|_| pick_at(99)).collect();
    assert!((290..=310).contains(&picked.iter().filter(|port| **port == 4).count()), "{picked:?}");
}

/// Endpoints in localities of these weights, as many in each as it says.
fn in_localities(localities: &[(u32, u32)]) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (nth, (locality_weight, hosts)) in (0_u16..).zip(localities) {
        let locality = Locality { zone: format!("zone-{nth}"), ..Locality::default() };
        endpoints.extend((0..*hosts).zip(10 * (nth + 1)..).map(|(_, port)| Endpoint {
            locality: locality.clone(),
            locality_weight: *locality_weight,
            ..endpoint(port, 1, 0)
        }));
    }
    endpoints
}

proptest! {
    #[test]
    fn each_locality_is_picked_by_its_weight_and_its_hosts_in_turn(
        localities in prop::collection::vec((1_u32..=10, 1_u32..=4), 1..5), seed: u64,
    ) {
        let layout = Layout { localities: true, ..Layout::default() };
        let view = laid_out(layout, &in_localities(&localities));
        let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(seed));
        let picked = shares_of(view, Policy::default(), &mut cursor, &mut random, 500, |view| view);
        let sum: u32 = localities.iter().map(|(weight, _)| weight).sum();
        for (nth, (weight, hosts)) in (1_u16..).zip(&localities) {
            let expected = 500.0 * f64::from(*weight) / f64::from(sum) / f64::from(*hosts);
            for port in (nth * 10..).take(*hosts as usize) {
                let got = f64::from(picked.get(&port).copied().unwrap_or(0));
                prop_assert!((got - expected).abs() <= 10.0, "{port}: {got}, not {expected}");
            }
        }
    }
}

/// Two of three hosts of the first locality are ill: 140 % of a third of its weight is left.
#[test]
fn a_locality_that_lost_hosts_takes_less_of_the_load() {
    let mut endpoints = in_localities(&[(3, 3), (1, 1)]);
    for endpoint in &mut endpoints[..2] {
        endpoint.health = Health::Unhealthy;
    }
    let balance = Balance { panic_threshold: 0.0, ..Balance::default() };
    let view = laid_out(Layout { balance, localities: true, ..Layout::default() }, &endpoints);
    let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(3));
    let picked = shares_of(view, Policy::default(), &mut cursor, &mut random, 2_400, |view| view);
    let healthy = f64::from(picked[&12]);
    assert!((healthy - 2_400.0 * 1.4 / 2.4).abs() <= 10.0, "{picked:?}");
}

#[test]
fn a_new_host_takes_its_share_slowly() {
    let slow_start = SlowStart { window: Duration::from_secs(10), aggression: 1.0, least: 0.1 };
    let policy = Policy { slow_start: Some(slow_start), ..Policy::default() };
    let (begin, members) = (Instant::now(), weighted(&[1, 1]));
    let healthy = |_| crate::cluster::flags::HealthFlags::default();
    let first = EndpointView::empty(1).update_with(&members[..1], String::new(), Some(begin), healthy);
    let later = begin + Duration::from_secs(100);
    let view = first.update_with(&members, String::new(), Some(later), healthy);
    let mut random = fastrand::Rng::with_seed(4);
    for (seconds, part) in [(0.0, 0.1), (5.0, 0.5), (8.0, 0.8), (10.0, 1.0), (60.0, 1.0)] {
        let wanted = Wanted { now: Some(later + Duration::from_secs_f64(seconds)), ..Wanted::default() };
        let mut cursor = Cursor::default();
        let mut draw = |bound| random.u64(..bound);
        let mut port = || {
            let host = pick(&view, policy, &mut cursor, &mut draw, wanted, &mut Counts::default()).unwrap();
            host.address.port()
        };
        let new = (0..1_100).filter(|_| port() == 11).count();
        let expected = 1_100.0 * part / (1.0 + part);
        assert!((new as f64 - expected).abs() <= 10.0, "{new} after {seconds} s, not {expected}");
    }
}

#[test]
fn a_full_scan_finds_the_one_idle_host() {
    let view = view(&weighted(&[1; 9]));
    for host in &view.hosts {
        host.stats.shard(0).rq_active.set(i64::from(host.address.port() != 14));
    }
    let method = Method::LeastRequest { choices: Choices::All, bias: 1.0 };
    let policy = Policy { method, slow_start: None };
    let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(5));
    let picked = shares_of(view, policy, &mut cursor, &mut random, 20, |view| view);
    assert_eq!(picked, BTreeMap::from([(14, 20)]));
}

/// Every number that a file may have there.
fn numbers() -> impl Strategy<Value = f64> {
    use prop::num::f64::{INFINITE, POSITIVE, SUBNORMAL};
    prop_oneof![Just(0.001), Just(1.0), Just(1024.0), POSITIVE | SUBNORMAL | INFINITE]
}

proptest! {
    /// When the load is gone and the slow start over, hosts are picked by their weight again.
    #[test]
    fn no_share_is_nothing_and_no_host_is_forgotten(
        weights in prop::collection::vec(1_u32..=20, 2..6), seed: u64, bias in numbers(),
        aggression in numbers(), least in prop_oneof![Just(0.0), 0.0..=1.0], active in 0_i64..1 << 40,
        slow_start: bool,
    ) {
        prop_assume!(weights.iter().any(|weight| *weight != weights[0]));
        let (begin, window) = (Instant::now(), Duration::from_secs(10));
        let policy = Policy {
            method: Method::LeastRequest { choices: Choices::Some(2), bias },
            slow_start: slow_start.then_some(SlowStart { window, aggression, least }),
        };
        let healthy = |_| crate::cluster::flags::HealthFlags::default();
        let empty = EndpointView::empty(1);
        let view = empty.update_with(&weighted(&weights), String::new(), Some(begin), healthy);
        let (mut cursor, mut random) = (Cursor::default(), fastrand::Rng::with_seed(seed));
        let mut picked = |now, random: &mut fastrand::Rng| {
            let wanted = Wanted { now: Some(now), ..Wanted::default() };
            let mut draw = |bound| random.u64(..bound);
            pick(&view, policy, &mut cursor, &mut draw, wanted, &mut Counts::default()).unwrap().address.port()
        };
        for step in 0..200 {
            let now = begin + Duration::from_millis(step * random.u64(..40));
            for (at, host) in view.hosts.iter().enumerate() {
                host.stats.shard(0).rq_active.set(if random.bool() { active } else { random.i64(..3) });
                let share = share(&view, policy, at, Some(now));
                prop_assert!(share.is_finite() && share > 0.0 && (1.0 / share).is_finite(), "{share}");
            }
            picked(now, &mut random);
        }
        view.hosts.iter().for_each(|host| host.stats.shard(0).rq_active.set(0));
        let later = begin + 6 * window;
        // The first turn of a host is at most 8 of its turns away.
        for _ in 0..1_000 {
            picked(later, &mut random);
        }
        let mut counts = BTreeMap::new();
        for _ in 0..500 {
            *counts.entry(picked(later, &mut random)).or_default() += 1;
        }
        assert_by_weight(&counts, &weights, 10.0);
    }
}

#[test]
fn any_number_of_choices_costs_at_most_some_looks_at_each_host() {
    let view = view(&weighted(&[1; 9]));
    let mut random = fastrand::Rng::with_seed(9);
    for choices in [Choices::All, Choices::Some(144), Choices::Some(u32::MAX)] {
        let method = Method::LeastRequest { choices, bias: 1.0 };
        let policy = Policy { method, slow_start: None };
        let mut ports = |idle: &[u16], count: u32| {
            for host in &view.hosts {
                let busy = !idle.contains(&host.address.port());
                host.stats.shard(0).rq_active.set(i64::from(busy));
            }
            let mut picked: BTreeMap<u16, u32> = BTreeMap::new();
            for _ in 0..count {
                let mut draws = 0;
                let mut draw = |bound| {
                    draws += 1;
                    assert!(draws <= 16 * 9 + 1, "{choices:?}");
                    random.u64(..bound)
                };
                let wanted = Wanted::default();
                let counts = &mut Counts::default();
                let host = pick(&view, policy, &mut Cursor::default(), &mut draw, wanted, counts).unwrap();
                *picked.entry(host.address.port()).or_default() += 1;
            }
            picked
        };
        assert_eq!(ports(&[14], 50), BTreeMap::from([(14, 50)]), "{choices:?}");
        // Neighbours and one that stands alone are as likely.
        let tied = ports(&[11, 12, 17], 900);
        assert!(tied.len() == 3 && tied.values().all(|count| (230..370).contains(count)), "{tied:?}");
    }
}

/// Clients can ask for many subsets, so that each has turns of its own.
#[test]
fn many_sets_of_hosts_do_not_end_the_turns_of_one_that_is_in_use() {
    let mut cursor = Cursor::default();
    let spot = |pool| Spot { pool, priority: 0, among: Among::Healthy, part: Part::Whole };
    let many = 3 * MOST_TURNS;
    for pool in 1..=many {
        cursor.turns(spot(0)).rotation.next += 1;
        cursor.turns(spot(pool as u64));
        assert!(cursor.turns.len() <= MOST_TURNS && cursor.order.len() == cursor.turns.len());
    }
    assert_eq!((cursor.turns(spot(0)).rotation.next, cursor.turns.len()), (many, MOST_TURNS));
}
