//! A service's span for Zipkin, and the call that takes it to the collector.
//!
//! Written here and not taken from `opentelemetry-zipkin`, which writes an empty `localEndpoint`,
//! so that Zipkin could not say which service a span is of, and is deprecated. Source:
//! OpenTelemetry's "SDK exporters: Zipkin".

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;

use crate::trace_context::trace_id_text;
use crate::zipkin_format::{self, Endpoint, micros};

/// How long a call to the collector may take; OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the spans of one service go.
#[derive(Debug)]
pub(super) struct Collector {
    service: &'static str,
    endpoint: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The endpoint cannot be used; it is not repeated, since some write a password into it.
#[derive(Debug, thiserror::Error)]
#[error(
    "is no URL of a collector: expected http, a host and a path, such as http://zipkin:9411/api/v2/spans"
)]
pub struct EndpointError;

impl Collector {
    /// Plain HTTP: TLS between pods is the sidecars' business. A name and password would end up in the log.
    pub(super) fn new(service: &'static str, endpoint: &str) -> Result<Self, EndpointError> {
        let usable = |uri: &Uri| {
            uri.scheme_str() == Some("http")
                && uri.authority().is_some_and(|at| !at.host().is_empty() && !at.as_str().contains('@'))
        };
        let endpoint = endpoint.parse().ok().filter(usable).ok_or(EndpointError)?;
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build_http();
        Ok(Self { service, endpoint, client })
    }

    pub(super) async fn send(&self, spans: &[SpanData]) -> Result<(), String> {
        let spans: Vec<_> = spans.iter().map(|span| self.convert(span)).collect();
        let body = serde_json::to_vec(&spans).map_err(|error| words(&error))?;
        let request = Request::post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::from(body)).map_err(|error| words(&error))?;
        let response = tokio::time::timeout(TIMEOUT, self.client.request(request)).await;
        let response = response.map_err(|_| format!("no response within {} s", TIMEOUT.as_secs()))?;
        let status = response.map_err(|error| words(&error))?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the collector responded {status}")) }
    }

    fn convert<'a>(&'a self, span: &'a SpanData) -> zipkin_format::Span<'a> {
        let attribute = |kv: &'a opentelemetry::KeyValue| (kv.key.as_str().into(), kv.value.to_string());
        let mut tags: BTreeMap<std::borrow::Cow<'_, str>, _> =
            span.attributes.iter().map(attribute).collect();
        if let Status::Error { description } = &span.status {
            tags.insert("otel.status_code".into(), "ERROR".to_owned());
            // What Zipkin's page shows in red.
            tags.insert("error".into(), description.to_string());
        }
        let peer = span.attributes.iter().find(|kv| kv.key.as_str() == "peer.service");
        let remote_endpoint = peer.and_then(|kv| match &kv.value {
            opentelemetry::Value::String(name) => Some(Endpoint::named(name.as_str())),
            _ => None,
        });
        let parent = span.parent_span_id;
        zipkin_format::Span {
            trace_id: trace_id_text(u128::from_be_bytes(span.span_context.trace_id().to_bytes())),
            parent_id: (parent != SpanId::INVALID).then(|| parent.to_string()),
            id: span.span_context.span_id().to_string(),
            kind: match span.span_kind {
                SpanKind::Server => Some("SERVER"),
                SpanKind::Client => Some("CLIENT"),
                _ => None,
            },
            name: span.name.as_ref(),
            timestamp: micros(since(UNIX_EPOCH, span.start_time)),
            // 0 would mean that it is not known.
            duration: micros(since(span.start_time, span.end_time)).max(1),
            local_endpoint: Endpoint::named(self.service),
            remote_endpoint,
            annotations: Vec::new(),
            tags,
            shared: false,
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// 0 when the clock was set back meanwhile.
fn since(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

/// The error and its causes, which hyper's own text leaves out.
fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
