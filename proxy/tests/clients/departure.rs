//! Departure: a client that leaves ends its request at once, in every wait.
//!
//! Every phase of a request or tunnel, with and without a body on its way, and every way in which a
//! client can leave. The timeouts are so long that none of them can be what ends the request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::blocked::{STILL, block};
use super::http1;
use super::http2::{self, DATA, fields};
use super::injection::report;
use super::proxy::{
    DEADLINE, Logs, Proxy, access_log, active, at, cluster, config, free_port, http, ip, listener, merged,
    poll, router, speaks_http2, typed, wait,
};
use super::upstream;

/// Long after a client's departure, and long before any timeout.
const SOON: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Upload,
    BackOff,
    Connecting,
    Pending,
    FaultDelay,
    Buffering,
    Held,
    Streaming,
    Websocket,
    WebsocketBlocked,
    Connect,
    TcpConnecting,
    TcpCarrying,
    TcpBlocked,
}

const PHASES: [Phase; 14] = [
    Phase::Upload,
    Phase::BackOff,
    Phase::Connecting,
    Phase::Pending,
    Phase::FaultDelay,
    Phase::Buffering,
    Phase::Held,
    Phase::Streaming,
    Phase::Websocket,
    Phase::WebsocketBlocked,
    Phase::Connect,
    Phase::TcpConnecting,
    Phase::TcpCarrying,
    Phase::TcpBlocked,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    Close,
    /// Ends its direction, and still reads. Over HTTP/1 that counts as departure.
    HalfClose,
    Reset,
    StreamReset,
    Http2Close,
    Http2Reset,
}

const DEPARTURES: [Departure; 6] = [
    Departure::Close,
    Departure::HalfClose,
    Departure::Reset,
    Departure::StreamReset,
    Departure::Http2Close,
    Departure::Http2Reset,
];

impl Departure {
    fn is_http2(self) -> bool {
        !matches!(self, Self::Close | Self::HalfClose | Self::Reset)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    None,
    /// Some of it has been sent, and the rest never comes.
    Unfinished,
}

#[derive(Clone, Debug)]
struct Case {
    phase: Phase,
    departure: Departure,
    body: Body,
    /// Whether the host speaks HTTP/2.
    to_http2: bool,
    name: String,
    port: u16,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for phase in PHASES {
        let is_http1 = matches!(
            phase,
            Phase::TcpConnecting
                | Phase::TcpCarrying
                | Phase::TcpBlocked
                | Phase::Websocket
                | Phase::WebsocketBlocked
        );
        let bodies: &[Body] = match phase {
            Phase::Upload | Phase::Buffering => &[Body::Unfinished],
            Phase::BackOff
            | Phase::Connecting
            | Phase::Pending
            | Phase::FaultDelay
            | Phase::Held
            | Phase::Streaming => &[Body::None, Body::Unfinished],
            _ => &[Body::None],
        };
        for departure in DEPARTURES {
            // A client of a tunnel that closes may only have ended its own direction: what it sent
            // is to be delivered.
            let may_be_half =
                matches!(phase, Phase::TcpConnecting | Phase::TcpBlocked | Phase::WebsocketBlocked);
            let is_half = departure == Departure::HalfClose;
            let is_delivered = may_be_half && departure == Departure::Close
                || is_half && (may_be_half || phase == Phase::TcpCarrying);
            if (is_http1 && departure.is_http2()) || is_delivered {
                continue;
            }
            let waits_for_host = matches!(
                phase,
                Phase::Upload
                    | Phase::BackOff
                    | Phase::Connecting
                    | Phase::Pending
                    | Phase::Held
                    | Phase::Streaming
            );
            let hosts: &[bool] = if waits_for_host { &[false, true] } else { &[false] };
            for (body, to_http2) in
                bodies.iter().flat_map(|body| hosts.iter().map(move |host| (*body, *host)))
            {
                let host = if to_http2 { "-http2host" } else { "" };
                let name = format!("{phase:?}-{departure:?}-{body:?}{host}").to_lowercase();
                cases.push(Case { phase, departure, body, to_http2, name, port: free_port() });
            }
        }
    }
    cases
}

/// A port that takes connections into its queue until that is full, and never accepts one.
struct BlackHole {
    port: u16,
    _held: (socket2::Socket, Vec<TcpStream>),
}

impl BlackHole {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((ip(), 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, STILL) {
            queued.push(stream);
        }
        Self { port: address.port(), _held: (socket, queued) }
    }
}

/// The upstream of all phases but those of connecting; the path says what it does.
fn upstream() -> u16 {
    let kept: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    upstream::http1_heads(move |head, connection| {
        let path = http1::path(head);
        let keep = |connection: &http1::Connection| {
            kept.lock().unwrap().push(connection.stream.try_clone().unwrap());
        };
        match path.as_str() {
            "/fail" => {
                connection.send("HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
            "/websocket" => {
                connection
                    .send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
                connection.rest();
            }
            "/websocket-blocked" => {
                connection
                    .send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
                keep(connection);
            }
            // CONNECT is passed on.
            "here:80" => {
                connection.send("HTTP/1.1 200 OK\r\n\r\n");
                connection.rest();
            }
            "/stream" => {
                connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x1_0000], b"\r\n"].concat();
                while connection.stream.write_all(&chunk).is_ok() {}
            }
            // `/hold`: nothing is read, nothing is sent.
            _ => keep(connection),
        }
        false
    })
}

/// The same as HTTP/2. It gives no more window than there is at first, and sends no more than that.
fn upstream_http2() -> u16 {
    upstream::raw(|stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let _ = connection.stream.set_read_timeout(None);
        connection.credits = false;
        let mut begun = 0;
        while let Ok(frame) = connection.read() {
            if frame.kind != http2::HEADERS || frame.stream <= begun {
                continue;
            }
            begun = frame.stream;
            let Ok(request) = connection.decode(&frame) else { return };
            match http2::find(&request, ":path").as_deref() {
                Some("/fail") => {
                    let _ = connection.headers(frame.stream, &fields(&[(":status", "503")]), true);
                }
                Some("/stream") => {
                    let _ = connection.headers(frame.stream, &fields(&[(":status", "200")]), false);
                    let _ = connection.send(DATA, 0, frame.stream, &[b'x'; 0x4000]);
                }
                _ => {}
            }
        }
    })
}

fn http_case(case: &Case, logs: &Logs) -> Value {
    let action = match case.phase {
        Phase::BackOff => json!({ "retry_policy": {
            "retry_on": "5xx", "num_retries": 3,
            "retry_back_off": { "base_interval": "30000s", "max_interval": "40000s" },
        } }),
        Phase::Websocket | Phase::WebsocketBlocked => {
            json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] })
        }
        Phase::Connect => json!({ "upgrade_configs": [{ "upgrade_type": "CONNECT" }] }),
        _ => json!({}),
    };
    let matched = match case.phase {
        Phase::Connect => json!({ "connect_matcher": {} }),
        _ => json!({ "prefix": "/" }),
    };
    let action = merged(json!({ "cluster": case.name, "timeout": "0s" }), action);
    let filters = match case.phase {
        Phase::FaultDelay => json!([
            typed(
                "envoy.filters.http.fault",
                "envoy.extensions.filters.http.fault.v3.HTTPFault",
                json!({ "delay": { "fixed_delay": "3600s", "percentage": { "numerator": 100 } } }),
            ),
            router(),
        ]),
        Phase::Buffering => json!([
            typed(
                "envoy.filters.http.buffer",
                "envoy.extensions.filters.http.buffer.v3.Buffer",
                json!({ "max_request_bytes": 100_000 }),
            ),
            router(),
        ]),
        _ => json!([router()]),
    };
    let more = json!({
        "stream_idle_timeout": "0s",
        "http_filters": filters,
        "access_log": [access_log(&logs.path(&case.name), &json!("%RESPONSE_FLAGS%\n"))],
    });
    http(&case.name, case.port, &json!([{ "match": matched, "route": action }]), more)
}

fn tcp_case(case: &Case, logs: &Logs) -> Value {
    let filter = typed(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({
            "stat_prefix": case.name, "cluster": case.name, "idle_timeout": "0s",
            "access_log": [access_log(&logs.path(&case.name), &json!("%RESPONSE_FLAGS%\n"))],
        }),
    );
    listener(&case.name, case.port, &filter)
}

fn is_blocked(case: &Case) -> bool {
    matches!(case.phase, Phase::Upload | Phase::WebsocketBlocked | Phase::TcpBlocked)
}

fn is_tcp(case: &Case) -> bool {
    matches!(case.phase, Phase::TcpConnecting | Phase::TcpCarrying | Phase::TcpBlocked)
}

/// A connection in its phase.
enum Client {
    One(http1::Connection),
    Two(http2::Connection, u32),
}

impl Client {
    /// Begins the request of a case, and sends as much of the body as the phase needs.
    fn begin(case: &Case) -> Self {
        let path = match case.phase {
            Phase::BackOff => "/fail",
            Phase::Streaming => "/stream",
            Phase::Websocket => "/websocket",
            Phase::WebsocketBlocked => "/websocket-blocked",
            _ => "/hold",
        };
        if case.departure.is_http2() { Self::begin_http2(case, path) } else { Self::begin_http1(case, path) }
    }

    fn begin_http1(case: &Case, path: &str) -> Self {
        let mut client = http1::Connection::new(at(case.port));
        match (case.phase, case.body) {
            (Phase::TcpConnecting, _) => client.send("hello"),
            (Phase::TcpCarrying, _) => client.send("GET /hello HTTP/1.1\r\n"),
            (Phase::TcpBlocked, _) => client.send("GET /hold HTTP/1.1\r\n\r\n"),
            (Phase::Connect, _) => client.send("CONNECT here:80 HTTP/1.1\r\nhost: here:80\r\n\r\n"),
            (Phase::Websocket | Phase::WebsocketBlocked, _) => {
                client.send(format!(
                    "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                ));
            }
            (_, Body::None) => client.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n")),
            (_, Body::Unfinished) => {
                client.send(format!(
                    "POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: 900000000\r\n\r\nsome"
                ));
            }
        }
        match case.phase {
            Phase::Buffering => {
                client = http1::Connection::new(at(case.port));
                client
                    .send(format!("POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: 1000\r\n\r\nsome"));
            }
            Phase::Websocket | Phase::WebsocketBlocked | Phase::Connect => {
                let head = client.until(b"\r\n\r\n").unwrap_or_default();
                assert!(!head.is_empty(), "{}: no response", case.name);
            }
            _ => {}
        }
        Self::One(client)
    }

    fn begin_http2(case: &Case, path: &str) -> Self {
        let mut client = http2::Connection::client(at(case.port));
        let method = if case.body == Body::None { "GET" } else { "POST" };
        let request = match case.phase {
            Phase::Connect => fields(&[(":method", "CONNECT"), (":authority", "here:80")]),
            _ => fields(&[(":method", method), (":scheme", "http"), (":authority", "here"), (":path", path)]),
        };
        let is_tunnel = case.phase == Phase::Connect;
        let stream = client.request(&request, case.body == Body::None && !is_tunnel);
        if is_tunnel {
            while client.read().unwrap().kind != http2::HEADERS {}
        }
        if case.body == Body::Unfinished {
            client.send(DATA, 0, stream, b"some").unwrap();
        }
        if case.phase == Phase::Upload {
            fill(&mut client, stream);
        }
        Self::Two(client, stream)
    }

    fn leave(self, departure: Departure) -> Option<Self> {
        match (self, departure) {
            (Self::One(client), Departure::Close) => drop(client),
            (Self::One(mut client), Departure::HalfClose) => {
                client.half_close();
                return Some(Self::One(client));
            }
            (Self::One(client), _) => client.reset(),
            (Self::Two(mut client, stream), Departure::StreamReset) => {
                client.reset(stream, 8);
                return Some(Self::Two(client, stream));
            }
            (Self::Two(client, _), Departure::Http2Close) => drop(client),
            (Self::Two(client, _), _) => {
                socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        None
    }
}

/// Sends DATA until the other side gives no more window.
fn fill(client: &mut http2::Connection, stream: u32) {
    let (mut connection, mut of_stream) = (65_535_i64 - 4, 65_535_i64 - 4);
    client.stream.set_read_timeout(Some(STILL)).unwrap();
    loop {
        while connection.min(of_stream) >= 0x4000 {
            client.send(DATA, 0, stream, &[b'x'; 0x4000]).unwrap();
            connection -= 0x4000;
            of_stream -= 0x4000;
        }
        let Ok(frame) = client.read() else { break };
        match frame.kind {
            http2::WINDOW_UPDATE if frame.stream == 0 => connection += i64::from(frame.code()),
            http2::WINDOW_UPDATE => of_stream += i64::from(frame.code()),
            http2::SETTINGS if frame.flags & http2::ACK == 0 => {
                for setting in frame.payload.chunks(6).filter(|setting| setting[..2] == [0, 4]) {
                    of_stream += i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap())) - 65_535;
                }
            }
            _ => {}
        }
    }
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();
}

/// Whether the case is where it should be when the client leaves.
fn is_reached(case: &Case, stat: &impl Fn(&str) -> u64) -> bool {
    let of_cluster = |name: &str| stat(&format!("cluster.{}.{name}", case.name));
    let of_http = |name: &str| stat(&format!("http.{}.{name}", case.name));
    match case.phase {
        Phase::TcpConnecting => stat(&active(case.port)) == 1,
        Phase::TcpCarrying | Phase::TcpBlocked => of_cluster("upstream_cx_active") == 1,
        Phase::BackOff => {
            let ended = of_cluster("upstream_rq_total") == 1 && of_cluster("upstream_rq_active") == 0;
            ended && of_http("downstream_rq_active") == 1
        }
        Phase::Connecting | Phase::FaultDelay | Phase::Buffering => of_http("downstream_rq_active") == 1,
        Phase::Pending => of_cluster("upstream_rq_pending_active") == 1,
        _ => of_cluster("upstream_rq_active") == 1,
    }
}

/// The gauges that are not yet back at rest.
fn remaining(case: &Case, stat: &impl Fn(&str) -> u64) -> Vec<String> {
    let c = &case.name;
    let mut names = vec![
        format!("cluster.{c}.upstream_rq_pending_active"),
        format!("cluster.{c}.circuit_breakers.default.rq_retry_open"),
        format!("cluster.{c}.circuit_breakers.default.rq_pending_open"),
    ];
    if is_tcp(case) {
        names.push(format!("cluster.{c}.upstream_cx_active"));
    } else {
        names.push(format!("http.{c}.downstream_rq_active"));
        names.push(format!("cluster.{c}.upstream_rq_active"));
        names.push(format!("cluster.{c}.circuit_breakers.default.rq_open"));
    }
    if case.departure != Departure::StreamReset {
        names.push(active(case.port));
    }
    names.retain(|name| stat(name) != 0);
    names
}

/// The flags that Envoy 1.40 logs. It does not notice a reset in uploads that are blocked, and no
/// departure in tunnels that are blocked and in TCP that is still connecting; nothing is asked for
/// the latter two.
fn flag(case: &Case) -> Option<&'static str> {
    match (case.phase, case.departure) {
        (Phase::TcpConnecting | Phase::TcpBlocked, _) => None,
        (Phase::TcpCarrying, _) => Some("-"),
        (Phase::FaultDelay, Departure::StreamReset) => Some("DI,DR"),
        (Phase::FaultDelay, _) => Some("DI,DC"),
        (_, Departure::StreamReset) => Some("DR"),
        _ => Some("DC"),
    }
}

#[test]
fn a_client_that_leaves_ends_its_request_in_every_phase() {
    let (cases, logs, hole, up) = (cases(), Logs::new(), BlackHole::new(), upstream());
    let up_http2 = upstream_http2();
    let only = std::env::var("CLIENTS_ONLY").unwrap_or_default();
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.name.contains(&only)).collect();
    let tcp = upstream::raw(|mut stream| {
        let mut first = [0; 9];
        if stream.read_exact(&mut first).is_ok() && &first == b"GET /hold" {
            std::thread::sleep(DEADLINE * 2);
        }
        while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
    });
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for case in &cases {
        listeners.push(if is_tcp(case) { tcp_case(case, &logs) } else { http_case(case, &logs) });
        let port = match case.phase {
            Phase::Connecting | Phase::TcpConnecting => hole.port,
            Phase::TcpCarrying | Phase::TcpBlocked => tcp,
            _ if case.to_http2 => up_http2,
            _ => up,
        };
        let mut limits = json!({ "max_requests": 1, "max_pending_requests": 1, "max_retries": 1 });
        if case.phase == Phase::Pending {
            limits = json!({ "max_connections": 1, "max_pending_requests": 1 });
        }
        let mut more = json!({ "connect_timeout": "3600s", "circuit_breakers": { "thresholds": [limits] } });
        if case.to_http2 {
            // One stream a connection, so that the queue is reached as with HTTP/1.
            more = merged(more, speaks_http2(&json!({ "max_concurrent_streams": 1 })));
        }
        clusters.push(cluster(&case.name, port, more));
    }
    let proxy = Proxy::start(&config(&listeners, &clusters));
    let mut holders = Vec::new();
    for case in cases.iter().filter(|case| case.phase == Phase::Pending) {
        let mut holder = http1::Connection::new(at(case.port));
        holder.send("GET /hold HTTP/1.1\r\nhost: here\r\n\r\n");
        proxy.wait_stat(&format!("cluster.{}.upstream_rq_active", case.name), |active| active == 1);
        holders.push((case.name.clone(), holder));
    }
    // Blocking an upload of HTTP/2 takes its time, hence each case begins on a thread of its own.
    let begun: Vec<_> =
        cases.iter().cloned().map(|case| std::thread::spawn(move || Client::begin(&case))).collect();
    let mut clients: Vec<Client> = begun.into_iter().map(|thread| thread.join().unwrap()).collect();
    block(clients.iter_mut().zip(&cases).filter_map(|(client, case)| match client {
        Client::One(client) if is_blocked(case) => Some(client),
        _ => None,
    }));
    let mut faults = Vec::new();
    let mut waiting: Vec<&Case> = cases.iter().collect();
    poll(SOON, || {
        let stats = proxy.stats();
        let stat = |name: &str| stats.get(name).copied().unwrap_or(0);
        waiting.retain(|case| !is_reached(case, &stat));
        waiting.is_empty().then_some(())
    });
    faults.extend(waiting.iter().map(|case| format!("{}: the phase is not reached", case.name)));
    let each = clients.into_iter().zip(&cases).map(|(client, case)| client.leave(case.departure));
    let _left: Vec<Option<Client>> = each.collect();
    let held: Vec<String> = holders.iter().map(|(name, _)| name.clone()).collect();
    let left = |stats: &std::collections::BTreeMap<String, u64>, case: &Case| {
        let stat = |name: &str| {
            let value = stats.get(name).copied().unwrap_or(0);
            // The request that holds the only connection is still there.
            let own = name.ends_with("rq_active") || name.ends_with("downstream_cx_active");
            if held.contains(&case.name) && own { value.saturating_sub(1) } else { value }
        };
        remaining(case, &stat)
    };
    let mut staying: Vec<&Case> = cases.iter().collect();
    poll(SOON, || {
        let stats = proxy.stats();
        staying.retain(|case| !left(&stats, case).is_empty());
        staying.is_empty().then_some(())
    });
    let stats = proxy.stats();
    for case in &staying {
        faults.push(format!("{}: still not 0: {}", case.name, left(&stats, case).join(", ")));
    }
    let logged =
        |case: &Case| flag(case).is_none_or(|flag| logs.read(&case.name).lines().next() == Some(flag));
    let mut ended: Vec<&Case> = cases.iter().filter(|case| left(&stats, case).is_empty()).collect();
    poll(SOON / 4, || {
        ended.retain(|case| !logged(case));
        ended.is_empty().then_some(())
    });
    for case in ended {
        let line = logs.read(&case.name);
        faults.push(format!("{}: logged as {line:?}, not as {:?}", case.name, flag(case)));
    }
    report(&faults, cases.len());
    drop(holders);
    wait("the end of what held", || {
        let stats = proxy.stats();
        held.iter()
            .all(|name| stats.get(&format!("http.{name}.downstream_rq_active")) == Some(&0))
            .then_some(())
    });
}
