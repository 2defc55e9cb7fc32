//! A stream on a pooled connection: its two sides over either protocol, and its way back into the pool.
//!
//! Every verb may be dropped while it waits and called again without losing anything.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connect::Opened;
use super::pool::Pool;
use crate::cluster::ClusterPolicy;
use crate::error::UpstreamError;
pub(super) use crate::message::HeadKind;
use crate::message::{Fields, Frame, RequestHead, ResponseHead, Version};
use crate::stats::ClusterStats;
use crate::{http1, http2};

/// A request's stream to a host. Dropped before it is whole, it is reset: HTTP/1 closes the connection.
pub(crate) struct UpstreamStream {
    pub tx: RequestWriter,
    pub rx: ResponseReader,
    pub version: Version,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    lease: Lease,
}

/// How many streams the host was seen to allow.
#[derive(Default)]
pub(super) struct Allowance {
    /// SETTINGS came once: what `h2` allowed before that is not the host's word.
    settings: bool,
    last: Option<usize>,
}

impl Allowance {
    /// `h2` may take over a value only some time after the frame came, behind what it has to write.
    pub(super) fn has_changed(&mut self, settings: bool, allowed: usize) -> bool {
        self.settings |= settings;
        self.settings && self.last.replace(allowed) != Some(allowed)
    }
}

/// Room for one stream on a connection; it returns to the pool on drop, however the stream ends.
pub(super) struct Lease {
    connection: Rc<Connection>,
    started: bool,
    /// The host ended the connection under the stream.
    lost: bool,
}

/// An open connection.
pub(super) struct Connection {
    /// Taken when it is closed.
    opened: RefCell<Option<Opened>>,
    pool: Weak<Pool>,
    codec: Codec,
    local: Option<SocketAddr>,
    /// Streams at the moment, and in all.
    active: Cell<usize>,
    started: Cell<u64>,
    max_started: u64,
    max_active: usize,
    /// How many streams the host allows: one until it has said so over HTTP/2.
    allowed: Cell<usize>,
    draining: Cell<bool>,
    /// Over HTTP/2: the host said GOAWAY, or the connection is broken.
    gone: Cell<bool>,
    /// The pool's when it was opened.
    pub(super) epoch: u64,
    /// It is in the pool's list of those with room.
    pub(super) listed: Cell<bool>,
    /// Streams that the pool expects it to have room for once the host has said how many it allows.
    pub(super) unsettled: Cell<usize>,
    /// When its last stream ended.
    pub(super) idle_since: Cell<Instant>,
    idle_timeout: Option<Duration>,
    /// When `max_connection_duration` is over.
    ends: Option<Instant>,
}

/// What speaks on a connection.
pub(super) enum Codec {
    /// There while no stream uses it.
    Http1(RefCell<Option<http1::ClientConnection>>),
    Http2(http2::ClientConnection),
}

impl UpstreamStream {
    /// The host ended the connection under the stream.
    pub(crate) fn lost(&mut self) {
        self.lease.lost = true;
    }

    /// Counts a stream that ends here, where that is a reset. One of HTTP/1 is its connection, which
    /// is counted when it closes.
    pub(crate) fn end(&mut self, stats: &ClusterStats) {
        if let ResponseReader::Http1(rx) = &self.rx {
            // What ends a tunnel is said by who carries it.
            self.lease.lost |= rx.is_gone() && !rx.is_tunnel();
        }
        let (RequestWriter::Http2(tx), ResponseReader::Http2(rx)) = (&self.tx, &self.rx) else { return };
        match rx.failed() {
            Some(UpstreamError::RemoteReset) => stats.upstream_rq_rx_reset.inc(),
            Some(UpstreamError::RemoteRefused) => {}
            Some(UpstreamError::ConnectionTermination) => stats.upstream_rq_pending_failure_eject.inc(),
            _ if !tx.is_begun() || (tx.is_whole() && rx.is_end()) => {}
            _ => stats.upstream_rq_tx_reset.inc(),
        }
    }

    /// Ends a stream whose response is whole: an HTTP/1 connection serves another request when this
    /// request was sent whole, too.
    pub(crate) fn finish(self) {
        if let (RequestWriter::Http1(mut tx), ResponseReader::Http1(mut rx)) = (self.tx, self.rx) {
            self.lease.connection.count_bytes(rx.take_received(), tx.take_sent());
            let whole = tx.is_complete() && rx.is_end();
            let connection = &self.lease.connection;
            if let Codec::Http1(codec) = &connection.codec {
                let again = http1::ClientConnection::rejoin(tx, rx);
                if again.is_none() && whole {
                    // The host ended it with the response, or said that it will.
                    if !self.lease.lost {
                        connection.with_stats(|stats| stats.upstream_cx_close_notify.inc());
                    }
                    connection.close_with(self.lease.lost, false);
                }
                *codec.borrow_mut() = again;
            }
        }
    }
}

impl Lease {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        connection.active.set(connection.active.get().saturating_add(1));
        connection.started.set(connection.started.get().saturating_add(1));
        Self { connection, started: false, lost: false }
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.connection.is_stale()
    }

    /// Starts the stream, whose head will be `head`.
    pub(super) fn start(mut self, head: &RequestHead) -> Result<UpstreamStream, UpstreamError> {
        self.started = true;
        let connection = &self.connection;
        let (tx, rx, version) = match &connection.codec {
            Codec::Http1(codec) => {
                let codec = codec.take().ok_or(UpstreamError::ConnectionTermination)?;
                let (tx, rx) = codec.start(head);
                (RequestWriter::Http1(tx), ResponseReader::Http1(rx), Version::Http11)
            }
            Codec::Http2(codec) => {
                let (tx, rx) = codec.start(head);
                (RequestWriter::Http2(tx), ResponseReader::Http2(rx), Version::Http2)
            }
        };
        if connection.started.get() >= connection.max_started && !connection.draining.replace(true) {
            connection.with_stats(|stats| stats.upstream_cx_max_requests.inc());
        }
        Ok(UpstreamStream { tx, rx, version, local: connection.local, lease: self })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        let broken = matches!(&connection.codec, Codec::Http1(codec) if codec.borrow().is_none());
        if broken {
            connection.close(self.lost);
        }
        connection.active.set(connection.active.get().saturating_sub(1));
        if !self.started {
            connection.started.set(connection.started.get().saturating_sub(1));
        }
        if !broken && let Some(pool) = connection.pool.upgrade() {
            pool.returned(connection);
        }
    }
}

impl Codec {
    pub(super) fn http1(connection: http1::ClientConnection) -> Self {
        Self::Http1(RefCell::new(Some(connection)))
    }
}

impl Connection {
    pub(super) fn new(
        pool: &Rc<Pool>,
        opened: Opened,
        policy: &ClusterPolicy,
        local: Option<SocketAddr>,
        codec: Codec,
    ) -> Self {
        let max_active = match codec {
            Codec::Http1(_) => 1,
            Codec::Http2(_) => policy.http2.max_concurrent_streams as usize,
        };
        Self {
            opened: RefCell::new(Some(opened)),
            pool: Rc::downgrade(pool),
            codec,
            local,
            active: Cell::new(0),
            started: Cell::new(0),
            max_started: policy.max_requests_per_connection.map_or(u64::MAX, u64::from),
            max_active,
            allowed: Cell::new(1),
            draining: Cell::new(false),
            gone: Cell::new(false),
            epoch: pool.epoch.get(),
            listed: Cell::new(false),
            unsettled: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            idle_timeout: policy.idle_timeout,
            ends: policy.max_connection_duration.map(|most| Instant::now() + most),
        }
    }

    /// Whether another stream may be started.
    pub(super) fn has_room(&self) -> bool {
        let there = match &self.codec {
            Codec::Http1(codec) => codec.borrow().is_some(),
            Codec::Http2(_) => !self.gone.get(),
        };
        let room = self.active.get() < self.max_active.min(self.allowed.get());
        // Each connection serves one request at least.
        let is_old = self.started.get() > 0 && self.is_old();
        there && room && !self.draining.get() && self.started.get() < self.max_started && !is_old
    }

    /// Whether it has lasted as long as it may.
    pub(super) fn is_old(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    /// When it is closed if no request comes.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = self.idle_timeout.map(|timeout| self.idle_since.get() + timeout);
        idle.into_iter().chain(self.ends).min()
    }

    /// Whether the host has closed it, or sent unexpected bytes, or sent GOAWAY. No system
    /// call while nothing came.
    pub(super) fn is_stale(&self) -> bool {
        match &self.codec {
            Codec::Http1(codec) => codec.borrow().as_ref().is_none_or(http1::ClientConnection::is_stale),
            Codec::Http2(_) => self.gone.get(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// No more streams are started.
    pub(super) fn drain(&self) {
        self.draining.set(true);
    }

    /// How many requests wait for its permit.
    pub(super) fn wanted(&self) -> u32 {
        self.opened.borrow().as_ref().map_or(0, Opened::wanted)
    }

    /// It was idle for too long, or is too old.
    pub(super) fn count_timeout(&self) {
        self.with_stats(|stats| match self.is_old() {
            true => stats.upstream_cx_max_duration_reached.inc(),
            false => stats.upstream_cx_idle_timeout.inc(),
        });
    }

    fn count_bytes(&self, received: u64, sent: u64) {
        self.with_stats(|stats| {
            stats.upstream_cx_rx_bytes_total.add(received);
            stats.upstream_cx_tx_bytes_total.add(sent);
        });
    }

    fn with_stats(&self, count: impl FnOnce(&ClusterStats)) {
        if let Some(opened) = &*self.opened.borrow() {
            count(opened.stats());
        }
    }

    /// It is closed, by the host or by us: counted once, and its permit returned.
    pub(super) fn close(&self, remote: bool) {
        self.close_with(remote, self.active.get() > 0);
    }

    fn close_with(&self, remote: bool, active: bool) {
        self.draining.set(true);
        self.gone.set(true);
        let Some(opened) = self.opened.take() else { return };
        let stats = opened.stats();
        stats.upstream_rq_per_cx.record(self.started.get());
        if active {
            stats.upstream_cx_destroy_with_active_rq.inc();
        }
        match (remote, active) {
            (true, false) => stats.upstream_cx_destroy_remote.inc(),
            (false, false) => stats.upstream_cx_destroy_local.inc(),
            (true, true) => {
                stats.upstream_cx_destroy_remote.inc();
                stats.upstream_cx_destroy_remote_with_active_rq.inc();
            }
            (false, true) => {
                stats.upstream_cx_destroy_local.inc();
                stats.upstream_cx_destroy_local_with_active_rq.inc();
            }
        }
        drop(opened);
        if let Some(pool) = self.pool.upgrade() {
            pool.closed(self.unsettled.take());
        }
    }

    /// Runs an HTTP/2 connection until it ends, and passes the host's settings and GOAWAY to the
    /// pool.
    pub(super) async fn drive(connection: Weak<Self>, driver: http2::Driver, deadline: Instant) {
        let mut driver = pin!(driver);
        let mut allowance = Allowance::default();
        let mut silence = pin!(Some(tokio::time::sleep_until(deadline)));
        let ended = poll_fn(|cx| {
            let polled = driver.as_mut().poll(cx);
            if let Some(connection) = connection.upgrade() {
                connection.note_progress(&mut allowance);
                if allowance.settings {
                    silence.set(None);
                } else if silence.as_mut().as_pin_mut().is_some_and(|over| over.poll(cx).is_ready()) {
                    silence.set(None);
                    connection.note_silence();
                }
            }
            polled
        });
        let ended = ended.await;
        let Some(connection) = connection.upgrade() else { return };
        if let Some(pool) = connection.pool.upgrade() {
            pool.unlist(&connection);
        }
        // After a GOAWAY it is `h2` that closes the connection, with the last stream.
        let drained = ended.is_ok() && connection.draining.get();
        connection.close_with(!drained, !drained && connection.active.get() > 0);
    }

    /// No SETTINGS came in time. A stream that runs goes on, under its own timeouts.
    fn note_silence(self: &Rc<Self>) {
        if let Some(opened) = &*self.opened.borrow() {
            opened.count_timeout();
        }
        self.draining.set(true);
        if let Some(pool) = self.pool.upgrade() {
            pool.silent(self);
        }
    }

    fn note_progress(self: &Rc<Self>, allowance: &mut Allowance) {
        let Codec::Http2(codec) = &self.codec else { return };
        let (received, sent) = codec.take_counts();
        self.count_bytes(received, sent);
        let frames = codec.take_frames();
        if frames.is_any() {
            self.with_stats(|stats| {
                stats.http2_rx_reset.add(frames.rx_reset);
                stats.http2_tx_reset.add(frames.tx_reset);
                stats.http2_goaway_sent.add(frames.tx_goaway);
            });
        }
        // Read here, where it changes, so that no request has to ask the library.
        let allowed = codec.max_streams();
        self.allowed.set(allowed);
        if frames.rx_goaway > 0 || !codec.is_usable() {
            self.gone.set(true);
        }
        let Some(pool) = self.pool.upgrade() else { return };
        if frames.rx_goaway > 0 && !self.draining.replace(true) {
            self.with_stats(|stats| stats.upstream_cx_close_notify.inc());
            pool.draining(self);
        }
        if allowance.has_changed(frames.rx_settings > 0, allowed) {
            pool.settled(self, allowed);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// Where the request goes.
pub(crate) enum RequestWriter {
    Http1(http1::RequestWriter),
    Http2(http2::RequestWriter),
}

/// The receiving side: the response.
pub(crate) enum ResponseReader {
    Http1(http1::ResponseReader),
    Http2(http2::ResponseReader),
}

impl RequestWriter {
    /// The request's head; with `end`, it is whole and sent at once. Without, it may wait for the first data or a `flush`.
    pub(crate) async fn head(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(writer) => writer.head(head, end).await,
            Self::Http2(writer) => writer.head(head, end).await,
        }
    }

    /// A piece of the body: taken at once, even if the future is dropped. Waits while the upstream does not take it.
    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> impl Future<Output = Result<(), UpstreamError>> {
        match self {
            Self::Http1(writer) => writer.take(data, end),
            Self::Http2(writer) => writer.take(data, end),
        }
        self.flush()
    }

    /// Trailers, which end the request.
    pub(crate) async fn trailers(&mut self, trailers: &Fields) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(writer) => writer.trailers(trailers).await,
            Self::Http2(writer) => writer.trailers(trailers).await,
        }
    }

    /// Whether something waits for a `flush`.
    pub(crate) fn needs_flush(&self) -> bool {
        match self {
            Self::Http1(writer) => writer.needs_flush(),
            Self::Http2(writer) => writer.needs_flush(),
        }
    }

    /// Sends what waits; never resolves when there is nothing.
    pub(crate) async fn flush_waiting(&mut self) -> Result<(), UpstreamError> {
        if self.needs_flush() { self.flush().await } else { std::future::pending().await }
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(writer) => writer.flush().await,
            Self::Http2(writer) => writer.flush().await,
        }
    }

    /// The upgrade was accepted: data is now sent as it is, and its end ends our side.
    pub(crate) fn tunnel(&mut self) {
        match self {
            Self::Http1(writer) => writer.tunnel(),
            Self::Http2(_) => {}
        }
    }
}

impl ResponseReader {
    /// The next head, into a reused one.
    pub(crate) async fn head(&mut self, head: &mut ResponseHead) -> Result<HeadKind, UpstreamError> {
        match self {
            Self::Http1(reader) => reader.head(head).await,
            Self::Http2(reader) => reader.head(head).await,
        }
    }

    /// Whether the whole response has been received: known with the last data where the framing
    /// says so.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Http1(reader) => reader.is_end(),
            Self::Http2(reader) => reader.is_end(),
        }
    }

    /// The next piece of the body; `Frame::End` or trailers come once, at the end.
    pub(crate) async fn next(&mut self) -> Result<Frame, UpstreamError> {
        match self {
            Self::Http1(reader) => reader.next().await,
            Self::Http2(reader) => reader.next().await,
        }
    }
}
