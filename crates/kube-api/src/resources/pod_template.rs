//! What all kinds with a Pod template share: the defaults of a Pod, and the columns Containers, Images and Selector.

use serde_json::{Value, json};

use super::{default, items, or_none, text};

/// Fills what a manifest may leave out of a Pod's `spec` and what others read: policies, grace, protocols.
pub fn defaults_of(spec: &mut Value) {
    if !spec.is_object() {
        *spec = json!({"containers": []});
    }
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                default(port, "protocol", "TCP");
            }
        }
        // Indexing made it; nothing asked for it.
        if spec[list].is_null()
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove(list);
        }
    }
}

/// The cells Containers, Images and Selector of a workload.
pub fn cells(workload: &Value) -> Vec<Value> {
    let listed = |field: &str| {
        let containers = items(workload, "/spec/template/spec/containers");
        let values: Vec<_> = containers.iter().map(|container| text(container, field)).collect();
        or_none(&values.join(","))
    };
    vec![listed("/name"), listed("/image"), selector(workload, "/spec/selector")]
}

/// A label selector as kubectl prints it.
pub fn selector(object: &Value, pointer: &str) -> Value {
    let Some(selector) = object.pointer(pointer) else { return "<none>".into() };
    let mut parts: Vec<_> = pairs(&selector["matchLabels"]);
    for expression in items(selector, "/matchExpressions") {
        let (key, operator) = (text(expression, "/key"), text(expression, "/operator"));
        let values: Vec<_> = items(expression, "/values").iter().filter_map(Value::as_str).collect();
        parts.push(match operator {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        });
    }
    or_none(&parts.join(","))
}

/// The members of a map of texts as `key=value`.
pub fn pairs(map: &Value) -> Vec<String> {
    let members = map.as_object().into_iter().flatten();
    members.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
}
