//! Requests that do not come to their end: petmesh counts what Envoy 1.40 counts, on both sides and
//! over both versions.

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, HEADERS, fields};
use super::proxy::{Proxy, at, cluster, config, free_port, http, merged, speaks_http2};
use super::upstream::{self, Gate};

/// What ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The host ends its connection before it responds.
    HostCloses,
    HostAborts,
    /// It resets the stream.
    HostResets,
    HostRefuses,
    /// It breaks off its response.
    BodyCloses,
    BodyAborts,
    BodyResets,
    /// The same, and the request is one of gRPC.
    GrpcCloses,
    Garbage,
    /// It responds before it has the whole request, whose rest never comes.
    Early,
    ClientLeaves,
    /// In the middle of the response.
    ClientLeavesBody,
    RouteTimeout,
    PerTryTimeout,
    /// The proxy responds itself, before it has the whole request.
    Direct,
    /// It refuses the request.
    Malformed,
}

use Event::{
    BodyAborts, BodyCloses, BodyResets, ClientLeaves, ClientLeavesBody, Direct, Early, Garbage, GrpcCloses,
    HostAborts, HostCloses, HostRefuses, HostResets, Malformed, PerTryTimeout, RouteTimeout,
};

const EVENTS: [Event; 16] = [
    HostCloses,
    HostAborts,
    HostResets,
    HostRefuses,
    BodyCloses,
    BodyAborts,
    BodyResets,
    GrpcCloses,
    Garbage,
    Early,
    ClientLeaves,
    ClientLeavesBody,
    RouteTimeout,
    PerTryTimeout,
    Direct,
    Malformed,
];

impl Event {
    fn is_in_body(self) -> bool {
        matches!(self, BodyCloses | BodyAborts | BodyResets | GrpcCloses | ClientLeavesBody)
    }

    fn is_possible(self, client: &str, host: &str) -> bool {
        match self {
            HostResets | HostRefuses | BodyResets => host == "h2",
            Garbage | Direct => host == "h1",
            Malformed => client == "h1" && host == "h1",
            _ => true,
        }
    }
}

/// When a host breaks its response off, and when it ends its connection anyway.
#[derive(Clone, Default)]
struct Gates {
    cut: Gate,
    end: Gate,
}

fn host_http1(event: Event, gates: Gates) -> u16 {
    upstream::http1_heads(move |_head, connection| {
        match event {
            HostCloses | HostAborts => {}
            Garbage => connection.send("garbage\r\n\r\n"),
            Early => connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            _ if event.is_in_body() => {
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello");
                gates.cut.pass();
            }
            _ => {}
        }
        if matches!(event, HostAborts | BodyAborts) {
            abort(&connection.stream);
        } else if !matches!(event, HostCloses | BodyCloses | GrpcCloses) {
            gates.end.pass();
        }
        false
    })
}

/// The end of the connection will be a RST.
fn abort(stream: &std::net::TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

fn host_http2(event: Event, gates: Gates) -> u16 {
    upstream::raw(move |stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let stream = loop {
            match connection.read() {
                Ok(frame) if frame.kind == HEADERS => break frame.stream,
                Ok(_) => {}
                Err(_) => return,
            }
        };
        if event.is_in_body() || event == Early {
            let _ = connection.headers(stream, &fields(&[(":status", "200")]), false);
            let flags = if event == Early { END_STREAM } else { 0 };
            let _ = connection.send(DATA, flags, stream, b"hello");
        }
        if event.is_in_body() {
            gates.cut.pass();
        }
        match event {
            HostCloses | BodyCloses | GrpcCloses => return,
            HostAborts | BodyAborts => return abort(&connection.stream),
            HostResets | BodyResets => connection.reset(stream, 2),
            HostRefuses => connection.reset(stream, 7),
            _ => {}
        }
        gates.end.pass();
    })
}

struct Case {
    name: String,
    event: Event,
    /// Of the client.
    is_http2: bool,
    gates: Gates,
    port: u16,
    /// Of listener and cluster.
    scope: String,
}

fn cases() -> (Vec<Case>, Vec<Value>, Vec<Value>) {
    let (mut cases, mut listeners, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
    for event in EVENTS {
        for host in ["h1", "h2"] {
            for client in ["h1", "h2"].into_iter().filter(|client| event.is_possible(client, host)) {
                let (gates, port) = (Gates::default(), free_port());
                let scope = format!("l{port}");
                let (up, protocol) = match host {
                    "h2" => (host_http2(event, gates.clone()), speaks_http2(&json!({}))),
                    _ => (host_http1(event, gates.clone()), json!({})),
                };
                clusters.push(cluster(&scope, up, protocol));
                let more = match event {
                    RouteTimeout => json!({ "timeout": "0.2s" }),
                    PerTryTimeout => {
                        let policy =
                            json!({ "retry_on": "5xx", "num_retries": 0, "per_try_timeout": "0.2s" });
                        json!({ "timeout": "0s", "retry_policy": policy })
                    }
                    _ => json!({ "timeout": "0s" }),
                };
                let action = match event {
                    Direct => json!({ "direct_response": { "status": 200 } }),
                    _ => json!({ "route": merged(json!({ "cluster": scope }), more) }),
                };
                let routes = json!([merged(json!({ "match": { "prefix": "/" } }), action)]);
                listeners.push(http(&scope, port, &routes, json!({})));
                let name = format!("{event:?} | {client} to {host}");
                cases.push(Case { name, event, is_http2: client == "h2", gates, port, scope });
            }
        }
    }
    (cases, listeners, clusters)
}

impl Case {
    fn run(&self, proxy: &Proxy) {
        if self.is_http2 {
            self.ask_http2(proxy);
        } else {
            self.ask_http1(proxy);
        }
        self.gates.cut.open();
        self.wait_for_end(proxy);
        self.gates.end.open();
    }

    fn has_body(&self) -> bool {
        matches!(self.event, Early | Direct)
    }

    fn wait_for_host(&self, proxy: &Proxy) {
        proxy.wait_stat(&format!("cluster.{}.upstream_rq_active", self.scope), |active| active == 1);
    }

    fn ask_http1(&self, proxy: &Proxy) {
        let mut client = http1::Connection::new(at(self.port));
        let more = if self.event == GrpcCloses { "\r\ncontent-type: application/grpc" } else { "" };
        match self.has_body() {
            true => client.send("POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\nsome"),
            false if self.event == Malformed => client.send("GET / HTTP/1.1\r\nhost: here\r\nbad\r\n\r\n"),
            false => client.send(format!("GET / HTTP/1.1\r\nhost: here\r\nconnection: close{more}\r\n\r\n")),
        }
        if self.event == ClientLeaves {
            return self.wait_for_host(proxy);
        }
        client.until(b"\r\n\r\n").unwrap_or_else(|error| panic!("{}: {error}", self.name));
        if self.event == ClientLeavesBody {
            return;
        }
        self.gates.cut.open();
        client.rest();
    }

    fn ask_http2(&self, proxy: &Proxy) {
        let mut client = http2::Connection::client(at(self.port));
        let mut request = http2::get("/");
        if self.has_body() {
            request[0].1 = b"POST".to_vec();
        }
        if self.event == GrpcCloses {
            request.extend(fields(&[("content-type", "application/grpc")]));
        }
        let stream = client.request(&request, !self.has_body());
        if self.event == ClientLeaves {
            self.wait_for_host(proxy);
            return self.reset(client, stream, proxy);
        }
        while client.read().unwrap_or_else(|error| panic!("{}: {error}", self.name)).kind != HEADERS {}
        if self.event == ClientLeavesBody {
            return self.reset(client, stream, proxy);
        }
        self.gates.cut.open();
        let rest = |client: &mut http2::Connection| loop {
            match client.read() {
                Ok(frame) if frame.stream == stream && (frame.ends_stream() || frame.kind == 3) => return,
                Ok(_) => {}
                Err(_) => return,
            }
        };
        // Responses that end with their headers have nothing behind them.
        if !matches!(self.event, Direct) {
            rest(&mut client);
        }
        self.wait_for_end(proxy);
    }

    /// The connection stays until the end of its stream has been counted.
    fn reset(&self, mut client: http2::Connection, stream: u32, proxy: &Proxy) {
        client.reset(stream, 8);
        self.wait_for_end(proxy);
    }

    /// Waits until the request has been counted and logged.
    fn wait_for_end(&self, proxy: &Proxy) {
        proxy.wait_stat(&format!("http.{}.downstream_rq_active", self.scope), |active| active == 0);
    }
}

#[test]
fn requests_without_their_end_are_counted_as_in_envoy() {
    let (cases, listeners, clusters) = cases();
    let proxy = Proxy::start(&config(&listeners, &clusters));
    let mut found = Vec::new();
    for case in cases {
        case.run(&proxy);
        found.push((case.name, super::record::counted(&proxy, &case.scope, case.port)));
    }
    super::record::compare("resets", &found, |_, _| None);
}
