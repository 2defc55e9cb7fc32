//! Load balancing: which host the next attempt goes to. Pure: the worker's cursor and random numbers
//! are arguments.
//!
//! The priority comes first, by the shares of `shares`. Within it, hosts of equal weight take turns
//! (round robin), or the least busy of a few drawn at random is taken (least request). Hosts of
//! unequal weight are in a schedule by earliest deadline, as in Envoy. Each worker starts at a
//! random place of its own and keeps its place when the members change, so that many workers and
//! frequent changes do not favour one host.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::shares::Among;
use super::{EndpointView, Host};

/// How a cluster balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Policy {
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
pub(crate) struct Cursor {
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
pub(crate) fn pick<'v>(
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
#[path = "../../tests/unit/balancer.rs"]
mod tests;
