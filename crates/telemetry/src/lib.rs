//! Logs and trace context for every petmesh binary, spans for the services.
//!
//! - `logs`: where log lines go, their format and their level, which can be changed while running.
//! - `trace_context`: reads and writes B3 and W3C trace context. Pure.
//! - `propagation`: the headers that join an outgoing request to the incoming one.
//! - `access_log`: one line a request, for the services.
//! - `spans`: one span a request and a call, sent to Zipkin; only with the feature `spans`.
//! - `zipkin_format`: a span as Zipkin's JSON; only with the feature `zipkin-format`.

mod access_log;
mod logs;
mod propagation;
#[cfg(feature = "spans")]
mod spans;
mod trace_context;
#[cfg(feature = "zipkin-format")]
pub mod zipkin_format;

pub use access_log::access_log;
pub use logs::{Error, LogHandle, LogOptions, init, level};
pub use propagation::{Propagated, capture_trace_context, current, propagate};
#[cfg(feature = "spans")]
pub use spans::{EndpointError, Span, Spans, trace_requests};
pub use trace_context::{Sampling, TraceContext, trace_id_text};
