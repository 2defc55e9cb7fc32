//! Runtime values of the file: the layers of `layered_runtime`, flattened to dotted keys.
//!
//! Values are looked up when the graph is built.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use xds::envoy::config::bootstrap::v3::LayeredRuntime;
use xds::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;

/// Keys with their numbers; a later layer wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runtime(BTreeMap<String, f64>);

impl Runtime {
    /// `overrides` are what the admin layer holds; without one in the file they have no place.
    pub(crate) fn new(layers: Option<&LayeredRuntime>, overrides: &[(String, String)]) -> Self {
        let mut values = BTreeMap::new();
        for layer in layers.into_iter().flat_map(|layers| &layers.layers) {
            match &layer.layer_specifier {
                Some(LayerSpecifier::StaticLayer(root)) => flatten("", root, &mut values),
                Some(LayerSpecifier::AdminLayer(_)) => {
                    let numbers =
                        overrides.iter().filter_map(|(key, text)| Some((key.clone(), text.parse().ok()?)));
                    values.extend(numbers);
                }
                _ => {}
            }
        }
        Self(values)
    }

    /// The number under a key.
    pub(crate) fn double(&self, key: &str) -> Option<f64> {
        self.0.get(key).copied()
    }

    /// The whole number under a key.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded just before
    pub(crate) fn number(&self, key: &str) -> Option<u32> {
        let value = *self.0.get(key)?;
        (0.0..=f64::from(u32::MAX)).contains(&value).then_some(value as u32)
    }

    /// The whole numbers whose keys begin like this.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded just before
    pub(crate) fn below(&self, prefix: &str) -> BTreeMap<String, u64> {
        let all = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
        let whole = all.filter(|(_, value)| (0.0..=f64::from(u32::MAX)).contains(*value));
        whole.map(|(key, value)| (key.clone(), *value as u64)).collect()
    }
}

fn flatten(prefix: &str, from: &prost_types::Struct, values: &mut BTreeMap<String, f64>) {
    for (name, value) in &from.fields {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &value.kind {
            Some(Kind::StructValue(inner)) => flatten(&key, inner, values),
            Some(Kind::BoolValue(value)) => {
                values.insert(key, f64::from(u8::from(*value)));
            }
            Some(Kind::NumberValue(number)) => {
                values.insert(key, *number);
            }
            Some(Kind::StringValue(text)) => {
                values.extend(text.parse().ok().map(|number| (key, number)));
            }
            _ => {}
        }
    }
}
