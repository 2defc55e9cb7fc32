//! What the HTTP filters count.

use super::super::{Counter, Gauge, Group, Sample};

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
        counters: [aborts_injected, delays_injected],
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
        counters: [enabled, enforced, ok, rate_limited, shadow_mode],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `http.<stat_prefix>.rbac.`: the RBAC filter.
    RbacStats {
        counters: [allowed, denied, shadow_allowed, shadow_denied],
        gauges: [],
        histograms: [],
        codes: [],
    }
}

stats_group! {
    /// `http.<stat_prefix>.health_check.`: the checks that the health check filter answered itself.
    HealthCheckFilterStats {
        counters: [request_total, ok, failed, cached_response, failed_cluster_not_found, failed_cluster_empty,
            failed_cluster_unhealthy, degraded],
        gauges: [],
        histograms: [],
        codes: [],
    }
}
