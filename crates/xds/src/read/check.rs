//! The rules of one message: required fields, ranges, lengths, forms, one of several fields.
//!
//! Pure.

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};

use crate::diagnostic::Code;
use crate::schema::{self, Bounds, TextRule};

/// Longest duration that Envoy computes with, in seconds.
const MAX_DURATION: i64 = 9_223_372_035;

/// A rule that a message breaks.
pub(crate) struct Violation {
    /// The field, or none when it is about the whole message.
    pub(crate) field: Option<FieldDescriptor>,
    /// The fields of which one would do.
    pub(crate) choices: Vec<FieldDescriptor>,
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) expected: String,
}

/// Every rule that this message breaks; messages inside are checked by themselves.
pub(crate) fn message(message: &DynamicMessage) -> Vec<Violation> {
    let descriptor = message.descriptor();
    let marks = schema::marks(&descriptor);
    let mut found = Vec::new();
    for oneof in &marks.required_oneofs {
        let Some(oneof) = descriptor.oneofs().nth(*oneof) else { continue };
        if !oneof.fields().any(|field| message.has_field(&field)) {
            let implemented = oneof
                .fields()
                .filter(|field| !matches!(marks.field(field.number()).status, schema::Status::Refused(_)));
            let names: Vec<_> = implemented.map(|field| format!("`{}`", field.name())).collect();
            let text = format!("{} says none of the things of which it needs one", descriptor.name());
            let choices = oneof.fields().collect();
            let missing = violation(None, Code::MissingField, text, format!("one of {}", names.join(", ")));
            found.push(Violation { choices, ..missing });
        }
    }
    for field in &marks.checked {
        let present = message.has_field(field);
        if present && let Some(text) = duration(message, field) {
            let expected = format!("a duration from 0s to {MAX_DURATION}s");
            found.push(violation(Some(field.clone()), Code::BadValue, text, expected));
            continue;
        }
        let Some(bounds) = &marks.field(field.number()).bounds else { continue };
        if let Some((code, text, expected)) = broken(bounds, field, present, &message.get_field(field)) {
            found.push(violation(Some(field.clone()), code, text, expected));
        }
    }
    found
}

/// A duration that Envoy refuses wherever one stands: it may not be negative nor longer than 64 bits of nanoseconds.
fn duration(message: &DynamicMessage, field: &FieldDescriptor) -> Option<String> {
    let is_duration = field.kind().as_message().is_some_and(|m| m.full_name() == "google.protobuf.Duration");
    if !is_duration || field.is_list() {
        return None;
    }
    let value = message.get_field(field);
    let inner = value.as_message()?;
    let seconds = inner.get_field_by_name("seconds")?.as_i64()?;
    let nanos = inner.get_field_by_name("nanos")?.as_i32()?;
    let allowed = (0..=MAX_DURATION).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    let shown = seconds as f64 + f64::from(nanos) / 1e9;
    (!allowed).then(|| format!("`{shown}s` is not allowed here"))
}

fn violation(field: Option<FieldDescriptor>, code: Code, message: String, expected: String) -> Violation {
    Violation { field, choices: Vec::new(), code, message, expected }
}

type Broken = (Code, String, String);

fn broken(bounds: &Bounds, field: &FieldDescriptor, present: bool, value: &Value) -> Option<Broken> {
    let missing = || (Code::MissingField, format!("`{}` is missing", field.name()));
    if !present {
        let optional = field.containing_oneof().is_some() || field.supports_presence() && !bounds.required;
        if optional || field.is_map() {
            return None;
        }
        let needed = bounds.required
            || bounds.min_len.is_some_and(|n| n > 0) && !field.is_list()
            || bounds.min_items.is_some_and(|n| n > 0);
        if needed {
            let (code, text) = missing();
            return Some((code, text, format!("`{}`", field.name())));
        }
        if field.is_list() || bounds.text != TextRule::Any {
            return None;
        }
    }
    if let Value::List(items) = value {
        return list(bounds, field, items)
            .or_else(|| items.iter().find_map(|item| one(bounds, &field.kind(), item)));
    }
    one(bounds, &field.kind(), value)
}

fn list(bounds: &Bounds, field: &FieldDescriptor, items: &[Value]) -> Option<Broken> {
    let count = items.len() as u64;
    let wrong = |expected| {
        let text = format!("`{}` has {count} entries", field.name());
        Some((Code::BadValue, text, expected))
    };
    if let Some(min) = bounds.min_items.filter(|min| count < *min) {
        return wrong(format!("at least {min}"));
    }
    if let Some(max) = bounds.max_items.filter(|max| count > *max) {
        return wrong(format!("at most {max}"));
    }
    let mut seen = HashSet::new();
    if bounds.unique && !items.iter().all(|item| seen.insert(format!("{item:?}"))) {
        let text = format!("`{}` holds the same entry twice", field.name());
        return Some((Code::BadValue, text, "each entry once".to_owned()));
    }
    None
}

/// One value, an item of a list among them.
fn one(bounds: &Bounds, kind: &Kind, value: &Value) -> Option<Broken> {
    match value {
        Value::String(text) => self::text(bounds, text),
        Value::Bytes(bytes) => length(bounds, bytes.len() as u64, "bytes"),
        Value::Bool(false) if bounds.is_true => {
            Some((Code::BadValue, "`false` is not allowed here".to_owned(), "true".to_owned()))
        }
        Value::Message(inner) => match kind.as_message()?.full_name() {
            "google.protobuf.Duration" => {
                let part = |name| inner.get_field_by_name(name).and_then(|v| number(&v)).unwrap_or_default();
                let seconds = part("seconds") + part("nanos") / 1e9;
                range(bounds, seconds, "s")
            }
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                let value = inner.get_field_by_name("value")?;
                one(bounds, kind, &value)
            }
            _ => None,
        },
        value => range(bounds, number(value)?, ""),
    }
}

fn text(bounds: &Bounds, text: &str) -> Option<Broken> {
    let wrong = |expected: &str| {
        let text = format!("`{}` is not allowed here", super::scalar::shown(text));
        Some((Code::BadValue, text, expected.to_owned()))
    };
    if let Some(found) = length(bounds, text.len() as u64, "characters") {
        return Some(found);
    }
    if !bounds.one_of_text.is_empty() && !bounds.one_of_text.iter().any(|allowed| allowed == text) {
        return wrong(&format!("one of {}", bounds.one_of_text.join(", ")));
    }
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_|~`".contains(c);
    match bounds.text {
        TextRule::HeaderName if !text.strip_prefix(':').unwrap_or(text).chars().all(token) => {
            wrong("a header name")
        }
        TextRule::HeaderValue if text.chars().any(|c| c.is_control() && c != '\t') => {
            wrong("a header value without control characters")
        }
        TextRule::HeaderSafe if text.contains(['\0', '\r', '\n']) => wrong("a text without NUL, CR and LF"),
        TextRule::PathPrefix if text.len() < 2 || text.contains(['?', '#']) || text.ends_with('/') => {
            wrong("a path without `?` and `#` that does not end with `/`")
        }
        _ => None,
    }
}

fn length(bounds: &Bounds, length: u64, unit: &str) -> Option<Broken> {
    let text = if length == 0 { "found an empty text".to_owned() } else { format!("found {length} {unit}") };
    if let Some(min) = bounds.min_len.filter(|min| length < *min) {
        return Some((Code::BadValue, text, format!("at least {min} {unit}")));
    }
    let max = bounds.max_len.filter(|max| length > *max)?;
    Some((Code::BadValue, text, format!("at most {max} {unit}")))
}

fn range(bounds: &Bounds, value: f64, unit: &str) -> Option<Broken> {
    let rules = [
        (bounds.gt, value > bounds.gt.unwrap_or_default(), "greater than"),
        (bounds.gte, value >= bounds.gte.unwrap_or_default(), "at least"),
        (bounds.lt, value < bounds.lt.unwrap_or_default(), "less than"),
        (bounds.lte, value <= bounds.lte.unwrap_or_default(), "at most"),
    ];
    let one_of = bounds.one_of.is_empty() || bounds.one_of.contains(&value);
    if one_of && rules.iter().all(|(bound, kept, _)| bound.is_none() || *kept) {
        return None;
    }
    let rules = rules.iter().filter_map(|(bound, _, words)| Some(format!("{words} {}{unit}", (*bound)?)));
    let mut expected = rules.collect::<Vec<_>>().join(" and ");
    if !one_of {
        let values: Vec<_> = bounds.one_of.iter().map(f64::to_string).collect();
        expected = format!("one of {}", values.join(", "));
    }
    Some((Code::BadValue, format!("`{value}{unit}` is not allowed here"), expected))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::I32(v) => Some((*v).into()),
        Value::I64(v) => Some(*v as f64),
        Value::U32(v) => Some((*v).into()),
        Value::U64(v) => Some(*v as f64),
        Value::F32(v) => Some((*v).into()),
        Value::F64(v) => Some(*v),
        _ => None,
    }
}
