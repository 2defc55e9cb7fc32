//! The two halves of a socket with what waits in front of them: bytes received but not understood, bytes written but not sent.
//!
//! Reading goes through one scratch buffer for each thread, so that an idle connection holds no buffer at all.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The size of the scratch buffer; a read takes what the socket has, between `MIN_READ` and this.
const SCRATCH: usize = 64 * 1024;
const MIN_READ: usize = 16 * 1024;
/// A read at least this large is passed on where it lies; smaller ones are copied, so that they do not pin the scratch buffer.
const SHARE: usize = 4 * 1024;
/// Data up to this size is copied behind the head and sent with it in one write.
const SMALL: usize = 8 * 1024;
/// An output buffer larger than this is given back when it is empty.
const KEEP: usize = 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<BytesMut> = RefCell::default();
}

#[derive(Debug)]
pub(super) struct Input {
    half: OwnedReadHalf,
    /// Received and not yet taken.
    pub(super) rest: BytesMut,
    received: u64,
}

#[derive(Debug)]
pub(super) struct Output {
    half: OwnedWriteHalf,
    /// Sent first: heads, chunk lines, small data.
    buffer: Vec<u8>,
    /// How much of `buffer` has been sent.
    at: usize,
    /// Sent behind `buffer`, without a copy.
    data: Bytes,
    /// Sent last.
    tail: Vec<u8>,
    sent: u64,
}

impl Input {
    pub(super) fn new(half: OwnedReadHalf, rest: BytesMut) -> Self {
        let received = rest.len() as u64;
        Self { half, rest, received }
    }

    /// Bytes received since the last call, for statistics.
    pub(super) fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// Whether the socket has something to read, or has ended; costs no system call.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let stream: &TcpStream = self.half.as_ref();
        stream.poll_read_ready(cx).map(|_| ())
    }

    /// Waits until the peer has ended or reset the connection, whatever it sent before.
    pub(super) async fn peer_closed(&self) {
        peer_closed(self.half.as_ref()).await;
    }

    /// Reads once; 0 is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read(cx, |rest, scratch| {
            let read = scratch.len();
            if rest.is_empty() && read >= SHARE {
                *rest = scratch.split();
            } else {
                rest.extend_from_slice(scratch);
            }
            read
        })
    }

    /// Reads once and shows the bytes where they lie; `parse` moves to `rest` what it does not use. Only while `rest` is empty.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl FnOnce(&mut BytesMut, &mut BytesMut) -> T,
    ) -> Poll<io::Result<T>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            scratch.clear();
            if scratch.capacity() < MIN_READ {
                scratch.reserve(SCRATCH);
            }
            let read = ready!(pin!(self.half.read_buf(scratch)).poll(cx))?;
            self.received += read as u64;
            Poll::Ready(Ok(parse(&mut self.rest, scratch)))
        })
    }

    /// Whether an idle connection has ended or holds bytes that nobody asked for; no system call while nothing came.
    pub(super) fn is_disturbed(&self) -> bool {
        let mut byte = [0];
        !self.rest.is_empty()
            || !matches!(self.half.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Lets go of the buffer of a connection that waits.
    pub(super) fn release(&mut self) {
        if self.rest.is_empty() {
            self.rest = BytesMut::new();
        }
    }

    pub(super) fn into_half(self) -> (OwnedReadHalf, BytesMut) {
        (self.half, self.rest)
    }
}

/// Waits until the peer has ended or reset a connection; what it sent before stays unread.
pub async fn peer_closed(stream: &TcpStream) {
    // Tokio reports a closed reading side to those who wait for urgent data, which we never ask for.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let closed = Interest::PRIORITY;
    // Elsewhere only a reset is noticed before the data has been read.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let closed = Interest::ERROR;
    // An error is an end, too.
    let _ = stream.ready(closed).await;
}

impl Output {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, buffer: Vec::new(), at: 0, data: Bytes::new(), tail: Vec::new(), sent: 0 }
    }

    /// Bytes sent since the last call, for statistics.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent)
    }

    /// Where heads and chunk lines are appended: behind everything given before.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.data.is_empty() { &mut self.buffer } else { &mut self.tail }
    }

    /// Takes data: small pieces into the buffer, one large piece as it is.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= SMALL || !self.data.is_empty() {
            self.buffer().extend_from_slice(&data);
        } else {
            self.data = data;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.buffer.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Sends everything that waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let front = self.buffer.get(self.at..).unwrap_or_default();
            let half = Pin::new(&mut self.half);
            let sent = if self.data.is_empty() && self.tail.is_empty() {
                ready!(half.poll_write(cx, front))?
            } else {
                let parts = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(&self.tail)];
                ready!(half.poll_write_vectored(cx, &parts))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent as u64;
        let front = sent.min(self.buffer.len() - self.at);
        self.at += front;
        let middle = (sent - front).min(self.data.len());
        self.data.advance(middle);
        if self.data.is_empty() && self.at == self.buffer.len() {
            self.tail.drain(..sent - front - middle);
            self.buffer.clear();
            self.at = 0;
            self.data = Bytes::new();
            std::mem::swap(&mut self.buffer, &mut self.tail);
            if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
                self.buffer = Vec::new();
            }
            if self.tail.capacity() > KEEP {
                self.tail = Vec::new();
            }
        }
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(cx)
    }

    pub(super) fn into_half(self) -> OwnedWriteHalf {
        self.half
    }
}
