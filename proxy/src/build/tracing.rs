//! Tracing of a connection manager and of routes -> `trace`.

use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::route::v3::{Decorator as DecoratorMessage, Tracing as RouteTracing};
use xds::envoy::config::trace::v3::ZipkinConfig;
use xds::envoy::config::trace::v3::tracing::Http;
use xds::envoy::config::trace::v3::tracing::http::ConfigType;
use xds::envoy::config::trace::v3::zipkin_config::TraceContextOption;
use xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xds::envoy::r#type::tracing::v3::CustomTag;
use xds::envoy::r#type::tracing::v3::custom_tag::Type;
use xds::envoy::r#type::v3::{FractionalPercent, Percent};

use super::Cx;
use super::place::{Code, Extension, Place};
use crate::trace::{Collector, Decorator, Outbox, Sampling, Tag, Tracing};

/// How a connection manager traces; `None` where it does not.
pub(super) fn tracing(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &HttpConnectionManager,
) -> Option<Tracing> {
    let settings = message.tracing.as_ref()?;
    let place = place.field("tracing");
    // Without a tracer Envoy makes no spans, and changes nothing.
    let zipkin = provider(cx, &place.field("provider"), settings.provider.as_ref()?)?;
    let share = |key: &str, percent: Option<&Percent>| {
        let said = cx.runtime.number(&format!("tracing.{key}")).map(|number| (number, 100));
        said.unwrap_or_else(|| (hundredths(percent.map_or(100.0, |percent| percent.value)), 10_000))
    };
    let sampling = Sampling {
        client: share("client_enabled", settings.client_sampling.as_ref()),
        random: share("random_sampling", settings.random_sampling.as_ref()),
        overall: share("global_enabled", settings.overall_sampling.as_ref()),
    };
    Some(Tracing {
        sampling,
        egress: cx.egress,
        max_path: settings.max_path_tag_length.unwrap_or(256) as usize,
        tags: settings.custom_tags.iter().filter_map(tag).collect(),
        node: (&*cx.node.id).into(),
        service: (&*cx.node.cluster).into(),
        wide: zipkin.trace_id_128bit,
        shared: zipkin.shared_span_context.unwrap_or(true),
        w3c: zipkin.trace_context_option() == TraceContextOption::UseB3WithW3cPropagation,
        outbox: Arc::new(Outbox::new(collector(cx, &zipkin))),
    })
}

fn provider(cx: &mut Cx<'_>, place: &Place<'_>, provider: &Http) -> Option<ZipkinConfig> {
    let Some(ConfigType::TypedConfig(any)) = &provider.config_type else {
        let text = format!("the tracer `{}` needs its configuration", provider.name);
        cx.error(place, Code::MissingField, text).suggest("add `typed_config`");
        return None;
    };
    let place_of_config = place.field("typed_config");
    let Ok(zipkin) = xds::decode_any::<ZipkinConfig>(any) else {
        cx.findings
            .no_extension(place, Extension::TRACER, &provider.name, Some(any))
            .suggest("use envoy.tracers.zipkin");
        return None;
    };
    cx.check_cluster(&place_of_config.field("collector_cluster"), &zipkin.collector_cluster, Code::Reference);
    Some(zipkin)
}

fn collector(cx: &Cx<'_>, zipkin: &ZipkinConfig) -> Collector {
    let number = |key: &str, default: u32| cx.runtime.number(key).unwrap_or(default);
    let millis = |key: &str| Duration::from_millis(u64::from(number(key, 5000).max(1)));
    let host = if zipkin.collector_hostname.is_empty() {
        &zipkin.collector_cluster
    } else {
        &zipkin.collector_hostname
    };
    Collector {
        cluster: zipkin.collector_cluster.as_str().into(),
        path: zipkin.collector_endpoint.as_str().into(),
        host: host.as_str().into(),
        batch: number("tracing.zipkin.min_flush_spans", 5).max(1) as usize,
        interval: millis("tracing.zipkin.flush_interval_ms"),
        timeout: millis("tracing.zipkin.request_timeout"),
        stats: cx.registry.scope("tracing.zipkin."),
    }
}

fn tag(message: &CustomTag) -> Option<(Box<str>, Tag)> {
    let tag = match message.r#type.as_ref()? {
        Type::Literal(literal) => Tag::Fixed(literal.value.as_str().into()),
        Type::Environment(variable) => {
            let value = std::env::var(&variable.name).unwrap_or_else(|_| variable.default_value.clone());
            Tag::Fixed(value.into())
        }
        Type::RequestHeader(header) => {
            Tag::Header(header.name.to_ascii_lowercase().into(), header.default_value.as_str().into())
        }
        Type::Metadata(_) | Type::Value(_) => return None,
    };
    Some((message.tag.as_str().into(), tag))
}

/// A percentage in hundredths of one, which the reader has bounded.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 10,000
fn hundredths(percent: f64) -> u32 {
    (percent.clamp(0.0, 100.0) * 100.0) as u32
}

/// The shares of a route.
pub(super) fn of_route(message: &RouteTracing) -> Sampling {
    let share = |fraction: Option<&FractionalPercent>| {
        fraction.map_or((100, 100), |fraction| {
            let denominator = match fraction.denominator {
                1 => 10_000,
                2 => 1_000_000,
                _ => 100,
            };
            (fraction.numerator, denominator)
        })
    };
    Sampling {
        client: share(message.client_sampling.as_ref()),
        random: share(message.random_sampling.as_ref()),
        overall: share(message.overall_sampling.as_ref()),
    }
}

/// The name of spans.
pub(super) fn decorator(message: &DecoratorMessage) -> Decorator {
    Decorator { operation: message.operation.as_str().into(), propagate: message.propagate.unwrap_or(true) }
}
