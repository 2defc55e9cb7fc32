//! Old fields that one rule brings up to date.

use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Origin, Scalar};
use super::shapes::Shape;
use super::{Mode, Pass, add, find_mut, from, is, items, renamed, scalar, touch, truth};

/// What becomes of an old field.
#[derive(Clone, Copy)]
enum Change {
    /// Another name, the same value.
    Rename(&'static str),
    /// Another name, and the value one or more levels deeper.
    Wrap(&'static str, &'static [&'static str]),
    /// Another name, and a list where one value was.
    List(&'static str),
    /// A share of a hundred, as a fraction.
    Percent(&'static str),
    /// A number of milliseconds, as a duration.
    Millis(&'static str),
    /// A list of texts, as matchers of this kind.
    Matchers(&'static str, &'static [&'static str]),
    /// True becomes this field with this value; false says nothing.
    IfTrue(&'static str, &'static str),
    /// Another name for a value.
    Value(&'static [&'static str], &'static str),
    /// Nothing, for this reason.
    Drop(&'static str),
    /// Like `Wrap`, but today's Envoy still reads the old form.
    Deprecated(&'static str, &'static [&'static str]),
}

use Change::{Deprecated, Drop, IfTrue, List, Matchers, Millis, Percent, Rename, Value, Wrap};

/// The old fields of each message.
const FIELDS: &[(Shape, &str, Change)] = &[
    ("Node", "build_version", Drop("Envoy tells its version by itself")),
    (
        "DynamicResources",
        "deprecated_v1",
        Drop("it served files of the v1 API only; a cluster names its source in `eds_cluster_config`"),
    ),
    ("Listener", "bugfix_reverse_write_filter_order", Drop("filters are always in today's order")),
    ("FilterChainMatch", "sni_domains", Rename("server_names")),
    // HTTP on a listener.
    ("HttpConnectionManager", "idle_timeout", Wrap("common_http_protocol_options", &["idle_timeout"])),
    ("HttpConnectionManager", "deprecated_v1", Drop("it marked settings of the v1 API")),
    ("HttpConnectionManager", "bugfix_reverse_encode_order", Drop("filters are always in today's order")),
    ("Router", "deprecated_v1", Drop("it marked settings of the v1 API")),
    ("Tracing", "operation_name", Drop("the direction of a span is the listener's `traffic_direction`")),
    ("ClientCertDetails", "san", Rename("uri")),
    // Routes.
    ("RouteMatch", "regex", Wrap("safe_regex", &["regex"])),
    ("HeaderMatcher", "regex_match", Wrap("string_match", &["safe_regex", "regex"])),
    ("HeaderMatcher", "exact_match", Deprecated("string_match", &["exact"])),
    ("HeaderMatcher", "prefix_match", Deprecated("string_match", &["prefix"])),
    ("HeaderMatcher", "suffix_match", Deprecated("string_match", &["suffix"])),
    ("HeaderMatcher", "contains_match", Deprecated("string_match", &["contains"])),
    ("HeaderMatcher", "safe_regex_match", Deprecated("string_match", &["safe_regex"])),
    ("StringMatcher", "regex", Wrap("safe_regex", &["regex"])),
    ("RouteAction", "request_mirror_policy", List("request_mirror_policies")),
    ("RouteAction", "auto_host_rewrite_header", Rename("host_rewrite_header")),
    ("RouteAction", "use_websocket", IfTrue("upgrade_configs", "websocket")),
    ("RouteAction", "websocket_config", Drop("an upgraded connection has the settings of its route")),
    ("CorsPolicy", "allow_origin", Matchers("allow_origin_string_match", &["exact"])),
    ("CorsPolicy", "allow_origin_regex", Matchers("allow_origin_string_match", &["safe_regex", "regex"])),
    // Clusters.
    ("Cluster", "lb_policy", Value(&["ORIGINAL_DST_LB", "4"], "CLUSTER_PROVIDED")),
    ("Cluster", "drain_connections_on_host_removal", Rename("ignore_health_on_host_removal")),
    ("RingHash", "deprecated_v1", Drop("the hash function of the standard library is gone")),
    ("HttpHealthCheck", "use_http2", IfTrue("codec_client_type", "HTTP2")),
    ("HttpHealthCheck", "service_name", Wrap("service_name_matcher", &["prefix"])),
    // Filters.
    ("FaultAbort", "percent", Percent("percentage")),
    ("FaultDelay", "percent", Percent("percentage")),
    ("FaultDelay", "type", Drop("a delay is always a fixed one")),
    ("RedisProxy", "cluster", Wrap("prefix_routes", &["catch_all_route", "cluster"])),
    ("Authenticated", "name", Wrap("principal_name", &["exact"])),
    ("Authenticated", "user", Wrap("principal_name", &["exact"])),
    ("GrpcCommon", "use_alpha", Drop("there is one version of the service")),
    ("Buffer", "max_request_time", Drop("use `request_timeout` of the connection manager")),
    // The v1 API's names in filters, below `deprecated_v1: true`.
    ("FaultAbort", "abort_percent", Percent("percentage")),
    ("FaultDelay", "fixed_delay_percent", Percent("percentage")),
    ("FaultDelay", "fixed_duration_ms", Millis("fixed_delay")),
    ("Buffer", "max_request_time_s", Drop("use `request_timeout` of the connection manager")),
    ("RateLimitFilter", "timeout_ms", Millis("timeout")),
    ("HealthCheckFilter", "cache_time_ms", Millis("cache_time")),
    // TLS.
    ("CommonTlsContext", "deprecated_v1", Drop("it marked settings of the v1 API")),
    ("CertificateValidation", "verify_subject_alt_name", Matchers("match_subject_alt_names", &["exact"])),
];

/// Applies the rules to the fields of one message.
pub(super) fn upgrade(pass: &mut Pass<'_, '_>, shape: Shape, node: &mut Node, path: &Path<'_>) {
    if !FIELDS.iter().any(|(message, ..)| *message == shape) {
        return;
    }
    let Kind::Map(entries) = &mut node.kind else { return };
    let mut touched = false;
    for entry in std::mem::take(entries) {
        let rule = FIELDS.iter().find(|(message, old, _)| *message == shape && is(&entry, old));
        let Some((_, _, change)) = rule else {
            add_entry(node, entry);
            continue;
        };
        if entry.value.is_null() || matches!(change, Deprecated(..)) && pass.mode == Mode::Read {
            add_entry(node, entry);
            continue;
        }
        touched |= apply(pass, *change, node, entry, path);
    }
    if touched {
        touch(node);
    }
}

/// Whether something has changed.
fn apply(pass: &mut Pass<'_, '_>, change: Change, node: &mut Node, entry: Entry, path: &Path<'_>) -> bool {
    let name = entry.spelling().to_owned();
    let (span, old) = (entry.span, path.key(&name));
    match change {
        Rename(new) => {
            pass.note(&name, new, span, &old);
            let value = entry.value;
            add_entry(node, renamed(&name, span, new, value));
        }
        Wrap(new, inner) | Deprecated(new, inner) => {
            let spelled = dotted(new, inner);
            if matches!(change, Deprecated(..)) {
                pass.deprecated(&name, &spelled, span, &old);
            } else {
                pass.note(&name, &spelled, span, &old);
            }
            let value = entry.value;
            let value = from(value, &old);
            let wrapped = inner.iter().rev().fold(value, |value, name| Node::wrap(name, value));
            merge(node, renamed(&name, span, new, wrapped));
        }
        List(new) => {
            pass.note(&name, new, span, &old);
            let value = entry.value;
            let value = from(value, &old);
            let list = Node::list(value.span, items(value));
            merge(node, renamed(&name, span, new, list));
        }
        Percent(new) => {
            pass.note(&name, new, span, &old);
            let value = entry.value;
            let fraction = percent(from(value, &old));
            add_entry(node, renamed(&name, span, new, fraction));
        }
        Millis(new) => {
            pass.note(&name, new, span, &old);
            let value = duration(from(entry.value, &old), 1000.0);
            add_entry(node, renamed(&name, span, new, value));
        }
        Matchers(new, inner) => {
            pass.note(&name, new, span, &old);
            let value = entry.value;
            let at = value.span;
            let all = items(value).into_iter().enumerate().map(|(index, item)| {
                let item = from(item, &old.index(index));
                inner.iter().rev().fold(item, |value, name| Node::wrap(name, value))
            });
            let list = Node::list(at, all.collect());
            merge(node, renamed(&name, span, new, list));
        }
        IfTrue(new, value) if truth(&entry.value) => {
            pass.note(&name, &format!("{new}: {value}"), span, &old);
            merge(node, renamed(&name, span, new, set(new, value, &entry.value)));
        }
        IfTrue(new, _) => pass.dropped(&name, &format!("`{new}` says so when it is set"), span, &old),
        Value(olds, new) => return value_of(pass, olds, new, node, entry, &old),
        Drop(why) => pass.dropped(&name, why, span, &old),
    }
    true
}

fn value_of(
    pass: &mut Pass<'_, '_>,
    olds: &[&str],
    new: &str,
    node: &mut Node,
    mut entry: Entry,
    path: &Path<'_>,
) -> bool {
    let is_old =
        scalar(&entry.value).is_some_and(|text| olds.iter().any(|old| text.eq_ignore_ascii_case(old)));
    if is_old {
        pass.note(scalar(&entry.value).unwrap_or_default(), new, entry.value.span, path);
        entry.value.kind = Kind::Scalar(Scalar { text: new.to_owned(), quoted: false });
        entry.value.origin = Origin::Made;
    }
    add_entry(node, entry);
    is_old
}

/// The value that stands for a yes.
fn set(field: &str, value: &str, yes: &Node) -> Node {
    let value = Node::plain(yes.span, value);
    if field == "upgrade_configs" {
        return Node::list(value.span, vec![Node::wrap("upgrade_type", value)]);
    }
    value
}

/// A number of seconds, or of so many parts of one, as a duration.
pub(super) fn duration(number: Node, parts: f64) -> Node {
    match scalar(&number).and_then(|text| text.parse::<u32>().ok()) {
        Some(value) => Node {
            written: number.written,
            ..Node::plain(number.span, format!("{}s", f64::from(value) / parts))
        },
        None => number,
    }
}

/// A share of a hundred as a fraction.
pub(super) fn percent(value: Node) -> Node {
    let span = value.span;
    let denominator = Entry::new("denominator", Node::plain(span, "HUNDRED"));
    Node::map(span, vec![Entry::new("numerator", value), denominator])
}

/// Adds a field, into the one of the same name where both are mappings or lists.
pub(super) fn merge(node: &mut Node, entry: Entry) {
    if let Some(there) = find_mut(node, &entry.name) {
        match (&mut there.value.kind, entry.value.kind) {
            (Kind::Map(_), Kind::Map(inner)) => {
                for entry in inner {
                    merge(&mut there.value, entry);
                }
            }
            (Kind::List(items), Kind::List(more)) => {
                items.extend(more);
                touch(&mut there.value);
            }
            (_, kind) => {
                let value = Node { kind, ..entry.value };
                add_entry(node, Entry { value, ..renamed_same(&entry.name, &entry.written, entry.span) });
            }
        }
    } else {
        add_entry(node, entry);
    }
}

fn renamed_same(name: &str, written: &Option<Box<str>>, span: super::Span) -> Entry {
    let value = Node::map(span, Vec::new());
    Entry { name: name.to_owned(), written: written.clone(), span, value, made: false }
}

fn add_entry(node: &mut Node, entry: Entry) {
    if entry.made {
        return add(node, &entry.name, entry.value);
    }
    if let Kind::Map(entries) = &mut node.kind {
        entries.push(entry);
    }
}

fn dotted(new: &str, inner: &[&str]) -> String {
    [&[new], inner].concat().join(".")
}

#[cfg(test)]
mod tests {
    use super::super::shapes;
    use super::FIELDS;

    #[test]
    fn the_walk_comes_to_every_message_that_has_a_rule() {
        let reached = shapes::all();
        for (message, field, _) in FIELDS {
            assert!(reached.contains(message), "{message}.{field}");
        }
    }
}
