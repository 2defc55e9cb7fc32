//! `/config_dump`: the current configuration, as the messages that it was read from.

use std::collections::BTreeMap;
use std::time::SystemTime;

use regex::Regex;
use serde_json::{Map, Value, json};
use xds::envoy::config::bootstrap::v3::Bootstrap;
use xds::envoy::config::listener::v3::filter::ConfigType;
use xds::envoy::config::listener::v3::{Filter, Listener};

use mask::Mask;
use parts::PARTS;

use super::AdminContext;
use super::accepted::Accepted;
use super::page::{Page, Params};
use crate::time::Utc;

mod endpoints;
mod mask;
mod parts;

const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";
const HTTP_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

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
    let mut lists = lists(&accepted, filter.as_ref());
    let include_endpoints = params.has("include_eds");
    if include_endpoints {
        let each = endpoints::assignments(context, filter.as_ref());
        lists.insert("static_endpoint_configs", each.collect());
    }
    let there = There::of(&accepted.bootstrap.unpack(), include_endpoints);
    let mask = Mask::new(params.get("mask").unwrap_or_default());
    let shown = match params.get("resource").filter(|resource| !resource.is_empty()) {
        Some(resource) => one_list(resource, &lists, &mask, &there),
        None => whole(context, &accepted, &lists, &mask, &there),
    };
    match shown {
        Ok(configs) if configs.is_empty() => Page::json(&json!({})),
        Ok(configs) => Page::json(&json!({ "configs": configs })),
        Err((status, text)) => refused(status, text),
    }
}

/// Which parts there are: Envoy makes some with the first connection manager or cluster.
struct There {
    routes: bool,
    endpoints: bool,
}

impl There {
    fn of(bootstrap: &Bootstrap, endpoints: bool) -> Self {
        let resources = bootstrap.static_resources.as_ref();
        let listeners = resources.map(|resources| &*resources.listeners).unwrap_or_default();
        let is_manager = |filter: &Filter| matches!(&filter.config_type, Some(ConfigType::TypedConfig(any)) if any.type_url == HTTP_MANAGER);
        let chains = |listener: &Listener| {
            let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
            chains.flat_map(|chain| &chain.filters).any(is_manager)
        };
        let clusters = resources.is_some_and(|resources| !resources.clusters.is_empty());
        Self { routes: listeners.iter().any(chains), endpoints: endpoints && clusters }
    }

    fn has(&self, part: &parts::Part) -> bool {
        match part.message {
            "RoutesConfigDump" | "ScopedRoutesConfigDump" => self.routes,
            "EndpointsConfigDump" => self.endpoints,
            _ => true,
        }
    }
}

type Lists = BTreeMap<&'static str, Vec<Value>>;

/// The elements of one list.
fn one_list(
    resource: &str,
    lists: &Lists,
    mask: &Mask<'_>,
    there: &There,
) -> Result<Vec<Value>, (u16, String)> {
    let shown = PARTS.iter().filter(|part| there.has(part));
    let of = |part: &'static parts::Part| {
        Some((part.message, part.lists.iter().find(|(name, _)| *name == resource)?.1))
    };
    let Some((message, element)) = shown.clone().find_map(of) else {
        return Err(if shown.clone().any(|part| part.fields.contains(&resource)) {
            (400, format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field"))
        } else {
            (404, format!("{resource} not found in config dump"))
        });
    };
    let mut configs = Vec::new();
    for value in lists.get(resource).into_iter().flatten() {
        if !mask.fits_element(element) {
            return Err((400, format!("FieldMask {} could not be successfully used.", mask.debug())));
        }
        let mut value = mask.trim(value);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("@type".to_owned(), format!("{ADMIN}{message}.{}", element.name).into());
        }
        configs.push(value);
    }
    Ok(configs)
}

/// Every part; with a mask those whose fields are all that the mask names.
fn whole(
    context: &AdminContext,
    accepted: &Accepted,
    lists: &Lists,
    mask: &Mask<'_>,
    there: &There,
) -> Result<Vec<Value>, (u16, String)> {
    let mut configs = Vec::new();
    let shown = PARTS.iter().filter(|part| there.has(part));
    for part in shown.filter(|part| mask.fits_part(part)) {
        let mut fields = Map::new();
        if part.message == "BootstrapConfigDump" {
            fields = bootstrap(context, accepted);
        }
        for (name, _) in part.lists {
            if let Some(values) = lists.get(name).filter(|values| !values.is_empty()) {
                fields.insert((*name).to_owned(), values.clone().into());
            }
        }
        let mut value = mask.trim(&Value::Object(fields));
        if let Some(fields) = value.as_object_mut() {
            fields.insert("@type".to_owned(), format!("{ADMIN}{}", part.message).into());
        }
        configs.push(value);
    }
    if configs.is_empty() {
        return Err((
            400,
            format!("FieldMask {} could not be successfully applied to any configs.", mask.text),
        ));
    }
    Ok(configs)
}

fn bootstrap(context: &AdminContext, accepted: &Accepted) -> Map<String, Value> {
    let mut bootstrap = xds::to_json(&accepted.bootstrap.unpack());
    if let Some(bootstrap) = bootstrap.as_object_mut() {
        bootstrap.insert("node".to_owned(), super::server::node(context));
    }
    let mut fields = Map::new();
    fields.insert("bootstrap".to_owned(), bootstrap);
    fields.insert("last_updated".to_owned(), time(accepted.loaded_at));
    // Not in Envoy, which does not read its file again.
    if let Some(rejected) = &accepted.rejected {
        let error = json!({"last_update_attempt": time(rejected.at), "details": *rejected.details});
        fields.insert("error_state".to_owned(), error);
    }
    fields
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
    let bootstrap: Bootstrap = accepted.bootstrap.unpack();
    let statics = bootstrap.static_resources.iter();
    let mut clusters: Vec<_> = statics.clone().flat_map(|resources| &resources.clusters).collect();
    clusters.sort_by_key(|cluster| &cluster.name);
    for cluster in clusters {
        let any = xds::dump_any(&xds::pack(cluster));
        add("static_clusters", &cluster.name, json!({"cluster": any, "last_updated": updated}));
    }
    for listener in statics.flat_map(|resources| &resources.listeners) {
        let any = xds::dump_any(&xds::pack(listener));
        for routes in inline_routes(&any) {
            let name = routes.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            add("static_route_configs", &name, json!({"route_config": routes, "last_updated": updated}));
        }
        let mut shown = json!({"listener": any, "last_updated": updated});
        let unbound = accepted.unbound.iter().find(|unbound| *unbound.listener == *listener.name);
        if let (Some(unbound), Some(fields)) = (unbound, shown.as_object_mut()) {
            let details = format!("cannot listen: {}", unbound.error);
            fields.insert("error_state".to_owned(), json!({"details": details}));
        }
        add("static_listeners", &listener.name, shown);
    }
    lists
}

/// The route configurations in a listener's connection managers.
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

fn time(at: SystemTime) -> Value {
    Utc::of(at).rfc3339_millis().into()
}
