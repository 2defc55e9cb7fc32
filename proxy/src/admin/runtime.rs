//! `/runtime` and `/runtime_modify`: the layers of the file, and the overrides that were made here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::AdminContext;
use super::accepted::Accepted;
use super::page::{Page, Params};

const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\n\
                     use an empty value to remove a previously added override";

/// The admin layer's values.
#[derive(Debug, Default)]
pub(super) struct Overrides(Mutex<BTreeMap<String, String>>);

/// A layer: its name, and its values unless it is the admin layer.
struct Layer {
    name: String,
    admin: bool,
    values: BTreeMap<String, String>,
}

impl Overrides {
    pub(super) fn page(&self, context: &AdminContext) -> Page {
        let overrides = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = layers(&context.accepted.borrow());
        let mut columns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let values = |layer: &'_ Layer| -> Vec<(String, String)> {
            let values = if layer.admin { &*overrides } else { &layer.values };
            values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let all: Vec<Vec<(String, String)>> = layers.iter().map(values).collect();
        for (at, column) in all.iter().enumerate() {
            for (key, value) in column {
                let row = columns.entry(key).or_insert_with(|| vec![""; layers.len()]);
                if let Some(cell) = row.get_mut(at) {
                    *cell = value;
                }
            }
        }
        let entries: serde_json::Map<String, Value> = columns
            .into_iter()
            .map(|(key, row)| {
                let last = row.iter().rev().find(|value| !value.is_empty()).copied().unwrap_or_default();
                (key.to_owned(), json!({"final_value": last, "layer_values": row}))
            })
            .collect();
        let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
        Page::json(&json!({"layers": names, "entries": entries}))
    }

    /// Changes the overrides; returns them all.
    pub(super) fn modify(
        &self,
        context: &AdminContext,
        params: &Params,
    ) -> Result<Vec<(String, String)>, Page> {
        const MAX: usize = 1_000;
        if params.all().is_empty() {
            return Err(Page::error(400, USAGE));
        }
        if !layers(&context.accepted.borrow()).iter().any(|layer| layer.admin) {
            return Err(Page::error(503, "No admin layer specified"));
        }
        let mut overrides = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if overrides.len() + params.all().len() > MAX {
            return Err(Page::error(503, format!("No more than {MAX} overrides are kept")));
        }
        for (key, value) in params.all() {
            if value.is_empty() {
                overrides.remove(key);
            } else {
                overrides.insert(key.clone(), value.clone());
            }
        }
        Ok(overrides.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

fn layers(accepted: &Accepted) -> Vec<Layer> {
    let bootstrap = xds::to_json(&accepted.bootstrap.unpack());
    let layers =
        bootstrap.pointer("/layered_runtime/layers").and_then(Value::as_array).cloned().unwrap_or_default();
    let made = layers.iter().map(|layer| {
        let mut values = BTreeMap::new();
        if let Some(fields) = layer.get("static_layer") {
            flatten("", fields, &mut values);
        }
        let name = layer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Layer { name, admin: layer.get("admin_layer").is_some(), values }
    });
    made.collect()
}

/// Nested keys become dotted ones.
fn flatten(prefix: &str, value: &Value, values: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, values);
            }
        }
        Value::String(text) => {
            values.insert(prefix.to_owned(), text.clone());
        }
        other => {
            values.insert(prefix.to_owned(), other.to_string());
        }
    }
}
