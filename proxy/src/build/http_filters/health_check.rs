//! The health check filter.

use xds::envoy::extensions::filters::http::health_check::v3::HealthCheck as Message;

use super::super::{Cx, matchers, values};
use super::{Code, Place};
use crate::filter::health_check::{Cache, HealthCheck};
use crate::message::FieldValueBuf;
use crate::time;

/// The filter of the connection manager whose statistics begin with `prefix`.
pub(super) fn health_check(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &Message,
    prefix: &str,
) -> HealthCheck {
    let pass_through = message.pass_through_mode.unwrap_or(false);
    let cache = values::duration(message.cache_time.as_ref()).filter(|time| time.as_millis() > 0);
    if cache.is_some() && !pass_through {
        let text = "without `pass_through_mode` there is no response of an upstream to keep";
        cx.error(&place.field("cache_time"), Code::Structure, text).suggest("remove `cache_time`");
    }
    cx.used.extend(message.cluster_min_healthy_percentages.keys().cloned());
    let clusters = message.cluster_min_healthy_percentages.iter();
    HealthCheck {
        stats: cx.registry.scope(&format!("{prefix}health_check.")),
        pass_through,
        cache: cache.map(|cache| Cache::new(cache, time::now())),
        clusters: clusters.map(|(name, percent)| (name.as_str().into(), whole(percent.value))).collect(),
        headers: matchers::headers(cx, place, &message.headers),
        service_cluster: FieldValueBuf::lossy(&cx.node.cluster),
    }
}

/// Envoy drops the fraction of a percentage; the reader has checked its bounds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 100
fn whole(percent: f64) -> u64 {
    percent as u64
}
