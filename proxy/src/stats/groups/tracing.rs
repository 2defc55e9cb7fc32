//! Statistics of spans: what was decided, and what came of sending them.

use super::super::{Counter, Group, Sample};

stats_group! {
    /// `http.<stat_prefix>.tracing.`
    TracingStats {
        counters: [client_enabled, health_check, not_traceable, random_sampling, service_forced],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `tracing.zipkin.` `spans_dropped` is ours: spans that found a full queue.
    ZipkinStats {
        counters: [
            reports_dropped, reports_failed, reports_sent, reports_skipped_no_cluster, spans_sent, timer_flushed, spans_dropped,
        ],
        gauges: [],
        histograms: [],
        codes: [],
        on_demand: ["spans_dropped"],
    }
}
