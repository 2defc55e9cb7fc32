//! Requests and scripts, drawn at random: mostly what clients and upstreams do, now and then what they should not.

use fastrand::Rng;

use crate::case::{Exchange, Request};
use crate::upstream::{Script, Then};

const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE"];

const ODD_METHODS: [&str; 6] = ["FOO", "get", "CONNECT", "PROPFIND", "M-SEARCH", "G@T"];

const PATHS: [&str; 40] = [
    "/",
    "/",
    "/a",
    "/a",
    "/a/b",
    "/a/b?x=1",
    "/other",
    "/other/a",
    "/prefix/a",
    "/prefix",
    "/a?",
    "/a?q=1&q=2",
    "/?",
    "/A",
    "/a/",
    "//a",
    "/a//b",
    "/a/./b",
    "/a/../b",
    "/../a",
    "/a/../../b",
    "/%2e%2e/a",
    "/a%2Fb",
    "/a%2fb%5Cc",
    "/a%5cb",
    "/a%20b",
    "/a%00b",
    "/a%zz",
    "/%41",
    "/a;v=1",
    "/a\\b",
    "/a|b",
    "/~a",
    "/a#f",
    "/a?x=%0d%0ay",
    "/health",
    "/a/b/c/d/e/f",
    "/a?a=b#c",
    "/x.y_z-0",
    "*",
];

const HOSTS: [&str; 16] = [
    "here",
    "here",
    "here",
    "here",
    "HERE",
    "here:80",
    "here:10000",
    "other",
    "other:8080",
    "a.other",
    "here.",
    "",
    "127.0.0.1",
    "[::1]:80",
    "here:",
    "here:http",
];

const HEADERS: [&str; 75] = [
    "x-envoy-fault-abort-request: 418",
    "x-envoy-fault-abort-grpc-request: 7",
    "origin: null",
    "a: b",
    "a: c",
    "a: b,c",
    "A: B",
    "a:",
    "b: x",
    "other: 1",
    "user-agent: judge",
    "user-agent:",
    "accept: */*",
    "accept-encoding: gzip, br",
    "content-type: application/json",
    "content-type: application/grpc",
    "content-type: application/grpc+proto",
    "x-forwarded-for: 10.0.0.1",
    "x-forwarded-for: 10.0.0.1, 192.168.0.1",
    "x-forwarded-for: 8.8.8.8",
    "x-forwarded-for: nonsense",
    "x-forwarded-proto: https",
    "x-forwarded-proto: http",
    "x-forwarded-proto: ftp",
    "x-forwarded-host: elsewhere",
    "x-forwarded-port: 443",
    "x-request-id: 00000000-0000-4000-8000-000000000000",
    "x-request-id: short",
    "x-envoy-internal: true",
    "x-envoy-external-address: 1.2.3.4",
    "x-envoy-downstream-service-cluster: mine",
    "x-envoy-downstream-service-node: mine",
    "x-envoy-max-retries: 2",
    "x-envoy-retry-on: 5xx",
    "x-envoy-retry-on: gateway-error,retriable-4xx",
    "x-envoy-retry-grpc-on: unavailable",
    "x-envoy-retriable-status-codes: 404,500",
    "x-envoy-retriable-header-names: x-retry",
    "x-envoy-upstream-rq-timeout-ms: 5000",
    "x-envoy-upstream-rq-per-try-timeout-ms: 4000",
    "x-envoy-upstream-rq-timeout-alt-response: true",
    "x-envoy-expected-rq-timeout-ms: 10",
    "x-envoy-attempt-count: 7",
    "x-envoy-original-path: /faked",
    "x-envoy-original-host: faked",
    "x-envoy-decorator-operation: op",
    "x-envoy-hedge-on-per-try-timeout: true",
    "x-envoy-upstream-alt-stat-name: alt",
    "x-envoy-upstream-canary: true",
    "x-envoy-overloaded: true",
    "x-envoy-force-trace: 1",
    "x-client-trace-id: abc",
    "connection: close",
    "connection: keep-alive",
    "connection: keep-alive, a",
    "connection: x-custom, close",
    "keep-alive: timeout=5",
    "proxy-connection: keep-alive",
    "te: trailers",
    "te: gzip, trailers",
    "trailer: x-trailer",
    "upgrade: h2c",
    "expect: 100-continue",
    "cookie: a=b",
    "cookie: c=d; e=f",
    "origin: http://other",
    "origin: http://here",
    "access-control-request-method: GET",
    "authorization: Bearer x",
    "x_under: 1",
    "x-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "range: bytes=0-1",
    "if-none-match: \"x\"",
    "grpc-timeout: 5S",
    "via: 1.1 proxy",
];

/// Lines that no client should send.
const ODD_HEADERS: [&str; 14] = [
    "host: second",
    "content-length: x",
    "content-length: 5, 5",
    "transfer-encoding: gzip",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: identity",
    " folded: x",
    "no colon",
    "sp ace: x",
    "bad\u{1}: x",
    "value: a\u{7f}b",
    "value: \u{e9}",
    ": empty",
    "space : x",
];

const BODIES: [&str; 5] = ["", "a", "hello", "{\"a\": 1}", "0123456789abcdef0123456789abcdef"];

/// Heads of responses without framing, each a status line and headers.
const RESPONSES: [&str; 26] = [
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 Fine indeed",
    "HTTP/1.1 200 OK\r\na: b\r\nA: c",
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nserver: own\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT",
    "HTTP/1.1 200 OK\r\nset-cookie: a=b\r\nset-cookie: c=d\r\nvary: a\r\nvary: b",
    "HTTP/1.1 200 OK\r\nconnection: close",
    "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=1",
    "HTTP/1.1 200 OK\r\nx-envoy-upstream-service-time: 5\r\nx-envoy-upstream-canary: true\r\nvia: 1.0 own",
    "HTTP/1.1 200 OK\r\nx-envoy-upstream-healthchecked-cluster: c\r\nx-request-id: r\r\nx-envoy-attempt-count: 9",
    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 0",
    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ngrpc-message: away",
    "HTTP/1.1 201 Created\r\nlocation: /a",
    "HTTP/1.1 206 Partial Content",
    "HTTP/1.1 301 Moved Permanently\r\nlocation: http://other/a",
    "HTTP/1.1 302 Found\r\nlocation: /other",
    "HTTP/1.1 400 Bad Request",
    "HTTP/1.1 404 Not Found",
    "HTTP/1.1 409 Conflict",
    "HTTP/1.1 429 Too Many Requests\r\nx-envoy-ratelimited: true\r\nretry-after: 1",
    "HTTP/1.1 500 Internal Server Error",
    "HTTP/1.1 502 Bad Gateway\r\nx-envoy-immediate-health-check-fail: 1",
    "HTTP/1.1 503 Service Unavailable",
    "HTTP/1.1 503 Service Unavailable\r\nx-envoy-overloaded: true\r\nx-retry: 1",
    "HTTP/1.1 504 Gateway Timeout",
    "HTTP/1.0 200 OK",
];

/// Responses that break the rules, or have none of a body.
const ODD_RESPONSES: [(&str, Then); 17] = [
    ("", Then::Close),
    ("", Then::Reset),
    ("HTTP/1.1 200 OK\r\n", Then::Close),
    ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Then::Close),
    ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Then::Reset),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", Then::Close),
    ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n", Then::Close),
    ("garbage\r\n\r\n", Then::Close),
    ("HTTP/2.0 200 OK\r\n\r\n", Then::Close),
    ("HTTP/1.1 999 High\r\ncontent-length: 0\r\n\r\n", Then::Close),
    ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", Then::Close),
    ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Then::Close),
    ("HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 0\r\n\r\n", Then::Close),
    ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Then::GoOn),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::GoOn),
    (
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Then::GoOn,
    ),
    ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", Then::Close),
];

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from.get(rng.usize(..from.len())).copied().unwrap_or_default()
}

/// One exchange. Where the configuration has short timeouts, upstreams may let them pass.
pub fn exchange(rng: &mut Rng, timeouts: bool) -> Exchange {
    let count = if rng.u8(..8) == 0 { rng.usize(2..4) } else { 1 };
    let http2 = rng.u8(..5) == 0;
    // Envoy closes after two pipelined local replies, and a third request gets no response.
    let pipelined = count == 2 && !http2 && rng.bool();
    let odd = rng.u8(..6) == 0 && count == 1;
    let abort = count == 1 && !odd && rng.u8(..24) == 0;
    let each = |_| if http2 { request_of_http2(rng, odd) } else { request(rng, odd) };
    let requests = (0..count).map(each).collect();
    let mut upstream = vec![script(rng, count == 1)];
    if count == 1 && rng.u8(..4) == 0 {
        // A retry may fare better.
        upstream.push(script(rng, false));
    }
    if abort || (timeouts && count == 1 && rng.u8(..6) == 0) {
        let send = if rng.bool() { WAITING } else { "" };
        let waits = Script { send: send.to_owned(), then: Then::Wait, early: abort && rng.bool() };
        if abort {
            upstream = vec![waits];
        } else {
            upstream.insert(rng.usize(..2), waits);
        }
    }
    Exchange { requests, pipelined, http2, abort, upstream }
}

/// The beginning of a response whose rest does not come.
const WAITING: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";

/// Headers that belong to a connection of HTTP/1: a client of HTTP/2 should not send them.
const OF_HTTP1: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "te: gzip", "upgrade", "A:"];

/// Lines that no client of HTTP/2 should send. A name that begins with a colon replaces a pseudo-header.
const ODD_HEADERS_OF_HTTP2: [&str; 17] = [
    ":scheme: https",
    ":scheme: ftp",
    ":scheme:",
    ":path:",
    ":method:",
    ":authority: second",
    ":status: 200",
    ":unknown: x",
    ":protocol: websocket",
    "host: second",
    "Upper: x",
    "transfer-encoding: chunked",
    "te: trailers, gzip",
    "content-length: 3",
    "content-length: x",
    "value: a\u{1}b",
    "sp ace: x",
];

fn request_of_http2(rng: &mut Rng, odd: bool) -> Request {
    let method = if odd && rng.u8(..4) == 0 { pick(rng, &ODD_METHODS) } else { pick(rng, &METHODS) };
    let target = pick(rng, &PATHS);
    // The `http` crate cuts fragments before petmesh sees them (docs/conformance.md).
    let target = target.split('#').next().unwrap_or(target);
    let mut headers = Vec::new();
    if !(odd && rng.u8(..6) == 0) {
        headers.push(format!("host: {}", pick(rng, &HOSTS)));
    }
    for _ in 0..rng.usize(..5) {
        let header = pick(rng, &HEADERS);
        if odd || !OF_HTTP1.iter().any(|name| header.starts_with(name)) {
            headers.push(header.to_owned());
        }
    }
    if odd && rng.bool() {
        headers.push(pick(rng, &ODD_HEADERS_OF_HTTP2).to_owned());
    }
    let body = if matches!(method, "GET" | "HEAD" | "TRACE" | "CONNECT") && rng.u8(..24) != 0 {
        String::new()
    } else {
        pick(rng, &BODIES).to_owned()
    };
    if !body.is_empty() && rng.bool() {
        headers.push(format!("content-length: {}", body.len()));
    }
    let trailers = if rng.u8(..12) == 0 { vec!["x-trailer: t".to_owned()] } else { Vec::new() };
    Request { line: format!("{method} {target} HTTP/2"), headers, body, trailers }
}

fn request(rng: &mut Rng, odd: bool) -> Request {
    let method = if odd && rng.u8(..4) == 0 { pick(rng, &ODD_METHODS) } else { pick(rng, &METHODS) };
    let mut target = pick(rng, &PATHS).to_owned();
    if rng.u8(..16) == 0 {
        target = format!("http://{}{target}", pick(rng, &HOSTS));
    }
    let version = match rng.u8(..40) {
        0..3 => "HTTP/1.0",
        3 if odd => "HTTP/1.2",
        4 if odd => "HTTP/2.0",
        5 if odd => "",
        _ => "HTTP/1.1",
    };
    let mut headers = Vec::new();
    if !(odd && rng.u8(..6) == 0) {
        headers.push(format!("host: {}", pick(rng, &HOSTS)));
    }
    for _ in 0..rng.usize(..5) {
        headers.push(pick(rng, &HEADERS).to_owned());
    }
    if odd && rng.bool() {
        headers.push(pick(rng, &ODD_HEADERS).to_owned());
    }
    let body = pick(rng, &BODIES);
    let has_body =
        !body.is_empty() && !matches!(method, "GET" | "HEAD" | "TRACE" | "CONNECT") || rng.u8(..24) == 0;
    let mut sent = String::new();
    if has_body {
        if rng.bool() {
            headers.push(format!("content-length: {}", body.len()));
            body.clone_into(&mut sent);
        } else {
            headers.push("transfer-encoding: chunked".to_owned());
            sent = chunked(rng, body, odd);
        }
    }
    let line = if version.is_empty() {
        format!("{method} {target}")
    } else {
        format!("{method} {target} {version}")
    };
    Request { line, headers, body: sent, trailers: Vec::new() }
}

fn chunked(rng: &mut Rng, body: &str, odd: bool) -> String {
    let mut text = String::new();
    let half = rng.usize(..=body.len());
    for piece in [&body[..half], &body[half..]] {
        if !piece.is_empty() {
            let extension = if rng.u8(..6) == 0 { ";name=value" } else { "" };
            text.push_str(&format!("{:x}{extension}\r\n{piece}\r\n", piece.len()));
        }
    }
    if odd && rng.u8(..4) == 0 {
        return format!("{text}zz\r\n");
    }
    text.push_str("0\r\n");
    if rng.u8(..4) == 0 {
        text.push_str("x-trailer: t\r\n");
    }
    text + "\r\n"
}

fn script(rng: &mut Rng, may_be_odd: bool) -> Script {
    if may_be_odd && rng.u8(..5) == 0 {
        let (send, then) = ODD_RESPONSES.get(rng.usize(..ODD_RESPONSES.len())).copied().unwrap_or_default();
        return Script { send: send.to_owned(), then, early: false };
    }
    let head = pick(rng, &RESPONSES);
    let body = pick(rng, &BODIES);
    let early = may_be_odd && rng.u8(..16) == 0;
    let (send, then) = match rng.u8(..8) {
        0 => (format!("{head}\r\ncontent-length: 0\r\n\r\n"), Then::GoOn),
        1 => (format!("{head}\r\n\r\n{body}"), Then::Close),
        2 => ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), Then::GoOn),
        3 => ("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 5\r\n\r\n".to_owned(), Then::GoOn),
        4 | 5 if !head.starts_with("HTTP/1.0") => {
            (format!("{head}\r\ntransfer-encoding: chunked\r\n\r\n{}", chunked(rng, body, false)), Then::GoOn)
        }
        _ => (format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()), Then::GoOn),
    };
    Script { send, then, early }
}
