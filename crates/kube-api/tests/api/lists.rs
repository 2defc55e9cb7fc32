//! Lists in pages and at versions.

use kube_api::{Config, Server};
use serde_json::Value;

use crate::client::Client;
use crate::{SLICES, slice};

const ALL: &str = "/apis/discovery.k8s.io/v1/endpointslices";

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_show_one_state_whatever_happens_between_them() {
    let server = Server::start(Config::default()).unwrap();
    let store = server.store();
    // "a-b" sorts before "a/" as text, but behind the namespace "a".
    for (namespace, name) in [("a", "1"), ("a-b", "2"), ("a", "3"), ("b", "4")] {
        let mut object = slice(name, "127.0.0.2");
        object["metadata"]["namespace"] = namespace.into();
        store.apply(object).unwrap();
    }
    let mut client = Client::connect(&server).await;
    let first = client.get(&format!("{ALL}?limit=1")).await;
    store.delete("EndpointSlice", "b", "4").unwrap();
    let mut seen = names(&first);
    let mut next = first["metadata"]["continue"].clone();
    while let Some(token) = next.as_str() {
        let page = client.get(&format!("{ALL}?limit=1&continue={token}")).await;
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        seen.extend(names(&page));
        next = page["metadata"]["continue"].clone();
    }
    assert_eq!(seen, ["1", "3", "2", "4"]);
}

#[tokio::test]
async fn an_expired_list_goes_on_without_consistency() {
    let server = Server::start(Config::default()).unwrap();
    for name in ["a", "b", "c"] {
        server.store().apply(slice(name, "127.0.0.2")).unwrap();
    }
    let mut client = Client::connect(&server).await;
    let first = client.get(&format!("{SLICES}?limit=1")).await;
    server.store().delete("EndpointSlice", "demo", "b").unwrap();
    server.faults().compact();
    let expired =
        client.get(&format!("{SLICES}?continue={}", first["metadata"]["continue"].as_str().unwrap())).await;
    assert_eq!((expired["code"].as_u64(), expired["reason"].as_str()), (Some(410), Some("Expired")));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    assert_eq!(names(&client.get(&format!("{SLICES}?continue={token}")).await), ["c"]);
}

#[tokio::test]
async fn an_exact_list_shows_the_past() {
    let server = Server::start(Config::default()).unwrap();
    let store = server.store();
    store.apply(slice("a", "127.0.0.2")).unwrap();
    let version = store.resource_version();
    store.apply(slice("a", "127.0.0.3")).unwrap();
    store.apply(slice("b", "127.0.0.4")).unwrap();
    let mut client = Client::connect(&server).await;
    let exact = client.get(&format!("{SLICES}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&exact), ["a"]);
    assert_eq!(exact["items"][0]["endpoints"][0]["addresses"][0], "127.0.0.2");
    let newer = client.get(&format!("{SLICES}?resourceVersion={version}")).await;
    assert_eq!(names(&newer), ["a", "b"]);
}

#[tokio::test]
async fn fields_and_labels_select() {
    let server = Server::start(Config::default()).unwrap();
    server.store().apply(slice("a", "127.0.0.2")).unwrap();
    server.store().apply(slice("b", "127.0.0.3")).unwrap();
    let mut client = Client::connect(&server).await;
    assert_eq!(names(&client.get(&format!("{SLICES}?fieldSelector=metadata.name%3Db")).await), ["b"]);
    assert_eq!(
        names(&client.get(&format!("{ALL}?labelSelector=kubernetes.io/service-name+in+(pet,dog)")).await),
        ["a", "b"]
    );
}
