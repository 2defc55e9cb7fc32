//! The patch formats: JSON merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge patch, server-side apply.
//!
//! Strategic merge knows the merge keys of the kinds served here by the name of the list; `strategic` has it. A
//! server-side apply is merged the same way, without field ownership: what one manager no longer names stays.

use http::StatusCode;
use serde_json::Value;

use crate::status::Status;

mod strategic;
#[cfg(test)]
mod tests;

/// A patch, read but not yet applied.
#[derive(Debug)]
pub enum Patch {
    Merge(Value),
    Strategic(Value),
    Json(Vec<Value>),
    Apply(Value),
}

impl Patch {
    /// Reads a patch by its content type.
    ///
    /// # Errors
    /// 415 for an unknown type, 400 for a body that is not JSON.
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Self, Status> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let value = || -> Result<Value, Status> {
            serde_json::from_slice(body)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
        };
        match kind {
            "application/merge-patch+json" => Ok(Self::Merge(value()?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(value()?)),
            "application/apply-patch+yaml" => Ok(Self::Apply(value()?)),
            "application/json-patch+json" => match value()? {
                Value::Array(operations) => Ok(Self::Json(operations)),
                _ => Err(Status::bad_request("a JSON patch is a list of operations")),
            },
            _ => Err(Status::failure(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, \
                 application/strategic-merge-patch+json",
            )),
        }
    }

    /// Applies it.
    ///
    /// # Errors
    /// 422 where a JSON patch does not fit the object.
    pub fn apply(&self, object: &mut Value) -> Result<(), Status> {
        match self {
            Self::Merge(patch) => merge(object, patch),
            Self::Strategic(patch) | Self::Apply(patch) => strategic::merge(object, patch),
            Self::Json(operations) => {
                for operation in operations {
                    one(object, operation).ok_or_else(|| {
                        let message = format!(
                            "the server rejected our request due to an error in our request: {operation}"
                        );
                        Status::failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

// One operation of RFC 6902; None where it does not fit.
fn one(object: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    match operation["op"].as_str()? {
        "add" => add(object, path, operation.get("value")?.clone()),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            *object.pointer_mut(path)? = operation.get("value")?.clone();
            Some(())
        }
        "copy" => {
            let value = object.pointer(operation["from"].as_str()?)?.clone();
            add(object, path, value)
        }
        "move" => {
            let value = remove(object, operation["from"].as_str()?)?;
            add(object, path, value)
        }
        "test" => (object.pointer(path)? == operation.get("value")?).then_some(()),
        _ => None,
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *object = value;
        return Some(());
    }
    let (parent, key) = path.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    match object.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let index = key.parse().ok().filter(|&index| index <= list.len())?;
            list.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &str) -> Option<Value> {
    let (parent, key) = path.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    match object.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&key),
        Value::Array(list) => {
            let index = key.parse().ok().filter(|&index: &usize| index < list.len())?;
            Some(list.remove(index))
        }
        _ => None,
    }
}
