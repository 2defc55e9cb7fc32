//! The status that `/health` answers with, and the probes.
//!
//! `/health` is for demonstrations: `POST /health/503` makes this instance look broken to health
//! checks and outlier detection without stopping it. `/livez` and `/readyz` are for Kubernetes and
//! tell the truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::error::{ApiError, ErrorBody};

/// The stored status; 200 at start.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<AtomicU16>);

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthBody {
    /// What `GET /health` answers with.
    #[schema(example = 200, minimum = 200, maximum = 599)]
    status: u16,
}

/// Answers with the stored status.
#[utoipa::path(get, path = "/health", operation_id = "getHealth", responses(
    (status = "default", description = "The stored status, 200 at start", body = HealthBody),
))]
pub(crate) async fn get(State(state): State<AppState>) -> (StatusCode, Json<HealthBody>) {
    let status = state.health.0.load(Ordering::Relaxed);
    // Only valid ones are stored.
    (StatusCode::from_u16(status).unwrap_or_default(), Json(HealthBody { status }))
}

/// Stores the status that `GET /health` answers with from now on.
#[utoipa::path(
    post,
    path = "/health/{status}",
    operation_id = "setHealth",
    params(("status" = u16, Path, description = "200 to 599", minimum = 200, maximum = 599)),
    responses(
        (status = 200, description = "Stored", body = HealthBody),
        (status = 400, description = "No status from 200 to 599", body = ErrorBody),
    )
)]
pub(crate) async fn set(
    State(state): State<AppState>,
    status: Result<Path<String>, PathRejection>,
) -> Result<Json<HealthBody>, ApiError> {
    let Path(text) = status.map_err(|rejection| ApiError::Path(rejection.body_text()))?;
    let status = text.parse().ok().filter(|status| (200..=599).contains(status));
    let status = status.ok_or(ApiError::InvalidHealth(text))?;
    state.health.0.store(status, Ordering::Relaxed);
    Ok(Json(HealthBody { status }))
}

/// Whether the process runs: 200.
#[utoipa::path(get, path = "/livez", responses((status = 200, description = "It runs", body = str)))]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether new requests are welcome: 200, and 503 once the process has been asked to end.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, description = "Ready", body = str),
    (status = 503, description = "Shutting down", body = str),
))]
pub(crate) async fn readyz(State(state): State<AppState>) -> (StatusCode, &'static str) {
    if state.shutdown.is_requested() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(AtomicU16::new(200)))
    }
}
