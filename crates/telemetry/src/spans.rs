//! One span for each request to a service and for each call that it makes, sent to Zipkin.
//!
//! Off unless `OTEL_EXPORTER_ZIPKIN_ENDPOINT` is set. The trace continues the caller's: its span is the parent, its
//! decision not to sample is kept, and where no trace came one is begun. Names and tags are those of OpenTelemetry's
//! semantic conventions for HTTP.
//!
//! - `export`: the queue between requests and collector, and the task that empties it.
//! - `zipkin`: a span as Zipkin's JSON, and the call that takes it there.

mod export;
mod zipkin;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, Uri};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tracing::{info, warn};

use crate::propagation::{Propagated, current, propagate, within};
use crate::{Sampling, TraceContext};
use export::Export;
use zipkin::Collector;
pub use zipkin::EndpointError;

const VARIABLE: &str = "OTEL_EXPORTER_ZIPKIN_ENDPOINT";
/// What a tag keeps of a path: the queue counts spans, so each of them has to have a bound.
const MAX_TAG: usize = 1024;

/// Where a service's spans go; nowhere by default. Cheap to clone; clones share one queue.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    tracer: SdkTracer,
    export: Export,
}

/// A request or a call while it lasts: sent when dropped. Nothing when spans are off or the caller wants none.
#[derive(Debug)]
pub struct Span(Option<Recorded>);

#[derive(Debug)]
struct Recorded {
    span: opentelemetry_sdk::trace::Span,
    /// What is passed on in its name.
    headers: Propagated,
}

/// Middleware (`axum::middleware::from_fn_with_state`), in place of
/// [`capture_trace_context`](crate::capture_trace_context), which is all that it does when spans are off.
pub async fn trace_requests(State(spans): State<Spans>, request: Request, next: Next) -> Response {
    let propagated = Propagated::from_headers(request.headers());
    let mut span =
        if is_probe(request.uri()) { Span(None) } else { spans.start(&propagated, || server_span(&request)) };
    let context = match &span.0 {
        Some(recorded) => recorded.headers.clone(),
        None => propagated,
    };
    let response = within(context, next.run(request)).await;
    let status = response.status();
    span.responded(status);
    if status.is_server_error() {
        span.failed(status.as_str());
    }
    response
}

impl Spans {
    /// Reads `OTEL_EXPORTER_ZIPKIN_ENDPOINT`. A value that is no endpoint is a line in the log and no spans: a service does
    /// not fail because spans cannot be sent. Must be called inside a tokio runtime.
    #[must_use]
    pub fn from_environment(service: &'static str) -> Self {
        let Some(endpoint) = std::env::var_os(VARIABLE).filter(|endpoint| !endpoint.is_empty()) else {
            return Self::default();
        };
        match Self::to(service, &endpoint.to_string_lossy()) {
            Ok(spans) => {
                info!("spans go to {}", endpoint.to_string_lossy());
                spans
            }
            Err(error) => {
                warn!("no spans: {VARIABLE} {error}");
                Self::default()
            }
        }
    }

    /// Sends the spans of `service` to `endpoint`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When `endpoint` is no `http://` URL.
    pub fn to(service: &'static str, endpoint: &str) -> Result<Self, EndpointError> {
        let (export, queue) = Export::start(Collector::new(service, endpoint)?);
        // What the caller decided is known before a span begins, see `start`.
        let provider =
            SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).with_span_processor(queue);
        Ok(Self(Some(Arc::new(Recording { tracer: provider.build().tracer("petmesh"), export }))))
    }

    /// A call to `peer`, made for the current request.
    #[must_use]
    pub fn client(&self, peer: &'static str, method: &Method, url: &str) -> Span {
        self.start(&current(), || {
            let mut attributes = method_tags(method);
            attributes.push(KeyValue::new("url.full", clip(url)));
            attributes.push(KeyValue::new("server.address", peer));
            attributes.push(KeyValue::new("peer.service", peer));
            let name = method_name(method).to_owned();
            SpanBuilder::from_name(name).with_kind(SpanKind::Client).with_attributes(attributes)
        })
    }

    /// Sends what is left, for two seconds at most, and logs how many spans were sent and lost. Spans that end later are
    /// lost.
    pub async fn finish(&self) {
        if let Some(recording) = &self.0 {
            recording.export.finish().await;
        }
    }

    fn start(&self, caller: &Propagated, describe: impl FnOnce() -> SpanBuilder) -> Span {
        let Some(recording) = &self.0 else { return Span(None) };
        let sampling = match caller.sampling() {
            Sampling::Drop => return Span(None),
            Sampling::Debug => Sampling::Debug,
            Sampling::Keep | Sampling::Undecided => Sampling::Keep,
        };
        let parent = caller.trace();
        let context = parent
            .map(remote)
            .map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let span = recording.tracer.build_with_context(describe(), &context);
        let ids = span.span_context();
        let headers = caller.with_span(TraceContext {
            trace_id: u128::from_be_bytes(ids.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(ids.span_id().to_bytes()),
            parent_span_id: parent.map(|parent| parent.span_id),
            sampling,
        });
        Span(Some(Recorded { span, headers }))
    }
}

impl Span {
    /// Adds the trace headers to an outgoing request, as [`propagate`] does, with this span as the caller's.
    pub fn propagate(&self, outgoing: &mut HeaderMap) {
        match &self.0 {
            Some(recorded) => recorded.headers.apply(outgoing),
            None => propagate(outgoing),
        }
    }

    /// The status of the response.
    pub fn responded(&mut self, status: StatusCode) {
        if let Some(Recorded { span, .. }) = &mut self.0 {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        }
    }

    /// What went wrong, in few different words (`timeout`).
    pub fn failed(&mut self, error: impl Into<String>) {
        if let Some(Recorded { span, .. }) = &mut self.0 {
            let error = error.into();
            span.set_attribute(KeyValue::new("error.type", error.clone()));
            span.set_status(Status::error(error));
        }
    }
}

fn remote(parent: TraceContext) -> SpanContext {
    let (trace, span) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
}

/// Probes come every few seconds and say nothing of what users do.
fn is_probe(uri: &Uri) -> bool {
    let path = uri.path();
    matches!(path, "/health" | "/livez" | "/readyz") || path.starts_with("/health/")
}

fn server_span(request: &Request) -> SpanBuilder {
    let uri = request.uri();
    let mut attributes = method_tags(request.method());
    attributes.push(KeyValue::new("url.scheme", "http"));
    attributes.push(KeyValue::new("url.path", clip(uri.path())));
    if let Some(query) = uri.query() {
        attributes.push(KeyValue::new("url.query", clip(query)));
    }
    let mut name = method_name(request.method()).to_owned();
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        name = format!("{name} {}", route.as_str());
        attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
    }
    SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes)
}

/// Names of spans are to be few: a method that somebody made up is not part of one.
fn method_name(method: &Method) -> &str {
    if is_known(method) { method.as_str() } else { "HTTP" }
}

fn method_tags(method: &Method) -> Vec<KeyValue> {
    if is_known(method) {
        return vec![KeyValue::new("http.request.method", method.as_str().to_owned())];
    }
    vec![
        KeyValue::new("http.request.method", "_OTHER"),
        KeyValue::new("http.request.method_original", clip(method.as_str())),
    ]
}

fn is_known(method: &Method) -> bool {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    known.contains(method)
}

fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TAG)].to_owned()
}
