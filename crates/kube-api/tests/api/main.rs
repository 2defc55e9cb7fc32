//! The server from outside: as recorded (`replay`), and in what no recording shows (the other modules).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking, also in its helpers

mod access;
mod cases;
mod client;
mod faults;
mod lists;
mod replay;
mod watches;
mod writes;

use serde_json::{Value, json};

/// The slices of a namespace.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices";

/// A slice in the namespace demo.
fn slice(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "demo", "labels": {"kubernetes.io/service-name": "pet"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}],
    })
}

/// The type of an event and the name in it, to compare with.
fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}
