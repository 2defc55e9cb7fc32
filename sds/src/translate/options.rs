//! The `petmesh.dev/` options that a slice carries.
//!
//! `sidecar` (`"false"`: no sidecar beside these pods), `weight` (1 to 100, for each endpoint),
//! `canary`.

use super::{Ignored, ignore};
use crate::slice::EndpointSlice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub sidecar: bool,
    pub weight: u32,
    pub canary: bool,
}

impl Options {
    pub fn of(slice: &EndpointSlice, ignored: &mut Vec<Ignored>) -> Self {
        Self {
            sidecar: option(slice, "petmesh.dev/sidecar", boolean, ignored).unwrap_or(true),
            weight: option(slice, "petmesh.dev/weight", weight, ignored).unwrap_or(1),
            canary: option(slice, "petmesh.dev/canary", boolean, ignored).unwrap_or(false),
        }
    }
}

fn option<T>(
    slice: &EndpointSlice,
    name: &str,
    read: fn(&str) -> Result<T, &'static str>,
    ignored: &mut Vec<Ignored>,
) -> Option<T> {
    let metadata = &slice.metadata;
    let value = metadata.annotations.get(name).or_else(|| metadata.labels.get(name))?;
    read(value).map_err(|why| ignored.push(ignore(slice, name, value, why))).ok()
}

fn boolean(value: &str) -> Result<bool, &'static str> {
    value.parse().map_err(|_| "neither true nor false")
}

/// The range of `load_balancing_weight` in Envoy's v1 answers.
fn weight(value: &str) -> Result<u32, &'static str> {
    let weight = value.parse().ok().filter(|weight| (1..=100).contains(weight));
    weight.ok_or("not a number from 1 to 100")
}
