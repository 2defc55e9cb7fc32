//! Pods: defaults and the columns that `kubectl get pods [-o wide]` shows.
//!
//! The Status column follows the real server's printer: the first thing that tells why a pod is not simply running.
//!
//! A line of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, pod_template, text};
use crate::time;

/// `pods`
pub const PODS: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    has_status: true,
    refused: &["attach", "binding", "eviction", "exec", "log", "portforward", "proxy"],
    in_all: true,
    generation: true,
    returns_deleted: true,
    defaults: defaults_of,
    empty: || json!({"spec": {"containers": null}, "status": {}}),
    fields: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.serviceAccountName", "/spec/serviceAccountName"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
    ],
    columns: &[
        Column { name: "Ready", kind: "string", priority: 0 },
        Column { name: "Status", kind: "string", priority: 0 },
        Column { name: "Restarts", kind: "string", priority: 0 },
    ],
    wide_columns: &[
        Column { name: "IP", kind: "string", priority: 1 },
        Column { name: "Node", kind: "string", priority: 1 },
        Column { name: "Nominated Node", kind: "string", priority: 1 },
        Column { name: "Readiness Gates", kind: "string", priority: 1 },
    ],
    cells: cells_of,
    ..GENERIC
};

fn defaults_of(pod: &mut Value) {
    default(pod, "spec", json!({"containers": []}));
    default(pod, "status", json!({}));
    pod_template::defaults_of(&mut pod["spec"]);
    default(&mut pod["status"], "phase", "Pending");
}

fn cells_of(pod: &Value) -> Vec<Value> {
    // A native sidecar is an init container that is always restarted; the server counts it among the containers.
    let sidecars: Vec<_> = items(pod, "/spec/initContainers")
        .iter()
        .filter(|container| text(container, "/restartPolicy") == "Always")
        .map(|container| text(container, "/name"))
        .collect();
    let total = items(pod, "/spec/containers").len() + sidecars.len();
    let statuses: Vec<_> = items(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| sidecars.contains(&text(status, "/name")))
        .chain(items(pod, "/status/containerStatuses"))
        .collect();
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    vec![
        format!("{ready}/{total}").into(),
        state(pod, &statuses).into(),
        format!("{restarts}{}", last_restart(&statuses)).into(),
        or_none(text(pod, "/status/podIP")).into(),
        or_none(text(pod, "/spec/nodeName")).into(),
        or_none(text(pod, "/status/nominatedNodeName")).into(),
        "<none>".into(),
    ]
}

fn state(pod: &Value, statuses: &[&Value]) -> String {
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        return "Terminating".to_owned();
    }
    for status in statuses {
        for pointer in ["/state/waiting/reason", "/state/terminated/reason"] {
            let reason = text(status, pointer);
            if !reason.is_empty() {
                return reason.to_owned();
            }
        }
        if let Some(code) = status.pointer("/state/terminated/exitCode") {
            return format!("ExitCode:{code}");
        }
    }
    let reason = text(pod, "/status/reason");
    if reason.is_empty() { text(pod, "/status/phase").to_owned() } else { reason.to_owned() }
}

fn last_restart(statuses: &[&Value]) -> String {
    let ended = |status: &&Value| time::parse(text(status, "/lastState/terminated/finishedAt"));
    match statuses.iter().filter_map(ended).max() {
        Some(at) => format!(" ({} ago)", time::age(time::unix_now().saturating_sub(at))),
        None => String::new(),
    }
}
