//! Pages about the process as a whole, `/listeners` and `/runtime`; and the statistics that are read
//! off the process when asked for.

use super::accepted::Accepted;
use super::clusters::{address, without_defaults};
use super::page::{Page, Params};
use super::{Admin, AdminContext};
use crate::memory::Memory;
use crate::state::Phase;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What `server.state` and `/ready` say: a server that fails its health checks on command counts as
/// draining.
fn phase(context: &AdminContext) -> Phase {
    match context.state.phase() {
        Phase::Live if context.state.health_failed() => Phase::Draining,
        phase => phase,
    }
}

pub(super) fn ready(admin: &Admin) -> Page {
    let phase = phase(&admin.context);
    let status = if phase == Phase::Live { 200 } else { 503 };
    Page { status, ..Page::text(format!("{}\n", phase.as_str())) }
}

pub(super) fn info(admin: &Admin) -> Page {
    let context = &admin.context;
    let uptime = seconds(uptime(context));
    let options = &context.options;
    Page::json(&json!({
        "version": format!("petmesh/{}/Envoy-compatible/1.40.0", env!("CARGO_PKG_VERSION")),
        "state": phase(context).as_str(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": {
            "base_id": "0",
            "concurrency": options.concurrency,
            "config_path": options.config_path,
            "config_yaml": options.config_yaml,
            "log_level": options.log_level,
            "log_path": options.log_path,
            "service_cluster": options.service_cluster,
            "service_node": options.service_node,
            "drain_time": seconds(options.drain_time),
            "mode": "Serve",
            "disable_hot_restart": true,
            "restart_epoch": 0,
        },
        "node": with_defaults(node(context)),
    }))
}

/// A node with all its fields, as `/server_info` shows them.
fn with_defaults(mut node: Value) -> Value {
    for (field, default) in [
        ("id", json!("")),
        ("cluster", json!("")),
        ("dynamic_parameters", json!({})),
        ("client_features", json!([])),
        ("listening_addresses", json!([])),
    ] {
        if node.get(field).is_none() {
            node[field] = default;
        }
    }
    if let Some(locality) = node.get_mut("locality").and_then(Value::as_object_mut) {
        for part in ["region", "zone", "sub_zone"] {
            locality.entry(part).or_insert_with(|| "".into());
        }
    }
    node
}

/// What keeps the server, or a new configuration, from being used.
pub(super) fn init_dump(context: &AdminContext) -> Page {
    let accepted = context.accepted.borrow();
    if accepted.warming.is_empty() {
        return Page::json(&json!({}));
    }
    let names: Vec<&str> = accepted.warming.iter().map(|name| &**name).collect();
    Page::json(&json!({"unready_targets_dumps": [{"name": "clusters", "target_names": names}]}))
}

/// The node as control planes see it.
pub(super) fn node(context: &AdminContext) -> Value {
    let accepted = context.accepted.borrow();
    let mut node =
        xds::to_json(&accepted.bootstrap.unpack()).get("node").cloned().unwrap_or_else(|| json!({}));
    let options = &context.options;
    if let Some(node) = node.as_object_mut() {
        for (key, flag) in [("id", &options.service_node), ("cluster", &options.service_cluster)] {
            if !flag.is_empty() {
                node.insert(key.to_owned(), flag.as_str().into());
            }
        }
        let extensions = xds::implemented_extensions()
            .map(|(category, name, types)| json!({"name": name, "category": category, "type_urls": types}));
        node.insert("extensions".to_owned(), extensions.collect());
        node.entry("user_agent_name").or_insert_with(|| "envoy".into());
        node.entry("user_agent_build_version").or_insert_with(
            || json!({"version": {"major_number": 1, "minor_number": 40, "patch": 0}, "metadata": {"implementation": "petmesh"}}),
        );
    }
    node
}

pub(super) fn memory() -> Page {
    let memory = Memory::read();
    Page::json(&json!({
        "allocated": memory.anonymous.to_string(),
        "heap_size": memory.data.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.resident.to_string(),
    }))
}

pub(super) fn cpu_profiler(params: &Params) -> Page {
    match params.get("enable") {
        Some("y") => Page::error(500, "failure to start the profiler"),
        Some("n") => Page::ok(),
        _ => Page::error(400, "?enable=<y|n>\n"),
    }
}

pub(super) fn alloc_profiler(params: &Params) -> Page {
    match params.get("enable") {
        Some("y") => Page::error(501, "The allocation profiler is not implemented in petmesh.\n"),
        Some("n") => Page::error(400, "Allocation profiler is not started"),
        _ => Page::error(400, "?enable=<y|n>\n"),
    }
}

/// Sets the statistics that are read off the process or the snapshot when somebody asks for them.
pub(super) fn refresh(admin: &Admin) {
    let context = &admin.context;
    // These gauges have no other writer, so that their shard is ours.
    let stats = admin.server.shard(context.registry.admin_shard());
    let phase = phase(context);
    stats.is_live.set(i64::from(phase == Phase::Live));
    stats.state.set(phase as i64);
    stats.uptime.set(i64::try_from(uptime(context).as_secs()).unwrap_or(i64::MAX));
    let listeners = &context.snapshot.borrow().listeners;
    let open = listeners.iter().flat_map(|listener| listener.stats.shards());
    stats.total_connections.set(open.map(|shard| shard.listener_cx_active.get()).sum());
    stats.concurrency.set(i64::try_from(context.options.concurrency).unwrap_or(0));
    // No certificate expires: Envoy's value for that.
    stats.days_until_first_cert_expiring.set(i64::from(u32::MAX));
    let memory = Memory::read();
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    stats.memory_allocated.set(bytes(memory.anonymous));
    stats.memory_heap_size.set(bytes(memory.data));
    stats.memory_physical_size.set(bytes(memory.resident));
}

fn uptime(context: &AdminContext) -> Duration {
    crate::time::now().saturating_duration_since(context.state.started)
}

/// As protobuf's JSON writes a duration.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Names and addresses. Listeners that no longer accept are listed as long as they exist, as in
/// Envoy; those that could not be bound with their error.
pub(super) fn listeners(context: &AdminContext, params: &Params) -> Page {
    let snapshot = context.snapshot.borrow().clone();
    let accepted = context.accepted.borrow().clone();
    let error_of = |name: &str| {
        accepted.unbound.iter().find(|unbound| &*unbound.listener == name).map(|unbound| &*unbound.error)
    };
    if params.get("format") == Some("json") {
        let statuses: Vec<_> = snapshot
            .listeners
            .iter()
            .map(|listener| {
                let mut status = json!({"name": *listener.name, "local_address": address(listener.address)});
                if let (Some(error), Some(fields)) = (error_of(&listener.name), status.as_object_mut()) {
                    fields.insert("error".to_owned(), format!("cannot listen: {error}").into());
                }
                status
            })
            .collect();
        return Page::json(&without_defaults(json!({ "listener_statuses": statuses })));
    }
    let lines = snapshot.listeners.iter().map(|listener| {
        let error = error_of(&listener.name);
        let error = error.map(|error| format!("::cannot listen: {error}")).unwrap_or_default();
        format!("{}::{}{error}\n", listener.name, listener.address)
    });
    Page::text(lines.collect::<String>())
}

const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\n\
                     use an empty value to remove a previously added override";

/// A layer: its name, and its values unless it is the admin layer.
struct Layer {
    name: String,
    admin: bool,
    values: BTreeMap<String, String>,
}

/// The values of each layer, and those that count.
pub(super) fn runtime(context: &AdminContext) -> Page {
    let accepted = context.accepted.borrow().clone();
    let layers = layers(&accepted);
    let mut columns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let values = |layer: &'_ Layer| -> Vec<(String, String)> {
        let values = if layer.admin { &accepted.runtime } else { &layer.values };
        values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let all: Vec<Vec<(String, String)>> = layers.iter().map(values).collect();
    for (at, column) in all.iter().enumerate() {
        for (key, value) in column {
            let row = columns.entry(key).or_insert_with(|| vec![""; layers.len()]);
            if let Some(cell) = row.get_mut(at) {
                *cell = value;
            }
        }
    }
    let entries: serde_json::Map<String, Value> = columns
        .into_iter()
        .map(|(key, row)| {
            let last = row.iter().rev().find(|value| !value.is_empty()).copied().unwrap_or_default();
            (key.to_owned(), json!({"final_value": last, "layer_values": row}))
        })
        .collect();
    let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
    Page::json(&json!({"layers": names, "entries": entries}))
}

/// The changes that the parameters ask for, if they can be made.
pub(super) fn runtime_changes(
    context: &AdminContext,
    params: &Params,
) -> Result<Vec<(String, String)>, Page> {
    const MAX: usize = 1_000;
    if params.all().is_empty() {
        return Err(Page::error(400, USAGE));
    }
    let accepted = context.accepted.borrow().clone();
    if !layers(&accepted).iter().any(|layer| layer.admin) {
        return Err(Page::error(503, "No admin layer specified"));
    }
    if accepted.runtime.len() + params.all().len() > MAX {
        return Err(Page::error(503, format!("No more than {MAX} overrides are kept")));
    }
    Ok(params.all().to_vec())
}

fn layers(accepted: &Accepted) -> Vec<Layer> {
    let bootstrap = xds::to_json(&accepted.bootstrap.unpack());
    let layers =
        bootstrap.pointer("/layered_runtime/layers").and_then(Value::as_array).cloned().unwrap_or_default();
    let made = layers.iter().map(|layer| {
        let mut values = BTreeMap::new();
        if let Some(fields) = layer.get("static_layer") {
            flatten("", fields, &mut values);
        }
        let name = layer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Layer { name, admin: layer.get("admin_layer").is_some(), values }
    });
    made.collect()
}

/// Nested keys become dotted ones.
fn flatten(prefix: &str, value: &Value, values: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, values);
            }
        }
        Value::String(text) => {
            values.insert(prefix.to_owned(), text.clone());
        }
        other => {
            values.insert(prefix.to_owned(), other.to_string());
        }
    }
}
