//! One address listed several times: which listing counts.
//!
//! A pod that moves between slices is in both for a while, and the address of a deleted pod may be in use again before the
//! old entry has gone. Kubernetes leaves the choice to the reader; the order of arrival must not matter (kube-proxy
//! got this wrong for years: kubernetes/kubernetes#135334).

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::options::Options;
use crate::slice::{Conditions, EndpointSlice, SliceEndpoint};

pub(crate) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An endpoint and the slice that lists it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub slice: &'a EndpointSlice,
    pub endpoint: &'a SliceEndpoint,
    pub options: Options,
}

/// Whether an endpoint may be routed to; the highest rank of a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Unroutable,
    /// Not ready, but it was until recently.
    Kept,
    /// Terminating and still serving.
    Leaving,
    Ready,
}

/// Same address, same pod (`targetRef.uid`): the slice that changed last knows best.
pub(super) fn same_pod(all: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let mut pods: BTreeMap<&str, Candidate<'_>> = BTreeMap::new();
    let mut rest = Vec::new();
    for candidate in all {
        match candidate.uid() {
            None => rest.push(candidate),
            Some(uid) => {
                let known = pods.entry(uid).or_insert(candidate);
                if candidate.age() > known.age() {
                    *known = candidate;
                }
            }
        }
    }
    rest.extend(pods.into_values());
    rest
}

/// Same address, another pod: the ready one is real and the other a leftover, whatever the age.
pub(super) fn same_place<'a>(
    all: Vec<Candidate<'a>>,
    kept: impl Fn(&Candidate<'a>) -> bool,
) -> Option<(Candidate<'a>, Rank)> {
    let ranked = all.into_iter().map(|candidate| {
        let kept = candidate.rank() == Rank::Unroutable && candidate.stays() && kept(&candidate);
        (candidate, if kept { Rank::Kept } else { candidate.rank() })
    });
    ranked.max_by_key(|(candidate, rank)| (*rank, candidate.age()))
}

impl<'a> Candidate<'a> {
    pub fn conditions(&self) -> Conditions {
        self.endpoint.conditions
    }

    pub fn uid(&self) -> Option<&'a str> {
        self.endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref())
    }

    /// Whether its pod has not been told to go, or is still called ready.
    pub fn stays(&self) -> bool {
        self.conditions().ready() || !self.conditions().terminating()
    }

    /// By the conditions alone.
    fn rank(&self) -> Rank {
        let conditions = self.conditions();
        match (conditions.ready(), conditions.serving() && conditions.terminating()) {
            (true, _) => Rank::Ready,
            (false, true) => Rank::Leaving,
            (false, false) => Rank::Unroutable,
        }
    }

    /// Orders slices by when they last changed; those without a usable time come first. What follows the version only
    /// makes the order total, so that not even nonsense depends on the order of arrival.
    fn age(&self) -> impl Ord + use<'a> {
        let metadata = &self.slice.metadata;
        let changed: Option<Timestamp> =
            metadata.annotations.get(LAST_CHANGE).and_then(|time| time.parse().ok());
        let version: Option<u64> = metadata.resource_version.parse().ok();
        let zone = self.endpoint.zone.as_deref();
        (changed, version, metadata.name.as_str(), self.uid(), self.rank(), zone)
    }
}
