//! Header injection: what a client or an upstream says never becomes a header, a request or a log
//! line of its own.
//!
//! Every operator, every sink of it, every separator, in every place that a client or an upstream
//! can write to.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::http1::{self, exchange};
use super::http2::{self, Fields, fields};
use super::proxy::{
    Logs, Proxy, access_log, at, cluster, config, free_port, http, router, speaks_http2, typed,
};
use super::upstream;

/// Operators that carry bytes of the client or of the upstream.
const CARRIERS: [&str; 30] = [
    "%QUERY_PARAM(q)%",
    "%QUERY_PARAM(q):40%",
    "%PATH(WQ:ORIG_OR_PATH)%",
    "%QUERY_PARAMS%",
    "%QUERY_PARAMS(ORIG)%",
    "%PATH(NQ:PATH)%",
    "%REQ(:path)%",
    "%REQ(:authority)%",
    "%REQ(:method)%",
    "%REQ(:scheme)%",
    "%REQ(x-in)%",
    "%REQ(x-in):7%",
    "%REQ(x-none?x-in)%",
    "%REQUEST_HEADER(x-in)%",
    "%REQ(cookie)%",
    "%REQ(user-agent)%",
    "%REQ(referer)%",
    "%REQ(origin)%",
    "%REQ(x-forwarded-for)%",
    "%REQ(x-request-id)%",
    "%REQ(x-envoy-original-path)%",
    "%STREAM_ID%",
    "%RESP(x-up)%",
    "%RESPONSE_HEADER(location)%",
    "%TRAILER(x-trailer)%",
    "%RESPONSE_CODE_DETAILS%",
    "%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
    "%GRPC_STATUS%",
    "%TRACE_ID%",
    "%DYNAMIC_METADATA(a:b)%",
];

/// The operators that have no parameter, for the logs: with any value, a line stays a line.
const PLAIN: [&str; 34] = [
    "REQUEST_HEADERS_BYTES",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "PROTOCOL",
    "UPSTREAM_PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "UPSTREAM_HOST",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "CONNECTION_ID",
    "UNIQUE_ID",
    "ROUTE_NAME",
    "VIRTUAL_CLUSTER_NAME",
    "ACCESS_LOG_TYPE",
    "REQUESTED_SERVER_NAME",
    "CONNECTION_TERMINATION_DETAILS",
    "FILTER_CHAIN_NAME",
    "HOSTNAME",
    "START_TIME",
    "DURATION",
    "GRPC_STATUS_NUMBER",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
];

/// What some reader somewhere takes for the end of a line.
const SEPARATORS: [&str; 7] = ["\r\n", "\n", "\r", "\0", "\n ", "\r\r\n", "\u{85}"];

/// Where a client writes.
const PLACES: [&str; 13] = [
    "query value",
    "query name",
    "path",
    "authority",
    "method",
    "x-in",
    "cookie",
    "user-agent",
    "referer",
    "origin",
    "x-forwarded-for",
    "x-request-id",
    "x-forwarded-proto",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Raw,
    Percent,
    PercentUpper,
    Twice,
}

const CODINGS: [Coding; 4] = [Coding::Raw, Coding::Percent, Coding::PercentUpper, Coding::Twice];

/// Routes, each of which is another sink.
const SINKS: [&str; 14] = [
    "/add",
    "/weighted",
    "/redirect-path",
    "/redirect-prefix",
    "/redirect-regex",
    "/redirect-host",
    "/rewrite-regex",
    "/rewrite-host",
    "/direct",
    "/limited",
    "/soft",
    "/fault",
    "/header-cluster",
    "/missing",
];

fn add(prefix: &str) -> Value {
    let each = CARRIERS
        .iter()
        .enumerate()
        .map(|(at, format)| json!({ "header": { "key": format!("{prefix}-{at}"), "value": format } }));
    each.collect()
}

fn routes() -> Value {
    let regex = json!({
        "pattern": { "google_re2": {}, "regex": "^/[a-z]+-regex(.*)$" }, "substitution": "/add\\1",
    });
    let limit = |enforced: u32| {
        let all =
            |percent: u32| json!({ "default_value": { "numerator": percent, "denominator": "HUNDRED" } });
        json!({ "envoy.filters.http.local_ratelimit": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": { "max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s" },
            "filter_enabled": all(100),
            "filter_enforced": all(enforced),
            "response_headers_to_add": add("x-t").as_array().unwrap()[..10],
            "request_headers_to_add_when_not_enforced": add("x-u").as_array().unwrap()[..10],
        } })
    };
    let fault = json!({ "envoy.filters.http.fault": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": { "header_abort": {}, "percentage": { "numerator": 100 } },
        "delay": { "header_delay": {}, "percentage": { "numerator": 100 } },
    } });
    let up = json!({ "cluster": "up" });
    let actions = [
        json!({ "route": up, "request_headers_to_add": add("x-u"), "response_headers_to_add": add("x-t") }),
        json!({ "route": { "weighted_clusters": { "clusters": [{
            "name": "up", "weight": 1, "request_headers_to_add": add("x-u"), "response_headers_to_add": add("x-t"),
        }] } } }),
        json!({ "redirect": { "scheme_redirect": "https" }, "response_headers_to_add": add("x-t") }),
        json!({ "redirect": { "prefix_rewrite": "/to/" } }),
        json!({ "redirect": { "regex_rewrite": regex } }),
        json!({ "redirect": { "host_redirect": "other", "strip_query": true } }),
        json!({ "route": { "cluster": "up", "regex_rewrite": regex } }),
        json!({ "route": { "cluster": "up", "host_rewrite_header": "x-in", "append_x_forwarded_host": true } }),
        json!({ "direct_response": { "status": 200 }, "response_headers_to_add": add("x-t") }),
        json!({ "route": up, "typed_per_filter_config": limit(100) }),
        json!({ "route": up, "typed_per_filter_config": limit(0) }),
        json!({ "route": up, "typed_per_filter_config": fault }),
        json!({ "route": { "cluster_header": "x-in" }, "response_headers_to_add": add("x-t") }),
        json!({ "route": { "cluster": "nowhere" }, "response_headers_to_add": add("x-t") }),
    ];
    let each = SINKS.iter().zip(actions).map(|(prefix, action)| {
        super::proxy::merged(action, json!({ "match": { "prefix": prefix }, "name": &prefix[1..] }))
    });
    each.collect()
}

/// The proxy with every operator in every sink. `more` is merged into the manager's fields.
fn manager(logs: &Logs, routes: &Value) -> Value {
    let every: Vec<String> = CARRIERS
        .iter()
        .map(|&format| format.to_owned())
        .chain(PLAIN.iter().map(|name| format!("%{name}%")))
        .collect();
    let text = format!("BEGIN|{}|END\n", every.join("|"));
    let object: serde_json::Map<String, Value> =
        every.iter().enumerate().map(|(at, format)| (format!("k{at}"), json!(format))).collect();
    let cors = typed("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors", json!({}));
    let fault =
        typed("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault", json!({}));
    let limit = typed(
        "envoy.filters.http.local_ratelimit",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        json!({ "stat_prefix": "limit" }),
    );
    let policy = json!({ "envoy.filters.http.cors": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{ "safe_regex": { "regex": "(?s).*" } }],
        "allow_headers": "*", "allow_methods": "*", "allow_credentials": true,
    } });
    let any = json!({ "status_code_filter": { "comparison":
        { "op": "GE", "value": { "default_value": 400, "runtime_key": "none" } } } });
    json!({
        "access_log": [
            access_log(&logs.path("text"), &json!(text)),
            access_log(&logs.path("json"), &Value::Object(object)),
        ],
        "preserve_external_request_id": true,
        "always_set_request_id_in_response": true,
        "use_remote_address": false,
        "http_filters": [cors, fault, limit, router()],
        "local_reply_config": {
            "mappers": [{ "filter": any, "headers_to_add": add("x-l") }],
            "body_format": { "text_format_source": { "inline_string": CARRIERS.join("|") } },
        },
        "route_config": {
            "validate_clusters": false,
            "request_headers_to_add": add("x-u-table").as_array().unwrap()[..12],
            "response_headers_to_add": add("x-t-table").as_array().unwrap()[..12],
            "virtual_hosts": [{
                "name": "all", "domains": ["*"], "routes": routes, "typed_per_filter_config": policy,
                "request_headers_to_add": add("x-u-host").as_array().unwrap()[..12],
                "response_headers_to_add": add("x-t-host").as_array().unwrap()[..12],
            }],
        },
    })
}

const OF_RESPONSES: [&str; 18] = [
    ":status",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "connection",
    "content-length",
    "content-type",
    "date",
    "location",
    "server",
    "transfer-encoding",
    "vary",
    "x-envoy-upstream-service-time",
    "x-request-id",
    "x-trailer",
    "x-up",
];
const OF_REQUESTS: [&str; 18] = [
    // With methods that usually have a body.
    "content-length",
    "host",
    "connection",
    "cookie",
    "user-agent",
    "referer",
    "origin",
    "x-in",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-original-path",
    "x-envoy-original-host",
    "x-envoy-internal",
    "x-envoy-external-address",
    "x-envoy-downstream-service-cluster",
];

/// Whether a name is known, or is that of a configured addition: a prefix, a level and a number.
fn is_known(name: &str, known: &[&str], added: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    let number = |text: &str| text.parse::<usize>().is_ok();
    known.contains(&name.as_str()) || added.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(number))
}

const ADDED_TO_RESPONSES: [&str; 4] = ["x-t-table-", "x-t-host-", "x-t-", "x-l-"];
const ADDED_TO_REQUESTS: [&str; 3] = ["x-u-table-", "x-u-host-", "x-u-"];

/// What is wrong with the bytes of a head, to a reader that takes any CR or LF for the end of a
/// line.
fn fault_of_head(head: &[u8], known: &[&str], added: &[&str]) -> Option<String> {
    let Some(head) = head.strip_suffix(b"\r\n\r\n") else { return Some("has no end".to_owned()) };
    let lines = head.split(|byte| matches!(byte, b'\r' | b'\n')).enumerate();
    for (at, line) in lines.filter(|(at, line)| *at == 0 || !line.is_empty()) {
        let text = String::from_utf8_lossy(line).into_owned();
        if line.contains(&0) {
            return Some(format!("has a NUL in {text:?}"));
        }
        let name = text.split(':').next().unwrap_or_default();
        if at > 0 && !is_known(name, known, added) {
            return Some(format!("has the header {text:?}"));
        }
    }
    // Every line must end with CR LF: as many of each, always together.
    let pairs = head.windows(2).filter(|pair| pair == b"\r\n").count();
    let each = |byte: u8| head.iter().filter(|found| **found == byte).count();
    (each(b'\r') != pairs || each(b'\n') != pairs).then(|| "has a bare CR or LF".to_owned())
}

/// What is wrong with the bytes that came to an HTTP/1 client whose connection has ended.
fn fault_of_response(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return None;
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Some("has no end".to_owned());
    };
    let (head, body) = bytes.split_at(end + 4);
    let length = http1::header(head, "content-length").and_then(|length| length.parse::<usize>().ok());
    if http1::header(head, "transfer-encoding").is_none() && length.is_some_and(|length| length != body.len())
    {
        return Some(format!("has {} bytes after its head instead of {length:?}", body.len()));
    }
    fault_of_head(head, &OF_RESPONSES, &ADDED_TO_RESPONSES)
}

fn fault_of_fields(fields: &Fields) -> Option<String> {
    fields.iter().find_map(|(name, value)| {
        let name = String::from_utf8_lossy(name).into_owned();
        let control = |byte: &u8| matches!(*byte, b'\r' | b'\n' | 0);
        let bad = !is_known(&name, &OF_RESPONSES, &ADDED_TO_RESPONSES) || value.iter().any(control);
        bad.then(|| format!("has the header {name:?}: {:?}", String::from_utf8_lossy(value)))
    })
}

fn fault_of_logs(logs: &Logs) -> Option<String> {
    let text = logs.read("text");
    let forged = |line: &&str| !line.starts_with("BEGIN|") || !line.ends_with("|END");
    if let Some(line) = text.split_terminator(['\n', '\r']).find(forged) {
        return Some(format!("the text log has the line {line:?}"));
    }
    let many = |line: &&str| line.matches("BEGIN|").count() != 1;
    if let Some(line) = text.lines().find(many) {
        return Some(format!("the text log has the line {line:?}"));
    }
    let keys = CARRIERS.len() + PLAIN.len();
    logs.read("json").split_terminator(['\n', '\r']).find_map(|line| {
        let read: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(line);
        (!read.is_ok_and(|object| object.len() == keys))
            .then(|| format!("the JSON log has the line {line:?}"))
    })
}

fn coded(text: &str, coding: Coding) -> String {
    let percent = |text: &str, upper: bool| -> String {
        let each = text.bytes().map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte if upper => format!("%{byte:02X}"),
            byte => format!("%{byte:02x}"),
        });
        each.collect()
    };
    match coding {
        Coding::Raw => text.to_owned(),
        Coding::Percent => percent(text, false),
        Coding::PercentUpper => percent(text, true),
        Coding::Twice => percent(&percent(text, false), false),
    }
}

fn payload(separator: &str, coding: Coding) -> String {
    let s = separator;
    coded(&format!("a{s}x-evil: 1{s}{s}GET /evil HTTP/1.1{s}host: evil{s}{s}"), coding)
}

/// One request of a client: method, path, authority and further headers.
fn request(place: &str, sink: &str, payload: &str) -> Fields {
    let mut path = format!("{sink}/p?q=v");
    let (mut method, mut authority) = ("GET".to_owned(), "here".to_owned());
    match place {
        "query value" => path = format!("{sink}/p?q={payload}"),
        "query name" => path = format!("{sink}/p?{payload}=1&q=v"),
        "path" => path = format!("{sink}/{payload}"),
        "authority" => authority = payload.to_owned(),
        "method" => method = payload.to_owned(),
        _ => {}
    }
    let mut request =
        fields(&[(":method", &method), (":scheme", "http"), (":authority", &authority), (":path", &path)]);
    let headers = ["x-in", "cookie", "user-agent", "referer", "origin", "x-forwarded-for", "x-request-id"];
    for name in headers.into_iter().chain(["x-forwarded-proto"]) {
        let value = match name {
            _ if name == place => payload,
            "origin" => "http://here",
            "x-in" => "up",
            _ => continue,
        };
        request.push((name.into(), value.into()));
    }
    request
}

/// The same as HTTP/1, on a connection for itself.
fn as_http1(request: &Fields) -> Vec<u8> {
    let text = |at: usize| request[at].1.clone();
    let mut bytes = [text(0), text(3)].join(&b' ');
    bytes.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    bytes.extend_from_slice(&request[2].1);
    bytes.extend_from_slice(b"\r\nconnection: close\r\n");
    for (name, value) in &request[4..] {
        bytes.extend_from_slice(&[name, b": ".as_slice(), value, b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Every place, separator and coding over both protocols; each goes to `/add` and to one more sink
/// in turn.
fn cases() -> Vec<(String, bool, Fields)> {
    let mut cases = Vec::new();
    for (at, place) in PLACES.iter().enumerate() {
        for (turn, separator) in SEPARATORS.iter().enumerate() {
            for (more, coding) in CODINGS.into_iter().enumerate() {
                for is_http2 in [false, true] {
                    // Over HTTP/1 a raw LF is the end of a line that the client itself writes.
                    if !is_http2 && coding == Coding::Raw && (separator.contains('\n') || *place == "method")
                    {
                        continue;
                    }
                    let other = SINKS[1 + (at + turn * 3 + more * 5) % (SINKS.len() - 1)];
                    for sink in ["/add", other] {
                        let name = format!("{place}, {separator:?}, {coding:?}, {sink}, HTTP/2: {is_http2}");
                        cases.push((name, is_http2, request(place, sink, &payload(separator, coding))));
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn what_a_client_says_becomes_no_header_request_or_log_line() {
    let heads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let seen = Arc::clone(&heads);
    let up = upstream::http1(move |head, _, connection| {
        seen.lock().unwrap().push(head.to_vec());
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-up: up\r\n\r\nok");
        true
    });
    let (logs, port) = (Logs::new(), free_port());
    let listener = http("one", port, &json!([]), manager(&logs, &routes()));
    let proxy = Proxy::start(&config(&[listener], &[cluster("up", up, json!({}))]));
    let cases = cases();
    let (mut faults, mut forwarded) = (Vec::new(), 0);
    for (name, is_http2, request) in &cases {
        let fault = if *is_http2 {
            let response = http2::Connection::client(at(port)).ask(request).unwrap_or_default();
            forwarded += usize::from(http2::find(&response.headers, "x-up").is_some());
            fault_of_fields(&response.headers)
        } else {
            let bytes = exchange(at(port), &as_http1(request));
            forwarded += usize::from(http1::header(&bytes, "x-up").is_some());
            fault_of_response(&bytes)
        };
        faults.extend(fault.map(|fault| format!("{name}: the response {fault}")));
    }
    for head in heads.lock().unwrap().iter() {
        let fault = fault_of_head(head, &OF_REQUESTS, &ADDED_TO_REQUESTS);
        faults.extend(fault.map(|fault| format!("a request to the upstream {fault}")));
    }
    assert!(forwarded > cases.len() / 4, "only {forwarded} of {} requests reach the upstream", cases.len());
    let logged = super::proxy::poll(super::proxy::DEADLINE, || {
        (logs.read("text").matches("BEGIN|").count() >= forwarded).then_some(())
    });
    assert!(logged.is_some(), "the log has fewer than {forwarded} lines:\n{}", proxy.log());
    faults.extend(fault_of_logs(&logs));
    let requests = heads.lock().unwrap().len();
    if requests != forwarded {
        faults.push(format!("the upstream got {requests} requests, and {forwarded} responses came back"));
    }
    report(&faults, cases.len());
}

/// Fails with the first of the faults.
pub fn report(faults: &[String], cases: usize) {
    let first: Vec<&str> = faults.iter().take(100).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} faults in {cases} cases:\n{}", faults.len(), first.join("\n"));
}

/// Where an upstream writes.
const FROM_UPSTREAM: [&str; 7] =
    ["x-up", "location", "content-type", "server", "x-request-id", "reason", "x-trailer"];

fn hostile_http1(place: &str, payload: &str) -> Vec<u8> {
    let reason = if place == "reason" { payload } else { "OK" };
    let header = match place {
        "reason" | "x-trailer" => String::new(),
        name => format!("{name}: {payload}\r\n"),
    };
    let trailer = if place == "x-trailer" { format!("x-trailer: {payload}\r\n") } else { String::new() };
    format!(
        "HTTP/1.1 200 {reason}\r\n{header}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailer}\r\n"
    )
    .into_bytes()
}

#[test]
fn what_an_upstream_says_becomes_no_header_response_or_log_line() {
    let mut cases = Vec::new();
    for place in FROM_UPSTREAM {
        for separator in SEPARATORS {
            for coding in [Coding::Raw, Coding::Percent] {
                cases.push((place, separator, payload(separator, coding)));
            }
        }
    }
    let number = |path: &str| -> usize { path.rsplit('/').next().unwrap().parse().unwrap() };
    let of_one = cases.clone();
    let one = upstream::http1(move |head, _, connection| {
        let (place, _, payload) = &of_one[number(&http1::path(head))];
        connection.send(hostile_http1(place, payload));
        false
    });
    let of_two = cases.clone();
    let two = upstream::http2(move |request| {
        let (place, _, payload) = &of_two[number(&http2::find(request, ":path").unwrap())];
        let place = if *place == "reason" { "x-up" } else { *place };
        (fields(&[(":status", "200"), (place, payload)]), b"ok".to_vec())
    });
    let (logs, port) = (Logs::new(), free_port());
    let to = |prefix: &str, name: &str| json!({ "match": { "prefix": prefix }, "route": { "cluster": name }, "response_headers_to_add": add("x-t") });
    let listener =
        http("one", port, &json!([]), manager(&logs, &json!([to("/one", "one"), to("/two", "two")])));
    let clusters = [cluster("one", one, json!({})), cluster("two", two, speaks_http2(&json!({})))];
    let proxy = Proxy::start(&config(&[listener], &clusters));
    let mut faults = Vec::new();
    for (at_case, (place, separator, _)) in cases.iter().enumerate() {
        // Over HTTP/1 a CR LF or LF is the end of a line that the upstream itself writes.
        let may_http1 = !cases[at_case].2.contains('\n');
        for name in ["one", "two"].into_iter().filter(|name| may_http1 || *name == "two") {
            let path = format!("/{name}/{at_case}");
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let fault = fault_of_response(&exchange(at(port), request.as_bytes()));
            let about = format!("{place}, {separator:?}, from {name}");
            faults.extend(fault.map(|fault| format!("{about}: the response {fault}")));
            let response = http2::Connection::client(at(port)).ask(&http2::get(&path)).unwrap_or_default();
            let fault = fault_of_fields(&response.headers);
            let fault = fault.or_else(|| response.trailers.as_ref().and_then(fault_of_fields));
            faults.extend(fault.map(|fault| format!("{about}: the HTTP/2 response {fault}")));
        }
    }
    proxy.wait_stat("http.one.downstream_rq_active", |active| active == 0);
    faults.extend(fault_of_logs(&logs));
    report(&faults, cases.len());
}
