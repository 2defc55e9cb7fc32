//! HTTP/2 by the `h2` crate, adapted to our heads and frames, for both sides.
//!
//! `h2` owns framing, flow control and the defences against floods; heads are converted at this border alone (`convert`).

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

mod client;
mod convert;
mod sender;
mod server;

pub use client::{ClientConnection, Driver, RequestWriter, ResponseReader};
pub use server::{Accepted, RequestBody, ResponseWriter, ServerConnection};

/// Connection options (`http2_protocol_options`), Envoy's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    /// The largest header table that the peer may use (`hpack_table_size`).
    pub header_table_size: u32,
    /// Extended CONNECT (RFC 8441) is offered to clients.
    pub allow_connect: bool,
    /// Bytes that one stream may hold back for a slow reader.
    pub send_buffer: usize,
    /// Bytes of a head beyond which its stream is reset.
    pub max_head_bytes: usize,
    /// Fields of a head beyond which its stream is reset; cookies count one by one.
    pub max_fields: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window: 16 << 20,
            initial_connection_window: 24 << 20,
            header_table_size: 4096,
            allow_connect: false,
            send_buffer: 64 * 1024,
            max_head_bytes: 60 * 1024,
            max_fields: 100,
        }
    }
}

impl Options {
    /// What `h2` decodes of a head at most: room to judge by our own limit first, but no room for header bombs.
    fn decode_limit(&self) -> u32 {
        u32::try_from(self.max_head_bytes.saturating_mul(4)).unwrap_or(u32::MAX)
    }
}

/// Bytes that went through a connection; shared with whoever counts.
#[derive(Clone, Debug, Default)]
pub struct Counts(Rc<(Cell<u64>, Cell<u64>)>);

impl Counts {
    /// Bytes received and sent since the last call.
    pub fn take(&self) -> (u64, u64) {
        (self.0.0.take(), self.0.1.take())
    }

    fn add(cell: &Cell<u64>, more: usize) {
        cell.set(cell.get().wrapping_add(more as u64));
    }
}

/// A socket whose first bytes were read already.
#[derive(Debug)]
struct Io {
    front: Bytes,
    stream: TcpStream,
    counts: Counts,
}

impl Io {
    fn new(stream: TcpStream, front: Bytes) -> Self {
        let counts = Counts::default();
        Counts::add(&counts.0.0, front.len());
        Self { front, stream, counts }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.front.has_remaining() {
            let length = self.front.len().min(buf.remaining());
            buf.put_slice(&self.front.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        Counts::add(&self.counts.0.0, buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count_sent(&sent);
        sent
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count_sent(&sent);
        sent
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Io {
    fn count_sent(&self, sent: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(sent)) = sent {
            Counts::add(&self.counts.0.1, *sent);
        }
    }
}

#[cfg(test)]
mod tests;
