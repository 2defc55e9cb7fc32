//! Rules on fields that petmesh does not implement yet, hence on the text: outlier detection and tracing.
//!
//! The reader refuses these fields by name; what is wrong inside them is said in the same run. Called by the reader.

use crate::diagnostic::{Code, Diagnostic};
use crate::read::Positions;
use crate::read::tree::{Kind, Node};

/// Share of the hosts that may be ejected unless a file says otherwise.
const MAX_EJECTION_PERCENT: f64 = 10.0;

/// The findings in the tree of a bootstrap, whose old forms are today's already.
pub(crate) fn bootstrap(root: &Node, positions: &Positions) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let resources = root.field("static_resources");
    let clusters = resources.and_then(|resources| resources.field("clusters"));
    for (at, cluster) in clusters.iter().flat_map(|clusters| clusters.items()).enumerate() {
        found.extend(outlier(&format!("static_resources.clusters[{at}]"), cluster, positions));
    }
    let named =
        root.field("node").and_then(|node| node.get_text("cluster")).is_some_and(|name| !name.is_empty());
    let listeners = resources.and_then(|resources| resources.field("listeners"));
    for (at, listener) in listeners.iter().filter(|_| !named).flat_map(|list| list.items()).enumerate() {
        found.extend(tracing(&format!("static_resources.listeners[{at}]"), listener, positions));
    }
    found
}

fn outlier(path: &str, cluster: &Node, positions: &Positions) -> Option<Diagnostic> {
    let detection = cluster.field("outlier_detection").filter(|node| matches!(node.kind, Kind::Map(_)))?;
    let percent = detection.number("max_ejection_percent");
    let path = format!("{path}.outlier_detection.max_ejection_percent");
    let always = detection.field("always_eject_one_host").is_some_and(|node| node.is("true"));
    let assignment = cluster.field("load_assignment").and_then(|assignment| assignment.field("endpoints"));
    let localities = assignment.map(Node::items).unwrap_or_default();
    let hosts: usize =
        localities.iter().filter_map(|locality| Some(locality.field("lb_endpoints")?.items().len())).sum();
    let share = percent.unwrap_or(MAX_EJECTION_PERCENT);
    let text = match (share, hosts) {
        _ if always => return None,
        (share, _) if share <= 0.0 => "`max_ejection_percent: 0` ejects nobody".to_owned(),
        (share, 1..) if 100.0 / (hosts as f64) > share => {
            format!("{share} % of {hosts} hosts is less than one: nobody is ejected")
        }
        _ => return None,
    };
    let least = if hosts == 0 { 100 } else { 100usize.div_ceil(hosts) };
    let remedy = format!("at least {least}, or `always_eject_one_host: true`");
    Some(positions.warning(&path, Code::OutlierEjectsNobody, text).suggestion(remedy))
}

fn tracing(path: &str, listener: &Node, positions: &Positions) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let chains = listener.field("filter_chains").map(Node::items).unwrap_or_default();
    for (chain_at, chain) in chains.iter().enumerate() {
        let filters = chain.field("filters").map(Node::items).unwrap_or_default();
        for (at, filter) in filters.iter().enumerate() {
            let tracing = filter.field("typed_config").and_then(|config| config.field("tracing"));
            if tracing.is_some_and(|tracing| !tracing.is_null()) {
                let path = format!("{path}.filter_chains[{chain_at}].filters[{at}].typed_config.tracing");
                let text = "spans carry no service name: `node.cluster` is not set";
                let finding = positions.warning(&path, Code::TracingWithoutService, text);
                found.push(finding.suggestion("set `node.cluster`, or start with `--service-cluster`"));
            }
        }
    }
    found
}
