//! Signals, drain and deadline: how every petmesh binary ends.
//!
//! ```text
//! running ──SIGTERM, SIGINT or Shutdown::begin──> draining ──last tracked task ends──> Outcome::Done
//!                                                    ├──deadline───────────────────> Outcome::DeadlineExceeded
//!                                                    └──second signal, or abort────> Outcome::Aborted
//! ```
//! A `main` holds the one [`Lifecycle`]; servers hold clones of its [`Shutdown`], run their work through
//! [`Shutdown::spawn`] and stop accepting when [`Shutdown::requested`] returns. There is no global state: a test makes
//! its own [`Lifecycle::manual`] and pulls the plug itself. A server's listener ends as [`Draining`] does. Nothing here
//! knows HTTP.

mod draining;
mod shutdown;
mod signals;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use tracing::{info, warn};

pub use draining::{Draining, FIRST_REQUEST};
pub use shutdown::Shutdown;
pub use signals::Reload;

/// Exit codes of every binary.
pub mod exit {
    /// Done; warnings are allowed.
    pub const DONE: u8 = 0;
    /// Started correctly and failed.
    pub const FAILED: u8 = 1;
    /// Wrong usage: an unknown flag, a missing argument (clap exits with the same code).
    pub const USAGE: u8 = 2;
}

/// Owner of the process's end: made once in `main`, waited for once at its end.
#[derive(Debug)]
pub struct Lifecycle {
    shutdown: Shutdown,
}

/// How the drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every tracked task ended by itself.
    Done,
    /// The deadline passed; this many tracked tasks were still running.
    DeadlineExceeded { left: usize },
    /// A second signal, or [`Shutdown::abort`], ended the drain; this many tracked tasks were still running.
    Aborted { left: usize },
}

impl Lifecycle {
    /// Shutdown begins at the first SIGTERM or SIGINT; a second one ends the drain at once.
    ///
    /// The process keeps these handlers until it exits. Must be called inside a tokio runtime that has I/O enabled; that
    /// runtime hears the signals.
    ///
    /// # Errors
    /// When the operating system refuses the signal handlers.
    pub fn from_signals() -> io::Result<Self> {
        let lifecycle = Self::manual();
        signals::watch(lifecycle.shutdown())?;
        Ok(lifecycle)
    }

    /// Hears no signals: ends only through [`Shutdown::begin`] or [`Shutdown::abort`]. For tests, and for a mesh part
    /// that lives inside another process.
    #[must_use]
    pub fn manual() -> Self {
        Self { shutdown: Shutdown::new() }
    }

    /// A handle for whoever must know of the shutdown or begin it.
    #[must_use]
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Waits until shutdown is requested, then until every tracked task has ended, at most `deadline` after the request.
    ///
    /// Tasks left over are not killed here: they end with the runtime when `main` returns.
    pub async fn drain(self, deadline: Duration) -> Outcome {
        let shutdown = self.shutdown;
        tokio::select! {
            () = shutdown.requested() => {}
            () = shutdown.aborted() => {}
        }
        shutdown.tasks.close();
        info!(tasks = shutdown.tasks.len(), deadline_s = deadline.as_secs_f64(), "draining");
        tokio::select! {
            biased;
            () = shutdown.aborted() => Outcome::Aborted { left: shutdown.tasks.len() },
            () = shutdown.tasks.wait() => Outcome::Done,
            () = tokio::time::sleep(deadline) => Outcome::DeadlineExceeded { left: shutdown.tasks.len() },
        }
        .logged()
    }
}

impl Outcome {
    /// What the process exits with: a drain cut short by its deadline is a warning, one cut short by hand a failure.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Done | Outcome::DeadlineExceeded { .. } => exit::DONE,
            Outcome::Aborted { .. } => exit::FAILED,
        }
    }

    fn logged(self) -> Self {
        match self {
            Outcome::Done => info!("drained"),
            Outcome::DeadlineExceeded { left } => warn!(left, "the drain deadline passed; ending anyway"),
            Outcome::Aborted { left } => warn!(left, "the drain was cut short; ending at once"),
        }
        self
    }
}
