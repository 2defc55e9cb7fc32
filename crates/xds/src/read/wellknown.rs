//! Google's well-known messages, which JSON writes in a form of their own: Any, Duration, Struct, wrappers.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, Value};

use super::convert::Converter;
use super::nearest::nearest;
use super::path::Path;
use super::tree::{Kind, Node, Plain};
use super::{encode, scalar};
use crate::diagnostic::Code;
use crate::{extensions, schema};

/// Longest duration of protobuf, in seconds.
const MAX_SECONDS: i64 = 315_576_000_000;

/// A well-known message; the outer `None` says that it is none of them.
pub(crate) fn message(
    converter: &mut Converter<'_>,
    descriptor: &MessageDescriptor,
    node: &mut Node,
    path: &Path<'_>,
) -> Option<Option<DynamicMessage>> {
    let name = descriptor.full_name().strip_prefix("google.protobuf.")?;
    let mut message = DynamicMessage::new(descriptor.clone());
    match name {
        "Any" => Some(any(converter, message, node, path)),
        // Envoy reads `{seconds: 1}` as well as `1s`.
        "Duration" if matches!(node.kind, Kind::Map(_)) => None,
        "Duration" => Some(match duration(node) {
            Ok((seconds, nanos)) => {
                message.set_field_by_name("seconds", Value::I64(seconds));
                message.set_field_by_name("nanos", Value::I32(nanos));
                Some(message)
            }
            Err(suggestion) => {
                let text = format!("found {}", scalar::describe(node));
                let mut finding = converter.error(Code::BadValue, text, node.span, path);
                finding.suggestion = suggestion.map(|right| format!("did you mean `{right}`?"));
                converter.push(finding.expected("a duration in seconds, as `0.5s` or `10s`"));
                None
            }
        }),
        "Struct" => Some(match &node.kind {
            Kind::Map(_) => Some(structure(message, node)),
            _ => {
                converter.wrong_type(node, path, "a mapping");
                None
            }
        }),
        "Value" => Some(Some(value(message, node))),
        "ListValue" => Some(Some(list(message, node))),
        _ if name.ends_with("Value") => Some({
            let inner = descriptor.get_field_by_name("value")?;
            // Envoy reads `{value: 5}` as well as `5`.
            let node = match &mut node.kind {
                Kind::Map(entries)
                    if entries.is_empty()
                        || entries.len() == 1 && entries[0].name == "value" && entries[0].value.is_null() =>
                {
                    return Some(Some(message));
                }
                Kind::Map(entries) if entries.len() == 1 && entries[0].name == "value" => {
                    &mut entries[0].value
                }
                _ => node,
            };
            converter.value(&inner.kind(), node, path).map(|value| {
                message.set_field(&inner, value);
                message
            })
        }),
        _ => None,
    }
}

/// A message of any type, which `@type` names.
fn any(
    converter: &mut Converter<'_>,
    mut message: DynamicMessage,
    node: &mut Node,
    path: &Path<'_>,
) -> Option<DynamicMessage> {
    if !matches!(node.kind, Kind::Map(_)) {
        converter.wrong_type(node, path, "a mapping with `@type`");
        return None;
    }
    let Some((type_url, span)) =
        node.get("@type").and_then(|entry| Some((node.get_text("@type")?.to_owned(), entry.value.span)))
    else {
        if matches!(&node.kind, Kind::Map(entries) if entries.is_empty()) {
            return Some(message);
        }
        let finding =
            converter.error(Code::MissingField, "`@type` is missing: it says what this is", node.span, path);
        converter.push(finding.expected("`\"@type\": type.googleapis.com/envoy.…`"));
        return None;
    };
    // As in Envoy, the name of the type stands behind a host, whichever it is.
    let full_name = type_url.rsplit_once('/').filter(|(host, _)| !host.is_empty());
    let full_name = full_name.map_or(type_url.as_str(), |(_, name)| name);
    let known = schema::message(full_name).filter(|_| full_name != "petmesh.Opaque");
    let Some(inner) = known.filter(|_| full_name.len() < type_url.len()) else {
        unknown_type(converter, &type_url, full_name, span, &path.key("@type"));
        return None;
    };
    let Kind::Map(entries) = &mut node.kind else { return None };
    let (kept, others): (Vec<_>, Vec<_>) =
        std::mem::take(entries).into_iter().partition(|e| e.name == "@type");
    *entries = others;
    let read = if inner.full_name().starts_with("google.protobuf.") {
        // Well-known types stand under `value`.
        match entries.iter_mut().find(|entry| entry.name == "value") {
            Some(entry) => converter.message(&inner, &mut entry.value, &path.key("value")),
            None => converter.message(&inner, node, path),
        }
    } else {
        converter.message(&inner, node, path)
    };
    restore_type(node, kept);
    message.set_field_by_name("type_url", Value::String(format!("type.googleapis.com/{full_name}")));
    message.set_field_by_name("value", Value::Bytes(encode::message(&read?).into()));
    Some(message)
}

/// Puts `@type` back, so that its place can be found later.
fn restore_type(node: &mut Node, kept: Vec<super::tree::Entry>) {
    if let Kind::Map(entries) = &mut node.kind {
        entries.extend(kept);
    }
}

fn unknown_type(
    converter: &mut Converter<'_>,
    type_url: &str,
    full_name: &str,
    span: super::tree::Span,
    path: &Path<'_>,
) {
    // What petmesh has, or what has no host, is misspelt.
    let whole = full_name.len() < type_url.len() && schema::message(full_name).is_none();
    if whole && extensions::is_type(full_name) {
        let text = format!("`{full_name}` is an extension of Envoy that petmesh does not implement");
        return converter.push(converter.error(Code::NotImplemented, text, span, path));
    }
    let pool = schema::pool();
    let names: Vec<_> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
    let types: Vec<&str> = extensions::types().collect();
    let near = nearest(full_name, names.iter().map(String::as_str).chain(types));
    let text = format!("unknown type `{}`", scalar::shown(type_url));
    let finding = converter.error(Code::UnknownType, text, span, path);
    let finding = match near {
        Some(near) => finding.suggestion(format!("did you mean `type.googleapis.com/{near}`?")),
        None => finding.expected("type.googleapis.com/ and the full name of a message of Envoy"),
    };
    converter.push(finding);
}

/// Seconds and nanoseconds of `1.5s`; an error carries what was probably meant.
fn duration(node: &Node) -> Result<(i64, i32), Option<String>> {
    let Kind::Scalar(scalar) = &node.kind else { return Err(None) };
    let text = scalar.text.as_str();
    let parsed = text.strip_suffix('s').and_then(seconds);
    parsed.ok_or_else(|| meant(text))
}

fn seconds(text: &str) -> Option<(i64, i32)> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole: i64 = whole.parse().ok().filter(|whole| *whole <= MAX_SECONDS)?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some(if negative { (-whole, -nanos) } else { (whole, nanos) })
}

/// The right form of `500ms`, `0.5` or `5m`.
fn meant(text: &str) -> Option<String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    let factor = match text[split..].trim() {
        "" | "sec" | "seconds" => 1.0,
        "ms" => 0.001,
        "us" => 0.000_001,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(format!("{}s", (number * factor * 1e9).round() / 1e9))
}

fn structure(mut message: DynamicMessage, node: &Node) -> DynamicMessage {
    let mut fields = HashMap::new();
    if let Kind::Map(entries) = &node.kind {
        for entry in entries {
            if let Some(inner) = schema::message("google.protobuf.Value") {
                let read = value(DynamicMessage::new(inner), &entry.value);
                fields.insert(MapKey::String(entry.name.clone()), Value::Message(read));
            }
        }
    }
    message.set_field_by_name("fields", Value::Map(fields));
    message
}

fn list(mut message: DynamicMessage, node: &Node) -> DynamicMessage {
    let items = match &node.kind {
        Kind::List(items) => items.as_slice(),
        Kind::Scalar(_) | Kind::Map(_) => std::slice::from_ref(node),
    };
    let inner = schema::message("google.protobuf.Value");
    let values = items.iter().filter_map(|item| {
        inner.clone().map(|inner| Value::Message(value(DynamicMessage::new(inner), item)))
    });
    message.set_field_by_name("values", Value::List(values.collect()));
    message
}

fn value(mut message: DynamicMessage, node: &Node) -> DynamicMessage {
    let inner = |name: &str| schema::message(name).map(DynamicMessage::new);
    match &node.kind {
        Kind::Scalar(scalar) => match scalar.plain() {
            Plain::Null => message.set_field_by_name("null_value", Value::EnumNumber(0)),
            Plain::Bool(value) => message.set_field_by_name("bool_value", Value::Bool(value)),
            Plain::Int(value) => message.set_field_by_name("number_value", Value::F64(value as f64)),
            Plain::Text => message.set_field_by_name("string_value", Value::String(scalar.text.clone())),
        },
        Kind::List(_) => {
            if let Some(empty) = inner("google.protobuf.ListValue") {
                message.set_field_by_name("list_value", Value::Message(list(empty, node)));
            }
        }
        Kind::Map(_) => {
            if let Some(empty) = inner("google.protobuf.Struct") {
                message.set_field_by_name("struct_value", Value::Message(structure(empty, node)));
            }
        }
    }
    message
}
