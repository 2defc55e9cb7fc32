//! Spans on their way to the collector: a bounded queue between the workers and `control`.
//!
//! What does not fit is dropped and counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::stats::{Scope, ZipkinStats};

/// Spans that may wait.
const WAITING: usize = 1024;

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Collector {
    pub cluster: Arc<str>,
    pub path: Arc<str>,
    pub host: Arc<str>,
    /// A batch is sent when it has this many spans (`tracing.zipkin.min_flush_spans`), or after `interval`.
    pub batch: usize,
    pub interval: Duration,
    pub timeout: Duration,
    pub stats: Arc<Scope<ZipkinStats>>,
}

/// The spans of one tracer.
#[derive(Debug)]
pub struct Outbox {
    spans: mpsc::Sender<String>,
    /// Until somebody sends them.
    taken: Mutex<Option<mpsc::Receiver<String>>>,
    pub collector: Collector,
}

impl Outbox {
    pub fn new(collector: Collector) -> Self {
        let (spans, receiver) = mpsc::channel(WAITING);
        Self { spans, taken: Mutex::new(Some(receiver)), collector }
    }

    /// The spans, for the one who sends them: once.
    pub fn take(&self) -> Option<mpsc::Receiver<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, shard: usize, span: String) {
        if self.spans.try_send(span).is_err() {
            self.collector.stats.shard(shard).spans_dropped.inc();
        }
    }
}
