//! One request to one host: a connection from this worker's pool, and the stream on it.
//!
//! `clusters` is the worker's view of the clusters, `pool` the connections to one host, `queue` the
//! requests that wait for one, `stream` a stream on one of them, `connect` opens them.

mod clusters;
mod connect;
mod pool;
mod queue;
mod stream;

pub(crate) use clusters::{Clusters, LocalCluster, Update};
pub(crate) use connect::{Opened, connect};
pub(crate) use pool::LocalHost;
pub(crate) use stream::{RequestWriter, ResponseReader, UpstreamStream};

#[cfg(test)]
#[path = "../../tests/unit/upstream/mod.rs"]
mod tests;
