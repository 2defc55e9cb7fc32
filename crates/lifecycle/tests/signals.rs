//! Real signals sent to this process: one test, since a signal reaches every handler of the process.

use std::time::Duration;

use lifecycle::{Lifecycle, Outcome, Reload};
use rustix::process::{Signal, getpid, kill_process};

#[tokio::test]
async fn hangup_reloads_the_first_term_drains_and_the_second_ends_at_once() {
    let lifecycle = Lifecycle::from_signals().expect("handlers");
    let mut reload = Reload::from_signals().expect("handler");
    let shutdown = lifecycle.shutdown();
    let send = |signal| kill_process(getpid(), signal).expect("a process may signal itself");
    let in_flight = shutdown.spawn(std::future::pending::<()>());

    send(Signal::HUP);
    reload.requested().await;
    assert!(!shutdown.is_requested());

    send(Signal::TERM);
    shutdown.requested().await;
    let drain = tokio::spawn(lifecycle.drain(Duration::from_secs(3600)));
    assert!(!drain.is_finished());

    send(Signal::INT);
    assert_eq!(drain.await.expect("no panic"), Outcome::Aborted { left: 1 });
    in_flight.abort();
}
