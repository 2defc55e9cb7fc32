//! The schema as tests see it: which fields a file can reach and petmesh implements.

use std::collections::{BTreeSet, HashSet};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::schema::{self, Status};

/// What a file or a discovery answer begins with.
const ROOTS: [&str; 2] =
    ["envoy.config.bootstrap.v3.Bootstrap", "envoy.config.endpoint.v3.ClusterLoadAssignment"];

/// The descriptor of one of Envoy's messages by its full name.
pub fn message_descriptor(full_name: &str) -> Option<MessageDescriptor> {
    schema::message(full_name)
}

/// Whether petmesh implements a field: it is marked neither `refused` nor `harmless`.
pub fn is_implemented(field: &FieldDescriptor) -> bool {
    schema::marks(field.parent_message()).field(field.number()).status == Status::Implemented
}

/// Every implemented field of Envoy's that a file can set: those of the roots, of what their implemented fields lead to, and of the
/// extensions, which any `typed_config` may name.
pub fn implemented_fields() -> Vec<FieldDescriptor> {
    let pool = schema::pool();
    let extensions = pool.all_messages().filter(is_extension);
    let mut open: Vec<_> = ROOTS.iter().filter_map(|name| schema::message(name)).chain(extensions).collect();
    let mut seen: HashSet<String> = open.iter().map(|message| message.full_name().to_owned()).collect();
    let (mut fields, mut names) = (Vec::new(), BTreeSet::new());
    while let Some(message) = open.pop() {
        for field in message.fields().filter(is_implemented) {
            if let Some(below) = below(&field).filter(|below| seen.insert(below.full_name().to_owned())) {
                open.push(below);
            }
            if message.full_name().starts_with("envoy.")
                && !is_hollow(&field)
                && names.insert(field.full_name().to_owned())
            {
                fields.push(field);
            }
        }
    }
    fields.sort_by(|left, right| left.full_name().cmp(right.full_name()));
    fields
}

/// Whether a field holds a message of Envoy's whose every field is harmless or refused: it says nothing by itself.
fn is_hollow(field: &FieldDescriptor) -> bool {
    let held = below(field).filter(|held| held.full_name().starts_with("envoy."));
    held.is_some_and(|held| held.fields().len() > 0 && !held.fields().any(|field| is_implemented(&field)))
}

/// A message of its own in one of the packages of extensions. One that another message names is found through that.
fn is_extension(message: &MessageDescriptor) -> bool {
    let own = message.parent_message().is_none() && message.full_name().starts_with("envoy.extensions.");
    own && !schema::pool()
        .all_messages()
        .flat_map(|other| other.fields().collect::<Vec<_>>())
        .any(|field| matches!(field.kind(), Kind::Message(named) if named.full_name() == message.full_name()))
}

/// The message that a field holds, be it in a list or a map.
fn below(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(value) => Some(value),
            _ => None,
        },
        Kind::Message(message) => Some(message),
        _ => None,
    }
}
