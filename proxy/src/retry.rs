//! Retries: whether a failed try may be made again. Pure.
//!
//! Why: a connection that could not be made, a refused or a reset stream says nothing about the next host. Triggers: the try failed in a
//! way that the route's policy names, tries are left, nothing of an answer was sent, the request can be sent again, and the
//! cluster's `max_retries` permits it. Recovers: each try waits for a random part of an exponentially growing interval.
//! Against Envoy: the same conditions for the names known here.
//! Called by `exchange`; calls nothing above `error`.

use std::time::Duration;

use crate::error::UpstreamError;

/// A route's or virtual host's `retry_policy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Tries after the first (1).
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    /// Hosts that were tried are avoided (`previous_hosts`), looking for another at most this many times.
    pub previous_hosts: bool,
    pub host_selection_attempts: u32,
    /// 25 ms.
    pub base_interval: Duration,
    /// Ten times the base.
    pub max_interval: Duration,
}

/// The conditions of `retry_on`, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub reset: bool,
}

impl RetryOn {
    /// The set of a comma-separated list; the first name that is not known is the error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut on = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "connect-failure" => on.connect_failure = true,
                "refused-stream" => on.refused_stream = true,
                "reset" => on.reset = true,
                _ => return Err(name.to_owned()),
            }
        }
        Ok(on)
    }

    /// Whether an error is among the conditions.
    pub fn covers(self, error: &UpstreamError) -> bool {
        match error {
            UpstreamError::ConnectFailure(_) | UpstreamError::ConnectTimeout => {
                self.connect_failure || self.reset
            }
            UpstreamError::RemoteRefused => self.refused_stream || self.reset,
            UpstreamError::RemoteReset
            | UpstreamError::ConnectionTermination
            | UpstreamError::Protocol(_) => self.reset,
            UpstreamError::Overflow => false,
        }
    }
}

impl RetryPolicy {
    /// The wait before retry number `retry` (1 is the first): full jitter over an interval that doubles, `random` in 0..1.
    pub fn back_off(&self, retry: u32, random: f64) -> Duration {
        let doublings = retry.saturating_sub(1).min(16);
        let longest = self.base_interval.saturating_mul(1 << doublings).min(self.max_interval);
        longest.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_covers_what_the_other_names_do_and_an_overflow_is_never_retried() {
        let on = RetryOn::parse("reset").unwrap();
        assert!(on.covers(&UpstreamError::ConnectionTermination));
        assert!(on.covers(&UpstreamError::RemoteRefused));
        assert!(!on.covers(&UpstreamError::Overflow));
        let connect = RetryOn::parse("connect-failure, refused-stream").unwrap();
        assert!(!connect.covers(&UpstreamError::ConnectionTermination));
        assert_eq!(RetryOn::parse("5xx"), Err("5xx".to_owned()));
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let policy = RetryPolicy {
            on: RetryOn::default(),
            num_retries: 3,
            per_try_timeout: None,
            previous_hosts: true,
            host_selection_attempts: 3,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(60),
        };
        let waits: Vec<_> = (1..=3).map(|retry| policy.back_off(retry, 1.0).as_millis()).collect();
        assert_eq!(waits, [25, 50, 60]);
    }
}
