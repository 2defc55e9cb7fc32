//! Every operator of a log format, in every kind of exchange: petmesh prints what Envoy 1.40 prints.
//!
//! The table in `recorded/operators.txt` has one line for each spelling, with the exchanges that
//! give it each value. What differs from run to run is replaced by a word for its kind.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Map, Value, json};

use super::http1;
use super::http2::{self, DATA, END_STREAM, HEADERS, fields};
use super::proxy::{
    Logs, Proxy, access_log, at, cluster, config, free_port, http, ip, listener, speaks_http2, typed, wait,
};
use super::upstream;

const POINTS: [&str; 8] =
    ["DS_RX_BEG", "DS_RX_END", "US_TX_BEG", "US_TX_END", "US_RX_BEG", "US_RX_END", "DS_TX_END", "OTHER"];

/// Operators with neither argument nor length.
const PLAIN: &str = "REQUEST_HEADERS_BYTES RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES BYTES_RECEIVED \
    BYTES_SENT PROTOCOL UPSTREAM_PROTOCOL RESPONSE_CODE RESPONSE_FLAGS RESPONSE_FLAGS_LONG UPSTREAM_HOST \
    UPSTREAM_HOST_NAME UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW \
    UPSTREAM_LOCAL_ADDRESS UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_LOCAL_PORT UPSTREAM_REMOTE_ADDRESS \
    UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REMOTE_PORT UPSTREAM_TRANSPORT_FAILURE_REASON \
    UPSTREAM_REQUEST_ATTEMPT_COUNT DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT \
    DOWNSTREAM_REMOTE_PORT DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT \
    DOWNSTREAM_DIRECT_REMOTE_PORT DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT \
    DOWNSTREAM_LOCAL_PORT DOWNSTREAM_DIRECT_LOCAL_ADDRESS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT \
    DOWNSTREAM_DIRECT_LOCAL_PORT CONNECTION_ID STREAM_ID UNIQUE_ID ROUTE_NAME VIRTUAL_CLUSTER_NAME \
    ACCESS_LOG_TYPE LOCAL_REPLY_BODY CONNECTION_TERMINATION_DETAILS REQUESTED_SERVER_NAME \
    FILTER_CHAIN_NAME DOWNSTREAM_TLS_VERSION DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_SESSION_ID \
    DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_PEER_DNS_SAN \
    DOWNSTREAM_PEER_CERT DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_LOCAL_URI_SAN \
    DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_HANDSHAKE_DURATION UPSTREAM_TLS_VERSION \
    UPSTREAM_TLS_CIPHER UPSTREAM_PEER_SUBJECT TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT TRACE_ID SPAN_ID \
    DURATION REQUEST_DURATION REQUEST_TX_DURATION RESPONSE_DURATION RESPONSE_TX_DURATION \
    UPSTREAM_CONNECTION_POOL_READY_DURATION START_TIME EMIT_TIME GRPC_STATUS GRPC_STATUS_NUMBER \
    RESPONSE_CODE_DETAILS HOSTNAME QUERY_PARAMS PATH \
    CUSTOM_FLAGS DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID \
    DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_LOCAL_IP_SAN \
    DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_PEER_CERT_V_END DOWNSTREAM_PEER_CERT_V_START \
    DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 \
    DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_PEER_FINGERPRINT_1 \
    DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_IP_SAN DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256 \
    DOWNSTREAM_PEER_ISSUER_SERIAL DOWNSTREAM_PEER_OTHERNAME_SAN DOWNSTREAM_PEER_SERIAL \
    DOWNSTREAM_TLS_GROUP UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN UPSTREAM_LOCAL_URI_SAN \
    UPSTREAM_PEER_CERT UPSTREAM_PEER_CERT_V_END UPSTREAM_PEER_CERT_V_START UPSTREAM_PEER_DNS_SAN \
    UPSTREAM_PEER_IP_SAN UPSTREAM_PEER_ISSUER UPSTREAM_PEER_URI_SAN \
    UPSTREAM_SERVER_NAME UPSTREAM_TLS_GROUP \
    UPSTREAM_TLS_SESSION_ID";

/// Operators with arguments, as they are written.
const WITH_ARGUMENTS: &[&str] = &[
    "REQ(:METHOD)",
    "REQ(:PATH)",
    "REQ(:AUTHORITY)",
    "REQ(:SCHEME)",
    "REQ(HOST)",
    "REQ(X-CLIENT)",
    "REQ(X-CLIENT):3",
    "REQ(X-NONE?X-CLIENT)",
    "REQ(X-NONE)",
    "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "REQUEST_HEADER(X-CLIENT)",
    "RESP(X-HOST)",
    "RESP(:STATUS)",
    "RESPONSE_HEADER(X-HOST):2",
    "TRAILER(GRPC-STATUS)",
    "RESPONSE_TRAILER(GRPC-MESSAGE)",
    "QUERY_PARAM(q)",
    "QUERY_PARAM(q):2",
    "QUERY_PARAM(none)",
    "QUERY_PARAMS(ORIG)",
    "PATH(WQ)",
    "PATH(NQ)",
    "PATH(WQ:ORIG)",
    "PATH(NQ:ORIG)",
    "PATH(WQ:PATH)",
    "PATH(NQ:PATH)",
    "PATH(NQ:ORIG_OR_PATH)",
    "START_TIME(%s)",
    "START_TIME(%s.%3f)",
    "START_TIME(%Y-%m-%dT%H:%M:%S.%9f)",
    "START_TIME(%f)",
    "EMIT_TIME(%s)",
    "GRPC_STATUS(CAMEL_STRING)",
    "GRPC_STATUS(SNAKE_STRING)",
    "GRPC_STATUS(NUMBER)",
    "RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)",
    "METADATA(ROUTE:com.example:key)",
    "METADATA(ROUTE:com.example:key):2",
    "METADATA(ROUTE:com.example:list)",
    "METADATA(ROUTE:com.example)",
    "METADATA(ROUTE:com.example:none)",
    "METADATA(CLUSTER:com.example:key)",
    "METADATA(LISTENER:com.example:key)",
    "METADATA(VIRTUAL_HOST:com.example:key)",
    "METADATA(DYNAMIC:com.example:key)",
    "METADATA(UPSTREAM_HOST:com.example:key)",
    "DYNAMIC_METADATA(com.example:key)",
    "CLUSTER_METADATA(com.example:key)",
    "UPSTREAM_METADATA([\"com.example\",\"key\"])",
    "FILTER_STATE(key)",
    "UPSTREAM_FILTER_STATE(key)",
    "ENVIRONMENT(PETMESH_NONE)",
    "COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)",
    "COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)",
    "COMMON_DURATION(DS_RX_BEG:DS_TX_END)",
];

fn spellings() -> Vec<String> {
    let mut all: Vec<String> = PLAIN.split_whitespace().map(|name| format!("%{name}%")).collect();
    all.extend(WITH_ARGUMENTS.iter().map(|spelling| format!("%{spelling}%")));
    for from in POINTS {
        all.extend(POINTS.iter().map(|to| format!("%COMMON_DURATION({from}:{to}:ms)%")));
    }
    all
}

/// An operator without its percent signs.
fn key(spelling: &str) -> String {
    spelling.trim_matches('%').to_owned()
}

/// What a host does with a path.
fn respond(path: &str) -> &'static str {
    match path {
        path if path.contains("missing") => {
            "HTTP/1.1 404 Not Found\r\nx-host: abcdef\r\ncontent-length: 0\r\n\r\n"
        }
        path if path.contains("chunked") => {
            "HTTP/1.1 200 OK\r\nx-host: abcdef\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        }
        _ => "HTTP/1.1 200 OK\r\nx-host: abcdef\r\ncontent-length: 5\r\n\r\nhello",
    }
}

fn host_http1() -> u16 {
    upstream::http1(|head, _, connection| {
        let path = http1::path(head);
        let end = path.contains("reset");
        if !end {
            connection.send(respond(&path));
        }
        !end
    })
}

fn host_http2() -> u16 {
    upstream::raw(|stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let _ = connection.stream.set_read_timeout(None);
        let mut paths = BTreeMap::new();
        while let Ok(frame) = connection.read() {
            if frame.kind == HEADERS {
                let Ok(head) = connection.decode(&frame) else { return };
                let path = http2::find(&head, ":path").unwrap_or_default();
                paths.entry(frame.stream).or_insert(path);
            }
            if !frame.ends_stream() {
                continue;
            }
            let path = paths.remove(&frame.stream).unwrap_or_default();
            if path.contains("reset") {
                connection.reset(frame.stream, 2);
                continue;
            }
            let status = if path.contains("missing") { "404" } else { "200" };
            let grpc = path.contains("grpc");
            let head = fields(&[(":status", status), ("x-host", "abcdef")]);
            let _ = connection.headers(frame.stream, &head, false);
            let _ = connection.send(DATA, if grpc { 0 } else { END_STREAM }, frame.stream, b"hello");
            if grpc {
                let trailers = fields(&[("grpc-status", "5"), ("grpc-message", "no pet")]);
                let _ = connection.headers(frame.stream, &trailers, true);
            }
        }
    })
}

/// The exchanges of HTTP: a name, the method, the path, a body.
const EXCHANGES: &[(&str, &str, &str, &str)] = &[
    ("get", "GET", "/plain/a?q=va%20lue&r=2&s=%zz+%26", ""),
    ("post", "POST", "/plain/post", "some"),
    ("chunked response", "GET", "/plain/chunked", ""),
    ("status of the host", "GET", "/plain/missing", ""),
    ("virtual cluster", "GET", "/plain/virtual", ""),
    ("rewritten", "GET", "/rewritten/x?q=1", ""),
    ("gRPC", "POST", "/plain/grpc", "some"),
    ("reset by the host", "GET", "/plain/reset", ""),
    ("no route", "GET", "/nowhere", ""),
    ("direct response", "GET", "/direct", ""),
    ("redirect", "GET", "/redirect", ""),
    ("refused", "GET", "/refused", ""),
    ("retried in vain", "GET", "/retried", ""),
];

fn routes(version: &str) -> Value {
    let metadata = json!({ "filter_metadata": { "com.example": { "key": "value", "list": [1, "b"] } } });
    let refused = format!("refused-{version}");
    json!([
        { "name": "plain", "match": { "prefix": "/plain" }, "metadata": metadata, "route": { "cluster": version } },
        { "match": { "prefix": "/rewritten" }, "route": { "cluster": version, "prefix_rewrite": "/plain" } },
        { "match": { "prefix": "/direct" },
          "direct_response": { "status": 418, "body": { "inline_string": "tea" } } },
        { "match": { "prefix": "/redirect" }, "redirect": { "path_redirect": "/plain" } },
        { "match": { "prefix": "/refused" }, "route": { "cluster": refused } },
        { "match": { "prefix": "/retried" }, "route": { "cluster": refused, "retry_policy": {
            "retry_on": "connect-failure", "num_retries": 2, "retry_back_off": { "base_interval": "0.001s" },
        } } },
    ])
}

/// A cluster whose host has a name.
fn named(name: &str, port: u16, more: Value) -> Value {
    let mut all = cluster(name, port, more);
    all["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] =
        "backend.example:81".into();
    all["connect_timeout"] = "5s".into();
    all
}

fn tcp(name: &str, port: u16, cluster: &str, log: &Value) -> Value {
    let fields =
        json!({ "stat_prefix": name, "cluster": cluster, "access_log": [log], "max_connect_attempts": 1 });
    let message = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    listener(name, port, &typed("tcp", message, fields))
}

/// The proxy with a listener for each version of host, and three for TCP.
struct Bench {
    proxy: Proxy,
    logs: Logs,
    names: Vec<(String, &'static str)>,
    ports: BTreeMap<&'static str, u16>,
}

fn bench() -> Bench {
    let logs = Logs::new();
    let format: Map<String, Value> =
        spellings().into_iter().map(|spelling| (key(&spelling), spelling.into())).collect();
    let text = format!("{}\n", spellings().join("\u{1f}"));
    let log = |kind: &str, format: &Value| access_log(&logs.path(kind), format);
    let both = |name: &str| {
        [
            log(&format!("{name}.json"), &Value::Object(format.clone())),
            log(&format!("{name}.text"), &json!(text)),
        ]
    };
    let ports: BTreeMap<&str, u16> =
        ["h1", "h2", "tcp", "tcp-refused", "refused"].map(|name| (name, free_port())).into();
    let hosts = [("h1", host_http1()), ("h2", host_http2())];
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (version, host) in hosts {
        let options = if version == "h2" { speaks_http2(&json!({})) } else { json!({}) };
        clusters.push(named(version, host, options.clone()));
        clusters.push(named(&format!("refused-{version}"), ports["refused"], options));
        // Without headers that say how long something took.
        let fields = json!({ "suppress_envoy_headers": true });
        let router = typed("router", "envoy.extensions.filters.http.router.v3.Router", fields);
        let manager = json!({ "access_log": both(version), "http_filters": [router] });
        let mut made = http(version, ports[version], &routes(version), manager);
        made["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["virtual_clusters"] = json!([{ "name": "pets", "headers": [{ "name": ":path", "string_match": { "prefix": "/plain/virtual" } }] }]);
        listeners.push(made);
    }
    for name in ["tcp", "tcp-refused"] {
        let target = if name == "tcp" { "h1" } else { "refused-h1" };
        let [json, text] = both(name);
        let mut made = tcp(name, ports[name], target, &json);
        made["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = json!([json, text]);
        listeners.push(made);
    }
    let mut names = vec![
        (format!(":{}", ports["refused"]), ":REFUSED"),
        (format!(":{}", hosts[0].1), ":HOST"),
        (format!(":{}", hosts[1].1), ":HOST"),
        (ip().to_string(), "ADDRESS"),
    ];
    for name in ["h1", "h2", "tcp", "tcp-refused"] {
        names.push((format!(":{}", ports[name]), ":LISTENER"));
    }
    let proxy = Proxy::start_with(&config(&listeners, &clusters), &["--file-flush-interval-msec", "10"]);
    Bench { proxy, logs, names, ports }
}

impl Bench {
    /// Replaces what is different in each run.
    fn stable(&self, spelling: &str, value: &str) -> String {
        let name = spelling.split('(').next().unwrap_or_default();
        let mut text = value.to_owned();
        for (from, to) in &self.names {
            text = text.replace(from, to);
        }
        let is_digit = |c: char| c.is_ascii_digit();
        if name.ends_with("DURATION") || name.ends_with("_PORT") || name.ends_with("CONNECTION_ID") {
            return if text.chars().all(is_digit) && !text.is_empty() { "NUMBER".to_owned() } else { text };
        }
        if name == "HOSTNAME" {
            return "NAME".to_owned();
        }
        if name.ends_with("TIME") {
            return text.chars().map(|c| if is_digit(c) { '0' } else { c }).collect();
        }
        if name == "UNIQUE_ID" || name == "STREAM_ID" {
            return text.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
        }
        // Ports of clients and of our own side of a connection.
        if let Some((address, port)) = text.rsplit_once(':')
            && name.ends_with("ADDRESS")
            && port.chars().all(is_digit)
        {
            return format!("{}:PORT", address.replace("127.0.0.1", "ADDRESS"));
        }
        if name.ends_with("ADDRESS") || name.ends_with("WITHOUT_PORT") {
            text = text.replace("127.0.0.1", "ADDRESS");
        }
        text
    }

    /// Line number `at` of a log in both formats: what each spelling gave.
    fn line(&self, log: &str, at: usize) -> BTreeMap<String, String> {
        let read = |kind: &str| {
            wait("the access log", || {
                let text = self.logs.read(&format!("{log}.{kind}"));
                let whole = text.rfind('\n').map(|end| text[..end].to_owned())?;
                whole.lines().nth(at).map(str::to_owned)
            })
        };
        let json: Map<String, Value> = serde_json::from_str(&read("json")).unwrap();
        let text = read("text");
        let spellings = spellings();
        let texts: Vec<&str> = text.split('\u{1f}').collect();
        assert_eq!(texts.len(), spellings.len(), "{text}");
        let mut found = BTreeMap::new();
        for (spelling, text) in spellings.iter().zip(texts) {
            let key = key(spelling);
            let typed = match &json[&key] {
                Value::Null => "null".to_owned(),
                Value::String(value) => format!("{:?}", self.stable(&key, value)),
                other => self.stable(&key, &other.to_string()),
            };
            let text = if text.is_empty() { "nothing".to_owned() } else { self.stable(&key, text) };
            found.insert(key.clone(), format!("{text} as JSON {typed}"));
        }
        found
    }
}

/// One HTTP exchange to its end.
fn exchange(port: u16, http2: bool, (_, method, path, body): (&str, &str, &str, &str)) {
    let grpc = path.contains("grpc");
    if http2 {
        let mut client = http2::Connection::client(at(port));
        let mut head = http2::get(path);
        head[0].1 = method.into();
        head.extend(fields(&[("x-client", "abcdef")]));
        if grpc {
            head.extend(fields(&[("content-type", "application/grpc"), ("te", "trailers")]));
        }
        let stream = client.request(&head, body.is_empty());
        if !body.is_empty() {
            let _ = client.send(DATA, END_STREAM, stream, body.as_bytes());
        }
        let _ = client.response(stream);
        return;
    }
    let mut client = http1::Connection::new(at(port));
    let kind = if grpc { "content-type: application/grpc\r\n" } else { "" };
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: here\r\nx-client: abcdef\r\n{kind}{length}\r\n{body}"
    ));
    let _ = client.response();
}

fn all_found() -> Vec<(String, String)> {
    let bench = bench();
    // The exchanges with each value of each spelling.
    let mut values = BTreeMap::<String, BTreeMap<String, Vec<String>>>::new();
    let mut note = |exchange: String, line: BTreeMap<String, String>| {
        for (spelling, value) in line {
            values.entry(spelling).or_default().entry(value).or_default().push(exchange.clone());
        }
    };
    for version in ["h1", "h2"] {
        let mut line = 0;
        for client in ["h1", "h2"] {
            for case in EXCHANGES {
                exchange(bench.ports[version], client == "h2", *case);
                note(format!("{} {client}-{version}", case.0), bench.line(version, line));
                line += 1;
            }
        }
    }
    let mut client = TcpStream::connect(at(bench.ports["tcp"])).unwrap();
    client.write_all(b"GET /plain/a HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
    let mut bytes = [0; 16];
    client.read_exact(&mut bytes).unwrap();
    drop(client);
    note("TCP".to_owned(), bench.line("tcp", 0));
    let mut client = TcpStream::connect(at(bench.ports["tcp-refused"])).unwrap();
    let _ = client.read_to_end(&mut Vec::new());
    note("TCP refused".to_owned(), bench.line("tcp-refused", 0));
    drop(bench.proxy);
    // The value that most have comes last, without a list of who has it.
    let outcome = |groups: BTreeMap<String, Vec<String>>| {
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, of)| of.len());
        let most = groups.pop().map(|(value, _)| value).unwrap_or_default();
        let parts = groups.into_iter().map(|(value, of)| format!("{value} [{}] | ", of.join(", ")));
        parts.collect::<String>() + &most
    };
    values.into_iter().map(|(spelling, groups)| (spelling, outcome(groups))).collect()
}

#[test]
fn operators_print_what_envoy_prints() {
    super::record::compare("operators", &all_found(), |_, _| None);
}
