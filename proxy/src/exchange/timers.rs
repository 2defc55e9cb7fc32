//! The timeouts of one exchange on one timer: route, per try, idle, whole request, whole stream.
//!
//! Deadlines change as the exchange goes on; the timer is set anew only when the nearest one has
//! moved nearer or
//! when it fires.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::time;

/// Which timeout ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
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
}

/// Deadlines of one exchange; each is set while it applies.
#[derive(Debug, Default)]
pub struct Timers {
    route: Cell<Option<Instant>>,
    per_try: Cell<Option<Instant>>,
    /// Begins with the end of the request.
    per_try_limit: Cell<Option<Duration>>,
    per_try_idle: Cell<Option<Duration>>,
    complete: Cell<bool>,
    request: Cell<Option<Instant>>,
    max: Cell<Option<Instant>>,
    idle: Cell<Option<Duration>>,
    active: Cell<Option<Instant>>,
}

impl Timers {
    /// At the beginning of an exchange.
    pub fn start(
        &self,
        now: Instant,
        idle: Option<Duration>,
        request: Option<Duration>,
        max: Option<Duration>,
    ) {
        self.active.set(Some(now));
        self.idle.set(idle);
        self.request.set(after(now, request));
        self.max.set(after(now, max));
    }

    /// The idle time of the route instead of the listener's.
    pub fn set_idle(&self, idle: Option<Duration>) {
        self.idle.set(idle);
    }

    /// The smaller of the listener's and the route's longest stream.
    pub fn limit_duration(&self, start: Instant, max: Option<Duration>) {
        let new = after(start, max);
        self.max.set(self.max.get().into_iter().chain(new).min());
    }

    /// The request has come whole: its own timeout ends, the route's begins, once for all tries.
    pub fn request_complete(&self, now: Instant, route: Option<Duration>) {
        self.request.set(None);
        self.complete.set(true);
        self.per_try.set(self.per_try.get().or(after(now, self.per_try_limit.get())));
        self.route.set(self.route.get().or(after(now, route)));
    }

    /// A try has its stream.
    pub fn begin_try(&self, now: Instant, limit: Option<Duration>, idle: Option<Duration>) {
        self.per_try_limit.set(limit);
        self.per_try.set(after(now, limit.filter(|_| self.complete.get())));
        self.per_try_idle.set(idle);
        if idle.is_some() {
            self.active.set(Some(now));
        }
    }

    /// The try was answered.
    pub fn end_per_try(&self) {
        self.per_try_limit.set(None);
        self.per_try.set(None);
    }

    /// The try is over.
    pub fn end_try(&self) {
        self.end_per_try();
        self.per_try_idle.set(None);
    }

    /// A byte went in some direction.
    pub fn touch(&self) {
        if self.idle.get().is_some() || self.per_try_idle.get().is_some() {
            self.active.set(Some(time::now()));
        }
    }

    /// Waits until the first deadline has passed.
    pub async fn expired(&self, mut timer: Pin<&mut Sleep>) -> Expiry {
        poll_fn(|context| {
            loop {
                let Some((deadline, expiry)) = self.nearest() else { return Poll::Pending };
                let deadline = tokio::time::Instant::from_std(deadline);
                if timer.deadline() > deadline || timer.is_elapsed() {
                    timer.as_mut().reset(deadline);
                }
                if timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                // The timer may have been set for a deadline that has moved on since.
                if tokio::time::Instant::now() >= deadline {
                    return Poll::Ready(expiry);
                }
            }
        })
        .await
    }

    fn nearest(&self) -> Option<(Instant, Expiry)> {
        let since_active = |limit: Option<Duration>| self.active.get()?.checked_add(limit?);
        [
            (self.route.get(), Expiry::Route),
            (self.per_try.get(), Expiry::PerTry),
            (self.request.get(), Expiry::Request),
            (self.max.get(), Expiry::MaxDuration),
            (since_active(self.per_try_idle.get()), Expiry::PerTryIdle),
            (since_active(self.idle.get()), Expiry::StreamIdle),
        ]
        .into_iter()
        .filter_map(|(deadline, expiry)| Some((deadline?, expiry)))
        .min_by_key(|(deadline, _)| *deadline)
    }
}

fn after(now: Instant, limit: Option<Duration>) -> Option<Instant> {
    now.checked_add(limit?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn activity_moves_the_idle_deadline_and_the_nearest_deadline_wins() {
        let begun = tokio::time::Instant::now();
        let timers = Timers::default();
        timers.start(begun.into_std(), Some(Duration::from_secs(2)), None, None);
        let mut timer = std::pin::pin!(tokio::time::sleep(Duration::from_secs(86_400)));
        timers.active.set(Some(begun.into_std() + Duration::from_secs(1)));
        assert_eq!(timers.expired(timer.as_mut()).await, Expiry::StreamIdle);
        assert_eq!(begun.elapsed().as_secs(), 3);
        timers.request_complete(tokio::time::Instant::now().into_std(), Some(Duration::from_secs(1)));
        timers.set_idle(None);
        assert_eq!(timers.expired(timer.as_mut()).await, Expiry::Route);
        assert_eq!(begun.elapsed().as_secs(), 4);
    }
}
