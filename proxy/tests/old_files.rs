//! Files of Envoy 1.5 to 1.8 and of the v1 API run: what each of them asks for is done to traffic.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

#[path = "shared/ports.rs"]
mod ports;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The proxy listens within this time; how often that is looked at.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// A running proxy, ended with the test.
struct Proxy {
    child: Child,
    port: u16,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Responds to each connection once. A path with `fail` gets 503 the first time that it is asked
/// for, 200 later.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let failed = Arc::new(AtomicBool::new(false));
        for stream in listener.incoming() {
            let failed = Arc::clone(&failed);
            thread::spawn(move || respond(stream.unwrap(), &failed));
        }
    });
    port
}

fn respond(mut stream: TcpStream, failed: &AtomicBool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut line) = (String::new(), String::new());
    let _read = reader.read_line(&mut first);
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        line.clear();
    }
    let fails = first.contains("fail") && !failed.swap(true, Ordering::SeqCst);
    let status = if fails { 503 } else { 200 };
    let _sent = write!(stream, "HTTP/1.1 {status} S\r\nconnection: close\r\ncontent-length: 2\r\n\r\nup");
}

/// Starts the proxy on a file with `PORT` for its listener and `UP` for the upstream.
fn start(file: &str) -> Proxy {
    let port = ports::free_port();
    let text = file.replace("PORT", &port.to_string()).replace("UP", &upstream().to_string());
    let mut child = Command::new(env!("CARGO_BIN_EXE_proxy"))
        .args(["--concurrency", "1", "--log-level", "error", "--config-yaml", &text])
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "the proxy ended: it says why above");
        assert!(Instant::now() < end, "the proxy does not listen");
        thread::sleep(LOOK);
    }
    Proxy { child, port }
}

/// The whole response to a request.
fn get(proxy: &Proxy, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

const V2: &str = r#"
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: PORT}}
    filter_chains:
    - filters:
      - name: envoy.http_connection_manager
        config:
          stat_prefix: old
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /old}
                redirect: {path_redirect: /new}
              - match: {prefix: /fault}
                route: {cluster: up}
                per_filter_config: {envoy.fault: {abort: {percent: 100, http_status: 418}}}
              - match: {prefix: /full}
                route: {cluster: full}
              - match: {prefix: /fail}
                route: {cluster: up, retry_policy: {retry_on: 5xx, num_retries: 1}}
              - match: {prefix: /split}
                route: {weighted_clusters: {clusters: [{name: up, weight: 100}, {name: full, weight: 0}]}}
              - match: {prefix: /}
                route: {cluster: up}
          http_filters:
          - {name: envoy.health_check, config: {pass_through_mode: false, endpoint: /hc}}
          - {name: envoy.fault, config: {}}
          - {name: envoy.router}
  clusters:
  - {name: up, connect_timeout: 1s, type: STATIC, hosts: [{socket_address: {address: 127.0.0.1, port_value: UP}}]}
  - name: full
    connect_timeout: 1s
    type: STATIC
    hosts: [{socket_address: {address: 127.0.0.1, port_value: UP}}]
    circuit_breakers: {thresholds: [{max_requests: 0}]}
"#;

#[test]
fn a_file_of_the_v2_api_does_what_it_says() {
    let proxy = start(V2);
    assert!(get(&proxy, "/").ends_with("\r\n\r\nup"));
    let moved = get(&proxy, "/old");
    assert!(moved.starts_with("HTTP/1.1 301") && moved.contains("location: http://a/new\r\n"), "{moved}");
    assert!(get(&proxy, "/fault").starts_with("HTTP/1.1 418"));
    let full = get(&proxy, "/full");
    assert!(full.starts_with("HTTP/1.1 503") && full.contains("x-envoy-overloaded: true"), "{full}");
    assert!(get(&proxy, "/fail").starts_with("HTTP/1.1 200"), "the second try succeeds");
    for _ in 0..5 {
        assert!(get(&proxy, "/split").starts_with("HTTP/1.1 200"), "the other cluster has weight 0");
    }
    let health = get(&proxy, "/hc");
    assert!(health.starts_with("HTTP/1.1 200") && !health.ends_with("up"), "{health}");
}

const V1: &str = r#"{
  "listeners": [{"address": "tcp://127.0.0.1:PORT", "filters": [{"type": "read", "name": "http_connection_manager", "config": {
    "codec_type": "auto", "stat_prefix": "old",
    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"prefix": "/", "cluster": "up"}]}]},
    "filters": [
      {"type": "both", "name": "health_check", "config": {"pass_through_mode": false, "endpoint": "/hc"}},
      {"type": "decoder", "name": "buffer", "config": {"max_request_bytes": 65536, "max_request_time_s": 20}},
      {"type": "decoder", "name": "cors", "config": {}},
      {"type": "decoder", "name": "fault", "config": {"abort": {"abort_percent": 100, "http_status": 418},
        "headers": [{"name": ":path", "value": "/fault"}]}},
      {"type": "decoder", "name": "router", "config": {}}]}}]}],
  "admin": {"access_log_path": "/dev/null", "address": "tcp://127.0.0.1:0"},
  "cluster_manager": {"clusters": [{"name": "up", "type": "static", "connect_timeout_ms": 250, "lb_type": "round_robin",
    "hosts": [{"url": "tcp://127.0.0.1:UP"}]}]}
}"#;

#[test]
fn a_file_of_the_v1_api_does_what_it_says() {
    let proxy = start(V1);
    assert!(get(&proxy, "/").ends_with("\r\n\r\nup"));
    assert!(get(&proxy, "/fault").starts_with("HTTP/1.1 418"));
    assert!(!get(&proxy, "/hc").ends_with("up"));
}

const V1_TCP: &str = r#"{
  "listeners": [{"address": "tcp://127.0.0.1:PORT", "filters": [{"type": "read", "name": "tcp_proxy", "config": {
    "stat_prefix": "old", "route_config": {"routes": [{"cluster": "up"}]}}}]}],
  "admin": {"access_log_path": "/dev/null", "address": "tcp://127.0.0.1:0"},
  "cluster_manager": {"clusters": [
    {"name": "up", "type": "static", "connect_timeout_ms": 250, "lb_type": "round_robin", "hosts": [{"url": "tcp://127.0.0.1:UP"}]}]}
}"#;

#[test]
fn the_route_of_a_v1_tcp_proxy_carries() {
    assert!(get(&start(V1_TCP), "/").ends_with("\r\n\r\nup"));
}
