//! What controllers and kubelets would do about a workload, done at once, for tests of what waits for a roll-out.
//!
//! A Deployment gets a ReplicaSet and its Pods, a DaemonSet a Pod for each node, a StatefulSet its numbered Pods; then
//! the status says that all is well, or why not. Quotas are obeyed: the refusal is told in the conditions.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::quota;
use crate::resources::{self, Resource, items, number, text};
use crate::status::Status;
use crate::store::{Key, Object, Store};
use crate::time;

mod pods;

/// What becomes of Deployments, DaemonSets and StatefulSets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Settle {
    /// Nothing: they stay as they were stored, as without controllers.
    #[default]
    Nothing,
    /// They are rolled out when the request is answered.
    RolledOut,
    /// Their Pods wait, for example with `ImagePullBackOff`, `ErrImageNeverPull` or `CrashLoopBackOff`.
    Stuck(&'static str),
}

/// Brings Pods and status in line with a workload that was written.
pub fn settle(store: &Store, resource: &'static Resource, object: &Arc<Object>, how: Settle) {
    if how == Settle::Nothing || !matches!(resource.kind, "Deployment" | "DaemonSet" | "StatefulSet") {
        return;
    }
    let workload = &object.value;
    if !text(workload, "/metadata/deletionTimestamp").is_empty() {
        return;
    }
    let wanted = match resource.kind {
        "DaemonSet" => store.list("nodes", None).len(),
        _ => usize::try_from(number(workload, "/spec/replicas")).unwrap_or(usize::MAX).min(1000),
    };
    let refusal = pods::align(store, workload, wanted, how);
    let present = pods::of(store, workload).len();
    let available = if how == Settle::RolledOut { present } else { 0 };
    let status = match resource.kind {
        "Deployment" => deployment_status(workload, wanted, present, available, refusal.as_deref()),
        "DaemonSet" => daemon_status(workload, wanted, present, available),
        _ => stateful_status(workload, present, available),
    };
    write_status(store, resource, workload, &status);
}

impl Store {
    /// Does to one workload what `how` says, as `Config::settle` does to each that is written: for tests in which a
    /// roll-out hangs at first. `kind` is a kind, plural or short name.
    ///
    /// # Errors
    /// 404 for an unknown kind or an absent object.
    pub fn settle(&self, kind: &str, namespace: &str, name: &str, how: Settle) -> Result<(), Status> {
        let resource = resources::by_name(kind).ok_or_else(Status::no_resource)?;
        let key = Key::new(resource, namespace, name);
        let object = self.object(&key).ok_or_else(|| Status::not_found(resource, name))?;
        settle(self, resource, &object, how);
        Ok(())
    }
}

fn write_status(store: &Store, resource: &'static Resource, workload: &Value, status: &Value) {
    let key = Key::new(resource, text(workload, "/metadata/namespace"), text(workload, "/metadata/name"));
    // If it is gone meanwhile, so is its status.
    let _ = store.change(&key, false, &mut |old| {
        let Some(old) = old else { return Err(Status::not_found(resource, &key.name)) };
        let mut value = old.value.clone();
        value["status"] = status.clone();
        if resource.kind == "Deployment" {
            if !value["metadata"]["annotations"].is_object() {
                value["metadata"]["annotations"] = json!({});
            }
            value["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1".into();
        }
        Ok(Some(value))
    });
}

fn deployment_status(
    deployment: &Value,
    wanted: usize,
    present: usize,
    available: usize,
    refusal: Option<&str>,
) -> Value {
    let (enough, name) = (available >= wanted, text(deployment, "/metadata/name"));
    let mut conditions = if enough {
        vec![
            condition(
                deployment,
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            ),
            condition(
                deployment,
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                &format!("ReplicaSet \"{name}-{}\" has successfully progressed.", pods::hash(deployment)),
            ),
        ]
    } else {
        vec![
            condition(
                deployment,
                "Available",
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            ),
            condition(
                deployment,
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                &format!("ReplicaSet \"{name}-{}\" is progressing.", pods::hash(deployment)),
            ),
        ]
    };
    if let Some(refusal) = refusal {
        conditions.push(condition(deployment, "ReplicaFailure", "True", "FailedCreate", refusal));
    }
    json!({"observedGeneration": deployment["metadata"]["generation"], "replicas": present,
        "updatedReplicas": present, "readyReplicas": available, "availableReplicas": available,
        "unavailableReplicas": wanted.saturating_sub(available), "conditions": conditions})
}

fn daemon_status(set: &Value, wanted: usize, present: usize, available: usize) -> Value {
    json!({"observedGeneration": set["metadata"]["generation"], "desiredNumberScheduled": wanted,
        "currentNumberScheduled": present, "updatedNumberScheduled": present, "numberReady": available,
        "numberAvailable": available, "numberUnavailable": wanted.saturating_sub(available),
        "numberMisscheduled": 0})
}

fn stateful_status(set: &Value, present: usize, available: usize) -> Value {
    let revision = format!("{}-{}", text(set, "/metadata/name"), pods::hash(set));
    json!({"observedGeneration": set["metadata"]["generation"], "replicas": present, "currentReplicas": present,
        "updatedReplicas": present, "readyReplicas": available, "availableReplicas": available,
        "currentRevision": revision, "updateRevision": revision, "collisionCount": 0})
}

// With the time of the last change of its status, if it had it before.
fn condition(workload: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let before = items(workload, "/status/conditions").iter().find(|one| text(one, "/type") == kind);
    let since =
        before.filter(|one| text(one, "/status") == status).map(|one| one["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| time::now().into());
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastUpdateTime": since,
        "lastTransitionTime": since})
}
