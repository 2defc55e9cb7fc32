//! Statistics of TCP: `tcp_proxy` and the network filters before it.

use super::super::{Counter, Gauge, Group, Sample};

stats_group! {
    /// `tcp.<stat_prefix>.`
    TcpStats {
        counters: [
            downstream_cx_drain_close, downstream_cx_no_route, downstream_cx_rx_bytes_total, downstream_cx_total,
            downstream_cx_tx_bytes_total, downstream_flow_control_paused_reading_total,
            downstream_flow_control_resumed_reading_total, early_data_received_count_total, idle_timeout,
            max_downstream_connection_duration, upstream_flush_total, route_delayed_total,
        ],
        gauges: [downstream_cx_rx_bytes_buffered, downstream_cx_tx_bytes_buffered, upstream_flush_active],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `connection_limit.<stat_prefix>.`
    ConnectionLimitStats {
        counters: [limited_connections],
        gauges: [active_connections],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `local_rate_limit.<stat_prefix>.`
    LocalRateLimitStats {
        counters: [rate_limited],
        gauges: [],
        histograms: [],
        codes: [],
    }
}
