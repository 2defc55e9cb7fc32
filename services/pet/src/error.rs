//! Every answer that is not a success: `{"error": …, "status": …}` with the same status on the status line.

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What went wrong; the text is what the caller reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the query parameter petStoreId is missing: ask for /pets?petStoreId=1")]
    MissingStore,
    #[error("the query parameter petStoreId is '{0}': it must be a positive integer")]
    InvalidStore(String),
    #[error("the health status is '{0}': it must be a number from 200 to 599")]
    InvalidHealth(String),
    /// A parameter given twice.
    #[error("the query cannot be read: {0}")]
    Query(String),
    /// Percent-encoding that is no UTF-8.
    #[error("the path cannot be read: {0}")]
    Path(String),
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
            ApiError::MissingStore
            | ApiError::InvalidStore(_)
            | ApiError::InvalidHealth(_)
            | ApiError::Query(_)
            | ApiError::Path(_) => StatusCode::BAD_REQUEST,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed(..) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        (status, Json(ErrorBody { error: self.to_string(), status: status.as_u16() })).into_response()
    }
}

pub(crate) async fn not_found(uri: Uri) -> ApiError {
    ApiError::NotFound(uri.path().to_owned())
}

pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed(method, uri.path().to_owned())
}
