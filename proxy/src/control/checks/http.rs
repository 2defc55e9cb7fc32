//! An HTTP check: a request, and whether its response passes.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::connection::{Connection, change};
use crate::cluster::health::{HttpProbe, Outcome, holds};
use crate::message::{Authority, Path, RequestHead, Version};
use crate::stats::{HealthCheckStats, Scope};

/// Bytes of a body that are kept where the check sets no limit.
const BODY_LIMIT: usize = 1 << 20;

pub(super) struct Checker {
    probe: Arc<HttpProbe>,
    address: SocketAddr,
    head: RequestHead,
    reuse: bool,
    stats: (Arc<Scope<HealthCheckStats>>, usize),
    connection: Option<Connection>,
}

impl Checker {
    pub(super) fn new(
        probe: Arc<HttpProbe>,
        address: SocketAddr,
        hostname: &str,
        reuse: bool,
        stats: (Arc<Scope<HealthCheckStats>>, usize),
    ) -> Self {
        let head = RequestHead {
            version: if probe.http2 { Version::Http2 } else { Version::Http11 },
            method: probe.method.clone(),
            authority: Authority::new(super::host(hostname, &probe.host)).unwrap_or_default(),
            path: Path::new(&*probe.path).unwrap_or_default(),
            ..RequestHead::default()
        };
        Self { probe, address, head, reuse, stats, connection: None }
    }

    pub(super) fn give_up(&mut self) {
        self.connection = None;
    }

    pub(super) async fn ask(&mut self) -> Outcome {
        let opened = Connection::kept_or_new(self.connection.take(), self.address, self.probe.http2).await;
        let Some(mut connection) = opened else { return Outcome::Network };
        let (head, body) = self.request();
        let Some(response) = connection.send(&head, body).await else { return Outcome::Network };
        let (parts, body) = response.into_parts();
        let Some(body) = self.body(body).await else { return Outcome::Network };
        let closes = parts
            .headers
            .get(http::header::CONNECTION)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        self.connection = Some(connection).filter(|_| self.reuse && !closes);
        self.outcome(parts.status.as_u16(), &parts.headers, &body)
    }

    fn request(&self) -> (RequestHead, Bytes) {
        let mut head = self.head.clone();
        head.fields.push("user-agent", b"Envoy/HC");
        change(&mut head, &self.probe.headers, self.address);
        (head, Bytes::from(self.probe.body.clone()))
    }

    /// The part of the body that is searched; the rest is read and dropped. `None` if it is cut
    /// off.
    async fn body(&self, mut body: Incoming) -> Option<Vec<u8>> {
        let wanted =
            if self.probe.receive.is_empty() { 0 } else { self.probe.body_limit.unwrap_or(BODY_LIMIT) };
        let mut kept = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.ok()?.into_data() {
                let room = wanted.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
        }
        Some(kept)
    }

    fn outcome(&self, status: u16, headers: &http::HeaderMap, body: &[u8]) -> Outcome {
        let exclude = headers.contains_key("x-envoy-immediate-health-check-fail");
        if !holds(body, &self.probe.receive) {
            return Outcome::Failed { retriable: false, exclude };
        }
        let within =
            |ranges: &[(u16, u16)]| ranges.iter().any(|(start, end)| (*start..*end).contains(&status));
        if !within(&self.probe.expected) {
            return Outcome::Failed { retriable: within(&self.probe.retriable), exclude };
        }
        if let Some(matcher) = &self.probe.service_name {
            let (stats, shard) = &self.stats;
            stats.shard(*shard).verify_cluster.inc();
            let name = headers.get("x-envoy-upstream-healthchecked-cluster");
            if !matcher.matches(name.map(http::HeaderValue::as_bytes).unwrap_or_default()) {
                return Outcome::Failed { retriable: false, exclude: false };
            }
        }
        Outcome::Passed { degraded: headers.contains_key("x-envoy-degraded") }
    }
}
