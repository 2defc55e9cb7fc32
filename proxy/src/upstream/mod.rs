//! One request to one host: a connection from this worker's pool, and the stream on it.
//!
//! `clusters` is the worker's view of the clusters, `pool` the connections to one host, `queue` who waits for one, `connect` makes
//! them, `lease` is one in use, `stream` the two sides of a request on it.

mod clusters;
mod connect;
mod lease;
mod pool;
mod queue;
mod stream;

pub use clusters::{Clusters, LocalCluster, Update};
pub use connect::connect;
pub use lease::{Held, UpstreamStream};
pub use pool::LocalHost;
pub use stream::{RequestWriter, ResponseReader};

#[cfg(test)]
mod tests;
