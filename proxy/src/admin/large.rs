//! Work whose cost grows with the configuration: it runs on a thread of its own, so that `/ready`
//! never waits for it.

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

use super::page::Page;

/// Large pages that are being built or wait for their turn. The next one is refused.
pub(super) const MAX_LARGE: usize = 8;

/// Builds one large page at a time: what it refreshes has one writer, and memory has a bound.
#[derive(Debug)]
pub(super) struct Large {
    turn: Arc<Mutex<()>>,
    space: Arc<Semaphore>,
}

impl Default for Large {
    fn default() -> Self {
        Self { turn: Arc::default(), space: Arc::new(Semaphore::new(MAX_LARGE)) }
    }
}

impl Large {
    /// Runs `build` while no other does; the error is the response instead. The thread goes on when
    /// the client leaves, and keeps its turn until it ends.
    pub(super) async fn build<T: Send + 'static>(
        &self,
        build: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Page> {
        let Ok(space) = Arc::clone(&self.space).try_acquire_owned() else {
            let text = format!("{MAX_LARGE} pages of this size are being built: try again later\n");
            return Err(Page::error(503, text));
        };
        let work = move || {
            let built = build();
            drop(space);
            built
        };
        self.work(work).await.ok_or_else(|| Page::error(500, "the page could not be built\n"))
    }

    /// The same for work that no client asks for, so that nothing limits it.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.ok()
    }
}
