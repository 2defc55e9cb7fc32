//! Settings laid over a configuration. The messages are known, so that one of several that exclude each other takes the
//! place of the others.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

/// The steps of a place: keys with dots stand in brackets.
pub fn steps(at: &str) -> impl Iterator<Item = &str> {
    let mut rest = at;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (step, after) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((key, after)) => (key, after.trim_start_matches('.')),
            None => rest.split_once('.').unwrap_or((rest, "")),
        };
        rest = after;
        Some(step)
    })
}

/// What a value is: a message, a map or list of them, or something that has no fields of its own.
#[derive(Clone)]
struct Type(Option<(MessageDescriptor, bool)>);

impl Type {
    fn of_bootstrap() -> Self {
        let bootstrap = xds::message_descriptor("envoy.config.bootstrap.v3.Bootstrap");
        Self(bootstrap.map(|message| (message, false)))
    }

    /// Of a value under a key. `value` says which message an `Any` holds.
    fn under(&self, key: &str, value: &Value) -> Self {
        let Some((message, is_map)) = &self.0 else { return Self(None) };
        if *is_map {
            return Self::of_value(message.clone(), value);
        }
        match message.get_field_by_name(key) {
            Some(field) => Self::of_field(&field, value),
            None => Self(None),
        }
    }

    fn of_field(field: &FieldDescriptor, value: &Value) -> Self {
        let Kind::Message(message) = field.kind() else { return Self(None) };
        if field.is_map() {
            let Kind::Message(inner) = message.map_entry_value_field().kind() else { return Self(None) };
            return Self(Some((inner, true)));
        }
        Self::of_value(message, value)
    }

    fn of_value(message: MessageDescriptor, value: &Value) -> Self {
        if message.full_name() != "google.protobuf.Any" {
            return Self(Some((message, false)));
        }
        let name = value.get("@type").and_then(Value::as_str).and_then(|url| url.rsplit('/').next());
        Self(name.and_then(xds::message_descriptor).map(|message| (message, false)))
    }

    /// The fields that cannot stand beside this one.
    fn excluded_by(&self, key: &str) -> Vec<String> {
        let Some((message, false)) = &self.0 else { return Vec::new() };
        let of = message.get_field_by_name(key).and_then(|field| field.containing_oneof());
        let fields = of.iter().flat_map(prost_reflect::OneofDescriptor::fields);
        fields.map(|field| field.name().to_owned()).filter(|name| name != key).collect()
    }
}

/// Lays a value over a place; false if the place is not there.
pub fn lay_at(tree: &mut Value, at: &str, over: &Value) -> bool {
    let (mut place, mut kind) = (tree, Type::of_bootstrap());
    for step in steps(at) {
        let next = match place {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|at| items.get_mut(at)),
            Value::Object(fields) => fields.get_mut(step),
            _ => None,
        };
        let Some(next) = next else { return false };
        let of_list = step.parse::<usize>().is_ok();
        kind = if of_list { kind.of_item(next) } else { kind.under(step, next) };
        place = next;
    }
    lay(place, over, &kind);
    true
}

impl Type {
    /// Of an item of a list: the field's type, once more for an `Any`.
    fn of_item(&self, value: &Value) -> Self {
        match &self.0 {
            Some((message, false)) => Self::of_value(message.clone(), value),
            _ => self.clone(),
        }
    }
}

/// Lays a value over another of which nothing is known.
pub fn lay_over(under: &mut Value, over: &Value) {
    lay(under, over, &Type(None));
}

fn lay(under: &mut Value, over: &Value, kind: &Type) {
    let Value::Object(over) = over else {
        over.clone_into(under);
        return;
    };
    let other_message = |under: &Map<String, Value>| matches!((under.get("@type"), over.get("@type")), (Some(a), Some(b)) if a != b);
    let keeps = under.as_object().is_some_and(|under| !other_message(under));
    if !keeps {
        *under = Value::Object(Map::new());
    }
    let Value::Object(under) = under else { return };
    // An `Any` says what it is when it is new.
    let type_url = under.get("@type").or(over.get("@type")).and_then(Value::as_str);
    let message = type_url.and_then(|url| url.rsplit('/').next()).and_then(xds::message_descriptor);
    let kind = &message.map_or(kind.clone(), |message| Type(Some((message, false))));
    for (key, value) in over {
        if value.is_null() {
            under.remove(key);
            continue;
        }
        for other in kind.excluded_by(key) {
            under.remove(&other);
        }
        let inner = kind.under(key, value);
        lay(under.entry(key.clone()).or_insert(Value::Null), value, &inner);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree() -> Value {
        let manager = "type.googleapis.com/envoy.extensions.filters.network.\
                       http_connection_manager.v3.HttpConnectionManager";
        json!({ "static_resources": { "listeners": [{ "filter_chains": [{ "filters": [{
            "name": "http",
            "typed_config": { "@type": manager, "stat_prefix": "a", "route_config": { "virtual_hosts": [
                { "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "pet" } }] },
            ] } },
        }] }] }] } })
    }

    const CONFIG: &str = "static_resources.listeners.0.filter_chains.0.filters.0.typed_config";

    #[test]
    fn one_of_several_takes_the_place_of_the_others() {
        let mut tree = tree();
        let route = format!("{CONFIG}.route_config.virtual_hosts.0.routes.0");
        let over = json!({ "match": { "path": "/a" }, "redirect": { "https_redirect": true } });
        assert!(lay_at(&mut tree, &route, &over));
        let pointer = format!("/{}", route.replace('.', "/"));
        assert_eq!(tree.pointer(&pointer), Some(&over));
    }

    #[test]
    fn what_does_not_exclude_stays_and_null_takes_away() {
        let mut tree = tree();
        assert!(lay_at(&mut tree, CONFIG, &json!({ "via": "x", "stat_prefix": null })));
        let config = tree.pointer(&format!("/{}", CONFIG.replace('.', "/"))).unwrap();
        assert_eq!((&config["via"], config.get("stat_prefix")), (&json!("x"), None));
        assert!(config.get("route_config").is_some());
    }

    #[test]
    fn another_message_takes_nothing_over() {
        let mut tree = tree();
        let other =
            json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" });
        assert!(lay_at(&mut tree, CONFIG, &other));
        assert_eq!(tree.pointer(&format!("/{}", CONFIG.replace('.', "/"))), Some(&other));
    }

    #[test]
    fn a_place_that_is_not_there_is_said() {
        assert!(!lay_at(&mut tree(), "static_resources.clusters.0", &json!({})));
    }
}
