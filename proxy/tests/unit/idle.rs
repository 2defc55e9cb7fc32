//! The longest idle connection is found whatever came and went before.

use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

/// Whether a connection was told to close.
fn is_evicted(place: &IdlePlace) -> bool {
    place.poll_evicted(&Context::from_waker(Waker::noop())) == Poll::Ready(())
}

proptest! {
    /// The model is a list in the order of coming; the first of the least `used` goes.
    #[test]
    fn unused_connections_are_evicted_before_used_ones_and_the_longest_idle_first(
        steps in proptest::collection::vec((0_u8..5, any::<prop::sample::Index>()), 0..64),
    ) {
        let connections = Rc::new(IdleConnections::default());
        let place = || IdlePlace::new(Some(Rc::clone(&connections)));
        let mut model: Vec<(bool, IdlePlace)> = Vec::new();
        for (step, at) in steps {
            match step {
                0 => model.push((false, place())),
                // It has a request, and is idle again.
                1 if !model.is_empty() => {
                    let (_, place) = model.remove(at.index(model.len()));
                    prop_assert!(place.leave());
                    prop_assert_eq!(connections.all.borrow().len(), model.len());
                    place.enter(true);
                    model.push((true, place));
                }
                2 if !model.is_empty() => drop(model.remove(at.index(model.len()))),
                1 | 2 => {}
                _ => {
                    prop_assert_eq!(connections.evict(), !model.is_empty());
                    let first = model.iter().enumerate().min_by_key(|(_, (used, _))| *used);
                    if let Some((at, _)) = first {
                        let (_, place) = model.remove(at);
                        prop_assert!(is_evicted(&place));
                        // A request that came meanwhile is its last.
                        prop_assert!(step == 3 || !place.leave());
                    }
                    prop_assert!(!model.iter().any(|(_, place)| is_evicted(place)));
                }
            }
            prop_assert_eq!(connections.all.borrow().len(), model.len());
        }
    }
}

#[test]
fn a_connection_that_makes_no_way_is_never_evicted() {
    let place = IdlePlace::new(None);
    assert!(!is_evicted(&place) && place.leave());
    place.enter(true);
    assert!(!is_evicted(&place) && place.leave());
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn the_task_that_waited_last_is_woken() {
    let connections = Rc::new(IdleConnections::default());
    let place = IdlePlace::new(Some(Rc::clone(&connections)));
    let woken = [(); 2].map(|()| std::sync::Arc::<Woken>::default());
    for task in &woken {
        let waker = Waker::from(std::sync::Arc::clone(task));
        assert_eq!(place.poll_evicted(&Context::from_waker(&waker)), Poll::Pending);
    }
    assert!(connections.evict());
    let counts = woken.each_ref().map(|task| task.0.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(counts, [0, 1]);
}

#[test]
fn a_task_that_waited_before_the_connection_was_idle_is_woken() {
    let connections = Rc::new(IdleConnections::default());
    let place = IdlePlace::new(Some(Rc::clone(&connections)));
    let woken = std::sync::Arc::<Woken>::default();
    let waker = Waker::from(std::sync::Arc::clone(&woken));
    // It waits before a request comes, and then only while one is under way.
    for wait_while_busy in [false, true] {
        let wait = || place.poll_evicted(&Context::from_waker(&waker));
        if !wait_while_busy {
            assert_eq!(wait(), Poll::Pending);
        }
        assert!(place.leave());
        if wait_while_busy {
            assert_eq!(wait(), Poll::Pending);
        }
        place.enter(true);
    }
    assert!(connections.evict());
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}
