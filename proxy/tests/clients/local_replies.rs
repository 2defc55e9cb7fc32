//! Local replies, direct responses and redirects: what the route adds to them and what
//! `local_reply_config` makes of that, as in Envoy 1.40.
//!
//! Every kind of response, with every change of the route, through every mapper.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::http1::Connection;
use super::proxy::{Proxy, at, cluster, config, free_port, http, merged};

const ACTIONS: [&str; 4] =
    ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"];

const METHODS: [(&str, &str, &str); 3] =
    [("GET", "GET", ""), ("HEAD", "HEAD", ""), ("gRPC", "POST", "content-type: application/grpc\r\n")];

fn add(name: &str, value: &str, action: &str) -> Value {
    json!({ "header": { "key": name, "value": value }, "append_action": action })
}

fn kinds() -> Vec<(&'static str, Value)> {
    let direct = |response: Value| json!({ "direct_response": response });
    vec![
        ("refused", json!({ "route": { "cluster": "refusing" } })),
        ("text", direct(json!({ "status": 200, "body": { "inline_string": "hello" } }))),
        ("missing", direct(json!({ "status": 404, "body": { "inline_string": "none" } }))),
        ("empty", direct(json!({ "status": 200 }))),
        ("no-content", direct(json!({ "status": 204 }))),
        ("no-content-with-body", direct(json!({ "status": 204, "body": { "inline_string": "x" } }))),
        ("not-modified", direct(json!({ "status": 304 }))),
        ("redirect", json!({ "redirect": { "path_redirect": "/new" } })),
    ]
}

fn changes() -> Vec<(String, Value)> {
    let mut changes = vec![
        ("nothing".to_owned(), json!({})),
        (
            "removed".to_owned(),
            json!({ "response_headers_to_remove": ["content-type", "content-length", "x-map"] }),
        ),
        (
            "evaluated".to_owned(),
            json!({ "response_headers_to_add": [add("x-code", "%RESPONSE_CODE% %RESPONSE_FLAGS%", ACTIONS[0])] }),
        ),
    ];
    for action in ACTIONS {
        let own = [add("content-type", "text/html", action)];
        changes.push((format!("type-{action}"), json!({ "response_headers_to_add": own })));
        let other = [add("x-map", "route", action), add("content-length", "3", action)];
        changes.push((format!("length-{action}"), json!({ "response_headers_to_add": other })));
    }
    changes
}

fn mappers() -> Vec<(&'static str, Value)> {
    let every = json!({ "status_code_filter": { "comparison": {
        "op": "GE", "value": { "default_value": 100, "runtime_key": "none" },
    } } });
    let mapper = |fields: Value| {
        let filtered = merged(json!({ "filter": every }), fields);
        json!({ "local_reply_config": { "mappers": [filtered] } })
    };
    let headers = |action: &str| json!({ "headers_to_add": [add("content-type", "text/x", action), add("x-map", "mapper", action)] });
    let json_format = json!({ "text": "%LOCAL_REPLY_BODY%", "code": "%RESPONSE_CODE%" });
    let text_format = "<%LOCAL_REPLY_BODY%> %RESP(X-MAP)% %RESP(CONTENT-TYPE)%";
    vec![
        ("none", json!({})),
        ("appends", mapper(headers(ACTIONS[0]))),
        ("absent", mapper(headers(ACTIONS[1]))),
        ("overwrites", mapper(headers(ACTIONS[2]))),
        ("body", mapper(json!({ "body": { "inline_string": "mapped\n\n" } }))),
        (
            "status",
            mapper(json!({
                "status_code": 418,
                "headers_to_add": [add("x-status", "%RESPONSE_CODE%", ACTIONS[0])],
            })),
        ),
        ("json", mapper(json!({ "body_format_override": { "json_format": json_format } }))),
        (
            "format",
            json!({ "local_reply_config": { "body_format": {
                "text_format_source": { "inline_string": text_format },
                "content_type": "text/html; charset=UTF-8",
            } } }),
        ),
    ]
}

/// The headers in order, and the body.
fn outcome(port: u16, (method, fields): (&str, &str), path: &str) -> String {
    let mut client = Connection::new(at(port));
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: here\r\n{fields}\r\n"));
    let head = client.until(b"\r\n\r\n").unwrap();
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines: Vec<&str> = text.trim_end().split("\r\n").collect();
    lines.retain(|line| !line.starts_with("date:") && !line.starts_with("server:"));
    lines[1..].sort_unstable();
    // What follows a 204 or a 304 is no body, and a 204 has no length (RFC 9110, 8.6), whatever Envoy sends.
    if lines[0].contains(" 204 ") {
        lines.retain(|line| !line.starts_with("content-length:"));
    }
    let bodiless = method == "HEAD" || [" 204 ", " 304 "].iter().any(|status| lines[0].contains(status));
    let body = if bodiless { None } else { client.body(&head).unwrap() };
    format!("{} {:?}", lines.join(", "), String::from_utf8_lossy(&body.unwrap_or_default()))
}

fn all_found() -> Vec<(String, String)> {
    let (mut listeners, mut ports) = (Vec::new(), Vec::new());
    for (mapper, fields) in mappers() {
        let mut routes = Vec::new();
        for (kind, action) in kinds() {
            for (change, fields) in changes() {
                let matched = json!({ "match": { "path": format!("/{kind}/{change}") } });
                routes.push(merged(merged(matched, action.clone()), fields));
            }
        }
        let port = free_port();
        listeners.push(http(mapper, port, &json!(routes), fields));
        ports.push((mapper, port));
    }
    let _proxy = Proxy::start(&config(&listeners, &[cluster("refusing", free_port(), json!({}))]));
    let mut found = Vec::new();
    for (mapper, port) in ports {
        for (kind, _) in kinds() {
            for (name, method, fields) in METHODS {
                let mut groups = BTreeMap::<String, Vec<String>>::new();
                for (change, _) in changes() {
                    let path = format!("/{kind}/{change}");
                    let outcome = outcome(port, (method, fields), &path).replace(&path, "PATH");
                    groups.entry(outcome).or_default().push(change);
                }
                let each = groups.iter().map(|(outcome, of)| format!("[{}] {outcome}", of.join(" ")));
                found.push((format!("{mapper} {kind} {name}"), each.collect::<Vec<_>>().join(" | ")));
            }
        }
    }
    found
}

#[test]
fn local_replies_are_changed_as_in_envoy() {
    super::record::compare("local-replies", &all_found(), |_, _| None);
}
