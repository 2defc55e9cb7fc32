//! Names of extensions and of their types, old and new.
//!
//! The table also holds extensions that petmesh does not implement, so that a file comes through
//! whole.

use super::shapes::Shape;

/// Kind of extension, today's name, the type of its settings after `envoy.`, names of 2018.
pub(super) type Extension = (Shape, &'static str, &'static str, &'static [&'static str]);

const EXTENSIONS: &[Extension] = &[
    (
        "NetworkFilter",
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &["envoy.http_connection_manager"],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &["envoy.tcp_proxy"],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.ratelimit",
        "extensions.filters.network.ratelimit.v3.RateLimit",
        &["envoy.ratelimit"],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.ext_authz",
        "extensions.filters.network.ext_authz.v3.ExtAuthz",
        &["envoy.ext_authz"],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.echo",
        "extensions.filters.network.echo.v3.Echo",
        &["envoy.echo"],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.mongo_proxy",
        "extensions.filters.network.mongo_proxy.v3.MongoProxy",
        &["envoy.mongo_proxy"],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.redis_proxy",
        "extensions.filters.network.redis_proxy.v3.RedisProxy",
        &["envoy.redis_proxy"],
    ),
    ("NetworkFilter", "envoy.filters.network.rbac", "extensions.filters.network.rbac.v3.RBAC", &[]),
    (
        "NetworkFilter",
        "envoy.filters.network.sni_cluster",
        "extensions.filters.network.sni_cluster.v3.SniCluster",
        &[],
    ),
    (
        "NetworkFilter",
        "envoy.filters.network.thrift_proxy",
        "extensions.filters.network.thrift_proxy.v3.ThriftProxy",
        &[],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.router",
        "extensions.filters.http.router.v3.Router",
        &["envoy.router"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.buffer",
        "extensions.filters.http.buffer.v3.Buffer",
        &["envoy.buffer"],
    ),
    ("HttpFilter", "envoy.filters.http.cors", "extensions.filters.http.cors.v3.Cors", &["envoy.cors"]),
    (
        "HttpFilter",
        "envoy.filters.http.fault",
        "extensions.filters.http.fault.v3.HTTPFault",
        &["envoy.fault"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.health_check",
        "extensions.filters.http.health_check.v3.HealthCheck",
        &["envoy.health_check"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.ratelimit",
        "extensions.filters.http.ratelimit.v3.RateLimit",
        &["envoy.rate_limit"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.ext_authz",
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        &["envoy.ext_authz"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.grpc_http1_bridge",
        "extensions.filters.http.grpc_http1_bridge.v3.Config",
        &["envoy.grpc_http1_bridge"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.grpc_json_transcoder",
        "extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        &["envoy.grpc_json_transcoder"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.grpc_web",
        "extensions.filters.http.grpc_web.v3.GrpcWeb",
        &["envoy.grpc_web"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.header_to_metadata",
        "extensions.filters.http.header_to_metadata.v3.Config",
        &["envoy.header_to_metadata"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.ip_tagging",
        "extensions.filters.http.ip_tagging.v3.IPTagging",
        &["envoy.ip_tagging"],
    ),
    (
        "HttpFilter",
        "envoy.filters.http.jwt_authn",
        "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        &[],
    ),
    ("HttpFilter", "envoy.filters.http.lua", "extensions.filters.http.lua.v3.Lua", &["envoy.lua"]),
    ("HttpFilter", "envoy.filters.http.rbac", "extensions.filters.http.rbac.v3.RBAC", &[]),
    (
        "ListenerFilter",
        "envoy.filters.listener.original_dst",
        "extensions.filters.listener.original_dst.v3.OriginalDst",
        &["envoy.listener.original_dst"],
    ),
    (
        "ListenerFilter",
        "envoy.filters.listener.proxy_protocol",
        "extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        &["envoy.listener.proxy_protocol"],
    ),
    (
        "ListenerFilter",
        "envoy.filters.listener.tls_inspector",
        "extensions.filters.listener.tls_inspector.v3.TlsInspector",
        &["envoy.listener.tls_inspector"],
    ),
    (
        "AccessLog",
        "envoy.access_loggers.file",
        "extensions.access_loggers.file.v3.FileAccessLog",
        &["envoy.file_access_log"],
    ),
    ("AccessLog", "envoy.access_loggers.stdout", "extensions.access_loggers.stream.v3.StdoutAccessLog", &[]),
    ("AccessLog", "envoy.access_loggers.stderr", "extensions.access_loggers.stream.v3.StderrAccessLog", &[]),
    (
        "AccessLog",
        "envoy.access_loggers.http_grpc",
        "extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        &["envoy.http_grpc_access_log"],
    ),
    (
        "AccessLog",
        "envoy.access_loggers.tcp_grpc",
        "extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
        &["envoy.tcp_grpc_access_log"],
    ),
    ("Tracer", "envoy.tracers.zipkin", "config.trace.v3.ZipkinConfig", &["envoy.zipkin"]),
    ("Tracer", "envoy.tracers.datadog", "config.trace.v3.DatadogConfig", &[]),
    ("StatsSink", "envoy.stat_sinks.statsd", "config.metrics.v3.StatsdSink", &["envoy.statsd"]),
    ("StatsSink", "envoy.stat_sinks.dog_statsd", "config.metrics.v3.DogStatsdSink", &["envoy.dog_statsd"]),
    (
        "StatsSink",
        "envoy.stat_sinks.metrics_service",
        "config.metrics.v3.MetricsServiceConfig",
        &["envoy.metrics_service"],
    ),
    ("StatsSink", "envoy.stat_sinks.hystrix", "config.metrics.v3.HystrixSink", &[]),
    (
        "ServerSocket",
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &["tls"],
    ),
    (
        "ClientSocket",
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &["tls"],
    ),
    (
        "ServerSocket",
        "envoy.transport_sockets.raw_buffer",
        "extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        &["raw_buffer"],
    ),
    (
        "ClientSocket",
        "envoy.transport_sockets.raw_buffer",
        "extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        &["raw_buffer"],
    ),
    (
        "RetryHostPredicate",
        "envoy.retry_host_predicates.omit_canary_hosts",
        "extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate",
        &[],
    ),
    (
        "RetryHostPredicate",
        "envoy.retry_host_predicates.previous_hosts",
        "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        &[],
    ),
    (
        "RetryPriority",
        "envoy.retry_priorities.previous_priorities",
        "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        &[],
    ),
    ("CustomHealthCheck", "envoy.health_checkers.redis", "extensions.health_checkers.redis.v3.Redis", &[]),
    (
        "ResourceMonitor",
        "envoy.resource_monitors.fixed_heap",
        "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        &[],
    ),
    (
        "ResourceMonitor",
        "envoy.resource_monitors.injected_resource",
        "extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
        &[],
    ),
    // Settings of filters for single routes, by the filter's name.
    (
        "PerRoute",
        "envoy.filters.http.buffer",
        "extensions.filters.http.buffer.v3.BufferPerRoute",
        &["envoy.buffer"],
    ),
    ("PerRoute", "envoy.filters.http.cors", "extensions.filters.http.cors.v3.CorsPolicy", &["envoy.cors"]),
    ("PerRoute", "envoy.filters.http.fault", "extensions.filters.http.fault.v3.HTTPFault", &["envoy.fault"]),
    (
        "PerRoute",
        "envoy.filters.http.ext_authz",
        "extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        &["envoy.ext_authz"],
    ),
    ("PerRoute", "envoy.filters.http.rbac", "extensions.filters.http.rbac.v3.RBACPerRoute", &[]),
    // Settings of protocols for single clusters, by the filter's name.
    (
        "PerCluster",
        "envoy.filters.network.thrift_proxy",
        "extensions.filters.network.thrift_proxy.v3.ThriftProtocolOptions",
        &[],
    ),
];

/// Parts of names in the v2 API that v3 calls otherwise; the first that fits.
const V2: &[(&str, &str)] = &[
    ("envoy.config.filter.http.rate_limit.v2.", "envoy.extensions.filters.http.ratelimit.v3."),
    ("envoy.config.filter.network.rate_limit.v2.", "envoy.extensions.filters.network.ratelimit.v3."),
    ("envoy.config.filter.http.transcoder.v2.", "envoy.extensions.filters.http.grpc_json_transcoder.v3."),
    ("envoy.config.accesslog.v2.FileAccessLog", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    ("envoy.config.accesslog.v2.", "envoy.extensions.access_loggers.grpc.v3."),
    ("envoy.config.filter.accesslog.v2.", "envoy.config.accesslog.v3."),
    ("envoy.config.health_checker.redis.v2.", "envoy.extensions.health_checkers.redis.v3."),
    (
        "envoy.config.resource_monitor.fixed_heap.v2alpha.",
        "envoy.extensions.resource_monitors.fixed_heap.v3.",
    ),
    ("envoy.api.v2.auth.", "envoy.extensions.transport_sockets.tls.v3."),
    ("envoy.api.v2.core.", "envoy.config.core.v3."),
    ("envoy.api.v2.route.", "envoy.config.route.v3."),
    ("envoy.api.v2.endpoint.", "envoy.config.endpoint.v3."),
    ("envoy.api.v2.listener.", "envoy.config.listener.v3."),
    ("envoy.api.v2.ClusterLoadAssignment", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("envoy.api.v2.Cluster", "envoy.config.cluster.v3.Cluster"),
    ("envoy.api.v2.Listener", "envoy.config.listener.v3.Listener"),
    ("envoy.api.v2.RouteConfiguration", "envoy.config.route.v3.RouteConfiguration"),
];

/// Today's name of a type of the v2 API.
pub(super) fn todays_type(full_name: &str) -> Option<String> {
    if let Some((old, new)) = V2.iter().find(|(old, _)| full_name.starts_with(old)) {
        return Some(format!("{new}{}", &full_name[old.len()..]));
    }
    let versions = [".v2.", ".v2alpha.", ".v2alpha1."];
    let version = versions.into_iter().find(|version| full_name.contains(version))?;
    for (old, new) in [
        ("envoy.config.filter", "envoy.extensions.filters"),
        ("envoy.config.trace", "envoy.config.trace"),
        ("envoy.config.metrics", "envoy.config.metrics"),
        ("envoy.config.bootstrap", "envoy.config.bootstrap"),
        ("envoy.config.retry", "envoy.extensions.retry"),
    ] {
        if let Some(rest) = full_name.strip_prefix(old) {
            return Some(format!("{new}{}", rest.replacen(version, ".v3.", 1)));
        }
    }
    None
}

/// Today's name of an extension and the type of its settings.
pub(super) fn extension(shape: Shape, name: &str) -> Option<(&'static str, String)> {
    row(shape, name).map(|(_, today, full_name, _)| (*today, format!("envoy.{full_name}")))
}

/// The row of an extension by its name, old or new.
pub(super) fn row(shape: Shape, name: &str) -> Option<&'static Extension> {
    EXTENSIONS
        .iter()
        .find(|(kind, today, _, olds)| *kind == shape && (*today == name || olds.contains(&name)))
}
