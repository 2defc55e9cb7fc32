//! The page of supported fields, printed from the schema, so that it cannot drift from the code.

use std::fmt::Write;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};

use crate::schema::{self, Bounds, Status};

const HEAD: &str = "# Supported fields

Printed from `crates/xds/proto`; do not edit (`UPDATE=1 cargo test -p xds` writes it anew). Every field of Envoy's that
stands in a message below is listed. A field that is not implemented is an **error** when a file sets it; a harmless one
is a **warning**; a name that is not listed is unknown to Envoy as well.
";

/// The whole page, in Markdown.
pub fn supported_fields() -> String {
    let mut page = HEAD.to_owned();
    let bytes = &include_bytes!(concat!(env!("OUT_DIR"), "/documented.bin"))[..];
    let documented = DescriptorPool::decode(bytes).unwrap();
    let mut messages: Vec<_> = documented.all_messages().collect();
    messages.retain(|message| !message.is_map_entry() && shown(message.full_name()));
    messages.sort_by_key(|message| message.full_name().to_owned());
    for message in &messages {
        section(&mut page, message);
    }
    let mut enums: Vec<_> = schema::pool().all_enums().filter(|e| shown(e.full_name())).collect();
    enums.sort_by_key(|e| e.full_name().to_owned());
    let _ = writeln!(page, "\n## Values");
    for descriptor in &enums {
        values(&mut page, descriptor);
    }
    page
}

fn shown(full_name: &str) -> bool {
    full_name.starts_with("envoy.config.")
        || full_name.starts_with("envoy.extensions.")
        || full_name.starts_with("envoy.type.")
}

fn section(page: &mut String, message: &MessageDescriptor) {
    let marks = schema::marks(message);
    let mut fields: Vec<FieldDescriptor> = message.fields().collect();
    fields.sort_by_key(|field| field.name().to_owned());
    let (mut rows, mut refused) = (String::new(), Vec::new());
    for field in &fields {
        let marks = marks.field(field.number());
        let name = field.name();
        let note = match &marks.status {
            Status::Refused(reason) if reason == "not implemented" => {
                refused.push(format!("`{name}`"));
                continue;
            }
            Status::Refused(reason) => {
                refused.push(format!("`{name}` ({reason})"));
                continue;
            }
            Status::Harmless(reason) => format!("harmless: {reason}"),
            Status::Implemented => marks.bounds.as_ref().map(rule).unwrap_or_default(),
        };
        let comment = comment(&message.parent_file(), field.path());
        let _ = writeln!(rows, "| `{name}` | {} | {comment} | {note} |", kind(field));
    }
    let about = comment(&message.parent_file(), message.path());
    let _ = writeln!(page, "\n## {}\n\n{about}\n", message.full_name());
    if !rows.is_empty() {
        let _ = writeln!(
            page,
            "| field | type | what it does | rule |\n| --- | --- | --- | --- |\n{}",
            rows.trim_end()
        );
    }
    if !refused.is_empty() {
        let _ = writeln!(page, "\nNot implemented: {}.", refused.join(", "));
    }
}

fn values(page: &mut String, descriptor: &EnumDescriptor) {
    let names = descriptor.values().map(|value| {
        match schema::refused_value(descriptor.full_name(), value.number()) {
            Some(reason) => format!("`{}` (not implemented: {reason})", value.name()),
            None => format!("`{}`", value.name()),
        }
    });
    let _ = writeln!(page, "- {}: {}", descriptor.full_name(), names.collect::<Vec<_>>().join(", "));
}

fn kind(field: &FieldDescriptor) -> String {
    let name = match field.kind() {
        Kind::Message(message) if field.is_map() => {
            return format!("map to {}", last(&value_kind(&message)));
        }
        Kind::Message(message) => last(message.full_name()),
        Kind::Enum(descriptor) => last(descriptor.full_name()),
        kind => format!("{kind:?}").to_lowercase(),
    };
    if field.is_list() { format!("list of {name}") } else { name }
}

fn value_kind(entry: &MessageDescriptor) -> String {
    match entry.map_entry_value_field().kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        kind => format!("{kind:?}").to_lowercase(),
    }
}

fn last(full_name: &str) -> String {
    full_name.rsplit('.').next().unwrap_or(full_name).to_owned()
}

fn rule(bounds: &Bounds) -> String {
    let mut rules = Vec::new();
    if bounds.required {
        rules.push("required".to_owned());
    }
    let mut bound = |words: &str, value: Option<f64>| rules.extend(value.map(|v| format!("{words} {v}")));
    bound("greater than", bounds.gt);
    bound("at least", bounds.gte);
    bound("less than", bounds.lt);
    bound("at most", bounds.lte);
    let mut count = |value: Option<u64>, words: &str| rules.extend(value.map(|v| format!("{words} {v}")));
    count(bounds.min_len, "length at least");
    count(bounds.max_len, "length at most");
    count(bounds.min_items, "entries at least");
    count(bounds.max_items, "entries at most");
    rules.join(", ")
}

/// The comment above a declaration, on one line.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let text = location.and_then(|location| location.leading_comments.clone()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
