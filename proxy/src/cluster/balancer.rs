//! Load balancing: which host the next attempt goes to. Pure: the worker's cursor and random numbers
//! are arguments.
//!
//! The priority comes first, by the shares of `shares`, then the locality, where weights of localities
//! count. Within it, hosts of equal weight take turns (round robin), or the least busy of a few drawn
//! at random is taken (least request). Hosts of unequal weight are in a schedule by earliest deadline,
//! as in Envoy, and so are localities. Or the hash of the request names the host (`hashing`). Each worker starts at a
//! random place of its own and keeps its place when the members change, so that many workers and
//! frequent changes do not favour one host.

use std::cmp::{Ordering, Reverse};
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hashing::within_limit;
use super::pool::{LocalitySet, Pool};
use super::shares::Among;
use super::subsets::Counts;
use super::{EndpointView, Host};
use crate::affinity::Criteria;

/// How a cluster balances.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub(crate) struct Policy {
    pub method: Method,
    pub slow_start: Option<SlowStart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub(crate) enum Method {
    #[default]
    RoundRobin,
    /// The least busy of that many drawn at random, or of all. Hosts of unequal weight: by weight over
    /// active requests to the power of `bias`.
    LeastRequest {
        choices: Choices,
        bias: f64,
    },
    Random,
    /// By the hash of the request. No host has more active requests than so many per cent of the
    /// average, where there is such a limit.
    Hash {
        limit: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choices {
    Some(u32),
    All,
}

/// A host that is new or healthy again takes its share of the load over some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SlowStart {
    pub window: Duration,
    /// The share grows with the time to the power of one over this.
    pub aggression: f64,
    /// At least this part of the share.
    pub least: f64,
}

/// What a request says about its host, and what its earlier attempts say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub hash: Option<u64>,
    /// The metadata that the host is to have.
    pub criteria: Option<&'a Criteria>,
    /// Ids of hosts that are passed over while another one is found in so many more draws.
    pub avoid: &'a [u64],
    pub draws: u32,
    /// The time, where new hosts start slowly.
    pub now: Option<Instant>,
    /// Active requests of the whole cluster, where the load of its hosts is limited.
    pub active: i64,
}

/// One worker's place in the rotation of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    rotation: Rotation,
    /// The rotations and schedules of each set of hosts that is a part of a priority.
    turns: HashMap<Spot, Turns>,
    /// Their spots, in the order in which they are looked at when one is to be forgotten.
    order: VecDeque<Spot>,
}

/// A set of hosts, or of localities, that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Spot {
    /// That of a subset, or `WHOLE`.
    pool: u64,
    priority: usize,
    among: Among,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Whole,
    /// The localities themselves.
    Localities,
    Locality(usize),
}

#[derive(Debug, Default)]
struct Turns {
    /// Again, since it was last looked at.
    used: bool,
    rotation: Rotation,
    schedule: Schedule,
}

/// The turns of hosts of equal weight.
#[derive(Debug, Default)]
struct Rotation {
    started: bool,
    next: usize,
}

/// The turns of hosts of unequal weight, or of localities.
#[derive(Debug, Default)]
struct Schedule {
    /// The view that the turns' places are of.
    generation: u64,
    /// The deadline of the last turn taken.
    now: f64,
    /// How many turns are taken until all weights are read again.
    left: usize,
    turns: BinaryHeap<Reverse<Turn>>,
}

/// A host's next turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    deadline: f64,
    host: u64,
    /// The host's place in the view.
    at: usize,
    weight: f64,
}

impl Turn {
    /// One that is still `wait` away for a host of weight 1, at the beginning of time.
    fn new(host: u64, at: usize, wait: f64, weight: f64) -> Self {
        Self { deadline: wait / weight, host, at, weight }
    }

    /// How far away it is for a host of weight 1.
    fn wait(&self, now: f64) -> f64 {
        (self.deadline - now).max(0.0) * self.weight
    }
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

/// The host of the next attempt. `None` when the cluster has no host to use.
pub(crate) fn pick<'v>(
    view: &'v EndpointView,
    policy: Policy,
    cursor: &mut Cursor,
    random: &mut impl FnMut(u64) -> u64,
    wanted: Wanted<'_>,
    counts: &mut Counts,
) -> Option<&'v Arc<Host>> {
    let mut picker = Picker { view, policy, cursor, random, wanted };
    let at = match (&view.subsets, &view.layout.subsets) {
        (Some(subsets), Some(rules)) => {
            subsets.choose(rules, wanted.criteria, counts, |subset, counts| match subset.single {
                None => picker.pick(subset.id, &subset.pool, counts),
                single => single,
            })
        }
        _ => picker.pick(WHOLE, &view.pool, counts),
    };
    view.hosts.get(at?)
}

/// The pool of all hosts.
const WHOLE: u64 = 0;
/// Sets of hosts with turns of their own. Subsets come and go, and clients may ask for many: those
/// that are not used are forgotten, one for each new one.
const MOST_TURNS: usize = 16 * 1024;

/// What a pick is made with.
struct Picker<'p, R> {
    view: &'p EndpointView,
    policy: Policy,
    cursor: &'p mut Cursor,
    random: &'p mut R,
    wanted: Wanted<'p>,
}

impl<R: FnMut(u64) -> u64> Picker<'_, R> {
    /// The place of a host of a pool.
    fn pick(&mut self, id: u64, pool: &Pool, counts: &mut Counts) -> Option<usize> {
        let hash = match self.policy.method {
            Method::Hash { .. } => Some(self.wanted.hash.unwrap_or_else(|| (self.random)(u64::MAX))),
            _ => None,
        };
        let mut chosen = None;
        for attempt in 0..=self.wanted.draws {
            let (priority, among) = match hash {
                Some(hash) => pool.shares.draw(&mut |bound| hash % bound.max(1))?,
                None => pool.shares.draw(self.random)?,
            };
            counts.panic += u64::from(among == Among::All && attempt == 0);
            let at = match (self.policy.method, hash) {
                (Method::Hash { limit }, Some(hash)) => {
                    self.by_hash(pool, (priority, among), (hash, attempt), limit)
                }
                _ => self.in_turn(pool, Spot { pool: id, priority, among, part: Part::Whole }),
            }?;
            chosen = Some(at);
            let avoided = |host: &Arc<Host>| self.wanted.avoid.contains(&host.id);
            if !self.view.hosts.get(at).is_some_and(avoided) {
                break;
            }
        }
        chosen
    }

    /// The place of the host that has a hash.
    fn by_hash(
        &self,
        pool: &Pool,
        (priority, among): (usize, Among),
        (hash, attempt): (u64, u32),
        limit: Option<u32>,
    ) -> Option<usize> {
        let hosts = &self.view.hosts;
        let table = pool.tables.get(priority)?;
        let place = |member: usize| table.members.get(member).map(|(at, _)| *at);
        let mut member = table.member(hash, attempt)?;
        if let Some(limit) = limit {
            let all = self.wanted.active;
            let load = |at: usize, share: f64| overload(hosts.get(at), share, all, limit);
            member = within_limit(table, member, hash, load);
        }
        if !self.view.tables_lag || among == Among::All {
            return place(member);
        }
        let usable = |member: usize| {
            let host = place(member).and_then(|at| hosts.get(at));
            host.is_some_and(|host| !host.stats.ejection.is_ejected())
        };
        let next = if usable(member) { Some(member) } else { table.next_usable(hash, usable) };
        let rest = || pool.priorities.get(priority)?.of(among).first().copied();
        next.map_or_else(rest, place)
    }

    /// The place of the host whose turn it is, or of one drawn at random.
    fn in_turn(&mut self, pool: &Pool, mut spot: Spot) -> Option<usize> {
        let (view, policy, among) = (self.view, self.policy, spot.among);
        let random = &mut *self.random;
        let mut set = pool.priorities.get(spot.priority)?;
        let localities = pool.localities.get(spot.priority).filter(|_| among != Among::All);
        if let Some(localities) = localities.filter(|localities| !localities.is_empty()) {
            let turns = self.cursor.turns(Spot { part: Part::Localities, ..spot });
            if let Some(at) = turns.schedule.locality(view, localities, among, random) {
                set = &localities.get(at)?.set;
                spot.part = Part::Locality(at);
            }
        }
        let members = set.of(among);
        if members.is_empty() {
            return None;
        }
        let window = policy.slow_start.map(|slow_start| slow_start.window);
        let slow =
            self.wanted.now.filter(|now| window.is_some_and(|window| view.is_slow_starting(*now, window)));
        let equal = set.equal_weights && slow.is_none();
        match policy.method {
            Method::Random => members.get(below(random, members.len())).copied(),
            Method::RoundRobin if equal && spot.pool == WHOLE && spot.part == Part::Whole => {
                self.cursor.rotation.next(members, random)
            }
            Method::RoundRobin if equal => self.cursor.turns(spot).rotation.next(members, random),
            Method::LeastRequest { choices, .. } if equal => least_busy(view, members, choices, random),
            Method::RoundRobin | Method::LeastRequest { .. } | Method::Hash { .. } => {
                let schedule = &mut self.cursor.turns(spot).schedule;
                let weight = |at| share(view, policy, at, slow);
                let entries = members.iter().filter_map(|at| Some((view.hosts.get(*at)?.id, *at)));
                schedule.follow(view.generation, entries, weight, random);
                schedule.next(weight)
            }
        }
    }
}

/// How many active requests a host has in relation to its share of what all may have, and one more.
#[allow(clippy::cast_precision_loss)] // far fewer than 2^52 requests are active
fn overload(host: Option<&Arc<Host>>, share: f64, all: i64, limit: u32) -> f64 {
    let slots = (all.max(0) + 1).saturating_mul(limit.into()).saturating_add(99) / 100;
    let own = (slots as f64 * share).ceil().max(1.0);
    host.map_or(f64::MAX, |host| active(host) as f64 / own)
}

impl Cursor {
    fn turns(&mut self, spot: Spot) -> &mut Turns {
        if self.turns.len() >= MOST_TURNS && !self.turns.contains_key(&spot) {
            self.forget_one();
        }
        match self.turns.entry(spot) {
            Entry::Occupied(known) => {
                let turns = known.into_mut();
                turns.used = true;
                turns
            }
            Entry::Vacant(new) => {
                self.order.push_back(spot);
                new.insert(Turns::default())
            }
        }
    }

    /// Forgets the turns of a set that was not used again since its turn to be forgotten last came,
    /// so that sets that are used once push out each other.
    fn forget_one(&mut self) {
        while let Some(spot) = self.order.pop_front() {
            let used = self.turns.get_mut(&spot).is_some_and(|turns| std::mem::take(&mut turns.used));
            if !used {
                self.turns.remove(&spot);
                return;
            }
            self.order.push_back(spot);
        }
    }
}

impl Rotation {
    fn next(&mut self, members: &[usize], random: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        if !self.started {
            self.started = true;
            self.next = below(random, members.len());
        }
        let at = self.next % members.len();
        self.next = self.next.wrapping_add(1);
        members.get(at).copied()
    }
}

/// The least share of the load: that of a host that any setting and any number of active requests
/// would leave without one. A share of 0 would be a turn that never comes.
const LEAST_SHARE: f64 = 1e-12;

/// How much of the load a host takes in relation to the others: its weight, under least request over
/// its active requests.
#[allow(clippy::cast_precision_loss)] // far fewer than 2^52 requests are active
fn share(view: &EndpointView, policy: Policy, at: usize, slow: Option<Instant>) -> f64 {
    let Some(host) = view.hosts.get(at) else { return 1.0 };
    let mut weight = f64::from(host.weight.max(1));
    if let Method::LeastRequest { bias, .. } = policy.method
        && bias > 0.0
    {
        weight /= (active(host).max(0) as f64 + 1.0).powf(bias);
    }
    if let (Some(now), Some(slow_start), Some(since)) = (slow, policy.slow_start, host.since) {
        weight *= slow_start.part(now.saturating_duration_since(since));
    }
    weight.max(LEAST_SHARE)
}

impl SlowStart {
    /// The part of its share that a host takes that has been healthy for this long.
    pub(crate) fn part(self, healthy: Duration) -> f64 {
        if healthy >= self.window {
            return 1.0;
        }
        let passed = healthy.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        passed.powf(1.0 / self.aggression).max(self.least)
    }
}

impl Schedule {
    /// The locality whose turn it is; none where no weight counts.
    fn locality(
        &mut self,
        view: &EndpointView,
        localities: &[LocalitySet],
        among: Among,
        random: &mut impl FnMut(u64) -> u64,
    ) -> Option<usize> {
        let factor = view.layout.balance.overprovisioning;
        let weight = |at: usize| localities.get(at).map_or(0.0, |set| set.effective_weight(among, factor));
        let entries = (0..localities.len()).filter(|at| weight(*at) > 0.0).map(|at| (at as u64, at));
        self.follow(view.generation, entries, weight, random);
        self.next(weight)
    }

    /// Takes over the members of a view. Hosts that stay keep their turn; the first turn of others is
    /// drawn so that a host comes first as often as its weight says.
    fn follow(
        &mut self,
        generation: u64,
        members: impl Iterator<Item = (u64, usize)>,
        weight: impl Fn(usize) -> f64,
        random: &mut impl FnMut(u64) -> u64,
    ) {
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        let now = std::mem::take(&mut self.now);
        let before: HashMap<u64, f64> =
            self.turns.drain().map(|Reverse(turn)| (turn.host, turn.wait(now))).collect();
        let turn = |(host, at): (u64, usize)| {
            let wait = before.get(&host).copied().unwrap_or_else(|| exponential(random));
            Reverse(Turn::new(host, at, wait, weight(at)))
        };
        self.turns = members.map(turn).collect();
        self.left = self.turns.len();
    }

    /// The host whose turn it is; its next one comes after 1/share.
    fn next(&mut self, share: impl Fn(usize) -> f64) -> Option<usize> {
        if self.left == 0 {
            self.weigh(&share);
        }
        self.left = self.left.saturating_sub(1);
        let Reverse(turn) = self.turns.pop()?;
        self.now = turn.deadline;
        let weight = share(turn.at);
        self.turns.push(Reverse(Turn { deadline: turn.deadline + 1.0 / weight, weight, ..turn }));
        Some(turn.at)
    }

    /// Reads all weights again, so that a host does not wait for long because its share was small
    /// when it had its last turn. Time begins anew, so that it never grows too large to be exact.
    /// That costs one step a turn, as it is done once in as many turns as there are hosts.
    fn weigh(&mut self, share: impl Fn(usize) -> f64) {
        let now = std::mem::take(&mut self.now);
        let mut turns = std::mem::take(&mut self.turns).into_vec();
        for Reverse(turn) in &mut turns {
            *turn = Turn::new(turn.host, turn.at, turn.wait(now), share(turn.at));
        }
        self.left = turns.len();
        self.turns = turns.into();
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

/// As many draws for each host find every host as good as surely (a host is missed in one of 10^7
/// picks): all are looked at instead.
const MANY_DRAWS: usize = 16;

fn least_busy(
    view: &EndpointView,
    members: &[usize],
    choices: Choices,
    random: &mut impl FnMut(u64) -> u64,
) -> Option<usize> {
    let load = |at: &usize| view.hosts.get(*at).map_or(i64::MAX, |host| active(host));
    if let Choices::Some(count) = choices
        && (count as usize) < members.len().saturating_mul(MANY_DRAWS)
    {
        return (0..count.max(1))
            .filter_map(|_| members.get(below(random, members.len())).copied())
            .min_by_key(load);
    }
    // One of those that are equally idle, each as likely.
    let (mut least, mut found, mut tied) = (i64::MAX, None, 0);
    for at in members {
        let load = load(at);
        tied = if load < least { 1 } else { tied + usize::from(load == least) };
        if load < least || (load == least && below(random, tied) == 0) {
            (least, found) = (load, Some(*at));
        }
    }
    found
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
