//! Nodes: what `kubectl get nodes [-o wide]` shows. `Config::nodes` makes them.
//!
//! A line of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, or_none, text};

const ROLE_LABEL: &str = "node-role.kubernetes.io/";

/// `nodes`
pub const NODES: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    short_names: &["no"],
    namespaced: false,
    has_status: true,
    defaults: defaults_of,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    columns: &[Column::text("Status"), Column::text("Roles")],
    wide_columns: &[
        Column::text("Version"),
        Column::wide("Internal-IP"),
        Column::wide("External-IP"),
        Column::wide("OS-Image"),
        Column::wide("Kernel-Version"),
        Column::wide("Container-Runtime"),
    ],
    cells: cells_of,
    ..GENERIC
};

fn defaults_of(node: &mut Value) {
    default(node, "spec", json!({}));
    default(node, "status", json!({}));
}

fn cells_of(node: &Value) -> Vec<Value> {
    let address = |kind: &str| {
        let found = items(node, "/status/addresses").iter().find(|one| text(one, "/type") == kind);
        or_none(found.map_or("", |one| text(one, "/address")))
    };
    let info = |field: &str| match text(&node["status"]["nodeInfo"], field) {
        "" => "<unknown>".into(),
        text => text.into(),
    };
    vec![
        state(node).into(),
        roles(node),
        text(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("/osImage"),
        info("/kernelVersion"),
        info("/containerRuntimeVersion"),
    ]
}

fn state(node: &Value) -> String {
    let ready = items(node, "/status/conditions").iter().find(|one| text(one, "/type") == "Ready");
    let state = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node["spec"]["unschedulable"] == true;
    if cordoned { format!("{state},SchedulingDisabled") } else { state.to_owned() }
}

fn roles(node: &Value) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<_> =
        labels.into_iter().flatten().filter_map(|(label, _)| label.strip_prefix(ROLE_LABEL)).collect();
    or_none(&roles.join(","))
}
