//! What each patch format does to an object.

use serde_json::json;

use super::*;

fn patched(kind: &str, object: &Value, patch: &Value) -> Result<Value, Status> {
    let mut object = object.clone();
    Patch::parse(kind, patch.to_string().as_bytes())?.apply(&mut object)?;
    Ok(object)
}

#[test]
fn a_merge_patch_sets_removes_and_replaces_lists() {
    let object = json!({"a": {"b": 1, "c": 2}, "list": [1, 2]});
    let patch = json!({"a": {"b": null, "d": 3}, "list": [9]});
    let after = patched("application/merge-patch+json", &object, &patch).unwrap();
    assert_eq!(after, json!({"a": {"c": 2, "d": 3}, "list": [9]}));
}

#[test]
fn a_json_patch_is_applied_in_order_or_refused() {
    let object = json!({"m": {"a/b": 1}, "list": [1, 2]});
    let patch = json!([
        {"op": "test", "path": "/m/a~1b", "value": 1},
        {"op": "replace", "path": "/m/a~1b", "value": 2},
        {"op": "add", "path": "/list/-", "value": 3},
        {"op": "remove", "path": "/list/0"},
        {"op": "move", "from": "/list/0", "path": "/m/moved"},
    ]);
    let after = patched("application/json-patch+json", &object, &patch).unwrap();
    assert_eq!(after, json!({"m": {"a/b": 2, "moved": 2}, "list": [3]}));
    let wrong = json!([{"op": "remove", "path": "/nothing"}]);
    assert_eq!(patched("application/json-patch+json", &object, &wrong).unwrap_err().code, 422);
}

#[test]
fn a_strategic_merge_joins_containers_by_name() {
    let object =
        json!({"spec": {"containers": [{"name": "app", "image": "a:1"}, {"name": "proxy", "image": "p:1"}]}});
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "proxy"}, {"name": "app"}],
        "containers": [{"name": "proxy", "image": "p:2"}, {"name": "app", "$patch": "delete"}, {"name": "log"}],
    }});
    let after = patched("application/strategic-merge-patch+json", &object, &patch).unwrap();
    assert_eq!(after, json!({"spec": {"containers": [{"name": "proxy", "image": "p:2"}, {"name": "log"}]}}));
}

#[test]
fn endpoints_are_one_value() {
    let object = json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
    let patch = json!({"endpoints": [{"addresses": ["10.0.0.3"]}]});
    assert_eq!(patched("application/strategic-merge-patch+json", &object, &patch).unwrap(), patch);
}

#[test]
fn an_unknown_format_is_refused() {
    assert_eq!(Patch::parse("text/plain", b"{}").unwrap_err().code, 415);
    assert_eq!(Patch::parse("application/merge-patch+json", b"{").unwrap_err().code, 400);
}

#[test]
fn a_strategic_merge_puts_items_in_the_order_wanted_and_stores_no_directive() {
    let kind = "application/strategic-merge-patch+json";
    let object = json!({"containers": [{"name": "b"}, {"name": "x"}]});
    let patch = json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [
        {"name": "a", "$setElementOrder/ports": [{"containerPort": 1}], "ports": [{"containerPort": 1}]}]});
    let after = patched(kind, &object, &patch).unwrap();
    let first = json!({"name": "a", "ports": [{"containerPort": 1}]});
    assert_eq!(after, json!({"containers": [first, {"name": "b"}, {"name": "x"}]}));
}
