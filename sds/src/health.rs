//! `/livez`, `/readyz`, `/metrics` and `/debug`: what Kubernetes, Prometheus and people ask of sds itself.
//!
//! Liveness is the process's own: an API server that is away must not restart sds, which would then
//! have lost what it knows. Readiness is true from the first sync, stays true while Kubernetes is
//! away, and ends with SIGTERM.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lifecycle::Shutdown;
use serde_json::{Value, json};

use crate::catalog::{Catalog, Reader};
use crate::status::Status;
use crate::v1::error;

/// At most this many ignored values are listed on `/debug`; `sds_ignored_values` counts all.
const MOST_IGNORED: usize = 100;

/// What the handlers need.
#[derive(Clone)]
pub struct Health {
    pub catalog: Reader,
    pub status: Arc<Status>,
    pub shutdown: Shutdown,
    /// What is watched, where: shown on `/debug`.
    pub watching: String,
}

pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/debug", get(debug))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> Response {
    let synced = health.catalog.borrow().is_some();
    match (health.shutdown.is_requested(), synced) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response(),
        (false, false) => {
            let error = health.status.subscribe().borrow().last_error.as_ref().map(ToString::to_string);
            let error = error.map_or_else(String::new, |error| format!(": {error}"));
            (StatusCode::SERVICE_UNAVAILABLE, format!("not synced with Kubernetes yet{error}\n"))
                .into_response()
        }
        (false, true) => "ok\n".into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let catalog = health.catalog.borrow().clone();
    match health.status.metrics(catalog.as_deref()) {
        Ok(text) => {
            let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, format)], text).into_response()
        }
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
    }
}

async fn debug(State(health): State<Health>) -> Response {
    let catalog = health.catalog.borrow().clone();
    let state = health.status.subscribe().borrow().clone();
    let body = json!({
        "watching": health.watching,
        "synced": catalog.is_some(),
        "connected": state.connected,
        "seconds_since_heard": state.age().map(|age| age.as_secs()),
        "resource_version": state.version,
        "lists": state.lists,
        "audits": state.audits,
        "errors_since_heard": state.errors,
        "last_error": state.last_error.as_ref().map(ToString::to_string),
        "services": catalog.as_deref().map(services),
        "ignored": catalog.as_deref().map(ignored),
    });
    axum::Json(body).into_response()
}

fn services(catalog: &Catalog) -> Value {
    let one = |(name, cluster): (&str, &Arc<crate::catalog::Cluster>)| {
        let (endpoints, kept) = (cluster.endpoints.len(), cluster.kept());
        (name.to_owned(), json!({ "endpoints": endpoints, "kept": kept, "version": cluster.version }))
    };
    Value::Object(catalog.iter().map(one).collect())
}

fn ignored(catalog: &Catalog) -> Value {
    let all = catalog.iter().flat_map(|(_, cluster)| &cluster.ignored);
    json!(all.take(MOST_IGNORED).collect::<Vec<_>>())
}
