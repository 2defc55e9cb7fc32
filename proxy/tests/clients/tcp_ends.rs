//! Every end of a connection or tunnel writes one complete line: its bytes, its duration, why it
//! ended.
//!
//! The expectations are what Envoy 1.40 does. `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes those of
//! TCP anew.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, fields};
use super::injection::report;
use super::proxy::{
    DEADLINE, Logs, Proxy, access_log, at, cluster, config, free_port, http, listener, merged, poll, typed,
};
use super::upstream;

/// Envoy writes its logs only every ten seconds unless it is told otherwise.
const PROMPT: [&str; 2] = ["--file-flush-interval-msec", "50"];

const FORMAT: &str = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
                      %BYTES_RECEIVED% %BYTES_SENT% %DURATION%\n";

/// What ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client ends its side, and the upstream then its own.
    Client,
    Upstream,
    ClientReset,
    UpstreamReset,
    Idle,
    Duration,
    Refused,
    NoHost,
    NoCluster,
    Overflow,
}

const ENDS: [End; 10] = [
    End::Client,
    End::Upstream,
    End::ClientReset,
    End::UpstreamReset,
    End::Idle,
    End::Duration,
    End::Refused,
    End::NoHost,
    End::NoCluster,
    End::Overflow,
];

impl End {
    fn has_upstream(self) -> bool {
        !matches!(self, Self::Refused | Self::NoHost | Self::NoCluster | Self::Overflow)
    }

    fn filter(self) -> Value {
        match self {
            Self::Idle => json!({ "idle_timeout": "0.3s" }),
            Self::Duration => json!({ "max_downstream_connection_duration": "0.5s" }),
            Self::NoCluster => json!({ "cluster": "nowhere" }),
            _ => json!({}),
        }
    }

    fn cluster(self) -> Value {
        let none = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 0 }] } });
        match self {
            Self::NoHost => json!({ "load_assignment": { "endpoints": [] } }),
            Self::Overflow => none,
            _ => json!({}),
        }
    }
}

fn tcp(name: &str, port: u16, logs: &Logs, more: Value) -> Value {
    let log = access_log(&logs.path(name), &json!(FORMAT));
    let fields = json!({ "stat_prefix": name, "cluster": name, "idle_timeout": "0s", "access_log": [log] });
    let message = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    listener(name, port, &typed("envoy.filters.network.tcp_proxy", message, merged(fields, more)))
}

/// Responds `world` to `hello`, then ends as it is told.
fn world(end: End) -> u16 {
    upstream::raw(move |mut stream| {
        let mut hello = [0; 5];
        if stream.read_exact(&mut hello).is_err() || stream.write_all(b"world!!").is_err() {
            return;
        }
        match end {
            End::UpstreamReset => {
                // The client has read everything when it says more.
                let _ = stream.read_exact(&mut [0]);
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            End::Upstream => {}
            _ => while stream.read(&mut [0; 64]).is_ok_and(|read| read > 0) {},
        }
    })
}

/// Says hello and hears the response.
fn greet(port: u16) -> TcpStream {
    let mut client = TcpStream::connect(at(port)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 7]).unwrap();
    client
}

/// The line of a log, with `ms` in place of its last word when that is a number.
fn line(logs: &Logs, name: &str) -> String {
    let text = poll(DEADLINE, || Some(logs.read(name)).filter(|text| text.ends_with('\n')));
    let text = text.unwrap_or_default();
    let words: Vec<&str> = text.trim_end().split(' ').collect();
    let Some((last, others)) = words.split_last() else { return text };
    let last = if last.parse::<u64>().is_ok() { "ms" } else { last };
    format!("{} {last}", others.join(" "))
}

/// Which counters have counted the end.
fn counted(proxy: &Proxy, name: &str) -> String {
    let of_cluster = [
        "upstream_cx_destroy_local",
        "upstream_cx_destroy_local_with_active_rq",
        "upstream_cx_destroy_remote",
        "upstream_cx_destroy_remote_with_active_rq",
    ];
    let stats = proxy.stats();
    let counts = |each: &&str| stats.get(&format!("cluster.{name}.{each}")).is_some_and(|count| *count > 0);
    of_cluster.into_iter().filter(counts).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_end_of_a_tcp_connection_is_logged_as_in_envoy() {
    let (logs, mut listeners, mut clusters, mut ports) = (Logs::new(), Vec::new(), Vec::new(), Vec::new());
    for end in ENDS {
        let (name, port) = (format!("{end:?}"), free_port());
        let up = if end == End::Refused { free_port() } else { world(end) };
        listeners.push(tcp(&name, port, &logs, end.filter()));
        clusters.push(cluster(&name, up, end.cluster()));
        ports.push(port);
    }
    let proxy = Proxy::start_with(&config(&listeners, &clusters), &PROMPT);
    let mut found = Vec::new();
    for (end, port) in ENDS.into_iter().zip(ports) {
        if end.has_upstream() {
            let mut client = greet(port);
            match end {
                End::Client => drop(client),
                End::ClientReset => {
                    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                }
                End::UpstreamReset => {
                    client.write_all(b"x").unwrap();
                    let _ = client.read(&mut [0]);
                }
                _ => {
                    let _ = client.read(&mut [0]);
                }
            }
        } else {
            http1::Connection::new(at(port)).rest();
        }
        let name = format!("{end:?}");
        let text = format!("{} | {}", line(&logs, &name), counted(&proxy, &name));
        found.push((name, text.trim_end().to_owned()));
    }
    super::record::compare("tcp-ends", &found, |_, _| None);
}

/// Connections that a drain finds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Tcp,
    Websocket,
    Connect,
    Upload,
    Http2Upload,
    Http2Connect,
}

const HELD: [Held; 6] =
    [Held::Tcp, Held::Websocket, Held::Connect, Held::Upload, Held::Http2Upload, Held::Http2Connect];

/// What ends them.
const REASONS: [&str; 4] = ["the drain time of the process", "a removed listener", "a changed chain", "quit"];

impl Held {
    fn listener(self, name: &str, port: u16, logs: &Logs) -> Value {
        if self == Self::Tcp {
            return tcp(name, port, logs, json!({ "cluster": "up" }));
        }
        let to = json!({ "cluster": "up", "timeout": "0s" });
        let routes = json!([
            { "match": { "connect_matcher": {} }, "route": to },
            { "match": { "prefix": "/" }, "route": to },
        ]);
        let more = json!({
            "upgrade_configs": [{ "upgrade_type": "websocket" }, { "upgrade_type": "CONNECT" }],
            "access_log": [access_log(&logs.path(name), &json!(FORMAT))],
        });
        http(name, port, &routes, more)
    }

    /// Opens the connection, sends `hello` and hears `world!!` if there is a response.
    fn open(self, port: u16) -> Client {
        let post =
            fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "here"), (":path", "/")]);
        let connect = fields(&[(":method", "CONNECT"), (":authority", "here:80")]);
        let request = match self {
            Self::Tcp => return Client::One(http1::Connection::over(greet(port)).unwrap()),
            Self::Http2Upload | Self::Http2Connect => {
                let mut client = http2::Connection::client(at(port));
                let request = if self == Self::Http2Upload { post } else { connect };
                let stream = client.request(&request, false);
                client.send(http2::DATA, 0, stream, b"hello").unwrap();
                while self == Self::Http2Connect && client.read().unwrap().kind != http2::DATA {}
                return Client::Two(client);
            }
            Self::Websocket => {
                "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            }
            Self::Connect => "CONNECT here:80 HTTP/1.1\r\nhost: here:80\r\n\r\n",
            Self::Upload => "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhello",
        };
        let mut client = http1::Connection::new(at(port));
        client.send(request);
        if self != Self::Upload {
            client.until(b"\r\n\r\n").unwrap();
            client.send("hello");
            client.exactly(7).unwrap();
        }
        Client::One(client)
    }

    /// As Envoy 1.40 logs it when the drain time is over.
    fn line(self) -> &'static str {
        match self {
            Self::Tcp => "- - - 5 7 ms",
            Self::Upload | Self::Http2Upload => "DC downstream_local_disconnect - 5 0 ms",
            _ => "DC downstream_local_disconnect - 5 7 ms",
        }
    }
}

enum Client {
    One(http1::Connection),
    Two(http2::Connection),
}

impl Client {
    fn ends(self) {
        match self {
            Self::One(mut client) => drop(client.rest()),
            Self::Two(mut client) => while client.read().is_ok() {},
        }
    }
}

/// Agrees to leave HTTP, and responds `world!!` to `hello`; to nothing else.
fn tunnel() -> u16 {
    upstream::raw(|stream| {
        let mut connection = http1::Connection::over(stream).unwrap();
        let _ = connection.stream.set_read_timeout(None);
        if let Ok(first) = connection.exactly(5)
            && first != b"hello"
        {
            let Ok(head) = connection.until(b"\r\n\r\n") else { return };
            match &first[..] {
                b"CONNE" => connection.send("HTTP/1.1 200 OK\r\n\r\n"),
                b"GET /" => connection
                    .send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
                _ => drop(head),
            }
            if connection.exactly(5).is_err() || &first[..] == b"POST " {
                return drop(connection.rest());
            }
        }
        connection.send("world!!");
        connection.rest();
    })
}

#[test]
fn what_a_drain_cuts_is_logged_whole() {
    let mut faults = Vec::new();
    for reason in REASONS {
        let logs = Logs::new();
        let (mut before, mut ports) = (Vec::new(), Vec::new());
        for held in HELD {
            let port = free_port();
            before.push(held.listener(&format!("{held:?}"), port, &logs));
            ports.push(port);
        }
        let clusters = [cluster("up", tunnel(), json!({}))];
        let proxy = Proxy::start_with(&config(&before, &clusters), &["--drain-time-s", "1"]);
        let clients: Vec<Client> = HELD.into_iter().zip(ports).map(|(held, port)| held.open(port)).collect();
        let uploads = ["Upload", "Http2Upload"].map(|name| format!("http.{name}.downstream_rq_active"));
        proxy.wait_stat("cluster.up.upstream_cx_active", |active| active == HELD.len() as u64);
        uploads.iter().for_each(|name| proxy.wait_stat(name, |active| active == 1));
        proxy.wait_stat("cluster.up.upstream_cx_tx_bytes_total", |bytes| bytes > 0);
        match reason {
            "the drain time of the process" => proxy.signal("TERM"),
            "quit" => proxy.quit(),
            "a removed listener" => proxy.write(&config(&[], &clusters)),
            _ => {
                let range = json!([{ "address_prefix": "127.0.0.0", "prefix_len": 8 }]);
                for listener in &mut before {
                    listener["filter_chains"][0]["filter_chain_match"] =
                        json!({ "source_prefix_ranges": range });
                }
                proxy.write(&config(&before, &clusters));
            }
        }
        clients.into_iter().for_each(Client::ends);
        for held in HELD {
            let line = line(&logs, &format!("{held:?}"));
            if line != held.line() {
                faults.push(format!("{reason}: {held:?} is logged as {line:?}, not as {:?}", held.line()));
            }
        }
    }
    report(&faults, REASONS.len() * HELD.len());
}
