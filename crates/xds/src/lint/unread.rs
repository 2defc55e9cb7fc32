//! Rules on the text of a file whose old forms are today's already: tracing.
//!
//! What is wrong here is said in the same run as what the reader refuses.

use crate::diagnostic::{Code, Diagnostic};
use crate::read::Positions;
use crate::read::tree::Node;

/// The findings in the tree of a bootstrap, whose old forms are today's already.
pub(crate) fn bootstrap(root: &Node, positions: &Positions) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let resources = root.field("static_resources");
    let named =
        root.field("node").and_then(|node| node.get_text("cluster")).is_some_and(|name| !name.is_empty());
    let listeners = resources.and_then(|resources| resources.field("listeners"));
    for (at, listener) in listeners.iter().filter(|_| !named).flat_map(|list| list.items()).enumerate() {
        found.extend(tracing(&format!("static_resources.listeners[{at}]"), listener, positions));
    }
    found
}

fn tracing(path: &str, listener: &Node, positions: &Positions) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let chains = listener.field("filter_chains").map(Node::items).unwrap_or_default();
    for (chain_at, chain) in chains.iter().enumerate() {
        let filters = chain.field("filters").map(Node::items).unwrap_or_default();
        for (at, filter) in filters.iter().enumerate() {
            let tracing = filter.field("typed_config").and_then(|config| config.field("tracing"));
            // Without a tracer there are no spans.
            let traces = |tracing: &Node| tracing.field("provider").is_some_and(|tracer| !tracer.is_null());
            if tracing.is_some_and(traces) {
                let path = format!("{path}.filter_chains[{chain_at}].filters[{at}].typed_config.tracing");
                let text = "spans carry no service name: `node.cluster` is not set";
                let finding = positions.warning(&path, Code::TracingWithoutService, text);
                found.push(finding.suggestion("set `node.cluster`, or start with `--service-cluster`"));
            }
        }
    }
    found
}
