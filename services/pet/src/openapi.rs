//! `/openapi.json`: the description of the API, generated from the handlers and equal to the file in the repository.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use utoipa::OpenApi;

use crate::{api, health};

#[derive(OpenApi)]
#[openapi(
    info(title = "pet", description = "The pets of a store"),
    paths(api::pets, health::get, health::set, health::livez, health::readyz)
)]
struct Document;

type Json = ([(HeaderName, &'static str); 1], String);

pub(crate) async fn document() -> Result<Json, StatusCode> {
    let text = Document::openapi().to_pretty_json().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "application/json")], text + "\n"))
}
