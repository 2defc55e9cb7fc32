//! The proxy as a process, with an upstream for each place where a request can wait.

use super::ports::free_port;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is waited for comes long before this, or never.
const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again until it is so.
pub fn wait(what: &str, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ask() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Accepts connections, reads the first bytes of each, says something and then nothing.
fn upstream(says: &'static [u8], reads_on: bool) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                let mut read = stream.read(&mut buffer).unwrap_or(0);
                if stream.write_all(says).is_err() {
                    return;
                }
                while reads_on && read > 0 {
                    read = stream.read(&mut buffer).unwrap_or(0);
                }
                if !reads_on {
                    std::thread::sleep(DEADLINE * 10);
                }
            });
        }
    });
    port
}

/// Reads the head of each request, and responds as the script says for the request with that number.
fn scripted(script: fn(u32) -> &'static str) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let number = Arc::new(AtomicU32::new(0));
        for stream in socket.incoming().flatten() {
            let number = Arc::clone(&number);
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if line == "\r\n" {
                        let text = script(number.fetch_add(1, Relaxed));
                        if stream.get_mut().write_all(text.as_bytes()).is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    port
}

/// Reads the head of a request, refuses its body and closes without reading it.
fn refusing() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in socket.incoming().flatten() {
            let mut stream = BufReader::with_capacity(1, stream);
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|read| read > 0) && line != "\r\n" {
                line.clear();
            }
            // A client that has left needs no response.
            let _ = stream.get_mut().write_all(REFUSED.as_bytes());
        }
    });
    port
}

/// The same over HTTP/2: the window stays closed, and the request's stream half-open.
fn refusing_http2() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            while let Ok((stream, _)) = socket.accept().await {
                tokio::task::spawn_local(async move {
                    let mut unread = Vec::new();
                    // A connection that is closed at once was only to see whether the port is open.
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        unread.push(request.into_body());
                        let refused = http::Response::builder().status(413).body(()).unwrap();
                        respond.send_response(refused, true).unwrap();
                    }
                });
            }
        });
    });
    port
}

const REFUSED: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nx-number: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nx-number: 2\r\n\r\n\
                       HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// What `connection` names concerns one connection alone.
const NOMINATED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade, x-hop\r\nx-hop: 1\r\nupgrade: websocket\r\n\r\n";

/// Responds to a request that has come whole, and keeps what comes.
fn collecting() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in socket.incoming().flatten() {
            let keep = Arc::clone(&keep);
            std::thread::spawn(move || {
                let (mut buffer, mut request) = (vec![0; 64 * 1024], Vec::new());
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    request.extend_from_slice(&buffer[..read]);
                    keep.lock().unwrap().extend_from_slice(&buffer[..read]);
                    if is_whole(&request) {
                        request.clear();
                        if stream.write_all(OK.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (port, seen)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length.map(|length| length.parse::<usize>().unwrap()) {
        Some(length) => body.len() >= length,
        None => !head.contains("transfer-encoding: chunked") || body.ends_with("0\r\n\r\n"),
    }
}

/// A 503, then a response whose body is held back, and so on.
fn retried(number: u32) -> &'static str {
    if number.is_multiple_of(2) {
        "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"
    } else {
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no"
    }
}

/// A port where connections stay half-open: the accept queue is full. The sockets keep it so.
fn black_hole() -> (u16, Vec<socket2::Socket>) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.as_socket().unwrap().port();
    let mut sockets = vec![listener];
    for _ in 0..8 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // It is on its way, or waits for ever.
        let _ = socket.connect(&address);
        sockets.push(socket);
    }
    (port, sockets)
}

/// The empty SETTINGS frame, and no word more: the windows stay as they are.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

pub struct Proxy {
    child: Child,
    folder: tempfile::TempDir,
    _black_hole: Vec<socket2::Socket>,
    admin: u16,
    pub one: u16,
    /// The same, with `proxy_100_continue`.
    pub passing: u16,
    pub tcp_connect: u16,
    pub tcp_back_off: u16,
    pub tcp_deaf: u16,
    /// What came to the cluster that requests are mirrored to.
    pub copies: Arc<Mutex<Vec<u8>>>,
    /// What the counters said when a case began.
    base: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [admin, one, passing, tcp_connect, tcp_back_off, tcp_deaf] = [(); 6].map(|()| free_port());
        let (hole, sockets) = black_hole();
        let (copies_port, copies) = collecting();
        let clusters = [
            ("mirrored", upstream(OK.as_bytes(), true), ""),
            ("hanging", upstream(HEAD, true), ""),
            ("copies", copies_port, ""),
            ("early", upstream(HEAD, true), ""),
            ("refusing", refusing(), "outlier_detection: {consecutive_5xx: 1, base_ejection_time: 3600s}"),
            ("refusing-http2", refusing_http2(), "http2_protocol_options: {}"),
            ("delay", upstream(HEAD, true), ""),
            ("hold", upstream(HEAD, true), ""),
            ("connect", hole, ""),
            ("queue", upstream(b"", true), "circuit_breakers: {thresholds: [{max_connections: 1}]}"),
            ("back-off", free_port(), ""),
            ("head", upstream(b"", true), ""),
            ("buffered", upstream(HEAD, true), ""),
            ("body", upstream(HEAD, true), ""),
            ("blocked", upstream(SETTINGS, true), "http2_protocol_options: {}"),
            ("tunnel", upstream(SWITCH, false), ""),
            ("deaf", upstream(b"", false), ""),
            ("ok", scripted(|_| OK), ""),
            ("interim", scripted(|_| INTERIM), ""),
            ("nominated", scripted(|_| NOMINATED), ""),
            ("retried", scripted(retried), "circuit_breakers: {thresholds: [{max_retries: 1}]}"),
        ];
        let log = folder.path().join("log");
        let mut text = format!(
            "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}\n\
             static_resources:\n  clusters:\n"
        );
        for (name, port, more) in clusters {
            writeln!(
                text,
                "  - {{name: {name}, connect_timeout: 3600s, {more}{} load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}",
                if more.is_empty() { "" } else { "," },
            )
            .unwrap();
        }
        text.push_str("  listeners:\n");
        let routes = clusters.map(|(name, ..)| route(name)).join("\n");
        for (name, port, more) in [("one", one, ""), ("passing", passing, "proxy_100_continue: true")] {
            writeln!(text, "{}", http_listener(name, port, more, &routes, log.to_str().unwrap())).unwrap();
        }
        for (port, cluster) in [(tcp_connect, "connect"), (tcp_back_off, "back-off"), (tcp_deaf, "deaf")] {
            writeln!(text, "{}", tcp_listener(port, cluster)).unwrap();
        }
        let path = folder.path().join("proxy.yaml");
        std::fs::write(&path, text).unwrap();
        let errors = std::fs::File::create(folder.path().join("errors")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_proxy"))
            .args(["--concurrency", "1", "-c"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let base = String::new();
        let mut proxy = Self {
            child,
            folder,
            _black_hole: sockets,
            admin,
            one,
            passing,
            tcp_connect,
            tcp_back_off,
            tcp_deaf,
            copies,
            base,
        };
        let mut ready = || {
            if let Ok(Some(status)) = proxy.child.try_wait() {
                panic!("{status}: {}", std::fs::read_to_string(proxy.folder.path().join("errors")).unwrap());
            }
            [one, admin].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
        };
        wait("the proxy", &mut ready);
        wait("quiet", || proxy.connections(one) == 0);
        proxy.reset_counters();
        proxy
    }

    fn stats(&self) -> String {
        let mut admin = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        write!(admin, "GET /stats HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        admin.read_to_string(&mut text).unwrap();
        text
    }

    /// A gauge, or how far a counter has gone since the case began. It must be declared: waiting
    /// for another name proves nothing.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        let now = value(&stats, name).unwrap_or_else(|| panic!("there is no statistic {name}"));
        self.since(name, now)
    }

    /// The same of a statistic that comes with its first event.
    pub fn stat_or_zero(&self, name: &str) -> u64 {
        self.since(name, value(&self.stats(), name).unwrap_or(0))
    }

    fn since(&self, name: &str, now: u64) -> u64 {
        let is_gauge = name.ends_with("active") || name.ends_with("faults");
        if is_gauge { now } else { now - value(&self.base, name).unwrap_or(0) }
    }

    pub fn reset_counters(&mut self) {
        self.base = self.stats();
    }

    /// Requests of listener `one` that are active.
    pub fn active(&self) -> u64 {
        self.stat("http.one.downstream_rq_active")
    }

    pub fn connections(&self, port: u16) -> u64 {
        self.stat(&format!("listener.127.0.0.1_{port}.downstream_cx_active"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

fn value(stats: &str, name: &str) -> Option<u64> {
    let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.map(|value| value.trim().parse().unwrap())
}

fn route(name: &str) -> String {
    let filters = match name {
        "delay" => {
            ", typed_per_filter_config: {fault: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: {fixed_delay: 3600s, percentage: {numerator: 100}}}}"
        }
        "hold" | "buffered" => {
            ", typed_per_filter_config: {buffer: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, buffer: {max_request_bytes: 100000000}}}"
        }
        _ => {
            ", typed_per_filter_config: {buffer: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, disabled: true}}"
        }
    };
    let retry = match name {
        "back-off" => {
            ", retry_policy: {retry_on: connect-failure, num_retries: 1000, retry_back_off: {base_interval: 360000s, max_interval: 360000s}}"
        }
        "retried" => ", retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}}",
        "early" => ", request_mirror_policies: [{cluster: refusing}, {cluster: refusing-http2}]",
        "mirrored" | "buffered" => ", request_mirror_policies: [{cluster: copies}]",
        "hanging" => {
            ", request_mirror_policies: [{cluster: deaf}, {cluster: connect}, {cluster: back-off}, {cluster: copies, runtime_fraction: {default_value: {}}}]"
        }
        _ => "",
    };
    format!(
        "              - {{match: {{prefix: /{name}}}, route: {{cluster: {name}, timeout: 0s{retry}}}{filters}}}"
    )
}

fn http_listener(name: &str, port: u16, more: &str, routes: &str, log: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          {more}
          http_protocol_options: {{accept_http_10: true, enable_trailers: true}}
          stream_idle_timeout: 0s
          request_timeout: 0s
          upgrade_configs: [{{upgrade_type: websocket}}]
          access_log:
          - name: log
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{text_format_source: {{inline_string: "%REQ(:PATH)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
{routes}
          http_filters:
          - name: fault
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}
          - name: buffer
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
              max_request_bytes: 100000000
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"#
    )
}

fn tcp_listener(port: u16, cluster: &str) -> String {
    format!(
        r#"  - name: tcp-{cluster}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: {cluster}
          idle_timeout: 0s
          max_connect_attempts: 1000
          backoff_options: {{base_interval: 360000s, max_interval: 360000s}}"#
    )
}
