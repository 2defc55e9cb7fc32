//! Chaos: one fault a case, under load, and what it costs. A case whose protection can be taken away
//! has a twin without it, which must fare worse. `make chaos` writes what they measured to
//! `docs/chaos.md`.
//!
//! `apps`: one pod's app misbehaves. `control`: discovery, DNS and the Kubernetes API. `rollouts`:
//! faults while pods are replaced. `machine`: files, clocks, packets. `clients`: many of them.
//! `footprint`: no fault, but what all containers together need.

mod apps;
mod clients;
mod control;
mod footprint;
mod machine;
mod rollouts;

use e2e::{Mesh, Pod};
use serde_json::Value;

/// Responses with status 200 that a pod's proxy has passed on.
async fn good_responses(mesh: &Mesh, pod: &Pod) -> usize {
    mesh.access_log(pod).await.iter().filter(|line| line.contains("\" 200 ")).count()
}

/// Waits until a pod gives good responses to requests that it has not had before.
async fn serves_well(mesh: &Mesh, pod: &Pod) {
    let before = good_responses(mesh, pod).await;
    mesh.until(&format!("{} serves", pod.name), async || good_responses(mesh, pod).await > before).await;
}

/// Takes a field out of an Envoy file, wherever it is.
fn without(tree: &mut Value, field: &str) {
    match tree {
        Value::Object(fields) => {
            fields.remove(field);
            fields.values_mut().for_each(|value| without(value, field));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without(item, field)),
        _ => {}
    }
}
