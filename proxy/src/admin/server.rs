//! `/ready`, `/server_info`, `/memory`, `/cpuprofiler`: the process as a whole; and the statistics that come from it.

use std::time::Duration;

use serde_json::{Value, json};

use super::page::{Page, Params};
use super::{Admin, AdminContext};
use crate::state::Phase;

/// What `server.state` and `/ready` say: a server that was told to fail its health checks counts as draining.
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
        "node": node(context),
    }))
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

/// Sets the statistics that are read off the process or the snapshot when somebody asks for them.
pub(super) fn refresh(admin: &Admin) {
    let context = &admin.context;
    // These gauges have no other writer, so that their shard is ours.
    let stats = admin.server.shard(context.registry.control_shard());
    let phase = phase(context);
    stats.live.set(i64::from(phase == Phase::Live));
    stats.state.set(phase as i64);
    stats.uptime.set(i64::try_from(uptime(context).as_secs()).unwrap_or(i64::MAX));
    stats.concurrency.set(i64::try_from(context.options.concurrency).unwrap_or(0));
    // No certificate expires: Envoy's value for that.
    stats.days_until_first_cert_expiring.set(i64::from(u32::MAX));
    let memory = Memory::read();
    stats.memory_allocated.set(memory.anonymous);
    stats.memory_heap_size.set(memory.data);
    stats.memory_physical_size.set(memory.resident);
}

fn uptime(context: &AdminContext) -> Duration {
    crate::time::now().saturating_duration_since(context.state.started)
}

/// As protobuf's JSON writes a duration.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Bytes, as the kernel counts them; 0 where it does not.
#[derive(Debug, Default)]
struct Memory {
    anonymous: i64,
    data: i64,
    resident: i64,
}

impl Memory {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
            kilobytes.unwrap_or(0).saturating_mul(1024)
        };
        Self { anonymous: field("RssAnon:"), data: field("VmData:"), resident: field("VmRSS:") }
    }
}
