//! sds, the discovery service: EndpointSlices of Kubernetes in, endpoints for proxies out.
//!
//! In reading order, which is the order in which a change travels:
//!
//! 1. [`watch`]: lists and watches EndpointSlices and survives whatever the API server does;
//! 2. [`translate`]: slices of a Service to its endpoints. Pure;
//! 3. [`catalog`]: the immutable map of what is known, versions by content, one writer;
//! 4. [`v1`]: `GET /v1/registration/{service}`;
//! 5. [`health`]: `/livez`, `/readyz`, `/metrics`, `/debug`.
//!
//! Around them: [`slice`] (the objects), [`status`] (how the watch is doing), [`server`] (HTTP), [`settings`] and [`app`].
//! Two promises hold throughout: nothing is answered "empty" out of ignorance, and what is known is served for as long as
//! nothing newer is.

pub mod app;
pub mod catalog;
pub mod health;
pub mod server;
pub mod settings;
pub mod slice;
pub mod status;
pub mod translate;
pub mod v1;
pub mod watch;
