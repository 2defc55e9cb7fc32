//! Messages to JSON and back: for `/config_dump`, for rewritten files, and for what is packed in an Any.

use prost_reflect::{DynamicMessage, SerializeOptions};
use prost_types::Any;
use serde_json::Value;

use crate::api::envoy::service::discovery::v3::DiscoveryResponse;
use crate::diagnostic::Diagnostic;
use crate::resource::Resource;
use crate::schema;

/// Why an Any cannot be read as the type asked for.
#[derive(Debug, thiserror::Error)]
pub enum AnyError {
    #[error("found `{found}`, expected `{expected}`")]
    Type { found: String, expected: String },
    #[error("`{0}` is not a type that petmesh implements")]
    Unknown(String),
    #[error("damaged message: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("{}", .0.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Diagnostic>),
}

/// A message as JSON, with Any expanded and names as in the files. Absent fields are left out.
pub fn to_json<M: Resource>(message: &M) -> Value {
    bytes_to_json(&M::full_name(), &message.to_bytes())
}

/// An Any as JSON with its `@type`; what is of an unknown type shows that alone.
pub fn dump_any(any: &Any) -> Value {
    let mut value = bytes_to_json(type_name(&any.type_url), &any.value);
    if let Some(object) = value.as_object_mut() {
        object.insert("@type".to_owned(), any.type_url.clone().into());
    }
    value
}

/// The message inside an Any, if it is of type `M`.
pub fn decode_any<M: Resource>(any: &Any) -> Result<M, AnyError> {
    if type_name(&any.type_url) != M::full_name() {
        return Err(AnyError::Type { found: any.type_url.clone(), expected: M::url() });
    }
    Ok(M::from_bytes(&any.value)?)
}

/// The same, after the checks that a file goes through: refused fields and broken rules are errors.
pub fn decode_any_checked<M: Resource>(any: &Any) -> Result<M, AnyError> {
    let name = type_name(&any.type_url);
    let descriptor = schema::message(name).ok_or_else(|| AnyError::Unknown(name.to_owned()))?;
    let found = crate::read::check_message(&DynamicMessage::decode(descriptor, any.value.as_slice())?);
    if found.is_empty() { decode_any(any) } else { Err(AnyError::Refused(found)) }
}

/// The resources of a response, all of one type, after the checks that a file goes through.
pub fn resources<M: Resource>(response: &DiscoveryResponse) -> Result<Vec<M>, AnyError> {
    response.resources.iter().map(decode_any_checked).collect()
}

/// A message packed in an Any.
pub fn pack<M: Resource>(message: &M) -> Any {
    Any { type_url: M::url(), value: message.to_bytes() }
}

fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

fn bytes_to_json(full_name: &str, bytes: &[u8]) -> Value {
    let empty = || Value::Object(serde_json::Map::new());
    let Some(descriptor) = schema::message(full_name) else { return empty() };
    let Ok(message) = DynamicMessage::decode(descriptor, bytes) else { return empty() };
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    json.map_or_else(|_| empty(), whole_numbers)
}

/// `20.0` as `20`, because in YAML `20.0` is a text to whoever reads a free value.
fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
                Value::from(float as i64)
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, whole_numbers(value))).collect(),
        other => other,
    }
}
