//! What configuration is in force and where it came from, as the messages it was read from: what `/config_dump` shows.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::SystemTime;

use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Any, Diagnostic};

/// The configuration as accepted. What the file holds is in `bootstrap` alone.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The file, after a reload the new one.
    pub bootstrap: Packed<Bootstrap>,
    pub loaded_at: SystemTime,
    /// What discovery services gave.
    pub dynamic: Vec<DynamicResource>,
    /// The last change of the file, if it was refused; the one above stays.
    pub rejected: Option<Rejected>,
    /// Clusters that wait for their first endpoints.
    pub warming: Vec<Arc<str>>,
}

/// A message as its bytes, a tenth of its size in memory. Equal messages have equal bytes.
#[derive(Debug)]
pub struct Packed<M> {
    bytes: Arc<[u8]>,
    message: PhantomData<fn() -> M>,
}

impl<M: prost::Message + Default> Packed<M> {
    pub fn new(message: &M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: PhantomData }
    }

    pub fn unpack(&self) -> M {
        // A message reads what it wrote.
        M::decode(&*self.bytes).unwrap_or_default()
    }
}

impl<M> Clone for Packed<M> {
    fn clone(&self) -> Self {
        Self { bytes: Arc::clone(&self.bytes), message: PhantomData }
    }
}

impl<M> PartialEq for Packed<M> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// A file that was refused.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub at: SystemTime,
    pub diagnostics: Arc<[Diagnostic]>,
    /// The same for people: each with its line, a caret below the place, and the reason.
    pub details: Arc<str>,
}

/// One resource that a discovery service gave: a cluster, listener, route configuration, endpoint assignment or secret, by the type of
/// `config`.
#[derive(Clone, Debug)]
pub struct DynamicResource {
    pub name: String,
    /// `version_info` of the answer it came in.
    pub version: String,
    pub standing: Standing,
    pub config: Any,
    pub updated_at: SystemTime,
    /// Why the last update was refused, while this one stays in force.
    pub refused: Option<Refused>,
}

/// How far a resource has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Active,
    /// Accepted, not yet used: it waits for what it needs.
    Warming,
    /// Never accepted; `refused` says why.
    Refused,
}

/// An update that was not accepted.
#[derive(Clone, Debug)]
pub struct Refused {
    pub config: Any,
    pub version: String,
    pub details: String,
    pub at: SystemTime,
}
