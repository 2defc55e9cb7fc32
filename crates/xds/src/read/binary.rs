//! The checks of a file on a message that did not come as text: a resource of a control plane has a name and paths, but no lines.
//!
//! Pure.

use prost_reflect::{DynamicMessage, EnumDescriptor, ReflectMessage, Value};

use super::check;
use crate::diagnostic::{Code, Diagnostic};
use crate::schema;

/// Every rule broken and every refused or unknown field, those packed in an Any included.
pub(crate) fn check(root: &DynamicMessage) -> Vec<Diagnostic> {
    let mut walk = Walk { resource: resource(root), found: Vec::new() };
    walk.message(root, "");
    walk.found
}

/// The type and name of a resource, as `envoy.config.cluster.v3.Cluster/pet`.
fn resource(root: &DynamicMessage) -> String {
    let text = |field| Some(root.get_field_by_name(field)?.as_str()?.to_owned());
    let name = text("name").or_else(|| text("cluster_name")).unwrap_or_default();
    format!("{}/{name}", root.descriptor().full_name())
}

struct Walk {
    resource: String,
    found: Vec<Diagnostic>,
}

impl Walk {
    fn add(&mut self, path: &str, code: Code, message: String) -> &mut Diagnostic {
        let at = self.found.len();
        self.found.push(Diagnostic::error(&self.resource, code, message).path(path.to_owned()));
        &mut self.found[at]
    }

    fn message(&mut self, message: &DynamicMessage, path: &str) {
        let descriptor = message.descriptor();
        let marks = schema::marks(&descriptor);
        for unknown in message.unknown_fields() {
            let text = format!("unknown field number {} in {}", unknown.number(), descriptor.name());
            self.add(path, Code::UnknownField, text);
        }
        for (field, value) in message.fields() {
            let here = below(path, field.name());
            if let schema::Status::Refused(reason) = &marks.field(field.number()).status {
                let text = format!("`{}` is valid in Envoy, but petmesh does not implement it", field.name());
                self.add(&here, Code::NotImplemented, text).suggestion = Some(reason.clone());
                continue;
            }
            match value {
                Value::Message(inner) => self.inner(inner, &here),
                Value::List(items) => {
                    let messages = items.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_message()?)));
                    messages.for_each(|(index, inner)| self.inner(inner, &format!("{here}[{index}]")));
                }
                Value::Map(entries) => {
                    for (key, inner) in entries.iter().filter_map(|(k, v)| Some((k, v.as_message()?))) {
                        self.inner(inner, &format!("{here}[{:?}]", key.as_str().unwrap_or_default()));
                    }
                }
                Value::EnumNumber(number) => {
                    let kind = field.kind();
                    let name = kind.as_enum().map(EnumDescriptor::full_name).unwrap_or_default();
                    if let Some(reason) = schema::refused_value(name, *number) {
                        let text =
                            format!("value {number} is valid in Envoy, but petmesh does not implement it");
                        self.add(&here, Code::NotImplemented, text).suggestion = Some(reason.to_owned());
                    }
                }
                _ => {}
            }
        }
        for broken in check::message(message) {
            let here =
                broken.field.as_ref().map_or_else(|| path.to_owned(), |field| below(path, field.name()));
            self.add(&here, broken.code, broken.message).expected = Some(broken.expected);
        }
    }

    /// What is packed in an Any is checked like everything else.
    fn inner(&mut self, message: &DynamicMessage, path: &str) {
        let descriptor = message.descriptor();
        if descriptor.full_name() != "google.protobuf.Any" {
            // The inside of what is harmless does not matter.
            if descriptor.full_name() != "petmesh.Opaque" {
                self.message(message, path);
            }
            return;
        }
        let get = |name| message.get_field_by_name(name);
        let url = get("type_url").and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default();
        let name = url.rsplit('/').next().unwrap_or_default();
        let bytes = get("value").and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
        match schema::message(name).map(|descriptor| DynamicMessage::decode(descriptor, bytes)) {
            Some(Ok(inner)) => self.message(&inner, path),
            Some(Err(error)) => {
                self.add(path, Code::Syntax, format!("damaged `{name}`: {error}"));
            }
            None => {
                self.add(
                    path,
                    Code::NotImplemented,
                    format!("`{name}` is not a type that petmesh implements"),
                );
            }
        }
    }
}

fn below(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
