//! `/scale`: the replicas of a Deployment, ReplicaSet or StatefulSet as an object of its own, for `kubectl scale`.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::{self, Body};
use crate::patch::Patch;
use crate::protobuf;
use crate::resources::number;
use crate::resources::pod_template::pairs;
use crate::status::Status;
use crate::write::Write;

/// Answers get, update and patch of `/scale`.
///
/// # Errors
/// 404 if the object is absent, 409 for an old resourceVersion, 400, 415 and 422 for what cannot be read.
pub fn answer(write: &Write<'_>, verb: &str) -> Result<Response<Body>, Status> {
    let name = write.target.name.as_deref().unwrap_or_default();
    let object = match verb {
        "get" => write.stored(name)?,
        "update" => {
            let wanted = protobuf::read(write.content_type(), write.body)?;
            write.modify(name, &mut |old| replaced(write, old, &wanted))?
        }
        _ => {
            let patch = Patch::parse(write.content_type(), write.body)?;
            write.modify(name, &mut |old| {
                let mut wanted = scale(old);
                patch.apply(&mut wanted)?;
                replaced(write, old, &wanted)
            })?
        }
    };
    Ok(answer::value(StatusCode::OK, &scale(&object.value)))
}

fn replaced(write: &Write<'_>, old: &Value, wanted: &Value) -> Result<Value, Status> {
    let name = write.target.name.as_deref().unwrap_or_default();
    let version = &wanted["metadata"]["resourceVersion"];
    if version.as_str().is_some_and(|given| !given.is_empty())
        && *version != old["metadata"]["resourceVersion"]
    {
        return Err(Status::conflict(write.resource, name));
    }
    let mut new = old.clone();
    new["spec"]["replicas"] = number(wanted, "/spec/replicas").into();
    Ok(new)
}

fn scale(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": number(object, "/spec/replicas")},
        "status": {"replicas": number(object, "/status/replicas"),
            "selector": pairs(&object["spec"]["selector"]["matchLabels"]).join(",")}})
}
