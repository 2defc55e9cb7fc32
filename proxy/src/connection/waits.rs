//! What a connection waits for beside its client: deadlines on one timer, and the stages of draining.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http1::Refusal;
use crate::snapshot::Timeouts;
use crate::state::Drain;

pub(super) fn now() -> Instant {
    Instant::from_std(crate::time::now())
}

pub(super) fn idle_due(idle: Option<Duration>) -> Option<Instant> {
    idle.map(|idle| now() + idle)
}

/// When a head must be whole, and the answer when it is not.
pub(super) fn head_due(timeouts: &Timeouts) -> Option<(Instant, Refusal)> {
    let candidates = [
        (timeouts.request_headers, Refusal::HEADER_TIMEOUT),
        (timeouts.request, Refusal::TIMEOUT),
        (timeouts.stream_idle, Refusal::IDLE_TIMEOUT),
    ];
    let first = candidates.into_iter().filter_map(|(limit, refusal)| Some((limit?, refusal)));
    first.min_by_key(|(limit, _)| *limit).map(|(limit, refusal)| (now() + limit, refusal))
}

/// Waits until a head should have been whole; reads no clock when it comes at once.
pub(super) async fn too_late(timeouts: &Timeouts) -> Refusal {
    match head_due(timeouts) {
        Some((due, refusal)) => {
            sleep_until(due).await;
            refusal
        }
        None => pending().await,
    }
}

pub(super) fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

pub(super) fn timer(due: Option<Instant>) -> Sleep {
    sleep_until(due.unwrap_or_else(now))
}

/// Waits until `due`. One timer serves a connection: it is set again only when it fires too early, not with each request.
pub(super) async fn until(mut timer: Pin<&mut Sleep>, due: Option<Instant>) {
    let Some(due) = due else { return pending().await };
    loop {
        timer.as_mut().await;
        if timer.deadline() >= due {
            return;
        }
        timer.as_mut().reset(due);
    }
}

/// How long a connection that was accepted before the listener closed may take to bring its first request: it was promised an answer.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// Waits until draining has come so far that idle connections are closed; later where none of its requests has come yet.
pub(super) async fn closing(drain: &mut watch::Receiver<Drain>, requests: u32) {
    reached(drain, Drain::Closed).await;
    if requests == 0 {
        tokio::time::sleep(FIRST_REQUEST).await;
    }
}

/// Waits until the close is to be announced.
pub(super) async fn announced(drain: &mut watch::Receiver<Drain>) {
    reached(drain, Drain::Announce).await;
}

pub(super) async fn reached(drain: &mut watch::Receiver<Drain>, stage: Drain) {
    let gone = drain.wait_for(|drain| *drain >= stage).await.is_err();
    if gone {
        pending::<()>().await;
    }
}
