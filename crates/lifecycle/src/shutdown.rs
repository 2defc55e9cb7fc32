//! The handle through which parts of a process learn of its end and report their own.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cheap to clone; clones share one state, across threads and runtimes.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: CancellationToken,
    aborted: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self { begun: CancellationToken::new(), aborted: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    /// Returns once shutdown has been requested; at once if it already was. Cancel safe.
    pub async fn requested(&self) {
        self.begun.cancelled().await;
    }

    /// Whether shutdown has been requested: what a readiness probe asks.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Requests shutdown, as the first signal does. Doing it again changes nothing.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Ends the drain at once, as the second signal does: for "quit now" commands and unrecoverable errors.
    pub fn abort(&self) {
        self.aborted.cancel();
        self.begun.cancel();
    }

    /// Returns once the drain has been cut short. Cancel safe.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// The token behind [`Shutdown::requested`], for libraries that take one. A child token
    /// ([`CancellationToken::child_token`]) can be cancelled on its own without ending the process.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Spawns a task on the current runtime; the drain waits for it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Wraps a future so that the drain waits for it wherever it is polled, such as on a worker's own runtime. It counts
    /// from this call until it has completed or been dropped.
    pub fn track<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.tasks.track_future(future)
    }

    /// How many tracked tasks are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tasks.len()
    }
}
