//! Odd requests: what a client gets wrong is the client's own error, with every protocol of the
//! host speaks.
//!
//! Every byte in every part of a request, over both versions, against hosts that outlier detection
//! would eject for a single error.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, Fields, fields};
use super::injection::report;
use super::proxy::{Proxy, at, cluster, config, free_port, http, merged, route, speaks_http2, wait};
use super::upstream;

/// What is put into a part of a request beside single bytes.
const SNIPPETS: [&str; 24] = [
    "a<b",
    "a\"b",
    "{x}",
    "a|b",
    "a\\b",
    "a^b",
    "a`b",
    "%",
    "%zz",
    "%00",
    "#f",
    "?#",
    "//",
    "/../..",
    "*",
    "",
    "[::1",
    "user:pw@here",
    "here:99999",
    "here:port",
    "a b",
    "a\tb",
    "\u{e9}\u{2028}",
    "http://x/<",
];

/// The parts of a request that a snippet or byte is put into.
const PARTS: [&str; 12] = [
    "path",
    "query",
    "authority",
    "method",
    "scheme",
    "header value",
    "header name",
    "cookie",
    "te",
    "content-length",
    "expect",
    "x-envoy-upstream-rq-timeout-ms",
];

fn snippets() -> Vec<Vec<u8>> {
    // One letter stands for all.
    let bytes = (0..=255_u8).filter(|byte| !byte.is_ascii_alphanumeric() || *byte == b'Q');
    let bytes = bytes.map(|byte| vec![b'a', byte, b'b']);
    bytes.chain(SNIPPETS.iter().map(|snippet| snippet.as_bytes().to_vec())).collect()
}

/// A request with a snippet in one of its parts, as the fields of HTTP/2.
fn request(part: &str, snippet: &[u8]) -> Fields {
    let mut request =
        fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "here"), (":path", "/")]);
    match part {
        "method" => request[0].1 = snippet.to_vec(),
        "scheme" => request[1].1 = snippet.to_vec(),
        "authority" => request[2].1 = snippet.to_vec(),
        "path" => request[3].1 = [b"/", snippet].concat(),
        "query" => request[3].1 = [b"/?q=", snippet].concat(),
        "header value" => request.push((b"x-odd".to_vec(), snippet.to_vec())),
        "header name" => request.push((snippet.to_vec(), b"odd".to_vec())),
        name => request.push((name.into(), snippet.to_vec())),
    }
    request
}

fn as_http1(request: &Fields, absolute: bool) -> Vec<u8> {
    let part = |at: usize| request[at].1.as_slice();
    let target = if absolute { [part(1), b"://", part(2), part(3)].concat() } else { part(3).to_vec() };
    let mut bytes = [part(0), b" ", &target, b" HTTP/1.1\r\nhost: ", part(2), b"\r\n"].concat();
    for (name, value) in &request[4..] {
        bytes.extend_from_slice(&[name, b": ".as_slice(), value, b"\r\n"].concat());
    }
    [bytes.as_slice(), b"connection: close\r\n\r\n"].concat()
}

/// Whole requests that go wrong after their head, as HTTP/1.
fn broken_http1() -> Vec<Vec<u8>> {
    let post = "POST / HTTP/1.1\r\nhost: here\r\n";
    let chunked = format!("{post}transfer-encoding: chunked\r\n\r\n");
    let mut all = vec![
        format!("{post}content-length: 10\r\n\r\ncut"),
        format!("{post}content-length: 3\r\ncontent-length: 4\r\n\r\ncut"),
        format!("{post}content-length: -1\r\n\r\n"),
        format!("{post}transfer-encoding: gzip\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"),
        format!(
            "{post}upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n\r\n"
        ),
        "CONNECT here:80 HTTP/1.1\r\nhost: here:80\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense that is no frame at all".to_owned(),
    ];
    let chunks = [
        "5\r\ncut",
        "zz\r\n",
        "-1\r\n",
        "ffffffffffffffff1\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3;\rx\r\nabc\r\n0\r\n\r\n",
        "3;a=\"\r\n",
        "3\r\nabc0\r\n\r\n",
        "0\r\nx-trailer\r\n\r\n",
        "0\r\n: x\r\n\r\n",
        "0\r\ncontent-length: 5\r\n\r\n",
        "0\r\nx: \0\r\n\r\n",
        "\r\n",
    ];
    all.extend(chunks.iter().map(|chunk| format!("{chunked}{chunk}")));
    all.into_iter().map(String::into_bytes).collect()
}

/// Frames after the headers of a POST that go wrong, as HTTP/2: trailers, or a reset, or the end of
/// the connection.
fn broken_http2() -> Vec<(&'static str, Option<Fields>)> {
    let trailers = |name: &str, value: &str| Some(fields(&[(name, value)]));
    vec![
        ("pseudo-header", trailers(":path", "/x")),
        ("status", trailers(":status", "200")),
        ("upper case", trailers("X-Upper", "x")),
        ("connection", trailers("connection", "close")),
        ("content-length", trailers("content-length", "3")),
        ("empty name", trailers("", "x")),
        ("control", trailers("x-odd", "a\r\nb")),
        ("space", trailers("x odd", "x")),
        ("none", Some(Fields::new())),
        ("reset", None),
        ("gone", None),
        ("over length", None),
        ("under length", None),
    ]
}

fn send_broken_http2(port: u16, kind: &str, trailers: Option<&Fields>) {
    let mut client = http2::Connection::client(at(port));
    let mut head =
        fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "here"), (":path", "/")]);
    if kind.ends_with("length") {
        head.extend(fields(&[("content-length", "5")]));
    }
    let stream = client.request(&head, false);
    let body: &[u8] = if kind == "over length" { b"too long" } else { b"cut" };
    let ends = kind.ends_with(" length");
    let _ = client.send(DATA, if ends { END_STREAM } else { 0 }, stream, body);
    match (kind, trailers) {
        ("reset", _) => client.reset(stream, 8),
        ("gone", _) => return,
        (_, Some(trailers)) => {
            let _ = client.headers(stream, trailers, true);
        }
        _ => {}
    }
    if kind != "reset" {
        let _ = client.response(stream);
    }
}

struct Bench {
    proxy: Proxy,
    ports: [u16; 2],
    /// The heads that came to the HTTP/1 host.
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
}

const HOSTS: [&str; 2] = ["one", "two"];

fn bench() -> Bench {
    let heads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let seen = Arc::clone(&heads);
    let one = upstream::http1(move |head, _, connection| {
        seen.lock().unwrap().push(head.to_vec());
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        true
    });
    let two = upstream::http2(|_| (fields(&[(":status", "200")]), b"ok".to_vec()));
    let detection = json!({
        "outlier_detection": {
            "consecutive_5xx": 1, "enforcing_consecutive_5xx": 100,
            "consecutive_gateway_failure": 1, "enforcing_consecutive_gateway_failure": 100,
            "split_external_local_origin_errors": true, "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_local_origin_failure": 100,
            "base_ejection_time": "600s", "max_ejection_time": "600s", "max_ejection_percent": 100,
        },
        "common_lb_config": { "healthy_panic_threshold": { "value": 0 } },
    });
    let options = json!({ "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
        "http_protocol_options": { "accept_http_10": true, "default_host_for_http_10": "here", "enable_trailers": true } });
    let ports = [free_port(), free_port()];
    let listeners: Vec<Value> =
        HOSTS.iter().zip(ports).map(|(name, port)| http(name, port, &route(name), options.clone())).collect();
    let clusters = [
        cluster("one", one, detection.clone()),
        cluster("two", two, merged(speaks_http2(&json!({})), detection)),
    ];
    Bench { proxy: Proxy::start(&config(&listeners, &clusters)), ports, heads }
}

/// The counters that say that a host was at fault.
const OF_HOSTS: [&str; 7] = [
    "upstream_cx_protocol_error",
    "upstream_rq_rx_reset",
    "upstream_rq_5xx",
    "outlier_detection.ejections_total",
    "outlier_detection.ejections_active",
    "outlier_detection.ejections_detected_consecutive_5xx",
    "outlier_detection.ejections_detected_consecutive_local_origin_failure",
];

impl Bench {
    /// What has been counted against a host.
    fn faults(&self) -> Vec<String> {
        let stats = self.proxy.stats();
        let mut faults = Vec::new();
        for name in HOSTS {
            for counter in OF_HOSTS {
                let name = format!("cluster.{name}.{counter}");
                let value = stats.get(&name).copied().unwrap_or(0);
                if value > 0 {
                    faults.push(format!("{name} is {value}"));
                }
            }
        }
        let page = self.proxy.page("/clusters").unwrap_or_default();
        for line in
            page.lines().filter(|line| line.contains("::rq_error::") || line.contains("::cx_connect_fail::"))
        {
            if !line.trim().ends_with("::0") {
                faults.push(line.trim().to_owned());
            }
        }
        faults
    }

    /// Checks after every group, so that a fault is known by its cause.
    fn check(&self, what: &str, all: &mut Vec<String>) {
        let known = all.len();
        let new: Vec<String> = self
            .faults()
            .into_iter()
            .filter(|fault| !all.iter().any(|known| known.contains(fault)))
            .collect();
        all.extend(new.into_iter().map(|fault| format!("after {what}: {fault}")));
        if all.len() > known {
            return;
        }
        for (name, port) in HOSTS.iter().zip(self.ports) {
            let status = http1::Connection::new(at(port)).get("/").map_or(0, |response| response.status);
            if status != 200 {
                all.push(format!("after {what}: an honest client of {name} gets {status}"));
            }
        }
    }
}

#[test]
fn an_odd_request_is_never_an_error_of_the_host() {
    let faults: Vec<String> = std::thread::scope(|scope| {
        let each: Vec<_> = PARTS.iter().map(|part| scope.spawn(|| faults_of(part))).collect();
        each.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    report(&faults, PARTS.len() * snippets().len() * 8 / 3);
}

/// Sends every snippet in one part of a request, over both versions and to both hosts.
fn faults_of(part: &str) -> Vec<String> {
    let (bench, mut faults) = (bench(), Vec::new());
    for (host, port) in HOSTS.iter().zip(bench.ports) {
        for (number, snippet) in snippets().into_iter().enumerate() {
            // What HTTP/1 carries is less of a question.
            if *host == "one" && number % 3 > 0 {
                continue;
            }
            let request = request(part, &snippet);
            let mut client = http1::Connection::new(at(port));
            client.send(as_http1(&request, part == "scheme"));
            let _ = client.response();
            let mut client = http2::Connection::client(at(port));
            let _ = client.ask(&request);
        }
    }
    bench.check(part, &mut faults);
    for head in bench.heads.lock().unwrap().iter() {
        let text = String::from_utf8_lossy(head).into_owned();
        let line = text.split("\r\n").next().unwrap_or_default();
        if line.split(' ').count() != 3 || text.contains('\0') {
            faults.push(format!("{part}: the host gets {text:?}"));
        }
        if http1::header(head, "host").is_some_and(|host| host.contains('@')) {
            faults.push(format!("{part}: the host gets user information: {text:?}"));
        }
    }
    faults
}

#[test]
fn a_request_that_breaks_off_is_never_an_error_of_the_host() {
    let bench = bench();
    let (mut faults, mut cases) = (Vec::new(), 0);
    for port in bench.ports {
        for bytes in broken_http1() {
            cases += 1;
            let mut client = http1::Connection::new(at(port));
            client.send(&bytes);
            client.half_close();
            client.rest();
            bench.check(&format!("{:?}", String::from_utf8_lossy(&bytes)), &mut faults);
        }
        for (kind, trailers) in broken_http2() {
            cases += 1;
            send_broken_http2(port, kind, trailers.as_ref());
            bench.check(kind, &mut faults);
        }
    }
    wait("the end of all requests", || {
        let stats = bench.proxy.stats();
        HOSTS
            .iter()
            .all(|name| stats.get(&format!("cluster.{name}.upstream_rq_active")) == Some(&0))
            .then_some(())
    });
    bench.check("all", &mut faults);
    report(&faults, cases);
}
