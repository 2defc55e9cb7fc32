//! Direct responses and local replies whose headers the configuration changes.
//!
//! `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes the tables anew.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::http1;
use super::http2;
use super::proxy::{Proxy, at, config, free_port, http};

const ACTIONS: [&str; 4] =
    ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"];

/// The headers of a response that say what its body is, each as often as it stands there.
fn about(list: &[(String, String)]) -> String {
    let mut text = String::new();
    let names = [
        "content-type",
        "content-length",
        "transfer-encoding",
        "connection",
        "location",
        "x-more",
        "grpc-status",
        "grpc-message",
    ];
    for name in names {
        for (_, value) in list.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)) {
            let _ = write!(text, ", {name} {value:?}");
        }
    }
    text
}

fn ask_http1(port: u16, method: &str, path: &str) -> String {
    let mut client = http1::Connection::new(at(port));
    let (method, more) =
        if method == "gRPC" { ("GET", "content-type: application/grpc\r\n") } else { (method, "") };
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: here\r\n{more}\r\n"));
    let head = client.until(b"\r\n\r\n").unwrap_or_default();
    let text = String::from_utf8_lossy(&head).into_owned();
    let list: Vec<(String, String)> = text
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // What comes before the next response is the body, whatever its length is said to be.
    let closes = http1::header(&head, "connection").is_some();
    let next = "HTTP/1.1 203 Non-Authoritative Information\r\n";
    let body = if closes {
        client.rest()
    } else {
        client.send("GET /next HTTP/1.1\r\nhost: here\r\n\r\n");
        client.until(next.as_bytes()).unwrap_or_default()
    };
    let body = String::from_utf8_lossy(&body).replace(next, "");
    let status = text.get(9..12).unwrap_or("end");
    format!("{status}{} {body:?}", about(&list))
}

fn ask_http2(port: u16, method: &str, path: &str) -> String {
    let mut request = http2::get(path);
    if method == "gRPC" {
        request.extend(http2::fields(&[("content-type", "application/grpc")]));
    } else {
        request[0].1 = method.as_bytes().to_vec();
    }
    let response = http2::Connection::client(at(port)).ask(&request).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let list: Vec<(String, String)> =
        response.headers.iter().map(|(name, value)| (text(name), text(value))).collect();
    format!("{}{} {:?}", response.status(), about(&list), text(&response.body))
}

fn add(name: &str, value: &str, action: &str) -> Value {
    json!({ "header": { "key": name, "value": value }, "append_action": action })
}

/// What the response says of itself, by what the routes, their host and their table add.
#[test]
fn direct_responses_are_described_as_in_envoy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("body"), "of a file").unwrap();
    let bodies = [
        ("no body", Value::Null),
        ("body", json!({ "inline_string": "inline" })),
        ("file", json!({ "filename": folder.path().join("body") })),
    ];
    let mut changes = vec![
        ("nothing".to_owned(), json!([]), json!([])),
        ("without content-type".to_owned(), json!([]), json!(["content-type"])),
        ("without content-length".to_owned(), json!([]), json!(["content-length"])),
        ("an empty type".to_owned(), json!([merge_keep(add("content-type", "", ACTIONS[2]))]), json!([])),
        (
            "two types".to_owned(),
            json!([add("content-type", "a/b", ACTIONS[0]), add("content-type", "c/d", ACTIONS[0])]),
            json!([]),
        ),
    ];
    for action in ACTIONS {
        for (name, value) in [
            ("content-type", "application/json"),
            ("content-length", "3"),
            ("location", "/l"),
            ("x-more", "m"),
        ] {
            changes.push((format!("{name} {action}"), json!([add(name, value, action)]), json!([])));
        }
    }
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for (body_name, body) in &bodies {
        for (change_name, adds, removes) in &changes {
            let port = free_port();
            let mut routes =
                vec![json!({ "match": { "path": "/next" }, "direct_response": { "status": 203 } })];
            for status in [200, 201, 204, 304, 400, 503] {
                let path = format!("/{status}");
                let mut direct = json!({ "status": status });
                if !body.is_null() {
                    direct["body"] = body.clone();
                }
                routes.push(json!({
                    "match": { "path": path }, "direct_response": direct,
                    "response_headers_to_add": adds, "response_headers_to_remove": removes,
                }));
                cases.push((format!("{status} {body_name} | {change_name}"), port, path));
            }
            let manager = json!({ "delayed_close_timeout": "0s" });
            listeners.push(http(&format!("l{port}"), port, &json!(routes), manager));
        }
    }
    let _proxy = Proxy::start(&config(&listeners, &[]));
    let found: Vec<(String, String)> =
        cases.into_iter().map(|(case, port, path)| (case, ask_all(port, &path))).collect();
    super::record::compare("direct", &found, bodiless);
}

/// A 204 and a 304 have no body (RFC 9110, 15.3.5 and 15.4.5); Envoy sends the one that is
/// configured.
fn bodiless(_: &str, envoys: &str) -> Option<String> {
    let mut outcomes = Outcomes::new();
    for group in envoys.split(" | ") {
        let (clients, outcome) = group.split_once(": ")?;
        let (head, body) = outcome.rsplit_once(" \"").unwrap_or((outcome, "\""));
        let outcome = match head.get(..3) {
            Some("204") => format!("{} \"\"", without_length(head)),
            Some("304") => format!("{head} \"\""),
            _ => format!("{head} \"{body}"),
        };
        outcomes.entry(outcome).or_default().extend(clients.split(", ").map(str::to_owned));
    }
    Some(shown(outcomes))
}

/// Clients by what they see.
type Outcomes = std::collections::BTreeMap<String, Vec<String>>;

fn shown(outcomes: Outcomes) -> String {
    let each = outcomes.into_iter().map(|(outcome, mut clients)| {
        clients.sort();
        format!("{}: {outcome}", clients.join(", "))
    });
    each.collect::<Vec<_>>().join(" | ")
}

fn without_length(head: &str) -> String {
    let others = head.split(", ").filter(|part| !part.starts_with("content-length"));
    others.collect::<Vec<_>>().join(", ")
}

/// Over both versions and with both methods: who sees the same stands together.
fn ask_all(port: u16, path: &str) -> String {
    let mut outcomes = Outcomes::new();
    for method in ["GET", "HEAD", "gRPC"] {
        outcomes.entry(ask_http1(port, method, path)).or_default().push(format!("h1 {method}"));
        outcomes.entry(ask_http2(port, method, path)).or_default().push(format!("h2 {method}"));
    }
    shown(outcomes)
}

/// An empty value is kept.
fn merge_keep(mut add: Value) -> Value {
    add["keep_empty_value"] = json!(true);
    add
}

/// The same for what the manager makes of local replies, by status and by what the mapper changes.
#[test]
fn mapped_replies_are_described_as_in_envoy() {
    let mut found = Vec::new();
    let formats = [
        ("none", Value::Null),
        ("text", json!({ "text_format_source": { "inline_string": "said %LOCAL_REPLY_BODY%" } })),
        ("json", json!({ "json_format": { "said": "%LOCAL_REPLY_BODY%" } })),
        ("html", json!({ "text_format_source": { "inline_string": "<p>" }, "content_type": "text/html" })),
    ];
    let type_of = |action| json!([add("content-type", "application/x-mapped", action)]);
    let mappers = [
        ("none", json!([])),
        ("status", json!([{ "status_code": 418 }])),
        ("no content", json!([{ "status_code": 204 }])),
        ("body", json!([{ "body": { "inline_string": "mapped" } }])),
        ("append", json!([{ "headers_to_add": type_of(ACTIONS[0]) }])),
        ("absent", json!([{ "headers_to_add": type_of(ACTIONS[1]) }])),
        ("overwrite", json!([{ "headers_to_add": type_of(ACTIONS[2]) }])),
        ("override", json!([{ "body_format_override": { "json_format": { "code": "%RESPONSE_CODE%" } } }])),
    ];
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for (format_name, format) in &formats {
        for (mapper_name, mapper) in &mappers {
            let mut reply = json!({ "mappers": mapper });
            if !format.is_null() {
                reply["body_format"] = format.clone();
            }
            // Which statuses the mappers see: the one before any mapping.
            for entry in reply["mappers"].as_array_mut().unwrap() {
                entry["filter"] = json!({ "status_code_filter": { "comparison": {
                    "op": "GE", "value": { "default_value": 400, "runtime_key": "none" },
                } } });
            }
            let routes = json!([
                { "match": { "path": "/direct" }, "direct_response": {
                    "status": 404, "body": { "inline_string": "direct" } },
                  "response_headers_to_add": type_of(ACTIONS[2]) },
                { "match": { "path": "/empty" }, "direct_response": { "status": 503 } },
                { "match": { "path": "/fine" }, "direct_response": {
                    "status": 200, "body": { "inline_string": "fine" } } },
                { "match": { "path": "/moved" }, "redirect": { "path_redirect": "/to" } },
                { "match": { "path": "/next" }, "direct_response": { "status": 203 } },
            ]);
            let port = free_port();
            let manager = json!({ "local_reply_config": reply });
            listeners.push(http(&format!("l{port}"), port, &routes, manager));
            for path in ["/direct", "/empty", "/fine", "/moved", "/none"] {
                cases.push((format!("{format_name} | {mapper_name} | {path}"), port, path));
            }
        }
    }
    let _proxy = Proxy::start(&config(&listeners, &[]));
    for (case, port, path) in cases {
        found.push((case, ask_all(port, path)));
    }
    super::record::compare("mapped", &found, bodiless);
}

/// Names that are appended to themselves: which of them become one line.
#[test]
fn appended_headers_are_joined_as_in_envoy() {
    // Names of requests, then of responses, then of both.
    let names = [
        "accept accept-encoding authorization expect origin referer te user-agent x-envoy-original-path \
         x-envoy-expected-rq-timeout-ms x-forwarded-for x-forwarded-host x-forwarded-port",
        "date etag grpc-message grpc-status last-modified vary x-envoy-upstream-canary",
        "cache-control content-encoding content-type via x-envoy-attempt-count cookie set-cookie \
         accept-language link traceparent warning www-authenticate x-other",
    ];
    let all: Vec<&str> = names.iter().flat_map(|names| names.split_whitespace()).collect();
    let port = free_port();
    // The date of the host is kept.
    let up = super::upstream::http1(|head, _, connection| {
        connection.send(format!("HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: {}\r\n\r\n", head.len()));
        connection.send(head);
        true
    });
    let mut routes = Vec::new();
    for name in &all {
        let adds = json!([add(name, "one", ACTIONS[0]), add(name, "two", ACTIONS[0])]);
        let mut routed = super::proxy::route("up")[0].clone();
        routed["match"] = json!({ "path": format!("/{name}") });
        routed["request_headers_to_add"] = adds.clone();
        routed["response_headers_to_add"] = adds;
        routes.push(routed);
    }
    let cluster = super::proxy::cluster("up", up, json!({}));
    let _proxy = Proxy::start(&config(&[http("one", port, &json!(routes), json!({}))], &[cluster]));
    let mut found = Vec::new();
    for name in all {
        let response = http1::Connection::new(at(port)).get(&format!("/{name}")).unwrap();
        let lines = |head: &[u8]| {
            let text = String::from_utf8_lossy(head).into_owned();
            let lines = text.split("\r\n").filter_map(|line| line.split_once(": "));
            let values = lines.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned());
            values.collect::<Vec<_>>().join(" / ")
        };
        if !names[1].contains(name) {
            found.push((format!("{name} of a request"), lines(&response.body)));
        }
        if !names[0].contains(name) {
            found.push((format!("{name} of a response"), lines(&response.head)));
        }
    }
    super::record::compare("appended", &found, |_, _| None);
}
