//! Paths that are normalised, and hosts and paths that are rewritten, as Envoy does both.
//!
//! Every pair of odd segments, with every combination of the settings. `CLIENTS_PROXY=envoy
//! CLIENTS_RECORD=1` writes the tables anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::http1;
use super::http2;
use super::proxy::{Logs, Proxy, access_log, at, cluster, config, free_port, http, merged, route, wait};
use super::upstream;

const SEGMENTS: [&str; 22] = [
    "a", "", ".", "..", "...", "%2e", "%2E%2e", ".%2E", "%2f", "%2F..", "..%2f", "%5c", "%5C..", "\\",
    "..\\", "%00", "%61", "%7e%7E", "%zz", "%", "b;x", "%C3%a9",
];

/// Paths of one and two segments behind the root, and a few longer ones.
fn paths() -> Vec<String> {
    let mut all = vec!["/".to_owned(), "*".to_owned()];
    for one in SEGMENTS {
        all.push(format!("/{one}"));
        all.extend(SEGMENTS.iter().map(|two| format!("/{one}/{two}")));
    }
    for longer in [
        "/a/../../b",
        "/a/b/../../../c/",
        "/a/./../%2e%2e/b/.",
        "///a//..//b",
        "/a//../b",
        "/a/%2e%2e/b?q=/../%2e%2f//",
        "/a%2f%2f..?x=%2f",
        "/a/..?q",
        "/?/../a",
        "/a%25%32%65/b",
        "/a|b/[c]/{d}/\"e\"/^`<>",
        "/a/b%20c/d+e/f%2Bg",
        "/%41%5A%30%2D%5f%2E",
        "/a%3Fb%23c",
        "/.a/..b/c./d..",
    ] {
        all.push(longer.to_owned());
    }
    all
}

const ESCAPED: [&str; 4] =
    ["KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"];

/// An HTTP/1 upstream whose response is the head that it received.
fn echo() -> u16 {
    upstream::http1(|head, _, connection| {
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len()));
        connection.send(head);
        true
    })
}

/// Keeps its connection as long as the proxy does.
struct Client {
    port: u16,
    connection: http1::Connection,
}

impl Client {
    fn new(port: u16) -> Self {
        Self { port, connection: http1::Connection::new(at(port)) }
    }

    fn ask(&mut self, request: &str) -> http1::Response {
        self.connection.send(request);
        let response = self.connection.response().unwrap_or_default();
        if response.status == 0 || response.header("connection").is_some_and(|value| value == "close") {
            self.connection = http1::Connection::new(at(self.port));
        }
        response
    }
}

#[test]
fn paths_are_normalised_as_in_envoy() {
    let mut settings = Vec::new();
    let mut listeners = Vec::new();
    for normalize in [false, true] {
        for merge in [false, true] {
            for escaped in ESCAPED {
                let port = free_port();
                let manager = json!({
                    "normalize_path": normalize, "merge_slashes": merge,
                    "path_with_escaped_slashes_action": escaped,
                });
                listeners.push(http(&format!("p{}", settings.len()), port, &route("up"), manager));
                settings.push(port);
            }
        }
    }
    let proxy = Proxy::start(&config(&listeners, &[cluster("up", echo(), json!({}))]));
    let mut clients: Vec<Client> = settings.iter().map(|port| Client::new(*port)).collect();
    let mut found = Vec::new();
    for path in paths() {
        // Settings by what they do, as a letter each.
        let mut outcomes: BTreeMap<String, String> = BTreeMap::new();
        for (setting, client) in ('a'..).zip(&mut clients) {
            let response = client.ask(&format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"));
            let mut outcome = match response.status {
                200 => http1::path(&response.body),
                status => format!("{status} {}", response.header("location").unwrap_or_default()),
            };
            if let Some(value) = response.header("connection") {
                let _ = write!(outcome, " connection {value}");
            }
            outcomes.entry(outcome).or_default().push(setting);
        }
        let outcome: Vec<String> =
            outcomes.iter().map(|(outcome, settings)| format!("{settings} {outcome}")).collect();
        found.push((path, outcome.join(" | ")));
    }
    for at_setting in 0..settings.len() {
        let counts =
            ["downstream_rq_failed_path_normalization", "downstream_rq_redirected_with_normalized_path"]
                .map(|name| proxy.stat(&format!("http.p{at_setting}.{name}")));
        found.push((format!("counted {at_setting}"), format!("{counts:?}")));
    }
    super::record::compare("paths", &found, |_, _| None);
}

/// Every byte in a path that is normalised, as itself and escaped.
#[test]
fn bytes_of_paths_are_escaped_and_decoded_as_in_envoy() {
    let port = free_port();
    let listener = http("one", port, &route("up"), json!({ "normalize_path": true }));
    let _proxy = Proxy::start(&config(&[listener], &[cluster("up", echo(), json!({}))]));
    let mut client = Client::new(port);
    let mut found = Vec::new();
    for byte in 0..=255_u8 {
        for (what, written) in [("raw", vec![byte]), ("escaped", format!("%{byte:02x}").into_bytes())] {
            client
                .connection
                .send([b"GET /a".as_slice(), &written, b"b HTTP/1.1\r\nhost: here\r\n\r\n"].concat());
            let response = client.connection.response().unwrap_or_default();
            if response.status != 200 {
                client = Client::new(port);
            }
            let path = http1::path(&response.body);
            let seen = if response.status == 200 { &path } else { "refused" };
            found.push((format!("{what} {byte:02x}"), seen.to_owned()));
        }
    }
    super::record::compare("path-bytes", &found, |_, _| None);
}

/// What of a path is logged, and whether the connection goes on, over both versions.
#[test]
fn refused_and_redirected_paths_are_logged_as_in_envoy() {
    let logs = Logs::new();
    let format =
        json!("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %REQ(:PATH)% %ROUTE_NAME%\n");
    let mut found = Vec::new();
    for escaped in ESCAPED {
        let port = free_port();
        let manager = json!({
            "normalize_path": true, "path_with_escaped_slashes_action": escaped,
            "access_log": [access_log(&logs.path(escaped), &format)],
        });
        let listener = http("one", port, &route("up"), manager);
        let clusters = [cluster("up", echo(), json!({}))];
        let _proxy =
            Proxy::start_with(&config(&[listener], &clusters), &["--file-flush-interval-msec", "10"]);
        let mut lines = 0;
        for path in ["/a%2fb", "/a%00b", "/../a", "/%2e%2e/a", "/a\\b"] {
            for version in ["h1", "h1 post", "h2"] {
                let seen = if version == "h2" {
                    let response =
                        http2::Connection::client(at(port)).ask(&http2::get(path)).unwrap_or_default();
                    format!("{} {:?}", response.status(), response.reset)
                } else {
                    let body = if version == "h1" { "" } else { "content-length: 3\r\n" };
                    let mut client = http1::Connection::new(at(port));
                    client.send(format!("POST {path} HTTP/1.1\r\nhost: here\r\n{body}\r\n"));
                    if version != "h1" {
                        client.send("abc");
                    }
                    let response = client.response().unwrap_or_default();
                    let again = client.get("/again").map(|response| response.status);
                    let close = response.header("connection").unwrap_or_default();
                    lines += usize::from(again.is_ok());
                    format!("{} {close} then {}", response.status, again.unwrap_or(0))
                };
                lines += 1;
                let log = wait("the access log", || {
                    let text = logs.read(escaped);
                    (text.lines().count() >= lines).then_some(text)
                });
                let line = log.lines().rfind(|line| !line.contains("/again")).unwrap_or_default();
                found.push((format!("{escaped} | {version} {path}"), format!("{seen} | {line}")));
            }
        }
    }
    super::record::compare("path-logs", &found, |_, _| None);
}

/// Names of the headers that say where a request was to go.
const NAMED: [&str; 5] =
    ["host", "x-forwarded-host", "x-envoy-original-host", "x-envoy-original-path", "x-forwarded-proto"];

fn named(head: &[u8]) -> String {
    let mut text = http1::path(head);
    for name in NAMED {
        if let Some(value) = http1::header(head, name) {
            let _ = write!(text, ", {name} {value:?}");
        }
    }
    text
}

fn pattern(regex: &str, substitution: &str) -> Value {
    json!({ "pattern": { "regex": regex }, "substitution": substitution })
}

#[test]
fn hosts_are_rewritten_as_in_envoy() {
    let by_name = json!({ "type": "STRICT_DNS" });
    let rewrites = [
        ("none", json!({})),
        ("literal", json!({ "host_rewrite_literal": "other:81" })),
        ("the same literal", json!({ "host_rewrite_literal": "here" })),
        ("header", json!({ "host_rewrite_header": "x-host" })),
        ("auto", json!({ "auto_host_rewrite": true })),
        ("auto off", json!({ "auto_host_rewrite": false })),
        ("path", json!({ "host_rewrite_path_regex": pattern("^/([^/]+)/.+$", "\\1") })),
        ("path that is empty", json!({ "host_rewrite_path_regex": pattern("^.*$", "") })),
        ("path with odd characters", json!({ "host_rewrite_path_regex": pattern("^/", "a b/") })),
        ("literal, path", json!({ "host_rewrite_literal": "other", "prefix_rewrite": "/new" })),
        (
            "path, path",
            json!({ "host_rewrite_path_regex": pattern("^/([^/]+)/.+$", "\\1"), "prefix_rewrite": "/new" }),
        ),
        (
            "weighted",
            json!({ "cluster": null, "weighted_clusters": { "clusters": [
                { "name": "up", "weight": 1, "host_rewrite_literal": "weighted" },
            ] } }),
        ),
        (
            "weighted, literal",
            json!({ "host_rewrite_literal": "other", "cluster": null, "weighted_clusters": { "clusters": [
                { "name": "up", "weight": 1, "host_rewrite_literal": "weighted" },
            ] } }),
        ),
        (
            "weighted, header",
            json!({ "host_rewrite_header": "x-host", "cluster": null, "weighted_clusters": { "clusters": [
                { "name": "up", "weight": 1, "host_rewrite_literal": "weighted" },
            ] } }),
        ),
    ];
    let mut found = Vec::new();
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for (name, rewrite) in &rewrites {
        for appends in [false, true] {
            for suppresses in [false, true] {
                for target in ["up", "named"] {
                    if target == "named" && !name.starts_with("auto") {
                        continue;
                    }
                    let port = free_port();
                    let mut routes = route(target);
                    super::proxy::merge(&mut routes[0]["route"], rewrite.clone());
                    routes[0]["route"]["append_x_forwarded_host"] = json!(appends);
                    let mut listener = http(&format!("l{port}"), port, &routes, json!({}));
                    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
                    manager["http_filters"][0]["typed_config"]["suppress_envoy_headers"] = json!(suppresses);
                    listeners.push(listener);
                    cases.push((format!("{name} | {appends} | {suppresses} | {target}"), port));
                }
            }
        }
    }
    let up = echo();
    let mut dns = cluster("named", up, by_name);
    dns["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] = json!("by-name");
    let _proxy = Proxy::start(&config(&listeners, &[cluster("up", up, json!({})), dns]));
    for (case, port) in cases {
        for (what, request) in [
            ("plain", "GET /one/two/three?x=/y HTTP/1.1\r\nhost: here\r\n"),
            ("header", "GET /one/two/three HTTP/1.1\r\nhost: here\r\nx-host: there\r\n"),
            ("empty header", "GET /one HTTP/1.1\r\nhost: here\r\nx-host:\r\n"),
            ("odd header", "GET /one HTTP/1.1\r\nhost: here\r\nx-host: a b\r\n"),
            (
                "said",
                "GET / HTTP/1.1\r\nhost: here\r\nx-forwarded-host: a\r\nx-envoy-original-host: b\r\n\
                 x-envoy-original-path: /c\r\nx-host: there\r\n",
            ),
        ] {
            let mut client = Client::new(port);
            let response = client.ask(&format!("{request}\r\n"));
            let outcome = match response.status {
                200 => named(&response.body),
                status => format!("{status} {:?}", response.text()),
            };
            found.push((format!("{case} | {what}"), outcome));
        }
    }
    // What is no host is refused (RFC 3986, 3.2); Envoy sends it upstream.
    super::record::compare("hosts", &found, |_, envoys| {
        let host = envoys.split("host \"").nth(1)?.split('"').next()?;
        host.contains(['/', ' ']).then(|| "503 \"invalid header value for: :authority\"".to_owned())
    });
}

/// A host's name replaces the one of the host before it, whose failure was retried.
#[test]
fn the_original_host_survives_a_retry() {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let up = upstream::http1(move |head, _, connection| {
        let first = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let status = if first { "503 No" } else { "200 OK" };
        connection.send(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", head.len()));
        connection.send(head);
        true
    });
    let port = free_port();
    let mut routes = route("up");
    let more = json!({
        "auto_host_rewrite": true, "append_x_forwarded_host": true,
        "retry_policy": { "retry_on": "5xx", "num_retries": 1 },
    });
    routes[0]["route"] = merged(routes[0]["route"].clone(), more);
    let mut named_up = cluster("up", up, json!({ "type": "STRICT_DNS" }));
    named_up["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] = json!("by-name");
    let _proxy = Proxy::start(&config(&[http("one", port, &routes, json!({}))], &[named_up]));
    let response = Client::new(port).ask("GET / HTTP/1.1\r\nhost: here\r\n\r\n");
    super::record::compare("host-retry", &[("retried".to_owned(), named(&response.body))], |_, _| None);
}
