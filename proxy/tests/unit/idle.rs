//! The longest idle connection is found whatever came and went before.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

/// Whether a connection was told to close.
fn is_evicted(evicted: &Notify) -> bool {
    pin!(evicted.notified()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

proptest! {
    /// The model is a list in the order of coming; the first of the least `used` goes.
    #[test]
    fn unused_connections_are_evicted_before_used_ones_and_the_longest_idle_first(
        steps in proptest::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..64),
    ) {
        let connections = Rc::new(IdleConnections::default());
        let mut model: Vec<(bool, Rc<Notify>, Idle)> = Vec::new();
        for (step, at) in steps {
            match step {
                0 | 1 => {
                    let (used, evicted) = (step == 1, Rc::<Notify>::default());
                    let idle = connections.enter(used, &evicted);
                    model.push((used, evicted, idle));
                }
                // It has a request now.
                2 if !model.is_empty() => drop(model.remove(at.index(model.len()))),
                2 => {}
                _ => {
                    prop_assert_eq!(connections.evict(), !model.is_empty());
                    let first = model.iter().enumerate().min_by_key(|(_, (used, ..))| *used);
                    if let Some((at, _)) = first {
                        let (_, evicted, _) = model.remove(at);
                        prop_assert!(is_evicted(&evicted));
                    }
                    prop_assert!(!model.iter().any(|(_, evicted, _)| is_evicted(evicted)));
                }
            }
            prop_assert_eq!(connections.all.borrow().len(), model.len());
        }
    }
}
