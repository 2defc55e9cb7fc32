//! The client's side of one exchange: an enum over the protocol versions with a few verbs.
//!
//! Reading and writing are two fields, so that `exchange` can wait for both at once. Every verb may be dropped while it waits
//! (in a `select!`) and called again without losing anything.
//! Made by `connection`; used by `exchange`; calls `http1` and `http2`.

use bytes::Bytes;

use crate::error::DownstreamError;
use crate::message::{Fields, Frame, ResponseHead};
use crate::{http1, http2};

/// One request and its answer.
pub struct Downstream<'c> {
    pub rx: RequestBody<'c>,
    pub tx: ResponseWriter<'c>,
}

/// Where the request's body comes from.
pub enum RequestBody<'c> {
    Http1(http1::RequestBody<'c>),
    Http2(http2::RequestBody),
}

/// Where the answer goes.
pub enum ResponseWriter<'c> {
    Http1(http1::ResponseWriter<'c>),
    Http2(http2::ResponseWriter),
}

impl RequestBody<'_> {
    /// Whether the whole request has been received (true at once for one without a body).
    pub fn is_end(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end(),
            Self::Http2(body) => body.is_end(),
        }
    }

    /// The next piece; `Frame::End` or trailers come once, at the end. Taking it makes room for more (back-pressure).
    pub async fn next(&mut self) -> Result<Frame, DownstreamError> {
        match self {
            Self::Http1(body) => body.next().await,
            Self::Http2(body) => body.next().await,
        }
    }

    /// After the end of the request: waits until the client goes away, and says how.
    pub async fn closed(&mut self) -> DownstreamError {
        match self {
            Self::Http1(body) => body.closed().await,
            Self::Http2(body) => body.closed().await,
        }
    }
}

impl ResponseWriter<'_> {
    /// Sends an interim (1xx) head.
    pub async fn interim(&mut self, head: &ResponseHead) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.interim(head).await,
            Self::Http2(writer) => writer.interim(head),
        }
    }

    /// The head of the answer; with `end`, the answer is whole. Without, it may wait in a buffer for the first data or a `flush`.
    pub async fn head(&mut self, head: &ResponseHead, end: bool) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.head(head, end).await,
            Self::Http2(writer) => writer.head(head, end),
        }
    }

    /// A piece of the body; waits while the client does not take it.
    pub async fn data(&mut self, data: Bytes, end: bool) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.data(data, end).await,
            Self::Http2(writer) => writer.data(data, end).await,
        }
    }

    /// Trailers, which end the answer.
    pub async fn trailers(&mut self, trailers: &Fields) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.trailers(trailers).await,
            Self::Http2(writer) => writer.trailers(trailers),
        }
    }

    /// Whether something waits for a `flush`.
    pub fn needs_flush(&self) -> bool {
        match self {
            Self::Http1(writer) => writer.needs_flush(),
            Self::Http2(_) => false,
        }
    }

    /// Sends what waits in the buffer.
    pub async fn flush(&mut self) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.flush().await,
            Self::Http2(_) => Ok(()),
        }
    }

    /// Gives up on an answer that has begun: HTTP/1 will close the connection, HTTP/2 resets the stream.
    pub fn reset(&mut self) {
        match self {
            Self::Http1(writer) => writer.reset(),
            Self::Http2(writer) => writer.reset(),
        }
    }
}
