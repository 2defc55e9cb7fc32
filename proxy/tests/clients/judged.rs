//! Single exchanges in which the differential judge has found a difference: what the client and the
//! host see of each.
//!
//! `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes the tables anew.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, fields};
use super::proxy::{
    Logs, Proxy, access_log, at, cluster, config, free_port, http, merged, poll, route, router, typed, wait,
};
use super::upstream;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Its second chunk has no size.
const BROKEN: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";

/// Headers that a case may be about; others are left out of the tables.
const TOLD: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "grpc-message",
    "grpc-status",
    "host",
    "transfer-encoding",
    "x-envoy-attempt-count",
    "x-envoy-original-host",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-service-time",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-retry-on",
    "x-forwarded-host",
];

fn told(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let mut rest: Vec<&str> = lines
        .filter(|line| TOLD.contains(&line.split(':').next().unwrap_or_default()))
        // Any time that passed is less than a minute.
        .map(|line| match line.split_once("service-time: ") {
            Some((_, millis)) if millis.len() < 5 => "x-envoy-upstream-service-time: N",
            _ => line,
        })
        .collect();
    rest.sort_unstable();
    [vec![first.as_str()], rest].concat().join(", ")
}

struct Case {
    name: String,
    manager: Value,
    virtual_host: Value,
    action: Value,
    request: String,
    responses: Vec<String>,
    /// Requests that come to the host.
    attempts: usize,
}

fn case(name: &str, request: &str, attempts: usize) -> Case {
    let (manager, virtual_host, action) = (json!({}), json!({}), json!({}));
    let (name, request) = (name.to_owned(), request.to_owned());
    Case { name, manager, virtual_host, action, request, responses: vec![OK.to_owned()], attempts }
}

fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: here\r\n{lines}\r\n")
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n";

fn cases() -> Vec<Case> {
    let internal = "x-forwarded-for: 10.0.0.1\r\n";
    let mut all = Vec::new();
    for lines in
        ["expect: 100-continue\r\n", "expect: 100-continue\r\nexpect: 100-continue\r\n", "expect: other\r\n"]
    {
        all.push(case(&format!("expectation {lines:?}"), &get(lines), 1));
    }
    for suppressed in [false, true] {
        let name = format!("a host's own service time, suppress_envoy_headers {suppressed}");
        let manager = json!({ "http_filters": [typed(
            "envoy.filters.http.router",
            "envoy.extensions.filters.http.router.v3.Router",
            json!({ "suppress_envoy_headers": suppressed }),
        )] });
        let own = "HTTP/1.1 200 OK\r\nx-envoy-upstream-service-time: 70000\r\ncontent-length: 0\r\n\r\n";
        all.push(Case { manager, responses: vec![own.to_owned()], ..case(&name, &get(""), 1) });
    }
    for (edge, client) in [(true, "8.8.8.8"), (false, "8.8.8.8"), (false, "10.0.0.1")] {
        let name = format!("an original host from {client}, use_remote_address {edge}");
        let request = get(&format!("x-forwarded-for: {client}\r\nx-envoy-original-host: faked\r\n"));
        all.push(Case { manager: json!({ "use_remote_address": edge }), ..case(&name, &request, 1) });
    }
    for line in ["x-envoy-upstream-alt-stat-name: a\r\n", "x-envoy-upstream-stream-duration-ms: 5000\r\n"] {
        all.push(case(&format!("internal {line:?}"), &get(&format!("{internal}{line}")), 1));
        all.push(case(&format!("external {line:?}"), &get(line), 1));
    }
    for host in ["here", "here:80", "here:", "here:http", "127.0.0.1:80", "[::1]", "[::1]:80", "::1", "a:b:c"]
    {
        let action = json!({ "request_mirror_policies": [{ "cluster": "up" }] });
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        all.push(Case { action, ..case(&format!("a copy for {host}"), &request, 2) });
    }
    let fault = json!({ "http_filters": [
        typed("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault", json!({
            "delay": { "fixed_delay": "0.02s", "percentage": { "numerator": 100 } },
            "abort": { "http_status": 418, "percentage": { "numerator": 100 } },
        })),
        router(),
    ] });
    for body in ["1\r\na\r\n0\r\n\r\n", "1\r\na\r\n"] {
        let name = format!("a delayed abort of {body:?}");
        let request = format!("{CHUNKED}{body}");
        all.push(Case { manager: fault.clone(), ..case(&name, &request, 0) });
    }
    let retried = json!({ "retry_policy": { "retry_on": "5xx", "num_retries": 1 } });
    let failed = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned();
    for body in ["0\r\n\r\n", "1\r\na\r\n0\r\n\r\n"] {
        let name = format!("a retry of {body:?}");
        let responses = vec![failed.clone(), OK.to_owned()];
        let request = format!("{CHUNKED}{body}");
        all.push(Case { action: retried.clone(), responses, ..case(&name, &request, 2) });
    }
    let counted = json!({ "include_attempt_count_in_response": true });
    all.push(Case {
        virtual_host: counted.clone(),
        ..case("the attempts of a broken request", &format!("{CHUNKED}1\r\na\r\nzz\r\n"), 0)
    });
    all.push(Case { virtual_host: counted, ..case("the attempts of a request", &get(""), 1) });
    all
}

#[test]
fn each_exchange_is_what_it_is_in_envoy() {
    let mut found = Vec::new();
    for Case { name, manager, virtual_host, action, request, responses, attempts } in cases() {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&seen);
        let up = upstream::http1(move |head, _, connection| {
            let mut seen = shared.lock().unwrap();
            let response = responses.get(seen.len()).or(responses.last()).unwrap();
            seen.push(told(head));
            connection.send(response);
            true
        });
        let port = free_port();
        let action = merged(json!({ "cluster": "up", "timeout": "10s" }), action);
        let routes = json!([{ "match": { "prefix": "/" }, "route": action }]);
        let host = merged(json!({ "name": "all", "domains": ["*"], "routes": routes }), virtual_host);
        let manager = merged(json!({ "route_config": { "virtual_hosts": [host] } }), manager);
        let listener = http("one", port, &routes, manager);
        let _proxy = Proxy::start(&config(&[listener], &[cluster("up", up, json!({}))]));
        let mut client = http1::Connection::new(at(port));
        client.send(&request);
        let mut heads = Vec::new();
        while let Ok(response) = client.response() {
            heads.push(told(&response.head));
            if response.status >= 200 {
                break;
            }
        }
        if attempts > 0 {
            wait("the attempts", || (seen.lock().unwrap().len() >= attempts).then_some(()));
        }
        // How much of a broken request reaches the host depends on time.
        let mut attempts = if attempts == 0 { Vec::new() } else { seen.lock().unwrap().clone() };
        attempts.sort_unstable();
        found.push((name, format!("{} <- [{}]", heads.join(" / "), attempts.join(" / "))));
    }
    super::record::compare("judged", &found, |_, _| None);
}

#[test]
fn a_local_reply_to_head_has_no_grpc_message() {
    let mut found = Vec::new();
    for method in ["HEAD", "POST"] {
        let port = free_port();
        let routes = json!([{ "match": { "prefix": "/" }, "direct_response": {
            "status": 403, "body": { "inline_string": "not today" },
        } }]);
        let _proxy = Proxy::start(&config(&[http("one", port, &routes, json!({}))], &[]));
        let request = format!("{method} / HTTP/1.1\r\nhost: here\r\ncontent-type: application/grpc\r\n\r\n");
        let mut client = http1::Connection::new(at(port));
        client.send(&request);
        found.push((method.to_owned(), told(&client.until(b"\r\n\r\n").unwrap())));
    }
    super::record::compare("grpc-head", &found, |_, _| None);
}

/// The headers were whole before the body broke.
#[test]
fn headers_of_a_broken_response_reach_a_client_of_http2() {
    let up = upstream::http1(|_, _, connection| {
        connection.send(BROKEN);
        false
    });
    let port = free_port();
    let listener = http("one", port, &route("up"), json!({}));
    let _proxy = Proxy::start(&config(&[listener], &[cluster("up", up, json!({}))]));
    for _ in 0..20 {
        let mut client = http2::Connection::client(at(port));
        let stream = client.request(&http2::get("/"), true);
        let response = client.response(stream).unwrap();
        assert_eq!((response.status(), response.reset.is_some()), (200, true));
    }
}

/// RFC 9113, 8.3.1: a path begins with a slash, and somebody must be asked.
#[test]
fn a_request_of_http2_without_a_target_ends_its_stream_and_is_logged() {
    let logs = Logs::new();
    let port = free_port();
    let format = json!("%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n");
    let manager = json!({
        "access_log": [access_log(&logs.path("log"), &format)],
        "http2_protocol_options": { "override_stream_error_on_invalid_http_message": true },
    });
    let direct = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 204 } }]);
    let _proxy = Proxy::start_with(
        &config(&[http("one", port, &direct, manager)], &[]),
        &["--file-flush-interval-msec", "10"],
    );
    let mut client = http2::Connection::client(at(port));
    let star = http2::get("*");
    let query = http2::get("?a");
    let no_authority = fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]);
    for request in [&star, &query, &no_authority] {
        let stream = client.request(request, true);
        assert_eq!(client.response(stream).unwrap().reset, Some(1), "{request:?}");
    }
    let options = [(":method", "OPTIONS"), (":scheme", "http"), (":authority", "here"), (":path", "/")];
    let stream = client.request(&fields(&options), true);
    assert_eq!(client.response(stream).unwrap().status(), 204, "other streams go on");
    let line = "HTTP/2 0 DPE http2.violation.of.messaging.rule\n";
    let expected = format!("{}HTTP/2 204 - direct_response\n", line.repeat(3));
    let logged = poll(super::proxy::DEADLINE, || Some(logs.read("log")).filter(|text| *text == expected));
    assert!(logged.is_some(), "{:?}", logs.read("log"));
}

/// Each attempt tells its host what is left of the whole time.
#[test]
fn the_time_that_a_retry_announces_is_what_is_left() {
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let shared = Arc::clone(&seen);
    let up = upstream::http1(move |head, _, _| {
        let announced = http1::header(head, "x-envoy-expected-rq-timeout-ms").unwrap();
        shared.lock().unwrap().push(announced.parse().unwrap());
        // No response: the attempt runs out of time.
        true
    });
    let port = free_port();
    let routes = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "up", "timeout": "2s", "retry_policy": {
        "retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.8s",
    } } }]);
    let listener = http("one", port, &routes, json!({}));
    let _proxy = Proxy::start(&config(&[listener], &[cluster("up", up, json!({}))]));
    assert_eq!(http1::Connection::new(at(port)).get("/").unwrap().status, 504);
    let seen = seen.lock().unwrap().clone();
    let [first, second, third] = seen[..] else { panic!("{seen:?}") };
    assert_eq!((first, second), (800, 800));
    assert!(third <= 400, "{third}");
}

/// The connection manager refuses such paths itself, before filters and routes.
#[test]
fn a_path_without_a_slash_reaches_no_filter() {
    let buffer = typed(
        "envoy.filters.http.buffer",
        "envoy.extensions.filters.http.buffer.v3.Buffer",
        json!({ "max_request_bytes": 8 }),
    );
    let port = free_port();
    let direct = json!([{ "match": { "prefix": "" }, "direct_response": { "status": 204 } }]);
    let logs = Logs::new();
    let format = json!("%RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%\n");
    let manager = json!({
        "http_filters": [buffer, router()], "access_log": [access_log(&logs.path("log"), &format)],
    });
    let _proxy = Proxy::start_with(
        &config(&[http("one", port, &direct, manager)], &[]),
        &["--file-flush-interval-msec", "10"],
    );
    let mut found = Vec::new();
    for target in ["*", "http://here?a", "/"] {
        let mut client = http1::Connection::new(at(port));
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\nhello"));
        let head = told(&client.response().unwrap().head);
        let lines = found.len() + 1;
        let log = wait("the line", || Some(logs.read("log")).filter(|text| text.lines().count() == lines));
        found.push((target.to_owned(), format!("{head} {}", log.lines().last().unwrap_or_default())));
    }
    super::record::compare("not-relative", &found, |_, _| None);
}

/// The name of a host that the request does not say is not said to the upstream.
#[test]
fn an_empty_host_is_no_original_host() {
    let (sender, seen) = std::sync::mpsc::channel();
    let up = upstream::http1(move |head, _, connection| {
        sender.send(told(head)).unwrap();
        connection.send(OK);
        true
    });
    let port = free_port();
    let routes = json!([{ "match": { "prefix": "/" }, "route": {
        "cluster": "up", "host_rewrite_literal": "other", "append_x_forwarded_host": true,
    } }]);
    let listener = http("one", port, &routes, json!({}));
    let _proxy = Proxy::start(&config(&[listener], &[cluster("up", up, json!({}))]));
    let mut found = Vec::new();
    for host in ["here", ""] {
        let mut client = http1::Connection::new(at(port));
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(client.response().unwrap().status, 200);
        found.push((format!("host {host:?}"), seen.recv().unwrap()));
    }
    super::record::compare("empty-host", &found, |_, _| None);
}
