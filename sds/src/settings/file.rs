//! The settings file as dotted keys and texts.
//!
//! `kubernetes: {api: {host: X}}`, `kubernetes.api: {host: X}` and `kubernetes.api.host: X` are the
//! same.

use std::collections::BTreeMap;

use serde_json::Value;

/// Settings are a few lines; this stops a wrong file early.
const LARGEST: u64 = 1 << 20;

/// Reads `path`; the error says what is wrong, without the file's name.
pub(super) fn read(path: &str) -> Result<BTreeMap<String, String>, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if size > LARGEST {
        return Err(format!("is larger than {LARGEST} bytes; is it the settings file?"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    parse(&text)
}

pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut settings = BTreeMap::new();
    if text.trim().is_empty() {
        return Ok(settings);
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
    flatten("", value, &mut settings)?;
    Ok(settings)
}

fn flatten(key: &str, value: Value, settings: &mut BTreeMap<String, String>) -> Result<(), String> {
    let text = match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(&key, value, settings)?;
            }
            return Ok(());
        }
        // `kubernetes:` with nothing below is nothing said.
        Value::Null => return Ok(()),
        Value::Array(_) => return Err(format!("has a list at `{key}`; give one value")),
        Value::String(text) => text,
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
    };
    if key.is_empty() {
        return Err("holds no keys; expected `kubernetes.namespace: …` and the like".to_owned());
    }
    match settings.insert(key.to_owned(), text) {
        None => Ok(()),
        Some(_) => Err(format!("gives `{key}` twice; keep one")),
    }
}
