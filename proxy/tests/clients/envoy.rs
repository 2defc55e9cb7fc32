//! Responses of an upstream, early and late, large and odd: petmesh does what Envoy 1.40 does.
//!
//! The tables in `recorded/` are written by `CLIENTS_PROXY=envoy CLIENTS_RECORD=1`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, Fields, HEADERS, fields};
use super::proxy::{
    Logs, Proxy, access_log, at, cluster, config, free_port, http, merged, route, speaks_http2, wait,
};
use super::upstream;

/// A request whose client has gone is given up before this; else the response comes.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an upstream sends.
#[derive(Clone, Debug, Default)]
struct Script {
    name: String,
    interim: Vec<u16>,
    status: u16,
    headers: Fields,
    body: String,
    framing: Framing,
    http10: bool,
    /// Whether the response comes before the request's body is read.
    early: bool,
    /// Whether it comes only when the proxy has had its time to give the request up.
    patient: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    Length,
    Chunked,
    /// The end of the connection is the end of the body.
    Close,
}

impl Script {
    fn new(name: impl Into<String>, status: u16) -> Self {
        Self { name: name.into(), status, body: "hello".to_owned(), ..Self::default() }
    }

    fn http1(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for status in &self.interim {
            bytes.extend_from_slice(format!("HTTP/1.1 {status} X\r\nlink: x\r\n\r\n").as_bytes());
        }
        let version = if self.http10 { "1.0" } else { "1.1" };
        bytes.extend_from_slice(format!("HTTP/{version} {} X\r\n", self.status).as_bytes());
        for (name, value) in &self.headers {
            bytes.extend_from_slice(&[name, b": ".as_slice(), value, b"\r\n"].concat());
        }
        let body = &self.body;
        let rest = match self.framing {
            Framing::Length => format!("content-length: {}\r\n\r\n{body}", body.len()),
            Framing::Chunked => {
                format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
            }
            Framing::Close => format!("\r\n{body}"),
        };
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    /// Whether the connection goes on after the response: the one that says so must, or the next
    /// request may be lost on it.
    fn keeps_alive(&self) -> bool {
        let says_so =
            self.headers.iter().any(|(name, value)| name == b"connection" && value == b"keep-alive");
        self.framing != Framing::Close && (!self.http10 || says_so)
    }

    fn http2(&self, connection: &mut http2::Connection, stream: u32) {
        for status in &self.interim {
            let interim = fields(&[(":status", &status.to_string()), ("link", "x")]);
            let _ = connection.headers(stream, &interim, false);
        }
        let mut head = fields(&[(":status", &self.status.to_string())]);
        head.extend(self.headers.clone());
        let _ = connection.headers(stream, &head, false);
        let _ = connection.send(DATA, END_STREAM, stream, self.body.as_bytes());
    }
}

fn number(path: &str) -> usize {
    path.trim_start_matches('/').parse().unwrap_or(0)
}

/// Upstreams of both versions that send the script whose number is the path.
fn upstreams(scripts: &[Script]) -> [u16; 2] {
    let scripts: Arc<[Script]> = scripts.into();
    let shared = Arc::clone(&scripts);
    let one = upstream::http1_heads(move |head, connection| {
        let script = &shared[number(&http1::path(head))];
        if script.early {
            connection.send(script.http1());
            connection.rest();
            return false;
        }
        if connection.body(head).is_err() {
            return false;
        }
        if script.patient {
            let _ = connection.stream.set_read_timeout(Some(PATIENCE));
            connection.rest();
        }
        connection.send(script.http1());
        script.keeps_alive()
    });
    let two = upstream::raw(move |stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let _ = connection.stream.set_read_timeout(None);
        let mut open = std::collections::BTreeMap::new();
        while let Ok(frame) = connection.read() {
            if frame.kind == HEADERS {
                let Ok(request) = connection.decode(&frame) else { return };
                let path = http2::find(&request, ":path").unwrap_or_default();
                let at_script = *open.entry(frame.stream).or_insert_with(|| number(&path));
                if scripts[at_script].early {
                    scripts[at_script].http2(&mut connection, frame.stream);
                    continue;
                }
            }
            if frame.ends_stream()
                && let Some(at_script) = open.remove(&frame.stream)
                && !scripts[at_script].early
            {
                scripts[at_script].http2(&mut connection, frame.stream);
            }
        }
    });
    [one, two]
}

const VERSIONS: [&str; 2] = ["h1", "h2"];

/// A listener to an upstream of each version. `options` is merged into the clusters' HTTP options.
fn start(scripts: &[Script], manager: &Value, options: &Value) -> (Proxy, [u16; 2]) {
    let ups = upstreams(scripts);
    let ports = [free_port(), free_port()];
    let http_options = |version: &str| match version {
        "h1" => json!({ "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http_protocol_options": {} },
            },
        } }),
        _ => speaks_http2(&json!({})),
    };
    let more = |version: &str| {
        let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        merged(http_options(version), json!({ "typed_extension_protocol_options": { key: options } }))
    };
    let listeners: Vec<Value> = VERSIONS
        .iter()
        .zip(ports)
        .map(|(version, port)| http(version, port, &route(version), manager.clone()))
        .collect();
    let clusters = [cluster("h1", ups[0], more("h1")), cluster("h2", ups[1], more("h2"))];
    (Proxy::start_with(&config(&listeners, &clusters), &["--file-flush-interval-msec", "10"]), ports)
}

/// What an HTTP/1 client sees of the next responses: statuses, body, and whether the connection
/// goes on.
fn seen_http1(client: &mut http1::Connection) -> String {
    let mut text = String::new();
    loop {
        let Ok(response) = client.response() else {
            return text + "end";
        };
        let _ = write!(text, "{} ", response.status);
        if response.status < 200 && response.status != 101 {
            continue;
        }
        if let Some(value) = response.header("connection") {
            let _ = write!(text, "connection {value} ");
        }
        if let Some(value) = response.header("transfer-encoding") {
            let _ = write!(text, "{value} ");
        }
        if response.header("content-length").is_some() {
            text.push_str("length ");
        }
        let _ = write!(text, "{:?}", response.text().chars().take(90).collect::<String>());
        return text;
    }
}

fn seen_http2(client: &mut http2::Connection, stream: u32) -> String {
    let Ok(response) = client.response(stream) else { return "end".to_owned() };
    let mut text = String::new();
    for interim in &response.informational {
        let _ = write!(text, "{} ", http2::find(interim, ":status").unwrap_or_default());
    }
    let body = String::from_utf8_lossy(&response.body).chars().take(90).collect::<String>();
    let _ = write!(text, "{} {body:?}", response.status());
    if let Some(code) = response.reset {
        let _ = write!(text, " reset {code}");
    }
    text
}

fn get_both(port: u16, script: usize) -> [(&'static str, String); 2] {
    let path = format!("/{script}");
    let mut one = http1::Connection::new(at(port));
    one.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"));
    let mut two = http2::Connection::client(at(port));
    let stream = two.request(&http2::get(&path), true);
    [("h1", seen_http1(&mut one)), ("h2", seen_http2(&mut two, stream))]
}

#[test]
fn heads_of_responses_have_envoys_limits() {
    let mut scripts = Vec::new();
    for size in [10_000, 30_000, 55_000, 59_000, 61_500, 82_000, 100_000, 200_000] {
        let mut script = Script::new(format!("one header of {size} bytes"), 200);
        script.headers = fields(&[("x-large", &"x".repeat(size))]);
        scripts.push(script);
        let mut script = Script::new(format!("{size} bytes in headers of 1000"), 200);
        script.headers =
            (0..size / 1_000).map(|at| (format!("x-{at}").into_bytes(), vec![b'x'; 980])).collect();
        scripts.push(script);
    }
    for count in [40, 60, 90, 110, 150, 190, 250, 1_000] {
        let mut script = Script::new(format!("{count} headers"), 200);
        script.headers = (0..count).map(|at| (format!("x-{at}").into_bytes(), b"x".to_vec())).collect();
        scripts.push(script);
    }
    let mut found = Vec::new();
    for limit in [None, Some(50), Some(200)] {
        let options = match limit {
            None => json!({}),
            Some(limit) => json!({ "common_http_protocol_options": { "max_headers_count": limit } }),
        };
        let (_proxy, ports) = start(&scripts, &json!({}), &options);
        for (version, port) in VERSIONS.iter().zip(ports) {
            for (at_script, script) in scripts.iter().enumerate() {
                for (client, seen) in get_both(port, at_script) {
                    let limit = limit.map_or("default".to_owned(), |limit: u32| limit.to_string());
                    found.push((format!("max {limit} | {client} to {version} | {}", script.name), seen));
                }
            }
        }
    }
    // Envoy's library calls a single header of more than 64 KiB a protocol error; to petmesh it is
    // one that is too large.
    let instead = |case: &str, envoys: &str| {
        let is_single = case.contains("to h2") && case.contains("one header of");
        let of_limit = envoys.replacen("502", "503", 1).replace("protocol error", "remote reset");
        (is_single && envoys.starts_with("502")).then_some(of_limit)
    };
    super::record::compare("response-heads", &found, instead);
}

#[test]
fn limits_on_the_heads_of_responses_are_envoys() {
    let mut scripts = Vec::new();
    for size in [900, 1_100, 5_000, 9_900, 10_300, 50_000, 75_000, 95_000, 150_000, 300_000] {
        let mut script = Script::new(format!("{size} bytes in headers of 50"), 200);
        let field = |at| (format!("x-{at:08}").into_bytes(), vec![b'x'; 40]);
        script.headers = (0..size / 50).map(field).collect();
        scripts.push(script);
    }
    let logs = Logs::new();
    let format = json!("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n");
    let mut found = Vec::new();
    for limit in [1, 10, 70, 96, 8192] {
        let log = logs.path(&limit.to_string());
        let manager = json!({ "access_log": [access_log(&log, &format)] });
        let options = json!({ "common_http_protocol_options": {
            "max_response_headers_kb": limit, "max_headers_count": 10_000,
        } });
        let (_proxy, ports) = start(&scripts, &manager, &options);
        for (version, port) in VERSIONS.iter().zip(ports) {
            for (at_script, script) in scripts.iter().enumerate() {
                for (client, seen) in get_both(port, at_script) {
                    let line = wait("the access log", || {
                        let text = logs.read(&limit.to_string());
                        text.lines().nth(found.len() % (4 * scripts.len())).map(str::to_owned)
                    });
                    let case = format!("{limit} KiB | {client} to {version} | {}", script.name);
                    found.push((case, format!("{seen} | {line}")));
                }
            }
        }
    }
    super::record::compare("response-limits", &found, |_, _| None);
}

#[test]
fn limits_on_the_heads_of_requests_are_envoys() {
    let direct = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    let mut found = Vec::new();
    for limit in [1, 10, 96] {
        let port = free_port();
        let manager = json!({
            "max_request_headers_kb": limit,
            "common_http_protocol_options": { "max_headers_count": 10_000 },
        });
        let _proxy = Proxy::start(&config(&[http("one", port, &direct, manager)], &[]));
        for size in [500, 800, 950, 1_100, 5_000, 9_000, 9_900, 10_300, 88_000, 95_000, 150_000] {
            let field = |at: usize| (format!("x-{at:08}"), "x".repeat(40));
            let many = (0..size / 50).map(field).collect();
            let shapes = [
                ("/".to_owned(), many, "in headers of 50"),
                (format!("/{}", "x".repeat(size)), Vec::new(), "of path"),
                ("/".to_owned(), vec![("x-large".to_owned(), "x".repeat(size))], "in one header"),
            ];
            for (path, list, shape) in shapes {
                let mut one = http1::Connection::new(at(port));
                let lines: String = list.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let _ = write!(one.stream, "GET {path} HTTP/1.1\r\nhost: here\r\n{lines}\r\n");
                let mut two = http2::Connection::client(at(port));
                let mut request = http2::get(&path);
                request.extend(list.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())));
                let stream = two.request(&request, true);
                let seen = [("h1", seen_http1(&mut one)), ("h2", seen_http2(&mut two, stream))];
                for (client, seen) in seen {
                    found.push((format!("{limit} KiB | {client} | {size} bytes {shape}"), seen));
                }
            }
        }
    }
    // Envoy's library ends the connection for a header of more than 64 KiB, whatever the limit is.
    // To petmesh it is one as any other; a path is never that long.
    let instead = |case: &str, envoys: &str| {
        let mut numbers =
            case.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse::<usize>().ok());
        let (limit, size) = (numbers.next()? * 1024, numbers.nth(1)?);
        let seen = match case.ends_with("of path") {
            true => "0 \"\" reset 1",
            false if size > limit => "0 \"\" reset 2",
            false => "200 \"\"",
        };
        (envoys == "end").then(|| seen.to_owned())
    };
    super::record::compare("request-limits", &found, instead);
}

/// Where petmesh differs on purpose: Envoy forwards a 101 that was not requested (RFC 9110, 7.8: it
/// must not be sent), and drops informational responses that it does not know (RFC 9110, 15.2: a
/// proxy must forward them).
fn instead(case: &str, envoys: &str) -> Option<String> {
    let list = case.split(['[', ']']).nth(1)?;
    if list.contains("101") && case.contains("to h1") {
        let body =
            "\"upstream connect error or disconnect/reset before headers. reset reason: protocol error\"";
        // What the client asked for it got, from petmesh or from the host.
        let by_us = envoys.starts_with("100 101") && case.contains("expect") && case.contains("false");
        let by_host = list.starts_with("100") && case.contains("true");
        let asked = if by_us || by_host { "100 " } else { "" };
        let length = if case.contains("h1 GET") || case.contains("h1 POST") { "length " } else { "" };
        return Some(format!("{asked}502 {length}{body}"));
    }
    None
}

#[test]
fn informational_responses_are_envoys() {
    let lists: [&[u16]; 14] = [
        &[],
        &[100],
        &[102],
        &[103],
        &[104],
        &[199],
        &[100, 100],
        &[103, 103],
        &[100, 103],
        &[103, 100],
        &[102, 103],
        &[101],
        &[100, 101],
        &[103, 103, 103, 103, 103, 103, 103, 103, 103, 103, 103, 103],
    ];
    let scripts: Vec<Script> = lists
        .iter()
        .map(|list| Script { interim: list.to_vec(), ..Script::new(format!("{list:?}"), 200) })
        .collect();
    let mut found = Vec::new();
    for proxies in [false, true] {
        let (_proxy, ports) = start(&scripts, &json!({ "proxy_100_continue": proxies }), &json!({}));
        for (version, port) in VERSIONS.iter().zip(ports) {
            for (at_script, script) in scripts.iter().enumerate() {
                // Whether the 100 is out before the 101 is refused depends on how the bytes come.
                if script.interim == [100, 101] && *version == "h2" {
                    continue;
                }
                let about = format!("proxy_100_continue {proxies} | to {version} | {}", script.name);
                for (client, seen) in get_both(port, at_script) {
                    found.push((format!("{about} | {client} GET"), seen));
                }
                for expects in ["", "expect: 100-continue\r\n"] {
                    let mut one = http1::Connection::new(at(port));
                    one.send(format!(
                        "POST /{at_script} HTTP/1.1\r\nhost: here\r\n{expects}content-length: 3\r\n\r\nabc"
                    ));
                    found.push((format!("{about} | h1 POST {}", expects.trim()), seen_http1(&mut one)));
                    let mut two = http2::Connection::client(at(port));
                    let mut request = http2::get(&format!("/{at_script}"));
                    request[0].1 = b"POST".to_vec();
                    if !expects.is_empty() {
                        request.extend(fields(&[("expect", "100-continue")]));
                    }
                    let stream = two.request(&request, false);
                    let _ = two.send(DATA, END_STREAM, stream, b"abc");
                    found.push((
                        format!("{about} | h2 POST {}", expects.trim()),
                        seen_http2(&mut two, stream),
                    ));
                }
            }
        }
    }
    super::record::compare("informational", &found, instead);
}

#[test]
fn http10_is_kept_alive_as_in_envoy() {
    let mut scripts = Vec::new();
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        for http10 in [false, true] {
            for connection in [None, Some("close"), Some("keep-alive")] {
                // An HTTP/1.0 host knows no chunks.
                if http10 && framing == Framing::Chunked {
                    continue;
                }
                let version = if http10 { "1.0" } else { "1.1" };
                let mut script =
                    Script::new(format!("{version} {framing:?} {}", connection.unwrap_or("-")), 200);
                script.headers = connection.map(|value| fields(&[("connection", value)])).unwrap_or_default();
                (script.framing, script.http10) = (framing, http10);
                scripts.push(script);
            }
        }
    }
    let manager =
        json!({ "http_protocol_options": { "accept_http_10": true, "default_host_for_http_10": "here" } });
    let (_proxy, ports) = start(&scripts, &manager, &json!({}));
    let mut found = Vec::new();
    for (at_script, script) in scripts.iter().enumerate() {
        for version in ["1.0", "1.1"] {
            for connection in
                ["", "connection: keep-alive\r\n", "connection: close\r\n", "connection: Keep-Alive\r\n"]
            {
                for method in ["GET", "HEAD"] {
                    let request =
                        format!("{method} /{at_script} HTTP/{version}\r\nhost: here\r\n{connection}\r\n");
                    let mut client = http1::Connection::new(at(ports[0]));
                    client.send(&request);
                    let head = client.until(b"\r\n\r\n").unwrap_or_default();
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let of = |name: &str| http1::header(&head, name).unwrap_or_else(|| "-".to_owned());
                    let mut seen = text.get(..12).unwrap_or_default().to_owned();
                    let _ = write!(seen, ", connection {}, {}", of("connection"), of("transfer-encoding"));
                    let _ = write!(seen, ", length {}", of("content-length"));
                    // The next request tells whether the connection goes on.
                    if method == "GET" {
                        let body = client.body(&head).unwrap_or_default();
                        let has_end = body.is_some();
                        if has_end {
                            client.send(&request);
                            let again = client.until(b"\r\n\r\n").is_ok();
                            let _ = write!(seen, ", goes on {again}");
                        } else {
                            let _ = write!(seen, ", ends with {:?}", String::from_utf8_lossy(&client.rest()));
                        }
                    }
                    let case = format!("{} | {version} {method} {}", script.name, connection.trim());
                    found.push((case, seen));
                }
            }
        }
    }
    super::record::compare("http10", &found, |_, _| None);
}

#[test]
fn early_responses_and_half_closed_uploads_end_as_in_envoy() {
    let mut scripts = Vec::new();
    for status in [200, 204, 413, 503] {
        for connection in [None, Some("close")] {
            let mut script = Script::new(format!("{status} {}", connection.unwrap_or("-")), status);
            script.headers = connection.map(|value| fields(&[("connection", value)])).unwrap_or_default();
            script.early = true;
            if status == 204 {
                script.body.clear();
                script.framing = Framing::Close;
            }
            scripts.push(script);
        }
    }
    let late = scripts.len();
    scripts.push(Script { patient: true, ..Script::new("late 200", 200) });
    let (_proxy, ports) = start(&scripts, &json!({}), &json!({}));
    let mut found = Vec::new();
    for (version, port) in VERSIONS.iter().zip(ports) {
        for (at_script, script) in scripts.iter().enumerate().filter(|(at, _)| *at != late) {
            if *version == "h2" && script.name.ends_with("close") {
                continue;
            }
            let about = format!("early {} from {version}", script.name);
            for (framing, start) in [
                ("length", "content-length: 1000000\r\n\r\nabc"),
                ("chunked", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            ] {
                let mut client = http1::Connection::new(at(port));
                client.send(format!("POST /{at_script} HTTP/1.1\r\nhost: here\r\n{start}"));
                let mut seen = seen_http1(&mut client);
                // What comes after the response: the end, or nothing as long as the upload may go
                // on.
                client.stream.set_read_timeout(Some(Duration::from_millis(2_500))).unwrap();
                seen.push_str(if client.is_closed() { ", closed" } else { ", open" });
                found.push((format!("{about} | h1 {framing}"), seen));
            }
            let mut client = http2::Connection::client(at(port));
            let mut request = http2::get(&format!("/{at_script}"));
            request[0].1 = b"POST".to_vec();
            let stream = client.request(&request, false);
            let _ = client.send(DATA, 0, stream, b"abc");
            let mut seen = seen_http2(&mut client, stream);
            client.stream.set_read_timeout(Some(Duration::from_millis(1_000))).unwrap();
            while let Ok(frame) = client.read() {
                if frame.kind == http2::RST_STREAM {
                    let _ = write!(seen, ", then reset {}", frame.code());
                    break;
                }
            }
            found.push((format!("{about} | h2"), seen));
        }
        if *version == "h2" {
            continue;
        }
        let uploads = [
            ("none of a length", "POST", "content-length: 10\r\n\r\n"),
            ("some of a length", "POST", "content-length: 10\r\n\r\nabc"),
            ("all of a length", "POST", "content-length: 3\r\n\r\nabc"),
            ("no body", "GET", "\r\n"),
            ("no chunk", "POST", "transfer-encoding: chunked\r\n\r\n"),
            ("some of a chunk", "POST", "transfer-encoding: chunked\r\n\r\n9\r\nabc"),
            ("a chunk", "POST", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            ("all chunks", "POST", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            ("half a head", "GET", "x: y"),
        ];
        for (name, method, rest) in uploads {
            let mut client = http1::Connection::new(at(port));
            client.send(format!("{method} /{late} HTTP/1.1\r\nhost: here\r\n{rest}"));
            client.half_close();
            let seen = seen_http1(&mut client);
            found.push((format!("half-closed after {name} | to {version}"), seen));
        }
    }
    super::record::compare("early", &found, |_, _| None);
}
