//! Answers as the real server frames them.
//!
//! Go's HTTP server collects what a handler writes in a buffer of 2048 bytes: a body that fits has a Content-Length, a
//! longer one goes out chunked, cut where the buffer was full, and a single write larger than an empty buffer is a
//! chunk of its own. Clients see exactly these borders, so they are reproduced here (`Chunker`).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde_json::Value;

use crate::status::Status;
use crate::store::object::random_uid;

/// Size of the buffer between a handler and the connection in Go's net/http.
const BUFFER: usize = 2048;

/// The body of an answer.
pub enum Body {
    /// Known length.
    Whole(Bytes),
    /// Chunked, all there.
    Chunks(VecDeque<Bytes>),
    /// Chunked, made as it is read.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

/// Cuts writes into chunks as Go's buffered writer does.
#[derive(Debug, Default)]
pub struct Chunker {
    buffer: BytesMut,
    /// The chunks that are ready to be sent.
    pub chunks: VecDeque<Bytes>,
}

impl Chunker {
    /// One write of a handler.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while bytes.len() > BUFFER - self.buffer.len() {
            if self.buffer.is_empty() {
                self.chunks.push_back(Bytes::copy_from_slice(bytes));
                return;
            }
            let (head, rest) = bytes.split_at(BUFFER - self.buffer.len());
            self.buffer.extend_from_slice(head);
            self.flush();
            bytes = rest;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Makes a chunk of what is buffered.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.chunks.push_back(self.buffer.split().freeze());
        }
    }

    /// The body of a handler that has returned.
    pub fn finish(mut self) -> Body {
        if self.chunks.is_empty() {
            return Body::Whole(self.buffer.freeze());
        }
        self.flush();
        Body::Chunks(self.chunks)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(std::mem::take(bytes)),
            Self::Chunks(chunks) => chunks.pop_front(),
            Self::Stream(stream) => match stream.as_mut().poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next,
            },
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

/// An answer with this body in JSON.
pub fn json_body(code: StatusCode, body: Body) -> Response<Body> {
    typed(code, "application/json", body)
}

/// One JSON document, as one write with the newline that the real server ends it with.
pub fn json(code: StatusCode, document: &[u8]) -> Response<Body> {
    let mut chunker = Chunker::default();
    let mut bytes = document.to_vec();
    bytes.push(b'\n');
    chunker.write(&bytes);
    json_body(code, chunker.finish())
}

/// One JSON value.
pub fn value(code: StatusCode, value: &Value) -> Response<Body> {
    json(code, value.to_string().as_bytes())
}

/// A `Status`, with the headers that belong to its code.
pub fn status(status: &Status) -> Response<Body> {
    let mut response = json(status.http_status(), status_json(status).as_bytes());
    let headers = response.headers_mut();
    if status.http_status() == StatusCode::FORBIDDEN {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|&s| s > 0) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A `Status` as JSON.
pub fn status_json(status: &Status) -> String {
    // A struct of texts and numbers always serialises.
    serde_json::to_string(status).unwrap_or_default()
}

/// Plain text with a newline where the real server's `http.Error` puts one.
pub fn text(code: StatusCode, text: &'static str) -> Response<Body> {
    let mut response =
        typed(code, "text/plain; charset=utf-8", Body::Whole(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// 429 as priority and fairness sends it: not a `Status`.
pub fn throttled() -> Response<Body> {
    let mut response = text(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The headers every answer carries.
pub fn decorate(headers: &mut HeaderMap, classified: bool) {
    if let Ok(id) = HeaderValue::from_str(&random_uid()) {
        headers.insert("audit-id", id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if classified {
        // Which flow schema of priority and fairness the request fell under; there is only one here.
        let uid = HeaderValue::from_static("00000000-0000-4000-8000-000000000001");
        headers.insert("x-kubernetes-pf-flowschema-uid", uid.clone());
        headers.insert("x-kubernetes-pf-prioritylevel-uid", uid);
    }
}

fn typed(code: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(writes: &[usize]) -> Vec<usize> {
        let mut chunker = Chunker::default();
        for &size in writes {
            chunker.write(&vec![b'x'; size]);
        }
        match chunker.finish() {
            Body::Chunks(chunks) => chunks.iter().map(Bytes::len).collect(),
            Body::Whole(_) => Vec::new(),
            Body::Stream(_) => panic!("not a stream"),
        }
    }

    #[test]
    fn chunks_end_where_the_buffer_is_full_and_large_writes_stand_alone() {
        assert_eq!(chunks(&[100, 1900]), [0_usize; 0], "2000 bytes fit: Content-Length");
        assert_eq!(chunks(&[100, 3000]), [2048, 1052]);
        assert_eq!(chunks(&[3000]), [3000]);
        assert_eq!(chunks(&[2000, 5000, 10]), [2048, 4952, 10]);
    }
}
