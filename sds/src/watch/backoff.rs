//! How long to wait before asking again.
//!
//! Exponential with full jitter: a random time below a ceiling that doubles from failure to failure up to a low cap,
//! because what we serve meanwhile ages. Only progress resets it, never the mere start of another attempt: kube-runtime's
//! own backoff forgets at each attempt and so asks a dead API server every second for ever. Pure; randomness comes in.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, failures: 0 }
    }

    /// The wait after one more failure; `random` is from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.cap).mul_f64(random.clamp(0.0, 1.0))
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last progress.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_again_after_progress() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let waits: Vec<f64> = (0..8).map(|_| backoff.next(1.0).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_millis(500));
    }

    #[test]
    fn jitter_takes_any_part_of_it() {
        let mut backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(4));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.25), Duration::from_secs(1));
    }

    #[test]
    fn a_month_of_failures_stays_at_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        assert!((0..300_000).all(|_| backoff.next(1.0) <= Duration::from_secs(10)));
    }
}
