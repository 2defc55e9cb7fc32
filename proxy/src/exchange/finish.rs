//! The ends of an exchange: that of its request; and its own, counted and logged once, however it came.

use super::{Exchange, Outcome};
use crate::error::Flag;
use crate::time;

impl Exchange<'_> {
    /// The request ended with its head: the route's timeout begins, so that it covers the wait for a connection, too.
    pub(super) fn came_whole(&mut self, route_timeout: Option<std::time::Duration>) {
        self.info.request_end = self.info.request_end.or(Some(self.info.start));
        self.timers.request_complete(self.forwarded, route_timeout);
    }

    /// The ordinary end.
    pub(super) fn end(mut self) -> Outcome {
        self.finish();
        Outcome { keep_alive: self.complete, head: std::mem::take(&mut self.request) }
    }

    fn finish(&mut self) {
        self.finished = true;
        let now = time::now();
        self.info.end = Some(now);
        let http = self.context.http();
        http.downstream_rq_active.dec();
        if self.tunnel {
            http.downstream_cx_upgrades_active.dec();
        }
        http.downstream_rq_time.record(millis(now.saturating_duration_since(self.info.start)));
        self.count_virtual_cluster();
        self.end_span();
        for log in &self.context.manager.access_log {
            log.log(self.context.local.shard, &self.format_context());
        }
    }

    fn count_virtual_cluster(&self) {
        let Some(matched) = self.matched.filter(|_| self.info.cluster.is_some()) else { return };
        let Some(part) = matched.virtual_host.virtual_cluster(&self.request) else { return };
        let stats = part.stats.shard(self.context.local.shard);
        stats.upstream_rq_total.inc();
        if self.info.status != 0 {
            stats.upstream_rq_completed.inc();
            stats.upstream_rq_codes.record(self.info.status);
        }
        if self.info.flags.has(Flag::UpstreamRequestTimeout) {
            stats.upstream_rq_timeout.inc();
        }
    }
}

/// An exchange that is dropped on its way (its connection or the worker ended) is counted and logged like any other.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.info.flags.set(Flag::DownstreamConnectionTermination);
            self.info.details = std::borrow::Cow::Borrowed("downstream_local_disconnect");
            self.finish();
        }
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
