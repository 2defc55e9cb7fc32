//! Rows of results, and what they make of a host.
//!
//! Tests of `health`.

use super::*;
use crate::cluster::flags::HealthFlag;

fn settings(healthy_threshold: u32, unhealthy_threshold: u32) -> Settings {
    Settings {
        timeout: Duration::from_secs(1),
        intervals: Intervals {
            interval: Duration::from_secs(10),
            unhealthy: Duration::from_secs(20),
            unhealthy_edge: Duration::from_secs(21),
            healthy_edge: Duration::from_secs(11),
            no_traffic: Duration::from_secs(60),
            no_traffic_healthy: Duration::from_secs(70),
            jitter: Duration::ZERO,
            jitter_percent: 0,
            initial_jitter: Duration::ZERO,
        },
        unhealthy_threshold,
        healthy_threshold,
        reuse_connection: true,
        ignore_new_hosts: false,
        ignore_health_on_removal: false,
        log_failures: false,
        log_successes: false,
        probe: Probe::Tcp(Arc::new(TcpProbe { send: Vec::new(), receive: Vec::new() })),
    }
}

const PASSED: Outcome = Outcome::Passed { degraded: false };
const FAILED: Outcome = Outcome::Failed { retriable: false, exclude: false };
const RETRIABLE: Outcome = Outcome::Failed { retriable: true, exclude: false };

/// The health after each result.
fn health(settings: &Settings, results: &[Outcome]) -> Vec<bool> {
    let mut session = Session::new(settings);
    let mut take = |outcome: &Outcome| {
        session.take(settings, *outcome);
        session.is_healthy()
    };
    results.iter().map(&mut take).collect()
}

#[test]
fn the_first_success_is_enough_and_later_ones_must_be_a_row() {
    let settings = settings(2, 3);
    assert_eq!(health(&settings, &[PASSED]), [true]);
    assert_eq!(
        health(&settings, &[FAILED, PASSED, FAILED, PASSED, PASSED]),
        [false, false, false, false, true]
    );
}

#[test]
fn failures_to_connect_must_be_consecutive_and_one_bad_response_is_enough() {
    let settings = settings(1, 3);
    use Outcome::{Network, Timeout};
    assert_eq!(
        health(&settings, &[PASSED, Network, Timeout, PASSED, Network, RETRIABLE, Timeout]),
        [true, true, true, true, true, true, false]
    );
    assert_eq!(health(&settings, &[PASSED, FAILED]), [true, false]);
}

#[test]
fn a_timeout_is_shown_apart_while_the_host_is_unhealthy() {
    let settings = settings(1, 1);
    let mut session = Session::new(&settings);
    session.take(&settings, Outcome::Timeout);
    assert_eq!(session.flags().to_string(), "/failed_active_hc/active_hc_timeout");
    session.take(&settings, Outcome::Network);
    assert_eq!(session.flags().to_string(), "/failed_active_hc");
    session.take(&settings, Outcome::Timeout);
    session.take(&settings, PASSED);
    assert_eq!(session.flags().to_string(), "healthy");
}

#[test]
fn a_host_that_wants_to_be_left_alone_is_counted_again_when_it_is_healthy() {
    let settings = settings(1, 3);
    let mut session = Session::new(&settings);
    session.take(&settings, PASSED);
    session.take(&settings, Outcome::Passive);
    assert_eq!(session.flags().to_string(), "/failed_active_hc/excluded_via_immediate_hc_fail");
    session.take(&settings, PASSED);
    assert_eq!(session.flags().to_string(), "healthy");
}

#[test]
fn a_degraded_host_is_healthy_enough() {
    let settings = settings(1, 1);
    let mut session = Session::new(&settings);
    session.take(&settings, Outcome::Passed { degraded: true });
    assert_eq!(session.flags().to_string(), "/degraded_active_hc");
    assert_eq!(session.take(&settings, PASSED), Transition::Changed);
}

#[test]
fn a_new_host_counts_in_no_sum_where_the_file_says_so() {
    let settings = Settings { ignore_new_hosts: true, ..settings(1, 1) };
    let mut session = Session::new(&settings);
    assert!(session.flags().is_excluded() && session.flags().has(HealthFlag::PendingActiveHc));
    assert_eq!(session.take(&settings, Outcome::Network), Transition::Changed);
    assert!(!session.flags().is_excluded());
}

#[test]
fn the_wait_is_by_result_and_by_what_is_still_to_change() {
    let Settings { intervals, .. } = settings(1, 1);
    let wait =
        |passed, transition, traffic| intervals.after(passed, transition, traffic, &mut |_| 0).as_secs();
    use Transition::{Changed, Pending, Unchanged};
    assert_eq!([Unchanged, Changed, Pending].map(|transition| wait(true, transition, true)), [10, 10, 11]);
    assert_eq!([Unchanged, Changed, Pending].map(|transition| wait(false, transition, true)), [20, 20, 21]);
    assert_eq!([Unchanged, Changed, Pending].map(|transition| wait(true, transition, false)), [70, 70, 60]);
    assert_eq!(wait(false, Unchanged, false), 60);
}

#[test]
fn jitter_is_added_to_the_wait() {
    let mut intervals = settings(1, 1).intervals;
    intervals.jitter = Duration::from_secs(2);
    intervals.jitter_percent = 50;
    let longest = intervals.after(true, Transition::Unchanged, true, &mut |bound| bound - 1);
    assert_eq!(longest, Duration::from_millis(10_000 + 4_999 + 1_999));
    intervals.initial_jitter = Duration::from_millis(5);
    assert_eq!(intervals.first(&mut |bound| bound - 1), Duration::from_millis(4));
}

#[test]
fn pieces_are_found_in_their_order() {
    let pieces = [b"ab".to_vec(), b"cd".to_vec()];
    assert!(holds(b"xxabyycdzz", &pieces));
    assert!(!holds(b"cdab", &pieces));
    assert!(!holds(b"ab", &pieces));
}

#[test]
fn a_check_goes_where_the_endpoint_says() {
    let endpoint: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let target = Target { port: Some(81), ..Target::default() };
    assert_eq!(target.of(endpoint).to_string(), "127.0.0.1:81");
    let target = Target { address: Some("127.0.0.2:90".parse().unwrap()), ..Target::default() };
    assert_eq!(target.of(endpoint).to_string(), "127.0.0.2:90");
}
