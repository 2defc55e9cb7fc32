//! EndpointSlices from Kubernetes: one list, then a watch, for as long as the process lives.
//!
//! ```text
//!        ┌────────────── relist: expired, went back, garbage, fruitless ─────────────────┐
//!   list ──> watch ──> events ──> catalog                                                │
//!              └── any error: keep what we know, wait (`backoff`), maybe reconnect ──────┤
//!              └── end in good order: again from the last version seen <─────────────────┘
//! ```
//! What is published is never taken back because Kubernetes cannot be reached: the last known endpoints are served, their
//! age is a metric. [`WatchError`] names everything that can go wrong and its remedy. Beside the watch runs the [`audit`].
//!
//! Silence is no error: nothing happens in a quiet namespace, and bookmarks are not guaranteed. An
//! API server that went back in time (a restored backup) also says nothing to a watch from its
//! future. So a watch that ends without a word is followed by one question: at which version are
//! you?

mod api;
mod audit;
mod backoff;
mod error;
#[cfg(test)]
mod tests;
mod timing;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, warn};

use crate::catalog::{Transition, Writer};
use crate::slice::EndpointSlice;
use crate::status::Status;
use crate::translate::LAST_CHANGE;
pub use api::Api;
use api::Events;
use audit::{Audit, Step};
use backoff::Backoff;
use error::Remedy;
use error::older;
pub use error::{Reason, WatchError};
pub use timing::Timing;
use wire::Event;

/// After this many attempts in a row without progress the version to go on from is not trusted.
const FRUITLESS: u32 = 3;

/// Makes a fresh way to the API server.
pub type Connect = Box<dyn Fn() -> Result<Api, WatchError> + Send>;

/// The watch and what it knows.
pub struct Watch {
    connect: Connect,
    timing: Timing,
    writer: Writer,
    status: Arc<Status>,
    api: Option<Api>,
    /// Go on from this version; without one, list.
    position: Result<String, Reason>,
    backoff: Backoff,
    next_audit: Instant,
    contact: Contact,
}

/// A clock that stands still while the API server has not spoken since the last error. By it, endpoints are kept only
/// for so long: without news, no endpoint that is served is withdrawn.
#[derive(Debug)]
struct Contact {
    /// When it was lost, if it is.
    since: Option<Instant>,
    /// How long it was lost before.
    missed: Duration,
}

impl Default for Contact {
    fn default() -> Self {
        Self { since: Some(Instant::now()), missed: Duration::ZERO }
    }
}

impl Contact {
    fn lost(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn regained(&mut self) {
        self.missed += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    fn now(&self) -> Instant {
        self.since.unwrap_or_else(Instant::now) - self.missed
    }

    /// When this clock will show a time; none while it stands still.
    fn instant_of(&self, time: Instant) -> Option<Instant> {
        self.since.is_none().then(|| time + self.missed)
    }
}

impl Watch {
    pub fn new(connect: Connect, timing: Timing, writer: Writer, status: Arc<Status>) -> Self {
        let backoff = Backoff::new(timing.backoff_first, timing.backoff_cap);
        let next_audit = Instant::now() + timing.audit_every;
        let (position, contact) = (Err(Reason::Start), Contact::default());
        Self { connect, timing, writer, status, api: None, position, backoff, next_audit, contact }
    }

    /// Never returns; drop it to stop.
    pub async fn run(mut self) -> Infallible {
        loop {
            let wait = match self.attempt().await {
                Ok(()) => self.prepare(Remedy::NONE),
                Err(error) => self.recover(&error),
            };
            if !wait.is_zero() {
                self.status.disconnected();
            }
            sleep(wait).await;
        }
    }

    /// One watch, after a list where one is due. Ends well when the API server ends the watch.
    async fn attempt(&mut self) -> Result<(), WatchError> {
        let api = match &self.api {
            Some(api) => api.clone(),
            None => self.api.insert((self.connect)()?).clone(),
        };
        let position = match &self.position {
            Ok(version) => version.clone(),
            Err(reason) => self.list(&api, *reason).await?,
        };
        self.follow(&api, &position).await
    }

    async fn list(&mut self, api: &Api, reason: Reason) -> Result<String, WatchError> {
        let listing = api.list().await?;
        self.contact.regained();
        let transitions = self.writer.replace(listing.slices, self.contact.now());
        self.status.fail_static(&transitions);
        self.position = Ok(listing.version.clone());
        // No reset of the backoff: an API server that lists well and watches badly would be listed without pause.
        self.status.listed(reason, &listing.version);
        self.rest_audit();
        Ok(listing.version)
    }

    async fn follow(&mut self, api: &Api, position: &str) -> Result<(), WatchError> {
        let mut events = api.watch(position).await?;
        let opened = Instant::now();
        let deadline = opened + self.timing.watch + self.timing.grace;
        self.status.connected();
        let mut audit = Audit::due(self.next_audit);
        let mut heard = false;
        loop {
            let expiry = self.writer.next_expiry().and_then(|expiry| self.contact.instant_of(expiry));
            tokio::select! {
                event = timeout_at(deadline, events.next()) => {
                    let silence = |_| WatchError::Stalled("event, bookmark or end of the watch");
                    let Some(event) = event.map_err(silence)?? else { break };
                    heard = true;
                    let taken = self.take_all(event, &mut events, &mut audit);
                    // What was understood before a bad line counts.
                    self.publish();
                    taken?;
                    self.contact.regained();
                    if let Ok(version) = self.position.clone() {
                        self.backoff.reset();
                        self.status.heard(&version);
                        if audit.overtaken_by(&version) {
                            self.compare(&mut audit)?;
                        }
                    }
                }
                step = audit.step() => self.audit(step, &mut audit, api)?,
                () = until(expiry) => self.publish(),
            }
        }
        if opened.elapsed() >= self.timing.watch / 2 {
            if !heard {
                let now = api.version().await?;
                self.must_not_go_back(&now)?;
            }
            self.contact.regained();
            self.backoff.reset();
            if let Ok(version) = &self.position {
                self.status.heard(version);
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        let transitions: Vec<Transition> = self.writer.publish(self.contact.now());
        self.status.fail_static(&transitions);
    }

    /// An event and those that have arrived with it.
    fn take_all(&mut self, event: Event, events: &mut Events, audit: &mut Audit) -> Result<(), WatchError> {
        self.take(event, audit)?;
        while let Some(event) = events.ready() {
            self.take(event?, audit)?;
        }
        Ok(())
    }

    /// One event into the catalog, unpublished.
    fn take(&mut self, event: Event, audit: &mut Audit) -> Result<(), WatchError> {
        let version = match &event {
            Event::Added(slice) | Event::Modified(slice) | Event::Deleted(slice) => {
                &slice.metadata.resource_version
            }
            Event::Bookmark(bookmark) => &bookmark.metadata.resource_version,
            Event::Error(status) if status.code == 410 => return Err(WatchError::Expired),
            Event::Error(status) => {
                return Err(WatchError::Refused { status: status.code, message: status.message.clone() });
            }
        };
        if version.is_empty() {
            return Err(WatchError::Garbage("an event without resourceVersion".to_owned()));
        }
        self.must_not_go_back(version)?;
        self.position = Ok(version.clone());
        match event {
            Event::Added(slice) | Event::Modified(slice) => {
                self.measure_lag(&slice);
                audit.note(slice.key(), &slice.metadata.resource_version, Some(&slice));
                self.writer.put(slice);
            }
            Event::Deleted(slice) => {
                audit.note(slice.key(), &slice.metadata.resource_version, None);
                self.writer.remove(&slice.key());
            }
            Event::Bookmark(_) | Event::Error(_) => {}
        }
        Ok(())
    }

    fn audit(&mut self, step: Step, audit: &mut Audit, api: &Api) -> Result<(), WatchError> {
        match step {
            Step::Due => audit.start(api.clone()),
            Step::Settled => self.compare(audit)?,
            Step::Listed(Ok(listing)) => {
                self.must_not_go_back(&listing.version)?;
                audit.settle(Instant::now() + self.timing.audit_settle, listing);
                if self.position.as_ref().is_ok_and(|version| audit.overtaken_by(version)) {
                    self.compare(audit)?;
                }
            }
            Step::Listed(Err(error)) => {
                // The watch is in order, so this is no reason to disturb it.
                self.status.audited(Err(&error));
                debug!("the audit could not list: {error}");
                self.rest_audit();
                *audit = Audit::due(self.next_audit);
            }
        }
        Ok(())
    }

    fn compare(&mut self, audit: &mut Audit) -> Result<(), WatchError> {
        self.rest_audit();
        let Some(expected) = audit.expected(self.next_audit) else { return Ok(()) };
        let drift = audit::drift(self.writer.slices(), &expected.slices);
        self.status.audited(Ok(drift.len()));
        if drift.is_empty() {
            return Ok(());
        }
        let some: Vec<String> =
            drift.iter().take(5).map(|key| format!("{}/{}", key.namespace, key.name)).collect();
        let error = WatchError::Drift(drift.len());
        warn!("the audit found slices that the watch had wrong, among them {}", some.join(", "));
        self.status.listed(Reason::Audit, &expected.version);
        let transitions = self.writer.replace(expected.slices, self.contact.now());
        self.status.fail_static(&transitions);
        if self.position.as_ref().is_ok_and(|version| older(version, &expected.version)) {
            self.position = Ok(expected.version);
        }
        Err(error)
    }

    fn must_not_go_back(&self, now: &str) -> Result<(), WatchError> {
        match &self.position {
            Ok(before) if older(now, before) => {
                Err(WatchError::WentBack { before: before.clone(), now: now.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Notes the error, prepares the next attempt and says how long to wait for it.
    fn recover(&mut self, error: &WatchError) -> Duration {
        self.contact.lost();
        let mut wait = self.prepare(error.remedy());
        if let WatchError::Throttled { wait: Some(asked) } = error {
            wait = wait.max((*asked).min(self.timing.backoff_cap));
        }
        if self.status.failed(error) {
            let meanwhile = if self.writer.is_synced() {
                "the last known endpoints are served"
            } else {
                "nothing is known yet"
            };
            warn!("{error} ({meanwhile})");
        }
        wait
    }

    fn prepare(&mut self, remedy: Remedy) -> Duration {
        let first = self.backoff.failures() == 0;
        let wait = self.backoff.next(fastrand::f64());
        let fruitless = self.backoff.failures() > FRUITLESS;
        if remedy.reconnect || fruitless {
            self.api = None;
        }
        if let Some(reason) = remedy.relist {
            self.position = Err(reason);
        } else if fruitless && self.position.is_ok() {
            self.position = Err(Reason::Fruitless);
        }
        if remedy.at_once && first { Duration::ZERO } else { wait }
    }

    fn rest_audit(&mut self) {
        self.next_audit = Instant::now() + self.timing.audit_every.mul_f64(0.8 + 0.4 * fastrand::f64());
    }

    /// From the change of a pod to its arrival here; only when the slice names a change that we had not seen.
    fn measure_lag(&self, slice: &EndpointSlice) {
        let changed = slice.metadata.annotations.get(LAST_CHANGE);
        let known =
            self.writer.slices().get(&slice.key()).and_then(|old| old.metadata.annotations.get(LAST_CHANGE));
        if let Some(changed) = changed.filter(|changed| known != Some(changed))
            && let Ok(changed) = changed.parse::<Timestamp>()
        {
            self.status.lagged(Timestamp::now().duration_since(changed).as_secs_f64().max(0.0));
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
