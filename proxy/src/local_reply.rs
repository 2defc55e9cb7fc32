//! The only place that invents a response: local replies with Envoy's statuses, texts, flags and details.
//!
//! Called by `exchange` and `connection`; calls `format`, `matcher`, `message`.

/// `local_reply_config`.
#[derive(Debug, Default)]
pub struct Mappers {}
