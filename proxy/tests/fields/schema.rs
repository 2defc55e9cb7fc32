//! Places in a file: the value there, and which of Envoy's messages it is.

use prost_reflect::{Kind, MessageDescriptor};
use serde_json::Value;

/// The steps of a place: `static_resources.clusters.0`, or `a.[key.with.dots].b`.
fn steps(at: &str) -> Vec<&str> {
    let (mut steps, mut rest) = (Vec::new(), at);
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((key, after)) => (key, after.trim_start_matches('.')),
            None => rest.split_once('.').unwrap_or((rest, "")),
        };
        steps.push(step);
        rest = after;
    }
    steps
}

fn step<'v>(value: &'v Value, step: &str) -> Option<&'v Value> {
    match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    }
}

/// The value at a place.
pub fn value_at<'v>(root: &'v mut Value, at: &str) -> Result<&'v mut Value, String> {
    let mut value = root;
    for step in steps(at) {
        let next = match value {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get_mut(at)),
            other => other.get_mut(step),
        };
        value = next.ok_or_else(|| format!("the base has no `{step}` on the way to `{at}`"))?;
    }
    Ok(value)
}

/// The message that a place of a bootstrap holds.
pub fn message_at(root: &Value, at: &str) -> Result<MessageDescriptor, String> {
    let named = |name: &str| xds::message_descriptor(name).ok_or_else(|| format!("there is no `{name}`"));
    let mut message = named("envoy.config.bootstrap.v3.Bootstrap")?;
    let (mut value, mut kind) = (root, None);
    for name in steps(at) {
        value = step(value, name).ok_or_else(|| format!("the base has no `{name}` on the way to `{at}`"))?;
        if let Some(inside) = kind.take() {
            // The entry of a list or a map.
            message = inside;
        } else {
            let field = message
                .get_field_by_name(name)
                .ok_or_else(|| format!("{} has no `{name}` on the way to `{at}`", message.full_name()))?;
            let held = match field.kind() {
                Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
                    Kind::Message(value) => value,
                    _ => return Err(format!("`{name}` is no message")),
                },
                Kind::Message(held) => held,
                _ => return Err(format!("`{name}` is no message")),
            };
            if field.is_list() || field.is_map() {
                kind = Some(held);
                continue;
            }
            message = held;
        }
        if message.full_name() == "google.protobuf.Any" {
            let url = value.get("@type").and_then(Value::as_str).unwrap_or_default();
            message = named(url.rsplit('/').next().unwrap_or_default())?;
        }
    }
    Ok(message)
}
