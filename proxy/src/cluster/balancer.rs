//! Load balancing: which host the next try goes to. Pure: the worker's cursors and random numbers come in as arguments.
//!
//! Why: spread requests over the hosts of a cluster by their weights. The priority comes first, by the shares of `shares`. Within it:
//! round robin (by earliest deadline where weights differ), least request (the least busy of two
//! drawn), or random. Against Envoy: each worker rotates on its own from a random start, as there.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::shares::Among;
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
    /// The view that the weighted rotations are of.
    view: u64,
    /// One for each set of members that was drawn from.
    rotations: Vec<Rotation>,
}

/// A weighted rotation over one set of members.
#[derive(Debug)]
struct Rotation {
    /// Where the set lies, which tells it from the others of its view.
    members: usize,
    /// (deadline, order, host's place).
    deadlines: BinaryHeap<Reverse<(u64, u64, usize)>>,
    order: u64,
}

/// The next host for a try, and whether it was drawn in panic; `avoid` holds the ids of hosts that were tried already (left out as long
/// as another try finds a different one, at most `max_tries` times). `None` when the cluster has no host to use.
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
            Policy::RoundRobin if level.equal_weights => rotate(members, cursor, random),
            Policy::RoundRobin => by_deadline(view, members, cursor),
            Policy::Random => members.get(below(random, members.len())).copied(),
            Policy::LeastRequest { choices } => least_busy(view, members, choices, random),
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

/// Earliest deadline first: a host's next turn is 1/weight after its last.
fn by_deadline(view: &EndpointView, members: &[usize], cursor: &mut Cursor) -> Option<usize> {
    const TURN: u64 = 1 << 32;
    let weight = |at: usize| view.hosts.get(at).map_or(1, |host| u64::from(host.weight.max(1)));
    if cursor.view != view.generation {
        cursor.view = view.generation;
        cursor.rotations.clear();
    }
    let known = cursor.rotations.iter().position(|rotation| rotation.members == members.as_ptr() as usize);
    let known = known.unwrap_or_else(|| {
        let deadlines = members.iter().map(|&at| Reverse((TURN / weight(at), at as u64, at))).collect();
        cursor.rotations.push(Rotation {
            members: members.as_ptr() as usize,
            deadlines,
            order: view.hosts.len() as u64,
        });
        cursor.rotations.len() - 1
    });
    let rotation = cursor.rotations.get_mut(known)?;
    let Reverse((deadline, _, at)) = rotation.deadlines.pop()?;
    rotation.order += 1;
    match deadline.checked_add(TURN / weight(at)) {
        Some(next) => rotation.deadlines.push(Reverse((next, rotation.order, at))),
        // After as many turns as there are numbers it begins anew.
        None => drop(cursor.rotations.swap_remove(known)),
    }
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

#[cfg(test)]
mod tests {
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

    /// The ports drawn one after the other; `random` is what every draw says.
    fn draw(view: &EndpointView, cursor: &mut Cursor, random: u64) -> u16 {
        pick(view, Policy::RoundRobin, cursor, &mut |_| random, (&[], 0)).unwrap().0.address.port()
    }

    #[test]
    fn each_priority_has_a_weighted_rotation_of_its_own() {
        let all = [endpoint(1, 1, 0), endpoint(2, 2, 0), endpoint(3, 1, 1)];
        let members = view(&all);
        let mut cursor = Cursor::default();
        let two = [endpoint(3, 1, 1), endpoint(4, 3, 1)];
        assert_eq!([draw(&members, &mut cursor, 0), draw(&members, &mut cursor, 99)], [2, 3]);
        let other = view(&[&all[..2], &two].concat());
        let drawn: Vec<u16> = (0..4).map(|_| draw(&other, &mut cursor, 99)).collect();
        assert_eq!(drawn.iter().filter(|&&port| port == 4).count(), 3, "{drawn:?}");
    }

    #[test]
    fn a_weighted_rotation_outlives_its_numbers() {
        let members = view(&[endpoint(5, 1, 0), endpoint(6, 2, 0)]);
        let mut cursor = Cursor::default();
        draw(&members, &mut cursor, 0);
        let rotation = &mut cursor.rotations[0];
        rotation.deadlines = rotation
            .deadlines
            .drain()
            .map(|Reverse((_, order, at))| Reverse((u64::MAX, order, at)))
            .collect();
        let drawn: Vec<u16> = (0..6).map(|_| draw(&members, &mut cursor, 0)).collect();
        assert!(drawn.contains(&5) && drawn.contains(&6), "{drawn:?}");
    }
}
