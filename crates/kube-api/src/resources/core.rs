//! The plain kinds of the core group, and Leases: stored as they are, with the columns of a real server.
//!
//! Lines of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, members, or_none, text};

/// `configmaps`
pub const CONFIG_MAPS: Resource = Resource {
    plural: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    short_names: &["cm"],
    columns: &[Column::number("Data")],
    cells: |map| vec![members(map, &["/data", "/binaryData"]).into()],
    ..GENERIC
};

/// `secrets`
pub const SECRETS: Resource = Resource {
    plural: "secrets",
    singular: "secret",
    kind: "Secret",
    defaults: |secret| default(secret, "type", "Opaque"),
    columns: &[Column::text("Type"), Column::number("Data")],
    cells: |secret| vec![text(secret, "/type").into(), members(secret, &["/data"]).into()],
    ..GENERIC
};

/// `serviceaccounts`
pub const SERVICE_ACCOUNTS: Resource = Resource {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    returns_deleted: true,
    columns: &[Column::number("Secrets")],
    cells: |account| vec![items(account, "/secrets").len().into()],
    ..GENERIC
};

/// `resourcequotas`
pub const RESOURCE_QUOTAS: Resource = Resource {
    plural: "resourcequotas",
    singular: "resourcequota",
    kind: "ResourceQuota",
    short_names: &["quota"],
    has_status: true,
    returns_deleted: true,
    defaults: |quota| default(quota, "status", json!({})),
    columns: &[Column::text("Request"), Column::text("Limit")],
    cells: quota_cells,
    ..GENERIC
};

/// `limitranges`
pub const LIMIT_RANGES: Resource = Resource {
    plural: "limitranges",
    singular: "limitrange",
    kind: "LimitRange",
    short_names: &["limits"],
    ..GENERIC
};

/// `events`
pub const EVENTS: Resource = Resource {
    plural: "events",
    singular: "event",
    kind: "Event",
    short_names: &["ev"],
    fields: &[
        ("type", "/type"),
        ("reason", "/reason"),
        ("involvedObject.kind", "/involvedObject/kind"),
        ("involvedObject.name", "/involvedObject/name"),
        ("involvedObject.namespace", "/involvedObject/namespace"),
        ("involvedObject.uid", "/involvedObject/uid"),
    ],
    columns: &[Column::text("Type"), Column::text("Reason"), Column::text("Object"), Column::text("Message")],
    cells: event_cells,
    ..GENERIC
};

/// `persistentvolumeclaims`
pub const VOLUME_CLAIMS: Resource = Resource {
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    kind: "PersistentVolumeClaim",
    short_names: &["pvc"],
    has_status: true,
    returns_deleted: true,
    defaults: |claim| default(claim, "status", json!({"phase": "Pending"})),
    columns: &[Column::text("Status")],
    cells: |claim| vec![text(claim, "/status/phase").into()],
    ..GENERIC
};

/// `leases`
pub const LEASES: Resource = Resource {
    group: "coordination.k8s.io",
    plural: "leases",
    singular: "lease",
    kind: "Lease",
    columns: &[Column::text("Holder")],
    cells: |lease| vec![text(lease, "/spec/holderIdentity").into()],
    ..GENERIC
};

fn quota_cells(quota: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in quota.pointer("/spec/hard").and_then(Value::as_object).into_iter().flatten() {
        let used = quota["status"]["used"][name.as_str()].as_str().unwrap_or("0");
        let cell = format!("{name}: {used}/{}", super::plain(hard));
        if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![requests.join(", ").into(), limits.join(", ").into()]
}

fn event_cells(event: &Value) -> Vec<Value> {
    let object = &event["involvedObject"];
    let name = format!("{}/{}", text(object, "/kind").to_lowercase(), text(object, "/name"));
    vec![
        or_none(text(event, "/type")),
        or_none(text(event, "/reason")),
        name.into(),
        text(event, "/message").into(),
    ]
}
