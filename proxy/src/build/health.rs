//! Active health checks and outlier detection -> `cluster::health`, `cluster::outlier`.

use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::cluster::v3::{Cluster as Message, OutlierDetection};
use xds::envoy::config::core::v3::health_check::payload::Payload as Bytes;
use xds::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};
use xds::envoy::config::core::v3::{HealthCheck, RequestMethod};
use xds::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use xds::envoy::r#type::v3::{CodecClientType, Int64Range};

use super::place::{Code, Place};
use super::values::{additions, duration, ip_address, removals};
use super::{Cx, matchers};
use crate::cluster::UpstreamProtocol;
use crate::cluster::health::{GrpcProbe, HttpProbe, Intervals, Probe, Settings, Target, TcpProbe};
use crate::cluster::outlier::{self, Enforcing};
use crate::headers::Changes;
use crate::message::Method;

/// Default for the bytes of a response body that are searched (Envoy's).
const BODY_LIMIT: u64 = 1024;

/// The cluster's outlier detection, if it has one.
pub(super) fn outlier(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Option<Arc<outlier::Policy>> {
    let prefix = super::cluster::prefix(message);
    let message = message.outlier_detection.as_ref()?;
    let stats = cx.registry.scope(&format!("{prefix}outlier_detection."));
    let base = duration(message.base_ejection_time.as_ref()).unwrap_or(Duration::from_secs(30));
    let longest = duration(message.max_ejection_time.as_ref());
    if longest.is_some_and(|longest| longest < base) {
        let text = format!(
            "an ejection lasts {base:?} and at most {longest:?}",
            longest = longest.unwrap_or_default()
        );
        cx.error(&place.field("outlier_detection").field("max_ejection_time"), Code::BadValue, text)
            .suggest("at least `base_ejection_time` (30s by default)");
    }
    let settings = outlier::Settings {
        consecutive_5xx: message.consecutive_5xx.unwrap_or(5),
        consecutive_gateway_failure: message.consecutive_gateway_failure.unwrap_or(5),
        consecutive_local_origin_failure: message.consecutive_local_origin_failure.unwrap_or(5),
        split: message.split_external_local_origin_errors,
        interval: duration(message.interval.as_ref()).unwrap_or(Duration::from_secs(10)),
        base_ejection_time: base,
        max_ejection_time: longest.unwrap_or(Duration::from_secs(300).max(base)),
        max_ejection_time_jitter: duration(message.max_ejection_time_jitter.as_ref()).unwrap_or_default(),
        max_ejection_percent: message.max_ejection_percent.unwrap_or(10),
        always_eject_one_host: message.always_eject_one_host.unwrap_or(false),
        success_rate_minimum_hosts: message.success_rate_minimum_hosts.unwrap_or(5),
        success_rate_request_volume: message.success_rate_request_volume.unwrap_or(100),
        success_rate_stdev_factor: message.success_rate_stdev_factor.unwrap_or(1900),
        failure_percentage_threshold: message.failure_percentage_threshold.unwrap_or(85),
        failure_percentage_minimum_hosts: message.failure_percentage_minimum_hosts.unwrap_or(5),
        failure_percentage_request_volume: message.failure_percentage_request_volume.unwrap_or(50),
        enforcing: enforcing(message),
        health_check_unejects: message.successful_active_health_check_uneject_host.unwrap_or(true),
    };
    Some(Arc::new(outlier::Policy::new(settings, stats)))
}

fn enforcing(message: &OutlierDetection) -> Enforcing {
    Enforcing {
        consecutive_5xx: message.enforcing_consecutive_5xx.unwrap_or(100),
        consecutive_gateway_failure: message.enforcing_consecutive_gateway_failure.unwrap_or(0),
        consecutive_local_origin_failure: message.enforcing_consecutive_local_origin_failure.unwrap_or(100),
        success_rate: message.enforcing_success_rate.unwrap_or(100),
        local_origin_success_rate: message.enforcing_local_origin_success_rate.unwrap_or(100),
        failure_percentage: message.enforcing_failure_percentage.unwrap_or(0),
        local_origin_failure_percentage: message.enforcing_failure_percentage_local_origin.unwrap_or(0),
    }
}

/// The cluster's health checks, if it has any.
pub(super) fn checks(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    cluster: &Message,
    protocol: UpstreamProtocol,
) -> Option<Arc<Settings>> {
    let message = cluster.health_checks.first()?;
    if cluster.health_checks.len() > 1 {
        let text = "several health checks of one cluster are not implemented";
        cx.error(&place.item("health_checks", 1), Code::NotImplemented, text).suggest("keep the strictest");
    }
    let place = place.item("health_checks", 0);
    let probe = match message.health_checker.as_ref()? {
        HealthChecker::HttpHealthCheck(http) => {
            Probe::Http(Arc::new(http_probe(cx, &place.field("http_health_check"), http, &cluster.name)?))
        }
        HealthChecker::TcpHealthCheck(tcp) => {
            Probe::Tcp(Arc::new(tcp_probe(cx, &place.field("tcp_health_check"), tcp)))
        }
        HealthChecker::GrpcHealthCheck(grpc) => {
            let place = place.field("grpc_health_check");
            if protocol != UpstreamProtocol::Http2 {
                let text = "gRPC is HTTP/2, which this cluster does not speak";
                cx.error(&place, Code::Structure, text).suggest("add `http2_protocol_options: {}`");
            }
            Probe::Grpc(Arc::new(grpc_probe(cx, &place, grpc, &cluster.name)))
        }
        HealthChecker::CustomHealthCheck(_) => return None,
    };
    let lb = cluster.common_lb_config.as_ref();
    Some(Arc::new(Settings {
        timeout: duration(message.timeout.as_ref()).unwrap_or(Duration::from_secs(1)),
        intervals: intervals(message),
        unhealthy_threshold: message.unhealthy_threshold.unwrap_or(1),
        healthy_threshold: message.healthy_threshold.unwrap_or(1),
        reuse_connection: message.reuse_connection.unwrap_or(true),
        ignore_new_hosts: lb.is_some_and(|lb| lb.ignore_new_hosts_until_first_hc),
        ignore_health_on_removal: cluster.ignore_health_on_host_removal,
        log_failures: message.always_log_health_check_failures,
        log_successes: message.always_log_health_check_success,
        probe,
    }))
}

fn intervals(message: &HealthCheck) -> Intervals {
    let or = |value: Option<&prost_types::Duration>, default: Duration| duration(value).unwrap_or(default);
    let interval = or(message.interval.as_ref(), Duration::from_secs(1));
    let unhealthy = or(message.unhealthy_interval.as_ref(), interval);
    let no_traffic = or(message.no_traffic_interval.as_ref(), Duration::from_secs(60));
    Intervals {
        interval,
        unhealthy,
        unhealthy_edge: or(message.unhealthy_edge_interval.as_ref(), unhealthy),
        healthy_edge: or(message.healthy_edge_interval.as_ref(), interval),
        no_traffic,
        no_traffic_healthy: or(message.no_traffic_healthy_interval.as_ref(), no_traffic),
        jitter: or(message.interval_jitter.as_ref(), Duration::ZERO),
        jitter_percent: message.interval_jitter_percent,
        initial_jitter: or(message.initial_jitter.as_ref(), Duration::ZERO),
    }
}

fn http_probe(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &HttpHealthCheck,
    cluster: &str,
) -> Option<HttpProbe> {
    let method = method(cx, &place.field("method"), message.method)?;
    let body = match &message.send {
        None => Vec::new(),
        Some(_) if matches!(method, Method::Get | Method::Head | Method::Delete | Method::Trace) => {
            let text = format!("a request with the method {} has no body", method.as_str());
            cx.error(&place.field("send"), Code::Structure, text).suggest("`method: POST`");
            Vec::new()
        }
        Some(payload) => bytes(cx, &place.field("send"), payload),
    };
    let receive = all_bytes(cx, place, &message.receive);
    let limit = message.response_buffer_size.unwrap_or(BODY_LIMIT);
    let expected: usize = receive.iter().map(Vec::len).sum();
    if limit > 0 && expected as u64 > limit {
        let text = format!("{expected} bytes are expected, and only {limit} of the response are searched");
        cx.error(&place.field("receive"), Code::BadValue, text).suggest("a larger `response_buffer_size`");
    }
    let service_name = message.service_name_matcher.as_ref();
    Some(HttpProbe {
        host: if message.host.is_empty() { cluster.into() } else { message.host.as_str().into() },
        path: message.path.as_str().into(),
        method,
        http2: message.codec_client_type == CodecClientType::Http2 as i32,
        headers: Changes {
            add: additions(cx, place, "request_headers_to_add", &message.request_headers_to_add),
            remove: removals(cx, place, "request_headers_to_remove", &message.request_headers_to_remove),
        },
        body,
        expected: match ranges(cx, place, "expected_statuses", &message.expected_statuses) {
            none if none.is_empty() => vec![(200, 201)],
            some => some,
        },
        retriable: ranges(cx, place, "retriable_statuses", &message.retriable_statuses),
        receive,
        body_limit: (limit > 0).then(|| usize::try_from(limit).unwrap_or(usize::MAX)),
        service_name: service_name
            .and_then(|matcher| matchers::string(cx, &place.field("service_name_matcher"), matcher)),
    })
}

fn method(cx: &mut Cx<'_>, place: &Place<'_>, method: i32) -> Option<Method> {
    match RequestMethod::try_from(method).unwrap_or(RequestMethod::Get) {
        RequestMethod::Connect => {
            cx.error(place, Code::BadValue, "a health check cannot CONNECT").suggest("GET");
            None
        }
        RequestMethod::MethodUnspecified => Some(Method::Get),
        other => Method::try_from(other.as_str_name()).ok(),
    }
}

fn ranges(cx: &mut Cx<'_>, place: &Place<'_>, field: &str, messages: &[Int64Range]) -> Vec<(u16, u16)> {
    let mut ranges = Vec::with_capacity(messages.len());
    for (at, Int64Range { start, end }) in messages.iter().enumerate() {
        match (u16::try_from(*start), u16::try_from(*end)) {
            (Ok(start), Ok(end)) if 100 <= start && start < end && end <= 600 => ranges.push((start, end)),
            _ => {
                let text = format!("no status is from {start} to before {end}");
                cx.error(&place.item(field, at), Code::BadValue, text)
                    .suggest("`start` from 100, and an `end` behind it, up to 600");
            }
        }
    }
    ranges
}

fn tcp_probe(cx: &mut Cx<'_>, place: &Place<'_>, message: &TcpHealthCheck) -> TcpProbe {
    let send = message.send.as_ref();
    TcpProbe {
        send: send.map(|payload| bytes(cx, &place.field("send"), payload)).unwrap_or_default(),
        receive: all_bytes(cx, place, &message.receive),
    }
}

fn grpc_probe(cx: &mut Cx<'_>, place: &Place<'_>, message: &GrpcHealthCheck, cluster: &str) -> GrpcProbe {
    GrpcProbe {
        authority: if message.authority.is_empty() { cluster } else { &message.authority }.into(),
        service: message.service_name.clone(),
        headers: Changes {
            add: additions(cx, place, "initial_metadata", &message.initial_metadata),
            remove: Vec::new(),
        },
    }
}

fn all_bytes(cx: &mut Cx<'_>, place: &Place<'_>, payloads: &[Payload]) -> Vec<Vec<u8>> {
    let each = payloads.iter().enumerate();
    each.map(|(at, payload)| bytes(cx, &place.item("receive", at), payload)).collect()
}

fn bytes(cx: &mut Cx<'_>, place: &Place<'_>, payload: &Payload) -> Vec<u8> {
    match &payload.payload {
        Some(Bytes::Text(text)) => hex(text).unwrap_or_else(|| {
            let message = format!("`{text}` is not an even number of hexadecimal digits");
            cx.error(&place.field("text"), Code::BadValue, message).suggest("such as `000000FF`");
            Vec::new()
        }),
        Some(Bytes::Binary(bytes)) => bytes.clone(),
        None => Vec::new(),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// How one endpoint is checked.
pub(super) fn target(cx: &mut Cx<'_>, place: &Place<'_>, message: Option<&HealthCheckConfig>) -> Target {
    let Some(message) = message else { return Target::default() };
    let place_of_address = place.field("address");
    let address = message.address.as_ref().and_then(|address| {
        let found = ip_address(cx, &place_of_address, Some(address));
        found
            .inspect_err(|text| {
                if let Some(text) = text {
                    let message =
                        format!("`{text}` is not an IP address: names are not looked up for checks");
                    cx.error(&place_of_address, Code::BadValue, message);
                }
            })
            .ok()
    });
    Target {
        address,
        port: u16::try_from(message.port_value).ok().filter(|port| *port > 0),
        hostname: message.hostname.clone(),
        disabled: message.disable_active_health_check,
    }
}
