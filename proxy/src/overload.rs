//! The overload manager: which pressure leads to which action, and what is asked for now.
//!
//! `Config::states` is pure. `Overload` publishes its result: a worker reads one atomic word.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// `overload_manager` of the bootstrap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    pub(crate) refresh: Duration,
    pub(crate) monitors: Vec<Monitor>,
    pub(crate) actions: Vec<Rule>,
    pub(crate) timers: Timers,
}

/// A resource that is watched, by its name in statistics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Monitor {
    pub name: Box<str>,
    pub resource: Resource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Anonymous memory of the process.
    Heap { max: u64 },
    /// Memory of the control group, against its own limit and this one.
    Cgroup { max: Option<u64> },
    /// Connections of clients, all listeners together.
    Connections { max: u64 },
}

/// An action, by its name in statistics, and what triggers it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub name: Box<str>,
    pub action: Action,
    /// By the index of the monitor.
    pub triggers: Vec<(usize, Trigger)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    StopAcceptingConnections,
    RejectIncomingConnections,
    StopAcceptingRequests,
    DisableHttpKeepalive,
    ReduceTimeouts,
    ShrinkHeap,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trigger {
    Threshold(f64),
    Scaled { from: f64, to: f64 },
}

/// The timeouts that shrink, and how far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Timers {
    pub connection_idle: Option<Least>,
    pub stream_idle: Option<Least>,
}

/// What is left of a timeout when the action is saturated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Least {
    Timeout(Duration),
    Share(f64),
}

impl Rule {
    pub(crate) fn shrinks_heap(&self) -> bool {
        self.action == Action::ShrinkHeap
    }
}

impl Trigger {
    /// The state of the action at a pressure: 0 is inactive, 1 saturated.
    fn state(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(threshold) => f64::from(u8::from(pressure >= threshold)),
            Self::Scaled { from, to } if pressure <= from && pressure < to => 0.0,
            Self::Scaled { to, .. } if pressure >= to => 1.0,
            Self::Scaled { from, to } => (pressure - from) / (to - from),
        }
    }
}

impl Config {
    /// The state of each action. A monitor without a pressure (it could not be read) triggers nothing.
    pub(crate) fn states<'c>(&'c self, pressures: &'c [Option<f64>]) -> impl Iterator<Item = f64> + 'c {
        self.actions.iter().map(|rule| {
            let states = rule.triggers.iter().filter_map(|(monitor, trigger)| {
                let pressure = pressures.get(*monitor).copied().flatten()?;
                Some(trigger.state(pressure))
            });
            states.fold(0.0, f64::max)
        })
    }

    /// What the states come to.
    pub(crate) fn relief(&self, states: impl Iterator<Item = f64>) -> Relief {
        let mut relief = Relief::default();
        for (rule, state) in self.actions.iter().zip(states) {
            let saturated = state >= 1.0;
            match rule.action {
                Action::StopAcceptingConnections => relief.stop_connections = saturated,
                Action::RejectIncomingConnections => relief.reject = percent(state),
                Action::StopAcceptingRequests => relief.stop_requests = saturated,
                Action::DisableHttpKeepalive => relief.no_keepalive = saturated,
                Action::ReduceTimeouts => relief.timeouts = percent(state),
                Action::ShrinkHeap => relief.shrink = state > 0.0,
            }
        }
        relief
    }

    /// The limit of connections, if there is one.
    fn max_connections(&self) -> Option<u64> {
        self.monitors.iter().find_map(|monitor| match monitor.resource {
            Resource::Connections { max } => Some(max),
            Resource::Heap { .. } | Resource::Cgroup { .. } => None,
        })
    }
}

/// A state in whole per cent, as statistics show it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounded just before
pub(crate) fn percent(state: f64) -> u8 {
    (state.clamp(0.0, 1.0) * 100.0) as u8
}

/// What the overload manager asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relief {
    pub stop_connections: bool,
    pub stop_requests: bool,
    pub no_keepalive: bool,
    pub shrink: bool,
    /// Per cent of new connections that are rejected.
    pub reject: u8,
    /// Per cent of the way from the configured timeouts to the least ones.
    pub timeouts: u8,
}

impl Relief {
    fn pack(self) -> u64 {
        let flag = u8::from;
        u64::from_le_bytes([
            flag(self.stop_connections),
            flag(self.stop_requests),
            flag(self.no_keepalive),
            flag(self.shrink),
            self.reject,
            self.timeouts,
            0,
            0,
        ])
    }

    fn unpack(word: u64) -> Self {
        let [stop_connections, stop_requests, no_keepalive, shrink, reject, timeouts, ..] =
            word.to_le_bytes();
        Self {
            stop_connections: stop_connections != 0,
            stop_requests: stop_requests != 0,
            no_keepalive: no_keepalive != 0,
            shrink: shrink != 0,
            reject,
            timeouts,
        }
    }
}

/// Connections that may be open beyond the limit for as long as they take to close.
const MAX_CLOSING: u64 = 16;

/// What every thread may ask: the relief that is asked for, and whether one more connection fits.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    relief: AtomicU64,
    /// Open connections of clients; counted only where they are limited.
    open: AtomicU64,
    settings: OnceLock<Settings>,
}

#[derive(Debug)]
struct Settings {
    max_connections: Option<u64>,
    timers: Timers,
}

impl Overload {
    /// Sets what the configuration says, before the first connection. The first call counts.
    pub(crate) fn configure(&self, config: &Config) {
        let settings = Settings { max_connections: config.max_connections(), timers: config.timers };
        let _the_first_counts = self.settings.set(settings);
    }

    pub(crate) fn relief(&self) -> Relief {
        Relief::unpack(self.relief.load(Relaxed))
    }

    /// True when that is new.
    pub(crate) fn publish(&self, relief: Relief) -> bool {
        let word = relief.pack();
        self.relief.swap(word, Relaxed) != word
    }

    /// Counts a connection of a client; false when it is one too many. Beyond the limit those are let
    /// in that ignore it, and those for which `evict` closes another one.
    pub(crate) fn enter(&self, ignores_limit: bool, evict: impl FnOnce() -> bool) -> bool {
        let Some(most) = self.max_connections() else { return true };
        let before = self.open.fetch_add(1, Relaxed);
        let fits = ignores_limit || before < most || before < most + MAX_CLOSING && evict();
        if !fits {
            self.leave();
        }
        fits
    }

    /// Whether as many connections are open as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.max_connections().is_some_and(|most| self.open() >= most)
    }

    /// A connection that was let in has ended.
    pub(crate) fn leave(&self) {
        if self.max_connections().is_some() {
            self.open.fetch_sub(1, Relaxed);
        }
    }

    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// The idle timeout of a connection as it is now.
    pub(crate) fn connection_idle(&self, full: Option<Duration>) -> Option<Duration> {
        self.reduced(full, |timers| timers.connection_idle)
    }

    /// The idle timeout of a stream as it is now.
    pub(crate) fn stream_idle(&self, full: Option<Duration>) -> Option<Duration> {
        self.reduced(full, |timers| timers.stream_idle)
    }

    /// Whether the longest idle connection makes way for a new one at the limit: where the file lets
    /// idle timeouts of connections shrink, none is left of them there.
    pub(crate) fn evicts_idle(&self) -> bool {
        self.settings.get().is_some_and(|settings| {
            settings.max_connections.is_some() && settings.timers.connection_idle.is_some()
        })
    }

    /// Whether idle timeouts of streams may change while they run.
    pub(crate) fn reduces_stream_idle(&self) -> bool {
        self.settings.get().is_some_and(|settings| settings.timers.stream_idle.is_some())
    }

    fn reduced(&self, full: Option<Duration>, which: fn(&Timers) -> Option<Least>) -> Option<Duration> {
        let percent = self.relief().timeouts;
        if percent == 0 {
            return full;
        }
        match self.settings.get().and_then(|settings| which(&settings.timers)) {
            Some(least) => Some(least.reduced(full?, percent)),
            None => full,
        }
    }

    fn max_connections(&self) -> Option<u64> {
        self.settings.get()?.max_connections
    }
}

impl Least {
    /// `percent` of the way from the full timeout to the least.
    fn reduced(self, full: Duration, percent: u8) -> Duration {
        let least = match self {
            Self::Timeout(timeout) => timeout.min(full),
            Self::Share(share) => full.mul_f64(share.clamp(0.0, 1.0)),
        };
        full.saturating_sub(full.saturating_sub(least).mul_f64(f64::from(percent.min(100)) / 100.0))
    }
}

#[cfg(test)]
#[path = "../tests/unit/overload.rs"]
mod tests;
