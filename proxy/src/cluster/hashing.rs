//! Tables of hosts for balancing by hash: the ring (ketama) and Maglev's. Pure.
//!
//! The tables are Envoy's, entry by entry: a client keeps its host whichever of the two proxies picks.
//! A table is built with the endpoint view, off the data path, and all workers share it.

use std::collections::HashMap;
use std::sync::Arc;

use twox_hash::XxHash64;

use super::Host;

/// What a table is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableRules {
    pub kind: TableKind,
    /// Hosts are placed by their name instead of their address.
    pub by_hostname: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableKind {
    Ring { min: u64, max: u64, murmur: bool },
    Maglev { size: u64 },
}

impl TableRules {
    /// The least size of a table.
    pub(crate) fn size(&self) -> u64 {
        match self.kind {
            TableKind::Ring { min, max, .. } => min.min(max),
            TableKind::Maglev { size } => size,
        }
    }
}

/// The hosts of one priority, by hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// The places in the view of those that the entries name, with their share of the whole.
    pub members: Vec<(usize, f64)>,
    entries: Arc<Entries>,
}

/// What does not change while the hosts and their weights stay.
#[derive(Debug, Default)]
struct Entries {
    /// Of all that the entries are made of.
    digest: u64,
    /// The hashes of a ring in order; empty for Maglev.
    hashes: Box<[u64]>,
    /// Which member has the entry.
    owners: Box<[u32]>,
    sizes: Sizes,
}

/// How large a table is, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub size: u64,
    /// Entries of the host that has the fewest, and of the one that has the most.
    pub least: u64,
    pub most: u64,
}

impl Table {
    /// The table of `members`, each with its share. `before` is the table that it replaces.
    pub(crate) fn new(
        hosts: &[Arc<Host>],
        members: Vec<(usize, f64)>,
        rules: TableRules,
        before: Option<&Self>,
    ) -> Self {
        let named = members.iter().filter_map(|(at, share)| Some((key(hosts.get(*at)?, rules), *share)));
        let named: Vec<(String, f64)> = named.collect();
        let digest = named.iter().fold(1, |digest, (key, share)| {
            XxHash64::oneshot(XxHash64::oneshot(digest, key.as_bytes()), &share.to_bits().to_le_bytes())
        });
        if let Some(before) = before.filter(|before| before.entries.digest == digest) {
            return Self { members, entries: Arc::clone(&before.entries) };
        }
        let (hashes, owners) = match rules.kind {
            TableKind::Ring { min, max, murmur } => ring(&named, min, max, murmur),
            TableKind::Maglev { size } => (Box::default(), maglev(&named, size)),
        };
        let sizes = sizes(&owners, named.len());
        Self { members, entries: Arc::new(Entries { digest, hashes, owners, sizes }) }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        self.entries.sizes
    }

    /// The member of a hash in the `attempt`th draw, counted from 0.
    pub(crate) fn member(&self, hash: u64, attempt: u32) -> Option<usize> {
        let Entries { hashes, owners, .. } = &*self.entries;
        let size = owners.len() as u64;
        let at = if hashes.is_empty() {
            // Most bits differ, so that draws again do not all come to one host.
            let hash = if attempt > 0 { hash ^ 0_u64.wrapping_sub(u64::from(attempt)) } else { hash };
            hash.checked_rem(size)?
        } else {
            let next = hashes.partition_point(|entry| *entry < hash) as u64;
            (next + u64::from(attempt)).checked_rem(size)?
        };
        owners.get(usize::try_from(at).ok()?).map(|owner| *owner as usize)
    }

    /// The member behind that of a hash that `usable` takes: as if the others were not there.
    pub(crate) fn next_usable(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        /// Entries that are looked at, of a table that control is about to replace.
        const MOST: u32 = 256;
        let Entries { hashes, owners, .. } = &*self.entries;
        let first = match hashes.is_empty() {
            true => hash.checked_rem(owners.len() as u64).and_then(|at| usize::try_from(at).ok())?,
            false => hashes.partition_point(|entry| *entry < hash),
        };
        let entries = (0..MOST).filter_map(|step| owners.get((first + step as usize) % owners.len()));
        entries.map(|owner| *owner as usize).find(|owner| usable(*owner))
    }
}

/// What places a host: its key from the file, else its name or its address.
fn key(host: &Host, rules: TableRules) -> String {
    let key = host.metadata.as_deref().and_then(|data| data.get("hash_key")?.as_str());
    match key.filter(|key| !key.is_empty()) {
        Some(key) => key.to_owned(),
        None if rules.by_hostname => host.hostname.clone(),
        None => host.address.to_string(),
    }
}

/// As many entries for each host as its share says, at the hashes of its key with a number.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // exact: table sizes are below 2^23
fn ring(named: &[(String, f64)], min: u64, max: u64, murmur: bool) -> (Box<[u64]>, Box<[u32]>) {
    let least = named.iter().map(|(_, share)| *share).fold(f64::INFINITY, f64::min);
    if named.is_empty() || least <= 0.0 {
        return Default::default();
    }
    // The host of the least share gets a whole number of entries.
    let scale = ((least * min as f64).ceil() / least).min(max as f64);
    let mut entries: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
    let mut target = 0.0;
    let mut text = String::new();
    for (owner, (key, share)) in (0_u32..).zip(named) {
        target += scale * share;
        let mut number = 0;
        while (entries.len() as f64) < target {
            text.clear();
            text.push_str(key);
            text.push('_');
            text.push_str(itoa::Buffer::new().format(number));
            let bytes = text.as_bytes();
            entries.push((if murmur { murmur2(bytes) } else { XxHash64::oneshot(0, bytes) }, owner));
            number += 1;
        }
    }
    entries.sort_by_key(|(hash, _)| *hash);
    let (hashes, owners): (Vec<u64>, Vec<u32>) = entries.into_iter().unzip();
    (hashes.into(), owners.into())
}

/// The hosts take turns at the next free entry of their own permutation, as often as their share says.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // sizes are below 2^23
fn maglev(named: &[(String, f64)], size: u64) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    struct Turn {
        owner: u32,
        at: u64,
        skip: u64,
        share: f64,
        due: f64,
    }
    if let [_] = named {
        return Box::new([0]);
    }
    let most = named.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    if named.is_empty() || size < 2 || most <= 0.0 {
        return Box::default();
    }
    // By key, so that the order in the file makes no difference.
    let mut order: Vec<(u32, &(String, f64))> = (0..).zip(named).collect();
    order.sort_by(|(_, one), (_, other)| one.0.cmp(&other.0));
    let turn = |(owner, (key, share)): (u32, &(String, f64))| Turn {
        owner,
        at: XxHash64::oneshot(0, key.as_bytes()) % size,
        skip: XxHash64::oneshot(1, key.as_bytes()) % (size - 1) + 1,
        share: *share,
        due: 0.0,
    };
    let mut turns: Vec<Turn> = order.into_iter().map(turn).collect();
    let mut owners = vec![FREE; size as usize].into_boxed_slice();
    let mut filled = 0;
    let mut round = 0_u64;
    while filled < size {
        round += 1;
        for turn in &mut turns {
            if round as f64 * turn.share < turn.due {
                continue;
            }
            turn.due += most;
            while owners.get(turn.at as usize).is_some_and(|owner| *owner != FREE) {
                turn.at = (turn.at + turn.skip) % size;
            }
            if let Some(entry) = owners.get_mut(turn.at as usize) {
                *entry = turn.owner;
            }
            turn.at = (turn.at + turn.skip) % size;
            filled += 1;
            if filled == size {
                break;
            }
        }
    }
    owners
}

fn sizes(owners: &[u32], members: usize) -> Sizes {
    let mut counts = vec![0_u64; members];
    for owner in owners {
        if let Some(count) = counts.get_mut(*owner as usize) {
            *count += 1;
        }
    }
    let (least, most) = (counts.iter().min(), counts.iter().max());
    Sizes { size: owners.len() as u64, least: least.copied().unwrap_or(0), most: most.copied().unwrap_or(0) }
}

/// MurmurHash 2 for 64 bits, with the seed of libstdc++'s `std::hash`.
pub(crate) fn murmur2(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for word in words {
        let mixed = mix(u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ mixed).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

/// The member that takes a request under a limit of `factor` per cent of the average, where the
/// member of the hash is `first`. The others are looked at in an order that is the hash's own.
pub(crate) fn within_limit(
    table: &Table,
    first: usize,
    hash: u64,
    overload: impl Fn(usize, f64) -> f64,
) -> usize {
    let load =
        |member: usize| table.members.get(member).map_or(f64::MAX, |(at, share)| overload(*at, *share));
    let mut least = (load(first), first);
    if least.0 <= 1.0 {
        return first;
    }
    for member in Shuffle::new(table.members.len(), hash).filter(|member| *member != first) {
        let load = load(member);
        if load <= 1.0 {
            return member;
        }
        if load < least.0 {
            least = (load, member);
        }
    }
    least.1
}

/// The numbers below a count in an order that a seed names: Envoy's, which is Fisher's and Yates'.
/// Only as much of the order is made, and kept, as is taken.
struct Shuffle {
    twister: Twister,
    count: usize,
    taken: usize,
    /// The numbers at places that were swapped and are still to come; at others it is their own.
    moved: HashMap<usize, usize>,
}

impl Shuffle {
    fn new(count: usize, seed: u64) -> Self {
        Self { twister: Twister::new(seed), count, taken: 0, moved: HashMap::new() }
    }
}

impl Iterator for Shuffle {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let at = self.taken;
        let left = self.count.checked_sub(at).filter(|left| *left > 0)?;
        self.taken += 1;
        let other = at + self.twister.below(left);
        let own = self.moved.remove(&at).unwrap_or(at);
        if other == at {
            return Some(own);
        }
        Some(self.moved.insert(other, own).unwrap_or(other))
    }
}

/// The generator of Envoy's order of alternatives: MT19937. Each word of the state is renewed when
/// it is wanted, as most picks take only one or two.
struct Twister {
    state: [u32; 624],
    at: usize,
}

impl Twister {
    #[allow(clippy::cast_possible_truncation)] // the seed is 32 bits wide
    fn new(seed: u64) -> Self {
        let mut state = [0; 624];
        let mut last = seed as u32;
        for (number, word) in (0_u32..).zip(state.iter_mut()) {
            if number > 0 {
                last = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(number);
            }
            *word = last;
        }
        Self { state, at: 0 }
    }

    #[allow(clippy::indexing_slicing)] // every index is taken modulo the length
    fn next(&mut self) -> u32 {
        let at = self.at % 624;
        self.at = at + 1;
        let bits = self.state[at] & 0x8000_0000 | self.state[(at + 1) % 624] & 0x7fff_ffff;
        let odd = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
        let mut word = self.state[(at + 397) % 624] ^ (bits >> 1) ^ odd;
        self.state[at] = word;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// Without the slope of a remainder.
    fn below(&mut self, count: usize) -> usize {
        let count = count.max(1) as u64;
        loop {
            let drawn = u64::from(self.next()) / ((1 << 32) / count).max(1);
            if drawn < count {
                return usize::try_from(drawn).unwrap_or(0);
            }
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/hashing.rs"]
mod tests;
