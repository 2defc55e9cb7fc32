//! One address listed several times: whose word counts?
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

impl<'a> Candidate<'a> {
    /// Same address, same pod (`targetRef.uid`): the slice that changed last knows best. Same address, another pod: the
    /// ready one is real and the other a leftover, whatever the age.
    pub fn merge(all: Vec<Candidate<'a>>) -> Option<Candidate<'a>> {
        let mut pods: BTreeMap<&str, Candidate<'a>> = BTreeMap::new();
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
        rest.into_iter().max_by_key(|candidate| (candidate.rank(), candidate.age()))
    }

    pub fn conditions(&self) -> Conditions {
        self.endpoint.conditions
    }

    fn uid(&self) -> Option<&'a str> {
        self.endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref())
    }

    fn rank(&self) -> u8 {
        let conditions = self.conditions();
        if conditions.ready() { 2 } else { u8::from(conditions.serving() && conditions.terminating()) }
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
