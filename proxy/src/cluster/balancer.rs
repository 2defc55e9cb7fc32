//! Load balancing: which host the next try goes to. Pure: the worker's cursors and random numbers come in as arguments.
//!
//! Why: spread requests over the hosts of a cluster by their weights. The priority comes first: each serves its share of traffic by its
//! health (Envoy's overprovisioning factor 1.4), the rest spills to the next; with too few healthy hosts (panic threshold) all
//! hosts are used. Within it: round robin (by earliest deadline where weights differ), least request (the least busy of two
//! drawn), or random. Against Envoy: each worker rotates on its own from a random start, as there.
//! Called by `attempt`; calls nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::host::PrioritySet;
use super::{EndpointView, Host};

/// How a cluster balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    #[default]
    RoundRobin,
    /// The least busy of that many drawn at random.
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
    /// Weighted rotation: (deadline, order, host's place), rebuilt when the view changes.
    deadlines: BinaryHeap<Reverse<(u64, u64, usize)>>,
    order: u64,
    view: usize,
}

/// Envoy's overprovisioning factor, in percent.
const OVERPROVISIONING: u64 = 140;

/// The next host for a try; `avoid` holds the ids of hosts that were tried already (left out as long as another try finds a different one,
/// at most `max_tries` times). `None` when the cluster has no host to use.
pub fn pick<'v>(
    view: &'v EndpointView,
    policy: Policy,
    panic_threshold: f64,
    cursor: &mut Cursor,
    random: &mut impl FnMut(u64) -> u64,
    avoid: (&[u64], u32),
) -> Option<&'v Arc<Host>> {
    let (avoid, max_tries) = avoid;
    let mut chosen = None;
    for _ in 0..=max_tries {
        let (members, equal) = members(view, panic_threshold, random)?;
        let at = match policy {
            Policy::RoundRobin if equal => rotate(members, cursor, random),
            Policy::RoundRobin => by_deadline(view, members, cursor),
            Policy::Random => members.get(below(random, members.len())).copied(),
            Policy::LeastRequest { choices } => least_busy(view, members, choices, random),
        }?;
        chosen = view.hosts.get(at);
        if chosen.is_none_or(|host| !avoid.contains(&host.id)) {
            break;
        }
    }
    chosen
}

/// The hosts that a try is drawn from.
fn members<'v>(
    view: &'v EndpointView,
    panic_threshold: f64,
    random: &mut impl FnMut(u64) -> u64,
) -> Option<(&'v [usize], bool)> {
    let level = match view.priorities.as_slice() {
        [only] => only,
        levels => by_health(levels, random)?,
    };
    if level.all.is_empty() {
        return None;
    }
    #[allow(clippy::cast_precision_loss)] // a cluster has far fewer than 2^52 hosts
    let share = 100.0 * (level.healthy.len() + level.degraded.len()) as f64 / level.all.len() as f64;
    let usable = if share < panic_threshold {
        &level.all
    } else if level.healthy.is_empty() {
        &level.degraded
    } else {
        &level.healthy
    };
    (!usable.is_empty()).then_some((usable, level.equal_weights))
}

/// Draws a priority by the load that its health lets it take.
fn by_health<'v>(levels: &'v [PrioritySet], random: &mut impl FnMut(u64) -> u64) -> Option<&'v PrioritySet> {
    let health = |level: &PrioritySet| {
        let all = level.all.len() as u64;
        if all == 0 {
            0
        } else {
            ((level.healthy.len() + level.degraded.len()) as u64 * OVERPROVISIONING / all).min(100)
        }
    };
    let total: u64 = levels.iter().map(health).sum::<u64>().min(100);
    if total == 0 {
        return levels.iter().find(|level| !level.all.is_empty());
    }
    let mut drawn = random(total);
    let mut left = total;
    for level in levels {
        let load = health(level).min(left);
        if drawn < load {
            return Some(level);
        }
        drawn -= load;
        left -= load;
    }
    levels.last()
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

/// Earliest deadline first: a host's next turn is 1/weight after its last.
fn by_deadline(view: &EndpointView, members: &[usize], cursor: &mut Cursor) -> Option<usize> {
    const TURN: u64 = 1 << 32;
    let weight = |at: usize| view.hosts.get(at).map_or(1, |host| u64::from(host.weight.max(1)));
    let identity = std::ptr::from_ref(view) as usize;
    if cursor.view != identity || cursor.deadlines.len() != members.len() {
        cursor.view = identity;
        cursor.order = 0;
        cursor.deadlines = members.iter().map(|&at| Reverse((TURN / weight(at), at as u64, at))).collect();
        cursor.order = cursor.deadlines.len() as u64;
    }
    let Reverse((deadline, _, at)) = cursor.deadlines.pop()?;
    cursor.order += 1;
    cursor.deadlines.push(Reverse((deadline + TURN / weight(at), cursor.order, at)));
    Some(at)
}

fn least_busy(
    view: &EndpointView,
    members: &[usize],
    choices: u32,
    random: &mut impl FnMut(u64) -> u64,
) -> Option<usize> {
    let busy =
        |at: usize| view.hosts.get(at).map_or(i64::MAX, |host| host.stats.level(|shard| &shard.rq_active));
    (0..choices.max(1))
        .filter_map(|_| members.get(below(random, members.len())).copied())
        .min_by_key(|&at| busy(at))
}

fn below(random: &mut impl FnMut(u64) -> u64, count: usize) -> usize {
    usize::try_from(random(count.max(1) as u64)).unwrap_or(0)
}
