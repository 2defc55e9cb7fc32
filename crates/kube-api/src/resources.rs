//! The resource table: every kind that this server knows, as data. A new kind is one more line in `RESOURCES`.
//!
//! A kind needs its names; everything else (defaults, validation, printed columns, selectable fields) falls back to
//! what fits any object. create, apply, get, list, watch, patch, delete, discovery, OpenAPI and tables then work.

use serde_json::Value;

use crate::status::{Cause, Status};
use crate::store::Objects;

mod access;
mod core;
mod endpoint_slice;
mod namespace;
mod network;
mod node;
mod pod;
pub(crate) mod pod_template;
mod scaling;
mod service;
mod workload;

/// The kinds served, in the order of discovery; those of a group stand together.
pub static RESOURCES: &[Resource] = &[
    namespace::NAMESPACES,
    pod::PODS,
    service::SERVICES,
    node::NODES,
    core::CONFIG_MAPS,
    core::SECRETS,
    core::SERVICE_ACCOUNTS,
    core::RESOURCE_QUOTAS,
    core::LIMIT_RANGES,
    core::EVENTS,
    core::VOLUME_CLAIMS,
    workload::DEPLOYMENTS,
    workload::REPLICA_SETS,
    workload::DAEMON_SETS,
    workload::STATEFUL_SETS,
    workload::JOBS,
    workload::CRON_JOBS,
    scaling::AUTOSCALERS,
    scaling::DISRUPTION_BUDGETS,
    scaling::PRIORITY_CLASSES,
    network::NETWORK_POLICIES,
    network::INGRESSES,
    network::INGRESS_CLASSES,
    access::ROLES,
    access::ROLE_BINDINGS,
    access::CLUSTER_ROLES,
    access::CLUSTER_ROLE_BINDINGS,
    access::ACCESS_REVIEWS,
    core::LEASES,
    endpoint_slice::ENDPOINT_SLICES,
];

/// What the server knows of one kind.
#[derive(Debug)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// The name in paths and rules, for example `endpointslices`.
    pub plural: &'static str,
    /// The name kubectl accepts for one.
    pub singular: &'static str,
    /// The `kind` of one object.
    pub kind: &'static str,
    /// Abbreviations that kubectl accepts.
    pub short_names: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// The verbs served; others answer 405.
    pub verbs: &'static [&'static str],
    /// Whether `/status` is served.
    pub has_status: bool,
    /// Whether `/scale` is served, so that `kubectl scale` works: `spec.replicas` and `status.replicas`.
    pub has_scale: bool,
    /// Whether objects are kept; a review is only answered.
    pub stored: bool,
    /// Subresources that a real server serves and that answer here with a refusal that says so.
    pub refused: &'static [&'static str],
    /// Whether kubectl's `get all` shows it.
    pub in_all: bool,
    /// Whether a change of anything but `metadata` and `status` counts up `metadata.generation`.
    pub generation: bool,
    /// Whether a delete answers with the object; otherwise with a `Status`.
    pub returns_deleted: bool,
    /// Fills what a client may leave out.
    pub defaults: fn(&mut Value),
    /// Finds faults in a new or changed object.
    pub validate: fn(&Value) -> Vec<Cause>,
    /// Fills what the server gives out, each value once, looking at all objects; the second is the object before.
    pub allocate: fn(&mut Value, Option<&Value>, &Objects) -> Result<(), Status>,
    /// The fields besides `kind`, `apiVersion` and `metadata` of an empty object, as bookmarks carry them.
    pub empty: fn() -> Value,
    /// Fields a fieldSelector may name besides `metadata.name` and `metadata.namespace`, with their JSON pointers.
    pub fields: &'static [(&'static str, &'static str)],
    /// Columns between Name and Age, in the real server's order.
    pub columns: &'static [Column],
    /// Columns after Age.
    pub wide_columns: &'static [Column],
    /// The cells of `columns` followed by those of `wide_columns`.
    pub cells: fn(&Value) -> Vec<Value>,
}

/// One column of a `Table`.
#[derive(Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string` or `integer`.
    pub kind: &'static str,
    /// 0: always shown, 1: only with `-o wide`.
    pub priority: u8,
}

impl Column {
    /// A column that is always shown.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: "string", priority: 0 }
    }

    /// A column of numbers that is always shown.
    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: "integer", priority: 0 }
    }

    /// A column that `-o wide` shows.
    pub const fn wide(name: &'static str) -> Self {
        Self { name, kind: "string", priority: 1 }
    }
}

/// Verbs of a kind that clients may change.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A namespaced kind of the core group of which nothing special is known; the base of every line of the table.
pub const GENERIC: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short_names: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    has_status: false,
    has_scale: false,
    stored: true,
    refused: &[],
    in_all: false,
    generation: false,
    returns_deleted: false,
    defaults: |_| {},
    validate: |_| Vec::new(),
    allocate: |_, _, _| Ok(()),
    empty: || Value::Null,
    fields: &[],
    columns: &[],
    wide_columns: &[],
    cells: |_| Vec::new(),
};

impl Resource {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `endpointslices.discovery.k8s.io`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Finds a resource by its plural name.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// Finds a resource by kind, plural, singular or short name, in any case.
pub fn by_name(name: &str) -> Option<&'static Resource> {
    let name = name.to_ascii_lowercase();
    RESOURCES
        .iter()
        .find(|r| r.plural == name || r.singular == name || r.short_names.contains(&name.as_str()))
}

/// Finds the resource of an object by its `apiVersion` and `kind`.
pub fn of_object(object: &Value) -> Option<&'static Resource> {
    let (version, kind) = (object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?);
    RESOURCES.iter().find(|r| r.kind == kind && r.api_version() == version)
}

/// The text at a JSON pointer; empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items at a JSON pointer; none when there is no array.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The number at a JSON pointer; 0 when there is none.
pub(crate) fn number(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// How many members the objects at these pointers have.
pub(crate) fn members(object: &Value, pointers: &[&str]) -> usize {
    let maps = pointers.iter().filter_map(|pointer| object.pointer(pointer)?.as_object());
    maps.map(serde_json::Map::len).sum()
}

/// A text as a cell: `<none>` for nothing.
pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// A number, a text or a quantity as people write it.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Sets a member of an object unless it is there already.
pub(crate) fn default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.entry(key).or_insert_with(|| value.into());
    }
}
