//! Subsets of a cluster's hosts by their metadata (`lb_subset_config`), and which of them a request
//! is for. Pure.
//!
//! Bounded: at most `MOST_SUBSETS`, and with tables for hashes at most `MOST_ENTRIES` entries in all.
//! What comes later in the list of hosts makes no further subsets then.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;
use twox_hash::XxHash64;

use super::flags::HealthFlags;
use super::pool::{Hosts, Layout, Pool};
use super::{Host, LbMetadata};
use crate::affinity::{Criteria, write_pair};

pub(crate) const MOST_SUBSETS: usize = 4096;
const MOST_ENTRIES: u64 = 16 << 20;

/// How hosts are grouped.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SubsetRules {
    pub selectors: Vec<Selector>,
    pub fallback: Fallback,
    /// The metadata of the default subset's hosts.
    pub default: LbMetadata,
    /// All hosts are used when the fallback has none.
    pub panic_any: bool,
    /// A host with a list has each of its values.
    pub list_as_any: bool,
    /// `fallback_list` of a request is a list of alternatives.
    pub alternatives: bool,
    pub localities: Localities,
}

/// Whether the weights of localities count in subsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Localities {
    #[default]
    Ignored,
    Weighed,
    /// In proportion to the hosts that are in the subset.
    Scaled,
}

/// Keys by whose values hosts are grouped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    /// In order.
    pub keys: Vec<String>,
    /// Each subset is its first host, whatever its health is.
    pub single: bool,
    /// For requests with these keys that have no subset; `None` is as the cluster says.
    pub fallback: Option<Fallback>,
}

/// What a request gets for which there is no subset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fallback {
    #[default]
    None,
    Any,
    Default,
    /// The subset of these keys alone.
    Keys(Vec<String>),
}

/// The subsets of one view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subsets {
    /// Places in `all`.
    by_key: Arc<HashMap<Box<[u8]>, usize>>,
    all: Vec<Arc<Subset>>,
    any: Arc<Subset>,
    default: Arc<Subset>,
    /// The health of the view's hosts that the pools were made of.
    flags: Vec<HealthFlags>,
    /// Subsets of single hosts that more than one host would be in.
    pub duplicates: usize,
}

/// Some of the hosts.
#[derive(Debug, Default)]
pub(crate) struct Subset {
    /// The same for every view.
    pub id: u64,
    pub pool: Pool,
    /// Their places in the view.
    members: Arc<[usize]>,
    /// The only host, whatever its health is.
    pub single: Option<usize>,
}

/// How often each way to a subset was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Picks among all hosts of a priority, because too few are healthy.
    pub panic: u64,
    pub selected: u64,
    pub fallback: u64,
    pub fallback_panic: u64,
}

impl Subsets {
    pub(crate) fn new(
        hosts: &Hosts<'_>,
        rules: &SubsetRules,
        layout: &Layout,
        before: Option<&Self>,
    ) -> Self {
        let mut members: BTreeMap<Box<[u8]>, (Vec<usize>, bool)> = BTreeMap::new();
        let most = match layout.table {
            Some(table) => usize::try_from(MOST_ENTRIES / table.size().max(1)).unwrap_or(1),
            None => MOST_SUBSETS,
        };
        for (at, host) in hosts.all.iter().enumerate() {
            for selector in &rules.selectors {
                for key in keys(host, selector, rules.list_as_any) {
                    let full = members.len() >= most.clamp(1, MOST_SUBSETS);
                    if full && !members.contains_key(&*key) {
                        continue;
                    }
                    members.entry(key).or_insert_with(|| (Vec::new(), selector.single)).0.push(at);
                }
            }
        }
        let mut subsets = Self { flags: hosts.flags.clone(), ..Self::default() };
        let subset = |members: Vec<usize>, before: Option<&Subset>, id, single| {
            let before = before.map(|old| &old.pool);
            let pool = Pool::of_subset(hosts, &members, rules.localities, layout, before);
            Arc::new(Subset { id, pool, members: members.into(), single })
        };
        let mut by_key = HashMap::with_capacity(members.len());
        for (key, (members, single)) in members {
            let old = before.and_then(|before| before.get(&key));
            let id = XxHash64::oneshot(0, &key);
            subsets.duplicates += usize::from(single && members.len() > 1);
            let first = members.first().copied().filter(|_| single);
            by_key.insert(key, subsets.all.len());
            subsets.all.push(subset(members, old, id, first));
        }
        subsets.by_key = Arc::new(by_key);
        let is_default = |host: &Host| {
            rules.default.iter().all(|(key, value)| {
                let own = host.metadata.as_ref().and_then(|data| data.get(key));
                own.is_some_and(|own| is(own, value, rules.list_as_any))
            })
        };
        let all = hosts.all;
        let default = (0..).zip(all).filter(|(_, host)| is_default(host)).map(|(at, _)| at).collect();
        subsets.any = subset((0..all.len()).collect(), before.map(|before| &*before.any), 1, None);
        subsets.default = subset(default, before.map(|before| &*before.default), 2, None);
        subsets
    }

    /// The same subsets by the health of their hosts now, with the same tables. Those none of whose
    /// hosts changed stay.
    pub(crate) fn refreshed(&self, hosts: &Hosts<'_>, rules: &SubsetRules, layout: &Layout) -> Self {
        let has_changed = |at: &usize| self.flags.get(*at) != hosts.flags.get(*at);
        let subset = |old: &Arc<Subset>| {
            if !old.members.iter().any(has_changed) {
                return Arc::clone(old);
            }
            Arc::new(Subset {
                id: old.id,
                pool: old.pool.refreshed_subset(hosts, &old.members, rules.localities, layout),
                members: Arc::clone(&old.members),
                single: old.single,
            })
        };
        Self {
            by_key: Arc::clone(&self.by_key),
            all: self.all.iter().map(subset).collect(),
            any: subset(&self.any),
            default: subset(&self.default),
            flags: hosts.flags.clone(),
            duplicates: self.duplicates,
        }
    }

    fn get(&self, key: &[u8]) -> Option<&Subset> {
        self.all.get(*self.by_key.get(key)?).map(|subset| &**subset)
    }

    /// How many there are, the fallbacks not counted.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The host of a request: `pick` picks one of a subset.
    pub(crate) fn choose<T>(
        &self,
        rules: &SubsetRules,
        criteria: Option<&Criteria>,
        counts: &mut Counts,
        mut pick: impl FnMut(&Subset, &mut Counts) -> Option<T>,
    ) -> Option<T> {
        let alternatives = criteria.and_then(|criteria| criteria.alternatives.as_deref());
        match alternatives.filter(|_| rules.alternatives) {
            Some(alternatives) => {
                alternatives.iter().find_map(|one| self.choose_one(rules, Some(one), counts, &mut pick))
            }
            None => self.choose_one(rules, criteria, counts, &mut pick),
        }
    }

    fn choose_one<T>(
        &self,
        rules: &SubsetRules,
        criteria: Option<&Criteria>,
        counts: &mut Counts,
        pick: &mut impl FnMut(&Subset, &mut Counts) -> Option<T>,
    ) -> Option<T> {
        if let Some(criteria) = criteria {
            // The keys that are left; each round leaves fewer.
            let mut key = Cow::Borrowed(&*criteria.key);
            let mut names: SmallVec<[&str; 8]> = criteria.names().collect();
            loop {
                if let Some(subset) = self.get(&key) {
                    counts.selected += 1;
                    return pick(subset, counts);
                }
                let selector = rules.selectors.iter().find(|selector| selector.keys == *names);
                match selector.and_then(|selector| selector.fallback.as_ref()) {
                    None => break,
                    Some(Fallback::None) => return None,
                    Some(Fallback::Any) => return pick(&self.any, counts),
                    Some(Fallback::Default) => return pick(&self.default, counts),
                    Some(Fallback::Keys(keys)) => {
                        let left = names.len();
                        names.retain(|name| keys.iter().any(|key| key == name));
                        if names.len() == left {
                            return None;
                        }
                        key = Cow::Owned(criteria.key_of(|name| keys.iter().any(|key| key == name)));
                    }
                }
            }
        }
        let fallback = match rules.fallback {
            Fallback::Any => &self.any,
            Fallback::Default => &self.default,
            Fallback::None | Fallback::Keys(_) => return None,
        };
        if let Some(found) = pick(fallback, counts) {
            counts.fallback += 1;
            return Some(found);
        }
        if !rules.panic_any {
            return None;
        }
        let found = pick(&self.any, counts)?;
        counts.fallback_panic += 1;
        Some(found)
    }
}

fn is(own: &Value, wanted: &Value, list_as_any: bool) -> bool {
    match own {
        Value::Array(list) if list_as_any => list.contains(wanted),
        own => own == wanted,
    }
}

/// The subsets of a selector that a host is in: one, or one for each value of its lists.
fn keys(host: &Host, selector: &Selector, list_as_any: bool) -> Vec<Box<[u8]>> {
    let Some(metadata) = &host.metadata else { return Vec::new() };
    let mut found = vec![Vec::new()];
    for name in &selector.keys {
        let Some(value) = metadata.get(name) else { return Vec::new() };
        let values = match value {
            Value::Array(list) if list_as_any => &**list,
            one => std::slice::from_ref(one),
        };
        let with = |key: &Vec<u8>, value: &Value| {
            let mut key = key.clone();
            write_pair(&mut key, name, value);
            key
        };
        let each = found.iter().flat_map(|key| values.iter().map(move |value| (key, value)));
        found = each.take(MOST_SUBSETS).map(|(key, value)| with(key, value)).collect();
    }
    found.into_iter().map(Vec::into_boxed_slice).collect()
}

#[cfg(test)]
#[path = "../../tests/unit/subsets.rs"]
mod tests;
