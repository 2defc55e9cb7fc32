//! The queue between requests and collector, and the task that empties it: a request never waits for a collector.
//!
//! What does not fit into the queue and what the collector does not take is lost and counted; a line in the log says so,
//! once a minute at most, and one at the end has the sums.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::zipkin::Collector;

/// Spans that wait for the collector; OpenTelemetry's default.
const QUEUE: usize = 2048;
/// Spans in one call; OpenTelemetry's default.
const BATCH: usize = 512;
/// For how long a span waits for others to go with it.
const DELAY: Duration = Duration::from_secs(1);
/// For how long the end of the process waits for the collector.
const FLUSH: Duration = Duration::from_secs(2);
/// Between two lines in the log about lost spans.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The owner of the task.
#[derive(Debug)]
pub(super) struct Export {
    task: Mutex<Option<Task>>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Task {
    closing: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    ended: AtomicU64,
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// The end where spans come in, which opentelemetry calls.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

/// The end where they go out.
struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    batch: Vec<SpanData>,
    collector: Collector,
    counts: Arc<Counts>,
    reported: u64,
    warned: Option<Instant>,
}

impl Export {
    pub(super) fn start(collector: Collector) -> (Self, Queue) {
        let (sender, spans) = mpsc::channel(QUEUE);
        let (closing, closed) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let exporter = Exporter {
            spans,
            batch: Vec::new(),
            collector,
            counts: counts.clone(),
            reported: 0,
            warned: None,
        };
        let task = Task { closing, handle: tokio::spawn(exporter.run(closed)) };
        (Self { task: Mutex::new(Some(task)), counts: counts.clone() }, Queue { spans: sender, counts })
    }

    pub(super) async fn finish(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Task { closing, mut handle }) = task else { return };
        // An error means that the task has ended by itself, which the next line sees.
        let _ = closing.send(());
        if timeout(FLUSH, &mut handle).await.is_err() {
            handle.abort();
        }
        let (ended, exported) = (self.counts.ended.load(Relaxed), self.counts.exported.load(Relaxed));
        info!(exported, dropped = ended.saturating_sub(exported), "spans");
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.counts.ended.fetch_add(1, Relaxed);
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// [`Export::finish`] does this without holding up the thread.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    async fn run(mut self, mut closing: oneshot::Receiver<()>) {
        let mut open = true;
        loop {
            tokio::select! {
                some = gather(&mut self.spans, &mut self.batch) => {
                    if !some {
                        return;
                    }
                    self.export().await;
                }
                _ = &mut closing, if open => {
                    open = false;
                    self.spans.close();
                }
            }
        }
    }

    async fn export(&mut self) {
        let spans = self.batch.len() as u64;
        let result = self.collector.send(&self.batch).await;
        self.batch.clear();
        let counter = if result.is_ok() { &self.counts.exported } else { &self.counts.dropped };
        counter.fetch_add(spans, Relaxed);
        let dropped = self.counts.dropped.load(Relaxed);
        let quiet = self.warned.is_some_and(|warned| warned.elapsed() < WARN_EVERY);
        if dropped == self.reported || quiet {
            return;
        }
        (self.reported, self.warned) = (dropped, Some(Instant::now()));
        let cause = result.err().unwrap_or_else(|| "more spans than the collector takes".to_owned());
        warn!(dropped, "spans are lost, requests are served as before: {}: {cause}", self.collector);
    }
}

/// Fills `batch` until it is full or its first span has waited for [`DELAY`]; `false` when no span will come any more.
/// Cancel safe: what was taken is in `batch`.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) -> bool {
    if batch.is_empty() {
        spans.recv_many(batch, BATCH).await;
    }
    let full =
        async { while batch.len() < BATCH && spans.recv_many(batch, BATCH - batch.len()).await > 0 {} };
    // Fewer than a batch is what goes, too.
    let _ = timeout(DELAY, full).await;
    !batch.is_empty()
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::net::TcpListener;

    use super::*;
    use crate::logs::tests::Lines;

    /// Ends `spans` spans at once for a collector that accepts connections and never responds; what
    /// the log says of them.
    async fn lost(spans: usize) -> String {
        let lines = Lines::default();
        let (_guard, _handle) = lines.capture(false);
        let collector = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/", collector.local_addr().expect("an address"));
        let (export, queue) = Export::start(Collector::new("pet", &endpoint).expect("an endpoint"));
        let counts = export.counts.clone();
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        for _ in 0..spans {
            drop(tracer.start("request"));
        }
        let refused = counts.dropped.load(Relaxed);
        assert_eq!(refused, (spans - spans.min(QUEUE)) as u64);
        export.finish().await;
        lines.text()
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_a_silent_collector_longer_than_it_says() {
        let start = Instant::now();
        let text = lost(3).await;
        assert!(text.contains("exported=0 dropped=3"), "{text}");
        assert_eq!(start.elapsed().as_secs(), FLUSH.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_queue_does_not_hold_is_counted() {
        let text = lost(QUEUE + 7).await;
        assert!(text.contains(&format!("exported=0 dropped={}", QUEUE + 7)), "{text}");
    }
}
