//! A second opinion: now and then, list everything beside the running watch and compare.
//!
//! A watch can lose an event without any sign of it (a bug in the API server's cache, a proxy in between), and then a dead pod
//! stays in the answers for ever. The comparison must not mistake an event that is still under way for a loss: the list
//! is of version V, so what we know is compared once our watch has reached V, or after a settling time, with the list
//! plus all that the watch has told us that is newer than V.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use tokio::time::{Instant, sleep_until};

use super::api::{Api, Listing};
use super::error::{WatchError, older};
use crate::slice::{EndpointSlice, SliceKey};

/// Where the audit stands.
pub(super) struct Audit {
    phase: Phase,
    /// What the watch has told us since the list was asked for: version, and the slice unless it was deleted.
    journal: BTreeMap<SliceKey, (String, Option<EndpointSlice>)>,
}

enum Phase {
    /// Until it is due.
    Resting(Instant),
    Listing(Pin<Box<dyn Future<Output = Result<Listing, WatchError>> + Send>>),
    /// Until what was under way must have arrived.
    Settling(Instant, Listing),
}

/// What there is to do.
pub(super) enum Step {
    /// Time to list: call [`Audit::start`].
    Due,
    Listed(Result<Listing, WatchError>),
    /// Time to compare: call [`Audit::expected`].
    Settled,
}

impl Audit {
    pub fn due(at: Instant) -> Self {
        Self { phase: Phase::Resting(at), journal: BTreeMap::new() }
    }

    /// Waits for the next thing to do. Cancel safe.
    pub async fn step(&mut self) -> Step {
        match &mut self.phase {
            Phase::Resting(until) => {
                sleep_until(*until).await;
                Step::Due
            }
            Phase::Listing(listing) => {
                let listing = listing.await;
                // Not polled again: the caller moves on to the next phase.
                self.phase = Phase::Resting(Instant::now());
                Step::Listed(listing)
            }
            Phase::Settling(until, _) => {
                sleep_until(*until).await;
                Step::Settled
            }
        }
    }

    pub fn start(&mut self, api: Api) {
        self.journal.clear();
        self.phase = Phase::Listing(Box::pin(async move { api.list().await }));
    }

    pub fn settle(&mut self, until: Instant, listing: Listing) {
        self.phase = Phase::Settling(until, listing);
    }

    /// Hears of an event of the watch.
    pub fn note(&mut self, key: SliceKey, version: &str, slice: Option<&EndpointSlice>) {
        if !matches!(self.phase, Phase::Resting(_)) {
            self.journal.insert(key, (version.to_owned(), slice.cloned()));
        }
    }

    /// Whether the watch has come as far as the list, so that nothing can be under way any more.
    pub fn overtaken_by(&self, version: &str) -> bool {
        matches!(&self.phase, Phase::Settling(_, listing) if !older(version, &listing.version))
    }

    /// What the slices should be by now, and from which version; rests until `next` afterwards.
    pub fn expected(&mut self, next: Instant) -> Option<Listing> {
        let phase = std::mem::replace(&mut self.phase, Phase::Resting(next));
        let Phase::Settling(_, mut listing) = phase else { return None };
        for (key, (version, slice)) in std::mem::take(&mut self.journal) {
            if !older(&listing.version, &version) {
                continue;
            }
            match slice {
                Some(slice) => listing.slices.insert(key, slice),
                None => listing.slices.remove(&key),
            };
        }
        Some(listing)
    }
}

/// The slices that differ, by name.
pub(super) fn drift<'a>(
    known: &'a BTreeMap<SliceKey, EndpointSlice>,
    expected: &'a BTreeMap<SliceKey, EndpointSlice>,
) -> Vec<&'a SliceKey> {
    let wrong = known.iter().filter(|(key, slice)| expected.get(key) != Some(slice));
    let missing = expected.keys().filter(|key| !known.contains_key(key));
    wrong.map(|(key, _)| key).chain(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, version: &str) -> EndpointSlice {
        let mut slice = EndpointSlice::default();
        slice.metadata.name = name.into();
        slice.metadata.resource_version = version.into();
        slice
    }

    fn listing(version: &str, slices: &[EndpointSlice]) -> Listing {
        Listing { version: version.into(), slices: slices.iter().map(|s| (s.key(), s.clone())).collect() }
    }

    #[tokio::test(start_paused = true)]
    async fn events_newer_than_the_list_are_no_drift() {
        let now = Instant::now();
        let mut audit = Audit::due(now);
        audit.phase = Phase::Settling(now, listing("10", &[slice("a", "3"), slice("b", "9")]));
        let (changed, made) = (slice("a", "12"), slice("c", "13"));
        audit.note(changed.key(), "12", Some(&changed));
        audit.note(slice("b", "9").key(), "11", None);
        audit.note(made.key(), "13", Some(&made));
        let expected = audit.expected(now).unwrap().slices;
        assert_eq!(expected, listing("10", &[changed, made]).slices);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_the_list_already_knows_of_changes_nothing() {
        let now = Instant::now();
        let mut audit = Audit::due(now);
        audit.phase = Phase::Settling(now, listing("10", &[slice("a", "9")]));
        let old = slice("a", "7");
        audit.note(old.key(), "7", Some(&old));
        assert!(!audit.overtaken_by("9"));
        assert!(audit.overtaken_by("10"));
        let expected = audit.expected(now).unwrap().slices;
        assert_eq!(drift(&listing("9", &[slice("a", "9")]).slices, &expected), Vec::<&SliceKey>::new());
        let names = |known: &[EndpointSlice]| drift(&listing("", known).slices, &expected).len();
        assert_eq!(
            (names(&[]), names(&[slice("a", "7")]), names(&[slice("a", "9"), slice("x", "1")])),
            (1, 1, 1)
        );
    }
}
