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
    Client(How),
    Upstream(How),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Its direction alone, with a FIN or END_STREAM.
    Ends,
    /// The connection, with a FIN.
    Closes,
    /// The stream; over HTTP/1 that is the connection.
    Resets,
    /// The connection of the stream, with a RST.
    Aborts,
}

const HOWS: [How; 4] = [How::Ends, How::Closes, How::Resets, How::Aborts];

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

    /// Ends it otherwise than by its direction alone.
    fn leave(self, how: How) {
        match (self, how) {
            (side, How::Ends | How::Closes) => drop(side),
            (Self::One(side), _) => side.reset(),
            (Self::Two(mut side, stream), How::Resets) => {
                side.reset(stream, 8);
                // The connection stays until the other side has taken the reset.
                let _ = side.stream.set_read_timeout(Some(STILL));
                while side.read().is_ok() {}
            }
            (Self::Two(side, _), How::Aborts) => {
                socket2::SockRef::from(&side.stream).set_linger(Some(Duration::ZERO)).unwrap();
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
        match first {
            First::Client(_) => {}
            First::Upstream(How::Ends) => side.end(),
            First::Upstream(how) => {
                // The client has read everything when it says more.
                let _ = side.hear(1);
                side.leave(how);
                return tell("-".to_owned());
            }
        }
        let text = side.rest();
        if matches!(first, First::Client(_)) && text.ends_with("end") {
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

/// One tunnel with a listener and a cluster of its own.
struct Tunnel {
    case: String,
    request: &'static str,
    first: First,
    port: u16,
    /// Of listener, cluster and log.
    name: String,
    seen: mpsc::Receiver<String>,
}

/// The tunnels of the test, their listeners and their clusters.
fn tunnels(logs: &Logs) -> (Vec<Tunnel>, Vec<Value>, Vec<Value>) {
    let (mut listeners, mut clusters, mut tunnels) = (Vec::new(), Vec::new(), Vec::new());
    let to = [("websocket", false), ("CONNECT", false), ("CONNECT", true)];
    let to = to.into_iter().chain([("h2 CONNECT", false), ("h2 CONNECT", true)]);
    for (request, is_http2) in to {
        let firsts = HOWS.into_iter().flat_map(|how| [First::Client(how), First::Upstream(how)]);
        for first in firsts {
            // Over HTTP/1 a stream is its connection.
            let aborts_http2 = match first {
                First::Client(How::Aborts) => request == "h2 CONNECT",
                First::Upstream(How::Aborts) => is_http2,
                _ => true,
            };
            if !aborts_http2 {
                continue;
            }
            let (port, (sender, seen)) = (free_port(), mpsc::channel());
            let up = far_side(first, is_http2, sender);
            let name = format!("l{port}");
            let protocol = if is_http2 { speaks_http2(&json!({})) } else { json!({}) };
            clusters.push(cluster(&name, up, protocol));
            let matched = match request {
                "websocket" => json!({ "prefix": "/" }),
                _ => json!({ "connect_matcher": {} }),
            };
            let format = json!("%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%\n");
            let more = merged(
                configs(&PROTOCOLS, true),
                json!({ "access_log": [access_log(&logs.path(&name), &format)] }),
            );
            let routes = json!([{ "match": matched, "route": { "cluster": name } }]);
            listeners.push(http(&name, port, &routes, more));
            let far = if is_http2 { "h2" } else { "h1" };
            let case = format!("{request} to {far}, {first:?}");
            tunnels.push(Tunnel { case, request, first, port, name, seen });
        }
    }
    (tunnels, listeners, clusters)
}

impl Tunnel {
    /// What both sides saw, and the log.
    fn carry(&self, logs: &Logs) -> String {
        let mut side = near_side(self.port, self.request);
        side.say("ping");
        side.hear(4).unwrap_or_else(|error| panic!("{}: {error}", self.case));
        let near = match self.first {
            First::Client(How::Ends) => {
                side.end();
                side.rest()
            }
            First::Client(how) => {
                side.leave(how);
                "-".to_owned()
            }
            First::Upstream(how) => {
                if how != How::Ends {
                    side.say("x");
                }
                let near = side.rest();
                side.say("late");
                side.end();
                drop(side);
                near
            }
        };
        let far = self.seen.recv_timeout(DEADLINE).unwrap_or_else(|_| "nothing".to_owned());
        let line = poll(DEADLINE, || Some(logs.read(&self.name)).filter(|text| !text.is_empty()));
        let line = line.unwrap_or_default();
        format!("client: {near} | upstream: {far} | {}", line.trim())
    }
}

#[test]
fn the_end_of_one_side_of_a_tunnel_reaches_the_other_and_is_counted_as_in_envoy() {
    let logs = Logs::new();
    let (tunnels, listeners, clusters) = tunnels(&logs);
    let proxy = Proxy::start_with(&config(&listeners, &clusters), &PROMPT);
    let (mut found, mut counted) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let logs = &logs;
        let each = tunnels.into_iter().map(|tunnel| {
            scope.spawn(move || {
                let seen = tunnel.carry(logs);
                (tunnel, seen)
            })
        });
        for thread in each.collect::<Vec<_>>() {
            let (tunnel, seen) = thread.join().unwrap();
            counted.push((tunnel.case.clone(), super::record::counted(&proxy, &tunnel.name, tunnel.port)));
            found.push((tunnel.case, seen));
        }
    });
    super::record::compare("tunnel-ends", &found, |case, envoys| match case {
        // Envoy closes the upstream's connection and resets the stream: what is on its way is lost.
        "h2 CONNECT to h1, Client(Ends)" => {
            Some(envoys.replace("reset CONNECT_ERROR", "late end").replace("4 4", "4 8"))
        }
        "h2 CONNECT to h1, Upstream(Ends)" | "h2 CONNECT to h1, Upstream(Closes)" => {
            Some(envoys.replace("reset CONNECT_ERROR", "end"))
        }
        // A stream that is not needed any more is no error (RFC 9113, 7).
        _ => Some(envoys.replace("upstream: reset INTERNAL_ERROR", "upstream: reset CANCEL")),
    });
    super::record::compare("tunnel-counts", &counted, |_, _| None);
}
