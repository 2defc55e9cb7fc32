//! Rules on route tables: routes that nothing reaches, timeouts that never run out, retries that may do harm.

mod shadow;

use std::time::Duration;

use super::{Lint, duration, limit};
use crate::diagnostic::Code;
use crate::envoy::config::core::v3::HeaderValueOption;
use crate::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::envoy::config::route::v3::route_action::ClusterSpecifier;
use crate::envoy::config::route::v3::route_match::PathSpecifier;
use crate::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, header_matcher, route,
};
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use crate::read::nearest;
use shadow::Shadow;

const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Conditions under which the upstream has not seen the request, or says itself that it may be sent again.
const SAFE_CONDITIONS: [&str; 5] =
    ["connect-failure", "refused-stream", "reset-before-request", "envoy-ratelimited", "retriable-headers"];
/// All other conditions of `retry_on`.
const OTHER_CONDITIONS: [&str; 11] = [
    "5xx",
    "gateway-error",
    "reset",
    "retriable-4xx",
    "retriable-status-codes",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// Methods that may be carried out twice.
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

/// The rules on one table and all that it holds.
pub(super) fn table(
    lint: &mut Lint<'_>,
    path: &str,
    table: &RouteConfiguration,
    manager: &HttpConnectionManager,
) {
    headers(lint, path, "request_headers_to_add", &table.request_headers_to_add);
    headers(lint, path, "response_headers_to_add", &table.response_headers_to_add);
    for (at, host) in table.virtual_hosts.iter().enumerate() {
        virtual_host(lint, &format!("{path}.virtual_hosts[{at}]"), host, manager);
    }
}

fn virtual_host(lint: &mut Lint<'_>, path: &str, host: &VirtualHost, manager: &HttpConnectionManager) {
    headers(lint, path, "request_headers_to_add", &host.request_headers_to_add);
    headers(lint, path, "response_headers_to_add", &host.response_headers_to_add);
    for (at, domain) in host.domains.iter().enumerate() {
        let inner = domain.strip_prefix('*').or_else(|| domain.strip_suffix('*')).unwrap_or(domain);
        if inner.contains('*') {
            let text = format!("`{domain}`: a star is a wildcard only once, at the beginning or the end");
            lint.add(
                &format!("{path}.domains[{at}]"),
                Code::UnmatchedDomain,
                text,
                "write one domain for each",
            );
        }
    }
    let mut shadow = Shadow::default();
    for (at, route) in host.routes.iter().enumerate() {
        let path = format!("{path}.routes[{at}]");
        let Some(conditions) = &route.r#match else { continue };
        if let Some(before) = shadow.covers(conditions, at) {
            let text = format!("no request reaches this route: `routes[{before}]` takes them all");
            lint.add(&path, Code::UnreachableRoute, text, "put the route that takes more after this one");
        }
        self::route(lint, &path, route, conditions, host, manager);
    }
}

fn route(
    lint: &mut Lint<'_>,
    path: &str,
    route: &Route,
    conditions: &RouteMatch,
    host: &VirtualHost,
    manager: &HttpConnectionManager,
) {
    headers(lint, path, "request_headers_to_add", &route.request_headers_to_add);
    headers(lint, path, "response_headers_to_add", &route.response_headers_to_add);
    if let Some(PathSpecifier::Path(text)) = &conditions.path_specifier
        && text.contains('?')
    {
        let message = format!("`{text}` never matches: paths are compared without their query");
        lint.add(&format!("{path}.match.path"), Code::PathWithQuery, message, "use `query_parameters`");
    }
    let Some(route::Action::Route(action)) = &route.action else { return };
    let action_path = format!("{path}.route");
    weights(lint, &action_path, action);
    timeouts(lint, &action_path, action, host, manager);
    let (policy, policy_path) = match (&action.retry_policy, &host.retry_policy) {
        (Some(policy), _) => (policy, format!("{action_path}.retry_policy")),
        (None, Some(policy)) => (policy, action_path),
        (None, None) => return,
    };
    retries(lint, &policy_path, policy, conditions);
}

/// Envoy refuses weights whose sum does not fit 32 bits.
fn weights(lint: &mut Lint<'_>, path: &str, action: &RouteAction) {
    let Some(ClusterSpecifier::WeightedClusters(choice)) = &action.cluster_specifier else { return };
    let sum: u64 = choice.clusters.iter().map(|cluster| u64::from(cluster.weight.unwrap_or_default())).sum();
    if sum > u64::from(u32::MAX) {
        let text = format!("the sum of the weights is {sum}, at most {} is allowed", u32::MAX);
        lint.add(&format!("{path}.weighted_clusters"), Code::BadValue, text, "use smaller weights");
    }
    for (at, cluster) in choice.clusters.iter().enumerate() {
        let path = format!("{path}.weighted_clusters.clusters[{at}]");
        headers(lint, &path, "request_headers_to_add", &cluster.request_headers_to_add);
        headers(lint, &path, "response_headers_to_add", &cluster.response_headers_to_add);
    }
}

/// The older `append` and today's `append_action` exclude each other.
fn headers(lint: &mut Lint<'_>, path: &str, field: &str, options: &[HeaderValueOption]) {
    for (at, option) in options.iter().enumerate() {
        let default = HeaderAppendAction::AppendIfExistsOrAdd as i32;
        if option.append.is_some() && option.append_action != default {
            let text = "`append` and `append_action` exclude each other";
            lint.add(
                &format!("{path}.{field}[{at}].append"),
                Code::OneOf,
                text,
                "remove `append`, the older form",
            );
        }
    }
}

fn timeouts(
    lint: &mut Lint<'_>,
    path: &str,
    action: &RouteAction,
    host: &VirtualHost,
    manager: &HttpConnectionManager,
) {
    let timeout = limit(action.timeout.as_ref(), Some(ROUTE_TIMEOUT));
    let policy = action.retry_policy.as_ref().or(host.retry_policy.as_ref());
    let try_timeout = policy.and_then(|policy| limit(policy.per_try_timeout.as_ref(), None));
    if let (Some(inner), Some(outer)) = (try_timeout, timeout)
        && inner > outer
    {
        let path = format!("{path}.retry_policy.per_try_timeout");
        above(lint, &path, inner, outer, "the route's `timeout`");
    }
    // A default is nobody's mistake.
    if action.timeout.is_none() {
        return;
    }
    let Some(timeout) = timeout else { return };
    let path = format!("{path}.timeout");
    let of_route = action.max_stream_duration.as_ref().and_then(|d| duration(d.max_stream_duration.as_ref()));
    let common = manager.common_http_protocol_options.as_ref();
    let of_manager = common.and_then(|options| duration(options.max_stream_duration.as_ref()));
    if let Some(outer) = of_route.or(of_manager).filter(|outer| !outer.is_zero() && *outer < timeout) {
        return above(lint, &path, timeout, outer, "`max_stream_duration`");
    }
    let idle = limit(manager.stream_idle_timeout.as_ref(), Some(STREAM_IDLE_TIMEOUT));
    if let Some(outer) = limit(action.idle_timeout.as_ref(), idle).filter(|outer| *outer < timeout) {
        above(lint, &path, timeout, outer, "the stream's idle timeout");
    }
}

fn above(lint: &mut Lint<'_>, path: &str, inner: Duration, outer: Duration, name: &str) {
    let (inner, outer) = (inner.as_secs_f64(), outer.as_secs_f64());
    let text = format!("{inner}s never run out: {name} ends the request after {outer}s");
    lint.add(path, Code::TimeoutAboveParent, text, format!("lower it to at most {outer}s, or raise {name}"));
}

/// Retries of requests that may have been carried out, on a route that takes methods for which that matters.
fn retries(lint: &mut Lint<'_>, path: &str, policy: &RetryPolicy, conditions: &RouteMatch) {
    let known =
        |condition: &&str| SAFE_CONDITIONS.contains(condition) || OTHER_CONDITIONS.contains(condition);
    for unknown in named(policy).filter(|condition| !known(condition)) {
        let near = nearest(unknown, SAFE_CONDITIONS.into_iter().chain(OTHER_CONDITIONS));
        let remedy = near.map_or_else(|| "remove it".to_owned(), |near| format!("did you mean `{near}`?"));
        let text = format!("there is no retry condition `{unknown}`: it never applies");
        lint.add(&format!("{path}.retry_on"), Code::UnknownRetryCondition, text, remedy);
    }
    if policy.num_retries == Some(0) || only_idempotent(conditions) {
        return;
    }
    let harmful: Vec<_> = named(policy).filter(|condition| OTHER_CONDITIONS.contains(condition)).collect();
    if !harmful.is_empty() {
        let text =
            format!("`{}` may carry out a POST twice, and this route takes any method", harmful.join(","));
        let remedy = "match `:method` with GET, or retry on connect-failure and refused-stream only";
        lint.add(&format!("{path}.retry_on"), Code::RetryNonIdempotent, text, remedy);
    }
}

fn named(policy: &RetryPolicy) -> impl Iterator<Item = &str> {
    policy.retry_on.split(',').map(str::trim).filter(|condition| !condition.is_empty())
}

fn only_idempotent(conditions: &RouteMatch) -> bool {
    use header_matcher::HeaderMatchSpecifier as Specifier;
    let idempotent = |method: &str| IDEMPOTENT.contains(&method);
    let each = |regex: &str| regex.trim_matches(['^', '$', '(', ')']).split('|').all(idempotent);
    let mut methods =
        conditions.headers.iter().filter(|header| header.name == ":method" && !header.invert_match);
    methods.any(|header| match &header.header_match_specifier {
        Some(Specifier::ExactMatch(method)) => idempotent(method),
        Some(Specifier::SafeRegexMatch(regex)) => each(&regex.regex),
        Some(Specifier::StringMatch(matcher)) => match &matcher.match_pattern {
            Some(MatchPattern::Exact(method)) => idempotent(method),
            Some(MatchPattern::SafeRegex(regex)) => each(&regex.regex),
            _ => false,
        },
        _ => false,
    })
}
