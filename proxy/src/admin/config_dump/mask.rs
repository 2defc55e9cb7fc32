//! Field masks, as Envoy applies them: a path is valid for a message when each of its fields is there and none but the last is a list.

use prost_reflect::Kind;
use serde_json::{Map, Value};

use super::parts::{Element, Part};

/// The paths of a mask; none shows everything.
pub(super) struct Mask<'m> {
    /// As it was given.
    pub(super) text: &'m str,
    paths: Vec<&'m str>,
}

impl<'m> Mask<'m> {
    pub(super) fn new(text: &'m str) -> Self {
        Self { text, paths: text.split(',').filter(|path| !path.is_empty()).collect() }
    }

    /// As protobuf prints the message.
    pub(super) fn debug(&self) -> String {
        let paths = self.paths.iter().map(|path| format!("paths: {path:?}\n"));
        format!("goo.gle/debugonly   \n{}", paths.collect::<String>())
    }

    /// Whether every path is valid for a part of the dump.
    pub(super) fn fits_part(&self, part: &Part) -> bool {
        self.paths.iter().all(|path| match path.split_once('.') {
            None => part.fields.contains(path) || part.lists.iter().any(|(name, _)| name == path),
            Some(("bootstrap", inner)) if part.message == "BootstrapConfigDump" => {
                is_valid("envoy.config.bootstrap.v3.Bootstrap", inner)
            }
            Some(_) => false,
        })
    }

    /// Whether every path is valid for an element of a list.
    pub(super) fn fits_element(&self, element: &Element) -> bool {
        self.paths.iter().all(|path| match path.split_once('.') {
            None => element.fields.contains(path) || element.resource == *path,
            Some((first, inner)) => element.resource == first && is_valid(element.resource_type, inner),
        })
    }

    /// What the paths name; types stay.
    pub(super) fn trim(&self, value: &Value) -> Value {
        if self.paths.is_empty() { value.clone() } else { trimmed(value, &self.paths) }
    }
}

fn is_valid(message: &str, path: &str) -> bool {
    let mut message = xds::message_descriptor(message);
    for name in path.split('.') {
        let Some(field) = message.take().and_then(|message| message.get_field_by_name(name)) else {
            return false;
        };
        message = match field.kind() {
            Kind::Message(below) if !field.is_list() && !field.is_map() => Some(below),
            _ => None,
        };
    }
    true
}

fn trimmed(value: &Value, paths: &[&str]) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let mut kept = Map::new();
    for (name, field) in fields {
        let below = paths.iter().filter_map(|path| match path.split_once('.') {
            None => (path == name).then_some(None),
            Some((first, rest)) => (first == name).then_some(Some(rest)),
        });
        let below: Vec<Option<&str>> = below.collect();
        if name == "@type" || below.contains(&None) {
            kept.insert(name.clone(), field.clone());
        } else if !below.is_empty() {
            let below: Vec<&str> = below.into_iter().flatten().collect();
            kept.insert(name.clone(), trimmed(field, &below));
        }
    }
    Value::Object(kept)
}
