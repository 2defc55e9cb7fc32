//! How an exchange waits: every wait ends early when the client leaves or a timeout runs out.
//!
//! This is the only file of the room with a `select!`, and everything that waits does so as an
//! argument of [`Timers::race`], [`unless_left`] or [`next_or`] (`cargo test -p tidy` checks it). The
//! timeouts share one timer, which is set anew only when the nearest deadline has moved nearer or
//! when it fires.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use crate::cluster::ClusterPolicy;
use crate::downstream::RequestBody;
use crate::error::DownstreamError;
use crate::message::{FieldValueBuf, Frame, Known, RequestHead};
use crate::overload::Overload;
use crate::route::{Forward, StreamLimits};
use crate::snapshot::HttpManager;
use crate::time;

/// Which timeout ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The route's `timeout`, from the end of the request.
    Route,
    /// The retry policy's `per_try_timeout`.
    PerTry,
    /// No byte for the retry policy's `per_try_idle_timeout`.
    PerTryIdle,
    /// No byte in either direction.
    StreamIdle,
    /// The request did not come whole within `request_timeout`.
    Request,
    /// `max_stream_duration`.
    MaxDuration,
    /// The cluster's `max_stream_duration`, of one attempt.
    AttemptMaxDuration,
}

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The client left, or broke the protocol.
    Client(DownstreamError),
    Expired(Expiry),
}

impl From<DownstreamError> for Interrupt {
    fn from(error: DownstreamError) -> Self {
        Self::Client(error)
    }
}

/// Which of two futures was ready first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First<A, B> {
    One(A),
    Other(B),
}

/// Deadlines of one exchange; each is set while it applies.
#[derive(Debug)]
pub(super) struct Timers<'t> {
    timer: RefCell<Pin<&'t mut Sleep>>,
    route: Cell<Option<Instant>>,
    per_try: Cell<Option<Instant>>,
    /// Begins with the end of the request.
    per_try_limit: Cell<Option<Duration>>,
    per_try_idle: Cell<Option<Duration>>,
    attempt_max: Cell<Option<Instant>>,
    complete: Cell<bool>,
    request: Cell<Option<Instant>>,
    max: Cell<Option<Instant>>,
    idle: Cell<Option<Duration>>,
    /// What shrinks `idle` meanwhile.
    reduced: Option<&'t Overload>,
    active: Cell<Instant>,
}

/// A timer for [`Timers::new`]; it is registered only when something waits for it.
pub(super) fn timer(now: Instant) -> Sleep {
    sleep_until((now + Duration::from_secs(86_400)).into())
}

/// Waits for `work` unless the client leaves.
pub(super) async fn unless_left<T>(
    body: &mut RequestBody<'_>,
    work: impl Future<Output = T>,
) -> Result<T, DownstreamError> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        error = body.closed() => Err(error),
    }
}

/// Waits for the next piece of the request or for `work`. The read notices a client that leaves.
pub(super) async fn next_or<T>(
    body: &mut RequestBody<'_>,
    work: impl Future<Output = T>,
) -> First<Result<Frame, DownstreamError>, T> {
    first(body.next(), work).await
}

/// The first of two futures, as work for a race; `one` wins when both are ready.
pub(super) async fn first<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> First<A, B> {
    tokio::select! {
        biased;
        done = one => First::One(done),
        done = other => First::Other(done),
    }
}

/// Waits for the client to leave, and for nothing else.
pub(super) async fn departure(body: &mut RequestBody<'_>) -> DownstreamError {
    body.closed().await
}

/// In place of the client's departure where `work`, or what runs beside it, reads from the client and
/// so notices it.
pub(super) async fn noticed_elsewhere() -> DownstreamError {
    pending().await
}

impl<'t> Timers<'t> {
    /// At the beginning of an exchange.
    pub(super) fn new(timer: Pin<&'t mut Sleep>, now: Instant, reduced: Option<&'t Overload>) -> Self {
        Self {
            timer: RefCell::new(timer),
            route: Cell::default(),
            per_try: Cell::default(),
            per_try_limit: Cell::default(),
            per_try_idle: Cell::default(),
            attempt_max: Cell::default(),
            complete: Cell::default(),
            request: Cell::default(),
            max: Cell::default(),
            idle: Cell::default(),
            reduced,
            active: Cell::new(now),
        }
    }

    /// When the exchange began, as long as nothing was touched.
    pub(super) fn start(&self) -> Instant {
        self.active.get()
    }

    /// The timeouts of the listener, from the beginning of the exchange.
    pub(super) fn limit(&self, idle: Option<Duration>, request: Option<Duration>, max: Option<Duration>) {
        let start = self.active.get();
        self.idle.set(idle);
        self.request.set(after(start, request));
        self.max.set(after(start, max));
    }

    /// Waits for `work` unless the client leaves or a timeout runs out. `client` resolves when the
    /// client has left.
    pub(super) async fn race<T>(
        &self,
        client: impl Future<Output: Into<Interrupt>>,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupt> {
        let (client, work) = (pin!(client), pin!(work));
        tokio::select! {
            biased;
            done = work => Ok(done),
            interrupt = client => Err(interrupt.into()),
            expiry = self.expired() => Err(Interrupt::Expired(expiry)),
        }
    }

    /// The idle timeout of the route instead of the listener's; it begins anew.
    pub(super) fn set_idle(&self, idle: Option<Duration>) {
        self.idle.set(idle);
        self.active.set(time::now());
    }

    /// The longest stream of the route instead of the listener's.
    pub(super) fn limit_duration(&self, start: Instant, max: Option<Duration>) {
        self.max.set(after(start, max));
    }

    /// The request has come whole: its own timeout ends, the route's begins, once for all attempts.
    pub(super) fn request_complete(&self, now: Instant, route: Option<Duration>) {
        self.request.set(None);
        self.complete.set(true);
        self.per_try.set(self.per_try.get().or(after(now, self.per_try_limit.get())));
        self.route.set(self.route.get().or(after(now, route)));
    }

    /// An attempt has its stream.
    pub(super) fn begin_attempt(&self, now: Instant, limits: &Limits) {
        self.per_try_limit.set(limits.per_try);
        self.per_try.set(after(now, limits.per_try.filter(|_| self.complete.get())));
        self.attempt_max.set(after(now, limits.attempt_max));
        self.per_try_idle.set(limits.per_try_idle);
        if limits.per_try_idle.is_some() {
            self.active.set(now);
        }
    }

    /// The head of the response to the attempt has come.
    pub(super) fn end_per_try(&self) {
        self.per_try_limit.set(None);
        self.per_try.set(None);
    }

    /// The attempt is over.
    pub(super) fn end_attempt(&self) {
        self.end_per_try();
        self.per_try_idle.set(None);
        self.attempt_max.set(None);
    }

    /// A byte went in some direction.
    pub(super) fn touch(&self) {
        if self.idle.get().is_some() || self.per_try_idle.get().is_some() {
            self.active.set(time::now());
        }
    }

    /// Waits until the first deadline has passed.
    pub(super) async fn expired(&self) -> Expiry {
        poll_fn(|context| {
            let mut timer = self.timer.borrow_mut();
            loop {
                let Some((deadline, expiry)) = self.nearest() else { return Poll::Pending };
                let due = tokio::time::Instant::from_std(deadline);
                // A timeout that may shrink is looked at now and then.
                let deadline = match self.reduced {
                    Some(_) => due.min(tokio::time::Instant::now() + LOOK),
                    None => due,
                };
                if timer.deadline() > deadline || timer.is_elapsed() {
                    timer.as_mut().reset(deadline);
                }
                if timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                // The timer may have been set for a deadline that has moved on since.
                if tokio::time::Instant::now() >= due {
                    return Poll::Ready(expiry);
                }
            }
        })
        .await
    }

    fn nearest(&self) -> Option<(Instant, Expiry)> {
        let since_active = |limit: Option<Duration>| self.active.get().checked_add(limit?);
        let idle = match self.reduced {
            Some(overload) => overload.stream_idle(self.idle.get()),
            None => self.idle.get(),
        };
        [
            (self.route.get(), Expiry::Route),
            (self.per_try.get(), Expiry::PerTry),
            (self.request.get(), Expiry::Request),
            (self.max.get(), Expiry::MaxDuration),
            (self.attempt_max.get(), Expiry::AttemptMaxDuration),
            // It begins with the end of the request.
            (since_active(self.per_try_idle.get().filter(|_| self.complete.get())), Expiry::PerTryIdle),
            (since_active(idle), Expiry::StreamIdle),
        ]
        .into_iter()
        .filter_map(|(deadline, expiry)| Some((deadline?, expiry)))
        .min_by_key(|(deadline, _)| *deadline)
    }
}

/// How often a timeout is looked at that may shrink.
const LOOK: Duration = Duration::from_secs(1);

fn after(now: Instant, limit: Option<Duration>) -> Option<Instant> {
    now.checked_add(limit?)
}

/// The timeouts of one request's attempts: the route's, as the headers of a trusted client change
/// them.
#[derive(Debug)]
pub(super) struct Limits {
    /// From the end of the request; `None` is no limit.
    pub timeout: Option<Duration>,
    pub per_try: Option<Duration>,
    pub per_try_idle: Option<Duration>,
    /// Of the whole exchange: the route's, or the listener's where the route has none.
    pub max_duration: Option<Duration>,
    /// Of one attempt: the cluster's.
    pub attempt_max: Option<Duration>,
}

impl Limits {
    /// Reads and removes the control headers (those of untrusted clients are gone by now), and
    /// announces the time limits to the upstream.
    pub(super) fn of(
        request: &mut RequestHead,
        forward: &Forward,
        manager: &HttpManager,
        cluster: &ClusterPolicy,
    ) -> Self {
        let mut timeout = forward.timeout;
        let of_manager = manager.timeouts.max_stream_duration;
        let max_duration = match &forward.stream {
            Some(stream) => max_duration(request, stream, of_manager),
            None => of_manager,
        };
        if forward.stream.is_some() && request.is_grpc() {
            match max_duration {
                Some(most) => request.fields.set(Known::GrpcTimeout, &write_grpc_timeout(most)),
                None if of_manager.is_some() => {
                    request.fields.remove(Known::GrpcTimeout);
                }
                None => {}
            }
        }
        if let Some(asked) = take_millis(request, Known::XEnvoyUpstreamRqTimeoutMs) {
            timeout = (!asked.is_zero()).then_some(asked);
        }
        let policy = forward.retry.as_deref();
        let configured = policy.and_then(|policy| policy.per_try_timeout);
        let per_try = take_millis(request, Known::XEnvoyUpstreamRqPerTryTimeoutMs).or(configured);
        let per_try = per_try.filter(|limit| !limit.is_zero() && timeout.is_none_or(|whole| *limit < whole));
        for name in [
            Known::XEnvoyRetryOn,
            Known::XEnvoyRetryGrpcOn,
            Known::XEnvoyMaxRetries,
            Known::XEnvoyRetriableStatusCodes,
            Known::XEnvoyRetriableHeaderNames,
            Known::XEnvoyHedgeOnPerTryTimeout,
            Known::XEnvoyUpstreamRqTimeoutAltResponse,
            Known::XEnvoyUpstreamAltStatName,
            Known::XEnvoyUpstreamStreamDurationMs,
        ] {
            request.fields.remove(name);
        }
        let per_try_idle = policy.and_then(|policy| policy.per_try_idle_timeout);
        let per_try_idle = per_try_idle.filter(|limit| !limit.is_zero());
        let limits =
            Self { timeout, per_try, per_try_idle, max_duration, attempt_max: cluster.max_stream_duration };
        if !manager.rules.suppress_envoy_headers {
            limits.announce(request, Duration::ZERO);
        }
        limits
    }

    /// Tells the upstream how long its response may take, of a request that has waited for one so long.
    pub(super) fn announce(&self, request: &mut RequestHead, waited: Duration) {
        let left = self.timeout.map(|whole| whole.saturating_sub(waited).max(Duration::from_millis(1)));
        let expected = self.per_try.map(|limit| left.map_or(limit, |left| limit.min(left))).or(left);
        if let Some(expected) = expected {
            request.fields.set(Known::XEnvoyExpectedRqTimeoutMs, time::millis(expected));
        }
    }
}

/// The longest duration of an exchange: a client's `grpc-timeout` where the route looks at it, then
/// the route's, then the listener's. A limit of 0 is none, but no time that is left is at once.
fn max_duration(
    request: &RequestHead,
    stream: &StreamLimits,
    of_manager: Option<Duration>,
) -> Option<Duration> {
    let asked = request.fields.get(Known::GrpcTimeout).and_then(grpc_timeout);
    match (stream.grpc_longest, asked) {
        (Some(longest), Some(asked)) => {
            let most = if longest.is_zero() { asked } else { asked.min(longest) };
            Some(most.saturating_sub(stream.grpc_offset))
        }
        _ => match stream.longest {
            Some(most) => Some(most).filter(|most| !most.is_zero()),
            None => of_manager,
        },
    }
}

fn take_millis(request: &mut RequestHead, name: Known) -> Option<Duration> {
    let value = request.fields.get(name)?;
    let millis = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    request.fields.remove(name);
    millis.map(Duration::from_millis)
}

/// A `grpc-timeout` value: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let amount: u64 = std::str::from_utf8(digits).ok().filter(|digits| digits.len() <= 8)?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// The finest unit that leaves at most eight digits, from milliseconds on.
fn write_grpc_timeout(limit: Duration) -> FieldValueBuf {
    const UNITS: [(u64, char); 4] = [(1, 'm'), (1_000, 'S'), (60_000, 'M'), (3_600_000, 'H')];
    let millis = time::millis(limit);
    let fits = |(length, _): &(u64, char)| millis / length < 100_000_000;
    let (length, unit) = UNITS.into_iter().find(fits).unwrap_or((3_600_000, 'H'));
    FieldValueBuf::lossy(&format!("{}{unit}", (millis / length).min(99_999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn activity_moves_the_idle_deadline_and_the_nearest_deadline_wins() {
        let begun = tokio::time::Instant::now();
        let timer = std::pin::pin!(timer(begun.into_std()));
        let timers = Timers::new(timer, begun.into_std(), None);
        timers.limit(Some(Duration::from_secs(2)), None, None);
        timers.active.set(begun.into_std() + Duration::from_secs(1));
        assert_eq!(timers.expired().await, Expiry::StreamIdle);
        assert_eq!(begun.elapsed().as_secs(), 3);
        timers.request_complete(tokio::time::Instant::now().into_std(), Some(Duration::from_secs(1)));
        timers.set_idle(None);
        assert_eq!(timers.expired().await, Expiry::Route);
        assert_eq!(begun.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_prefers_its_work_then_the_client_then_the_time() {
        let begun = tokio::time::Instant::now();
        let timer = std::pin::pin!(timer(begun.into_std()));
        let timers = Timers::new(timer, begun.into_std(), None);
        timers.limit(None, None, Some(Duration::from_secs(1)));
        let gone = || std::future::ready(DownstreamError::Disconnected);
        assert_eq!(timers.race(gone(), std::future::ready(1)).await, Ok(1));
        let left = timers.race(gone(), pending::<()>()).await;
        assert_eq!(left, Err(Interrupt::Client(DownstreamError::Disconnected)));
        let late = timers.race(noticed_elsewhere(), pending::<()>()).await;
        assert_eq!(late, Err(Interrupt::Expired(Expiry::MaxDuration)));
    }

    #[test]
    fn a_grpc_timeout_has_a_unit_and_at_most_eight_digits() {
        assert_eq!(grpc_timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout(b"2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(grpc_timeout(b"123456789S"), None);
        assert_eq!(grpc_timeout(b"5"), None);
        for (millis, text) in
            [(0, "0m"), (1_500, "1500m"), (99_999_999, "99999999m"), (100_000_000, "100000S")]
        {
            let written = write_grpc_timeout(Duration::from_millis(millis));
            assert_eq!(&*written, text.as_bytes(), "{millis}");
        }
        assert_eq!(&*write_grpc_timeout(Duration::MAX), b"99999999H");
    }
}
