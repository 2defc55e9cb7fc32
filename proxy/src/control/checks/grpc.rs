//! A gRPC check: a call of grpc.health.v1.Health/Check, which passes when the service says that it is serving.
//!
//! The two messages have one field each, so that they are written and read here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;

use super::connection::{Connection, change};
use crate::cluster::health::{GrpcProbe, Outcome};
use crate::message::{Authority, Method, RequestHead, Version};

/// Bytes of a response; its message has two.
const LIMIT: usize = 64 * 1024;
/// Before each message: one byte that says whether it is compressed, four of its length.
const PREFIX: usize = 5;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `ServingStatus.SERVING`.
const SERVING: i32 = 1;

pub(super) struct Checker {
    probe: Arc<GrpcProbe>,
    address: SocketAddr,
    head: RequestHead,
    reuse: bool,
    connection: Option<Connection>,
}

impl Checker {
    pub(super) fn new(
        probe: Arc<GrpcProbe>,
        address: SocketAddr,
        hostname: &str,
        reuse: bool,
        timeout: Duration,
    ) -> Self {
        let mut head = RequestHead {
            version: Version::Http2,
            method: Method::Post,
            authority: Authority::new(super::host(hostname, &probe.authority)).unwrap_or_default(),
            path: "/grpc.health.v1.Health/Check".into(),
            ..RequestHead::default()
        };
        head.fields.push("te", b"trailers");
        head.fields.push("content-type", b"application/grpc");
        head.fields.push("user-agent", b"Envoy/HC");
        head.fields.push("grpc-timeout", format_args!("{}m", crate::time::millis(timeout)));
        Self { probe, address, head, reuse, connection: None }
    }

    pub(super) fn give_up(&mut self) {
        self.connection = None;
    }

    pub(super) async fn ask(&mut self) -> Outcome {
        let opened = Connection::kept_or_new(self.connection.take(), self.address, true).await;
        let Some(mut connection) = opened else { return Outcome::Network };
        let mut head = self.head.clone();
        change(&mut head, &self.probe.headers, self.address);
        let Some(response) = connection.send(&head, self.message()).await else { return Outcome::Network };
        let Some(serving) = serving(response).await else { return Outcome::Network };
        self.connection = Some(connection).filter(|_| self.reuse);
        if serving {
            Outcome::Passed { degraded: false }
        } else {
            Outcome::Failed { retriable: false, exclude: false }
        }
    }

    /// The request's message with its prefix.
    fn message(&self) -> Bytes {
        let message = Request { service: self.probe.service.clone() }.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        [&[0][..], &length.to_be_bytes(), &message].concat().into()
    }
}

/// Whether a response is whole, good, and says that the service is serving. `None` when it breaks
/// off.
async fn serving(response: http::Response<Incoming>) -> Option<bool> {
    let (parts, mut body) = response.into_parts();
    let grpc = crate::message::is_grpc_content_type(
        parts.headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes),
    );
    if parts.status != http::StatusCode::OK || !grpc {
        return Some(false);
    }
    let mut bytes = Vec::new();
    let mut status = None;
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) if bytes.len() + data.len() <= LIMIT => bytes.extend_from_slice(&data),
            Ok(_) => return Some(false),
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                status = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
            }
        }
    }
    Some(status.is_some_and(|status| status == "0") && says_serving(&bytes))
}

/// Whether the bytes are one message that is not compressed and says that the service is serving.
fn says_serving(bytes: &[u8]) -> bool {
    let Some((prefix, message)) = bytes.split_at_checked(PREFIX) else { return false };
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let whole = matches!(prefix, [0, rest @ ..] if *rest == length);
    whole && Response::decode(message).is_ok_and(|response| response.status == SERVING)
}
