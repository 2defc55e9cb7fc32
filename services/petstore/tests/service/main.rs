//! The service over real sockets: `api` without pet, `upstream` with a sidecar that says what the test tells it to.
//!
//! Run by cargo; the plumbing is in `support`.

mod api;
mod support;
mod upstream;
