//! EndpointSlices (discovery.k8s.io/v1): defaults, limits and printed columns.
//!
//! A line of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, text};
use crate::status::Cause;

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 100;
// What a cell prints before it says "more": as the real server's printer.
const SHOWN_PORTS: usize = 3;
const SHOWN_ENDPOINTS: usize = 3;

/// `endpointslices`
pub const ENDPOINT_SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    generation: true,
    defaults: defaults_of,
    validate: faults_of,
    empty: || json!({"addressType": "", "endpoints": null, "ports": null}),
    columns: &[
        Column { name: "AddressType", kind: "string", priority: 0 },
        Column { name: "Ports", kind: "string", priority: 0 },
        Column { name: "Endpoints", kind: "string", priority: 0 },
    ],
    cells: cells_of,
    ..GENERIC
};

fn defaults_of(slice: &mut Value) {
    default(slice, "endpoints", Value::Null);
    default(slice, "ports", Value::Null);
    for port in slice["ports"].as_array_mut().into_iter().flatten() {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

fn faults_of(slice: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (field, pointer, most) in [("endpoints", "/endpoints", MAX_ENDPOINTS), ("ports", "/ports", MAX_PORTS)]
    {
        let count = items(slice, pointer).len();
        if count > most {
            let message = format!("Too many: {count}: must have at most {most} items");
            causes.push(Cause { reason: "FieldValueTooMany", message, field });
        }
    }
    match text(slice, "/addressType") {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => causes.push(Cause {
            reason: "FieldValueRequired",
            message: "Required value".to_owned(),
            field: "addressType",
        }),
        other => causes.push(Cause {
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: \"{other}\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""
            ),
            field: "addressType",
        }),
    }
    causes
}

fn cells_of(slice: &Value) -> Vec<Value> {
    let ports: Vec<_> = items(slice, "/ports")
        .iter()
        .map(|port| match port["port"].as_u64() {
            Some(number) => number.to_string(),
            None => text(port, "/name").to_owned(),
        })
        .collect();
    let addresses: Vec<_> = items(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| items(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .collect();
    vec![
        text(slice, "/addressType").into(),
        shortened(&ports, SHOWN_PORTS).into(),
        shortened(&addresses, SHOWN_ENDPOINTS).into(),
    ]
}

fn shortened<T: AsRef<str>>(all: &[T], shown: usize) -> String {
    let first: Vec<_> = all.iter().take(shown).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(shown) {
        _ if all.is_empty() => "<unset>".to_owned(),
        0 => first.join(","),
        more => format!("{} + {more} more...", first.join(",")),
    }
}
