//! Watches: resumed, selected, slow, ended.

use std::time::Duration;

use kube_api::{Config, Server};
use serde_json::Value;

use crate::client::Client;
use crate::{SLICES, event, slice};

#[tokio::test]
async fn a_watch_resumes_where_the_last_one_ended() {
    let server = Server::start(Config::default()).unwrap();
    let store = server.store();
    store.apply(slice("a", "127.0.0.2")).unwrap();
    let version = store.resource_version();
    store.apply(slice("b", "127.0.0.3")).unwrap();
    store.apply(slice("a", "127.0.0.4")).unwrap();
    store.delete("EndpointSlice", "demo", "b").unwrap();
    let mut watch = Client::watch(&server, &format!("{SLICES}?watch=1&resourceVersion={version}")).await;
    assert_eq!(watch.event().await, event("ADDED", "b"));
    assert_eq!(watch.event().await, event("MODIFIED", "a"));
    assert_eq!(watch.event().await, event("DELETED", "b"));
    store.apply(slice("a", "127.0.0.4")).unwrap();
    store.apply(slice("c", "127.0.0.5")).unwrap();
    assert_eq!(watch.event().await, event("ADDED", "c"), "a write that changes nothing is no event");
}

#[tokio::test]
async fn an_object_enters_and_leaves_a_selection() {
    let server = Server::start(Config::default()).unwrap();
    let store = server.store();
    let labelled = |app: &str| {
        let mut object = slice("a", "127.0.0.2");
        object["metadata"]["labels"]["app"] = app.into();
        object
    };
    store.apply(labelled("dog")).unwrap();
    let path =
        format!("{SLICES}?watch=1&labelSelector=app%3Dpet&resourceVersion={}", store.resource_version());
    let mut watch = Client::watch(&server, &path).await;
    store.apply(labelled("pet")).unwrap();
    assert_eq!(watch.event().await, event("ADDED", "a"));
    store.apply(labelled("dog")).unwrap();
    let gone: Value = serde_json::from_slice(&watch.line().await).unwrap();
    assert_eq!(
        (gone["type"].as_str(), &gone["object"]["metadata"]["labels"]["app"]),
        (Some("DELETED"), &"pet".into())
    );
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], store.resource_version().to_string());
}

#[tokio::test]
async fn a_version_that_left_the_history_is_too_old() {
    let server = Server::start(Config { history: 4, ..Config::default() }).unwrap();
    let store = server.store();
    store.apply(slice("a", "127.0.0.1")).unwrap();
    let version = store.resource_version();
    for last in 2..10 {
        store.apply(slice("a", &format!("127.0.0.{last}"))).unwrap();
    }
    let mut watch = Client::watch(&server, &format!("{SLICES}?watch=1&resourceVersion={version}")).await;
    let error: Value = serde_json::from_slice(&watch.line().await).unwrap();
    assert_eq!((error["type"].as_str(), error["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert!(watch.response().await.complete, "the stream ends after the error");
}

// The client reads nothing while far more happens than the sockets can buffer.
#[tokio::test]
async fn a_slow_watcher_costs_no_memory_and_is_told_that_it_is_late() {
    let server = Server::start(Config { history: 8, ..Config::default() }).unwrap();
    let store = server.store();
    let mut watch = Client::watch(&server, &format!("{SLICES}?watch=1&resourceVersion=1")).await;
    let mut object = slice("a", "127.0.0.2");
    for round in 0..400 {
        object["metadata"]["annotations"] =
            serde_json::json!({"round": round.to_string(), "padding": "x".repeat(50_000)});
        store.apply(object.clone()).unwrap();
        tokio::task::yield_now().await;
    }
    let events = watch.last_chunk().await.json_lines();
    assert!(events.len() < 400, "some are missing");
    let last = events.last().unwrap();
    assert_eq!((last["type"].as_str(), last["object"]["reason"].as_str()), (Some("ERROR"), Some("Expired")));
}

#[tokio::test]
async fn bookmarks_come_at_their_interval() {
    let server =
        Server::start(Config { bookmark_interval: Duration::from_millis(10), ..Config::default() }).unwrap();
    let path = format!(
        "{SLICES}?watch=1&allowWatchBookmarks=true&resourceVersion={}",
        server.store().resource_version()
    );
    let mut watch = Client::watch(&server, &path).await;
    server.store().apply(slice("a", "127.0.0.2")).unwrap();
    let mut version = Value::Null;
    // Several may come before the change is seen.
    let wanted = Value::from(server.store().resource_version().to_string());
    while version != wanted {
        let line: Value = serde_json::from_slice(&watch.line().await).unwrap();
        if line["type"] == "BOOKMARK" {
            version = line["object"]["metadata"]["resourceVersion"].clone();
        }
    }
}

#[tokio::test]
async fn kinds_and_namespaces_do_not_mix() {
    let server = Server::start(Config::default()).unwrap();
    let store = server.store();
    let mut pods = Client::watch(&server, "/api/v1/pods?watch=1").await;
    let mut other = Client::watch(&server, &format!("{}?watch=1", SLICES.replace("demo", "other"))).await;
    store.apply(slice("a", "127.0.0.2")).unwrap();
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "demo"}});
    store.apply(pod).unwrap();
    assert_eq!(pods.event().await, event("ADDED", "p"));
    let mut elsewhere = slice("b", "127.0.0.3");
    elsewhere["metadata"]["namespace"] = "other".into();
    store.apply(elsewhere).unwrap();
    assert_eq!(other.event().await, event("ADDED", "b"));
}
