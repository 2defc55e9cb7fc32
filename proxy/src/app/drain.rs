//! The ordered end: readiness, inbound, outbound.
//!
//! An application that finishes its last request still needs its own calls, so that outbound
//! listeners drain only after the last inbound connection has ended. Announce, wait, close:
//! connections of the first two seconds are still served, with an announcement of the close.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::state::{Direction, Drain, Phase, ServerState};

/// How long new connections are accepted after the end was announced: endpoints take a moment to hear of it.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// How long workers may take to record what is given up at the deadline.
const LAST_RECORDS: Duration = Duration::from_millis(100);

/// Drains everything, at most for `limit`. True when nothing was cut off.
pub(crate) async fn drain(state: &ServerState, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    state.set_phase(Phase::Draining);
    state.set_drain(Direction::Inbound, Drain::Announce);
    let accepting = (Instant::now() + ANNOUNCED).min(deadline);
    tokio::time::sleep_until(accepting).await;
    state.set_drain(Direction::Inbound, Drain::Closed);
    let inbound = ended(state, Direction::Inbound, deadline).await;
    state.set_drain(Direction::Outbound, Drain::Closed);
    let outbound = ended(state, Direction::Outbound, deadline).await;
    let whole = inbound && outbound;
    tracing::info!(
        inbound_cut = state.connections(Direction::Inbound),
        outbound_cut = state.connections(Direction::Outbound),
        "drained"
    );
    if !whole {
        // What is given up is logged and counted by the workers.
        for direction in [Direction::Inbound, Direction::Outbound] {
            state.set_drain(direction, Drain::Over);
            ended(state, direction, Instant::now() + LAST_RECORDS).await;
        }
    }
    whole
}

/// Waits until the last connection of a direction has ended, those not yet accepted included; false at the deadline.
async fn ended(state: &ServerState, direction: Direction, deadline: Instant) -> bool {
    let mut changes = state.subscribe();
    timeout_at(deadline, async {
        while !state.is_idle(direction) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    })
    .await
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn state() -> Arc<ServerState> {
        Arc::new(ServerState::new(crate::time::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_serves_until_the_last_inbound_connection_has_ended() {
        let state = state();
        state.connection_opened(Direction::Inbound);
        state.connection_opened(Direction::Outbound);
        let draining = tokio::spawn({
            let state = Arc::clone(&state);
            async move { drain(&state, Duration::from_secs(30)).await }
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(state.drain(Direction::Inbound), Drain::Closed);
        assert_eq!(state.drain(Direction::Outbound), Drain::No);
        state.connection_closed(Direction::Inbound);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(state.drain(Direction::Outbound), Drain::Closed);
        state.connection_closed(Direction::Outbound);
        assert!(draining.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn what_lies_in_an_accept_queue_is_waited_for() {
        let state = state();
        state.acceptor_opened(Direction::Inbound);
        let draining = tokio::spawn({
            let state = Arc::clone(&state);
            async move { drain(&state, Duration::from_secs(30)).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!draining.is_finished());
        state.connection_opened(Direction::Inbound);
        state.acceptor_closed(Direction::Inbound);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!draining.is_finished());
        state.connection_closed(Direction::Inbound);
        assert!(draining.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_proxy_ends_within_three_seconds_and_a_busy_one_at_the_deadline() {
        let begun = Instant::now();
        assert!(drain(&state(), Duration::from_secs(30)).await);
        assert!(begun.elapsed() < Duration::from_secs(3));
        let busy = state();
        busy.connection_opened(Direction::Inbound);
        let begun = Instant::now();
        assert!(!drain(&busy, Duration::from_secs(5)).await);
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}
