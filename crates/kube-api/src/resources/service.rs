//! Services: defaults, columns, and the addresses and node ports that the server gives out, each once.
//!
//! A line of the table in `resources`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, text};
use crate::status::{Cause, Status};
use crate::store::Objects;

/// The default of `--service-node-port-range`.
const NODE_PORTS: std::ops::RangeInclusive<u64> = 30_000..=32_767;

/// `services`
pub const SERVICES: Resource = Resource {
    plural: "services",
    singular: "service",
    kind: "Service",
    short_names: &["svc"],
    has_status: true,
    in_all: true,
    returns_deleted: true,
    defaults: defaults_of,
    allocate,
    empty: || json!({"spec": {}, "status": {"loadBalancer": {}}}),
    fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
    columns: &[
        Column { name: "Type", kind: "string", priority: 0 },
        Column { name: "Cluster-IP", kind: "string", priority: 0 },
        Column { name: "External-IP", kind: "string", priority: 0 },
        Column { name: "Port(s)", kind: "string", priority: 0 },
    ],
    wide_columns: &[Column { name: "Selector", kind: "string", priority: 1 }],
    cells: cells_of,
    ..GENERIC
};

fn defaults_of(service: &mut Value) {
    default(service, "spec", json!({}));
    default(service, "status", json!({"loadBalancer": {}}));
    let spec = &mut service["spec"];
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if text(spec, "/type") == "ExternalName" {
        return;
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        default(port, "targetPort", number);
    }
}

// Keeps what the Service had, takes what it asks for if nobody has it, and picks what it leaves open.
fn allocate(service: &mut Value, old: Option<&Value>, objects: &Objects) -> Result<(), Status> {
    let name = text(service, "/metadata/name").to_owned();
    let uid = service["metadata"]["uid"].clone();
    let others: Vec<&Value> = objects
        .iter()
        .filter(|(key, object)| key.resource().kind == "Service" && object.value["metadata"]["uid"] != uid)
        .map(|(_, object)| &object.value)
        .collect();
    give_address(service, old, &others);
    let mut taken: BTreeSet<u64> = others
        .iter()
        .flat_map(|other| items(other, "/spec/ports"))
        .filter_map(|port| port["nodePort"].as_u64())
        .collect();
    let with_nodes = matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer");
    let before = old.map_or(&[][..], |old| items(old, "/spec/ports"));
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let Some(fields) = port.as_object_mut() else { continue };
        if !with_nodes {
            // As a real server does when a type changes back to ClusterIP.
            fields.remove("nodePort");
            continue;
        }
        if let Some(wanted) = fields.get("nodePort").and_then(Value::as_u64).filter(|&port| port != 0) {
            check(wanted, &taken).map_err(|cause| Status::invalid(&SERVICES, &name, vec![cause]))?;
            taken.insert(wanted);
            continue;
        }
        let kept =
            before.iter().find(|one| one["port"] == fields["port"]).and_then(|one| one["nodePort"].as_u64());
        let free = NODE_PORTS.filter(|port| !taken.contains(port));
        let Some(port) = kept.filter(|port| !taken.contains(port)).or_else(|| free.into_iter().next()) else {
            let why = "no node port is free; delete a Service of type NodePort".to_owned();
            let cause = Cause { reason: "FieldValueInvalid", message: why, field: "spec.ports[0].nodePort" };
            return Err(Status::invalid(&SERVICES, &name, vec![cause]));
        };
        taken.insert(port);
        fields.insert("nodePort".to_owned(), port.into());
    }
    Ok(())
}

fn check(port: u64, taken: &BTreeSet<u64>) -> Result<(), Cause> {
    let why = if !NODE_PORTS.contains(&port) {
        "provided port is not in the valid range. The range of valid ports is 30000-32767"
    } else if taken.contains(&port) {
        "provided port is already allocated"
    } else {
        return Ok(());
    };
    let message = format!("Invalid value: {port}: {why}");
    Err(Cause { reason: "FieldValueInvalid", message, field: "spec.ports[0].nodePort" })
}

// An address of 10.96.0.0/16, the lowest that is free. Headless Services say None themselves.
fn give_address(service: &mut Value, old: Option<&Value>, others: &[&Value]) {
    if text(service, "/spec/type") == "ExternalName" || !text(service, "/spec/clusterIP").is_empty() {
        return;
    }
    let kept = old.map(|old| text(old, "/spec/clusterIP").to_owned()).filter(|kept| !kept.is_empty());
    let taken: BTreeSet<&str> = others.iter().map(|other| text(other, "/spec/clusterIP")).collect();
    // 0.1 is the API server's own, and low ones are DNS's.
    let mut free = (100_u32..65_535).map(|number| format!("10.96.{}.{}", number >> 8, number & 255));
    if let Some(address) = kept.or_else(|| free.find(|address| !taken.contains(address.as_str()))) {
        service["spec"]["clusterIPs"] = json!([address]);
        service["spec"]["clusterIP"] = address.into();
    }
}

fn cells_of(service: &Value) -> Vec<Value> {
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let ports: Vec<_> = items(service, "/spec/ports")
        .iter()
        .map(|port| {
            let node = port["nodePort"].as_u64().map_or(String::new(), |number| format!(":{number}"));
            format!("{}{node}/{}", port["port"], text(port, "/protocol"))
        })
        .collect();
    let external: Vec<_> =
        items(service, "/spec/externalIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let selector: Vec<_> = service
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        text(service, "/spec/type").into(),
        or_none(text(service, "/spec/clusterIP").to_owned()).into(),
        or_none(external.join(",")).into(),
        or_none(ports.join(",")).into(),
        or_none(selector.join(",")).into(),
    ]
}
