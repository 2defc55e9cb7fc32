//! HTTP/2 by the `h2` crate, adapted to our heads and frames, for both sides.
//!
//! `h2` owns framing, flow control and the defences against floods; heads are converted at this border alone (`convert`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::message::{Fields, Invalid};

mod client;
mod convert;
mod scan;
mod sender;
mod server;

use scan::FrameScan;

pub(crate) use client::{ClientConnection, Driver, RequestWriter, ResponseReader};
pub(crate) use server::{Accepted, RequestBody, ResponseWriter, ServerConnection};

/// Connection options (`http2_protocol_options`), Envoy's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    /// Whether the window of an upstream connection grows with its streams, so that responses that
    /// nobody reads do not hold up others. A window that the file sets stays as it is.
    pub connection_window_grows: bool,
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
            connection_window_grows: true,
            header_table_size: 4096,
            allow_connect: false,
            send_buffer: 64 * 1024,
            max_head_bytes: 60 * 1024,
            max_fields: 100,
        }
    }
}

impl Options {
    /// The most that `h2` decodes of headers: above our own limit, which applies first, and
    /// bounded. What is larger is an error of the protocol to `h2`.
    fn decode_limit(&self) -> u32 {
        const LEAST: usize = 512 * 1024;
        u32::try_from(self.max_head_bytes.saturating_mul(4).max(LEAST)).unwrap_or(u32::MAX)
    }
}

/// What went through a connection; shared with the code that counts it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(Rc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    received: Cell<u64>,
    sent: Cell<u64>,
    frames: Cell<Frames>,
    /// Field lines of headers that end a stream.
    lines: RefCell<VecDeque<(u32, usize)>>,
}

/// Frames that statistics or pools want to know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    pub rx_reset: u64,
    pub tx_reset: u64,
    pub rx_goaway: u64,
    pub tx_goaway: u64,
    /// Without acknowledgements.
    pub rx_settings: u64,
    /// HEADERS after the body, of clients alone.
    pub rx_trailers: u64,
}

impl Frames {
    pub(crate) fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

impl Counts {
    /// Bytes received and sent since the last call.
    pub(crate) fn take(&self) -> (u64, u64) {
        (self.0.received.take(), self.0.sent.take())
    }

    /// Frames received and sent since the last call.
    pub(crate) fn take_frames(&self) -> Frames {
        self.0.frames.take()
    }

    /// Notes the field lines of headers that end a stream; only what `h2` does not say.
    fn note_lines(&self, stream: u32, lines: usize) {
        let mut noted = self.0.lines.borrow_mut();
        if noted.len() >= MAX_NOTED {
            noted.pop_front();
        }
        noted.push_back((stream, lines));
    }

    /// What was noted of a stream, once.
    fn take_lines(&self, stream: u32) -> Option<usize> {
        let mut noted = self.0.lines.borrow_mut();
        let at = noted.iter().position(|(of, _)| *of == stream)?;
        noted.remove(at).map(|(_, lines)| lines)
    }

    /// Trailers that `h2` has received, without pseudo-headers (RFC 9113, 8.1): `h2` leaves those
    /// out, so that there are fewer fields than lines. Without a line they are an end like any other.
    fn trailers(&self, stream: u32, map: &HeaderMap) -> Result<Option<Fields>, Invalid> {
        match self.take_lines(stream) {
            Some(0) => Ok(None),
            Some(lines) if lines != map.len() => Err(Invalid),
            None if map.is_empty() => Err(Invalid),
            _ => {
                let mut fields = Fields::default();
                convert::fields_in(map, &mut fields)?;
                Ok(Some(fields))
            }
        }
    }

    /// SETTINGS came since the last call of `take_frames`.
    fn has_settings(&self) -> bool {
        self.0.frames.get().rx_settings > 0
    }

    fn add(cell: &Cell<u64>, more: usize) {
        cell.set(cell.get().saturating_add(more as u64));
    }
}

/// How many headers are noted; the oldest go first, and only those of a stream that nobody reads
/// stay that long.
const MAX_NOTED: usize = 256;

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// A socket whose first bytes were read already, and the count of what goes through it.
#[derive(Debug)]
struct Io {
    front: Bytes,
    stream: TcpStream,
    counts: Counts,
    received: FrameScan,
    sent: FrameScan,
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

impl Io {
    fn new(stream: TcpStream, front: Bytes, side: Side) -> Self {
        let (received, sent) = (FrameScan::new(side, true), FrameScan::new(side, false));
        let mut io = Self { front: Bytes::new(), stream, counts: Counts::default(), received, sent };
        io.count_received(&front);
        io.front = front;
        io
    }

    fn count_received(&mut self, bytes: &[u8]) {
        Counts::add(&self.counts.0.received, bytes.len());
        let frames = &self.counts.0.frames;
        self.received.scan(bytes, |found| {
            let mut now = frames.get();
            if let Some(lines) = found.lines {
                self.counts.note_lines(found.stream, lines);
            }
            match found.kind {
                RST_STREAM => now.rx_reset = now.rx_reset.saturating_add(1),
                GOAWAY => now.rx_goaway = now.rx_goaway.saturating_add(1),
                HEADERS if found.is_trailers => now.rx_trailers = now.rx_trailers.saturating_add(1),
                SETTINGS if found.flags & 1 == 0 => now.rx_settings = now.rx_settings.saturating_add(1),
                _ => return,
            }
            frames.set(now);
        });
    }

    fn count_sent(&mut self, bytes: &[u8]) {
        Counts::add(&self.counts.0.sent, bytes.len());
        let frames = &self.counts.0.frames;
        self.sent.scan(bytes, |found| {
            let mut now = frames.get();
            match found.kind {
                RST_STREAM => now.tx_reset = now.tx_reset.saturating_add(1),
                GOAWAY => now.tx_goaway = now.tx_goaway.saturating_add(1),
                _ => return,
            }
            frames.set(now);
        });
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
        let this = &mut *self;
        this.count_received(buf.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.count_sent(buf.get(..sent).unwrap_or_default());
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = sent;
        for buf in bufs {
            let written = left.min(buf.len());
            self.count_sent(buf.get(..written).unwrap_or_default());
            left -= written;
        }
        Poll::Ready(Ok(sent))
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

#[cfg(test)]
#[path = "../../tests/unit/http2.rs"]
mod tests;
