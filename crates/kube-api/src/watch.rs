//! Watches: a position in the store's history, read on as fast as the client takes it.
//!
//! A watch holds no queue. When the client is slow, hyper does not ask for more, the position stands still, and if the
//! history moves past it the watch ends with an ERROR event, exactly as if the client came back too late.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};

use crate::answer::{self, Body, Chunker};
use crate::faults::Injection;
use crate::options::Options;
use crate::resources::Resource;
use crate::selector::Selector;
use crate::status::Status;
use crate::store::{Event, EventType, Object, Store};
use crate::table::{self, Format};

/// Events read from the history at a time.
const BATCH: usize = 64;
/// The last bookmark comes this long before the end of a watch.
const BEFORE_END: Duration = Duration::from_secs(2);
/// A watch without timeoutSeconds lasts this long (the real server: 30 to 60 minutes at random).
const DEFAULT_TIMEOUT: u64 = 1800;

/// What a watch is made of.
pub struct Watch {
    store: Store,
    resource: &'static Resource,
    namespace: Option<String>,
    selector: Selector,
    format: Format,
    /// Everything up to this revision has been sent.
    position: u64,
    initial: VecDeque<Arc<Object>>,
    /// The revision of the bookmark that ends the initial events.
    initial_end: Option<u64>,
    bookmarks: bool,
    /// `None`: no more of them.
    next_bookmark: Option<Instant>,
    bookmark_interval: Duration,
    deadline: Instant,
    changes: Receiver<u64>,
    injections: Receiver<Injection>,
    chunker: Chunker,
    columns_sent: bool,
    ended: bool,
}

impl Watch {
    /// Starts a watch; a version that is too old shows as its first event.
    pub fn new(
        store: &Store,
        resource: &'static Resource,
        namespace: Option<&str>,
        options: &Options,
        format: Format,
        bookmark_interval: Duration,
        injections: Receiver<Injection>,
    ) -> Self {
        let changes = store.changes();
        let version = options.resource_version.unwrap_or(0);
        let from_now = options.initial_events || version == 0;
        let (initial, position) = match store.snapshot(resource, namespace, None) {
            Some((objects, revision)) if from_now => (objects, revision),
            _ => (Vec::new(), version),
        };
        let now = Instant::now();
        let deadline = now + Duration::from_secs(options.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT));
        let mut watch = Self {
            store: store.clone(),
            resource,
            namespace: namespace.map(str::to_owned),
            selector: options.selector.clone(),
            format,
            position,
            initial: initial.into_iter().filter(|object| options.selector.matches(&object.value)).collect(),
            initial_end: (options.initial_events && options.bookmarks).then_some(position),
            bookmarks: options.bookmarks,
            next_bookmark: None,
            bookmark_interval,
            deadline,
            changes,
            injections,
            chunker: Chunker::default(),
            columns_sent: false,
            ended: false,
        };
        watch.injections.mark_unchanged();
        watch.plan_bookmark(now);
        watch
    }

    /// The answer that streams it.
    pub fn answer(self) -> Response<Body> {
        let stream = stream::unfold(self, async |mut watch| watch.next().await.map(|chunk| (chunk, watch)));
        answer::json_body(StatusCode::OK, Body::Stream(Box::pin(stream)))
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.chunker.chunks.pop_front() {
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            if self.send_known() {
                continue;
            }
            self.chunker.flush();
            if self.chunker.chunks.is_empty() {
                self.wait().await;
            }
        }
    }

    // Writes what is there already; false if there was nothing.
    fn send_known(&mut self) -> bool {
        if let Some(object) = self.initial.pop_front() {
            self.send(EventType::Added, &object, None);
            return true;
        }
        if let Some(revision) = self.initial_end.take() {
            self.bookmark(revision, true);
            return true;
        }
        match self.store.events_after(self.position, BATCH) {
            Err(floor) => {
                let message = format!("too old resource version: {} ({floor})", self.position);
                self.fail(&Status::expired(message));
                true
            }
            Ok((events, next)) => {
                self.position = next;
                for event in &events {
                    self.translate(event);
                }
                !events.is_empty()
            }
        }
    }

    // An object that begins or ceases to match the selector is new or gone to this watch.
    fn translate(&mut self, event: &Event) {
        let other_namespace = self.namespace.as_ref().is_some_and(|name| *name != event.key.namespace);
        let same = std::ptr::eq(event.key.resource(), self.resource);
        if !same || (self.resource.namespaced && other_namespace) {
            return;
        }
        let before = event.previous.as_ref().filter(|object| self.selector.matches(&object.value)).cloned();
        let after = !event.deleted && self.selector.matches(&event.object.value);
        match (before, after) {
            (None, true) => self.send(EventType::Added, &event.object, None),
            (Some(_), true) => self.send(EventType::Modified, &event.object, None),
            // The last state that matched, under the revision of the change.
            (Some(last), false) => self.send(EventType::Deleted, &last, Some(event.object.revision)),
            (None, false) => {}
        }
    }

    fn send(&mut self, kind: EventType, object: &Object, revision: Option<u64>) {
        let restamped = revision.filter(|&revision| revision != object.revision).map(|revision| {
            let mut value = object.value.clone();
            value["metadata"]["resourceVersion"] = revision.to_string().into();
            Object::new(self.resource, value)
        });
        let object = restamped.as_ref().unwrap_or(object);
        match self.format {
            Format::Json => self.write(kind.as_str(), &object.json),
            _ => self.write_value(kind.as_str(), &object.value),
        }
    }

    fn write_value(&mut self, kind: &str, object: &Value) {
        let shown = match self.format {
            Format::Json => object.to_string(),
            Format::Metadata => table::metadata(object).to_string(),
            Format::Table(include) => {
                let headings = !std::mem::replace(&mut self.columns_sent, true);
                let mut table = table::table(self.resource, std::iter::once(object), include, headings);
                table["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table.to_string()
            }
        };
        self.write(kind, shown.as_bytes());
    }

    fn write(&mut self, kind: &str, object: &[u8]) {
        let mut line = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
        line.extend_from_slice(object);
        line.extend_from_slice(b"}\n");
        self.chunker.write(&line);
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) {
        let mut object = (self.resource.empty)();
        if !object.is_object() {
            object = json!({});
        }
        object["kind"] = self.resource.kind.into();
        object["apiVersion"] = self.resource.api_version().into();
        object["metadata"] = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.format {
            Format::Json => {
                let object = Object::new(self.resource, object);
                self.write("BOOKMARK", &object.json);
            }
            _ => self.write_value("BOOKMARK", &object),
        }
    }

    fn fail(&mut self, status: &Status) {
        self.write("ERROR", answer::status_json(status).as_bytes());
        self.end();
    }

    fn end(&mut self) {
        self.chunker.flush();
        self.ended = true;
    }

    async fn wait(&mut self) {
        let wake = self.next_bookmark.map_or(self.deadline, |next| next.min(self.deadline));
        tokio::select! {
            biased;
            changed = self.injections.changed() => match changed {
                Ok(()) => self.inject(),
                Err(_) => self.end(),
            },
            changed = self.changes.changed() => if changed.is_err() { self.end() },
            () = sleep_until(wake) => {
                let now = Instant::now();
                // A bookmark that is due comes first, so a late timer does not swallow it.
                if self.next_bookmark.is_some_and(|next| now >= next) {
                    self.bookmark(self.position, false);
                    self.plan_bookmark(now);
                } else if now >= self.deadline {
                    self.end();
                }
            }
        }
    }

    fn inject(&mut self) {
        let injection = self.injections.borrow_and_update().clone();
        match injection {
            Injection::None => {}
            Injection::Bookmark if !self.bookmarks => {}
            Injection::Bookmark => {
                while !self.ended && self.send_known() {}
                self.bookmark(self.position, false);
            }
            Injection::End => self.end(),
            Injection::Expire => {
                let message = format!("too old resource version: {} ({})", self.position, self.position + 1);
                self.fail(&Status::expired(message));
            }
            Injection::Line(line) => {
                self.chunker.write(line.as_bytes());
                self.chunker.flush();
            }
        }
    }

    // Every interval, and once shortly before the end.
    fn plan_bookmark(&mut self, now: Instant) {
        let regular = now + self.bookmark_interval;
        // A watch too short for it has none (as recorded: none in 3 s, one in 4 s).
        let last = self.deadline.checked_sub(BEFORE_END).filter(|&last| last >= now + BEFORE_END);
        let next = last.map_or(regular, |last| last.min(regular));
        self.next_bookmark = Some(next).filter(|&next| self.bookmarks && next < self.deadline);
    }
}
