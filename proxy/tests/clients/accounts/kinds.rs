//! The kinds of requests whose statistics and log lines are compared.

use serde_json::{Value, json};

use super::super::proxy::{merged, route, typed};

/// What a host does with a request, once it has its headers.
#[derive(Clone, Copy, Debug)]
pub enum Host {
    /// It sends this and keeps the connection.
    Keeps(&'static str),
    Closes(&'static str),
    Aborts(&'static str),
    /// Nothing listens there.
    Refuses,
    /// The cluster has no endpoint.
    Missing,
}

/// How a client ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Behind the response, or with its end.
    Reads,
    /// Once its request is with the host.
    Leaves,
    /// Once it has the headers of the response.
    LeavesBody,
    /// Once it has sent what it sends.
    Turns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Whole,
    /// The rest never comes.
    Part,
}

pub enum Message {
    /// In both versions.
    Fields(&'static str, &'static str, &'static [(&'static str, &'static str)], Body),
    /// Over HTTP/1 alone.
    Raw(Vec<u8>),
}

pub struct Kind {
    pub name: String,
    pub message: Message,
    pub host: Host,
    pub ending: Ending,
    pub manager: Value,
    /// What the one route does, if not to send requests to the cluster.
    pub route: Value,
    pub cluster: Value,
}

pub const OK: Host = Host::Keeps("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

/// To HEAD.
pub const EMPTY: Host = Host::Keeps("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");

impl Kind {
    fn new(name: impl Into<String>, message: Message, host: Host) -> Self {
        let name = name.into();
        let (manager, route, cluster) = (json!({}), json!({}), json!({}));
        Self { name, message, host, ending: Ending::Reads, manager, route, cluster }
    }

    fn get(name: &str, host: Host) -> Self {
        Self::new(name, Message::Fields("GET", "/", &[], Body::None), host)
    }

    fn post(name: &str, body: Body, host: Host) -> Self {
        Self::new(name, Message::Fields("POST", "/", &[], body), host)
    }

    /// The request has its end.
    pub fn is_whole(&self) -> bool {
        !matches!(self.message, Message::Raw(_) | Message::Fields(.., Body::Part))
    }

    fn ending(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    fn manager(self, manager: Value) -> Self {
        Self { manager, ..self }
    }

    fn route(self, route: Value) -> Self {
        Self { route, ..self }
    }

    fn cluster(self, cluster: Value) -> Self {
        Self { cluster, ..self }
    }
}

fn fields_of(name: &str, method: &'static str, more: &'static [(&'static str, &'static str)]) -> Kind {
    let host =
        if method == "HEAD" { Host::Keeps("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n") } else { OK };
    Kind::new(name, Message::Fields(method, "/", more, Body::None), host)
}

/// Requests that a host responds to.
fn with_response() -> Vec<Kind> {
    let early = Host::Keeps("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n");
    let hints =
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let two_hints = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    vec![
        Kind::get("ok", OK),
        fields_of("head", "HEAD", &[]),
        fields_of("grpc", "POST", &[("content-type", "application/grpc")]),
        fields_of("client closes", "GET", &[("connection", "close")]),
        fields_of("upgrade", "GET", &[("connection", "upgrade"), ("upgrade", "websocket")]),
        Kind::get("no content", Host::Keeps("HTTP/1.1 204 No Content\r\n\r\n")),
        Kind::get("not modified", Host::Keeps("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n")),
        Kind::get("missing", Host::Keeps("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")),
        Kind::get("failed", Host::Keeps("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")),
        Kind::get("hints", Host::Keeps(hints)),
        Kind::get("two hints", Host::Keeps(two_hints)),
        Kind::get("two hints passed on", Host::Keeps(two_hints))
            .manager(json!({ "proxy_100_continue": true })),
        Kind::get("continue", Host::Keeps("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")),
        Kind::get("hints passed on", Host::Keeps(hints)).manager(json!({ "proxy_100_continue": true })),
        Kind::get(
            "host closes",
            Host::Keeps("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
        ),
        Kind::get("host of HTTP/1.0", Host::Keeps("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")),
        Kind::get("until close", Host::Closes("HTTP/1.1 200 OK\r\n\r\nok")),
        Kind::get(
            "chunked",
            Host::Keeps("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ),
        Kind::post("body", Body::Whole, OK),
        Kind::new("expect", Message::Fields("POST", "/", &[("expect", "100-continue")], Body::Whole), OK),
        Kind::post("early", Body::Part, early),
        Kind::post(
            "early and closed",
            Body::Part,
            Host::Closes("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ),
        Kind::get("last request", OK)
            .manager(json!({ "common_http_protocol_options": { "max_requests_per_connection": 1 } })),
        Kind::get("last request of the host", OK).cluster(json!({ "max_requests_per_connection": 1 })),
    ]
}

/// Requests that come to a host and get no whole response.
fn without_response() -> Vec<Kind> {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
    let bad_chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
    let timeout = json!({ "route": { "timeout": "0.2s" } });
    let per_try = json!({ "route": { "retry_policy": { "retry_on": "5xx", "num_retries": 0, "per_try_timeout": "0.2s" } } });
    let retries = json!({ "route": { "retry_policy": { "retry_on": "5xx", "num_retries": 1 } } });
    let max_duration = json!({ "common_http_protocol_options": { "max_stream_duration": "0.2s" } });
    vec![
        Kind::get("cut before headers", Host::Closes("")),
        Kind::get("cut in headers", Host::Closes("HTTP/1.1 200 OK\r\n")),
        Kind::get("aborted before headers", Host::Aborts("")),
        Kind::get("cut in body", Host::Closes(half)),
        Kind::get("aborted in body", Host::Aborts(half)),
        Kind::get(
            "cut in chunks",
            Host::Closes("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ),
        Kind::get("garbage", Host::Keeps("garbage\r\n\r\n")),
        Kind::get("bad chunk", Host::Keeps(bad_chunk)),
        Kind::get("bad header", Host::Keeps("HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 0\r\n\r\n")),
        Kind::get("garbage and closed", Host::Closes("garbage\r\n\r\n")),
        Kind::get("refused", Host::Refuses),
        Kind::get("no host", Host::Missing),
        Kind::post("no host for a body", Body::Part, Host::Missing),
        Kind::get("route timeout", Host::Keeps("")).route(timeout.clone()),
        Kind::get("route timeout in body", Host::Keeps(half)).route(timeout),
        Kind::get("per try timeout", Host::Keeps("")).route(per_try),
        Kind::get("max duration", Host::Keeps("")).manager(max_duration.clone()),
        Kind::get("max duration in body", Host::Keeps(half)).manager(max_duration),
        Kind::get("idle", Host::Keeps("")).manager(json!({ "stream_idle_timeout": "0.2s" })),
        Kind::post("idle upload", Body::Part, Host::Keeps(""))
            .manager(json!({ "stream_idle_timeout": "0.2s" })),
        Kind::post("late upload", Body::Part, Host::Keeps("")).manager(json!({ "request_timeout": "0.2s" })),
        Kind::get("retried", Host::Closes("")).route(retries),
        Kind::get("overflow", OK)
            .cluster(json!({ "circuit_breakers": { "thresholds": [{ "max_requests": 0 }] } })),
        Kind::get("client leaves", Host::Keeps("")).ending(Ending::Leaves),
        Kind::post("client leaves its upload", Body::Part, Host::Keeps("")).ending(Ending::Leaves),
        Kind::get("client leaves the body", Host::Keeps(half)).ending(Ending::LeavesBody),
    ]
}

/// It adds no header that says how long something took.
pub fn quiet_router() -> Value {
    let fields = json!({ "suppress_envoy_headers": true });
    typed("router", "envoy.extensions.filters.http.router.v3.Router", fields)
}

fn filtered(filter: &Value) -> Value {
    json!({ "http_filters": [filter, quiet_router()] })
}

/// Requests that the proxy responds to.
fn local() -> Vec<Kind> {
    let message = |name: &str| format!("envoy.extensions.filters.http.{name}");
    let percent = json!({ "numerator": 100 });
    let abort = json!({ "abort": { "http_status": 418, "percentage": percent } });
    let fault =
        |more: Value| filtered(&typed("fault", &message("fault.v3.HTTPFault"), merged(abort.clone(), more)));
    let denied = filtered(&typed("rbac", &message("rbac.v3.RBAC"), json!({ "rules": { "policies": {} } })));
    let buffer = filtered(&typed("buffer", &message("buffer.v3.Buffer"), json!({ "max_request_bytes": 2 })));
    let bucket = json!({ "max_tokens": 1, "fill_interval": "3600s" });
    let limited = json!({
        "stat_prefix": "limited", "token_bucket": bucket,
        "filter_enabled": { "default_value": percent }, "filter_enforced": { "default_value": percent },
    });
    let limited = filtered(&typed("limit", &message("local_ratelimit.v3.LocalRateLimit"), limited));
    let check = json!({ "pass_through_mode": false, "headers": [{ "name": ":path", "string_match": { "exact": "/" } }] });
    let check = filtered(&typed("check", &message("health_check.v3.HealthCheck"), check));
    let direct =
        json!({ "route": null, "direct_response": { "status": 200, "body": { "inline_string": "here" } } });
    let redirect = json!({ "route": null, "redirect": { "path_redirect": "/new" } });
    let unmatched = json!({ "match": { "prefix": "/other" } });
    let all = |list: Value| json!({ "route_config": { "virtual_hosts": [merged(json!({ "name": "all", "domains": ["*"], "routes": route("unused") }), list)] } });
    vec![
        Kind::get("direct", OK).route(direct.clone()),
        Kind::post("direct for a body", Body::Whole, OK).route(direct.clone()),
        Kind::post("direct for half a body", Body::Part, OK).route(direct),
        Kind::get("redirect", OK).route(redirect),
        Kind::get("to TLS", OK).manager(all(json!({ "require_tls": "ALL" }))),
        Kind::get("no route", OK).route(unmatched.clone()),
        Kind::post("no route for a body", Body::Part, OK).route(unmatched),
        Kind::get("no virtual host", OK).manager(all(json!({ "domains": ["other"] }))),
        Kind::get("no cluster", OK)
            .route(json!({ "route": { "cluster": null, "cluster_header": "x-cluster" } })),
        Kind::get("denied", OK).manager(denied.clone()),
        Kind::post("denied with a body", Body::Whole, OK).manager(denied),
        Kind::get("aborted", OK).manager(fault(json!({}))),
        Kind::post("aborted with a body", Body::Whole, OK).manager(fault(json!({}))),
        Kind::post("too large", Body::Part, OK).manager(buffer),
        Kind::get("limited", OK).manager(limited),
        Kind::get("checked", OK).manager(check),
    ]
}

/// Requests of HTTP/1 that are wrong in themselves, and some that are not.
const ODD: &[(&str, &str)] = &[
    ("no host", "GET / HTTP/1.1\r\n"),
    ("no host by TLS", "GET / HTTP/1.1\r\nx-forwarded-proto: https\r\n"),
    ("no host for a body", "POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nsome"),
    ("no host for half a body", "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nsome"),
    ("empty host", "GET / HTTP/1.1\r\nhost: \r\n"),
    ("host with a space", "GET / HTTP/1.1\r\nhost: a b\r\n"),
    ("host with a control", "GET / HTTP/1.1\r\nhost: a\u{1}b\r\n"),
    ("host with a quote", "GET / HTTP/1.1\r\nhost: a\"b\r\n"),
    ("name with a control", "GET / HTTP/1.1\r\nhost: here\r\nbad\u{1}: x\r\n"),
    ("name with a space", "GET / HTTP/1.1\r\nhost: here\r\nbad name: x\r\n"),
    ("name with a byte", "GET / HTTP/1.1\r\nhost: here\r\nbad\u{e9}: x\r\n"),
    ("name with a quote", "GET / HTTP/1.1\r\nhost: here\r\nbad\": x\r\n"),
    ("no name", "GET / HTTP/1.1\r\nhost: here\r\n: x\r\n"),
    ("no colon", "GET / HTTP/1.1\r\nhost: here\r\nbad\r\n"),
    ("value with a control", "GET / HTTP/1.1\r\nhost: here\r\nvalue: a\u{1}b\r\n"),
    ("value with a NUL", "GET / HTTP/1.1\r\nhost: here\r\nvalue: a\u{0}b\r\n"),
    ("value with a DEL", "GET / HTTP/1.1\r\nhost: here\r\nvalue: a\u{7f}b\r\n"),
    ("method with a mark", "G@T / HTTP/1.1\r\nhost: here\r\n"),
    ("method in small letters", "get / HTTP/1.1\r\nhost: here\r\n"),
    ("unknown method", "FOO / HTTP/1.1\r\nhost: here\r\n"),
    ("no version", "GET /\r\nhost: here\r\n"),
    ("HTTP/1.0", "GET / HTTP/1.0\r\nhost: here\r\n"),
    ("HTTP/1.0 for a body", "POST / HTTP/1.0\r\nhost: here\r\ncontent-length: 4\r\n\r\nsome"),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nhost: here\r\n"),
    ("HTTP/2.0", "GET / HTTP/2.0\r\nhost: here\r\n"),
    ("odd version", "GET / HTTX/1.1\r\nhost: here\r\n"),
    ("two lengths", "POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nsome"),
    ("bad length", "POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4x\r\n\r\nsome"),
    (
        "length and chunks",
        "POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\nsome",
    ),
    (
        "chunks and length",
        "POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nsome",
    ),
    ("unknown encoding", "POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: gzip\r\n"),
    ("CONNECT without a port", "CONNECT here HTTP/1.1\r\nhost: here\r\n"),
    ("CONNECT", "CONNECT here:80 HTTP/1.1\r\nhost: here:80\r\n"),
    ("OPTIONS *", "OPTIONS * HTTP/1.1\r\nhost: here\r\n"),
    ("OPTIONS * without a host", "OPTIONS * HTTP/1.1\r\n"),
    ("GET *", "GET * HTTP/1.1\r\nhost: here\r\n"),
    ("no slash", "GET a HTTP/1.1\r\nhost: here\r\n"),
    ("query alone", "GET ?a HTTP/1.1\r\nhost: here\r\n"),
    ("fragment", "GET /a#f HTTP/1.1\r\nhost: here\r\n"),
    ("fragment for half a body", "POST /a#f HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\nsome"),
    ("fragment without a host", "GET /a#f HTTP/1.1\r\n"),
    ("absolute", "GET http://there/a HTTP/1.1\r\nhost: here\r\n"),
    ("absolute and bare", "GET http://there HTTP/1.1\r\nhost: here\r\n"),
    ("absolute with a query", "GET http://there?a HTTP/1.1\r\nhost: here\r\n"),
    ("absolute without a host", "GET http:///a HTTP/1.1\r\nhost: here\r\n"),
    ("other scheme", "GET ftp://there/ HTTP/1.1\r\nhost: here\r\n"),
    ("https target", "GET https://there/ HTTP/1.1\r\nhost: here\r\n"),
    ("control in the target", "GET /a\u{1}b HTTP/1.1\r\nhost: here\r\n"),
    ("byte in the target", "GET /\u{e9} HTTP/1.1\r\nhost: here\r\n"),
    ("HEAD of HTTP/1.0", "HEAD / HTTP/1.0\r\nhost: here\r\n"),
    ("HEAD without a host", "HEAD / HTTP/1.1\r\n"),
    ("gRPC without a host", "POST / HTTP/1.1\r\ncontent-type: application/grpc\r\n"),
];

/// Requests that are wrong in themselves, and what the manager makes of them.
fn odd() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = ODD
        .iter()
        .map(|(name, head)| {
            let end = if head.contains("\r\n\r\n") { "" } else { "\r\n" };
            // Of each character, its lowest byte.
            let bytes = format!("{head}{end}").chars().map(|c| c as u32 as u8).collect();
            Kind::new(format!("odd: {name}"), Message::Raw(bytes), OK)
        })
        .collect();
    for name in ["odd: HTTP/1.0", "odd: HTTP/1.0 for a body", "odd: HEAD of HTTP/1.0"] {
        let found = kinds.iter().find(|kind| kind.name == name).map(|kind| &kind.message);
        let Some(Message::Raw(bytes)) = found else { continue };
        let accepted = json!({ "http_protocol_options": { "accept_http_10": true } });
        let host = if name.contains("HEAD") { EMPTY } else { OK };
        let name = format!("{name}, accepted");
        kinds.push(Kind::new(name, Message::Raw(bytes.clone()), host).manager(accepted));
    }
    let large = format!("GET / HTTP/1.1\r\nhost: here\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    kinds.push(Kind::new("odd: large", Message::Raw(large.into_bytes()), OK));
    let many = format!("GET / HTTP/1.1\r\nhost: here\r\n{}\r\n", "a: b\r\n".repeat(200));
    kinds.push(Kind::new("odd: many", Message::Raw(many.into_bytes()), OK));
    let half = Message::Raw(b"GET / HTTP/1.1\r\nhost: he".to_vec());
    kinds.push(Kind::new("odd: half a head", half, OK).ending(Ending::Turns));
    let half = Message::Raw(b"GET / HTTP/1.1\r\nhost: he".to_vec());
    kinds.push(Kind::new("odd: late head", half, OK).manager(json!({ "request_headers_timeout": "0.2s" })));
    let underscore = Message::Raw(b"GET / HTTP/1.1\r\nhost: here\r\na_b: c\r\n\r\n".to_vec());
    let refuses =
        json!({ "common_http_protocol_options": { "headers_with_underscores_action": "REJECT_REQUEST" } });
    kinds.push(Kind::new("odd: underscore", underscore, OK).manager(refuses));
    kinds
}

/// Requests that move what is counted for few.
fn rare() -> Vec<Kind> {
    let message = |name: &str| format!("envoy.extensions.filters.http.{name}");
    let percent = json!({ "numerator": 100 });
    let cors = filtered(&typed("envoy.filters.http.cors", &message("cors.v3.Cors"), json!({})));
    let origins = json!({ "typed_per_filter_config": { "envoy.filters.http.cors": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{ "exact": "http://here" }],
    } } });
    let shadow = |action: &str| {
        let any = json!({ "permissions": [{ "any": true }], "principals": [{ "any": true }] });
        let rules = json!({ "shadow_rules": { "action": action, "policies": { "all": any } } });
        filtered(&typed("rbac", &message("rbac.v3.RBAC"), rules))
    };
    let fault = |more: Value| filtered(&typed("fault", &message("fault.v3.HTTPFault"), more));
    let abort = json!({ "http_status": 418, "percentage": percent });
    let pace = json!({ "fixed_limit": { "limit_kbps": 1000 }, "percentage": percent });
    let check = filtered(&typed(
        "check",
        &message("health_check.v3.HealthCheck"),
        json!({
            "pass_through_mode": false,
            "headers": [{ "name": ":path", "string_match": { "exact": "/" } }],
            "cluster_min_healthy_percentages": { "nowhere": { "value": 50 } },
        }),
    ));
    let policy = |more: Value| {
        let policy = merged(json!({ "retry_on": "5xx", "num_retries": 1 }), more);
        json!({ "route": { "retry_policy": policy } })
    };
    let limited = policy(json!({ "rate_limited_retry_back_off": {
        "reset_headers": [{ "name": "retry-after", "format": "SECONDS" }], "max_interval": "0.01s",
    } }));
    let idle = policy(json!({ "num_retries": 0, "per_try_idle_timeout": "0.2s" }));
    let lasting = json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": {} },
            "common_http_protocol_options": { "max_stream_duration": "0.2s" },
        },
    } });
    let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
    let canary = "HTTP/1.1 200 OK\r\nx-envoy-upstream-canary: true\r\ncontent-length: 2\r\n\r\nok";
    let pending = json!({ "circuit_breakers": { "thresholds": [{ "max_pending_requests": 0 }] } });
    vec![
        fields_of("own origin", "GET", &[("origin", "http://here")])
            .manager(cors.clone())
            .route(origins.clone()),
        fields_of("other origin", "GET", &[("origin", "http://there")]).manager(cors).route(origins),
        Kind::get("allowed in the shadow", OK).manager(shadow("ALLOW")),
        Kind::get("denied in the shadow", OK).manager(shadow("DENY")),
        Kind::get("paced", OK).manager(fault(json!({ "response_rate_limit": pace }))),
        Kind::get("too many faults", OK).manager(fault(json!({ "abort": abort, "max_active_faults": 0 }))),
        Kind::get("checked without its cluster", OK).manager(check),
        Kind::get("retried when asked", Host::Keeps(busy)).route(limited),
        Kind::get("retried in vain", Host::Keeps(busy)).route(policy(json!({}))),
        Kind::get("per try idle", Host::Keeps("")).route(idle),
        Kind::get("too long for the cluster", Host::Keeps("")).cluster(lasting),
        Kind::get("canary", Host::Keeps(canary)),
        fields_of("internal", "GET", &[("x-forwarded-for", "10.0.0.1")]),
        Kind::get("pending overflow", OK).cluster(pending),
    ]
}

/// All kinds.
pub fn all() -> Vec<Kind> {
    [with_response(), without_response(), local(), rare(), odd()].into_iter().flatten().collect()
}
