//! The overload manager: states from pressures, and what is published of them.

use proptest::prelude::*;

use super::*;

fn trigger() -> impl Strategy<Value = Trigger> {
    let threshold = (0.0..=1.0).prop_map(Trigger::Threshold);
    let scaled = (0.0..0.99, 0.01..1.0)
        .prop_map(|(from, above): (f64, f64)| Trigger::Scaled { from, to: (from + above).min(1.0) });
    prop_oneof![threshold, scaled]
}

fn rule(action: Action, triggers: Vec<Trigger>) -> Rule {
    Rule { name: "action".into(), action, triggers: triggers.into_iter().enumerate().collect() }
}

fn config(actions: Vec<Rule>) -> Config {
    let monitor = |name: &str| Monitor { name: name.into(), resource: Resource::Heap { max: 1 } };
    Config { monitors: vec![monitor("one"), monitor("other")], actions, ..Config::default() }
}

fn state(config: &Config, pressures: &[Option<f64>]) -> f64 {
    config.states(pressures).next().unwrap()
}

proptest! {
    #[test]
    fn a_state_lies_between_0_and_1_and_grows_with_the_pressure(
        trigger in trigger(), low in 0.0..2.0, more in 0.0..1.0,
    ) {
        let config = config(vec![rule(Action::ReduceTimeouts, vec![trigger])]);
        let (before, after) = (state(&config, &[Some(low)]), state(&config, &[Some(low + more)]));
        prop_assert!((0.0..=1.0).contains(&before));
        prop_assert!(before <= after);
        let above_all = state(&config, &[Some(1.0 + more)]);
        prop_assert!(above_all >= 1.0, "{trigger:?}");
    }

    #[test]
    fn an_action_is_as_active_as_the_trigger_that_asks_for_most(
        triggers in [trigger(), trigger()], pressures in [0.0..1.5, 0.0..1.5],
    ) {
        let both = config(vec![rule(Action::ShrinkHeap, triggers.to_vec())]);
        let each = [0, 1].map(|at: usize| {
            let mut only = rule(Action::ShrinkHeap, Vec::new());
            only.triggers.push((at, triggers[at]));
            state(&config(vec![only]), &pressures.map(Some))
        });
        let together = state(&both, &pressures.map(Some));
        prop_assert!((together - each[0].max(each[1])).abs() < f64::EPSILON);
        // A monitor that cannot be read triggers nothing.
        prop_assert!((state(&both, &[None, Some(pressures[1])]) - each[1]).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_published_is_what_is_read(
        flags in any::<[bool; 4]>(), reject in 0_u8..=100, timeouts in 0_u8..=100,
    ) {
        let [stop_connections, stop_requests, no_keepalive, shrink] = flags;
        let relief = Relief { stop_connections, stop_requests, no_keepalive, shrink, reject, timeouts };
        let overload = Overload::default();
        prop_assert_eq!(overload.publish(relief), relief != Relief::default());
        prop_assert_eq!(overload.relief(), relief);
        prop_assert!(!overload.publish(relief), "nothing has changed");
    }

    #[test]
    fn a_timeout_shrinks_from_its_full_length_to_the_least(
        full in 0_u64..10_000, least in 0_u64..10_000, share in 0.0..=1.0, low in 0_u8..=100, high in 0_u8..=100,
    ) {
        let full = Duration::from_millis(full);
        for least in [Least::Timeout(Duration::from_millis(least)), Least::Share(share)] {
            let overload = Overload::default();
            let timers = Timers { connection_idle: Some(least), stream_idle: None };
            overload.configure(&Config { timers, ..Config::default() });
            let at = |timeouts: u8| {
                overload.publish(Relief { timeouts, ..Relief::default() });
                prop_assert_eq!(overload.stream_idle(Some(full)), Some(full), "another timer");
                prop_assert_eq!(overload.connection_idle(None), None, "no timeout stays none");
                Ok(overload.connection_idle(Some(full)).unwrap())
            };
            prop_assert_eq!(at(0)?, full);
            prop_assert!(at(low.max(high))? <= at(low.min(high))?);
            let end = match least {
                Least::Timeout(timeout) => timeout.min(full),
                Least::Share(share) => full.mul_f64(share),
            };
            prop_assert!(at(100)?.abs_diff(end) < Duration::from_micros(1));
        }
    }

    #[test]
    fn no_more_connections_are_open_than_the_limit_but_those_that_ignore_it_and_those_that_close(
        most in 1_u64..8, steps in proptest::collection::vec(0_u8..4, 0..64),
    ) {
        let overload = Overload::default();
        let resource = Resource::Connections { max: most };
        let monitors = vec![Monitor { name: "connections".into(), resource }];
        overload.configure(&Config { monitors, ..Config::default() });
        let mut open = 0;
        for step in steps {
            match step {
                0 => {
                    let entered = overload.enter(false, || false);
                    prop_assert_eq!(entered, open < most);
                    open += u64::from(entered);
                }
                1 => {
                    prop_assert!(overload.enter(true, || unreachable!()));
                    open += 1;
                }
                2 => {
                    // Another one closes, but has not done so yet.
                    let entered = overload.enter(false, || {
                        assert!(open >= most);
                        true
                    });
                    prop_assert_eq!(entered, open < most + MAX_CLOSING);
                    open += u64::from(entered);
                }
                _ if open > 0 => {
                    overload.leave();
                    open -= 1;
                }
                _ => {}
            }
            prop_assert_eq!(overload.open(), open);
        }
    }
}
