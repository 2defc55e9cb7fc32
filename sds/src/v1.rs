//! `GET /v1/registration/{service}`: Envoy's first discovery API, which `REST_LEGACY` clusters poll.
//!
//! | | answer |
//! |---|---|
//! | known service | 200 with its endpoints, and an `ETag`; 304 when the client has them already |
//! | unknown service | 200 `{"hosts":[]}`: the cluster is known to be empty |
//! | not a service's name | 400 |
//! | a namespace that is not watched | 404: nothing is known, and "empty" would take a working cluster down |
//! | before the first sync | 503, for the same reason |
//!
//! Names are `service` (in the namespace of sds) or `service.namespace`. Errors are JSON,
//! `{"error":"…"}`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use xds::sds_v1::{Host, Registration, Tags};

use crate::catalog::{Cluster, Reader};
use crate::status::Status;
use crate::translate::Endpoint;

/// What the handler needs.
#[derive(Clone)]
pub struct Registrations {
    pub catalog: Reader,
    pub status: Arc<Status>,
    /// The namespace of names without one.
    pub namespace: String,
    /// Whether the other namespaces are watched too.
    pub all_namespaces: bool,
}

pub fn router(registrations: Registrations) -> Router {
    Router::new()
        .route("/v1/registration/{service}", get(registration))
        .route("/v1/registration/{service}/", get(registration))
        .with_state(registrations)
}

async fn registration(
    State(app): State<Registrations>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let response = answer(&app, &name, &headers);
    app.status.answered(response.status().as_u16());
    response
}

fn answer(app: &Registrations, name: &str, headers: &HeaderMap) -> Response {
    let Some((service, namespace)) = split(name) else {
        return error(
            StatusCode::BAD_REQUEST,
            &format!("'{name}' is no service: ask for 'name' or 'name.namespace' in lower case"),
        );
    };
    let namespace = namespace.unwrap_or(&app.namespace);
    if !app.all_namespaces && namespace != app.namespace {
        return error(
            StatusCode::NOT_FOUND,
            &format!("namespace '{namespace}' is not watched: start sds with --kubernetes-all-namespaces"),
        );
    }
    let Some(catalog) = app.catalog.borrow().clone() else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "not synced with Kubernetes yet");
    };
    match catalog.get(&format!("{service}.{namespace}")) {
        Some(cluster) => registered(cluster, headers),
        None => registered(&Cluster::empty(), headers),
    }
}

fn registered(cluster: &Cluster, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", cluster.version);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| matches(value, &tag));
    let Ok(value) = HeaderValue::try_from(tag) else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the version is no header value");
    };
    if known {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, value)]).into_response();
    }
    let body = cluster.v1_body.get_or_init(|| encode(&cluster.endpoints)).clone();
    ([(header::ETAG, value), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body)
        .into_response()
}

fn encode(endpoints: &[Endpoint]) -> Bytes {
    let hosts = endpoints.iter().map(|endpoint| Host {
        ip_address: endpoint.address.to_string(),
        port: endpoint.port,
        tags: Tags {
            az: endpoint.zone.clone(),
            canary: endpoint.canary,
            load_balancing_weight: endpoint.weight,
        },
    });
    // Plain data: writing it to memory cannot fail.
    serde_json::to_vec(&Registration { hosts: hosts.collect() }).unwrap_or_default().into()
}

/// `If-None-Match` (RFC 9110, 13.1.2): a list of tags, compared weakly, or `*`.
fn matches(value: &HeaderValue, tag: &str) -> bool {
    let Ok(value) = value.to_str() else { return false };
    value.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// `name` or `name.namespace`; both are labels as in RFC 1123.
fn split(name: &str) -> Option<(&str, Option<&str>)> {
    let (service, namespace) = match name.split_once('.') {
        Some((service, namespace)) => (service, Some(namespace)),
        None => (name, None),
    };
    (is_label(service) && namespace.is_none_or(is_label)).then_some((service, namespace))
}

pub(crate) fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| plain(*byte))
        && bytes.last().is_some_and(|byte| plain(*byte))
}

/// An error as JSON.
pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    let body = serde_json::json!({ "error": message });
    (status, axum::Json(body)).into_response()
}
