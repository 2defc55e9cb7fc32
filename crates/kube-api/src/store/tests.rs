//! What the store promises to its owner.

use serde_json::json;

use super::*;

fn slice(name: &str, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name, "namespace": "demo"},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}]})
}

fn store() -> Store {
    Store::new(1000, 1000)
}

#[test]
fn apply_keeps_the_identity_and_counts_what_changes() {
    let store = store();
    let first = store.apply(slice("a", "127.0.0.2")).unwrap();
    let second = store.apply(slice("a", "127.0.0.3")).unwrap();
    for field in ["uid", "creationTimestamp"] {
        assert_eq!(first["metadata"][field], second["metadata"][field]);
    }
    assert_eq!(second["metadata"]["generation"], 2);
    assert_eq!(second["metadata"]["resourceVersion"], store.resource_version().to_string());
    let again = store.apply(slice("a", "127.0.0.3")).unwrap();
    assert_eq!(again, second, "nothing new, no new version");
    assert_eq!(store.get("namespace", "", "demo").unwrap()["status"]["phase"], "Active");
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let store = store();
    let unknown = json!({"apiVersion": "v1", "kind": "Nothing", "metadata": {"name": "a"}});
    assert_eq!(store.apply(unknown).unwrap_err().code, 404);
    let mut bad = slice("a", "127.0.0.2");
    bad["addressType"] = "IPv5".into();
    let refused = store.apply(bad).unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("addressType: Unsupported value: \"IPv5\""), "{refused}");
    assert_eq!(store.delete("pods", "demo", "a").unwrap_err().message, "pods \"a\" not found");
}

#[test]
fn the_history_shows_every_earlier_state() {
    let store = store();
    let resource = resources::by_name("endpointslices").unwrap();
    let names = ["a", "b", "c"];
    let mut states = Vec::new();
    for step in 0..60_usize {
        let name = names[step * 7 % 3];
        if step % 5 == 4 {
            let _ = store.delete("EndpointSlice", "demo", name);
        } else {
            store.apply(slice(name, &format!("127.0.0.{step}"))).unwrap();
        }
        states.push((store.resource_version(), store.list("EndpointSlice", None)));
    }
    for (revision, expected) in &states {
        let (objects, at) = store.snapshot(resource, None, Some(*revision)).unwrap();
        let found: Vec<_> = objects.iter().map(|object| object.value.clone()).collect();
        assert_eq!((at, &found), (*revision, expected));
    }
    let (revision, expected) = &states[30];
    store.restore(*revision).unwrap();
    assert_eq!((store.resource_version(), &store.list("EndpointSlice", Some("demo"))), (*revision, expected));
}

#[test]
fn watchers_share_one_bounded_history() {
    let store = Store::new(3, 1000);
    for step in 0..10 {
        store.apply(slice("a", &format!("127.0.0.{step}"))).unwrap();
    }
    let revision = store.resource_version();
    assert_eq!(store.events_after(1, 10).unwrap_err(), revision - 3);
    let (events, next) = store.events_after(revision - 3, 2).unwrap();
    assert_eq!((events.len(), next), (2, revision - 1));
    assert_eq!(store.events_after(next, 2).unwrap().1, revision);
    assert_eq!(store.events_after(revision + 5, 2).unwrap().1, revision + 5, "the future is waited for");
}

#[test]
fn recorded_events_keep_their_versions() {
    let store = store();
    let mut object = slice("a", "127.0.0.2");
    object["metadata"]["resourceVersion"] = "500".into();
    store.load(vec![object.clone()], 510).unwrap();
    assert_eq!(store.record(EventType::Modified, object.clone()).unwrap_err().code, 409);
    object["metadata"]["resourceVersion"] = "512".into();
    store.record(EventType::Deleted, object).unwrap();
    assert_eq!((store.resource_version(), store.list("EndpointSlice", None).len()), (512, 0));
}
