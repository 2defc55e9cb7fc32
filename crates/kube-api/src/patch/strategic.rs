//! Strategic merge patch: objects merge, lists with a merge key merge item by item, other lists are replaced.
//!
//! The directives `$patch` (replace, delete), `$deleteFromPrimitiveList/…` and `$retainKeys` are obeyed;
//! `$setElementOrder/…` orders the items it names, and leaves the others behind them.

use serde_json::Value;

/// Merges a patch into an object.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if changes.get("$patch").and_then(Value::as_str) == Some("replace") {
        let mut whole = changes.clone();
        whole.remove("$patch");
        *target = Value::Object(whole);
        return;
    }
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    if let Some(kept) = changes.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|key, _| kept.iter().any(|one| one == key));
    }
    for (key, value) in changes {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // Other directives say how, not what.
        } else if value.is_null() {
            target.remove(key);
        } else {
            let entry = target.entry(key.as_str()).or_insert(Value::Null);
            match value {
                Value::Array(items) => merge_list(key, entry, items),
                _ => merge(entry, value),
            }
        }
    }
    for (key, order) in changes {
        if let (Some(list), Some(order)) = (key.strip_prefix("$setElementOrder/"), order.as_array())
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            sort(list, items, order);
        }
    }
}

// The merge keys of Pod, workloads, Service, ServiceAccount and metadata in the Kubernetes API, by the name of the list.
fn merge_keys(list: &str) -> &'static [&'static str] {
    match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "topologySpreadConstraints" => &["topologyKey"],
        "conditions" => &["type"],
        "ownerReferences" => &["uid"],
        "hostAliases" | "podIPs" => &["ip"],
        // Of a container or of a Service. The ports of an EndpointSlice are one value: they have neither as their
        // merge key, but a `port` with a `name`, and are told apart by `addressType` beside them.
        "ports" => &["containerPort", "port"],
        _ => &[],
    }
}

fn merge_list(name: &str, target: &mut Value, changes: &[Value]) {
    let keys = merge_keys(name);
    let key_of = |item: &Value| keys.iter().copied().find(|key| item.get(key).is_some());
    if name == "finalizers" {
        return merge_set(target, changes);
    }
    let keyed =
        !keys.is_empty() && changes.iter().all(|item| key_of(item).is_some() || item.get("$patch").is_some());
    if !keyed || !target.is_array() {
        let fresh = changes.iter().filter(|item| item.get("$patch").is_none());
        *target = fresh.cloned().collect();
        return;
    }
    let Some(items) = target.as_array_mut() else { return };
    for change in changes {
        let directive = change.get("$patch").and_then(Value::as_str);
        let Some(key) = key_of(change) else {
            if directive == Some("replace") {
                items.clear();
            }
            continue;
        };
        let place = items.iter().position(|item| item.get(key) == change.get(key));
        match (place, directive) {
            (Some(place), Some("delete")) => drop(items.remove(place)),
            (None, Some("delete")) => {}
            (Some(place), _) => merge(&mut items[place], change),
            (None, _) => {
                // By a merge, so that directives within are obeyed and not stored.
                let mut new = Value::Null;
                merge(&mut new, change);
                items.push(new);
            }
        }
    }
}

// The order that a client wants: of the merge keys, or of the items themselves.
fn sort(list: &str, items: &mut [Value], order: &[Value]) {
    let keys = merge_keys(list);
    let place = |item: &Value| {
        let same = |wanted: &Value| match keys.iter().find(|key| wanted.get(key).is_some()) {
            Some(key) => wanted.get(key) == item.get(key),
            None => wanted == item,
        };
        order.iter().position(same).unwrap_or(order.len())
    };
    items.sort_by_key(place);
}

fn merge_set(target: &mut Value, changes: &[Value]) {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Some(items) = target.as_array_mut() else { return };
    for change in changes {
        if !items.contains(change) {
            items.push(change.clone());
        }
    }
}
