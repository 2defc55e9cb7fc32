//! Namespaces: made by the store when an object needs one, or by a client; deleted with all that is in them
//! (`store::namespaces`).
//!
//! A line of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, text};

/// `namespaces`
pub const NAMESPACES: Resource = Resource {
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    short_names: &["ns"],
    namespaced: false,
    has_status: true,
    returns_deleted: true,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    defaults: defaults_of,
    empty: || json!({"spec": {}, "status": {}}),
    columns: &[Column { name: "Status", kind: "string", priority: 0 }],
    cells: |namespace| vec![text(namespace, "/status/phase").into()],
    ..GENERIC
};

fn defaults_of(namespace: &mut Value) {
    let name = text(namespace, "/metadata/name").to_owned();
    if !name.is_empty() {
        default(&mut namespace["metadata"], "labels", json!({}));
        default(&mut namespace["metadata"]["labels"], "kubernetes.io/metadata.name", name);
    }
    default(namespace, "spec", json!({"finalizers": ["kubernetes"]}));
    default(namespace, "status", json!({"phase": "Active"}));
}
