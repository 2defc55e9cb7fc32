//! The hosts that picks are made from, laid out by priority, health and locality, with the tables for
//! balancing by hash. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::flags::{Coarse, HealthFlags};
use super::hashing::{Sizes, Table, TableRules};
use super::shares::{Among, Balance, Shares};
use super::subsets::{Localities, SubsetRules};
use super::{Host, Locality};

/// How the hosts of a cluster are laid out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layout {
    pub balance: Balance,
    /// The weights of localities count.
    pub localities: bool,
    /// Hosts are picked by hash.
    pub table: Option<TableRules>,
    /// Hosts are grouped by their metadata.
    pub subsets: Option<Arc<SubsetRules>>,
}

/// Hosts that a request may go to, as places in the view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    /// In order.
    pub priorities: Vec<PrioritySet>,
    /// How much of the load each priority takes, and whether it is in panic, so that all of its hosts are used.
    pub shares: Shares,
    /// Those of each priority by locality, where the weights of localities count: in the order of
    /// their names.
    pub localities: Vec<Vec<LocalitySet>>,
    /// One for each priority, where hosts are picked by hash.
    pub tables: Arc<[Table]>,
}

/// The hosts of one priority, or of one locality in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrioritySet {
    pub healthy: Vec<usize>,
    pub degraded: Vec<usize>,
    /// Healthy, degraded and unhealthy ones: what panic mode picks from.
    pub all: Vec<usize>,
    /// How many of all count in no sum.
    pub excluded: usize,
    /// All hosts have the same weight, so that a plain rotation does.
    pub equal_weights: bool,
}

/// The hosts of one priority in one locality.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalitySet {
    pub weight: u32,
    pub set: PrioritySet,
}

/// The hosts of a view as they are at one moment, read once for all of its pools.
pub(crate) struct Hosts<'h> {
    pub all: &'h [Arc<Host>],
    /// The health of each.
    pub flags: Vec<HealthFlags>,
    /// How many priorities there are.
    levels: usize,
    /// How many hosts each locality of a priority has, where subsets take a part of its weight.
    localities: HashMap<(u32, &'h Locality), usize>,
}

impl<'h> Hosts<'h> {
    pub(crate) fn new(all: &'h [Arc<Host>], layout: &Layout) -> Self {
        let mut localities = HashMap::new();
        let rules = layout.subsets.as_ref().filter(|_| layout.localities);
        if rules.is_some_and(|rules| rules.localities == Localities::Scaled) {
            for host in all {
                *localities.entry((host.priority, &host.locality)).or_default() += 1;
            }
        }
        Self {
            all,
            flags: all.iter().map(|host| host.flags()).collect(),
            levels: all.iter().map(|host| host.priority as usize + 1).max().unwrap_or(1),
            localities,
        }
    }

    /// How many hosts there are where one is.
    fn beside(&self, at: usize) -> usize {
        let host = self.all.get(at);
        let count = host.and_then(|host| self.localities.get(&(host.priority, &host.locality)));
        count.copied().unwrap_or(1)
    }
}

impl Pool {
    /// All of these hosts. `before` is the pool that it replaces.
    pub(crate) fn new(hosts: &Hosts<'_>, layout: &Layout, before: &Self) -> Self {
        Self::without_tables(hosts, 0..hosts.all.len(), layout.localities, layout.balance).with_tables(
            hosts.all,
            layout,
            Some(before),
        )
    }

    /// Some of these hosts, by their places.
    pub(crate) fn of_subset(
        hosts: &Hosts<'_>,
        members: &[usize],
        localities: Localities,
        layout: &Layout,
        before: Option<&Self>,
    ) -> Self {
        Self::of_members(hosts, members, localities, layout).with_tables(hosts.all, layout, before)
    }

    /// The same hosts by their health now, with the same tables.
    pub(crate) fn refreshed(&self, hosts: &Hosts<'_>, layout: &Layout) -> Self {
        let all = 0..hosts.all.len();
        let pool = Self::without_tables(hosts, all, layout.localities, layout.balance);
        Self { tables: Arc::clone(&self.tables), ..pool }
    }

    /// The same of a subset.
    pub(crate) fn refreshed_subset(
        &self,
        hosts: &Hosts<'_>,
        members: &[usize],
        localities: Localities,
        layout: &Layout,
    ) -> Self {
        let pool = Self::of_members(hosts, members, localities, layout);
        Self { tables: Arc::clone(&self.tables), ..pool }
    }

    fn with_tables(mut self, hosts: &[Arc<Host>], layout: &Layout, before: Option<&Self>) -> Self {
        if let Some(rules) = layout.table {
            let table = |at| {
                let members = self.members(hosts, at);
                Table::new(hosts, members, rules, before.and_then(|before| before.tables.get(at)))
            };
            self.tables = (0..self.priorities.len()).map(table).collect();
        }
        self
    }

    fn of_members(hosts: &Hosts<'_>, members: &[usize], localities: Localities, layout: &Layout) -> Self {
        let weighed = layout.localities && localities != Localities::Ignored;
        let mut pool = Self::without_tables(hosts, members.iter().copied(), weighed, layout.balance);
        if weighed && localities == Localities::Scaled {
            for locality in pool.localities.iter_mut().flatten() {
                locality.scale(locality.set.all.first().map_or(1, |at| hosts.beside(*at)));
            }
        }
        pool
    }

    fn without_tables(
        hosts: &Hosts<'_>,
        places: impl Iterator<Item = usize>,
        weighed: bool,
        balance: Balance,
    ) -> Self {
        let mut priorities = vec![PrioritySet::default(); hosts.levels];
        let mut localities: Vec<BTreeMap<&Locality, LocalitySet>> = vec![BTreeMap::new(); hosts.levels];
        for (at, host, flags) in places.filter_map(|at| Some((at, hosts.all.get(at)?, *hosts.flags.get(at)?)))
        {
            let level = host.priority as usize;
            if let Some(set) = priorities.get_mut(level) {
                set.add(at, flags);
            }
            if let Some(localities) = localities.get_mut(level).filter(|_| weighed) {
                let locality = localities.entry(&host.locality).or_default();
                locality.weight = host.locality_weight;
                locality.set.add(at, flags);
            }
        }
        let mut localities: Vec<Vec<LocalitySet>> =
            localities.into_iter().map(|sets| sets.into_values().collect()).collect();
        let of_localities = localities.iter_mut().flatten().map(|locality| &mut locality.set);
        priorities.iter_mut().chain(of_localities).for_each(|set| set.compare_weights(hosts.all));
        let shares = Shares::of(&priorities, balance);
        Self { priorities, shares, localities, tables: Arc::default() }
    }

    /// What the table of a priority is made of: each host with its share. Hosts that are only
    /// degraded are in none.
    fn members(&self, hosts: &[Arc<Host>], priority: usize) -> Vec<(usize, f64)> {
        let among = if self.shares.is_in_panic(priority) { Among::All } else { Among::Healthy };
        let mut members = Vec::new();
        let localities = self.localities.get(priority).map(|all| &**all).unwrap_or_default();
        if localities.is_empty() {
            let set = self.priorities.get(priority).map(|set| set.of(among));
            share_out(hosts, set.unwrap_or_default(), 1.0, &mut members);
            return members;
        }
        let sum: u64 = localities.iter().map(|locality| u64::from(locality.weight)).sum();
        for LocalitySet { weight, set } in localities.iter().filter(|locality| locality.weight > 0) {
            share_out(hosts, set.of(among), ratio(u64::from(*weight), sum), &mut members);
        }
        members
    }

    /// The sizes of the last table, which is the one that Envoy's statistics show.
    pub(crate) fn table_sizes(&self) -> Option<Sizes> {
        self.tables.last().map(Table::sizes)
    }
}

impl PrioritySet {
    pub(crate) fn of(&self, among: Among) -> &[usize] {
        match among {
            Among::Healthy => &self.healthy,
            Among::Degraded => &self.degraded,
            Among::All => &self.all,
        }
    }

    fn add(&mut self, at: usize, flags: HealthFlags) {
        self.all.push(at);
        self.excluded += usize::from(flags.is_excluded());
        match flags.coarse() {
            Coarse::Healthy => self.healthy.push(at),
            Coarse::Degraded => self.degraded.push(at),
            Coarse::Unhealthy => {}
        }
    }

    fn compare_weights(&mut self, hosts: &[Arc<Host>]) {
        let mut weights = self.all.iter().filter_map(|&at| hosts.get(at)).map(|host| host.weight);
        let first = weights.next();
        self.equal_weights = weights.all(|weight| Some(weight) == first);
    }
}

/// Adds hosts, each with its part of `share` by weight.
#[allow(clippy::cast_precision_loss)] // weights add up to less than 2^52
fn share_out(hosts: &[Arc<Host>], among: &[usize], share: f64, members: &mut Vec<(usize, f64)>) {
    let weights = among.iter().filter_map(|at| Some((*at, hosts.get(*at)?.weight)));
    let sum: u64 = weights.clone().map(|(_, weight)| u64::from(weight)).sum();
    members.extend(weights.map(|(at, weight)| (at, f64::from(weight) * share / sum as f64)));
}

#[allow(clippy::cast_precision_loss)] // weights add up to less than 2^52
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

impl LocalitySet {
    /// Only some of its `whole` hosts are there.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most the weight
    fn scale(&mut self, whole: usize) {
        let part = ratio(self.set.all.len() as u64, whole.max(1) as u64);
        self.weight = (f64::from(self.weight) * part.min(1.0)).round() as u32;
    }

    /// Its weight among the localities, less where hosts are missing.
    pub(crate) fn effective_weight(&self, among: Among, overprovisioning: u32) -> f64 {
        let count = self.set.all.len().saturating_sub(self.set.excluded);
        if count == 0 {
            return 0.0;
        }
        let available = ratio(self.set.of(among).len() as u64, count as u64);
        f64::from(self.weight) * (f64::from(overprovisioning) / 100.0 * available).min(1.0)
    }
}
