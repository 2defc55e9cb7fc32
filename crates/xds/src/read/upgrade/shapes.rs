//! Which message lies below which field: only the ways that lead to an old form.
//!
//! Read by the walk in `upgrade`. The names are short ones of our own; one that ends in `Map` is a mapping to such messages.

/// A message, by a short name.
pub(super) type Shape = &'static str;

/// Messages and the fields of theirs that are worth looking into. A list counts as its items.
const CHILDREN: &[(Shape, &[(&str, Shape)])] = &[
    (
        "Bootstrap",
        &[
            ("node", "Node"),
            ("static_resources", "StaticResources"),
            ("dynamic_resources", "DynamicResources"),
            ("cluster_manager", "ClusterManager"),
            ("stats_sinks", "StatsSink"),
            ("admin", "Admin"),
            ("hds_config", "ApiConfigSource"),
            ("overload_manager", "OverloadManager"),
        ],
    ),
    ("StaticResources", &[("listeners", "Listener"), ("clusters", "Cluster"), ("secrets", "Secret")]),
    (
        "DynamicResources",
        &[("lds_config", "ConfigSource"), ("cds_config", "ConfigSource"), ("ads_config", "ApiConfigSource")],
    ),
    ("DiscoveryResponse", &[("resources", "Any")]),
    ("ClusterManager", &[("load_stats_config", "ApiConfigSource")]),
    ("OverloadManager", &[("resource_monitors", "ResourceMonitor")]),
    ("Admin", &[("access_log", "AccessLog")]),
    // Messages that name an extension.
    ("StatsSink", &[("typed_config", "Any")]),
    ("ResourceMonitor", &[("typed_config", "Any")]),
    ("AccessLog", &[("typed_config", "Any"), ("filter", "AccessLogFilter")]),
    ("NetworkFilter", &[("typed_config", "Any")]),
    ("HttpFilter", &[("typed_config", "Any")]),
    ("ListenerFilter", &[("typed_config", "Any")]),
    ("ServerSocket", &[("typed_config", "Any")]),
    ("ClientSocket", &[("typed_config", "Any")]),
    ("Tracer", &[("typed_config", "Any")]),
    ("RetryHostPredicate", &[("typed_config", "Any")]),
    ("RetryPriority", &[("typed_config", "Any")]),
    ("CustomHealthCheck", &[("typed_config", "Any")]),
    // Listeners.
    (
        "Listener",
        &[
            ("filter_chains", "FilterChain"),
            ("default_filter_chain", "FilterChain"),
            ("listener_filters", "ListenerFilter"),
            ("access_log", "AccessLog"),
        ],
    ),
    (
        "FilterChain",
        &[
            ("filters", "NetworkFilter"),
            ("transport_socket", "ServerSocket"),
            ("filter_chain_match", "FilterChainMatch"),
        ],
    ),
    (
        "HttpConnectionManager",
        &[
            ("route_config", "RouteConfiguration"),
            ("rds", "Rds"),
            ("http_filters", "HttpFilter"),
            ("access_log", "AccessLog"),
            ("tracing", "Tracing"),
            ("upgrade_configs", "UpgradeConfig"),
            ("set_current_client_cert_details", "ClientCertDetails"),
        ],
    ),
    ("Rds", &[("config_source", "ConfigSource")]),
    ("UpgradeConfig", &[("filters", "HttpFilter")]),
    ("Tracing", &[("provider", "Tracer")]),
    ("TcpProxy", &[("access_log", "AccessLog")]),
    ("Router", &[("upstream_log", "AccessLog")]),
    ("Fault", &[("abort", "FaultAbort"), ("delay", "FaultDelay"), ("headers", "HeaderMatcher")]),
    ("HealthCheckFilter", &[("headers", "HeaderMatcher")]),
    ("BufferPerRoute", &[("buffer", "Buffer")]),
    ("RateLimitFilter", &[("rate_limit_service", "RateLimitService")]),
    ("MongoProxy", &[("delay", "FaultDelay")]),
    ("Rbac", &[("rules", "RbacRules"), ("shadow_rules", "RbacRules")]),
    ("RbacPerRoute", &[("rbac", "Rbac")]),
    ("RbacRules", &[("policies", "PolicyMap")]),
    ("Policy", &[("permissions", "Permission"), ("principals", "Principal")]),
    (
        "Permission",
        &[
            ("and_rules", "PermissionSet"),
            ("or_rules", "PermissionSet"),
            ("not_rule", "Permission"),
            ("header", "HeaderMatcher"),
        ],
    ),
    ("PermissionSet", &[("rules", "Permission")]),
    (
        "Principal",
        &[
            ("and_ids", "PrincipalSet"),
            ("or_ids", "PrincipalSet"),
            ("not_id", "Principal"),
            ("header", "HeaderMatcher"),
            ("authenticated", "Authenticated"),
        ],
    ),
    ("PrincipalSet", &[("ids", "Principal")]),
    ("Authenticated", &[("principal_name", "StringMatcher")]),
    ("GrpcAccessLog", &[("common_config", "GrpcCommon")]),
    // Access logs.
    (
        "AccessLogFilter",
        &[("and_filter", "LogFilters"), ("or_filter", "LogFilters"), ("header_filter", "LogHeader")],
    ),
    ("LogFilters", &[("filters", "AccessLogFilter")]),
    ("LogHeader", &[("header", "HeaderMatcher")]),
    // Routes.
    (
        "RouteConfiguration",
        &[
            ("virtual_hosts", "VirtualHost"),
            ("request_headers_to_add", "HeaderValueOption"),
            ("response_headers_to_add", "HeaderValueOption"),
        ],
    ),
    (
        "VirtualHost",
        &[
            ("routes", "Route"),
            ("virtual_clusters", "VirtualCluster"),
            ("rate_limits", "RateLimit"),
            ("cors", "CorsPolicy"),
            ("retry_policy", "RetryPolicy"),
            ("request_headers_to_add", "HeaderValueOption"),
            ("response_headers_to_add", "HeaderValueOption"),
            ("typed_per_filter_config", "AnyMap"),
        ],
    ),
    (
        "Route",
        &[
            ("match", "RouteMatch"),
            ("route", "RouteAction"),
            ("request_headers_to_add", "HeaderValueOption"),
            ("response_headers_to_add", "HeaderValueOption"),
            ("typed_per_filter_config", "AnyMap"),
        ],
    ),
    ("RouteMatch", &[("headers", "HeaderMatcher"), ("query_parameters", "QueryParameterMatcher")]),
    (
        "RouteAction",
        &[
            ("weighted_clusters", "WeightedCluster"),
            ("retry_policy", "RetryPolicy"),
            ("rate_limits", "RateLimit"),
            ("cors", "CorsPolicy"),
            ("request_mirror_policies", "MirrorPolicy"),
        ],
    ),
    ("HeaderMatcher", &[("string_match", "StringMatcher")]),
    ("QueryParameterMatcher", &[("string_match", "StringMatcher")]),
    ("CorsPolicy", &[("allow_origin_string_match", "StringMatcher")]),
    ("CertificateValidation", &[("match_subject_alt_names", "StringMatcher")]),
    ("WeightedCluster", &[("clusters", "ClusterWeight")]),
    (
        "ClusterWeight",
        &[
            ("request_headers_to_add", "HeaderValueOption"),
            ("response_headers_to_add", "HeaderValueOption"),
            ("typed_per_filter_config", "AnyMap"),
        ],
    ),
    (
        "RetryPolicy",
        &[
            ("retry_host_predicate", "RetryHostPredicate"),
            ("retry_priority", "RetryPriority"),
            ("retriable_headers", "HeaderMatcher"),
            ("retriable_request_headers", "HeaderMatcher"),
        ],
    ),
    ("RateLimit", &[("actions", "RateLimitAction")]),
    ("RateLimitAction", &[("header_value_match", "HeaderValueMatch")]),
    ("HeaderValueMatch", &[("headers", "HeaderMatcher")]),
    ("VirtualCluster", &[("headers", "HeaderMatcher")]),
    // Clusters.
    (
        "Cluster",
        &[
            ("health_checks", "HealthCheck"),
            ("eds_cluster_config", "EdsClusterConfig"),
            ("ring_hash_lb_config", "RingHash"),
            ("transport_socket", "ClientSocket"),
            ("transport_socket_matches", "TransportSocketMatch"),
            ("filters", "NetworkFilter"),
            ("typed_extension_protocol_options", "AnyMap"),
        ],
    ),
    ("TransportSocketMatch", &[("transport_socket", "ClientSocket")]),
    ("EdsClusterConfig", &[("eds_config", "ConfigSource")]),
    ("ConfigSource", &[("api_config_source", "ApiConfigSource")]),
    (
        "HealthCheck",
        &[("http_health_check", "HttpHealthCheck"), ("custom_health_check", "CustomHealthCheck")],
    ),
    ("HttpHealthCheck", &[("request_headers_to_add", "HeaderValueOption")]),
    // TLS.
    (
        "DownstreamTlsContext",
        &[("common_tls_context", "CommonTlsContext"), ("session_ticket_keys_sds_secret_config", "SdsSecret")],
    ),
    ("UpstreamTlsContext", &[("common_tls_context", "CommonTlsContext")]),
    (
        "CommonTlsContext",
        &[
            ("validation_context", "CertificateValidation"),
            ("combined_validation_context", "CombinedValidation"),
            ("tls_certificate_sds_secret_configs", "SdsSecret"),
            ("validation_context_sds_secret_config", "SdsSecret"),
        ],
    ),
    (
        "CombinedValidation",
        &[
            ("default_validation_context", "CertificateValidation"),
            ("validation_context_sds_secret_config", "SdsSecret"),
        ],
    ),
    ("SdsSecret", &[("sds_config", "ConfigSource")]),
    ("Secret", &[("validation_context", "CertificateValidation")]),
];

/// Where a message of a full name begins.
const TYPES: &[(&str, Shape)] = &[
    ("envoy.config.bootstrap.v3.Bootstrap", "Bootstrap"),
    ("envoy.service.discovery.v3.DiscoveryResponse", "DiscoveryResponse"),
    ("envoy.config.listener.v3.Listener", "Listener"),
    ("envoy.config.cluster.v3.Cluster", "Cluster"),
    ("envoy.config.route.v3.RouteConfiguration", "RouteConfiguration"),
    ("envoy.config.route.v3.VirtualHost", "VirtualHost"),
    ("envoy.config.trace.v3.ZipkinConfig", "Zipkin"),
    ("envoy.extensions.access_loggers.file.v3.FileAccessLog", "FileAccessLog"),
    ("envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", "GrpcAccessLog"),
    ("envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig", "GrpcAccessLog"),
    ("envoy.extensions.filters.http.buffer.v3.Buffer", "Buffer"),
    ("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", "BufferPerRoute"),
    ("envoy.extensions.filters.http.cors.v3.CorsPolicy", "CorsPolicy"),
    ("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "GrpcCommon"),
    ("envoy.extensions.filters.http.fault.v3.HTTPFault", "Fault"),
    ("envoy.extensions.filters.http.health_check.v3.HealthCheck", "HealthCheckFilter"),
    ("envoy.extensions.filters.http.ratelimit.v3.RateLimit", "RateLimitFilter"),
    ("envoy.extensions.filters.http.router.v3.Router", "Router"),
    ("envoy.extensions.filters.network.ext_authz.v3.ExtAuthz", "GrpcCommon"),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "HttpConnectionManager",
    ),
    ("envoy.extensions.filters.network.ratelimit.v3.RateLimit", "RateLimitFilter"),
    ("envoy.extensions.filters.http.rbac.v3.RBAC", "Rbac"),
    ("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "RbacPerRoute"),
    ("envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy", "MongoProxy"),
    ("envoy.extensions.filters.network.rbac.v3.RBAC", "Rbac"),
    ("envoy.extensions.filters.network.redis_proxy.v3.RedisProxy", "RedisProxy"),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "TcpProxy"),
    ("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "DownstreamTlsContext"),
    ("envoy.extensions.transport_sockets.tls.v3.Secret", "Secret"),
    ("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "UpstreamTlsContext"),
];

/// The message that a field leads to, if there can be an old form in it.
pub(super) fn child(shape: Shape, field: &str) -> Option<Shape> {
    let (_, children) = CHILDREN.iter().find(|(name, _)| *name == shape)?;
    children.iter().find(|(name, _)| *name == field).map(|(_, child)| *child)
}

/// The message of a full name, if there can be an old form in it.
pub(super) fn of_type(full_name: &str) -> Option<Shape> {
    TYPES.iter().find(|(name, _)| *name == full_name).map(|(_, shape)| *shape)
}

/// Every short name, for tests.
#[cfg(test)]
pub(crate) fn all() -> Vec<Shape> {
    let below = CHILDREN.iter().flat_map(|(_, children)| children.iter().map(|(_, child)| *child));
    let mut all: Vec<_> = TYPES.iter().map(|(_, shape)| *shape).chain(below).collect();
    all.sort_unstable();
    all.dedup();
    all
}
