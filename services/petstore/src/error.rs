//! Every answer that is not a success: `{"error": …, "status": …}` with the same status on the status line.

use std::error::Error;

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use crate::pet_client::PetError;

/// What went wrong; the text is what the caller reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the store is '{0}': it must be a positive integer, as in /petstore/2")]
    InvalidStore(String),
    #[error("the query parameter includePets is missing: add ?includePets=true or ?includePets=false")]
    MissingIncludePets,
    #[error("the query parameter includePets is '{0}': it must be true or false")]
    InvalidIncludePets(String),
    #[error("the health status is '{0}': it must be a number from 200 to 599")]
    InvalidHealth(String),
    /// A parameter given twice.
    #[error("the query cannot be read: {0}")]
    Query(String),
    /// Percent-encoding that is no UTF-8.
    #[error("the path cannot be read: {0}")]
    Path(String),
    /// pet's failure is passed on.
    #[error(transparent)]
    Pet(#[from] PetError),
    #[error("there is nothing at {0}")]
    NotFound(String),
    #[error("{1} does not answer to {0}")]
    MethodNotAllowed(Method, String),
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What is wrong and what to do about it.
    error: String,
    #[schema(example = 400)]
    status: u16,
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            ApiError::InvalidStore(_)
            | ApiError::MissingIncludePets
            | ApiError::InvalidIncludePets(_)
            | ApiError::InvalidHealth(_)
            | ApiError::Query(_)
            | ApiError::Path(_) => StatusCode::BAD_REQUEST,
            ApiError::Pet(error) => pet_status(error),
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed(..) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// 502, 503 and 504 mean the same to our caller as to us; any other answer of pet's would be misread as being about the
/// caller's own request.
fn pet_status(error: &PetError) -> StatusCode {
    match error {
        PetError::Answered(
            status
            @ (StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT),
        ) => *status,
        PetError::Answered(_) | PetError::Cut(_) | PetError::TooLarge | PetError::NotPets(_) => {
            StatusCode::BAD_GATEWAY
        }
        PetError::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
        PetError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if let ApiError::Pet(error) = &self {
            // The caller reads what happened; why is for whoever runs the service.
            warn!(cause = error.source(), request_id = telemetry::current().request_id(), "{error}");
        }
        (status, Json(ErrorBody { error: self.to_string(), status: status.as_u16() })).into_response()
    }
}

pub(crate) async fn not_found(uri: Uri) -> ApiError {
    ApiError::NotFound(uri.path().to_owned())
}

pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed(method, uri.path().to_owned())
}
