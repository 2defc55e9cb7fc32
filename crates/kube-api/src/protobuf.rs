//! Bodies in JSON, and in Kubernetes' protobuf where kubectl sends nothing else.
//!
//! kubectl's typed clients (`create namespace`, `create configmap`, `auth can-i`, …) send protobuf and, unlike its
//! reading, do not fall back to JSON when they get 415. So the envelope (`k8s\0` and a `runtime.Unknown`) and the few
//! kinds below are decoded; others get 415 with the remedy. Answers are JSON, which these clients accept.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::status::Status;

const MAGIC: &[u8] = b"k8s\0";

// What a numbered field of a message is.
#[derive(Clone, Copy)]
enum Field {
    Text(&'static str),
    Number(&'static str),
    Flag(&'static str),
    // Bytes, which JSON has in base64.
    Message(&'static str, Schema),
    Texts(&'static str),
    Messages(&'static str, Schema),
    TextMap(&'static str),
    BytesMap(&'static str),
    // The values are messages of one text (resource.Quantity).
    QuantityMap(&'static str),
}

type Schema = &'static [(u32, Field)];

use Field::{BytesMap, Flag, Message, Messages, Number, QuantityMap, Text, TextMap, Texts};

const METADATA: Schema = &[
    (1, Text("name")),
    (2, Text("generateName")),
    (3, Text("namespace")),
    (11, TextMap("labels")),
    (12, TextMap("annotations")),
    (14, Texts("finalizers")),
];
const NAMESPACE: Schema = &[(1, Message("metadata", METADATA))];
const CONFIG_MAP: Schema = &[
    (1, Message("metadata", METADATA)),
    (2, TextMap("data")),
    (3, BytesMap("binaryData")),
    (4, Flag("immutable")),
];
const SECRET: Schema =
    &[(1, Message("metadata", METADATA)), (2, BytesMap("data")), (3, Text("type")), (5, Flag("immutable"))];
const QUOTA: Schema =
    &[(1, Message("metadata", METADATA)), (2, Message("spec", &[(1, QuantityMap("hard"))]))];
const RULE: Schema = &[
    (1, Texts("verbs")),
    (2, Texts("apiGroups")),
    (3, Texts("resources")),
    (4, Texts("resourceNames")),
    (5, Texts("nonResourceURLs")),
];
const ROLE: Schema = &[(1, Message("metadata", METADATA)), (2, Messages("rules", RULE))];
const SUBJECT: Schema =
    &[(1, Text("kind")), (2, Text("apiGroup")), (3, Text("name")), (4, Text("namespace"))];
const ROLE_REF: Schema = &[(1, Text("apiGroup")), (2, Text("kind")), (3, Text("name"))];
const BINDING: Schema = &[
    (1, Message("metadata", METADATA)),
    (2, Messages("subjects", SUBJECT)),
    (3, Message("roleRef", ROLE_REF)),
];
const ASKED: Schema = &[
    (1, Text("namespace")),
    (2, Text("verb")),
    (3, Text("group")),
    (4, Text("version")),
    (5, Text("resource")),
    (6, Text("subresource")),
    (7, Text("name")),
];
const ASKED_PATH: Schema = &[(1, Text("path")), (2, Text("verb"))];
const REVIEW: Schema = &[
    (1, Message("metadata", METADATA)),
    (
        2,
        Message(
            "spec",
            &[(1, Message("resourceAttributes", ASKED)), (2, Message("nonResourceAttributes", ASKED_PATH))],
        ),
    ),
];
const DELETE_OPTIONS: Schema = &[
    (1, Number("gracePeriodSeconds")),
    (2, Message("preconditions", &[(1, Text("uid")), (2, Text("resourceVersion"))])),
    (3, Flag("orphanDependents")),
    (4, Text("propagationPolicy")),
    (5, Texts("dryRun")),
];
const UNKNOWN: Schema = &[(1, Message("type", &[(1, Text("apiVersion")), (2, Text("kind"))]))];

const KINDS: &[(&str, Schema)] = &[
    ("Namespace", NAMESPACE),
    ("ServiceAccount", NAMESPACE),
    ("ConfigMap", CONFIG_MAP),
    ("Secret", SECRET),
    ("ResourceQuota", QUOTA),
    ("Role", ROLE),
    ("ClusterRole", ROLE),
    ("RoleBinding", BINDING),
    ("ClusterRoleBinding", BINDING),
    ("SelfSubjectAccessReview", REVIEW),
    ("DeleteOptions", DELETE_OPTIONS),
];

/// Reads a body by its content type.
///
/// # Errors
/// 400 for a body that is broken, 415 for another type or for a kind whose protobuf is not known.
pub fn read(content_type: &str, body: &[u8]) -> Result<Value, Status> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("the object provided is not valid JSON: {error}"))),
        "application/vnd.kubernetes.protobuf" => envelope(body),
        _ => Err(unsupported(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/vnd.kubernetes.protobuf",
        )),
    }
}

fn unsupported(message: impl Into<String>) -> Status {
    Status::failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
}

fn envelope(body: &[u8]) -> Result<Value, Status> {
    let broken =
        || Status::bad_request("the body is no valid Kubernetes protobuf (k8s\\0 and a runtime.Unknown)");
    let unknown = body.strip_prefix(MAGIC).ok_or_else(broken)?;
    let head = message(unknown, UNKNOWN).ok_or_else(broken)?;
    let raw = fields(unknown).and_then(|all| all.into_iter().find(|(number, _)| *number == 2));
    let Some((_, Wire::Bytes(raw))) = raw else { return Err(broken()) };
    let kind = head["type"]["kind"].as_str().unwrap_or_default();
    let Some((_, schema)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        return Err(unsupported(format!(
            "kube-api does not read {kind} in protobuf; send it as JSON: append \
             `--dry-run=client -o yaml | kubectl apply -f -` to the command"
        )));
    };
    let mut object = message(raw, schema).ok_or_else(broken)?;
    object["apiVersion"] = head["type"]["apiVersion"].clone();
    object["kind"] = kind.into();
    Ok(object)
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

// The fields of a message in order; None where the bytes are no protobuf.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u32, Wire<'_>)>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Wire::Bytes(value)
            }
            _ => return None, // The kinds here have no others.
        };
        all.push((u32::try_from(tag >> 3).ok()?, value));
    }
    Some(all)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn message(bytes: &[u8], schema: Schema) -> Option<Value> {
    let mut object = json!({});
    for (number, wire) in fields(bytes)? {
        let Some((_, field)) = schema.iter().find(|(known, _)| *known == number) else { continue };
        set(&mut object, *field, &wire)?;
    }
    Some(object)
}

fn set(object: &mut Value, field: Field, wire: &Wire<'_>) -> Option<()> {
    match (field, wire) {
        (Number(name), Wire::Number(number)) => object[name] = (*number).into(),
        (Flag(name), Wire::Number(number)) => object[name] = (*number != 0).into(),
        // proto2 writes empty texts too; a manifest would not have them.
        (Text(_), Wire::Bytes([])) => {}
        (Text(name), Wire::Bytes(bytes)) => object[name] = text(bytes)?,
        (Message(name, schema), Wire::Bytes(bytes)) => object[name] = message(bytes, schema)?,
        (Texts(name), Wire::Bytes(bytes)) => push(object, name, text(bytes)?),
        (Messages(name, schema), Wire::Bytes(bytes)) => push(object, name, message(bytes, schema)?),
        (TextMap(name) | BytesMap(name) | QuantityMap(name), Wire::Bytes(bytes)) => {
            let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
            for (number, part) in fields(bytes)? {
                match (number, part) {
                    (1, Wire::Bytes(bytes)) => key = bytes,
                    (2, Wire::Bytes(bytes)) => value = bytes,
                    _ => {}
                }
            }
            let value = match field {
                BytesMap(_) => crate::base64::encode_standard(value).into(),
                QuantityMap(_) => message(value, &[(1, Text("string"))])?["string"].take(),
                _ => text(value)?,
            };
            if !object[name].is_object() {
                object[name] = Value::Object(Map::new());
            }
            object[name][std::str::from_utf8(key).ok()?] = value;
        }
        _ => return None,
    }
    Some(())
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(Value::from)
}

fn push(object: &mut Value, name: &str, value: Value) {
    match object[name].as_array_mut() {
        Some(list) => list.push(value),
        None => object[name] = json!([value]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_read_from_its_envelope() {
        // apiVersion v1, kind Namespace; raw: metadata {name: x}.
        let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x05\x0a\x03\x0a\x01x";
        let read = read("application/vnd.kubernetes.protobuf", body).unwrap();
        assert_eq!(read, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}));
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_refused() {
        let kind = "application/vnd.kubernetes.protobuf";
        let whole: &[u8] = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x05\x0a\x03\x0a\x01x";
        for end in 0..whole.len() {
            assert_eq!(read(kind, &whole[..end]).unwrap_err().code, 400, "{end} bytes");
        }
        let other = read(kind, b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Foo\x12\x00").unwrap_err();
        assert!(other.code == 415 && other.message.contains("kubectl apply -f -"), "{other}");
    }
}
