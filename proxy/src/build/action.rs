//! What routes do: forward, redirect, direct response.

use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::core::v3::RoutingPriority;
use xds::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use xds::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use xds::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use xds::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use xds::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier as WeightHost;
use xds::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RouteAction, VirtualHost as HostMessage, WeightedCluster,
};

use super::place::{Code, Place};
use super::routes::TableOptions;
use super::values::{self, duration, level};
use super::{Cx, balancing, http_filters, matchers, retries};
use crate::affinity::Criteria;
use crate::route::{
    Action, ClusterName, Forward, HostRewrite, Mirror, MirrorHost, PathRewrite, Priority, Redirect,
    RedirectPath, StreamLimits, Target, Upgrades, Weighted,
};

/// The default timeout of a route.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// A route to a cluster.
pub(super) fn forward(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &RouteAction,
    of_host: &HostMessage,
    options: &TableOptions,
) -> Option<Forward> {
    let target = target(cx, place, message, options);
    let path = path_rewrite(cx, place, message);
    let retry = match &message.retry_policy {
        Some(policy) => retries::policy(cx, &place.field("retry_policy"), policy),
        None => {
            let policy = of_host.retry_policy.as_ref();
            policy.and_then(|policy| retries::policy(cx, &place.field("retry_policy"), policy))
        }
    };
    let stream = message.max_stream_duration.as_ref();
    let not_found = ClusterNotFoundResponseCode::try_from(message.cluster_not_found_response_code);
    Some(Forward {
        target: target?,
        not_found_status: match not_found {
            Ok(ClusterNotFoundResponseCode::NotFound) => 404,
            Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
            Ok(ClusterNotFoundResponseCode::ServiceUnavailable) | Err(_) => 503,
        },
        path,
        host: host_rewrite(cx, place, message),
        append_x_forwarded_host: message.append_x_forwarded_host,
        // `max_stream_duration` takes its place, even where that sets no limit.
        timeout: match stream {
            Some(_) => None,
            None => values::limit(message.timeout.as_ref(), Some(ROUTE_TIMEOUT)),
        },
        idle_timeout: duration(message.idle_timeout.as_ref()),
        stream: stream.map(|limits| StreamLimits {
            longest: duration(limits.max_stream_duration.as_ref()),
            grpc_longest: duration(limits.grpc_timeout_header_max.as_ref()),
            grpc_offset: duration(limits.grpc_timeout_header_offset.as_ref()).unwrap_or_default(),
        }),
        retry: retry.map(Arc::new),
        body_buffer: crate::route::BodyBuffer::default(),
        upgrades: Upgrades(
            message
                .upgrade_configs
                .iter()
                .map(|config| (config.upgrade_type.as_str().into(), config.enabled.unwrap_or(true)))
                .collect(),
        ),
        priority: match RoutingPriority::try_from(message.priority) {
            Ok(RoutingPriority::High) => Priority::High,
            Ok(RoutingPriority::Default) | Err(_) => Priority::Default,
        },
        hash: balancing::hash_policies(cx, place, &message.hash_policy),
        criteria: message.metadata_match.as_ref().and_then(balancing::metadata).and_then(Criteria::new),
        mirrors: match &*message.request_mirror_policies {
            [] => options.mirrors.clone(),
            own => mirrors(cx, place, own, options.check_clusters),
        },
    })
}

fn target(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &RouteAction,
    options: &TableOptions,
) -> Option<Target> {
    match message.cluster_specifier.as_ref()? {
        ClusterSpecifier::Cluster(name) => {
            known_cluster(cx, &place.field("cluster"), name, options.check_clusters);
            Some(Target::Cluster(name.as_str().into()))
        }
        ClusterSpecifier::ClusterHeader(name) => {
            cx.any_by_header = true;
            Some(Target::Header(name.to_ascii_lowercase().into()))
        }
        ClusterSpecifier::WeightedClusters(choice) => {
            let of_route = message.metadata_match.as_ref().and_then(balancing::metadata);
            let mut entries = weighted(cx, &place.field("weighted_clusters"), choice, options);
            for (entry, message) in entries.iter_mut().zip(&choice.clusters) {
                let own = message.metadata_match.as_ref().and_then(balancing::metadata);
                let mut all = of_route.clone().unwrap_or_default();
                all.extend(own.unwrap_or_default());
                entry.criteria = Criteria::new(all);
            }
            Some(Target::Weighted(entries))
        }
        ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            cx.error(place, Code::NotImplemented, "cluster specifier plugins are not implemented");
            None
        }
    }
}

fn known_cluster(cx: &mut Cx<'_>, place: &Place<'_>, name: &str, check: bool) {
    if check {
        cx.check_cluster(place, name, Code::Reference);
    }
}

/// Where copies of requests go.
pub(super) fn mirrors(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    messages: &[RequestMirrorPolicy],
    check_clusters: bool,
) -> Vec<Mirror> {
    let mut mirrors = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let place = place.item("request_mirror_policies", at);
        let cluster = match (message.cluster.as_str(), message.cluster_header.as_str()) {
            ("", header) if !header.is_empty() => {
                cx.any_by_header = true;
                ClusterName::Header(header.to_ascii_lowercase().into())
            }
            (name, "") if !name.is_empty() => {
                known_cluster(cx, &place.field("cluster"), name, check_clusters);
                ClusterName::Given(name.into())
            }
            _ => {
                let text = "one of `cluster` and `cluster_header` is needed, and only one";
                cx.error(&place, Code::Structure, text);
                continue;
            }
        };
        let host = match message.host_rewrite_literal.as_str() {
            "" if message.disable_shadow_host_suffix_append => MirrorHost::Keep,
            "" => MirrorHost::Shadow,
            host => MirrorHost::Literal(values::authority(cx, &place.field("host_rewrite_literal"), host)),
        };
        let fraction = message.runtime_fraction.as_ref().map(|fraction| matchers::fraction(cx, fraction));
        mirrors.push(Mirror { cluster, fraction, host });
    }
    mirrors
}

fn weighted(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &WeightedCluster,
    options: &TableOptions,
) -> Vec<Weighted> {
    let mut entries = Vec::with_capacity(message.clusters.len());
    for (at, entry) in message.clusters.iter().enumerate() {
        entries.extend(weighted_entry(
            cx,
            &place.item("clusters", at),
            entry,
            &message.runtime_key_prefix,
            options,
        ));
    }
    // The weights of the runtime count, as in Envoy.
    if !entries.is_empty() && entries.iter().all(|entry| entry.weight == 0) {
        cx.error(place, Code::BadValue, "the sum of the weights is 0: no cluster could be chosen");
    }
    entries
}

fn weighted_entry(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    entry: &ClusterWeight,
    runtime_prefix: &str,
    options: &TableOptions,
) -> Option<Weighted> {
    let cluster = match (entry.name.as_str(), entry.cluster_header.as_str()) {
        ("", "") => {
            cx.error(place, Code::MissingField, "one of `name` and `cluster_header` is needed");
            return None;
        }
        ("", header) => {
            cx.any_by_header = true;
            ClusterName::Header(header.to_ascii_lowercase().into())
        }
        (name, "") => {
            known_cluster(cx, &place.field("name"), name, options.check_clusters);
            ClusterName::Given(name.into())
        }
        _ => {
            cx.error(place, Code::Structure, "only one of `name` and `cluster_header` can be given");
            return None;
        }
    };
    let Some(weight) = entry.weight else {
        cx.error(place, Code::MissingField, "a `weight` is needed");
        return None;
    };
    // The runtime may hold another weight, under the prefix and the cluster's name.
    let key = format!("{runtime_prefix}.{}", entry.name);
    let weight = Some(key)
        .filter(|_| !runtime_prefix.is_empty())
        .and_then(|key| cx.runtime.number(&key))
        .unwrap_or(weight);
    let host_rewrite = entry.host_rewrite_specifier.as_ref().map(|WeightHost::HostRewriteLiteral(host)| host);
    Some(Weighted {
        cluster,
        weight,
        mutations: values::mutations(cx, place, &level!(entry)),
        host_rewrite: host_rewrite
            .filter(|host| !host.is_empty())
            .map(|host| values::authority(cx, &place.field("host_rewrite_literal"), host)),
        criteria: None,
        filters: http_filters::overrides(cx, place, &entry.typed_per_filter_config, None),
    })
}

fn path_rewrite(cx: &mut Cx<'_>, place: &Place<'_>, message: &RouteAction) -> PathRewrite {
    match (message.prefix_rewrite.as_str(), &message.regex_rewrite) {
        ("", None) => PathRewrite::Keep,
        ("", Some(rewrite)) => {
            let rewrite = matchers::rewrite(cx, &place.field("regex_rewrite"), rewrite);
            rewrite.map_or(PathRewrite::Keep, PathRewrite::Regex)
        }
        (text, None) => PathRewrite::Prefix(text.into()),
        (_, Some(_)) => {
            let place = place.field("regex_rewrite");
            cx.error(
                &place,
                Code::Structure,
                "only one of `prefix_rewrite` and `regex_rewrite` can be given",
            );
            PathRewrite::Keep
        }
    }
}

fn host_rewrite(cx: &mut Cx<'_>, place: &Place<'_>, message: &RouteAction) -> HostRewrite {
    match &message.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
            HostRewrite::Literal(values::authority(cx, &place.field("host_rewrite_literal"), host))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(true)) => HostRewrite::Endpoint,
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) if !name.is_empty() => {
            HostRewrite::Header(name.to_ascii_lowercase().into())
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(rewrite)) => {
            let rewrite = matchers::rewrite(cx, &place.field("host_rewrite_path_regex"), rewrite);
            rewrite.map_or(HostRewrite::Keep, HostRewrite::Path)
        }
        _ => HostRewrite::Keep,
    }
}

/// A redirect.
pub(super) fn redirect(cx: &mut Cx<'_>, place: &Place<'_>, message: &RedirectAction) -> Option<Redirect> {
    let text = |text: &String| (!text.is_empty()).then(|| Box::<str>::from(text.as_str()));
    let scheme = match &message.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme),
        _ => None,
    };
    let path = match &message.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            text(path).map_or(RedirectPath::Keep, RedirectPath::Path)
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            text(prefix).map_or(RedirectPath::Keep, RedirectPath::Prefix)
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            RedirectPath::Regex(matchers::rewrite(cx, &place.field("regex_rewrite"), rewrite)?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) | None => RedirectPath::Keep,
    };
    Some(Redirect {
        scheme,
        host: text(&message.host_redirect),
        port: u16::try_from(message.port_redirect).ok().filter(|port| *port != 0),
        path,
        status: match RedirectResponseCode::try_from(message.response_code) {
            Ok(RedirectResponseCode::Found) => 302,
            Ok(RedirectResponseCode::SeeOther) => 303,
            Ok(RedirectResponseCode::TemporaryRedirect) => 307,
            Ok(RedirectResponseCode::PermanentRedirect) => 308,
            Ok(RedirectResponseCode::MovedPermanently) | Err(_) => 301,
        },
        strip_query: message.strip_query,
    })
}

/// A direct response.
pub(super) fn direct(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    message: &DirectResponseAction,
    options: &TableOptions,
) -> Action {
    if message.body_format.is_some() {
        let place = place.field("body_format");
        cx.error(&place, Code::NotImplemented, "`body_format` of a direct response is not implemented")
            .suggest("use `body`");
    }
    let place = place.field("body");
    let body = message.body.as_ref().map(|body| values::data(cx, &place, body)).unwrap_or_default();
    if body.len() > options.max_direct_body {
        let text =
            format!("the body has {} bytes, at most {} are allowed", body.len(), options.max_direct_body);
        cx.error(&place, Code::BadValue, text)
            .suggest("raise `max_direct_response_body_size_bytes` of the route table");
    }
    Action::Direct { status: u16::try_from(message.status).unwrap_or(500), body: body.into() }
}
