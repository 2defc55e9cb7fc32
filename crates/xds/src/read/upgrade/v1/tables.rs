//! The fields of the v1 API and where their values stand in the v2 API.
//!
//! A target is a way down from the message: `name[]` is a list of one mapping. Read by the walk in `v1`; calls the functions of
//! `forms` where a value takes more than a rule.

use super::super::super::path::Path;
use super::super::super::tree::Node;
use super::super::Pass;
use super::forms;

/// What becomes of a value.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    Same,
    /// A number of milliseconds or of seconds, as a duration.
    Millis,
    Seconds,
    /// A text `tcp://host:port`, as an address.
    Address,
    /// A text of several words, as a list.
    Split(char),
    /// Another message of the v1 API, or a list of them.
    Message(&'static str),
    /// What takes more.
    By(fn(&mut Pass<'_, '_>, Node, &Path<'_>) -> Node),
}

use Rule::{Address, By, Message, Millis, Same, Seconds, Split};

/// A field, its place in the message of the v2 API (none: the same name), and its value.
pub(super) type Field = (&'static str, &'static [&'static str], Rule);

const CHAIN: &str = "filter_chains[]";
const TLS: &str = "common_tls_context";

pub(super) const MESSAGES: &[(&str, &[Field])] = &[
    (
        "Bootstrap",
        &[
            ("listeners", &["static_resources", "listeners"], Message("Listener")),
            ("lds", &["dynamic_resources", "lds_config", "api_config_source"], By(forms::source)),
            ("admin", &[], Message("Admin")),
            ("cluster_manager", &[""], Message("ClusterManager")),
            ("flags_path", &[], Same),
            ("statsd_udp_ip_address", &["stats_sinks"], By(forms::statsd_address)),
            ("statsd_tcp_cluster_name", &["stats_sinks"], By(forms::statsd_cluster)),
            ("stats_flush_interval_ms", &["stats_flush_interval"], Millis),
            ("watchdog_miss_timeout_ms", &["watchdog", "miss_timeout"], Millis),
            ("watchdog_megamiss_timeout_ms", &["watchdog", "megamiss_timeout"], Millis),
            ("watchdog_kill_timeout_ms", &["watchdog", "kill_timeout"], Millis),
            ("watchdog_multikill_timeout_ms", &["watchdog", "multikill_timeout"], Millis),
            ("tracing", &[], Message("Tracing of the process")),
            ("rate_limit_service", &[], Message("RateLimitService")),
            ("runtime", &[], Same),
        ],
    ),
    ("Admin", &[("access_log_path", &[], Same), ("profile_path", &[], Same), ("address", &[], Address)]),
    (
        "ClusterManager",
        &[
            ("clusters", &["static_resources", "clusters"], Message("Cluster")),
            ("sds", &["static_resources", "clusters"], By(forms::cluster_of_source)),
            ("cds", &[""], By(forms::cds)),
            ("local_cluster_name", &["cluster_manager", "local_cluster_name"], Same),
            ("outlier_detection", &["cluster_manager", "outlier_detection"], Same),
        ],
    ),
    ("Tracing of the process", &[("http", &[], Message("Tracer of the process"))]),
    ("Tracer of the process", &[("driver", &[""], By(forms::driver))]),
    ("RateLimitService", &[("type", &[""], By(forms::nothing)), ("config", &[""], Same)]),
    // Listeners.
    (
        "Listener",
        &[
            ("name", &[], Same),
            ("address", &[], Address),
            ("filters", &[CHAIN, "filters"], By(forms::network_filters)),
            ("drain_type", &[], Same),
            ("ssl_context", &[CHAIN, "tls_context"], Message("TlsContext")),
            ("transparent", &[], Same),
            ("bind_to_port", &[], Same),
            ("use_proxy_proto", &[CHAIN, "use_proxy_proto"], Same),
            ("use_original_dst", &[], Same),
            ("per_connection_buffer_limit_bytes", &[], Same),
        ],
    ),
    (
        "TlsContext",
        &[
            ("cert_chain_file", &[TLS, "tls_certificates[]", "certificate_chain", "filename"], Same),
            ("private_key_file", &[TLS, "tls_certificates[]", "private_key", "filename"], Same),
            ("alpn_protocols", &[TLS, "alpn_protocols"], Split(',')),
            ("alt_alpn_protocols", &[""], By(forms::nothing)),
            ("ca_cert_file", &[TLS, "validation_context", "trusted_ca", "filename"], Same),
            ("crl_file", &[TLS, "validation_context", "crl", "filename"], Same),
            ("require_client_certificate", &[], Same),
            ("verify_certificate_hash", &[TLS, "validation_context", "verify_certificate_hash"], Split('\n')),
            ("verify_subject_alt_name", &[TLS, "validation_context", "verify_subject_alt_name"], Same),
            ("session_ticket_key_paths", &["session_ticket_keys", "keys"], By(forms::file_names)),
            ("cipher_suites", &[TLS, "tls_params", "cipher_suites"], Split(':')),
            ("ecdh_curves", &[TLS, "tls_params", "ecdh_curves"], Split(':')),
            ("sni", &[], Same),
        ],
    ),
    (
        "HttpConnectionManager",
        &[
            ("codec_type", &[], Same),
            ("stat_prefix", &[], Same),
            ("rds", &[], By(forms::rds)),
            ("route_config", &[], Message("RouteConfiguration")),
            ("filters", &["http_filters"], By(forms::http_filters)),
            ("add_user_agent", &[], Same),
            ("tracing", &[], Same),
            ("http1_settings", &["http_protocol_options"], Same),
            ("http2_settings", &["http2_protocol_options"], Same),
            ("server_name", &[], Same),
            ("idle_timeout_s", &["idle_timeout"], Seconds),
            ("drain_timeout_ms", &["drain_timeout"], Millis),
            ("access_log", &[], By(forms::access_logs)),
            ("use_remote_address", &[], Same),
            ("forward_client_cert", &["forward_client_cert_details"], Same),
            ("set_current_client_cert_details", &[], By(forms::cert_details)),
            ("generate_request_id", &[], Same),
        ],
    ),
    // Routes.
    (
        "RouteConfiguration",
        &[
            ("validate_clusters", &[], Same),
            ("virtual_hosts", &[], Message("VirtualHost")),
            ("internal_only_headers", &[], Same),
            ("response_headers_to_add", &[], Message("Header")),
            ("response_headers_to_remove", &[], Same),
            ("request_headers_to_add", &[], Message("Header")),
        ],
    ),
    ("Header", &[("key", &["header", "key"], Same), ("value", &["header", "value"], Same)]),
    (
        "VirtualHost",
        &[
            ("name", &[], Same),
            ("domains", &[], Same),
            ("routes", &[], Message("Route")),
            ("require_ssl", &["require_tls"], Same),
            ("virtual_clusters", &[], Same),
            ("rate_limits", &[], Message("RateLimit")),
            ("request_headers_to_add", &[], Message("Header")),
            ("cors", &[], Same),
        ],
    ),
    (
        "Route",
        &[
            ("prefix", &["match", "prefix"], Same),
            ("path", &["match", "path"], Same),
            ("regex", &["match", "regex"], Same),
            ("case_sensitive", &["match", "case_sensitive"], Same),
            ("runtime", &["match", "runtime"], Message("Runtime")),
            ("headers", &["match", "headers"], Same),
            ("query_parameters", &["match", "query_parameters"], Same),
            ("cluster", &["route", "cluster"], Same),
            ("cluster_header", &["route", "cluster_header"], Same),
            ("weighted_clusters", &["route", "weighted_clusters"], Same),
            ("prefix_rewrite", &["route", "prefix_rewrite"], Same),
            ("host_rewrite", &["route", "host_rewrite"], Same),
            ("auto_host_rewrite", &["route", "auto_host_rewrite"], Same),
            ("use_websocket", &["route", "use_websocket"], Same),
            ("timeout_ms", &["route", "timeout"], Millis),
            ("retry_policy", &["route", "retry_policy"], Message("RetryPolicy")),
            ("shadow", &["route", "request_mirror_policy"], Same),
            ("priority", &["route", "priority"], Same),
            ("rate_limits", &["route", "rate_limits"], Message("RateLimit")),
            ("include_vh_rate_limits", &["route", "include_vh_rate_limits"], Same),
            ("hash_policy", &["route", "hash_policy[]", "header"], Same),
            ("cors", &["route", "cors"], Same),
            ("host_redirect", &["redirect", "host_redirect"], Same),
            ("path_redirect", &["redirect", "path_redirect"], Same),
            ("request_headers_to_add", &[], Message("Header")),
            ("opaque_config", &["metadata", "filter_metadata", "envoy.filters.http.router"], Same),
            ("decorator", &[], Same),
        ],
    ),
    ("Runtime", &[("key", &["runtime_key"], Same), ("default", &["default_value"], Same)]),
    (
        "RetryPolicy",
        &[
            ("retry_on", &[], Same),
            ("num_retries", &[], Same),
            ("per_try_timeout_ms", &["per_try_timeout"], Millis),
        ],
    ),
    (
        "RateLimit",
        &[("stage", &[], Same), ("disable_key", &[], Same), ("actions", &[], By(forms::rate_limit_actions))],
    ),
    // Clusters.
    (
        "Cluster",
        &[
            ("name", &[], Same),
            ("type", &[], By(forms::cluster_type)),
            ("connect_timeout_ms", &["connect_timeout"], Millis),
            ("per_connection_buffer_limit_bytes", &[], Same),
            ("lb_type", &["lb_policy"], Same),
            ("ring_hash_lb_config", &[], Message("RingHash")),
            ("hosts", &[], By(forms::hosts)),
            ("service_name", &["eds_cluster_config", "service_name"], Same),
            ("health_check", &["health_checks"], By(forms::health_check)),
            ("max_requests_per_connection", &[], Same),
            ("circuit_breakers", &[], By(forms::circuit_breakers)),
            ("ssl_context", &["tls_context"], Message("TlsContext")),
            ("features", &[""], By(forms::features)),
            ("http2_settings", &["http2_protocol_options"], Same),
            ("dns_refresh_rate_ms", &["dns_refresh_rate"], Millis),
            ("dns_resolvers", &[], By(forms::resolvers)),
            ("dns_lookup_family", &[], Same),
            ("cleanup_interval_ms", &["cleanup_interval"], Millis),
            ("outlier_detection", &[], Message("OutlierDetection")),
        ],
    ),
    (
        "RingHash",
        &[("minimum_ring_size", &[], Same), ("use_std_hash", &["deprecated_v1", "use_std_hash"], Same)],
    ),
    (
        "HealthCheck",
        &[
            ("timeout_ms", &["timeout"], Millis),
            ("interval_ms", &["interval"], Millis),
            ("interval_jitter_ms", &["interval_jitter"], Millis),
            ("unhealthy_threshold", &[], Same),
            ("healthy_threshold", &[], Same),
            ("reuse_connection", &[], Same),
            ("path", &["http_health_check", "path"], Same),
            ("service_name", &["http_health_check", "service_name"], Same),
            ("send", &["tcp_health_check", "send"], By(forms::bytes_to_send)),
            ("receive", &["tcp_health_check", "receive"], Message("Bytes")),
            ("redis_key", &["redis_health_check", "key"], Same),
        ],
    ),
    ("Bytes", &[("binary", &["text"], Same)]),
    (
        "OutlierDetection",
        &[
            ("consecutive_5xx", &[], Same),
            ("consecutive_gateway_failure", &[], Same),
            ("success_rate_minimum_hosts", &[], Same),
            ("success_rate_request_volume", &[], Same),
            ("success_rate_stdev_factor", &[], Same),
            ("interval_ms", &["interval"], Millis),
            ("base_ejection_time_ms", &["base_ejection_time"], Millis),
            ("max_ejection_percent", &[], Same),
            ("enforcing_consecutive_5xx", &[], Same),
            ("enforcing_consecutive_gateway_failure", &[], Same),
            ("enforcing_success_rate", &[], Same),
        ],
    ),
    // Filters, by their names of the v2 API.
    (
        "envoy.tcp_proxy",
        &[
            ("stat_prefix", &[], Same),
            ("route_config", &[], Same),
            ("access_log", &[], By(forms::access_logs)),
        ],
    ),
    (
        "envoy.ratelimit",
        &[
            ("stat_prefix", &[], Same),
            ("domain", &[], Same),
            ("descriptors", &[], By(forms::descriptors)),
            ("timeout_ms", &["timeout"], Millis),
        ],
    ),
    (
        "envoy.redis_proxy",
        &[
            ("cluster_name", &["cluster"], Same),
            ("stat_prefix", &[], Same),
            ("conn_pool", &["settings"], Message("RedisPool")),
        ],
    ),
    ("RedisPool", &[("op_timeout_ms", &["op_timeout"], Millis)]),
    (
        "envoy.mongo_proxy",
        &[("stat_prefix", &[], Same), ("access_log", &[], Same), ("fault", &[""], Message("MongoFault"))],
    ),
    ("MongoFault", &[("fixed_delay", &["delay"], Message("MongoDelay"))]),
    ("MongoDelay", &[("percent", &[], Same), ("duration_ms", &["fixed_delay"], Millis)]),
    (
        "envoy.fault",
        &[
            ("abort", &[], Message("FaultAbort")),
            ("delay", &[], Message("FaultDelay")),
            ("upstream_cluster", &[], Same),
            ("downstream_nodes", &[], Same),
            ("headers", &[], Same),
        ],
    ),
    ("FaultAbort", &[("abort_percent", &["percent"], Same), ("http_status", &[], Same)]),
    (
        "FaultDelay",
        &[
            ("type", &[""], By(forms::nothing)),
            ("fixed_delay_percent", &["percent"], Same),
            ("fixed_duration_ms", &["fixed_delay"], Millis),
        ],
    ),
    (
        "envoy.health_check",
        &[
            ("pass_through_mode", &[], Same),
            ("endpoint", &[], Same),
            ("cache_time_ms", &["cache_time"], Millis),
        ],
    ),
    (
        "envoy.rate_limit",
        &[
            ("domain", &[], Same),
            ("stage", &[], Same),
            ("request_type", &[], Same),
            ("timeout_ms", &["timeout"], Millis),
        ],
    ),
    (
        "envoy.buffer",
        &[("max_request_bytes", &[], Same), ("max_request_time_s", &["max_request_time"], Seconds)],
    ),
    ("envoy.router", &[("dynamic_stats", &[], Same), ("start_child_span", &[], Same)]),
];
