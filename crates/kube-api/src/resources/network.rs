//! The kinds of networking.k8s.io: NetworkPolicy, Ingress and IngressClass. Stored; nothing obeys them.
//!
//! Lines of the table in `resources`.

use serde_json::{Value, json};

use super::pod_template::selector;
use super::{Column, GENERIC, Resource, default, items, or_none, text};

const GROUP: &str = "networking.k8s.io";

/// `networkpolicies`
pub const NETWORK_POLICIES: Resource = Resource {
    group: GROUP,
    plural: "networkpolicies",
    singular: "networkpolicy",
    kind: "NetworkPolicy",
    short_names: &["netpol"],
    generation: true,
    columns: &[Column::text("Pod-Selector")],
    cells: |policy| vec![selector(policy, "/spec/podSelector")],
    ..GENERIC
};

/// `ingresses`
pub const INGRESSES: Resource = Resource {
    group: GROUP,
    plural: "ingresses",
    singular: "ingress",
    kind: "Ingress",
    short_names: &["ing"],
    has_status: true,
    generation: true,
    defaults: |ingress| default(ingress, "status", json!({"loadBalancer": {}})),
    columns: &[Column::text("Class"), Column::text("Hosts"), Column::text("Address"), Column::text("Ports")],
    cells: ingress_cells,
    ..GENERIC
};

/// `ingressclasses`
pub const INGRESS_CLASSES: Resource = Resource {
    group: GROUP,
    plural: "ingressclasses",
    singular: "ingressclass",
    kind: "IngressClass",
    namespaced: false,
    generation: true,
    columns: &[Column::text("Controller")],
    cells: |class| vec![text(class, "/spec/controller").into()],
    ..GENERIC
};

fn ingress_cells(ingress: &Value) -> Vec<Value> {
    let hosts: Vec<_> = items(ingress, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "/host"))
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") };
    let ports = if items(ingress, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![or_none(text(ingress, "/spec/ingressClassName")), hosts.into(), "".into(), ports.into()]
}
