//! `GET /petstore/{id}?includePets=BOOL`: every store is the same one; its pets are asked of pet.

use std::num::NonZeroU64;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::AppState;
use crate::error::{ApiError, ErrorBody};
use crate::pet_client::Pet;

/// A store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PetStore {
    #[schema(example = "Amiguitos Mascotas")]
    name: &'static str,
    #[schema(example = "Málaga")]
    location: &'static str,
    /// Empty when they were not asked for.
    pets: Vec<Pet>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PetStoreQuery {
    /// Whether the answer lists the pets.
    #[serde(rename = "includePets")]
    #[param(required, value_type = bool, example = true)]
    include_pets: Option<String>,
}

/// A store and, when asked, its pets. When pet fails, so does this: an empty list would look like a store without pets.
#[utoipa::path(
    get,
    path = "/petstore/{id}",
    params(
        ("id" = u64, Path, description = "Which store: a positive integer", minimum = 1, example = 2),
        PetStoreQuery,
    ),
    responses(
        (status = 200, description = "The store", body = PetStore),
        (status = 400, description = "A parameter is missing or wrong", body = ErrorBody),
        (status = 502, description = "pet answered 502 itself, or in a way that cannot be used", body = ErrorBody),
        (status = 503, description = "pet answered 503 itself, or the sidecar cannot be reached", body = ErrorBody),
        (status = 504, description = "pet answered 504 itself, or did not answer in time", body = ErrorBody),
    )
)]
pub(crate) async fn petstore(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<PetStoreQuery>, QueryRejection>,
) -> Result<Json<PetStore>, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::Path(rejection.body_text()))?;
    let store = id.parse::<NonZeroU64>().map_err(|_| ApiError::InvalidStore(id))?;
    let Query(query) = query.map_err(|rejection| ApiError::Query(rejection.body_text()))?;
    let pets = match query.include_pets.as_deref() {
        Some("true") => state.pets.pets_of(store).await?,
        Some("false") => Vec::new(),
        Some(other) => return Err(ApiError::InvalidIncludePets(other.to_owned())),
        None => return Err(ApiError::MissingIncludePets),
    };
    Ok(Json(PetStore { name: "Amiguitos Mascotas", location: "Málaga", pets }))
}
