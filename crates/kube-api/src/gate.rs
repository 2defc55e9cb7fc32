//! The gate around each connection: lets bytes through, holds them back, or breaks off in the middle of a write.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch::Receiver;

use crate::faults::Gate;

/// A connection behind the gate.
pub struct Gated<S> {
    stream: S,
    gate: Receiver<Gate>,
    // The truncations before the connection began, which are not meant for it.
    truncations: u64,
    // Wakes the connection when the gate changes.
    changed: Pin<Box<dyn Future<Output = Receiver<Gate>> + Send>>,
    broken: bool,
    // Whether writes may be truncated here, or only held back.
    truncates: bool,
}

impl<S> Gated<S> {
    /// A gate that only freezes.
    pub fn frozen_only(stream: S, gate: Receiver<Gate>) -> Self {
        Self { truncates: false, ..Self::new(stream, gate) }
    }

    /// A gate that freezes and truncates.
    pub fn new(stream: S, gate: Receiver<Gate>) -> Self {
        let truncations = gate.borrow().truncations;
        Self { stream, changed: next_change(gate.clone()), gate, truncations, broken: false, truncates: true }
    }

    // Ready when bytes may pass, with whether this write is to be truncated.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        loop {
            let gate = *self.gate.borrow();
            // Polled even when open, for the waker that a later freeze and thaw needs.
            if let Poll::Ready(receiver) = self.changed.as_mut().poll(context) {
                self.changed = next_change(receiver);
                continue;
            }
            if gate.frozen {
                return Poll::Pending;
            }
            return Poll::Ready(self.truncates && gate.truncations > self.truncations);
        }
    }
}

fn next_change(mut gate: Receiver<Gate>) -> Pin<Box<dyn Future<Output = Receiver<Gate>> + Send>> {
    Box::pin(async move {
        if gate.changed().await.is_err() {
            // The server is gone, and with it soon the connection.
            std::future::pending::<()>().await;
        }
        gate
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Gated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context));
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let truncate = ready!(self.poll_open(context));
        if self.broken {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if !truncate {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        let written =
            ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[..bytes.len().div_ceil(2)]))?;
        self.broken = true;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
