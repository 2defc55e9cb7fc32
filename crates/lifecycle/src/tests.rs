//! The drain in virtual time, without signals (those are in `tests/signals.rs`).

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn drain_waits_for_the_tasks_in_flight() {
    let lifecycle = Lifecycle::manual();
    let shutdown = lifecycle.shutdown();
    let task = shutdown.clone();
    shutdown.spawn(async move {
        task.requested().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    shutdown.begin();
    let start = tokio::time::Instant::now();
    assert_eq!(lifecycle.drain(MINUTE).await, Outcome::Done);
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(shutdown.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn drain_does_not_begin_the_shutdown_by_itself() {
    let lifecycle = Lifecycle::manual();
    let shutdown = lifecycle.shutdown();
    let mut drain = std::pin::pin!(lifecycle.drain(MINUTE));
    assert!(tokio::time::timeout(MINUTE * 60, &mut drain).await.is_err());
    assert!(!shutdown.is_requested());
    shutdown.begin();
    assert_eq!(drain.await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_drain_that_hangs_and_counts_what_was_left() {
    let lifecycle = Lifecycle::manual();
    let shutdown = lifecycle.shutdown();
    shutdown.spawn(std::future::pending::<()>());
    shutdown.begin();
    let start = tokio::time::Instant::now();
    let outcome = lifecycle.drain(MINUTE).await;
    assert_eq!(outcome, Outcome::DeadlineExceeded { left: 1 });
    assert_eq!(outcome.exit_code(), exit::DONE);
    assert_eq!(start.elapsed(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn abort_ends_the_drain_at_once_even_before_it_began() {
    let lifecycle = Lifecycle::manual();
    let shutdown = lifecycle.shutdown();
    shutdown.spawn(std::future::pending::<()>());
    shutdown.abort();
    let start = tokio::time::Instant::now();
    let outcome = lifecycle.drain(MINUTE).await;
    assert_eq!(outcome, Outcome::Aborted { left: 1 });
    assert_eq!(outcome.exit_code(), exit::FAILED);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(shutdown.is_requested());
}

#[tokio::test]
async fn futures_polled_on_another_runtime_are_waited_for() {
    let lifecycle = Lifecycle::manual();
    let shutdown = lifecycle.shutdown();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let worker = shutdown.track(async move { released.await.is_ok() });
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(worker)
    });
    shutdown.begin();
    let drain = tokio::spawn(lifecycle.drain(MINUTE));
    assert_eq!(shutdown.running(), 1);
    release.send(()).expect("the worker waits");
    assert_eq!(drain.await.expect("no panic"), Outcome::Done);
    assert!(thread.join().expect("no panic"));
}
