//! What clients ask before they ask for objects: API groups, resources, version, health, OpenAPI.
//!
//! All of it is made from the resource table, so a new kind appears by itself.

use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::answer::{self, Body};
use crate::resources::{RESOURCES, Resource};
use crate::status::Status;

mod openapi;

const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a path that is no resource.
///
/// # Errors
/// 404 for an unknown version of a known group, 405 for a method other than GET.
pub fn answer(method: &Method, path: &str, accept: &str, version: &str) -> Result<Response<Body>, Status> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Status::method_not_allowed());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2;");
    let document = match parts.as_slice() {
        ["readyz" | "livez" | "healthz"] => return Ok(answer::text(StatusCode::OK, "ok")),
        ["version"] => {
            return Ok(answer::json_body(StatusCode::OK, Body::Whole(version_document(version).into())));
        }
        ["api"] if aggregated => return Ok(aggregate(|resource| resource.group.is_empty())),
        ["apis"] if aggregated => return Ok(aggregate(|resource| !resource.group.is_empty())),
        ["api"] => json!({"kind": "APIVersions", "versions": versions(""),
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}),
        ["apis"] => json!({"kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups().into_iter().map(group).collect::<Value>()}),
        ["apis", name] if groups().contains(name) => {
            let mut document = group(name);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }
        ["api", version] => resource_list("", version)?,
        ["apis", name, version] if groups().contains(name) => resource_list(name, version)?,
        ["openapi", "v2"] if accept.contains("protobuf") => return Ok(openapi::empty_v2()),
        ["openapi", "v2"] => openapi::v2(),
        ["openapi", "v3"] => openapi::index(),
        ["openapi", "v3", "api", version] => {
            openapi::document("", version).ok_or_else(Status::no_resource)?
        }
        ["openapi", "v3", "apis", name, version] => {
            openapi::document(name, version).ok_or_else(Status::no_resource)?
        }
        [] => {
            json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]})
        }
        _ => return Ok(not_found()),
    };
    Ok(answer::value(StatusCode::OK, &document))
}

// As a real server words it. Servers before 1.34 had no emulation in it; kubectl does not mind either.
fn version_document(version: &str) -> String {
    let version = version.trim_start_matches('v');
    let mut parts = version.split(['.', '+', '-']);
    let (major, minor) = (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"));
    let oldest = minor.parse::<u32>().unwrap_or(0).saturating_sub(1);
    format!(
        "{{\n  \"major\": \"{major}\",\n  \"minor\": \"{minor}\",\n  \"emulationMajor\": \"{major}\",\n  \
         \"emulationMinor\": \"{minor}\",\n  \"minCompatibilityMajor\": \"{major}\",\n  \
         \"minCompatibilityMinor\": \"{oldest}\",\n  \"gitVersion\": \"v{version}\",\n  \"gitCommit\": \"\",\n  \
         \"gitTreeState\": \"clean\",\n  \"buildDate\": \"1970-01-01T00:00:00Z\",\n  \"goVersion\": \"none\",\n  \
         \"compiler\": \"rustc\",\n  \"platform\": \"linux/amd64\"\n}}"
    )
}

/// 404 where the real server has no handler.
pub fn not_found() -> Response<Body> {
    answer::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The API groups but the core group, each once.
fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> =
        RESOURCES.iter().map(|resource| resource.group).filter(|group| !group.is_empty()).collect();
    groups.dedup();
    groups
}

/// The versions of a group, each once.
pub(super) fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<_> = RESOURCES
        .iter()
        .filter(|resource| resource.group == group)
        .map(|resource| resource.version)
        .collect();
    versions.dedup();
    versions
}

fn group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn resource_list(group: &str, version: &str) -> Result<Value, Status> {
    let of_group: Vec<_> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
    let Some(first) = of_group.first() else { return Err(Status::no_resource()) };
    let mut resources = Vec::new();
    for resource in &of_group {
        let mut entry = json!({"name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.namespaced, "kind": resource.kind, "verbs": resource.verbs});
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if resource.in_all {
            entry["categories"] = json!(["all"]);
        }
        resources.push(entry);
        if resource.has_status {
            resources.push(json!({"name": format!("{}/status", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": SUBRESOURCE_VERBS}));
        }
        if resource.has_scale {
            resources.push(json!({"name": format!("{}/scale", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "group": "autoscaling", "version": "v1", "kind": "Scale",
                "verbs": SUBRESOURCE_VERBS}));
        }
    }
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(),
        "resources": resources}))
}

// Everything in one document, as kubectl asks for it first.
fn aggregate(wanted: impl Fn(&Resource) -> bool) -> Response<Body> {
    let mut names: Vec<_> = RESOURCES.iter().filter(|resource| wanted(resource)).map(|r| r.group).collect();
    names.dedup();
    let items: Vec<_> = names
        .into_iter()
        .map(|name| {
            let versions: Vec<_> = versions(name)
                .into_iter()
                .map(|version| {
                    json!({"version": version, "freshness": "Current",
                    "resources": aggregated_resources(name, version)})
                })
                .collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items});
    let mut response = answer::value(StatusCode::OK, &list);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_resources(group: &str, version: &str) -> Vec<Value> {
    let of_group = RESOURCES.iter().filter(|r| r.group == group && r.version == version);
    of_group
        .map(|resource| {
            let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
            let mut entry = json!({"resource": resource.plural, "responseKind": kind,
                "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": resource.singular, "verbs": resource.verbs});
            if !resource.short_names.is_empty() {
                entry["shortNames"] = json!(resource.short_names);
            }
            if resource.in_all {
                entry["categories"] = json!(["all"]);
            }
            let mut subresources = Vec::new();
            if resource.has_scale {
                let kind = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
                subresources
                    .push(json!({"subresource": "scale", "responseKind": kind, "verbs": SUBRESOURCE_VERBS}));
            }
            if resource.has_status {
                subresources
                    .push(json!({"subresource": "status", "responseKind": kind, "verbs": SUBRESOURCE_VERBS}));
            }
            if !subresources.is_empty() {
                entry["subresources"] = subresources.into();
            }
            entry
        })
        .collect()
}
