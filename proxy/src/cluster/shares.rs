//! How much of a cluster's load each priority takes by the health of its hosts, and where panic begins.
//!
//! Why: a priority that lost hosts gives the rest of its load to the next one, before its own last hosts break under it. Triggers: with
//! the overprovisioning factor of 1.4 a priority spills over when fewer than 71 % of its hosts are healthy; panic begins when all
//! priorities together cannot take the load and fewer hosts of one are healthy than the threshold says. Then all of its hosts are used,
//! as ill hosts are better than none. Recovers: with the health of the hosts. Hosts that are excluded count in no sum.

use super::PrioritySet;

/// How health is weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Balance {
    /// Below this share of healthy hosts all are used (percent; Envoy's default is 50).
    pub panic_threshold: f64,
    /// Percent by which a priority is held to be larger than it is (Envoy's default is 140).
    pub overprovisioning: u32,
}

impl Default for Balance {
    fn default() -> Self {
        Self { panic_threshold: 50.0, overprovisioning: 140 }
    }
}

/// The load of each priority; the parts add up to 100.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shares(Vec<Share>);

/// One priority's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Percent of the requests for its healthy hosts, and for its degraded ones.
    pub healthy: u32,
    pub degraded: u32,
    /// All of its hosts are used.
    pub panic: bool,
}

/// What a request of a priority may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Among {
    Healthy,
    Degraded,
    /// Panic.
    All,
}

impl Shares {
    /// The shares of priorities in order.
    pub(crate) fn of(priorities: &[PrioritySet], balance: Balance) -> Self {
        let mut shares = vec![Share::default(); priorities.len()];
        let health: Vec<(u32, u32)> =
            priorities.iter().map(|set| availability(set, balance.overprovisioning)).collect();
        let total = health.iter().map(|(healthy, degraded)| healthy + degraded).sum::<u32>().min(100);
        distribute(&mut shares, &health, total);
        if balance.panic_threshold <= 0.0 && total == 0 {
            if let Some(first) = shares.first_mut() {
                first.healthy = 100;
            }
            return Self(shares);
        }
        for (share, set) in shares.iter_mut().zip(priorities) {
            share.panic = total < 100 && is_in_panic(set, balance.panic_threshold);
        }
        if shares.iter().all(|share| share.panic) {
            by_size(&mut shares, priorities);
        }
        Self(shares)
    }

    /// Whether all hosts of a priority are used.
    pub(crate) fn is_in_panic(&self, priority: usize) -> bool {
        self.0.get(priority).is_some_and(|share| share.panic)
    }

    /// The priority of a request, and which of its hosts; `random` draws below a bound, and only where there is a choice.
    pub(crate) fn draw(&self, random: &mut impl FnMut(u64) -> u64) -> Option<(usize, Among)> {
        let whole = self.0.iter().position(|share| share.healthy == 100);
        let at = match whole {
            Some(at) => return Some((at, self.0.get(at)?.among(Among::Healthy))),
            None => u32::try_from(random(100)).unwrap_or(0),
        };
        let mut end = 0;
        for (among, part) in [
            (Among::Healthy, (|share| share.healthy) as fn(&Share) -> u32),
            (Among::Degraded, |share| share.degraded),
        ] {
            for (priority, share) in self.0.iter().enumerate() {
                end += part(share);
                if at < end {
                    return Some((priority, share.among(among)));
                }
            }
        }
        None
    }
}

impl Share {
    fn among(self, otherwise: Among) -> Among {
        if self.panic { Among::All } else { otherwise }
    }
}

/// How many of the hosts count.
fn counted(set: &PrioritySet) -> usize {
    set.all.len().saturating_sub(set.excluded)
}

/// The healthy and the degraded part of a priority's capacity in percent, as if it were larger than it is.
fn availability(set: &PrioritySet, overprovisioning: u32) -> (u32, u32) {
    let percent = |hosts: usize| {
        let part = (hosts as u64 * u64::from(overprovisioning)).checked_div(counted(set) as u64);
        part.and_then(|part| u32::try_from(part).ok()).unwrap_or(0).min(100)
    };
    (percent(set.healthy.len()), percent(set.degraded.len()))
}

#[allow(clippy::cast_precision_loss)] // a cluster has far fewer than 2^52 hosts
fn is_in_panic(set: &PrioritySet, threshold: f64) -> bool {
    let usable = (set.healthy.len() + set.degraded.len()) as f64;
    let share = if counted(set) == 0 { 0.0 } else { 100.0 * usable / counted(set) as f64 };
    share < threshold
}

/// Gives the load to the healthy hosts of each priority in turn, then what is left to degraded ones.
fn distribute(shares: &mut [Share], health: &[(u32, u32)], total: u32) {
    if total == 0 {
        return;
    }
    let mut left = 100;
    let mut take = |available: u32| {
        let part = (available * 100 / total).min(left);
        left -= part;
        part
    };
    for (share, (healthy, _)) in shares.iter_mut().zip(health) {
        share.healthy = take(*healthy);
    }
    for (share, (_, degraded)) in shares.iter_mut().zip(health) {
        share.degraded = take(*degraded);
    }
    // What rounding left.
    if let Some(share) = shares.iter_mut().find(|share| share.healthy > 0) {
        share.healthy += left;
    } else if let Some(share) = shares.iter_mut().find(|share| share.degraded > 0) {
        share.degraded += left;
    }
}

/// Every priority is in panic: each gets as much as it has of the hosts.
fn by_size(shares: &mut [Share], priorities: &[PrioritySet]) {
    let hosts: usize = priorities.iter().map(counted).sum();
    // No host has a weight: pick any that is left.
    let size = |set: &PrioritySet| if hosts == 0 { set.all.len() } else { counted(set) };
    let total: usize = priorities.iter().map(size).sum();
    if total == 0 {
        // There is no host; the load goes somewhere all the same, as in Envoy.
        if let Some(share) = shares.first_mut() {
            *share = Share { healthy: 100, degraded: 0, panic: true };
        }
        return;
    }
    let mut left = 100;
    for (share, set) in shares.iter_mut().zip(priorities) {
        let part = (100 * size(set)).checked_div(total).and_then(|part| u32::try_from(part).ok());
        *share = Share { healthy: part.unwrap_or(0), degraded: 0, panic: true };
        left -= share.healthy;
    }
    if let Some(share) = shares.iter_mut().find(|share| share.healthy > 0) {
        share.healthy += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: usize, healthy: usize, degraded: usize, excluded: usize) -> PrioritySet {
        PrioritySet {
            all: (0..all).collect(),
            healthy: (0..healthy).collect(),
            degraded: (0..degraded).collect(),
            excluded,
            equal_weights: true,
        }
    }

    fn shares(sets: &[PrioritySet], overprovisioning: u32) -> Vec<(u32, u32, bool)> {
        let shares = Shares::of(sets, Balance { overprovisioning, ..Balance::default() });
        shares.0.iter().map(|share| (share.healthy, share.degraded, share.panic)).collect()
    }

    #[test]
    fn a_priority_that_lost_hosts_spills_over_to_the_next() {
        let second = || set(1, 1, 0, 0);
        assert_eq!(shares(&[set(3, 3, 0, 0), second()], 140), [(100, 0, false), (0, 0, false)]);
        assert_eq!(shares(&[set(2, 1, 0, 0), second()], 140), [(70, 0, false), (30, 0, false)]);
        assert_eq!(shares(&[set(2, 1, 0, 0), second()], 100), [(50, 0, false), (50, 0, false)]);
        assert_eq!(shares(&[set(2, 0, 0, 0), second()], 140), [(0, 0, false), (100, 0, false)]);
    }

    #[test]
    fn panic_begins_only_when_the_load_cannot_be_taken() {
        assert_eq!(shares(&[set(3, 1, 0, 0)], 140), [(100, 0, true)]);
        assert_eq!(shares(&[set(2, 1, 0, 0)], 140), [(100, 0, false)]);
        // Both in panic: by their sizes.
        assert_eq!(shares(&[set(3, 0, 0, 0), set(1, 0, 0, 0)], 140), [(75, 0, true), (25, 0, true)]);
    }

    #[test]
    fn hosts_that_are_excluded_count_in_no_sum() {
        assert_eq!(shares(&[set(3, 1, 0, 2)], 140), [(100, 0, false)]);
    }

    #[test]
    fn degraded_hosts_take_what_healthy_ones_cannot() {
        assert_eq!(shares(&[set(4, 1, 1, 1)], 140), [(50, 50, false)]);
        let drawn = Shares::of(&[set(4, 1, 1, 1)], Balance::default());
        assert_eq!(drawn.draw(&mut |_| 49), Some((0, Among::Healthy)));
        assert_eq!(drawn.draw(&mut |_| 50), Some((0, Among::Degraded)));
    }

    #[test]
    fn without_a_panic_threshold_unhealthy_hosts_are_not_used() {
        let balance = Balance { panic_threshold: 0.0, ..Balance::default() };
        assert_eq!(Shares::of(&[set(2, 0, 0, 0)], balance).draw(&mut |_| 0), Some((0, Among::Healthy)));
    }
}
