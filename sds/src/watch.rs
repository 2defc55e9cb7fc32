//! EndpointSlices from Kubernetes: one list, then a watch, for as long as the process lives.
//!
//! ```text
//!        ┌────────────── relist: expired, went back, garbage, quiet, fruitless ──────────┐
//!   list ──> watch ──> events ──> catalog                                                │
//!              └── any trouble: keep what we know, wait (`backoff`), maybe reconnect ────┤
//!              └── again from the last version seen <────────────────────────────────────┘
//! ```
//! What is published is never taken back because Kubernetes cannot be reached: the last known answer is served, its age is a
//! metric. [`Trouble`] names everything that can go wrong and its remedy. Beside the watch runs the [`audit`].

mod api;
mod audit;
mod backoff;
#[cfg(test)]
mod tests;
mod timing;
mod trouble;
mod wire;

use std::convert::Infallible;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use crate::catalog::Writer;
use crate::slice::EndpointSlice;
use crate::status::Status;
use crate::translate::LAST_CHANGE;
pub use api::Api;
use api::Events;
use audit::{Audit, Step};
use backoff::Backoff;
pub use timing::Timing;
use trouble::older;
pub use trouble::{Reason, Trouble};
use wire::Event;

/// This many troubles in a row without progress, and we no longer trust the version that we go on from.
const FRUITLESS: u32 = 3;

/// Makes a fresh way to the API server.
pub type Connect = Box<dyn Fn() -> Result<Api, Trouble> + Send>;

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
}

impl Watch {
    pub fn new(connect: Connect, timing: Timing, writer: Writer, status: Arc<Status>) -> Self {
        let backoff = Backoff::new(timing.backoff_first, timing.backoff_cap);
        let next_audit = Instant::now() + timing.audit_every;
        Self { connect, timing, writer, status, api: None, position: Err(Reason::Start), backoff, next_audit }
    }

    /// Never returns; drop it to stop.
    pub async fn run(mut self) -> Infallible {
        loop {
            let Err(trouble) = self.attempt().await;
            self.recover(&trouble).await;
        }
    }

    async fn attempt(&mut self) -> Result<Infallible, Trouble> {
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

    async fn list(&mut self, api: &Api, reason: Reason) -> Result<String, Trouble> {
        let listing = api.list().await?;
        self.writer.replace(listing.slices);
        self.position = Ok(listing.version.clone());
        // No reset of the backoff: an API server that lists well and watches badly would be listed without pause.
        self.status.listed(reason, &listing.version);
        self.rest_audit();
        Ok(listing.version)
    }

    async fn follow(&mut self, api: &Api, position: &str) -> Result<Infallible, Trouble> {
        let mut events = api.watch(position).await?;
        let opened = Instant::now();
        let deadline = opened + self.timing.watch + self.timing.grace;
        self.status.connected(true);
        let mut audit = Audit::due(self.next_audit);
        let mut heard = false;
        loop {
            tokio::select! {
                event = timeout_at(deadline, events.next()) => {
                    let event = match event {
                        Err(_) => return Err(Trouble::Stalled("event, bookmark or end of the watch")),
                        Ok(Err(Trouble::Closed)) if !heard && opened.elapsed() >= self.timing.watch / 2 => {
                            return Err(Trouble::Quiet);
                        }
                        Ok(event) => event?,
                    };
                    heard = true;
                    let taken = self.take_all(event, &mut events, &mut audit);
                    // What was understood before a bad line counts.
                    self.writer.publish();
                    taken?;
                    if let Ok(version) = self.position.clone() {
                        self.backoff.reset();
                        self.status.heard(&version);
                        if audit.overtaken_by(&version) {
                            self.compare(&mut audit)?;
                        }
                    }
                }
                step = audit.step() => self.audit(step, &mut audit, api)?,
            }
        }
    }

    /// An event and those that have arrived with it.
    fn take_all(&mut self, event: Event, events: &mut Events, audit: &mut Audit) -> Result<(), Trouble> {
        self.take(event, audit)?;
        while let Some(event) = events.ready() {
            self.take(event?, audit)?;
        }
        Ok(())
    }

    /// One event into the catalog, unpublished.
    fn take(&mut self, event: Event, audit: &mut Audit) -> Result<(), Trouble> {
        let version = match &event {
            Event::Added(slice) | Event::Modified(slice) | Event::Deleted(slice) => {
                &slice.metadata.resource_version
            }
            Event::Bookmark(bookmark) => &bookmark.metadata.resource_version,
            Event::Error(status) if status.code == 410 => return Err(Trouble::Expired),
            Event::Error(status) => {
                return Err(Trouble::Refused { status: status.code, message: status.message.clone() });
            }
        };
        if version.is_empty() {
            return Err(Trouble::Garbage("an event without resourceVersion".to_owned()));
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

    fn audit(&mut self, step: Step, audit: &mut Audit, api: &Api) -> Result<(), Trouble> {
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
            Step::Listed(Err(trouble)) => {
                // The watch is in order, so this is no reason to disturb it.
                self.status.audited(Err(&trouble));
                debug!("the audit could not list: {trouble}");
                self.rest_audit();
                *audit = Audit::due(self.next_audit);
            }
        }
        Ok(())
    }

    fn compare(&mut self, audit: &mut Audit) -> Result<(), Trouble> {
        self.rest_audit();
        let Some(expected) = audit.expected(self.next_audit) else { return Ok(()) };
        let drift = audit::drift(self.writer.slices(), &expected.slices);
        self.status.audited(Ok(drift.len()));
        if drift.is_empty() {
            return Ok(());
        }
        let some: Vec<String> =
            drift.iter().take(5).map(|key| format!("{}/{}", key.namespace, key.name)).collect();
        let trouble = Trouble::Drift(drift.len());
        warn!("the audit found slices that the watch had wrong, among them {}", some.join(", "));
        self.status.listed(Reason::Audit, &expected.version);
        self.writer.replace(expected.slices);
        if self.position.as_ref().is_ok_and(|version| older(version, &expected.version)) {
            self.position = Ok(expected.version);
        }
        Err(trouble)
    }

    fn must_not_go_back(&self, now: &str) -> Result<(), Trouble> {
        match &self.position {
            Ok(before) if older(now, before) => {
                Err(Trouble::WentBack { before: before.clone(), now: now.to_owned() })
            }
            _ => Ok(()),
        }
    }

    async fn recover(&mut self, trouble: &Trouble) {
        let remedy = trouble.remedy();
        let first = self.backoff.failures() == 0;
        let mut wait = self.backoff.next(fastrand::f64());
        if remedy.at_once && first {
            wait = std::time::Duration::ZERO;
        }
        if let Trouble::Throttled { wait: Some(asked) } = trouble {
            wait = wait.max((*asked).min(self.timing.backoff_cap));
        }
        if remedy.reconnect || self.backoff.failures() > FRUITLESS {
            self.api = None;
        }
        if let Some(reason) = remedy.relist {
            self.position = Err(reason);
        } else if self.backoff.failures() > FRUITLESS && self.position.is_ok() {
            self.position = Err(Reason::Fruitless);
        }
        if self.status.troubled(trouble) {
            let meanwhile = if self.writer.is_synced() {
                "the last known endpoints are served"
            } else {
                "nothing is known yet"
            };
            warn!("{trouble} ({meanwhile})");
        }
        sleep(wait).await;
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
