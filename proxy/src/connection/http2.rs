//! One HTTP/2 connection of a client: each stream gets a task of its own on the same thread.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{
    End, IdlePlace, changed, earliest, give_head, head_due, now, take_head, timer, underscores, until,
};
use crate::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::exchange::{self, ConnectionContext};
use crate::http1::Refusal;
use crate::http2::{self, Accepted, ServerConnection};
use crate::message::{RequestHead, Version};
use crate::state::Drain;

/// Runs the connection; `front` are the bytes that were read to recognise it.
pub(super) async fn serve(
    stream: TcpStream,
    front: Bytes,
    context: &Rc<ConnectionContext>,
    place: IdlePlace,
    begun: Instant,
) -> End {
    let manager = &context.manager;
    let mut options = manager.http2.clone();
    options.max_head_bytes = manager.limits.max_request_headers_bytes;
    options.max_fields = manager.limits.max_headers;
    let mut run = Run {
        context,
        streams: Rc::new(Streams { active: Cell::new(0), quiet_since: Cell::new(begun), place }),
        last: context.last.map(Instant::from_std),
        head_due: head_due(&manager.timeouts).map(|(due, _)| due),
        requests: 0,
        ending: None,
        counts: http2::Counts::default(),
    };
    let due = run.due();
    let mut timer = pin!(timer(due));
    let handshake = tokio::select! {
        biased;
        handshake = ServerConnection::handshake(stream, front, &options) => handshake,
        () = run.streams.place.evicted() => return run.evicted(),
        () = until(timer.as_mut(), due) => return End::default(),
    };
    let Ok(mut connection) = handshake else {
        return End { protocol_error: true, ..End::default() };
    };
    run.counts = connection.counts();
    let mut drain = context.drain.clone();
    let mut head = take_head();
    let end = loop {
        let due = run.due();
        if run.ending.is_none() && *drain.borrow_and_update() >= Drain::Announce {
            context.http().downstream_cx_drain_close.inc();
            run.shut_down(&mut connection);
            continue;
        }
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept(&mut head) => Some(accepted),
            () = until(timer.as_mut(), due) => None,
            // It drains, or timeouts have changed.
            () = changed(&mut drain), if run.ending.is_none() => continue,
            () = run.streams.place.evicted() => {
                connection.abort();
                // Sends GOAWAY if the socket has space for it now.
                tokio::select! {
                    biased;
                    _ = connection.accept(&mut head) => {}
                    () = std::future::ready(()) => {}
                }
                break run.evicted();
            }
        };
        count(context, &run.counts);
        let end = match accepted {
            Some(accepted) => run.accepted(accepted, &mut head, &mut connection),
            None => run.expired(&mut connection),
        };
        if let Some(end) = end {
            break end;
        }
    };
    count(context, &run.counts);
    give_head(head);
    end
}

/// One connection's state beside its codec.
struct Run<'c> {
    context: &'c Rc<ConnectionContext>,
    streams: Rc<Streams>,
    /// When `max_connection_duration` is over.
    last: Option<Instant>,
    /// When the first request's head must have come.
    head_due: Option<Instant>,
    requests: u32,
    ending: Option<Ending>,
    counts: http2::Counts,
}

/// GOAWAY was sent: the connection ends with its last stream.
#[derive(Clone, Copy)]
struct Ending {
    /// When to stop waiting for a client that does not respond to it.
    due: Instant,
    /// The client has had its time to respond to the first GOAWAY: new streams are refused.
    refusing: bool,
    /// Only the last GOAWAY is still to be sent.
    last: bool,
}

/// The streams of one connection.
struct Streams {
    active: Cell<usize>,
    /// When the last one ended.
    quiet_since: Cell<Instant>,
    place: IdlePlace,
}

impl Run<'_> {
    /// When the connection must be checked again without new bytes.
    fn due(&self) -> Option<Instant> {
        if let Some(ending) = self.ending {
            return Some(ending.due);
        }
        earliest(earliest(self.idle_due(), self.last), self.head_due.filter(|_| self.requests == 0))
    }

    fn idle_due(&self) -> Option<Instant> {
        let idle = self.context.idle_timeout()?;
        let since = if self.streams.active.get() == 0 { self.streams.quiet_since.get() } else { now() };
        Some(since + idle)
    }

    fn accepted(
        &mut self,
        accepted: Accepted,
        head: &mut RequestHead,
        connection: &mut ServerConnection,
    ) -> Option<End> {
        let stats = self.context.manager.http2_stats.shard(self.context.local.shard);
        match accepted {
            Accepted::Request(_, mut tx) if self.ending.is_some_and(|ending| ending.refusing) => {
                tx.refuse();
            }
            Accepted::Request(rx, tx) => {
                let head = std::mem::replace(head, take_head());
                if !self.streams.place.leave() && self.ending.is_none() {
                    self.context.http().downstream_cx_idle_timeout.inc();
                    self.shut_down(connection);
                }
                start_stream(self.context, &self.streams, &self.counts, head, rx, tx);
            }
            Accepted::TooLarge => stats.header_overflow.inc(),
            Accepted::Malformed => {
                stats.rx_messaging_error.inc();
                head.clear();
                head.version = Version::Http2;
                exchange::malformed(self.context, head);
            }
            Accepted::Closed { protocol_error } => {
                if protocol_error {
                    stats.rx_messaging_error.inc();
                }
                let active_request = self.streams.active.get() > 0;
                let remote = self.ending.is_none() && !protocol_error;
                return Some(End { remote, active_request, protocol_error });
            }
        }
        self.requests = self.requests.saturating_add(1);
        let most = self.context.manager.limits.max_requests_per_connection;
        if most.is_some_and(|most| self.requests >= most) && self.ending.is_none() {
            self.context.http().downstream_cx_max_requests_reached.inc();
            self.shut_down(connection);
        }
        if self.ending.is_none() && self.context.relief().no_keepalive {
            self.context.http().downstream_cx_drain_close.inc();
            self.context.http().downstream_cx_overload_disable_keepalive.inc();
            self.shut_down(connection);
        }
        None
    }

    /// A deadline has passed: of the connection's life, of its idleness (unless streams came meanwhile), of its first request, or of its
    /// own end.
    fn expired(&mut self, connection: &mut ServerConnection) -> Option<End> {
        let now = now();
        let idle = self.streams.active.get() == 0;
        let stats = self.context.http();
        match self.ending {
            Some(Ending { last: true, .. }) => return Some(End::default()),
            Some(_) if idle => self.close(connection),
            // Streams that were accepted are finished, whether or not the client responds.
            Some(_) => {
                self.ending = Some(Ending { due: now + self.patience(), refusing: true, last: false });
            }
            None if self.last.is_some_and(|last| now >= last) => {
                stats.downstream_cx_max_duration_reached.inc();
                self.shut_down(connection);
            }
            None if idle && self.idle_due().is_some_and(|due| now >= due) => {
                stats.downstream_cx_idle_timeout.inc();
                self.shut_down(connection);
            }
            // A client that has not come to its first request gets no more time.
            None if self.requests == 0 && self.head_due.is_some_and(|due| now >= due) => {
                stats.downstream_cx_idle_timeout.inc();
                self.close(connection);
            }
            None => {}
        }
        None
    }

    /// A new connection needs the place of this one.
    fn evicted(&self) -> End {
        self.context.http().downstream_cx_idle_timeout.inc();
        End::default()
    }

    fn patience(&self) -> Duration {
        self.context.manager.timeouts.drain.max(Duration::from_millis(1))
    }

    /// GOAWAY for the streams that may still be on their way, and a second one once they are known: those that were accepted are
    /// finished, new ones refused.
    fn shut_down(&mut self, connection: &mut ServerConnection) {
        connection.graceful_shutdown();
        self.ending = Some(Ending { due: now() + self.patience(), refusing: false, last: false });
    }

    /// The last GOAWAY.
    fn close(&mut self, connection: &mut ServerConnection) {
        connection.abort();
        let patience = self.context.manager.timeouts.delayed_close.unwrap_or(Duration::from_secs(1));
        self.ending = Some(Ending { due: now() + patience, refusing: true, last: true });
    }
}

/// Moves what went through the connection to the statistics.
fn count(context: &ConnectionContext, counts: &http2::Counts) {
    let (received, sent) = counts.take();
    let http = context.http();
    http.downstream_cx_rx_bytes_total.add(received);
    http.downstream_cx_tx_bytes_total.add(sent);
    let frames = counts.take_frames();
    if frames.is_any() {
        let stats = context.manager.http2_stats.shard(context.local.shard);
        stats.rx_reset.add(frames.rx_reset);
        stats.tx_reset.add(frames.tx_reset);
        stats.goaway_sent.add(frames.tx_goaway);
        stats.trailers.add(frames.rx_trailers);
    }
}

/// Gives a stream its own task.
fn start_stream(
    context: &Rc<ConnectionContext>,
    streams: &Rc<Streams>,
    counts: &http2::Counts,
    mut head: RequestHead,
    rx: http2::RequestBody,
    tx: http2::ResponseWriter,
) {
    let start = crate::time::now();
    let (context, streams, counts) = (context.clone(), streams.clone(), counts.clone());
    streams.active.set(streams.active.get() + 1);
    context.manager.http2_stats.shard(context.local.shard).streams_active.inc();
    // On the heap, where the runtime moves no more than a pointer.
    tokio::task::spawn_local(Box::pin(async move {
        let down = Downstream { rx: RequestBody::Http2(rx), tx: ResponseWriter::Http2(tx) };
        let head = if underscores(&context, &mut head) {
            exchange::run(&context, head, start, down).await.head
        } else {
            exchange::refuse(&context, Refusal::UNDERSCORE, &head, start, down).await;
            head
        };
        give_head(head);
        streams.active.set(streams.active.get().saturating_sub(1));
        if streams.active.get() == 0 {
            streams.place.enter(true);
        }
        context.manager.http2_stats.shard(context.local.shard).streams_active.dec();
        streams.quiet_since.set(now());
        count(&context, &counts);
    }));
}
