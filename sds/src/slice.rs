//! EndpointSlices as Kubernetes sends them, reduced to what discovery needs.
//!
//! `discovery.k8s.io/v1`; field meanings are those of the Kubernetes API reference. Everything else in the objects
//! (`managedFields` is two thirds of their bytes) is skipped while reading and never stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// One EndpointSlice. A Service has any number of them; only their union means something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    #[serde(default)]
    pub address_type: AddressType,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ports: Vec<SlicePort>,
}

/// Identity of a slice: namespace, then name. `uid` is no part of it: an object made anew replaces the old one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceKey {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub resource_version: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
}

/// One family a slice; a dual-stack Service has slices of both for the same pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    #[default]
    IPv4,
    IPv6,
    /// `FQDN`, which is deprecated, and whatever comes later.
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub conditions: Conditions,
    pub target_ref: Option<TargetRef>,
    pub zone: Option<String>,
}

/// What is absent has the meaning of the accessors below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TargetRef {
    pub kind: Option<String>,
    pub uid: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlicePort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: Option<u16>,
}

impl EndpointSlice {
    pub fn key(&self) -> SliceKey {
        SliceKey { namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }
}

impl Conditions {
    /// Absent means ready.
    pub fn ready(self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Absent means serving.
    pub fn serving(self) -> bool {
        self.serving.unwrap_or(true)
    }

    /// Absent means not terminating.
    pub fn terminating(self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

impl SlicePort {
    /// Absent means TCP.
    pub fn is_tcp(&self) -> bool {
        self.protocol.as_deref().unwrap_or("TCP") == "TCP"
    }
}

/// Go marshals an empty list as `null` when it was never made; both mean empty.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
