//! What is counted and logged of a request, whatever comes of it: petmesh counts every statistic and
//! prints every operator as Envoy 1.40 does.
//!
//! Each kind of request has a listener and a cluster of its own, so that every statistic of theirs
//! is part of the table: also one that should not have moved.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, fields};
use super::proxy::{Logs, Proxy, access_log, at, cluster, config, free_port, http, ip, merged, route, wait};
use super::upstream::{self, Gate};

mod kinds;

use kinds::{Body, Ending, Host, Kind, Message, quiet_router};

/// What a line of the log holds of a request. Of moments, whether they were noted.
const LOGGED: &[&str] = &[
    "PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_FLAGS",
    "RESPONSE_CODE_DETAILS",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "REQUEST_HEADERS_BYTES",
    "RESPONSE_HEADERS_BYTES",
    "REQ(:METHOD)",
    "REQ(:PATH)",
    "REQ(:AUTHORITY)",
    "REQ(HOST)",
    "REQ(:SCHEME)",
    "RESP(:STATUS)",
    "RESP(CONNECTION)",
    "RESP(CONTENT-LENGTH)",
    "GRPC_STATUS",
    "ROUTE_NAME",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_HOST",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "REQUEST_DURATION",
    "REQUEST_TX_DURATION",
    "RESPONSE_DURATION",
    "RESPONSE_TX_DURATION",
    "DURATION",
];

fn abort(stream: &std::net::TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

fn host(does: Host, reads_body: bool, gate: Gate) -> u16 {
    let (bytes, ends, aborts) = match does {
        Host::Keeps(bytes) => (bytes, false, false),
        Host::Closes(bytes) => (bytes, true, false),
        Host::Aborts(bytes) => (bytes, true, true),
        Host::Refuses | Host::Missing => return free_port(),
    };
    upstream::http1_heads(move |head, connection| {
        if reads_body && connection.body(head).is_err() {
            return false;
        }
        connection.send(bytes);
        if aborts {
            // What was sent is read before the end is seen.
            gate.pass();
            abort(&connection.stream);
        }
        !ends
    })
}

struct Case {
    kind: usize,
    name: String,
    http2: bool,
    port: u16,
    scope: String,
    gate: Gate,
}

struct Bench {
    kinds: Vec<Kind>,
    cases: Vec<Case>,
    proxy: Proxy,
    logs: Logs,
}

fn bench() -> Bench {
    let kinds = kinds::all();
    let logs = Logs::new();
    let (mut cases, mut listeners, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
    let format: Map<String, Value> =
        LOGGED.iter().map(|name| ((*name).to_owned(), format!("%{name}%").into())).collect();
    for (at_kind, kind) in kinds.iter().enumerate() {
        for version in ["h1", "h2"] {
            if version == "h2" && matches!(kind.message, Message::Raw(_)) {
                continue;
            }
            let (port, gate) = (free_port(), Gate::default());
            let scope = format!("l{port}");
            let mut up =
                cluster(&scope, host(kind.host, kind.is_whole(), gate.clone()), kind.cluster.clone());
            if matches!(kind.host, Host::Missing) {
                up["load_assignment"]["endpoints"] = json!([]);
            }
            clusters.push(up);
            let mut routes = route(&scope);
            routes[0] = merged(merged(routes[0].clone(), json!({ "name": "one" })), kind.route.clone());
            let manager = json!({
                "delayed_close_timeout": "0.1s",
                "http_filters": [quiet_router()],
                "access_log": [access_log(&logs.path(&scope), &Value::Object(format.clone()))],
            });
            listeners.push(http(&scope, port, &routes, merged(manager, kind.manager.clone())));
            cases.push(Case {
                kind: at_kind,
                name: format!("{} | {version}", kind.name),
                http2: version == "h2",
                port,
                scope,
                gate,
            });
        }
    }
    let arguments = ["--file-flush-interval-msec", "10"];
    clusters.push(cluster("unused", free_port(), json!({})));
    let proxy = Proxy::start_with(&config(&listeners, &clusters), &arguments);
    Bench { kinds, cases, proxy, logs }
}

/// Of so many statistics, the page with one is quick.
fn wait_for(proxy: &Proxy, name: &str, value: u64) {
    let line = format!("\n{name}: {value}\n");
    wait(name, || {
        proxy.page(&format!("/stats?filter=^{name}$"))?.replace('\r', "").contains(&line).then_some(())
    });
}

impl Case {
    fn run(&self, kind: &Kind, proxy: &Proxy, logs: &Logs) {
        match &kind.message {
            Message::Fields(method, path, more, body) if self.http2 => {
                self.ask_http2(kind, (proxy, logs), (*method, *path, *more, *body));
            }
            Message::Fields(method, path, more, body) => {
                let lines: String = more.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let body = match body {
                    Body::None => "\r\n",
                    Body::Whole => "content-length: 4\r\n\r\nsome",
                    Body::Part => "content-length: 100\r\n\r\nsome",
                };
                let bytes = format!("{method} {path} HTTP/1.1\r\nhost: here\r\n{lines}{body}");
                self.ask_http1(kind, proxy, bytes.as_bytes());
            }
            Message::Raw(bytes) => self.ask_http1(kind, proxy, bytes),
        }
    }

    fn wait_for_host(&self, proxy: &Proxy) {
        wait_for(proxy, &format!("cluster.{}.upstream_rq_active", self.scope), 1);
    }

    fn ask_http1(&self, kind: &Kind, proxy: &Proxy, bytes: &[u8]) {
        let mut client = http1::Connection::new(at(self.port));
        client.send(bytes);
        match kind.ending {
            Ending::Turns => return,
            Ending::Leaves => return self.wait_for_host(proxy),
            Ending::Reads | Ending::LeavesBody => {}
        }
        let is_head = bytes.starts_with(b"HEAD");
        loop {
            let Ok(head) = client.until(b"\r\n\r\n") else { return };
            if head.starts_with(b"HTTP/1.1 1") {
                continue;
            }
            if kind.ending == Ending::LeavesBody {
                return;
            }
            self.gate.open();
            let closes = http1::header(&head, "connection").is_some_and(|value| value == "close");
            if closes || (!is_head && client.body(&head).is_err()) {
                client.rest();
            }
            return;
        }
    }

    fn ask_http2(
        &self,
        kind: &Kind,
        (proxy, logs): (&Proxy, &Logs),
        message: (&str, &str, &[(&str, &str)], Body),
    ) {
        let (method, path, more, body) = message;
        let mut client = http2::Connection::client(at(self.port));
        let mut request = http2::get(path);
        request[0].1 = method.into();
        // Those of the connection have no place in HTTP/2.
        let more: Vec<_> =
            more.iter().copied().filter(|(name, _)| !["connection", "upgrade"].contains(name)).collect();
        request.extend(fields(&more));
        let stream = client.request(&request, body == Body::None);
        if body != Body::None {
            let end = if body == Body::Whole { END_STREAM } else { 0 };
            let _ = client.send(DATA, end, stream, b"some");
        }
        if kind.ending == Ending::Leaves {
            return self.wait_for_host(proxy);
        }
        loop {
            let Ok(frame) = client.read() else { return };
            if frame.stream != stream {
                continue;
            }
            if frame.kind == http2::HEADERS {
                self.gate.open();
                if kind.ending == Ending::LeavesBody {
                    return;
                }
            }
            if frame.ends_stream() || frame.kind == http2::RST_STREAM {
                // Before the connection ends, the stream has.
                logs.first_line(&self.scope);
                return;
            }
        }
    }
}

/// The statistics that moved, without those that depend on time or on how bytes are packed.
fn counted(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, case: &Case) -> String {
    let scopes = [
        format!("http.{}.", case.scope),
        format!("cluster.{}.", case.scope),
        format!("listener.{}_{}.", ip(), case.port),
    ];
    let mut moved = Vec::new();
    for (scope, short) in scopes.iter().zip(["", "cluster.", "listener."]) {
        for (name, value) in after.range(scope.clone()..).take_while(|(name, _)| name.starts_with(scope)) {
            let rest = name[scope.len()..].replace(&format!("{}.", case.scope), "");
            let unsteady = [
                "_bytes_",
                "delayed_close_timeout",
                "worker_0",
                "_buffered",
                "flow_control",
                "total_match_count",
            ];
            let changed = value.wrapping_sub(before.get(name).copied().unwrap_or(0));
            if changed != 0 && !unsteady.iter().any(|part| rest.contains(part)) {
                moved.push(format!("{short}{rest} {changed}"));
            }
        }
    }
    moved.join(", ")
}

impl Bench {
    /// The line that a case has left, if it left one.
    fn logged(&self, case: &Case, expected: bool) -> String {
        if !expected {
            return "nothing".to_owned();
        }
        let line = self.logs.first_line(&case.scope);
        let line: Map<String, Value> = serde_json::from_str(&line).unwrap();
        let each = LOGGED.iter().map(|name| {
            let value = match &line[*name] {
                Value::Null => "-".to_owned(),
                Value::String(text) if *name == "UPSTREAM_HOST" && !text.is_empty() => "HOST".to_owned(),
                Value::Number(_) if name.contains("DURATION") => "TIME".to_owned(),
                Value::String(text) => format!("{:?}", text.replace(&case.scope, "SCOPE")),
                other => other.to_string(),
            };
            format!("{name} {value}")
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn requests_are_counted_and_logged_as_in_envoy() {
    let bench = bench();
    let before = bench.proxy.stats();
    let start = counted(&BTreeMap::new(), &before, &bench.cases[0]);
    let mut found = vec![("start | counts".to_owned(), start)];
    for case in &bench.cases {
        case.run(&bench.kinds[case.kind], &bench.proxy, &bench.logs);
    }
    // Unused connections to hosts stay open.
    let is_busy = |name: &str| name.ends_with("_rq_active") || name.ends_with("downstream_cx_active");
    let after = wait("the end of all requests", || {
        let stats = bench.proxy.stats();
        let mut busy =
            stats.iter().filter(|(name, value)| is_busy(name) && !name.contains("admin") && **value > 0);
        busy.next().is_none().then_some(stats)
    });
    for case in &bench.cases {
        let total = format!("http.{}.downstream_rq_total", case.scope);
        let asked = after.get(&total).copied().unwrap_or(0) > 0;
        found.push((format!("{} | log", case.name), bench.logged(case, asked)));
        found.push((format!("{} | counts", case.name), counted(&before, &after, case)));
    }
    super::record::compare("accounts", &found, instead);
}

/// Where petmesh differs on purpose.
fn instead(case: &str, envoys: &str) -> Option<String> {
    match case {
        // The second GOAWAY comes at once, and with it the end of the connection.
        "last request | h2 | counts" => Some(envoys.replace("cx_destroy_remote", "cx_destroy_local")),
        // What came before a broken chunk is passed on.
        "bad chunk | h1 | log" | "bad chunk | h2 | log" => {
            Some(envoys.replace("BYTES_SENT 0", "BYTES_SENT 5"))
        }
        _ => None,
    }
}
