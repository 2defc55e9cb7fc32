//! `GET /pets?petStoreId=ID`: every store has the same two pets.

use std::num::NonZeroU64;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::AppState;
use crate::error::{ApiError, ErrorBody};

/// A pet for sale.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Pet {
    #[schema(example = "Toby")]
    name: &'static str,
    /// In years.
    #[schema(example = 5)]
    age: u8,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PetsQuery {
    /// Which store: a positive integer.
    #[serde(rename = "petStoreId")]
    #[param(required, value_type = u64, minimum = 1, example = 2)]
    pet_store_id: Option<String>,
}

const PETS: [Pet; 2] = [Pet { name: "Mififú", age: 3 }, Pet { name: "Toby", age: 5 }];

/// The pets of a store.
#[utoipa::path(
    get,
    path = "/pets",
    params(PetsQuery),
    responses(
        (status = 200, description = "The pets of the store", body = [Pet]),
        (status = 400, description = "petStoreId is missing or no positive integer", body = ErrorBody),
    )
)]
pub(crate) async fn pets(
    State(state): State<AppState>,
    query: Result<Query<PetsQuery>, QueryRejection>,
) -> Result<Json<[Pet; 2]>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::Query(rejection.body_text()))?;
    let id = query.pet_store_id.ok_or(ApiError::MissingStore)?;
    if id.parse::<NonZeroU64>().is_err() {
        return Err(ApiError::InvalidStore(id));
    }
    tokio::time::sleep(state.delay).await;
    Ok(Json(PETS))
}
