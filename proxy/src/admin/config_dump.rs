//! `/config_dump`: the configuration in force, as the messages it was read from.
//!
//! Part of `admin`; calls `snapshot::accepted` and `xds`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use regex::Regex;
use serde_json::{Map, Value, json};
use xds::envoy::config::bootstrap::v3::Bootstrap;

use super::AdminContext;
use super::page::{Page, Params};
use crate::snapshot::accepted::{Accepted, DynamicResource, Standing};
use crate::time::Utc;

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";
const HTTP_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A part of the dump: its message, and its lists with the type of their elements.
struct Part {
    message: &'static str,
    lists: &'static [(&'static str, &'static str)],
    /// Fields that are not lists.
    fields: &'static [&'static str],
}

const PARTS: [Part; 7] = [
    Part {
        message: "BootstrapConfigDump",
        lists: &[],
        fields: &["bootstrap", "last_updated", "error_state"],
    },
    Part {
        message: "ClustersConfigDump",
        lists: &[
            ("static_clusters", "StaticCluster"),
            ("dynamic_active_clusters", "DynamicCluster"),
            ("dynamic_warming_clusters", "DynamicCluster"),
        ],
        fields: &["version_info"],
    },
    Part {
        message: "ListenersConfigDump",
        lists: &[("static_listeners", "StaticListener"), ("dynamic_listeners", "DynamicListener")],
        fields: &["version_info"],
    },
    Part { message: "ScopedRoutesConfigDump", lists: &[], fields: &[] },
    Part {
        message: "RoutesConfigDump",
        lists: &[
            ("static_route_configs", "StaticRouteConfig"),
            ("dynamic_route_configs", "DynamicRouteConfig"),
        ],
        fields: &[],
    },
    Part {
        message: "SecretsConfigDump",
        lists: &[
            ("static_secrets", "StaticSecret"),
            ("dynamic_active_secrets", "DynamicSecret"),
            ("dynamic_warming_secrets", "DynamicSecret"),
        ],
        fields: &[],
    },
    Part {
        message: "EndpointsConfigDump",
        lists: &[
            ("static_endpoint_configs", "StaticEndpointConfig"),
            ("dynamic_endpoint_configs", "DynamicEndpointConfig"),
        ],
        fields: &[],
    },
];

pub(super) fn page(context: &AdminContext, params: &Params) -> Page {
    // Envoy leaves the character set out in these errors.
    let refused = |status, text: String| Page { content_type: "text/plain", ..Page::error(status, text) };
    let filter = match params.get("name_regex").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match super::stats::regex(&format!("^(?:{text})$")) {
            Ok(filter) => Some(filter),
            Err(_) => {
                return refused(400, format!("INVALID_ARGUMENT: Error while parsing name_regex from {text}"));
            }
        },
    };
    let accepted = context.accepted.borrow().clone();
    let lists = lists(&accepted, filter.as_ref());
    let mask: Vec<&str> = params.get("mask").map(|mask| mask.split(',').collect()).unwrap_or_default();
    let shown = match params.get("resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => one_list(resource, &lists, &mask),
        None => whole(context, &accepted, &lists, &mask, params.has("include_eds")),
    };
    match shown {
        Ok(configs) if configs.is_empty() => Page::json(&json!({})),
        Ok(configs) => Page::json(&json!({ "configs": configs })),
        Err((status, text)) => refused(status, text),
    }
}

type Lists = BTreeMap<&'static str, Vec<Value>>;

/// The elements of one list.
fn one_list(resource: &str, lists: &Lists, mask: &[&str]) -> Result<Vec<Value>, (u16, String)> {
    let known = PARTS.iter().find_map(|part| {
        let list = part.lists.iter().find(|(name, _)| *name == resource)?;
        Some((part.message, list.1))
    });
    let Some((message, element)) = known else {
        let field = PARTS.iter().any(|part| part.fields.contains(&resource));
        return Err(if field {
            (400, format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field"))
        } else {
            (404, format!("{resource} not found in config dump"))
        });
    };
    let of_list = lists.get(resource).into_iter().flatten();
    let masked = of_list.map(|value| if mask.is_empty() { value.clone() } else { masked(value, mask) });
    let with_type = |mut value: Value| {
        if let Some(fields) = value.as_object_mut() {
            fields.insert("@type".to_owned(), format!("{ADMIN}{message}.{element}").into());
        }
        value
    };
    let configs: Vec<_> = masked.map(with_type).collect();
    // Each element has its type; one with nothing else has none of the mask's fields.
    let empty = |value: &Value| value.as_object().is_none_or(|fields| fields.len() < 2);
    if !mask.is_empty() && !configs.is_empty() && configs.iter().all(empty) {
        return Err((400, format!("FieldMask paths: {mask:?} could not be successfully used.")));
    }
    Ok(configs)
}

/// Every part, or with a mask those that have one of its fields.
fn whole(
    context: &AdminContext,
    accepted: &Accepted,
    lists: &Lists,
    mask: &[&str],
    endpoints: bool,
) -> Result<Vec<Value>, (u16, String)> {
    let mut configs = Vec::new();
    for part in PARTS.iter().filter(|part| endpoints || part.message != "EndpointsConfigDump") {
        let mut fields = Map::new();
        if part.message == "BootstrapConfigDump" {
            let mut bootstrap = xds::to_json(&*accepted.bootstrap);
            if let Some(bootstrap) = bootstrap.as_object_mut() {
                bootstrap.insert("node".to_owned(), super::server::node(context));
            }
            fields.insert("bootstrap".to_owned(), bootstrap);
            fields.insert("last_updated".to_owned(), time(accepted.loaded_at));
            // Not in Envoy, which does not read its file again.
            if let Some(rejected) = &accepted.rejected {
                let details: Vec<String> = rejected.diagnostics.iter().map(ToString::to_string).collect();
                let error = json!({"last_update_attempt": time(rejected.at), "details": details.join("\n")});
                fields.insert("error_state".to_owned(), error);
            }
        }
        for (name, _) in part.lists {
            if let Some(values) = lists.get(name).filter(|values| !values.is_empty()) {
                fields.insert((*name).to_owned(), values.clone().into());
            }
        }
        let known = |path: &&&str| {
            let first = path.split('.').next().unwrap_or_default();
            part.fields.contains(&first) || part.lists.iter().any(|(name, _)| *name == first)
        };
        let paths: Vec<&str> = mask.iter().filter(known).copied().collect();
        if !mask.is_empty() && paths.is_empty() {
            continue;
        }
        let value = Value::Object(fields);
        let mut value = if mask.is_empty() { value } else { masked(&value, &paths) };
        if let Some(fields) = value.as_object_mut() {
            fields.insert("@type".to_owned(), format!("{ADMIN}{}", part.message).into());
        }
        configs.push(value);
    }
    if configs.is_empty() {
        return Err((
            400,
            format!("FieldMask {} could not be successfully applied to any configs.", mask.join(",")),
        ));
    }
    Ok(configs)
}

/// What the paths name; types stay, and lists are looked into.
fn masked(value: &Value, paths: &[&str]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| masked(item, paths)).collect(),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, field) in fields {
                let rest = paths.iter().filter_map(|path| match path.split_once('.') {
                    None => (path == name).then_some(None),
                    Some((first, rest)) => (first == name).then_some(Some(rest)),
                });
                let rest: Vec<Option<&str>> = rest.collect();
                if name == "@type" || rest.contains(&None) {
                    kept.insert(name.clone(), field.clone());
                } else if !rest.is_empty() {
                    let rest: Vec<&str> = rest.into_iter().flatten().collect();
                    kept.insert(name.clone(), masked(field, &rest));
                }
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}

/// All lists by name, without what the filter does not name.
fn lists(accepted: &Accepted, filter: Option<&Regex>) -> Lists {
    let mut lists = Lists::new();
    let wanted = |name: &str| filter.is_none_or(|filter| filter.is_match(name));
    let mut add = |list: &'static str, name: &str, value: Value| {
        if wanted(name) {
            lists.entry(list).or_default().push(value);
        }
    };
    let updated = time(accepted.loaded_at);
    let bootstrap: &Bootstrap = &accepted.bootstrap;
    let statics = bootstrap.static_resources.iter();
    for cluster in statics.clone().flat_map(|resources| &resources.clusters) {
        let any = xds::dump_any(&xds::pack(cluster));
        add("static_clusters", &cluster.name, json!({"cluster": any, "last_updated": updated}));
    }
    for listener in statics.flat_map(|resources| &resources.listeners) {
        let any = xds::dump_any(&xds::pack(listener));
        for routes in inline_routes(&any) {
            let name = routes.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            add("static_route_configs", &name, json!({"route_config": routes, "last_updated": updated}));
        }
        add("static_listeners", &listener.name, json!({"listener": any, "last_updated": updated}));
    }
    for resource in &accepted.dynamic {
        if let Some((list, value)) = dynamic(resource) {
            add(list, &resource.name, value);
        }
    }
    lists
}

/// The route configurations that stand in a listener's connection managers.
fn inline_routes(listener: &Value) -> Vec<Value> {
    let chains = listener.get("filter_chains").and_then(Value::as_array).into_iter().flatten();
    let chains = chains.chain(listener.get("default_filter_chain"));
    let filters = chains.filter_map(|chain| chain.get("filters")?.as_array()).flatten();
    let configs = filters.filter_map(|filter| filter.get("typed_config"));
    let managers = configs.filter(|config| config.get("@type").and_then(Value::as_str) == Some(HTTP_MANAGER));
    let with_type = |routes: &Value| {
        let mut routes = routes.clone();
        if let Some(fields) = routes.as_object_mut() {
            let type_url = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
            fields.insert("@type".to_owned(), type_url.into());
        }
        routes
    };
    managers.filter_map(|manager| manager.get("route_config")).map(with_type).collect()
}

/// A resource of a discovery service: its list, and how it is shown there.
fn dynamic(resource: &DynamicResource) -> Option<(&'static str, Value)> {
    let config = xds::dump_any(&resource.config);
    let state = |field: &str| json!({field: config, "version_info": resource.version, "last_updated": time(resource.updated_at)});
    let warming = resource.standing == Standing::Warming;
    let (list, mut value) = match resource.config.type_url.rsplit('.').next()? {
        "Cluster" if warming => ("dynamic_warming_clusters", state("cluster")),
        "Cluster" => ("dynamic_active_clusters", state("cluster")),
        "Listener" if warming => {
            ("dynamic_listeners", json!({"name": resource.name, "warming_state": state("listener")}))
        }
        "Listener" if resource.standing == Standing::Active => {
            ("dynamic_listeners", json!({"name": resource.name, "active_state": state("listener")}))
        }
        "Listener" => ("dynamic_listeners", json!({"name": resource.name})),
        "RouteConfiguration" => ("dynamic_route_configs", state("route_config")),
        "ClusterLoadAssignment" => ("dynamic_endpoint_configs", state("endpoint_config")),
        // Never the secret itself.
        "Secret" => {
            ("dynamic_active_secrets", json!({"name": resource.name, "version_info": resource.version}))
        }
        _ => return None,
    };
    if let (Some(refused), Some(fields)) = (&resource.refused, value.as_object_mut()) {
        let error = json!({
            "failed_configuration": xds::dump_any(&refused.config),
            "last_update_attempt": time(refused.at),
            "details": refused.details,
            "version_info": refused.version,
        });
        fields.insert("error_state".to_owned(), error);
    }
    Some((list, value))
}

fn time(at: SystemTime) -> Value {
    Utc::of(at).rfc3339_millis().into()
}
