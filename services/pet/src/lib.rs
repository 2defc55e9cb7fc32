//! The pet service: the pets of a store.
//!
//! Reading order: `settings` (flags), `app` (state, routes, serving), `api` (`GET /pets`), `health` (probes and the
//! status that a demonstration sets), `error` (every answer that is not a success), `openapi`. It knows nothing of the
//! mesh: its sidecar stands between it and everybody else.

mod api;
mod app;
mod error;
mod health;
mod openapi;
mod settings;

pub use app::{AppState, router, serve};
pub use settings::Settings;
