//! The graph of a file, with what the process knows of itself.

use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::{Diagnostic, Read};

use crate::access_log::LogWriter;
use crate::build::{self, Flavor, Graph, Node, Parts};
use crate::stats::Registry;

/// What a build takes over: the admin interface's runtime values, and the graph in use to share parts with.
pub(super) type Inherited<'a> = (&'a [(String, String)], Option<&'a Graph>);

/// The graph of a file that was read, for the node that the flags or the file name.
pub(super) fn graph(
    read: &Read<Bootstrap>,
    service: &(Option<String>, Option<String>),
    flavor: Flavor,
    registry: &Registry,
    logs: &LogWriter,
    (runtime, previous): Inherited<'_>,
) -> Result<(Graph, Vec<Diagnostic>), Vec<Diagnostic>> {
    let node = Node::new(&read.message, service.0.as_deref(), service.1.as_deref());
    build::graph(read, Parts { node, flavor, registry, logs: Some(logs), runtime }, previous)
}
