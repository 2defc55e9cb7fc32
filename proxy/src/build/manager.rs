//! HTTP connection managers -> `snapshot::HttpManager`.

use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use xds::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions};
use xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    ServerHeaderTransformation, StripPortMode,
};

use super::place::{Code, Place};
use super::values::{self, duration, limit};
use super::{Cx, Flavor, chains, http_filters, logs, routes, tracing};
use crate::headers::{Addresses, EscapedSlashes, PathOptions, RequestId, Rules, ServerHeader, StripPort};
use crate::http1::{EncodeOptions, ServerOptions};
use crate::memory::LEAST_WINDOW;
use crate::message::FieldValueBuf;
use crate::route::{RouteTable, Upgrades};
use crate::snapshot::{Codec, HttpManager, Limits, Timeouts, Underscores};

const HOUR: Duration = Duration::from_secs(3600);

/// A connection manager on the listener whose statistics begin with `listener_prefix`.
pub(super) fn manager(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &HttpConnectionManager,
    listener_prefix: &str,
) -> HttpManager {
    let message = &cx.flavor.complete(message);
    let (chain, suppress_envoy_headers) = http_filters::chain(cx, place, message);
    let routes = route_table(cx, place, message);
    let common = message.common_http_protocol_options.unwrap_or_default();
    HttpManager {
        stats: cx.registry.scope(&format!("http.{}.", message.stat_prefix)),
        http1_stats: cx.registry.scope("http1."),
        http2_stats: cx.registry.scope("http2."),
        listener_stats: cx.registry.scope(&format!("{listener_prefix}http.{}.", message.stat_prefix)),
        codec: match CodecType::try_from(message.codec_type) {
            Ok(CodecType::Http1) => Codec::Http1,
            Ok(CodecType::Http2) => Codec::Http2,
            _ => Codec::Auto,
        },
        routes: Arc::new(routes),
        chain,
        access_log: logs::access_logs(cx, place, &message.access_log),
        local_reply: logs::local_reply(
            cx,
            &place.field("local_reply_config"),
            message.local_reply_config.as_ref(),
        ),
        tracing: tracing::tracing(cx, place, message),
        tracing_stats: cx.registry.scope(&format!("http.{}.tracing.", message.stat_prefix)),
        rules: rules(cx, place, message, suppress_envoy_headers),
        proxy_100_continue: message.proxy_100_continue,
        upgrades: Upgrades(
            message
                .upgrade_configs
                .iter()
                .map(|config| (config.upgrade_type.as_str().into(), config.enabled.unwrap_or(true)))
                .collect(),
        ),
        timeouts: Timeouts {
            idle: limit(common.idle_timeout.as_ref(), Some(HOUR)),
            // 0 is at once.
            max_connection_duration: duration(common.max_connection_duration.as_ref()),
            max_stream_duration: limit(common.max_stream_duration.as_ref(), None),
            stream_idle: limit(message.stream_idle_timeout.as_ref(), Some(Duration::from_secs(300))),
            request: limit(message.request_timeout.as_ref(), None),
            request_headers: limit(message.request_headers_timeout.as_ref(), None),
            drain: duration(message.drain_timeout.as_ref()).unwrap_or(Duration::from_secs(5)),
            delayed_close: limit(message.delayed_close_timeout.as_ref(), Some(Duration::from_secs(1))),
        },
        limits: Limits {
            max_request_headers_bytes: message.max_request_headers_kb.unwrap_or(60) as usize * 1024,
            max_headers: common.max_headers_count.unwrap_or(100) as usize,
            max_requests_per_connection: common.max_requests_per_connection.filter(|count| *count > 0),
        },
        underscores: match HeadersWithUnderscoresAction::try_from(common.headers_with_underscores_action) {
            Ok(HeadersWithUnderscoresAction::RejectRequest) => Underscores::RejectRequest,
            Ok(HeadersWithUnderscoresAction::DropHeader) => Underscores::DropHeader,
            Ok(HeadersWithUnderscoresAction::Allow) | Err(_) => Underscores::Allow,
        },
        http1: ServerOptions {
            refuse_https_target: message.use_remote_address == Some(true)
                && message.xff_num_trusted_hops == 0,
            ..http1(cx, &place.field("http_protocol_options"), message.http_protocol_options.as_ref())
        },
        http2: http2(message.http2_protocol_options.as_ref(), cx.buffer_limit),
    }
}

fn route_table(cx: &mut Cx<'_>, place: &Place<'_>, message: &HttpConnectionManager) -> RouteTable {
    match &message.route_specifier {
        Some(RouteSpecifier::RouteConfig(table)) => routes::table(cx, &place.field("route_config"), table),
        Some(RouteSpecifier::Rds(_) | RouteSpecifier::ScopedRoutes(_)) => {
            cx.error(place, Code::NotImplemented, "routes from a control plane are not implemented yet")
                .suggest("write them as `route_config`");
            RouteTable::default()
        }
        None => RouteTable::default(),
    }
}

fn rules(cx: &mut Cx<'_>, place: &Place<'_>, message: &HttpConnectionManager, suppress: bool) -> Rules {
    let name = if message.server_name.is_empty() { "envoy" } else { &message.server_name };
    let name = values::header_value(cx, &place.field("server_name"), name);
    let any_port = matches!(message.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)));
    Rules {
        addresses: Addresses {
            use_remote: message.use_remote_address.unwrap_or(false),
            trusted_hops: message.xff_num_trusted_hops,
            skip_append: message.skip_xff_append,
            append_forwarded_port: message.append_x_forwarded_port,
            mapped: message.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            // With trusted proxies before the edge, their word counts.
            trust_nothing: cx.flavor == Flavor::Edge
                && message.use_remote_address == Some(true)
                && message.xff_num_trusted_hops == 0
                && !message.skip_xff_append,
            // The other settings pass it on over mutual TLS only.
            keep_client_cert: message.forward_client_cert_details
                == ForwardClientCertDetails::AlwaysForwardOnly as i32,
            internal: message.internal_address_config.as_ref().map_or_else(Vec::new, |config| {
                chains::ranges(
                    cx,
                    &place.field("internal_address_config"),
                    "cidr_ranges",
                    &config.cidr_ranges,
                )
            }),
        },
        request_id: RequestId {
            generate: message.generate_request_id.unwrap_or(true),
            preserve_external: message.preserve_external_request_id,
            always_in_response: message.always_set_request_id_in_response,
        },
        path: PathOptions {
            normalize: message.normalize_path.unwrap_or(false),
            merge_slashes: message.merge_slashes,
            escaped_slashes: match PathWithEscapedSlashesAction::try_from(
                message.path_with_escaped_slashes_action,
            ) {
                Ok(PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
                Ok(PathWithEscapedSlashesAction::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
                Ok(PathWithEscapedSlashesAction::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
                _ => EscapedSlashes::Keep,
            },
        },
        server: match ServerHeaderTransformation::try_from(message.server_header_transformation) {
            Ok(ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent(name),
            Ok(ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
            Ok(ServerHeaderTransformation::Overwrite) | Err(_) => ServerHeader::Overwrite(name),
        },
        via: values::header_value(cx, &place.field("via"), &message.via),
        add_user_agent: message.add_user_agent.unwrap_or(false),
        suppress_envoy_headers: suppress,
        strip_port: match (any_port, message.strip_matching_host_port) {
            (true, _) => StripPort::Any,
            (false, true) => StripPort::Matching,
            (false, false) => StripPort::Keep,
        },
        strip_dot: message.strip_trailing_host_dot,
        internal_only: match &message.route_specifier {
            Some(RouteSpecifier::RouteConfig(table)) => {
                table.internal_only_headers.iter().map(|name| name.to_ascii_lowercase().into()).collect()
            }
            _ => Vec::new(),
        },
        service_cluster: FieldValueBuf::lossy(&cx.node.cluster),
        service_node: FieldValueBuf::lossy(&cx.node.id),
    }
}

/// How HTTP/1 heads are written, for both sides.
pub(super) fn encode(message: Option<&Http1ProtocolOptions>) -> EncodeOptions {
    EncodeOptions {
        proper_case: message.is_some_and(|options| options.header_key_format.is_some()),
        enable_trailers: message.is_some_and(|options| options.enable_trailers),
    }
}

fn http1(cx: &mut Cx<'_>, place: &Place<'_>, message: Option<&Http1ProtocolOptions>) -> ServerOptions {
    ServerOptions {
        encode: encode(message),
        accept_http10: message.is_some_and(|options| options.accept_http_10),
        default_host: values::authority(
            cx,
            &place.field("default_host_for_http_10"),
            message.map(|options| options.default_host_for_http_10.as_str()).unwrap_or_default(),
        ),
        refuse_https_target: false,
        // A head is still read at once.
        read_limit: cx.buffer_limit.map_or(0, |limit| limit.max(4 * 1024)),
        allow_absolute_url: message.and_then(|options| options.allow_absolute_url).unwrap_or(true),
    }
}

/// HTTP/2 options, for both sides. The peer may send as much on a stream as the other side has not yet
/// taken, so the limit of the buffer is one of the stream's window.
pub(super) fn http2(
    message: Option<&Http2ProtocolOptions>,
    buffer_limit: Option<usize>,
) -> crate::http2::Options {
    let message = message.cloned().unwrap_or_default();
    let limit = buffer_limit.map_or(usize::MAX, |limit| limit.max(LEAST_WINDOW as usize));
    let defaults = crate::http2::Options::default();
    let window = message.initial_stream_window_size.unwrap_or(defaults.initial_stream_window);
    let of_connection = message.initial_connection_window_size;
    crate::http2::Options {
        max_concurrent_streams: message.max_concurrent_streams.unwrap_or(defaults.max_concurrent_streams),
        initial_stream_window: window.min(u32::try_from(limit).unwrap_or(u32::MAX)),
        initial_connection_window: of_connection.unwrap_or(defaults.initial_connection_window),
        connection_window_grows: of_connection.is_none(),
        send_buffer: defaults.send_buffer.min(limit),
        ..defaults
    }
}
