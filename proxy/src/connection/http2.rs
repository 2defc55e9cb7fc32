//! One HTTP/2 connection of a client: each stream gets a task of its own on the same thread.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::waits::{announced, earliest, head_due, now, timer, until};
use super::{End, give_head, take_head, underscores};
use crate::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::exchange::{self, ConnectionContext};
use crate::http1::Refusal;
use crate::http2::{self, Accepted, ServerConnection};
use crate::message::RequestHead;

/// Runs the connection; `front` are the bytes that were read to recognise it.
pub(super) async fn serve(
    stream: TcpStream,
    front: Bytes,
    context: &Rc<ConnectionContext>,
    begun: Instant,
) -> End {
    let manager = &context.manager;
    let mut options = manager.http2.clone();
    options.max_head_bytes = manager.limits.max_request_headers_bytes;
    options.max_fields = manager.limits.max_headers;
    let mut run = Run {
        context,
        streams: Rc::new(Streams { active: Cell::new(0), quiet_since: Cell::new(begun) }),
        last: manager.timeouts.max_connection_duration.map(|most| begun + most),
        head_due: head_due(&manager.timeouts).map(|(due, _)| due),
        requests: 0,
        ending: false,
    };
    let due = run.due();
    let mut timer = pin!(timer(due));
    let handshake = tokio::select! {
        biased;
        handshake = ServerConnection::handshake(stream, front, &options) => handshake,
        () = until(timer.as_mut(), due) => return End::default(),
    };
    let Ok(mut connection) = handshake else {
        return End { protocol_error: true, ..End::default() };
    };
    let counts = connection.counts();
    let mut drain = context.drain.clone();
    let mut head = take_head();
    loop {
        let due = run.due();
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept(&mut head) => Some(accepted),
            () = until(timer.as_mut(), due) => None,
            () = announced(&mut drain), if !run.ending => {
                context.http().downstream_cx_drain_close.inc();
                run.shut_down(&mut connection);
                continue;
            }
        };
        let (received, sent) = counts.take();
        context.http().downstream_cx_rx_bytes_total.add(received);
        context.http().downstream_cx_tx_bytes_total.add(sent);
        let end = match accepted {
            Some(accepted) => run.accepted(accepted, &mut head, &mut connection),
            None => run.expired(&mut connection),
        };
        if let Some(end) = end {
            give_head(head);
            return end;
        }
    }
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
    /// The end was announced.
    ending: bool,
}

/// The streams of one connection.
struct Streams {
    active: Cell<usize>,
    /// When the last one ended.
    quiet_since: Cell<Instant>,
}

impl Run<'_> {
    /// When the connection must be looked at again though nothing came.
    fn due(&self) -> Option<Instant> {
        let first_head = self.head_due.filter(|_| self.requests == 0);
        earliest(earliest(self.idle_due(), self.last.filter(|_| !self.ending)), first_head)
    }

    fn idle_due(&self) -> Option<Instant> {
        let idle = self.context.manager.timeouts.idle?;
        let since = if self.streams.active.get() == 0 { self.streams.quiet_since.get() } else { now() };
        Some(since + idle)
    }

    fn accepted(
        &mut self,
        accepted: Accepted,
        head: &mut RequestHead,
        connection: &mut ServerConnection,
    ) -> Option<End> {
        match accepted {
            Accepted::Request(rx, tx) => {
                let head = std::mem::replace(head, take_head());
                start_stream(self.context, &self.streams, head, rx, tx);
            }
            Accepted::Refused => {}
            Accepted::Closed { protocol_error } => {
                let active_request = self.streams.active.get() > 0;
                return Some(End { remote: !self.ending && !protocol_error, active_request, protocol_error });
            }
        }
        self.requests = self.requests.saturating_add(1);
        let most = self.context.manager.limits.max_requests_per_connection;
        if most.is_some_and(|most| self.requests >= most) && !self.ending {
            self.context.http().downstream_cx_max_requests_reached.inc();
            self.shut_down(connection);
        }
        None
    }

    /// The deadline has passed: of the connection's life, or of its idleness (unless streams came meanwhile).
    fn expired(&mut self, connection: &mut ServerConnection) -> Option<End> {
        let now = now();
        if !self.ending && self.last.is_some_and(|last| now >= last) {
            self.context.http().downstream_cx_max_duration_reached.inc();
            self.shut_down(connection);
            return None;
        }
        if self.streams.active.get() == 0 && self.due().is_some_and(|due| now >= due) {
            self.context.http().downstream_cx_idle_timeout.inc();
            return Some(End::default());
        }
        None
    }

    /// GOAWAY: streams that were accepted are finished, new ones refused.
    fn shut_down(&mut self, connection: &mut ServerConnection) {
        connection.graceful_shutdown();
        self.ending = true;
    }
}

/// Gives a stream its own task.
fn start_stream(
    context: &Rc<ConnectionContext>,
    streams: &Rc<Streams>,
    mut head: RequestHead,
    rx: http2::RequestBody,
    tx: http2::ResponseWriter,
) {
    let (context, streams) = (context.clone(), streams.clone());
    streams.active.set(streams.active.get() + 1);
    tokio::task::spawn_local(async move {
        let down = Downstream { rx: RequestBody::Http2(rx), tx: ResponseWriter::Http2(tx) };
        let refusal = if head.authority.is_empty() {
            Some(Refusal::MISSING_HOST)
        } else {
            (!underscores(&context, &mut head)).then_some(Refusal::UNDERSCORE)
        };
        let head = if let Some(refusal) = refusal {
            exchange::refuse(&context, refusal, &head, down).await;
            head
        } else {
            exchange::run(&context, head, down).await.head
        };
        give_head(head);
        streams.active.set(streams.active.get() - 1);
        streams.quiet_since.set(now());
    });
}
