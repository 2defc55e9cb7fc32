//! Which statistics each kind of thing has, under Envoy's names.

use super::{Codes, Counter, Gauge, Group, Histogram, Sample};

/// The name that is printed: the field's, unless another is given.
macro_rules! printed {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $text:literal) => {
        $text
    };
}

/// `counters: [field, field = "printed.name"]` and so on. `codes` are responses by code and class, `classes` by class alone;
/// what is `on_demand` is not shown before its first value.
macro_rules! stats_group {
    ($(#[$doc:meta])* $name:ident {
        counters: [$($counter:ident $(= $counter_name:literal)?),* $(,)?],
        gauges: [$($gauge:ident $(= $gauge_name:literal)?),* $(,)?],
        histograms: [$($histogram:ident $(= $histogram_name:literal)?),* $(,)?],
        codes: [$($codes:ident = $prefix:literal),* $(,)?] $(,)?
        $(classes: [$($classes:ident = $class_prefix:literal),* $(,)?],)?
        $(on_demand: [$($demand:literal),* $(,)?],)?
        $(per_worker: [$($worker:literal),* $(,)?],)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(pub $counter: Counter,)*
            $(pub $gauge: Gauge,)*
            $(pub $histogram: Histogram,)*
            $(pub $codes: Codes,)*
            $($(pub $classes: Codes,)*)?
        }

        impl Group for $name {
            const ON_DEMAND: &'static [&'static str] = &[$($($demand),*)?];
            const PER_WORKER: &'static [&'static str] = &[$($($worker),*)?];

            fn visit<'s>(&'s self, show: &mut dyn FnMut(&'static str, Sample<'s>)) {
                $(show(printed!($counter $($counter_name)?), Sample::Counter(&self.$counter));)*
                $(show(printed!($gauge $($gauge_name)?), Sample::Gauge(&self.$gauge));)*
                $(show(printed!($histogram $($histogram_name)?), Sample::Histogram(&self.$histogram));)*
                $(show($prefix, Sample::Codes(&self.$codes));)*
                $($(show($class_prefix, Sample::Classes(&self.$classes));)*)?
            }
        }
    };
}

stats_group! {
    /// `server.`
    ServerStats {
        counters: [],
        gauges: [
            is_live = "live", state, uptime, concurrency, server_version = "version", total_connections, memory_allocated,
            memory_heap_size, memory_physical_size, days_until_first_cert_expiring,
        ],
        histograms: [initialization_time_ms],
        codes: [],
    }
}

stats_group! {
    /// `overload.<monitor>.`
    OverloadMonitorStats {
        counters: [failed_updates, skipped_updates],
        gauges: [pressure],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `overload.<action>.`
    OverloadActionStats {
        counters: [shrink_count],
        gauges: [action_active = "active", scale_percent],
        histograms: [],
        codes: [],
        on_demand: ["shrink_count"],
    }
}

stats_group! {
    /// `listener_manager.`
    ListenerManagerStats {
        counters: [
            listener_added, listener_modified, listener_removed,
            listener_create_success, listener_create_failure,
            lds_update_rejected = "lds.update_rejected",
        ],
        gauges: [
            total_listeners_active,
            workers_started,
        ],
        histograms: [],
        codes: [],
        on_demand: ["lds.update_rejected"],
    }
}

stats_group! {
    /// `cluster_manager.`
    ClusterManagerStats {
        counters: [cluster_added, cluster_modified, cluster_removed, cluster_updated],
        gauges: [active_clusters, warming_clusters],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `listener.<address>.`
    ListenerStats {
        counters: [
            listener_cx_total = "downstream_cx_total", listener_cx_destroy = "downstream_cx_destroy",
            downstream_cx_overflow, no_filter_chain_match, downstream_cx_overload_reject,
            downstream_global_cx_overflow,
        ],
        gauges: [listener_cx_active = "downstream_cx_active"],
        histograms: [listener_cx_length_ms = "downstream_cx_length_ms"],
        codes: [],
        per_worker: ["downstream_cx_active", "downstream_cx_total"],
    }
}

stats_group! {
    /// `http.<stat_prefix>.`: a connection manager.
    HttpStats {
        counters: [
            downstream_cx_total, downstream_cx_http1_total, downstream_cx_http2_total,
            downstream_cx_destroy, downstream_cx_destroy_remote, downstream_cx_destroy_local,
            downstream_cx_destroy_active_rq, downstream_cx_destroy_local_active_rq,
            downstream_cx_destroy_remote_active_rq, downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total, downstream_cx_drain_close, downstream_cx_idle_timeout,
            downstream_cx_max_duration_reached, downstream_cx_max_requests_reached,
            downstream_cx_protocol_error, downstream_cx_delayed_close_timeout,
            downstream_cx_upgrades_total, downstream_rq_total, downstream_rq_http1_total,
            downstream_rq_http2_total, downstream_rq_response_before_rq_complete,
            downstream_rq_rx_reset, downstream_rq_tx_reset, downstream_rq_too_large,
            downstream_rq_completed, downstream_rq_failed_path_normalization,
            downstream_rq_idle_timeout, downstream_rq_max_duration_reached, downstream_rq_timeout,
            downstream_rq_header_timeout, downstream_rq_non_relative_path,
            downstream_rq_redirected_with_normalized_path,
            downstream_rq_ws_on_non_ws_route, downstream_rq_overload_close,
            downstream_cx_overload_disable_keepalive, no_route, no_cluster, rq_total, rq_direct_response,
            rq_redirect, rq_reset_after_downstream_response_started,
        ],
        gauges: [
            downstream_cx_active, downstream_cx_http1_active, downstream_cx_http2_active,
            downstream_cx_upgrades_active, downstream_rq_active,
        ],
        histograms: [downstream_cx_length_ms, downstream_rq_time],
        codes: [],
        classes: [downstream_rq_codes = "downstream_rq"],
    }
}

stats_group! {
    /// `listener.<address>.http.<stat_prefix>.`: the responses of one listener.
    ListenerHttpStats {
        counters: [listener_rq_completed = "downstream_rq_completed"],
        gauges: [],
        histograms: [],
        codes: [],
        classes: [listener_rq_codes = "downstream_rq"],
    }
}

stats_group! {
    /// `http1.`: the HTTP/1 codec.
    Http1Stats {
        counters: [dropped_headers_with_underscores, requests_rejected_with_underscores_in_headers],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `http2.`: the HTTP/2 codec.
    Http2Stats {
        counters: [
            http2_dropped_headers_with_underscores = "dropped_headers_with_underscores", header_overflow,
            http2_requests_rejected_with_underscores_in_headers = "requests_rejected_with_underscores_in_headers", rx_messaging_error, rx_reset, trailers,
            tx_reset, goaway_sent,
        ],
        gauges: [streams_active],
        histograms: [],
        codes: [],
        on_demand: [
            "dropped_headers_with_underscores", "header_overflow",
            "requests_rejected_with_underscores_in_headers", "rx_messaging_error", "rx_reset",
            "trailers", "tx_reset", "goaway_sent", "streams_active",
        ],
    }
}

stats_group! {
    /// `cluster.<name>.`
    ClusterStats {
        counters: [
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total,
            upstream_cx_connect_fail, upstream_cx_connect_timeout, upstream_cx_idle_timeout,
            upstream_cx_connect_attempts_exceeded, upstream_cx_overflow, upstream_cx_destroy,
            upstream_cx_destroy_local, upstream_cx_destroy_remote,
            upstream_cx_destroy_with_active_rq, upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote_with_active_rq, upstream_cx_close_notify,
            upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total, upstream_cx_protocol_error,
            upstream_cx_max_duration_reached, upstream_cx_max_requests, upstream_cx_none_healthy, upstream_rq_total,
            upstream_rq_pending_total, upstream_rq_pending_overflow,
            upstream_rq_pending_failure_eject, upstream_rq_cancelled, upstream_rq_timeout,
            upstream_rq_per_try_timeout, upstream_rq_max_duration_reached,
            upstream_rq_per_try_idle_timeout, upstream_rq_rx_reset, upstream_rq_tx_reset,
            upstream_rq_retry, upstream_rq_retry_success, upstream_rq_retry_overflow,
            upstream_rq_retry_limit_exceeded, upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited, upstream_rq_completed,
            upstream_rq_active_overflow, membership_change, update_attempt, update_success,
            update_failure, update_empty, update_no_rebuild, update_rejected,
            retry_or_shadow_abandoned, lb_healthy_panic, lb_subsets_created,
            lb_subsets_removed, lb_subsets_selected, lb_subsets_fallback, lb_subsets_fallback_panic,
            external_upstream_rq_completed = "external.upstream_rq_completed",
            internal_upstream_rq_completed = "internal.upstream_rq_completed",
            canary_upstream_rq_completed = "canary.upstream_rq_completed",
            retry_upstream_rq_completed = "retry.upstream_rq_completed",
            http2_rx_reset = "http2.rx_reset", http2_tx_reset = "http2.tx_reset",
            http2_goaway_sent = "http2.goaway_sent",
        ],
        gauges: [
            upstream_cx_active, upstream_rq_active, upstream_rq_pending_active, membership_healthy,
            membership_degraded, membership_excluded, membership_total, max_host_weight,
            lb_subsets_active, lb_subsets_single_host_per_subset_duplicate,
            endpoints_version = "version", warming_state, circuit_breakers_default_cx_open = "circuit_breakers.default.cx_open",
            circuit_breakers_default_cx_pool_open = "circuit_breakers.default.cx_pool_open",
            circuit_breakers_default_rq_open = "circuit_breakers.default.rq_open",
            circuit_breakers_default_rq_pending_open = "circuit_breakers.default.rq_pending_open",
            circuit_breakers_default_rq_retry_open = "circuit_breakers.default.rq_retry_open",
            circuit_breakers_high_cx_open = "circuit_breakers.high.cx_open",
            circuit_breakers_high_cx_pool_open = "circuit_breakers.high.cx_pool_open",
            circuit_breakers_high_rq_open = "circuit_breakers.high.rq_open",
            circuit_breakers_high_rq_pending_open = "circuit_breakers.high.rq_pending_open",
            circuit_breakers_high_rq_retry_open = "circuit_breakers.high.rq_retry_open",
            circuit_breakers_default_remaining_cx = "circuit_breakers.default.remaining_cx",
            circuit_breakers_default_remaining_pending = "circuit_breakers.default.remaining_pending",
            circuit_breakers_default_remaining_retries = "circuit_breakers.default.remaining_retries",
            circuit_breakers_default_remaining_rq = "circuit_breakers.default.remaining_rq",
            circuit_breakers_high_remaining_cx = "circuit_breakers.high.remaining_cx",
            circuit_breakers_high_remaining_pending = "circuit_breakers.high.remaining_pending",
            circuit_breakers_high_remaining_retries = "circuit_breakers.high.remaining_retries",
            circuit_breakers_high_remaining_rq = "circuit_breakers.high.remaining_rq",
        ],
        histograms: [
            upstream_cx_connect_ms, upstream_cx_length_ms, upstream_rq_per_cx, upstream_rq_time,
            external_upstream_rq_time = "external.upstream_rq_time",
            internal_upstream_rq_time = "internal.upstream_rq_time",
            canary_upstream_rq_time = "canary.upstream_rq_time",
        ],
        codes: [
            upstream_rq_codes = "upstream_rq", external_upstream_rq_codes = "external.upstream_rq",
            internal_upstream_rq_codes = "internal.upstream_rq",
            canary_upstream_rq_codes = "canary.upstream_rq",
            retry_upstream_rq_codes = "retry.upstream_rq",
        ],
        on_demand: [
            "upstream_rq_time", "external.upstream_rq_time", "internal.upstream_rq_time",
            "canary.upstream_rq_time", "external.upstream_rq_completed",
            "internal.upstream_rq_completed", "canary.upstream_rq_completed",
            "retry.upstream_rq_completed", "update_rejected",
            "circuit_breakers.default.remaining_cx", "circuit_breakers.default.remaining_pending",
            "circuit_breakers.default.remaining_retries", "circuit_breakers.default.remaining_rq",
            "circuit_breakers.high.remaining_cx", "circuit_breakers.high.remaining_pending",
            "circuit_breakers.high.remaining_retries", "circuit_breakers.high.remaining_rq",
            "http2.rx_reset", "http2.tx_reset", "http2.goaway_sent",
        ],
    }
}

stats_group! {
    /// `cluster.<name>.outlier_detection.`: only clusters that detect outliers have it.
    OutlierStats {
        counters: [
            ejections_total, ejections_overflow, ejections_consecutive_5xx, ejections_success_rate,
            ejections_enforced_total, ejections_detected_consecutive_5xx,
            ejections_enforced_consecutive_5xx, ejections_detected_consecutive_gateway_failure,
            ejections_enforced_consecutive_gateway_failure,
            ejections_detected_consecutive_local_origin_failure,
            ejections_enforced_consecutive_local_origin_failure, ejections_detected_success_rate,
            ejections_enforced_success_rate, ejections_detected_local_origin_success_rate,
            ejections_enforced_local_origin_success_rate, ejections_detected_failure_percentage,
            ejections_enforced_failure_percentage,
            ejections_detected_local_origin_failure_percentage,
            ejections_enforced_local_origin_failure_percentage,
        ],
        gauges: [ejections_active],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `cluster.<name>.health_check.`: only clusters with active health checks have it.
    HealthCheckStats {
        counters: [attempt, success, failure, network_failure, passive_failure, verify_cluster],
        gauges: [healthy, degraded],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `cluster.<name>.ring_hash_lb.`
    RingHashStats {
        counters: [],
        gauges: [ring_size = "size", min_hashes_per_host, max_hashes_per_host],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `cluster.<name>.maglev_lb.`
    MaglevStats {
        counters: [],
        gauges: [min_entries_per_host, max_entries_per_host],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `vhost.<name>.vcluster.<name>.`
    VirtualClusterStats {
        counters: [
            vcluster_rq_total = "upstream_rq_total", vcluster_rq_completed = "upstream_rq_completed", vcluster_rq_retry = "upstream_rq_retry",
            vcluster_rq_retry_limit_exceeded = "upstream_rq_retry_limit_exceeded", vcluster_rq_retry_overflow = "upstream_rq_retry_overflow", vcluster_rq_retry_success = "upstream_rq_retry_success",
            vcluster_rq_timeout = "upstream_rq_timeout",
        ],
        gauges: [],
        histograms: [vcluster_rq_time = "upstream_rq_time"],
        codes: [vcluster_rq_codes = "upstream_rq"],
        on_demand: ["upstream_rq_completed", "upstream_rq_time"],
    }
}

stats_group! {
    /// `filesystem.`: the access logs' files. `write_dropped` is ours: lines that found a full buffer.
    FilesystemStats {
        counters: [
            flushed_by_timer, reopen_failed, write_buffered, write_completed, write_failed,
            write_dropped,
        ],
        gauges: [write_total_buffered],
        histograms: [],
        codes: [],
        on_demand: ["write_dropped"],
    }
}

stats_group! {
    /// `http.<stat_prefix>.fault.`: the fault filter.
    FaultStats {
        counters: [aborts_injected, delays_injected, faults_overflow, response_rl_injected],
        gauges: [active_faults],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `http.<stat_prefix>.fault.<downstream cluster>.`
    FaultClusterStats {
        counters: [cluster_aborts_injected = "aborts_injected", cluster_delays_injected = "delays_injected"],
        gauges: [],
        histograms: [],
        codes: [],
        on_demand: ["aborts_injected", "delays_injected"],
    }
}

stats_group! {
    /// `http.<stat_prefix>.cors.`: the CORS filter.
    CorsStats {
        counters: [origin_valid, origin_invalid],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `<stat_prefix>.http_local_rate_limit.`: a local rate limit.
    HttpLocalRateLimitStats {
        counters: [enabled, enforced, ok, rate_limited],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `http.<stat_prefix>.rbac.`: the RBAC filter.
    RbacStats {
        counters: [requests_allowed = "allowed", denied, shadow_allowed, shadow_denied],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `http.<stat_prefix>.health_check.`: the checks that the health check filter responded to
    /// itself.
    HealthCheckFilterStats {
        counters: [
            request_total, ok_responses = "ok", failed, cached_response, failed_cluster_not_found,
            failed_cluster_empty, failed_cluster_unhealthy, kept_degraded = "degraded",
        ],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `tcp.<stat_prefix>.`
    TcpStats {
        counters: [
            downstream_cx_no_route, tcp_cx_rx_bytes_total = "downstream_cx_rx_bytes_total",
            tcp_cx_total = "downstream_cx_total", tcp_cx_tx_bytes_total = "downstream_cx_tx_bytes_total", idle_timeout,
            max_downstream_connection_duration,
        ],
        gauges: [],
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
        counters: [connections_rate_limited = "rate_limited"],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

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
            reports_dropped, reports_failed, reports_sent, reports_skipped_no_cluster, spans_sent,
            timer_flushed, spans_dropped,
        ],
        gauges: [],
        histograms: [],
        codes: [],
        on_demand: ["spans_dropped"],
    }
}
