//! The upstream's side of one try: an enum over the protocol versions with a few verbs, the mirror of `downstream`.
//!
//! Every verb may be dropped while it waits and called again without losing anything.

use bytes::Bytes;

use crate::error::UpstreamError;
pub use crate::message::HeadKind;
use crate::message::{Fields, Frame, RequestHead, ResponseHead};
use crate::{http1, http2};

/// Where the request goes.
pub enum RequestWriter {
    Http1(http1::RequestWriter),
    Http2(http2::RequestWriter),
}

/// Where the answer comes from.
pub enum ResponseReader {
    Http1(http1::ResponseReader),
    Http2(http2::ResponseReader),
}

impl RequestWriter {
    /// The request's head; with `end`, it is whole and sent at once. Without, it may wait for the first data or a `flush`.
    pub async fn head(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(writer) => writer.head(head, end).await,
            Self::Http2(writer) => writer.head(head, end).await,
        }
    }

    /// A piece of the body: taken at once, even if the future is dropped. Waits while the upstream does not take it.
    pub fn data(&mut self, data: Bytes, end: bool) -> impl Future<Output = Result<(), UpstreamError>> {
        match self {
            Self::Http1(writer) => writer.take(data, end),
            Self::Http2(writer) => writer.take(data, end),
        }
        self.flush()
    }

    /// Trailers, which end the request.
    pub async fn trailers(&mut self, trailers: &Fields) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(writer) => writer.trailers(trailers).await,
            Self::Http2(writer) => writer.trailers(trailers).await,
        }
    }

    /// Whether something waits for a `flush`.
    pub fn needs_flush(&self) -> bool {
        match self {
            Self::Http1(writer) => writer.needs_flush(),
            Self::Http2(writer) => writer.needs_flush(),
        }
    }

    /// Sends what waits; never resolves when there is nothing.
    pub async fn flush_waiting(&mut self) -> Result<(), UpstreamError> {
        if self.needs_flush() { self.flush().await } else { std::future::pending().await }
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(writer) => writer.flush().await,
            Self::Http2(writer) => writer.flush().await,
        }
    }

    /// The upgrade was accepted: data now goes as it is, and its end ends our side.
    pub fn tunnel(&mut self) {
        match self {
            Self::Http1(writer) => writer.tunnel(),
            Self::Http2(_) => {}
        }
    }

    /// Gives up on the request: HTTP/1 closes the connection when both sides are dropped, HTTP/2 resets the stream.
    pub fn reset(&mut self) {
        match self {
            Self::Http1(_) => {}
            Self::Http2(writer) => writer.reset(),
        }
    }
}

impl ResponseReader {
    /// The next head, into a reused one.
    pub async fn head(&mut self, head: &mut ResponseHead) -> Result<HeadKind, UpstreamError> {
        match self {
            Self::Http1(reader) => reader.head(head).await,
            Self::Http2(reader) => reader.head(head).await,
        }
    }

    /// Whether the whole answer has been received: known with the last data where the framing tells.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Http1(reader) => reader.is_end(),
            Self::Http2(reader) => reader.is_end(),
        }
    }

    /// The next piece of the body; `Frame::End` or trailers come once, at the end.
    pub async fn next(&mut self) -> Result<Frame, UpstreamError> {
        match self {
            Self::Http1(reader) => reader.next().await,
            Self::Http2(reader) => reader.next().await,
        }
    }
}
