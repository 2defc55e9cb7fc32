//! The client's side of one exchange: an enum over the protocol versions with a few verbs.
//!
//! Reading and writing are two fields, so that `exchange` can wait for both at once. Every verb may be dropped while it waits
//! (in a `select!`) and called again without losing anything.

use bytes::Bytes;

use crate::error::DownstreamError;
use crate::message::{Fields, Frame, ResponseHead};
use crate::{http1, http2};

/// One request and its response.
pub(crate) struct Downstream<'c> {
    pub rx: RequestBody<'c>,
    pub tx: ResponseWriter<'c>,
}

/// Where the request's body comes from.
pub(crate) enum RequestBody<'c> {
    Http1(http1::RequestBody<'c>),
    Http2(http2::RequestBody),
}

/// Where the response goes.
pub(crate) enum ResponseWriter<'c> {
    Http1(http1::ResponseWriter<'c>),
    Http2(http2::ResponseWriter),
}

impl RequestBody<'_> {
    /// Whether the whole request has been received (true at once for one without a body).
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end(),
            Self::Http2(body) => body.is_end(),
        }
    }

    /// The next piece; `Frame::End` or trailers come once, at the end. Taking it makes room for more (back-pressure).
    pub(crate) async fn next(&mut self) -> Result<Frame, DownstreamError> {
        match self {
            Self::Http1(body) => body.next().await,
            Self::Http2(body) => body.next().await,
        }
    }

    /// Drops what has been received of the body and waits unread.
    pub(crate) fn skip_received(&mut self) {
        match self {
            Self::Http1(body) => body.skip_received(),
            // A stream is over with its response.
            Self::Http2(_) => {}
        }
    }

    /// The upgrade was accepted: what follows is the tunnel's data, until the client ends its side.
    pub(crate) fn tunnel(&mut self) {
        match self {
            Self::Http1(body) => body.tunnel(),
            Self::Http2(_) => {}
        }
    }

    /// Waits until the client leaves, and says how. At any time: also while the body is unread, which
    /// is not lost. An HTTP/1 client that ends its side counts as gone, as in Envoy.
    pub(crate) async fn closed(&mut self) -> DownstreamError {
        match self {
            Self::Http1(body) => body.closed().await,
            Self::Http2(body) => body.closed().await,
        }
    }
}

impl ResponseWriter<'_> {
    /// Sends an interim (1xx) head.
    pub(crate) async fn interim(&mut self, head: &ResponseHead) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.interim(head).await,
            Self::Http2(writer) => writer.interim(head),
        }
    }

    /// The head of the response; with `end`, the response is whole. Without, it may wait in a buffer for the first data or a `flush`.
    pub(crate) async fn head(&mut self, head: &ResponseHead, end: bool) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.head(head, end).await,
            Self::Http2(writer) => writer.head(head, end),
        }
    }

    /// The connection closes after this response, which announces it unless its head was already
    /// sent. HTTP/2 drains by GOAWAY instead. True when that is new.
    pub(crate) fn close_after(&mut self) -> bool {
        match self {
            Self::Http1(writer) => writer.close_after(),
            Self::Http2(_) => false,
        }
    }

    /// Whether the head of this response announces that the connection closes.
    pub(crate) fn announces_close(&self, head: &ResponseHead) -> bool {
        match self {
            Self::Http1(writer) => writer.announces_close(head),
            Self::Http2(_) => false,
        }
    }

    /// A piece of the body: taken at once, even if the future is dropped. Waits while the client does not take it.
    pub(crate) fn data(
        &mut self,
        data: Bytes,
        end: bool,
    ) -> impl Future<Output = Result<(), DownstreamError>> {
        let taken = match self {
            Self::Http1(writer) => writer.take(data, end),
            Self::Http2(writer) => {
                writer.take(data, end);
                Ok(())
            }
        };
        async move {
            taken?;
            self.flush().await
        }
    }

    /// Trailers, which end the response.
    pub(crate) async fn trailers(&mut self, trailers: &Fields) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.trailers(trailers).await,
            Self::Http2(writer) => writer.trailers(trailers).await,
        }
    }

    /// Whether something waits for a `flush`.
    fn needs_flush(&self) -> bool {
        match self {
            Self::Http1(writer) => writer.needs_flush(),
            Self::Http2(writer) => writer.needs_flush(),
        }
    }

    /// Sends what waits in the buffer; never resolves when there is nothing.
    pub(crate) async fn flush_waiting(&mut self) -> Result<(), DownstreamError> {
        if self.needs_flush() { self.flush().await } else { std::future::pending().await }
    }

    /// Sends what waits in the buffer.
    pub(crate) async fn flush(&mut self) -> Result<(), DownstreamError> {
        match self {
            Self::Http1(writer) => writer.flush().await,
            Self::Http2(writer) => writer.flush().await,
        }
    }

    /// Gives up on a response that has begun: HTTP/1 will close the connection, HTTP/2 resets the
    /// stream.
    pub(crate) fn reset(&mut self) {
        match self {
            Self::Http1(writer) => writer.reset(),
            Self::Http2(writer) => writer.reset(),
        }
    }
    /// The connection behind a CONNECT failed (RFC 9113, 8.5).
    pub(crate) fn reset_connect(&mut self) {
        match self {
            Self::Http1(writer) => writer.reset(),
            Self::Http2(writer) => writer.reset_connect(),
        }
    }
}
