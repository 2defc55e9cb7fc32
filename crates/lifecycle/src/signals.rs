//! Unix signals: SIGTERM and SIGINT end the process, SIGHUP asks for a reload.
//!
//! Kubernetes sends SIGTERM and, after the grace period, SIGKILL; a terminal sends SIGINT for
//! ctrl-C.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::Shutdown;

/// The stream of SIGHUPs. While it exists SIGHUP does not end the process.
#[derive(Debug)]
pub struct Reload {
    hangup: Signal,
}

impl Reload {
    /// Starts to listen for SIGHUP. Must be called inside a tokio runtime that has I/O enabled.
    ///
    /// # Errors
    /// When the operating system refuses the signal handler.
    pub fn from_signals() -> io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())? })
    }

    /// Returns at the next SIGHUP; several in quick succession may count as one. Cancel safe.
    pub async fn requested(&mut self) {
        if self.hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Registers the handlers now, so that no signal after the return is missed, and listens in a task of its own.
pub(crate) fn watch(shutdown: Shutdown) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let first = next(&mut term, &mut int).await;
        info!("{first}: shutting down; a second signal ends at once");
        shutdown.begin();
        let second = next(&mut term, &mut int).await;
        warn!("{second} again: ending at once");
        shutdown.abort();
    });
    Ok(())
}

async fn next(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}
