//! One stored object: its key, its JSON bytes (made once, sent to every watcher), and the metadata rules of a write.

use std::cmp::Ordering;
use std::collections::btree_map::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Objects;
use crate::resources::{self, Resource, text};
use crate::status::{Cause, Status};

/// Where an object lies.
#[derive(Clone, Debug)]
pub struct Key {
    resource: &'static Resource,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A stored object: never changed, only replaced.
#[derive(Debug)]
pub struct Object {
    /// The object, with `kind` and `apiVersion`.
    pub value: Value,
    /// Its `resourceVersion`.
    pub revision: u64,
    /// It as JSON, with `kind` and `apiVersion` first, as the real server has them.
    pub json: Bytes,
}

const NAME_SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Object {
    pub(crate) fn new(resource: &Resource, value: Value) -> Self {
        let revision = text(&value, "/metadata/resourceVersion").parse().unwrap_or(0);
        let json = encode(&value, Some(resource)).into();
        Self { value, revision, json }
    }

    /// It as an item of a list: without `kind` and `apiVersion`.
    pub(crate) fn item(&self) -> Vec<u8> {
        encode(&self.value, None)
    }
}

impl Key {
    pub(crate) fn new(resource: &'static Resource, namespace: &str, name: &str) -> Self {
        let namespace = if resource.namespaced { namespace.to_owned() } else { String::new() };
        Self { resource, namespace, name: name.to_owned() }
    }

    pub(crate) fn resource(&self) -> &'static Resource {
        self.resource
    }

    fn parts(&self) -> (&'static str, &'static str, &str, &str) {
        (self.resource.group, self.resource.plural, &self.namespace, &self.name)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

/// The objects of a kind in key order, of one namespace or of all.
pub(super) fn range<'a>(
    objects: &'a Objects,
    resource: &'static Resource,
    namespace: Option<&str>,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> {
    let namespace = namespace.map(str::to_owned);
    let from = Key::new(resource, namespace.as_deref().unwrap_or_default(), "");
    let all: Range<'a, Key, Arc<Object>> = objects.range(from..);
    all.take_while(move |(key, _)| {
        key.resource.plural == resource.plural
            && key.resource.group == resource.group
            && namespace.as_ref().is_none_or(|namespace| !resource.namespaced || key.namespace == *namespace)
    })
}

/// Namespace and name of an object that is to be stored; a name is made from `generateName`.
pub(crate) fn place(resource: &Resource, object: &Value) -> Result<(String, String), Status> {
    let mut name = text(object, "/metadata/name").to_owned();
    let prefix = text(object, "/metadata/generateName");
    if name.is_empty() && !prefix.is_empty() {
        name = format!("{prefix}{}", random_suffix());
    }
    if !is_name(&name) {
        let (reason, message) = if name.is_empty() {
            ("FieldValueRequired", "Required value: name or generateName is required".to_owned())
        } else {
            let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
            ("FieldValueInvalid", format!("Invalid value: \"{name}\": {rule}"))
        };
        return Err(Status::invalid(
            resource,
            &name,
            vec![Cause { reason, message, field: "metadata.name" }],
        ));
    }
    let namespace = match text(object, "/metadata/namespace") {
        "" if resource.namespaced => "default",
        _ if !resource.namespaced => "",
        namespace => namespace,
    };
    Ok((namespace.to_owned(), name))
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 253 && bytes.iter().all(|&byte| inner(byte)) && edge(bytes.first()) && edge(bytes.last())
}

/// Fills what the server owns: names, uid, times, generation, resourceVersion and the defaults of the kind.
pub(super) fn prepare(
    resource: &Resource,
    key: &Key,
    mut value: Value,
    old: Option<&Object>,
    revision: u64,
) -> Result<Value, Status> {
    if !value.get("metadata").is_some_and(Value::is_object) {
        value["metadata"] = json!({});
    }
    value["apiVersion"] = resource.api_version().into();
    value["kind"] = resource.kind.into();
    let metadata = &mut value["metadata"];
    metadata["name"] = key.name.as_str().into();
    if resource.namespaced {
        metadata["namespace"] = key.namespace.as_str().into();
    }
    match old {
        None => super::birth(metadata),
        Some(old) => {
            for field in ["uid", "creationTimestamp", "deletionTimestamp", "generation"] {
                let kept = old.value["metadata"].get(field);
                match kept {
                    Some(kept) => metadata[field] = kept.clone(),
                    None if field != "deletionTimestamp" => {
                        metadata.as_object_mut().map(|map| map.remove(field));
                    }
                    None => {}
                }
            }
        }
    }
    (resource.defaults)(&mut value);
    let causes = (resource.validate)(&value);
    if !causes.is_empty() {
        return Err(Status::invalid(resource, &key.name, causes));
    }
    if resource.generation {
        count_generation(&mut value, old);
    }
    value["metadata"]["resourceVersion"] = revision.to_string().into();
    Ok(value)
}

fn count_generation(value: &mut Value, old: Option<&Object>) {
    let generation = match old {
        None => 1,
        Some(old) => {
            let before = old.value["metadata"]["generation"].as_u64().unwrap_or(1);
            before + u64::from(!same_outside(&old.value, value, &["metadata", "status"]))
        }
    };
    value["metadata"]["generation"] = generation.into();
}

fn same_outside(a: &Value, b: &Value, ignored: &[&str]) -> bool {
    let rest = |value: &Value| {
        let map = value.as_object().into_iter().flatten();
        map.filter(|(key, _)| !ignored.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (a, b): (Vec<_>, Vec<_>) = (rest(a), rest(b));
    a == b
}

/// Whether a write changed nothing but the version.
pub(super) fn same_but_version(old: &Value, new: &Value) -> bool {
    let mut new = new.clone();
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    *old == new
}

/// Whether an object that was only waiting for its finalizers has lost the last of them.
pub(super) fn finalized(old: &Value, new: &Value) -> bool {
    let finalizers = "/metadata/finalizers";
    !text(old, "/metadata/deletionTimestamp").is_empty()
        && !resources::items(old, finalizers).is_empty()
        && resources::items(new, finalizers).is_empty()
}

// kind and apiVersion, then metadata, then the rest: the real server's order, and what a person looks for first.
fn encode(value: &Value, kind: Option<&Resource>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let mut member = |key: &str, value: &Value| {
        if out.len() > 1 {
            out.push(b',');
        }
        // A key may hold a quote, so it is written as JSON too.
        out.extend_from_slice(format!("{}:{value}", Value::from(key)).as_bytes());
    };
    if let Some(resource) = kind {
        member("kind", &resource.kind.into());
        member("apiVersion", &resource.api_version().into());
    }
    if let Some(metadata) = value.get("metadata") {
        member("metadata", metadata);
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            member(key, value);
        }
    }
    out.push(b'}');
    out
}

pub(crate) fn random_suffix() -> String {
    let mut suffix = String::new();
    for _ in 0..5 {
        suffix.push(char::from(NAME_SUFFIX[fastrand::usize(..NAME_SUFFIX.len())]));
    }
    suffix
}

/// A random UUID (version 4).
pub(crate) fn random_uid() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
