//! Everything that goes wrong with a Kubernetes API server in the field, on request.
//!
//! The handle is shared by the listeners (down, cut, stall), the connections (`gate`), the request handler (failures,
//! delay, tokens) and the watches (injections). Nothing is queued without a bound: failures are a counter each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::Token;
use crate::status::Status;
use crate::store::Store;

/// A handle on the faults of a server; clones share them.
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    settings: Mutex<Settings>,
    up: watch::Sender<bool>,
    listening: watch::Sender<usize>,
    listeners: usize,
    // Of the server: nobody waits for listeners that have ended.
    stop: CancellationToken,
    cut: watch::Sender<u64>,
    gate: watch::Sender<Gate>,
    injection: watch::Sender<Injection>,
}

#[derive(Debug, Default)]
struct Settings {
    failures: Vec<Failure>,
    delay: Duration,
    tokens: Vec<Token>,
}

#[derive(Debug)]
struct Failure {
    code: u16,
    on: On,
    left: u32,
}

/// Which requests a failure is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Every request to a resource.
    All,
    /// Lists.
    List,
    /// Watches.
    Watch,
    /// Everything that changes something.
    Write,
}

/// What passes through the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    /// No byte in either direction; connections stay open, new ones are accepted.
    pub(crate) frozen: bool,
    /// When it counts up, each open connection sends half of what it writes next, and is then closed.
    pub(crate) truncations: u64,
}

/// What running watches do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Injection {
    None,
    Bookmark,
    End,
    Expire,
    Line(String),
}

impl Faults {
    pub(crate) fn new(store: &Store, tokens: Vec<Token>, listeners: usize, stop: CancellationToken) -> Self {
        let shared = Shared {
            store: store.clone(),
            settings: Mutex::new(Settings { tokens, ..Settings::default() }),
            up: watch::Sender::new(true),
            listening: watch::Sender::new(listeners),
            listeners,
            stop,
            cut: watch::Sender::new(0),
            gate: watch::Sender::new(Gate { frozen: false, truncations: 0 }),
            injection: watch::Sender::new(Injection::None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Goes down: when this returns, connecting is refused and all connections are cut. The ports stay reserved.
    pub async fn down(&self) {
        self.shared.up.send_replace(false);
        self.wait_for_listeners(0).await;
        // Last, for a listener may accept until it ends.
        self.cut();
    }

    /// Comes up again: when this returns, connecting works.
    pub async fn up(&self) {
        self.shared.up.send_replace(true);
        self.wait_for_listeners(self.shared.listeners).await;
    }

    /// Cuts every connection, in the middle of whatever it carries (no last chunk, no TLS close_notify).
    pub fn cut(&self) {
        self.shared.cut.send_modify(|epoch| *epoch += 1);
    }

    /// Freezes (`true`) or releases the server: connections are accepted and no byte is read or written.
    pub fn stall(&self, frozen: bool) {
        self.shared.gate.send_modify(|gate| gate.frozen = frozen);
    }

    /// Each connection that is open now breaks off in the middle of what it sends next: a truncated chunk.
    pub fn truncate(&self) {
        self.shared.gate.send_modify(|gate| gate.truncations += 1);
    }

    /// The next `times` requests of this sort fail with 401, 403, 410, 429 or any 4xx or 5xx code.
    pub fn fail_next(&self, times: u32, code: u16, on: On) {
        let mut settings = self.settings();
        settings.failures.retain(|failure| failure.left > 0 && (failure.code, failure.on) != (code, on));
        settings.failures.push(Failure { code, on, left: times });
    }

    /// Every answer waits this long; zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.settings().delay = delay;
    }

    /// Takes back delay, failures and stall.
    pub fn clear(&self) {
        let mut settings = self.settings();
        settings.failures.clear();
        settings.delay = Duration::ZERO;
        drop(settings);
        self.stall(false);
    }

    /// From now on these tokens are valid, and no others: rotation, expiry, a revoked account.
    pub fn set_tokens(&self, tokens: Vec<Token>) {
        self.settings().tokens = tokens;
    }

    /// Running watches that asked for bookmarks send one now. Like all orders to running watches it replaces the one
    /// before: a watch that has not seen that yet sees only this.
    pub fn bookmark(&self) {
        self.inject(Injection::Bookmark);
    }

    /// Running watches send a line that is no JSON.
    pub fn garbage_line(&self) {
        self.inject(Injection::Line("{\"type\":\"MODIFIED\",\"object\":{garbage\n".to_owned()));
    }

    /// Running watches send the ERROR event of an expired version, and end.
    pub fn expire_watches(&self) {
        self.inject(Injection::Expire);
    }

    /// Running watches end well before their time, as in a graceful stop.
    pub fn end_watches(&self) {
        self.inject(Injection::End);
    }

    /// See [`Store::compact`].
    pub fn compact(&self) {
        self.shared.store.compact();
    }

    /// A restart: all connections are cut and no history is left.
    pub fn restart(&self) {
        self.shared.store.compact();
        self.cut();
    }

    /// An etcd backup is restored: the state and the revision go back ([`Store::restore`]), all connections are cut.
    ///
    /// # Errors
    /// 410 if the history does not reach back.
    pub fn restore(&self, revision: u64) -> Result<(), Status> {
        self.shared.store.restore(revision)?;
        self.cut();
        Ok(())
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.settings().tokens.clone()
    }

    pub(crate) fn current_delay(&self) -> Duration {
        self.settings().delay
    }

    /// The code that this request has to fail with, counted down.
    pub(crate) fn take_failure(&self, verb: &str) -> Option<StatusCode> {
        let mut settings = self.settings();
        let failure =
            settings.failures.iter_mut().find(|failure| failure.left > 0 && failure.on.matches(verb))?;
        failure.left -= 1;
        StatusCode::from_u16(failure.code).ok()
    }

    pub(crate) fn power(&self) -> watch::Receiver<bool> {
        self.shared.up.subscribe()
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.shared.cut.subscribe()
    }

    pub(crate) fn gate(&self) -> watch::Receiver<Gate> {
        self.shared.gate.subscribe()
    }

    pub(crate) fn injections(&self) -> watch::Receiver<Injection> {
        self.shared.injection.subscribe()
    }

    /// A listener tells that it listens now, or no longer.
    pub(crate) fn listening(&self, listens: bool) {
        self.shared.listening.send_modify(|count| *count = if listens { *count + 1 } else { *count - 1 });
    }

    async fn wait_for_listeners(&self, wanted: usize) {
        let mut listening = self.shared.listening.subscribe();
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            // The sender lives in `self`, so this cannot fail.
            _ = listening.wait_for(|&count| count == wanted) => {}
        }
    }

    fn inject(&self, injection: Injection) {
        self.shared.injection.send_replace(injection);
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl On {
    fn matches(self, verb: &str) -> bool {
        match self {
            Self::All => true,
            Self::List => verb == "list",
            Self::Watch => verb == "watch",
            Self::Write => !matches!(verb, "get" | "list" | "watch"),
        }
    }
}
