//! The compiled schema: descriptors of every message, and our marks on their fields.
//!
//! The marks (`proto/petmesh/options.proto`) are decoded once, because a descriptor decodes its options
//! at each call. The whole takes some 2 MiB, so a long-lived process can `release` it between reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor, Value,
};

/// The marks of one message.
#[derive(Debug, Default)]
pub(crate) struct MessageMarks {
    fields: HashMap<u32, FieldMarks>,
    /// All fields, by number.
    pub(crate) all: Vec<FieldDescriptor>,
    /// Those that have a rule: bounds, or a duration.
    pub(crate) checked: Vec<FieldDescriptor>,
    /// Indices of the oneofs of which one field must be present.
    pub(crate) required_oneofs: Vec<usize>,
}

/// The marks of one field; an unmarked field is implemented and unbounded.
#[derive(Debug, Default)]
pub(crate) struct FieldMarks {
    pub(crate) status: Status,
    pub(crate) bounds: Option<Bounds>,
}

/// What petmesh does with a field of Envoy's.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    #[default]
    Implemented,
    /// A value is a warning; the text says why petmesh can do without.
    Harmless(String),
    /// A value is an error; the text says why, or what to use instead.
    Refused(String),
}

/// What a value must satisfy; durations are in seconds, lengths in bytes.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) required: bool,
    pub(crate) gt: Option<f64>,
    pub(crate) gte: Option<f64>,
    pub(crate) lt: Option<f64>,
    pub(crate) lte: Option<f64>,
    pub(crate) min_len: Option<u64>,
    pub(crate) max_len: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique: bool,
    pub(crate) text: TextRule,
    pub(crate) one_of: Vec<f64>,
    pub(crate) one_of_text: Vec<String>,
    pub(crate) is_true: bool,
}

/// What a text may hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextRule {
    #[default]
    Any,
    HeaderName,
    HeaderValue,
    /// No NUL, CR or LF.
    HeaderSafe,
    /// A path without query and fragment that does not end with `/`.
    PathPrefix,
}

struct Schema {
    pool: DescriptorPool,
    messages: HashMap<String, Arc<MessageMarks>>,
    refused_values: HashMap<(String, i32), String>,
}

/// The schema in use; `None` before the first read and after a `release`.
static SCHEMA: Mutex<Option<Arc<Schema>>> = Mutex::new(None);

/// Frees the compiled schema. The next read compiles it again, which takes a few milliseconds.
///
/// Messages that are still in use keep the parts that they need.
pub fn release() {
    SCHEMA.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// The descriptors of all messages.
pub(crate) fn pool() -> DescriptorPool {
    schema().pool.clone()
}

/// The descriptor of a message by its full name, as `envoy.config.cluster.v3.Cluster`.
pub(crate) fn message(full_name: &str) -> Option<MessageDescriptor> {
    schema().pool.get_message_by_name(full_name)
}

/// The marks of a message.
pub(crate) fn marks(descriptor: &MessageDescriptor) -> Arc<MessageMarks> {
    schema().messages.get(descriptor.full_name()).cloned().unwrap_or_default()
}

/// Why a value of an enum is refused, if it is.
pub(crate) fn refused_value(enum_name: &str, number: i32) -> Option<String> {
    schema().refused_values.get(&(enum_name.to_owned(), number)).cloned()
}

impl MessageMarks {
    /// The marks of the field with this number.
    pub(crate) fn field(&self, number: u32) -> &FieldMarks {
        static NONE: FieldMarks = FieldMarks { status: Status::Implemented, bounds: None };
        self.fields.get(&number).unwrap_or(&NONE)
    }
}

fn schema() -> Arc<Schema> {
    let mut schema = SCHEMA.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(schema.get_or_insert_with(|| Arc::new(compiled())))
}

fn compiled() -> Schema {
    // The bytes are made by build.rs; a test reads them, so an empty pool is never seen.
    let pool = DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))[..])
        .unwrap_or_default();
    let marks = |message: MessageDescriptor| {
        (message.full_name().to_owned(), Arc::new(message_marks(&pool, &message)))
    };
    let messages = pool.all_messages().map(marks).collect();
    Schema { messages, refused_values: refused_values(&pool), pool }
}

fn message_marks(pool: &DescriptorPool, message: &MessageDescriptor) -> MessageMarks {
    let option = |name| pool.get_extension_by_name(name);
    let (refused, harmless) = (option("petmesh.refused"), option("petmesh.harmless"));
    let (bounds, one_required) = (option("petmesh.bounds"), option("petmesh.one_required"));
    let mut marks = MessageMarks::default();
    for field in message.fields() {
        let options = field.options();
        let status = if let Some(reason) = text(&options, refused.as_ref()) {
            Status::Refused(reason)
        } else if let Some(reason) = text(&options, harmless.as_ref()) {
            Status::Harmless(reason)
        } else {
            Status::Implemented
        };
        let bounds = bounds.as_ref().filter(|extension| options.has_extension(extension));
        let bounds = bounds.and_then(|b| options.get_extension(b).as_message().map(read_bounds));
        let is_duration =
            field.kind().as_message().is_some_and(|inner| inner.full_name() == "google.protobuf.Duration");
        if bounds.is_some() || is_duration {
            marks.checked.push(field.clone());
        }
        marks.all.push(field.clone());
        if status != Status::Implemented || bounds.is_some() {
            marks.fields.insert(field.number(), FieldMarks { status, bounds });
        }
    }
    for (index, oneof) in message.oneofs().enumerate() {
        let options = oneof.options();
        if one_required.as_ref().is_some_and(|e| options.get_extension(e).as_bool() == Some(true)) {
            marks.required_oneofs.push(index);
        }
    }
    marks
}

fn refused_values(pool: &DescriptorPool) -> HashMap<(String, i32), String> {
    let extension = pool.get_extension_by_name("petmesh.refused_value");
    let mut found = HashMap::new();
    for descriptor in pool.all_enums() {
        for value in descriptor.values() {
            if let Some(reason) = text(&value.options(), extension.as_ref()) {
                found.insert((descriptor.full_name().to_owned(), value.number()), reason);
            }
        }
    }
    found
}

fn text(options: &DynamicMessage, extension: Option<&ExtensionDescriptor>) -> Option<String> {
    let extension = extension.filter(|extension| options.has_extension(extension))?;
    options.get_extension(extension).as_str().map(str::to_owned)
}

fn read_bounds(message: &DynamicMessage) -> Bounds {
    let get = |name: &str| message.get_field_by_name(name).filter(|_| message.has_field_by_name(name));
    let number = |name| get(name).and_then(|value| value.as_f64());
    let length = |name| get(name).and_then(|value| value.as_u64());
    let flag = |name| get(name).and_then(|value| value.as_bool()).unwrap_or(false);
    let list = |name| get(name).map(|value| value.as_list().unwrap_or_default().to_vec()).unwrap_or_default();
    Bounds {
        required: flag("required"),
        gt: number("gt"),
        gte: number("gte"),
        lt: number("lt"),
        lte: number("lte"),
        min_len: length("min_len"),
        max_len: length("max_len"),
        min_items: length("min_items"),
        max_items: length("max_items"),
        unique: flag("unique"),
        text: match get("text").and_then(|value| value.as_enum_number()) {
            Some(1) => TextRule::HeaderName,
            Some(2) => TextRule::HeaderValue,
            Some(3) => TextRule::HeaderSafe,
            Some(4) => TextRule::PathPrefix,
            _ => TextRule::Any,
        },
        one_of: list("one_of").iter().filter_map(Value::as_f64).collect(),
        one_of_text: list("one_of_text").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        is_true: flag("is_true"),
    }
}
