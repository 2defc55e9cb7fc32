//! Each fault as a client sees it.

use std::time::Duration;

use kube_api::{Config, On, Server};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::{SLICES, event, slice};

fn start() -> Server {
    Server::start(Config::default()).unwrap()
}

fn watch_path(server: &Server) -> String {
    format!("{SLICES}?watch=1&resourceVersion={}", server.store().resource_version())
}

#[tokio::test]
async fn down_refuses_and_up_serves_again_on_the_same_port() {
    let server = start();
    let mut open = Client::watch(&server, &watch_path(&server)).await;
    server.faults().down().await;
    open.closed().await;
    assert!(TcpStream::connect(server.plain_addr().unwrap()).await.is_err());
    server.faults().up().await;
    assert_eq!(Client::connect(&server).await.get(SLICES).await["kind"], "EndpointSliceList");
}

#[tokio::test]
async fn the_next_answers_fail_as_ordered() {
    let server = start();
    server.faults().fail_next(2, 503, On::List);
    server.faults().fail_next(1, 410, On::Watch);
    let mut client = Client::connect(&server).await;
    let mut codes = Vec::new();
    for path in [SLICES, &format!("{SLICES}?watch=1"), SLICES, SLICES, "/readyz"] {
        codes.push(client.call("GET", path, "", &Value::Null).await.status);
    }
    assert_eq!(codes, [503, 410, 503, 200, 200]);
    let counts = *server.counts().borrow();
    assert_eq!((counts.lists, counts.watches, counts.gets, counts.writes), (3, 1, 0, 0));
}

#[tokio::test]
async fn a_frozen_server_accepts_and_says_nothing() {
    let server = start();
    let mut before = Client::watch(&server, &watch_path(&server)).await;
    server.faults().stall(true);
    let mut after = Client::connect(&server).await;
    after.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    server.store().apply(slice("a", "127.0.0.2")).unwrap();
    tokio::task::yield_now().await;
    assert!(before.has_nothing() && after.has_nothing());
    server.faults().stall(false);
    assert_eq!(before.event().await, event("ADDED", "a"));
    assert_eq!(after.response().await.status, 200);
}

#[tokio::test]
async fn a_cut_watch_has_no_end() {
    let server = start();
    let mut watch = Client::watch(&server, &watch_path(&server)).await;
    server.faults().cut();
    assert!(!watch.response().await.complete);
}

#[tokio::test]
async fn a_truncated_chunk_is_announced_longer_than_it_is() {
    let server = start();
    let mut watch = Client::watch(&server, &watch_path(&server)).await;
    server.faults().truncate();
    server.store().apply(slice("a", "127.0.0.2")).unwrap();
    watch.closed().await;
    let received = String::from_utf8_lossy(watch.received()).into_owned();
    assert!(received.contains("{\"type\":\"ADDED\"") && !received.ends_with("}\n\r\n"), "{received}");
    let mut next = Client::watch(&server, &format!("{SLICES}?watch=1")).await;
    assert_eq!(next.event().await, event("ADDED", "a"), "later connections are whole");
}

#[tokio::test]
async fn running_watches_get_garbage_bookmarks_and_errors() {
    let server = start();
    let path = format!("{}&allowWatchBookmarks=true", watch_path(&server));
    let mut watch = Client::watch(&server, &path).await;
    server.faults().garbage_line();
    assert!(serde_json::from_slice::<Value>(&watch.line().await).is_err());
    server.faults().bookmark();
    assert_eq!(watch.event().await, event("BOOKMARK", ""));
    server.faults().expire_watches();
    assert_eq!(watch.event().await, event("ERROR", ""));
    assert!(watch.response().await.complete);
}

#[tokio::test]
async fn a_restored_backup_takes_versions_and_objects_back() {
    let server = start();
    let store = server.store();
    store.apply(slice("a", "127.0.0.2")).unwrap();
    let backup = store.resource_version();
    store.apply(slice("b", "127.0.0.3")).unwrap();
    let late = store.resource_version();
    let mut watch = Client::watch(&server, &watch_path(&server)).await;
    server.faults().restore(backup).unwrap();
    watch.closed().await;

    let mut client = Client::connect(&server).await;
    let list = client.get(SLICES).await;
    assert_eq!(list["metadata"]["resourceVersion"], backup.to_string());
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    // Who resumes at the version that never was gets silence, not an error.
    let mut resumed = Client::watch(&server, &format!("{SLICES}?watch=1&resourceVersion={late}")).await;
    store.apply(slice("c", "127.0.0.4")).unwrap();
    assert_eq!(store.resource_version(), late);
    store.apply(slice("d", "127.0.0.5")).unwrap();
    assert_eq!(resumed.event().await, event("ADDED", "d"));
    assert_eq!(server.faults().restore(1).unwrap_err().code, 410);
}

#[tokio::test]
async fn a_restart_forgets_the_history() {
    let server = start();
    let version = server.store().resource_version();
    server.store().apply(slice("a", "127.0.0.2")).unwrap();
    server.faults().restart();
    let mut watch = Client::watch(&server, &format!("{SLICES}?watch=1&resourceVersion={version}")).await;
    assert_eq!(watch.event().await.0, "ERROR");
}

#[tokio::test]
async fn faults_are_ordered_over_http_where_that_is_allowed() {
    let closed = start();
    let order = json!({"fault": "fail", "times": 1, "code": 500, "on": "list"});
    assert_eq!(Client::connect(&closed).await.call("POST", "/_faults", "", &order).await.status, 405);

    let server = Server::start(Config { fault_endpoint: true, ..Config::default() }).unwrap();
    let mut client = Client::connect(&server).await;
    assert_eq!(client.call("POST", "/_faults", "", &order).await.status, 200);
    assert_eq!(client.call("GET", SLICES, "", &Value::Null).await.status, 500);
    let unknown = client.call("POST", "/_faults", "", &json!({"fault": "flood"})).await;
    assert_eq!(unknown.status, 400);
    assert!(String::from_utf8_lossy(&unknown.body).contains("unknown variant `flood`"));
    client.call("POST", "/_faults", "", &json!({"fault": "delay", "milliseconds": 1})).await;
    server.faults().delay(Duration::ZERO);
    assert_eq!(client.call("GET", SLICES, "", &Value::Null).await.status, 200);
}
