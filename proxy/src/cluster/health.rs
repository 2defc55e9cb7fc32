//! Active health checks: what a row of results says about a host, and when it is asked again.
//!
//! Why: a host that cannot respond should be found before a request goes to it. Triggers: failures
//! in a row (`unhealthy_threshold`), or one response that says so itself. Recovers: successes in a
//! row (`healthy_threshold`), the first of all at once, so that a start is quick. Against Envoy: as
//! there, the edge intervals are for results that have not changed the health yet. Belongs to the
//! single writer in `control`, whose checkers do the asking; calls nothing above `mutation` and
//! `matcher`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::flags::{HealthFlag, HealthFlags};
use crate::headers::Changes;
use crate::matcher::StringMatch;
use crate::message::Method;

#[cfg(test)]
#[path = "../../tests/unit/health.rs"]
mod tests;

/// Everything about health checks that a file says.
#[derive(Debug)]
pub(crate) struct Settings {
    pub timeout: Duration,
    pub intervals: Intervals,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    /// One connection serves many checks.
    pub reuse_connection: bool,
    /// New hosts are left out of every sum before their first check.
    pub ignore_new_hosts: bool,
    /// A host that discovery removed goes at once, however healthy.
    pub ignore_health_on_removal: bool,
    pub log_failures: bool,
    pub log_successes: bool,
    pub probe: Probe,
}

/// Waits between the checks of one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    pub interval: Duration,
    pub unhealthy: Duration,
    pub unhealthy_edge: Duration,
    pub healthy_edge: Duration,
    /// While the cluster has had no connection.
    pub no_traffic: Duration,
    pub no_traffic_healthy: Duration,
    pub jitter: Duration,
    pub jitter_percent: u32,
    /// Before the first check.
    pub initial_jitter: Duration,
}

/// How a host is asked.
#[derive(Debug)]
pub(crate) enum Probe {
    Http(Arc<HttpProbe>),
    Tcp(Arc<TcpProbe>),
    Grpc(Arc<GrpcProbe>),
}

#[derive(Debug)]
pub(crate) struct HttpProbe {
    /// `host`; the endpoint's own name for checks comes first.
    pub host: Box<str>,
    pub path: Box<str>,
    pub method: Method,
    pub http2: bool,
    pub headers: Changes,
    pub body: Vec<u8>,
    /// From the first to before the second.
    pub expected: Vec<(u16, u16)>,
    pub retriable: Vec<(u16, u16)>,
    /// What the body must hold, in this order.
    pub receive: Vec<Vec<u8>>,
    /// Bytes of the body that are searched; `None` is all, up to our own limit.
    pub body_limit: Option<usize>,
    pub service_name: Option<StringMatch>,
}

#[derive(Debug)]
pub(crate) struct TcpProbe {
    pub send: Vec<u8>,
    pub receive: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct GrpcProbe {
    pub authority: Box<str>,
    pub service: String,
    pub headers: Changes,
}

/// How the health of one endpoint is checked (`health_check_config`).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Target {
    /// Where, when it is not the endpoint's own address.
    pub address: Option<SocketAddr>,
    pub port: Option<u16>,
    pub hostname: String,
    pub disabled: bool,
}

impl Target {
    /// The address to ask.
    pub(crate) fn of(&self, endpoint: SocketAddr) -> SocketAddr {
        let address = self.address.unwrap_or(endpoint);
        SocketAddr::new(address.ip(), self.port.unwrap_or(address.port()))
    }
}

/// What one check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed {
        degraded: bool,
    },
    /// The host responded, and the response is bad. `retriable` ones count toward the threshold,
    /// others fail the host at once.
    Failed {
        retriable: bool,
        /// It asks not to be counted at all.
        exclude: bool,
    },
    /// No connection, or one that failed.
    Network,
    Timeout,
    /// A worker saw a response that says that the host must not be used.
    Passive,
}

/// What a result did to the health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Unchanged,
    Changed,
    /// A change needs more results of this kind.
    Pending,
}

/// One host under checks.
#[derive(Debug)]
pub(crate) struct Session {
    flags: HealthFlags,
    first: bool,
    passed: u32,
    failed: u32,
}

impl Session {
    /// Unhealthy before its first check.
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut flags = HealthFlags::default();
        flags.set(HealthFlag::FailedActiveHc, true);
        flags.set(HealthFlag::PendingActiveHc, settings.ignore_new_hosts);
        Self { flags, first: true, passed: 0, failed: 0 }
    }

    pub(crate) fn flags(&self) -> HealthFlags {
        self.flags
    }

    /// Whether there has been no result yet.
    pub(crate) fn is_new(&self) -> bool {
        self.first
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.flags.has(HealthFlag::FailedActiveHc)
    }

    /// Takes a result. `flags` are up to date afterwards, for every transition.
    pub(crate) fn take(&mut self, settings: &Settings, outcome: Outcome) -> Transition {
        let changed = match outcome {
            Outcome::Passed { degraded } => self.pass(settings, degraded),
            Outcome::Failed { retriable, exclude } => {
                if exclude {
                    self.flags.set(HealthFlag::ExcludedViaImmediateHcFail, true);
                }
                self.fail(settings, retriable, false)
            }
            Outcome::Network => self.fail(settings, true, false),
            Outcome::Timeout => self.fail(settings, true, true),
            Outcome::Passive => {
                self.flags.set(HealthFlag::ExcludedViaImmediateHcFail, true);
                self.fail(settings, false, false)
            }
        };
        self.first = false;
        if self.flags.has(HealthFlag::PendingActiveHc) {
            self.flags.set(HealthFlag::PendingActiveHc, false);
            return Transition::Changed;
        }
        changed
    }

    fn pass(&mut self, settings: &Settings, degraded: bool) -> Transition {
        self.failed = 0;
        let mut transition = Transition::Unchanged;
        if !self.is_healthy() {
            self.passed = self.passed.saturating_add(1);
            if self.first || self.passed == settings.healthy_threshold {
                self.flags.set(HealthFlag::ActiveHcTimeout, false);
                self.flags.set(HealthFlag::ExcludedViaImmediateHcFail, false);
                self.flags.set(HealthFlag::FailedActiveHc, false);
                transition = Transition::Changed;
            } else {
                transition = Transition::Pending;
            }
        }
        if degraded != self.flags.has(HealthFlag::DegradedActiveHc) {
            self.flags.set(HealthFlag::DegradedActiveHc, degraded);
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        transition
    }

    fn fail(&mut self, settings: &Settings, counted: bool, timeout: bool) -> Transition {
        self.passed = 0;
        let mut transition = Transition::Unchanged;
        if self.is_healthy() {
            self.failed += u32::from(counted);
            if !counted || self.failed == settings.unhealthy_threshold {
                self.flags.set(HealthFlag::FailedActiveHc, true);
                transition = Transition::Changed;
            } else {
                transition = Transition::Pending;
            }
        }
        // Told apart for `/clusters` alone.
        let timed_out = timeout && !self.is_healthy();
        self.flags.set(HealthFlag::ActiveHcTimeout, timed_out);
        transition
    }
}

impl Intervals {
    /// How long to wait before the next check. `traffic` is whether the cluster ever had a connection.
    pub(crate) fn after(
        &self,
        passed: bool,
        transition: Transition,
        traffic: bool,
        random: &mut impl FnMut(u64) -> u64,
    ) -> Duration {
        let pending = transition == Transition::Pending;
        let base = match (traffic, passed, pending) {
            (false, true, false) => self.no_traffic_healthy,
            (false, _, _) => self.no_traffic,
            (true, false, true) => self.unhealthy_edge,
            (true, false, false) => self.unhealthy,
            (true, true, true) => self.healthy_edge,
            (true, true, false) => self.interval,
        };
        let share = base.saturating_mul(self.jitter_percent) / 100;
        let wait = base.saturating_add(part(share, random)).saturating_add(part(self.jitter, random));
        wait.max(SHORTEST)
    }

    /// How long to wait before the first check.
    pub(crate) fn first(&self, random: &mut impl FnMut(u64) -> u64) -> Duration {
        part(self.initial_jitter, random)
    }
}

/// So that checks never follow each other without a pause.
const SHORTEST: Duration = Duration::from_millis(1);

/// A random part of a duration, in whole milliseconds.
fn part(longest: Duration, random: &mut impl FnMut(u64) -> u64) -> Duration {
    match u64::try_from(longest.as_millis()).unwrap_or(u64::MAX) {
        0 => Duration::ZERO,
        millis => Duration::from_millis(random(millis)),
    }
}

/// Whether a string contains all pieces, in this order; other bytes may be between them.
pub(crate) fn holds(text: &[u8], pieces: &[Vec<u8>]) -> bool {
    let mut rest = text;
    pieces.iter().all(|piece| match find(rest, piece) {
        Some(at) => {
            rest = rest.get(at + piece.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}

fn find(text: &[u8], piece: &[u8]) -> Option<usize> {
    if piece.is_empty() {
        return Some(0);
    }
    text.windows(piece.len()).position(|window| window == piece)
}
