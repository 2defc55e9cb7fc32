//! The counts of a connection. Guards keep them right, even if the task of the connection is aborted.

use tokio::time::Instant;

use super::End;
use crate::exchange::ConnectionContext;
use crate::stats::Gauge;

/// Counts a connection until it is dropped.
pub(super) struct Counted<'c> {
    context: &'c ConnectionContext,
    begun: Instant,
    pub(super) end: End,
}

impl<'c> Counted<'c> {
    pub(super) fn new(context: &'c ConnectionContext, begun: Instant) -> Self {
        let stats = context.http();
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        Self { context, begun, end: End::default() }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let (stats, end) = (self.context.http(), self.end);
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        if end.active_request {
            stats.downstream_cx_destroy_active_rq.inc();
        }
        match (end.remote, end.active_request) {
            (true, false) => stats.downstream_cx_destroy_remote.inc(),
            (false, false) => stats.downstream_cx_destroy_local.inc(),
            (true, true) => {
                stats.downstream_cx_destroy_remote.inc();
                stats.downstream_cx_destroy_remote_active_rq.inc();
            }
            (false, true) => {
                stats.downstream_cx_destroy_local.inc();
                stats.downstream_cx_destroy_local_active_rq.inc();
            }
        }
        if end.protocol_error {
            stats.downstream_cx_protocol_error.inc();
        }
        stats.downstream_cx_length_ms.record(crate::time::millis(self.begun.elapsed()));
    }
}

/// Counts a connection among those of its protocol version.
pub(super) struct InUse<'c>(&'c Gauge);

impl<'c> InUse<'c> {
    pub(super) fn new(gauge: &'c Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
