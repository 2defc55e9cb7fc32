//! Upgrades and CONNECT: which of them are refused and how, and what the end of one side of a tunnel
//! does to the other.
//!
//! The expectations are what Envoy 1.40 does. `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes them
//! anew.

use std::io::{self, Read};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, Fields, GOAWAY, HEADERS, RST_STREAM, fields};
use super::proxy::{
    DEADLINE, Logs, Proxy, access_log, at, cluster, config, free_port, http, merged, poll, speaks_http2,
};
use super::upstream;

/// Envoy writes its logs only every ten seconds unless it is told otherwise.
const PROMPT: [&str; 2] = ["--file-flush-interval-msec", "50"];
/// A side to which nothing comes for this long stays open.
const STILL: Duration = Duration::from_secs(2);

const PROTOCOLS: [&str; 2] = ["websocket", "CONNECT"];

fn configs(protocols: &[&str], enabled: bool) -> Value {
    let each = protocols.iter().map(|name| json!({ "upgrade_type": name, "enabled": enabled }));
    json!({ "upgrade_configs": each.collect::<Vec<_>>() })
}

/// What the connection manager says of upgrades.
fn managers() -> Vec<(&'static str, Value)> {
    vec![
        ("nothing", json!({})),
        ("all", configs(&PROTOCOLS, true)),
        ("websocket", configs(&["websocket"], true)),
        ("none", configs(&PROTOCOLS, false)),
    ]
}

/// What the route does; `None` where no route matches.
fn routes() -> Vec<(&'static str, Option<Value>)> {
    let to = |more: Value| json!({ "route": merged(json!({ "cluster": "up" }), more) });
    vec![
        ("no route", None),
        ("plain", Some(to(json!({})))),
        ("on", Some(to(configs(&PROTOCOLS, true)))),
        ("off", Some(to(configs(&PROTOCOLS, false)))),
        ("other", Some(to(configs(&["other"], true)))),
        ("no cluster", Some(json!({ "route": { "cluster_header": "x-cluster" } }))),
        ("direct", Some(json!({ "direct_response": { "status": 200 } }))),
        ("redirect", Some(json!({ "redirect": { "path_redirect": "/" } }))),
    ]
}

const REQUESTS: [&str; 3] = ["websocket", "CONNECT", "h2 CONNECT"];

fn websocket() -> String {
    "GET / HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned()
}

fn connect() -> String {
    "CONNECT here:80 HTTP/1.1\r\nhost: here:80\r\n\r\n".to_owned()
}

fn connect_http2() -> Fields {
    fields(&[(":method", "CONNECT"), (":authority", "here:80")])
}

fn status(port: u16, request: &str) -> u16 {
    if request == "h2 CONNECT" {
        let mut client = http2::Connection::client(at(port));
        let stream = client.request(&connect_http2(), false);
        loop {
            match client.read() {
                Ok(frame) if frame.kind == HEADERS && frame.stream == stream => {
                    let headers = client.decode(&frame).unwrap();
                    return http2::find(&headers, ":status").unwrap().parse().unwrap();
                }
                Ok(frame) if frame.kind != RST_STREAM && frame.kind != GOAWAY => {}
                _ => return 0,
            }
        }
    }
    let mut client = http1::Connection::new(at(port));
    client.send(if request == "CONNECT" { connect() } else { websocket() });
    let head = client.until(b"\r\n\r\n").unwrap_or_default();
    String::from_utf8_lossy(&head).split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[test]
fn upgrades_and_connect_are_refused_as_envoy_does() {
    let up = upstream::http1_heads(|head, connection| {
        connection.send(accepts(head));
        connection.rest();
        false
    });
    let (logs, mut listeners, mut cases) = (Logs::new(), Vec::new(), Vec::new());
    for (of_manager, manager) in managers() {
        for (of_route, action) in routes() {
            for matching in ["prefix", "connect"] {
                let port = free_port();
                let log = format!("l{port}");
                let matched = match matching {
                    "prefix" => json!({ "prefix": "/" }),
                    _ => json!({ "connect_matcher": {} }),
                };
                let route = action.clone().map(|action| merged(json!({ "match": matched }), action));
                let format = json!("%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n");
                let more =
                    merged(manager.clone(), json!({ "access_log": [access_log(&logs.path(&log), &format)] }));
                let routes = json!(route.into_iter().collect::<Vec<_>>());
                listeners.push(http(&log, port, &routes, more));
                let case = format!("manager {of_manager} | route {of_route}, {matching}");
                cases.push((case, port, log));
            }
        }
    }
    let _proxy = Proxy::start_with(&config(&listeners, &[cluster("up", up, json!({}))]), &PROMPT);
    let mut found = Vec::new();
    for (case, port, log) in cases {
        let statuses = REQUESTS.map(|request| status(port, request));
        let lines = poll(DEADLINE, || {
            let text = logs.read(&log);
            (text.lines().count() == REQUESTS.len()).then(|| text.lines().map(str::to_owned).collect())
        });
        let lines: Vec<String> = lines.unwrap_or_default();
        for (at, request) in REQUESTS.iter().enumerate() {
            let line = lines.get(at).map_or("(no line)", String::as_str);
            found.push((format!("{case} | {request}"), format!("{} {line}", statuses[at])));
        }
    }
    // Envoy resets a refused CONNECT of HTTP/2 without a word, although it logs a response.
    super::record::compare("upgrades", &found, |_, envoys| {
        envoys.starts_with("0 ").then(|| envoys.replacen('0', "403", 1))
    });
}

fn accepts(head: &[u8]) -> &'static str {
    if head.starts_with(b"CONNECT") {
        "HTTP/1.1 200 OK\r\n\r\n"
    } else {
        "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    }
}

/// Which side of a tunnel ends first, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Client,
    ClientReset,
    Upstream,
    UpstreamReset,
}

/// One side of a tunnel, after the other side said hello.
enum Side {
    One(http1::Connection),
    Two(http2::Connection, u32),
}

impl Side {
    fn say(&mut self, text: &str) {
        match self {
            Self::One(side) => side.send(text),
            Self::Two(side, stream) => {
                let _ = side.send(DATA, 0, *stream, text.as_bytes());
            }
        }
    }

    fn hear(&mut self, length: usize) -> io::Result<()> {
        match self {
            Self::One(side) => side.exactly(length).map(drop),
            Self::Two(side, stream) => {
                let mut heard = 0;
                while heard < length {
                    let frame = side.read()?;
                    if frame.kind == DATA && frame.stream == *stream {
                        heard += frame.payload.len();
                    }
                }
                Ok(())
            }
        }
    }

    /// Ends this side, and listens on.
    fn end(&mut self) {
        match self {
            Self::One(side) => side.half_close(),
            Self::Two(side, stream) => {
                let _ = side.send(DATA, END_STREAM, *stream, b"");
            }
        }
    }

    fn reset(self) {
        match self {
            Self::One(side) => side.reset(),
            Self::Two(mut side, stream) => {
                side.reset(stream, 8);
                // The connection stays until the other side has taken the reset.
                let _ = side.stream.set_read_timeout(Some(STILL));
                while side.read().is_ok() {}
            }
        }
    }

    /// What comes to the end: bytes, and how they end.
    fn rest(&mut self) -> String {
        let (mut bytes, stream) = (
            Vec::new(),
            match self {
                Self::One(side) => &side.stream,
                Self::Two(side, _) => &side.stream,
            },
        );
        stream.set_read_timeout(Some(STILL)).unwrap();
        let end = loop {
            let error = match self {
                Self::One(side) => {
                    let mut piece = [0; 256];
                    match side.stream.read(&mut piece) {
                        Ok(0) => break "end",
                        Ok(read) => {
                            bytes.extend_from_slice(&piece[..read]);
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                Self::Two(side, stream) => match side.read() {
                    Ok(frame) if frame.stream == *stream => {
                        if frame.kind == RST_STREAM {
                            break match frame.code() {
                                0 => "reset NO_ERROR",
                                2 => "reset INTERNAL_ERROR",
                                5 => "reset STREAM_CLOSED",
                                8 => "reset CANCEL",
                                10 => "reset CONNECT_ERROR",
                                _ => "reset",
                            };
                        }
                        if frame.kind == DATA {
                            bytes.extend_from_slice(&frame.payload);
                        }
                        if frame.ends_stream() {
                            break "end";
                        }
                        continue;
                    }
                    Ok(_) => continue,
                    Err(error) => error,
                },
            };
            break match error.kind() {
                io::ErrorKind::WouldBlock => "open",
                io::ErrorKind::ConnectionReset => "reset",
                _ => "closed",
            };
        };
        format!("{} {end}", String::from_utf8_lossy(&bytes)).trim().to_owned()
    }
}

/// The upstream's side of every tunnel of one case; sends what it saw.
fn far_side(first: First, is_http2: bool, seen: mpsc::Sender<String>) -> u16 {
    let seen = std::sync::Mutex::new(seen);
    upstream::raw(move |stream| {
        let Some(mut side) = accept(stream, is_http2) else { return };
        if side.hear(4).is_err() {
            return;
        }
        side.say("pong");
        let tell = |text: String| seen.lock().unwrap().send(text).unwrap();
        if first == First::UpstreamReset {
            // The client has read everything when it says more.
            let _ = side.hear(1);
            side.reset();
            return tell("-".to_owned());
        }
        if first == First::Upstream {
            side.end();
        }
        let text = side.rest();
        if first != First::Upstream && text.ends_with("end") {
            side.say("late");
            side.end();
        }
        tell(text);
        // The socket stays open, lest its end be taken for this side's.
        side.rest();
    })
}

fn accept(stream: std::net::TcpStream, is_http2: bool) -> Option<Side> {
    if !is_http2 {
        let mut side = http1::Connection::over(stream).ok()?;
        let head = side.until(b"\r\n\r\n").ok()?;
        side.send(accepts(&head));
        return Some(Side::One(side));
    }
    let mut side = http2::Connection::server(stream, &[]).ok()?;
    loop {
        let frame = side.read().ok()?;
        if frame.kind == HEADERS {
            side.decode(&frame).ok()?;
            side.headers(frame.stream, &fields(&[(":status", "200")]), false).ok()?;
            return Some(Side::Two(side, frame.stream));
        }
    }
}

fn near_side(port: u16, request: &str) -> Side {
    if request == "h2 CONNECT" {
        let mut side = http2::Connection::client(at(port));
        let stream = side.request(&connect_http2(), false);
        loop {
            let frame = side.read().unwrap();
            if frame.kind == HEADERS {
                side.decode(&frame).unwrap();
                return Side::Two(side, stream);
            }
        }
    }
    let mut side = http1::Connection::new(at(port));
    side.send(if request == "CONNECT" { connect() } else { websocket() });
    side.until(b"\r\n\r\n").unwrap();
    Side::One(side)
}

#[test]
fn the_end_of_one_side_of_a_tunnel_reaches_the_other_as_in_envoy() {
    let (logs, mut listeners, mut clusters, mut cases) = (Logs::new(), Vec::new(), Vec::new(), Vec::new());
    for request in REQUESTS {
        for is_http2 in [false, true] {
            // A websocket to HTTP/2 would be an extended CONNECT.
            if is_http2 && request == "websocket" {
                continue;
            }
            for first in [First::Client, First::ClientReset, First::Upstream, First::UpstreamReset] {
                let (port, (sender, seen)) = (free_port(), mpsc::channel());
                let up = far_side(first, is_http2, sender);
                let name = format!("l{port}");
                let protocol = if is_http2 { speaks_http2(&json!({})) } else { json!({}) };
                clusters.push(cluster(&name, up, protocol));
                let matched = match request {
                    "websocket" => json!({ "prefix": "/" }),
                    _ => json!({ "connect_matcher": {} }),
                };
                let format =
                    json!("%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%\n");
                let more = merged(
                    configs(&PROTOCOLS, true),
                    json!({ "access_log": [access_log(&logs.path(&name), &format)] }),
                );
                let routes = json!([{ "match": matched, "route": { "cluster": name } }]);
                listeners.push(http(&name, port, &routes, more));
                let far = if is_http2 { "h2" } else { "h1" };
                cases.push((format!("{request} to {far}, {first:?}"), request, first, port, name, seen));
            }
        }
    }
    let _proxy = Proxy::start_with(&config(&listeners, &clusters), &PROMPT);
    let found: Vec<(String, String)> = cases
        .into_iter()
        .map(|(case, request, first, port, name, seen)| {
            let mut side = near_side(port, request);
            side.say("ping");
            side.hear(4).unwrap_or_else(|error| panic!("{case}: {error}"));
            let near = match first {
                First::ClientReset => {
                    side.reset();
                    "-".to_owned()
                }
                First::Client => {
                    side.end();
                    side.rest()
                }
                First::Upstream | First::UpstreamReset => {
                    if first == First::UpstreamReset {
                        side.say("x");
                    }
                    let near = side.rest();
                    side.say("late");
                    side.end();
                    drop(side);
                    near
                }
            };
            let far = seen.recv_timeout(DEADLINE).unwrap_or_else(|_| "nothing".to_owned());
            let line = poll(DEADLINE, || Some(logs.read(&name)).filter(|text| !text.is_empty()));
            let line = line.unwrap_or_default();
            (case, format!("client: {near} | upstream: {far} | {}", line.trim()))
        })
        .collect();
    super::record::compare("tunnel-ends", &found, |case, envoys| match case {
        // Envoy closes the upstream's connection and resets the stream: what is on its way is lost.
        "h2 CONNECT to h1, Client" => {
            Some(envoys.replace("reset CONNECT_ERROR", "late end").replace("4 4", "4 8"))
        }
        "h2 CONNECT to h1, Upstream" => Some(envoys.replace("reset CONNECT_ERROR", "end")),
        // A stream that is not needed any more is no error (RFC 9113, 7).
        _ => Some(envoys.replace("upstream: reset INTERNAL_ERROR", "upstream: reset CANCEL")),
    });
}
