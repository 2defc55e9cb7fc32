//! Load balancing: which host the next attempt goes to. Pure: the worker's cursor and random numbers
//! are arguments.
//!
//! The priority comes first, by the shares of `shares`. Within it, hosts of equal weight take turns
//! (round robin), or the least busy of a few drawn at random is taken (least request). Hosts of
//! unequal weight stand in a schedule by earliest deadline, as in Envoy. Each worker starts at a
//! random place of its own and keeps its place when the members change, so that many workers and
//! frequent changes do not favour one host.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::shares::Among;
use super::{EndpointView, Host};

/// How a cluster balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    #[default]
    RoundRobin,
    /// The least busy of that many drawn at random. Hosts of unequal weight: by weight over active
    /// requests.
    LeastRequest {
        choices: u32,
    },
    Random,
}

/// One worker's place in the rotation of one cluster.
#[derive(Debug, Default)]
pub struct Cursor {
    started: bool,
    next: usize,
    /// One for each set of hosts that was picked from.
    schedules: HashMap<(usize, Among), Schedule>,
}

/// The turns of hosts of unequal weight.
#[derive(Debug, Default)]
struct Schedule {
    /// The view that the turns' places are of.
    generation: u64,
    /// The deadline of the last turn taken.
    now: f64,
    turns: BinaryHeap<Reverse<Turn>>,
}

/// A host's next turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    deadline: f64,
    host: u64,
    /// The host's place in the view.
    at: usize,
    weight: u32,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.deadline.total_cmp(&other.deadline).then(self.host.cmp(&other.host))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

/// The host of the next attempt, and whether it was picked in panic. Hosts whose id is in `avoid`
/// are passed over while another can be found in `max_tries` picks. `None` when the cluster has no
/// host to use.
pub fn pick<'v>(
    view: &'v EndpointView,
    policy: Policy,
    cursor: &mut Cursor,
    random: &mut impl FnMut(u64) -> u64,
    avoid: (&[u64], u32),
) -> Option<(&'v Arc<Host>, bool)> {
    let (avoid, max_tries) = avoid;
    let mut chosen = None;
    for _ in 0..=max_tries {
        let (priority, among) = view.shares.draw(random)?;
        let level = view.priorities.get(priority)?;
        let members = match among {
            Among::Healthy => &level.healthy,
            Among::Degraded => &level.degraded,
            Among::All => &level.all,
        };
        if members.is_empty() {
            return None;
        }
        let at = match policy {
            Policy::Random => members.get(below(random, members.len())).copied(),
            Policy::RoundRobin if level.equal_weights => rotate(members, cursor, random),
            Policy::LeastRequest { choices } if level.equal_weights => {
                least_busy(view, members, choices, random)
            }
            Policy::RoundRobin | Policy::LeastRequest { .. } => {
                let schedule = cursor.schedules.entry((priority, among)).or_default();
                schedule.follow(view, members, random);
                schedule.next(|at| share(view, policy, at))
            }
        }?;
        chosen = view.hosts.get(at).map(|host| (host, among == Among::All));
        if chosen.is_none_or(|(host, _)| !avoid.contains(&host.id)) {
            break;
        }
    }
    chosen
}

fn rotate(members: &[usize], cursor: &mut Cursor, random: &mut impl FnMut(u64) -> u64) -> Option<usize> {
    if !cursor.started {
        cursor.started = true;
        cursor.next = below(random, members.len());
    }
    let at = cursor.next % members.len();
    cursor.next = cursor.next.wrapping_add(1);
    members.get(at).copied()
}

/// How much of the load a host takes in relation to the others: its weight, under least request over
/// its active requests (Envoy's `active_request_bias` of 1).
#[allow(clippy::cast_precision_loss)] // far fewer than 2^52 requests are active
fn share(view: &EndpointView, policy: Policy, at: usize) -> f64 {
    let Some(host) = view.hosts.get(at) else { return 1.0 };
    let weight = f64::from(host.weight.max(1));
    match policy {
        Policy::LeastRequest { .. } => weight / (active(host).max(0) as f64 + 1.0),
        Policy::RoundRobin | Policy::Random => weight,
    }
}

impl Schedule {
    /// Takes over the members of a view. Hosts that stay keep their turn; the first turn of others is
    /// drawn so that a host comes first as often as its weight says.
    fn follow(&mut self, view: &EndpointView, members: &[usize], random: &mut impl FnMut(u64) -> u64) {
        if self.generation == view.generation && self.turns.len() == members.len() {
            return;
        }
        self.generation = view.generation;
        let before: HashMap<u64, Turn> = self.turns.drain().map(|Reverse(turn)| (turn.host, turn)).collect();
        let turn = |at: usize| {
            let host = view.hosts.get(at)?;
            let weight = host.weight.max(1);
            let wait = match before.get(&host.id) {
                Some(turn) => {
                    (turn.deadline - self.now).max(0.0) * f64::from(turn.weight) / f64::from(weight)
                }
                None => exponential(random) / f64::from(weight),
            };
            Some(Reverse(Turn { deadline: self.now + wait, host: host.id, at, weight }))
        };
        self.turns = members.iter().copied().filter_map(turn).collect();
    }

    /// The host whose turn it is; its next one comes after 1/share.
    fn next(&mut self, share: impl Fn(usize) -> f64) -> Option<usize> {
        let Reverse(turn) = self.turns.pop()?;
        self.now = turn.deadline;
        self.turns.push(Reverse(Turn { deadline: turn.deadline + 1.0 / share(turn.at), ..turn }));
        Some(turn.at)
    }
}

/// A wait of 1 on average, exponentially distributed. The longest is cut at 8, so that a host of the
/// smallest weight is not left out for long.
#[allow(clippy::cast_precision_loss)] // below 2^52
fn exponential(random: &mut impl FnMut(u64) -> u64) -> f64 {
    const STEPS: u64 = 1 << 32;
    let uniform = (random(STEPS) as f64 + 0.5) / STEPS as f64;
    (-uniform.ln()).min(8.0)
}

fn least_busy(
    view: &EndpointView,
    members: &[usize],
    choices: u32,
    random: &mut impl FnMut(u64) -> u64,
) -> Option<usize> {
    (0..choices.max(1))
        .filter_map(|_| members.get(below(random, members.len())).copied())
        .min_by_key(|&at| view.hosts.get(at).map_or(i64::MAX, |host| active(host)))
}

fn active(host: &Host) -> i64 {
    host.stats.level(|shard| &shard.rq_active)
}

fn below(random: &mut impl FnMut(u64) -> u64, count: usize) -> usize {
    usize::try_from(random(count.max(1) as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
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
                    shares_of(view(&members), Policy::RoundRobin, &mut cursor, &mut random, picks, |view| {
                        view
                    });
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
}
