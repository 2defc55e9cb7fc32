//! The petstore service: a store and, when asked, its pets.
//!
//! Reading order: `settings` (flags), `app` (state, routes, serving), `api` (`GET /petstore/{id}`), `pet_client` (how the
//! pets are fetched through the sidecar, and what can go wrong), `health` (probes and the status that a demonstration
//! sets), `error` (every answer that is not a success), `openapi`. All it knows of the mesh is the address of its sidecar:
//! no discovery, no balancing, no retry policy, no breaker.

mod api;
mod app;
mod error;
mod health;
mod openapi;
mod pet_client;
mod settings;

pub use app::{AppState, router, serve};
pub use pet_client::PetClient;
pub use settings::Settings;
