//! The Pods of a workload, and the ReplicaSet of a Deployment.

use serde_json::{Value, json};

use super::{Settle, quota};
use crate::resources::{self, items, text};
use crate::store::Store;
use crate::time;

/// Makes the Pods that are missing and removes those of another template or too many; returns what a quota said.
pub fn align(store: &Store, workload: &Value, wanted: usize, how: Settle) -> Option<String> {
    let hash = hash(workload);
    let label = "/metadata/labels/pod-template-hash";
    let (mut kept, mut old) = (Vec::new(), Vec::new());
    for pod in of(store, workload) {
        if text(&pod, label) == hash && kept.len() < wanted { kept.push(pod) } else { old.push(pod) }
    }
    for pod in old {
        // One that was deleted meanwhile is not missed.
        let _ = store.delete("pods", text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
    }
    let owner = if text(workload, "/kind") == "Deployment" {
        replica_set(store, workload, &hash, wanted, how)
    } else {
        workload.clone()
    };
    let mut names: Vec<String> = kept.iter().map(|pod| text(pod, "/metadata/name").to_owned()).collect();
    for pod in kept {
        // Written again, for the setting of another server may have made them.
        let _ = store.apply(with_status(pod, how));
    }
    let mut index = 0;
    while names.len() < wanted {
        let name = match text(workload, "/kind") {
            "StatefulSet" => format!("{}-{index}", text(workload, "/metadata/name")),
            _ => format!("{}-{}", text(&owner, "/metadata/name"), crate::store::object::random_suffix()),
        };
        index += 1;
        if names.contains(&name) {
            continue;
        }
        let pod = pod(store, workload, &owner, &name, &hash, names.len());
        let namespace = text(workload, "/metadata/namespace");
        if let Err(refusal) = resources::by_name("pods")
            .map_or(Ok(()), |pods| quota::admit(store, pods, namespace, &name, &pod))
        {
            return Some(refusal.message);
        }
        if let Err(refusal) = store.apply(with_status(pod, how)) {
            return Some(refusal.message);
        }
        names.push(name);
    }
    None
}

/// The Pods whose labels the workload selects.
pub fn of(store: &Store, workload: &Value) -> Vec<Value> {
    let wanted = workload.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let namespace = text(workload, "/metadata/namespace");
    let mut pods = store.list("pods", Some(namespace));
    pods.retain(|pod| {
        let labels = &pod["metadata"]["labels"];
        // Bare Pods that a selector happens to fit are not adopted.
        !items(pod, "/metadata/ownerReferences").is_empty()
            && wanted.into_iter().flatten().all(|(key, value)| labels[key.as_str()] == *value)
    });
    pods
}

/// A short text that changes with the template.
pub fn hash(workload: &Value) -> String {
    let text = workload["spec"]["template"].to_string();
    // FNV-1a: the same in every run, and nobody attacks it.
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

fn replica_set(store: &Store, deployment: &Value, hash: &str, replicas: usize, how: Settle) -> Value {
    let namespace = text(deployment, "/metadata/namespace");
    let name = format!("{}-{hash}", text(deployment, "/metadata/name"));
    for set in store.list("replicasets", Some(namespace)) {
        let owned = items(&set, "/metadata/ownerReferences")
            .iter()
            .any(|owner| owner["uid"] == deployment["metadata"]["uid"]);
        if owned && text(&set, "/metadata/name") != name {
            // One that was deleted meanwhile is not missed.
            let _ = store.delete("replicasets", namespace, text(&set, "/metadata/name"));
        }
    }
    let ready = if how == Settle::RolledOut { replicas } else { 0 };
    let mut set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": [reference(deployment)],
            "annotations": {"deployment.kubernetes.io/revision": "1"}},
        "spec": {"replicas": replicas, "selector": deployment["spec"]["selector"],
            "template": deployment["spec"]["template"]},
        "status": {"replicas": replicas, "readyReplicas": ready, "availableReplicas": ready}});
    set["metadata"]["labels"] = deployment["spec"]["template"]["metadata"]["labels"].clone();
    set["metadata"]["labels"]["pod-template-hash"] = hash.into();
    store.apply(set.clone()).unwrap_or(set)
}

fn reference(owner: &Value) -> Value {
    json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true})
}

fn pod(store: &Store, workload: &Value, owner: &Value, name: &str, hash: &str, index: usize) -> Value {
    let template = &workload["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
        "spec": template["spec"]});
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = workload["metadata"]["namespace"].clone();
    pod["metadata"]["labels"]["pod-template-hash"] = hash.into();
    pod["metadata"]["ownerReferences"] = json!([reference(owner)]);
    let nodes = store.list("nodes", None);
    if let Some(node) = nodes.get(index % nodes.len().max(1)) {
        pod["spec"]["nodeName"] = node["metadata"]["name"].clone();
    }
    pod
}

fn with_status(mut pod: Value, how: Settle) -> Value {
    let running = how == Settle::RolledOut;
    let state = match how {
        Settle::Stuck(reason) => json!({"waiting": {"reason": reason, "message": "kube-api was told so"}}),
        _ => json!({"running": {"startedAt": time::now()}}),
    };
    let statuses = |list: &str| -> Value {
        let containers = items(&pod["spec"], list).iter();
        containers
            .map(|container| {
                json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": running,
                    "started": running, "restartCount": 0, "state": state})
            })
            .collect()
    };
    let ready = if running { "True" } else { "False" };
    let conditions: Value = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .iter()
        .map(|&kind| json!({"type": kind, "status": if kind == "PodScheduled" { "True" } else { ready }}))
        .collect();
    pod["status"] = json!({"phase": if running { "Running" } else { "Pending" }, "conditions": conditions,
        "containerStatuses": statuses("/containers"), "initContainerStatuses": statuses("/initContainers")});
    pod
}
