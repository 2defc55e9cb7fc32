//! Services: defaults (no address is allocated: a Service without `clusterIP` is shown as `None`) and columns.
//!
//! A line of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, text};

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
    default(spec, "clusterIP", "None");
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        default(port, "targetPort", number);
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
