//! The service over real sockets: `api` without pet, `upstream` with a sidecar that says what the test tells it to,
//! `spans` with a collector besides.

mod api;
mod spans;
mod support;
mod upstream;
