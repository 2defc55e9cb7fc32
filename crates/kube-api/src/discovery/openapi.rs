//! A minimal OpenAPI v3 document for each group, and an empty one of v2: enough for `kubectl apply` to learn that the server validates fields.
//!
//! The schemas say "any object": this server keeps what it is given.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::answer::{self, Body};
use crate::resources::{RESOURCES, Resource};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The index at `/openapi/v3`.
pub fn index() -> Value {
    let mut paths = Map::new();
    for resource in RESOURCES {
        let root = root(resource);
        paths.insert(root.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{root}?hash=1")}));
    }
    json!({"paths": paths})
}

/// The document of one group and version.
pub fn document(group: &str, version: &str) -> Option<Value> {
    let of_group: Vec<_> = RESOURCES.iter().filter(|r| r.group == group && r.version == version).collect();
    if of_group.is_empty() {
        return None;
    }
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for resource in of_group {
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{}/{scope}{}", root(resource), resource.plural);
        paths.insert(format!("{collection}/{{name}}"), json!({
            "patch": operation(&kind, "patch"), "put": operation(&kind, "put"), "get": operation(&kind, "get")}));
        paths.insert(collection, json!({"post": operation(&kind, "post")}));
        schemas.insert(
            schema_name(resource),
            json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-group-version-kind": [kind]}),
        );
    }
    Some(json!({"openapi": "3.0.0", "info": {"title": "kube-api", "version": "v1.36.0"}, "paths": paths,
        "components": {"schemas": schemas}}))
}

/// OpenAPI v2 without a schema, so that kubectl checks nothing by it: it asks where v3 does not know the kind, as with
/// a manifest of the kind List.
pub fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "kube-api", "version": "v1"}, "paths": {}, "definitions": {}})
}

/// The same in gnostic's protobuf: `swagger` is field 1.
pub fn empty_v2() -> Response<Body> {
    let mut response = answer::json_body(StatusCode::OK, Body::Whole(Bytes::from_static(b"\x0a\x032.0")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
    response
}

fn operation(kind: &Value, action: &str) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind,
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}}})
}

fn root(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

fn schema_name(resource: &Resource) -> String {
    let group = resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("io.k8s.api.{group}.{}.{}", resource.version, resource.kind)
}
