//! Sends the spans of a tracer to its collector, in batches.
//!
//! It ends when the last listener with the tracer has gone.

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::client::{Client, Post};
use crate::cluster::balancer::Cursor;
use crate::snapshot::{Listener, ListenerKind};
use crate::trace::Collector;

/// Starts a sender for each tracer without one.
pub(super) fn start<'l>(listeners: impl Iterator<Item = &'l Listener>, client: &Client, shard: usize) {
    for chain in listeners.flat_map(|listener| listener.chains.iter()) {
        let ListenerKind::Http(manager) = &chain.kind else { continue };
        let Some(tracing) = &manager.tracing else { continue };
        if let Some(spans) = tracing.outbox.take() {
            tokio::spawn(run(spans, tracing.outbox.collector.clone(), client.clone(), shard));
        }
    }
}

async fn run(mut spans: mpsc::Receiver<String>, collector: Collector, client: Client, shard: usize) {
    let mut tick = interval(collector.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let mut batch: Vec<String> = Vec::new();
    let mut cursor = Cursor::default();
    loop {
        tokio::select! {
            span = spans.recv() => match span {
                Some(span) => {
                    batch.push(span);
                    if batch.len() < collector.batch {
                        continue;
                    }
                }
                None => break,
            },
            _ = tick.tick() => collector.stats.shard(shard).timer_flushed.inc(),
        }
        flush(&mut batch, &collector, &client, &mut cursor, shard).await;
    }
    flush(&mut batch, &collector, &client, &mut cursor, shard).await;
}

async fn flush(batch: &mut Vec<String>, to: &Collector, client: &Client, cursor: &mut Cursor, shard: usize) {
    if batch.is_empty() {
        return;
    }
    let stats = to.stats.shard(shard);
    stats.spans_sent.add(batch.len() as u64);
    let body = format!("[{}]", batch.join(","));
    batch.clear();
    let post = Post { cluster: &to.cluster, host: &to.host, path: &to.path, body, timeout: to.timeout };
    match client.post(post, cursor).await {
        // Envoy counts any other response as a refusal.
        Ok(response) if response.status == 202 => stats.reports_sent.inc(),
        Ok(_) => stats.reports_dropped.inc(),
        Err(super::client::Error::NoCluster(_)) => stats.reports_skipped_no_cluster.inc(),
        Err(error) => {
            tracing::debug!(%error, "spans could not be sent");
            stats.reports_failed.inc();
        }
    }
}
