//! One downstream connection: its protocol version, its timeouts and its shutdown; each request
//! goes to `exchange`.
//!
//! HTTP/1 runs here, one request after the other; HTTP/2 gives each stream a task of its own on the same thread.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::downstream::{Downstream, RequestBody, ResponseWriter};
use crate::exchange::{self, ConnectionContext};
use crate::http1::{self, FirstBytes, HeadEvent, HeadLimits, Refusal};
use crate::local::IdlePlace;
use crate::message::{Name, RequestHead, Version};
use crate::snapshot::{Codec, Timeouts, Underscores};
use crate::state::Drain;

mod counted;
mod http2;

use counted::{Counted, InUse};

/// Runs a connection until it ends. Must run inside a `LocalSet`: HTTP/2 streams are local tasks.
pub(crate) async fn run(stream: TcpStream, context: Rc<ConnectionContext>) {
    let begun = now();
    let mut counted = Counted::new(&context, begun);
    let mut drain = context.drain.clone();
    counted.end = tokio::select! {
        biased;
        end = serve(stream, &context, begun) => end,
        // What is still under way is given up: its record says so.
        () = reached(&mut drain, Drain::Over) => {
            context.http().downstream_cx_drain_close.inc();
            End::default()
        }
    };
}

/// How a connection ended, for statistics.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// The client ended it.
    remote: bool,
    active_request: bool,
    protocol_error: bool,
}

async fn serve(stream: TcpStream, context: &Rc<ConnectionContext>, begun: Instant) -> End {
    let manager = &context.manager;
    let limits =
        HeadLimits { bytes: manager.limits.max_request_headers_bytes, fields: manager.limits.max_headers };
    let mut connection = http1::ServerConnection::new(stream, limits, &manager.http1);
    let place = context.idle_place();
    let http2 = match manager.codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto => {
            let first = first_bytes(&mut connection, context, &place, begun).await;
            match first {
                Some(FirstBytes::Http2) => true,
                Some(FirstBytes::Other) => false,
                Some(FirstBytes::Closed) => return End { remote: true, ..End::default() },
                None => return End::default(),
            }
        }
    };
    let stats = context.http();
    if http2 {
        let Some((stream, front)) = connection.into_stream() else { return End::default() };
        stats.downstream_cx_http2_total.inc();
        let _active = InUse::new(&stats.downstream_cx_http2_active);
        // On the heap, so that a connection of HTTP/1 has no place for it.
        Box::pin(http2::serve(stream, front, context, place, begun)).await
    } else {
        stats.downstream_cx_http1_total.inc();
        let _active = InUse::new(&stats.downstream_cx_http1_active);
        let end = serve_http1(&mut connection, context, &place, begun).await;
        count_http1(&mut connection, context);
        end
    }
}

/// Waits for the first bytes, which tell the protocol; `Other` when they do not come in time, `None`
/// when the connection has to end before.
async fn first_bytes(
    connection: &mut http1::ServerConnection,
    context: &ConnectionContext,
    place: &IdlePlace,
    begun: Instant,
) -> Option<FirstBytes> {
    let head_due = head_due(&context.manager.timeouts).map(|(due, _)| due);
    let first = earliest(head_due, context.last.map(Instant::from_std));
    let due = || earliest(first, context.idle_timeout().map(|idle| begun + idle));
    let mut timer = pin!(timer(due()));
    let mut drain = context.drain.clone();
    loop {
        let due = due();
        tokio::select! {
            biased;
            first = connection.first_bytes() => return Some(first),
            () = until(timer.as_mut(), due) => return Some(FirstBytes::Other),
            signal = signal(&mut drain, 0) => if signal == Signal::Drained { return None },
            () = place.evicted() => {
                context.http().downstream_cx_idle_timeout.inc();
                return None;
            }
        }
    }
}

/// What an HTTP/1 connection waits for between requests.
enum Wake {
    Data,
    Due,
    Evicted,
    Signal(Signal),
}

/// What came of that wait.
enum Next {
    Request,
    /// Nothing for some time.
    Quiet,
    End,
}

/// For how long a connection keeps the memory of a request for the next one, and how many of a
/// thread do so at a time.
const QUIET: Duration = Duration::from_secs(1);
const MAX_KEPT: usize = 128;

thread_local! {
    static KEPT: Cell<usize> = const { Cell::new(0) };
}

/// Counts a connection that keeps its memory, while it does.
struct Kept;

impl Kept {
    fn take() -> Option<Self> {
        let kept = KEPT.get();
        (kept < MAX_KEPT).then(|| {
            KEPT.set(kept + 1);
            Self
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.set(KEPT.get().saturating_sub(1));
    }
}

async fn serve_http1(
    connection: &mut http1::ServerConnection,
    context: &Rc<ConnectionContext>,
    place: &IdlePlace,
    begun: Instant,
) -> End {
    let last = context.last.map(Instant::from_std);
    let timer = pin!(timer(earliest(context.idle_timeout().map(|idle| begun + idle), last)));
    let mut run = Run {
        context,
        place,
        drain: context.drain.clone(),
        timer,
        last,
        requests: 0,
        idle_since: begun,
        draining: None,
    };
    loop {
        match run.next(connection, None).await {
            Next::Request => {}
            Next::Quiet => continue,
            Next::End => return End::default(),
        }
        // On the heap while it lasts: it is ten times as large as what an idle connection needs.
        if let Some(end) = Box::pin(run.serve(connection)).await {
            return end;
        }
    }
}

/// One HTTP/1 connection's state beside its codec.
struct Run<'c> {
    context: &'c Rc<ConnectionContext>,
    place: &'c IdlePlace,
    drain: watch::Receiver<Drain>,
    timer: Pin<&'c mut Sleep>,
    /// When `max_connection_duration` is over.
    last: Option<Instant>,
    requests: u32,
    idle_since: Instant,
    /// Set once the connection has to end: until then a request on its way is still served.
    draining: Option<Instant>,
}

impl Run<'_> {
    /// Serves requests as long as they follow each other; `None` if the connection continues.
    async fn serve(&mut self, connection: &mut http1::ServerConnection) -> Option<End> {
        loop {
            self.requests = self.requests.saturating_add(1);
            if self.draining.is_some() {
                connection.close_after();
            }
            let last = self.last.filter(|_| self.draining.is_none());
            announce_close(connection, self.context, self.requests, last);
            if let Some(end) = one_request(connection, self.context, self.place).await {
                return Some(end);
            }
            count_http1(connection, self.context);
            self.place.enter(true);
            self.idle_since = now();
            let _kept = Kept::take()?;
            match self.next(connection, Some(self.idle_since + QUIET)).await {
                Next::Request => {}
                Next::Quiet => return None,
                Next::End => return Some(End::default()),
            }
        }
    }

    /// Waits for the next request, at most until `quiet`.
    async fn next(&mut self, connection: &mut http1::ServerConnection, quiet: Option<Instant>) -> Next {
        let context = self.context;
        let (timeouts, stats) = (&context.manager.timeouts, context.http());
        loop {
            let idle = || earliest(context.idle_timeout().map(|idle| self.idle_since + idle), self.last);
            let due = self.draining.or_else(idle);
            let first = earliest(due, quiet);
            let wake = tokio::select! {
                biased;
                () = connection.readable() => Wake::Data,
                () = until(self.timer.as_mut(), first) => Wake::Due,
                signal = signal(&mut self.drain, self.requests) => Wake::Signal(signal),
                () = self.place.evicted() => Wake::Evicted,
            };
            match wake {
                Wake::Evicted => {
                    stats.downstream_cx_idle_timeout.inc();
                    return Next::End;
                }
                Wake::Data => return Next::Request,
                Wake::Signal(Signal::Changed) => {}
                Wake::Due if first != due => return Next::Quiet,
                Wake::Due if self.draining.is_some() => return Next::End,
                Wake::Due => {
                    match due == self.last {
                        true => stats.downstream_cx_max_duration_reached.inc(),
                        false => stats.downstream_cx_idle_timeout.inc(),
                    }
                    if self.requests == 0 {
                        return Next::End;
                    }
                    self.draining = Some(now() + timeouts.drain);
                }
                Wake::Signal(Signal::Drained) => {
                    stats.downstream_cx_drain_close.inc();
                    return Next::End;
                }
            }
        }
    }
}

/// Reads a request and responds; `None` if the connection continues.
async fn one_request(
    connection: &mut http1::ServerConnection,
    context: &Rc<ConnectionContext>,
    place: &IdlePlace,
) -> Option<End> {
    let manager = &context.manager;
    let start = crate::time::now();
    let mut head = take_head();
    let mut event = tokio::select! {
        biased;
        event = connection.read_head(&mut head, &manager.http1) => event,
        refusal = too_late(&manager.timeouts) => {
            match refusal {
                Refusal::HEADER_TIMEOUT => context.http().downstream_rq_header_timeout.inc(),
                Refusal::MAX_DURATION => context.http().downstream_rq_max_duration_reached.inc(),
                _ => {}
            }
            connection.refuse_head(refusal)
        }
        // Until its headers are complete, a client makes way for one with a request.
        () = place.evicted() => {
            context.http().downstream_cx_idle_timeout.inc();
            give_head(head);
            return Some(End::default());
        }
    };
    if !place.leave() {
        context.http().downstream_cx_idle_timeout.inc();
        connection.close_after();
    }
    if event == HeadEvent::Request && !underscores(context, &mut head) {
        event = connection.refuse_head(Refusal::UNDERSCORE);
    }
    let mut active_request = false;
    match event {
        HeadEvent::Closed { begun } => {
            if begun {
                head.clear();
                head.version = Version::Http11;
                exchange::leave(context, &head, start);
            }
            give_head(head);
            return Some(End { remote: true, active_request: begun, protocol_error: false });
        }
        HeadEvent::Refused(refusal) => {
            head.clear();
            head.version = Version::Http11;
            let (rx, tx) = connection.split();
            let down = Downstream { rx: RequestBody::Http1(rx), tx: ResponseWriter::Http1(tx) };
            exchange::refuse(context, refusal, &head, start, down).await;
            give_head(head);
        }
        HeadEvent::Request => {
            let (rx, tx) = connection.split();
            let down = Downstream { rx: RequestBody::Http1(rx), tx: ResponseWriter::Http1(tx) };
            let outcome = exchange::run(context, head, start, down).await;
            give_head(outcome.head);
            if outcome.keep_alive && connection.reusable() {
                return None;
            }
            active_request = !outcome.keep_alive;
        }
    }
    finish_http1(connection, context).await;
    let remote = connection.client_gone();
    Some(End {
        remote,
        active_request: active_request && remote,
        protocol_error: connection.protocol_error(),
    })
}

/// Lets the response reach the client before the socket is closed.
async fn finish_http1(connection: &mut http1::ServerConnection, context: &ConnectionContext) {
    if connection.client_gone() {
        return;
    }
    let Some(delay) = context.manager.timeouts.delayed_close else { return };
    let due = Some(now() + delay);
    let mut timer = pin!(timer(due));
    tokio::select! {
        biased;
        () = async {
            // A response that was cut is sent as far as it came, and then the client must see the cut.
            if connection.flush().await.is_ok() && connection.responded() {
                connection.linger().await;
            }
        } => {}
        () = until(timer.as_mut(), due) => context.http().downstream_cx_delayed_close_timeout.inc(),
    }
}

/// Decides whether this request is the connection's last, so that its response says so.
fn announce_close(
    connection: &http1::ServerConnection,
    context: &ConnectionContext,
    requests: u32,
    last: Option<Instant>,
) {
    let stats = context.http();
    if context.manager.limits.max_requests_per_connection.is_some_and(|most| requests >= most) {
        stats.downstream_cx_max_requests_reached.inc();
        connection.close_after();
    }
    if last.is_some_and(|last| now() >= last) {
        stats.downstream_cx_max_duration_reached.inc();
        connection.close_after();
    }
    if *context.drain.borrow() != Drain::No {
        stats.downstream_cx_drain_close.inc();
        connection.close_after();
    }
}

fn count_http1(connection: &mut http1::ServerConnection, context: &ConnectionContext) {
    let (received, sent) = connection.take_counts();
    context.http().downstream_cx_rx_bytes_total.add(received);
    context.http().downstream_cx_tx_bytes_total.add(sent);
}

/// Treats names with underscores as configured; false if the request is refused.
fn underscores(context: &ConnectionContext, head: &mut RequestHead) -> bool {
    let manager = &context.manager;
    let has_one = |name: Name<'_>| name.as_bytes().contains(&b'_');
    if manager.underscores == Underscores::Allow || !head.fields.iter().any(|(name, _)| has_one(name)) {
        return true;
    }
    let http1 = manager.http1_stats.shard(context.local.shard);
    let http2 = manager.http2_stats.shard(context.local.shard);
    let is_http2 = head.version == Version::Http2;
    if manager.underscores == Underscores::RejectRequest {
        if is_http2 {
            http2.http2_requests_rejected_with_underscores_in_headers.inc();
        } else {
            http1.requests_rejected_with_underscores_in_headers.inc();
        }
        return false;
    }
    let before = head.fields.len();
    head.fields.retain(|name, _| !has_one(name));
    let dropped = (before - head.fields.len()) as u64;
    if is_http2 {
        http2.http2_dropped_headers_with_underscores.add(dropped);
    } else {
        http1.dropped_headers_with_underscores.add(dropped);
    }
    true
}

thread_local! {
    /// Heads between two requests: their buffers are reused, and an idle connection holds none.
    static HEADS: RefCell<Vec<RequestHead>> = const { RefCell::new(Vec::new()) };
}

/// Frees what this thread keeps for the next requests.
pub(crate) fn release_spare() {
    HEADS.with_borrow_mut(|heads| *heads = Vec::new());
}

const MAX_SPARE_HEADS: usize = 64;

fn take_head() -> RequestHead {
    HEADS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn give_head(mut head: RequestHead) {
    head.clear();
    head.shrink();
    HEADS.with_borrow_mut(|heads| {
        if heads.len() < MAX_SPARE_HEADS {
            heads.push(head);
        }
    });
}

fn now() -> Instant {
    Instant::from_std(crate::time::now())
}

/// When a head must be whole, and the response when it is not.
fn head_due(timeouts: &Timeouts) -> Option<(Instant, Refusal)> {
    let candidates = [
        (timeouts.request_headers, Refusal::HEADER_TIMEOUT),
        (timeouts.request, Refusal::TIMEOUT),
        (timeouts.stream_idle, Refusal::IDLE_TIMEOUT),
        (timeouts.max_stream_duration, Refusal::MAX_DURATION),
    ];
    let first = candidates.into_iter().filter_map(|(limit, refusal)| Some((limit?, refusal)));
    first.min_by_key(|(limit, _)| *limit).map(|(limit, refusal)| (now() + limit, refusal))
}

/// Waits until a head should have been whole; reads no clock when it comes at once.
async fn too_late(timeouts: &Timeouts) -> Refusal {
    match head_due(timeouts) {
        Some((due, refusal)) => {
            sleep_until(due).await;
            refusal
        }
        None => pending().await,
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn timer(due: Option<Instant>) -> Sleep {
    sleep_until(due.unwrap_or_else(now))
}

/// Waits until `due`. One timer serves a connection: it is set again only when it fires too early or
/// `due` has come nearer, not with each request.
async fn until(mut timer: Pin<&mut Sleep>, due: Option<Instant>) {
    let Some(due) = due else { return pending().await };
    if timer.deadline() > due {
        timer.as_mut().reset(due);
    }
    loop {
        timer.as_mut().await;
        if timer.deadline() >= due {
            return;
        }
        timer.as_mut().reset(due);
    }
}

/// How long a connection that was accepted before the listener closed may take to bring its first request: it was promised a response.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// What a connection without a request hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// The drain closes idle connections, later where no request has arrived yet.
    Drained,
    /// Timeouts may have changed.
    Changed,
}

async fn signal(drain: &mut watch::Receiver<Drain>, requests: u32) -> Signal {
    if *drain.borrow_and_update() < Drain::Closed {
        changed(drain).await;
        if *drain.borrow_and_update() < Drain::Closed {
            return Signal::Changed;
        }
    }
    if requests == 0 {
        tokio::time::sleep(FIRST_REQUEST).await;
    }
    Signal::Drained
}

async fn changed(drain: &mut watch::Receiver<Drain>) {
    if drain.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn reached(drain: &mut watch::Receiver<Drain>, stage: Drain) {
    let gone = drain.wait_for(|drain| *drain >= stage).await.is_err();
    if gone {
        pending::<()>().await;
    }
}
