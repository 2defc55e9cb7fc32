//! One request to one host: a connection from this worker's pool, and the stream on it.
//!
//! `clusters` is the worker's view of the clusters, `pool` the connections to one host, `connect` makes them, `stream` is one
//! request on one. Called by `attempt` and `tcp`; calls `http1`, `http2`, `cluster`, `stats`.

mod clusters;
mod connect;
mod pool;
mod stream;

pub use clusters::{Clusters, LocalCluster, Update};
pub use connect::connect;
pub use pool::{LocalHost, UpstreamStream};
pub use stream::{RequestWriter, ResponseReader};
