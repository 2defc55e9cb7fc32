//! What a duration of 0 means, and one that is not set: every field that may be 0, in front of
//! peers that stop for a while at every step, as in Envoy.
//!
//! A limit is either far shorter than the pause or there is none, so it makes no difference how fast
//! the machine is. `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes the tables anew.

use std::time::Duration;

use serde_json::json;

use super::http1;
use super::proxy::{
    Logs, Proxy, access_log, at, cluster, config, free_port, http, listener, merged, route, typed, wait,
};
use super::upstream;

/// How long each side stops; or until the proxy says something.
const PAUSE: Duration = Duration::from_millis(1600);
/// A limit that ends within a pause, and that a request without one is far from.
const SHORT: &str = "0.5s";
/// How many requests wait at once.
const AT_ONCE: usize = 20;

/// Where a duration stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Manager,
    ManagerCommon,
    Route,
    MaxStream,
    Retry,
    ClusterCommon,
}

const FIELDS: [(Place, &str); 16] = [
    (Place::Manager, "stream_idle_timeout"),
    (Place::Manager, "request_timeout"),
    (Place::Manager, "request_headers_timeout"),
    (Place::Manager, "delayed_close_timeout"),
    (Place::ManagerCommon, "idle_timeout"),
    (Place::ManagerCommon, "max_connection_duration"),
    (Place::ManagerCommon, "max_stream_duration"),
    (Place::Route, "timeout"),
    (Place::Route, "idle_timeout"),
    (Place::MaxStream, "max_stream_duration"),
    (Place::MaxStream, "grpc_timeout_header_max"),
    (Place::Retry, "per_try_timeout"),
    (Place::Retry, "per_try_idle_timeout"),
    (Place::ClusterCommon, "idle_timeout"),
    (Place::ClusterCommon, "max_connection_duration"),
    (Place::ClusterCommon, "max_stream_duration"),
];

/// Waits for what the proxy sends of its own; true when it sent something or closed.
fn interrupted(client: &mut http1::Connection) -> bool {
    client.stream.set_read_timeout(Some(PAUSE)).unwrap();
    let came = client.stream.peek(&mut [0]).is_ok();
    client.stream.set_read_timeout(Some(super::proxy::DEADLINE)).unwrap();
    came
}

/// A request, with a pause at one of its steps; what the client sees.
fn ask(port: u16, step: &str, kind: &str) -> String {
    let mut client = http1::Connection::new(at(port));
    let head = format!("host: here\r\ncontent-type: {kind}\r\ngrpc-timeout: 9S\r\n");
    let post = format!("POST / HTTP/1.1\r\n{head}content-length: 6\r\n\r\n");
    // Whole with its head, so that it makes no difference which of the two comes first.
    let get = format!("GET / HTTP/1.1\r\n{head}\r\n");
    let (first, second) = match step {
        "before the first byte" => (String::new(), format!("{post}abcdef")),
        "within the head" => (get[..40].to_owned(), get[40..].to_owned()),
        "within the body" => (format!("{post}abc"), "def".to_owned()),
        _ => (format!("{post}abcdef"), String::new()),
    };
    client.send(&first);
    let mut early = "";
    if !second.is_empty() {
        early = if interrupted(&mut client) { "early " } else { "" };
        client.send(&second);
    }
    if step == "between two requests" {
        let _ = client.response();
        early = if interrupted(&mut client) { "early " } else { "" };
        client.send(format!("{post}abcdef"));
    }
    let Ok(response) = client.response() else { return format!("{early}end") };
    let grpc = response.header("grpc-status").unwrap_or_default();
    let close = response.header("connection").unwrap_or_default();
    format!("{early}{} {grpc} {close} {:?}", response.status, response.text())
}

const KINDS: [&str; 2] = ["text/plain", "application/grpc"];

const STEPS: [&str; 6] = [
    "before the first byte",
    "within the head",
    "within the body",
    "before the response",
    "within the response",
    "between two requests",
];

/// An upstream that stops where it is told to.
fn slow(step: &'static str) -> u16 {
    upstream::http1(move |_, _, connection| {
        // Until the proxy gives the request up.
        let pause = |connection: &mut http1::Connection| {
            let _ = connection.stream.set_read_timeout(Some(PAUSE));
            let _ = connection.stream.peek(&mut [0]);
            let _ = connection.stream.set_read_timeout(None);
        };
        if step == "before the response" {
            pause(connection);
        }
        connection.send("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 4\r\n\r\nab");
        if step == "within the response" {
            pause(connection);
        }
        connection.send("cd");
        true
    })
}

#[test]
fn a_duration_of_zero_means_what_it_means_to_envoy() {
    let logs = Logs::new();
    let format = json!("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n");
    let ups = STEPS.map(slow);
    let (mut listeners, mut clusters, mut cases) = (Vec::new(), Vec::new(), Vec::new());
    for (place, field) in FIELDS {
        for value in [None, Some("0s"), Some(SHORT)] {
            for ((step, up), kind) in STEPS.iter().zip(ups).flat_map(|step| KINDS.map(|kind| (step, kind))) {
                // An end at once may come before the request or after it.
                let races = field == "max_connection_duration" && value == Some("0s");
                let is_long = field.contains("max_stream_duration") || field.starts_with("grpc");
                if (races && *step != STEPS[0]) || (kind == KINDS[1] && !is_long) {
                    continue;
                }
                let (port, name) = (free_port(), format!("c{}", cases.len()));
                let mut manager = json!({ "access_log": [access_log(&logs.path(&name), &format)] });
                let mut routes = route(&name);
                routes[0]["route"]["retry_policy"] = json!({ "num_retries": 0 });
                let mut common = json!({});
                if let Some(value) = value {
                    match place {
                        Place::Manager => manager[field] = json!(value),
                        Place::ManagerCommon => {
                            manager["common_http_protocol_options"] = json!({ field: value });
                        }
                        Place::Route => routes[0]["route"][field] = json!(value),
                        Place::MaxStream => {
                            routes[0]["route"]["max_stream_duration"] = json!({ field: value });
                        }
                        Place::Retry => routes[0]["route"]["retry_policy"][field] = json!(value),
                        Place::ClusterCommon => common[field] = json!(value),
                    }
                }
                listeners.push(http(&name, port, &routes, manager));
                let message = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
                let options = json!({ "typed_extension_protocol_options": { message: {
                    "@type": format!("type.googleapis.com/{message}"),
                    "explicit_http_config": { "http_protocol_options": {} },
                    "common_http_protocol_options": common,
                } } });
                clusters.push(cluster(&name, up, options));
                let value = value.unwrap_or("-");
                let case = format!("{place:?} {field} {value} | {step} | {kind}");
                cases.push((case, port, *step, kind, name));
            }
        }
    }
    let arguments = ["--file-flush-interval-msec", "10"];
    let _proxy = Proxy::start_with(&config(&listeners, &clusters), &arguments);
    let mut found = Vec::new();
    // Each of them waits, so many ask at once.
    for batch in cases.chunks(AT_ONCE) {
        let threads: Vec<_> = batch
            .iter()
            .map(|(_, port, step, kind, _)| {
                let (port, step, kind) = (*port, *step, *kind);
                std::thread::spawn(move || ask(port, step, kind))
            })
            .collect();
        for ((case, .., name), thread) in batch.iter().zip(threads) {
            let seen = thread.join().unwrap();
            // A connection that closes before its first byte has no request that could be logged.
            let logged = seen != "early end" && seen != "end";
            let log = if logged {
                wait("the access log", || Some(logs.read(name)).filter(|text| !text.is_empty()))
            } else {
                String::new()
            };
            let line = log.lines().last().unwrap_or_default();
            found.push((case.clone(), format!("{seen} | {line}").trim_end().to_owned()));
        }
    }
    super::record::compare("durations", &found, |_, _| None);
}

/// What the upstream hears of the time that it has: the route's limits and the client's.
#[test]
fn the_time_that_is_left_is_announced_as_in_envoy() {
    let up = upstream::http1(|head, _, connection| {
        let say = |name| http1::header(head, name).unwrap_or_else(|| "-".to_owned());
        let body = format!("expected {} grpc {}", say("x-envoy-expected-rq-timeout-ms"), say("grpc-timeout"));
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        true
    });
    let timeouts = [json!(null), json!("600s")];
    let durations = [
        json!(null),
        json!({}),
        json!({ "max_stream_duration": "0s" }),
        json!({ "max_stream_duration": "500s" }),
        json!({ "grpc_timeout_header_max": "0s" }),
        json!({ "grpc_timeout_header_max": "500s" }),
        json!({ "grpc_timeout_header_max": "500s", "grpc_timeout_header_offset": "10s" }),
        json!({ "max_stream_duration": "300s", "grpc_timeout_header_max": "500s" }),
        json!({ "grpc_timeout_header_offset": "10s" }),
    ];
    let retry = json!({ "retry_on": "5xx", "per_try_timeout": "50s" });
    let internal = json!({ "internal_address_config": {
        "cidr_ranges": [{ "address_prefix": "127.0.0.0", "prefix_len": 8 }],
    } });
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for timeout in &timeouts {
        for duration in &durations {
            for (more_name, more) in [
                ("nothing", json!({})),
                ("retries", json!({})),
                ("manager", json!({ "common_http_protocol_options": { "max_stream_duration": "700s" } })),
            ] {
                let port = free_port();
                let mut routes = route("up");
                let mut action = json!({ "timeout": timeout, "max_stream_duration": duration });
                if more_name == "retries" {
                    action["retry_policy"] = retry.clone();
                }
                super::proxy::merge(&mut routes[0]["route"], action);
                let manager = merged(internal.clone(), more);
                listeners.push(http(&format!("l{port}"), port, &routes, manager));
                cases.push((format!("{timeout} {duration} {more_name}"), port));
            }
        }
    }
    let _proxy = Proxy::start(&config(&listeners, &[cluster("up", up, json!({}))]));
    let mut found = Vec::new();
    for (case, port) in cases {
        let mut client = http1::Connection::new(at(port));
        // Requests by what the upstream hears.
        let mut outcomes = std::collections::BTreeMap::<String, Vec<&str>>::new();
        for (what, lines) in [
            ("plain", ""),
            ("grpc", "content-type: application/grpc\r\n"),
            ("grpc 400S", "content-type: application/grpc\r\ngrpc-timeout: 400S\r\n"),
            ("grpc 2H", "content-type: application/grpc\r\ngrpc-timeout: 2H\r\n"),
            ("grpc bad", "content-type: application/grpc\r\ngrpc-timeout: soon\r\n"),
            ("plain 400S", "grpc-timeout: 400S\r\n"),
            ("asks 200000", "x-envoy-upstream-rq-timeout-ms: 200000\r\n"),
            ("asks 0", "x-envoy-upstream-rq-timeout-ms: 0\r\n"),
            ("asks badly", "x-envoy-upstream-rq-timeout-ms: soon\r\n"),
            ("asks 20000 each", "x-envoy-upstream-rq-per-try-timeout-ms: 20000\r\n"),
            ("asks too much each", "x-envoy-upstream-rq-per-try-timeout-ms: 20000000\r\n"),
            (
                "grpc 400S, asks",
                "content-type: application/grpc\r\ngrpc-timeout: 400S\r\n\
                 x-envoy-upstream-rq-timeout-ms: 200000\r\n",
            ),
        ] {
            client.send(format!("GET / HTTP/1.1\r\nhost: here\r\nx-forwarded-for: 127.0.0.1\r\n{lines}\r\n"));
            let response = client.response().unwrap();
            outcomes.entry(format!("{} {}", response.status, response.text())).or_default().push(what);
        }
        let outcomes: Vec<String> =
            outcomes.iter().map(|(outcome, what)| format!("{outcome} [{}]", what.join("; "))).collect();
        found.push((case, outcomes.join(" | ")));
    }
    super::record::compare("announced", &found, |_, _| None);
}

/// TCP connections have a limit of their own.
#[test]
fn tcp_connections_idle_as_in_envoy() {
    let mut found = Vec::new();
    let up = upstream::raw(|mut stream| {
        use std::io::{Read, Write};
        let mut bytes = [0; 16];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            let _ = stream.write_all(&bytes[..read]);
        }
    });
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for value in [json!(null), json!("0s"), json!(SHORT)] {
        let port = free_port();
        let fields =
            merged(json!({ "stat_prefix": "tcp", "cluster": "up" }), json!({ "idle_timeout": value }));
        let proxy = typed("tcp", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", fields);
        listeners.push(listener(&format!("l{port}"), port, &proxy));
        cases.push((format!("tcp idle_timeout {value}"), port));
    }
    let _proxy = Proxy::start(&config(&listeners, &[cluster("up", up, json!({}))]));
    for (case, port) in cases {
        let mut client = http1::Connection::new(at(port));
        client.send("a");
        let echoed = client.exactly(1).is_ok();
        let early = interrupted(&mut client);
        found.push((case, format!("echoed {echoed}, ended {early}")));
    }
    super::record::compare("tcp-idle", &found, |_, _| None);
}
