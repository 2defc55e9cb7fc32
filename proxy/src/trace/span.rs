//! A span as the collector gets it, with Envoy's tags.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use telemetry::zipkin_format::{self, Annotation, Endpoint, micros};
use telemetry::{Sampling, TraceContext};

use super::{Tag, Tracing};
use crate::message::{Known, RequestHead};
use crate::stream_info::StreamInfo;

/// The span of a request that is on its way.
#[derive(Debug)]
pub(crate) struct Span {
    pub ids: TraceContext,
    /// The name, where it is not the request's host.
    pub operation: Option<Arc<str>>,
    /// The headers that tell the client of it.
    pub announce: Option<Arc<str>>,
    pub(super) shared: bool,
}

impl Span {
    /// Ends the span: what was sampled goes to the collector.
    pub(crate) fn end(&self, tracing: &Tracing, shard: usize, info: &StreamInfo, head: &RequestHead) {
        if self.ids.sampling != Sampling::Drop {
            tracing.outbox.put(shard, self.json(tracing, info, head));
        }
    }

    fn json(&self, tracing: &Tracing, info: &StreamInfo, head: &RequestHead) -> String {
        let begun = info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = info.end.unwrap_or(info.start);
        let lasted = end.saturating_duration_since(info.start);
        let name = self.operation.as_deref().map_or_else(|| shown(&*head.authority), str::to_owned);
        let (kind, last) = if tracing.egress { ("CLIENT", "cr") } else { ("SERVER", "ss") };
        let span = zipkin_format::Span {
            trace_id: telemetry::trace_id_text(self.ids.trace_id),
            parent_id: self.ids.parent_span_id.map(|parent| format!("{parent:016x}")),
            id: format!("{:016x}", self.ids.span_id),
            kind: Some(kind),
            name: &name,
            timestamp: micros(begun),
            duration: micros(lasted),
            local_endpoint: Endpoint::at(&tracing.service, info.connection.local.ip(), 0),
            remote_endpoint: None,
            annotations: vec![Annotation { timestamp: micros(begun + lasted), value: last }],
            tags: tags(tracing, info, head),
            shared: self.shared,
        };
        // Strings and numbers always become JSON.
        serde_json::to_string(&span).unwrap_or_default()
    }
}

/// Envoy's tags, and those of the configuration.
fn tags(tracing: &Tracing, info: &StreamInfo, head: &RequestHead) -> BTreeMap<Cow<'static, str>, String> {
    let mut tags = BTreeMap::new();
    let mut tag = |name: &str, value: String| {
        if !value.is_empty() {
            tags.insert(name.to_owned().into(), value);
        }
    };
    let field = |known: Known| head.fields.get(known).map_or_else(|| "-".to_owned(), shown);
    tag("component", "proxy".to_owned());
    tag("guid:x-request-id", head.fields.get(Known::XRequestId).map(shown).unwrap_or_default());
    let path = head.fields.get(Known::XEnvoyOriginalPath).unwrap_or(&head.path);
    let path = shown(path.get(..tracing.max_path).unwrap_or(path));
    tag("http.url", format!("{}://{}{path}", head.scheme(), shown(&*head.authority)));
    tag("http.method", head.method.as_str().to_owned());
    tag("downstream_cluster", field(Known::XEnvoyDownstreamServiceCluster));
    tag("user_agent", field(Known::UserAgent));
    tag("http.protocol", info.version.as_str().to_owned());
    tag("peer.address", info.connection.peer.ip().to_string());
    tag("guid:x-client-trace-id", head.fields.get("x-client-trace-id").map(shown).unwrap_or_default());
    tag("node_id", tracing.node.to_string());
    tag("request_size", info.bytes_received.to_string());
    tag("response_size", info.bytes_sent.to_string());
    tag("response_flags", info.flags.short());
    tag("http.status_code", info.status.to_string());
    if let Some(cluster) = &info.cluster {
        tag("upstream_cluster", cluster.to_string());
        tag("upstream_cluster.name", cluster.to_string());
    }
    if info.status == 0 || info.status >= 500 {
        tag("error", "true".to_owned());
    }
    for (name, value) in &tracing.tags {
        let value = match value {
            Tag::Fixed(text) => text.to_string(),
            Tag::Header(field, default) => head.get(field).map_or_else(|| default.to_string(), shown),
        };
        tag(name, value);
    }
    tags
}

fn shown(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}
