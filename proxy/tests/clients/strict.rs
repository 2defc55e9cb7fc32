//! Strictness: what RFC 9110, 9112 and 9113 tell a proxy to refuse is refused, and never forwarded.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::http1;
use super::http2::{self, DATA, END_STREAM, Fields, HEADERS, fields};
use super::injection::report;
use super::proxy::{
    DEADLINE, Logs, Proxy, access_log, at, cluster, config, free_port, http, poll, route, speaks_http2,
};
use super::upstream;

/// A host that keeps what it gets, with trailers, as text.
struct Host {
    port: u16,
    seen: Arc<Mutex<String>>,
}

fn host_http1() -> Host {
    let seen: Arc<Mutex<String>> = Arc::default();
    let shared = Arc::clone(&seen);
    let port = upstream::raw(move |stream| {
        let Ok(mut connection) = http1::Connection::over(stream) else { return };
        let Ok(head) = connection.until(b"\r\n\r\n") else { return };
        let mut all = head.clone();
        if http1::header(&head, "transfer-encoding").is_some() {
            while let Ok(line) = connection.until(b"\n") {
                all.extend_from_slice(&line);
                if all.ends_with(b"\r\n0\r\n\r\n")
                    || (line == b"\r\n" && all[head.len()..].windows(3).any(|w| w == b"0\r\n"))
                {
                    break;
                }
            }
        }
        shared.lock().unwrap().push_str(&String::from_utf8_lossy(&all));
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    Host { port, seen }
}

fn host_http2() -> Host {
    let seen: Arc<Mutex<String>> = Arc::default();
    let shared = Arc::clone(&seen);
    let port = upstream::raw(move |stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let _ = connection.stream.set_read_timeout(None);
        let mut last = 0;
        while let Ok(frame) = connection.read() {
            if frame.kind == HEADERS {
                let Ok(fields) = connection.decode(&frame) else { return };
                for (name, value) in &fields {
                    // Those of the head are there by right.
                    let name = String::from_utf8_lossy(name).into_owned();
                    let head = if frame.stream > last && name.starts_with(':') { "head " } else { "" };
                    let line = format!("{head}{name}: {}\r\n", String::from_utf8_lossy(value));
                    shared.lock().unwrap().push_str(&line);
                }
                last = last.max(frame.stream);
            }
            if frame.ends_stream() {
                let _ = connection.headers(frame.stream, &fields(&[(":status", "200")]), false);
                let _ = connection.send(DATA, END_STREAM, frame.stream, b"ok");
            }
        }
    });
    Host { port, seen }
}

struct Bench {
    proxy: Proxy,
    /// The listeners to the HTTP/1 and to the HTTP/2 host.
    ports: [u16; 2],
    hosts: [Host; 2],
}

fn bench() -> Bench {
    let hosts = [host_http1(), host_http2()];
    let ports = [free_port(), free_port()];
    let more = json!({
        "http_protocol_options": { "enable_trailers": true },
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
    });
    let trailers = json!({ "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": { "enable_trailers": true } },
        },
    } });
    let listeners =
        [http("one", ports[0], &route("one"), more.clone()), http("two", ports[1], &route("two"), more)];
    let clusters =
        [cluster("one", hosts[0].port, trailers), cluster("two", hosts[1].port, speaks_http2(&json!({})))];
    Bench { proxy: Proxy::start(&config(&listeners, &clusters)), ports, hosts }
}

const CHUNKED: &str =
    "POST / HTTP/1.1\r\nhost: here\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";

/// Where a CR that no LF follows may hide in the framing of a request.
fn in_framing() -> Vec<String> {
    let lines = [
        "3\r",
        "3;\r",
        "3;a\rb",
        "3;\ra=b",
        "3;a\r=b",
        "3;a=\rb",
        "3;a=b\r",
        "3;a=\"b\rc\"",
        "3 \r",
        "\r3",
        "3;a=b;\rc",
    ];
    let each = lines.iter().flat_map(|line| {
        let last = line.replace('3', "0");
        [format!("{CHUNKED}{line}\r\nabc\r\n0\r\n\r\n"), format!("{CHUNKED}3\r\nabc\r\n{last}\r\n\r\n")]
    });
    each.collect()
}

/// Where a recipient may also take it for a space (RFC 9112, 2.2 and 3).
fn elsewhere() -> Vec<String> {
    let mut all = Vec::new();
    for line in ["x\r: y", "x: \ry", "x: y\rz", "\rx: y", "x: y\r"] {
        all.push(format!("{CHUNKED}3\r\nabc\r\n0\r\n{line}\r\n\r\n"));
        all.push(format!("GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n{line}\r\n\r\n"));
    }
    for line in ["GET\r / HTTP/1.1", "GET /\r HTTP/1.1", "GET /a\rb HTTP/1.1", "GET / HTTP/1.1\r"] {
        all.push(format!("{line}\r\nhost: here\r\nconnection: close\r\n\r\n"));
    }
    all
}

#[test]
fn a_bare_cr_is_refused_in_framing_and_forwarded_nowhere() {
    let bench = bench();
    let mut faults = Vec::new();
    for port in bench.ports {
        for (strict, requests) in [(true, in_framing()), (false, elsewhere())] {
            for request in requests {
                let mut client = http1::Connection::new(at(port));
                client.send(&request);
                let status = client.response().map_or(0, |response| response.status);
                if strict && status == 200 {
                    faults.push(format!("{request:?}: {status}"));
                }
            }
        }
    }
    for host in &bench.hosts {
        let seen = host.seen.lock().unwrap();
        let bare = seen.replace("\r\n", "");
        faults.extend(bare.contains('\r').then(|| format!("forwarded: {seen:?}")));
    }
    report(&faults, 2 * (in_framing().len() + elsewhere().len()));
}

#[test]
fn pseudo_headers_in_trailers_are_refused_in_both_directions() {
    let bench = bench();
    let mut faults = Vec::new();
    let names = [":path", ":method", ":scheme", ":authority", ":status", ":protocol", ":x", ":"];
    for (port, host) in bench.ports.into_iter().zip(&bench.hosts) {
        for name in names {
            let mut client = http2::Connection::client(at(port));
            let mut head = http2::get("/");
            head[0].1 = b"POST".to_vec();
            let stream = client.request(&head, false);
            let _ = client.send(DATA, 0, stream, b"some");
            let _ = client.headers(stream, &fields(&[("x-good", "1"), (name, "evil")]), true);
            let response = client.response(stream);
            if response.is_ok_and(|response| response.status() == 200) {
                faults.push(format!("{name}: a request is accepted"));
            }
        }
        let seen = host.seen.lock().unwrap();
        faults.extend(
            seen.lines().filter(|line| line.contains("evil")).map(|line| format!("forwarded: {line}")),
        );
    }
    let hostile = upstream::raw(move |stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        while let Ok(frame) = connection.read() {
            if frame.kind != HEADERS {
                continue;
            }
            let Ok(request) = connection.decode(&frame) else { return };
            let name = http2::find(&request, "x-name").unwrap_or_default();
            let _ = connection.headers(frame.stream, &fields(&[(":status", "200")]), false);
            let _ = connection.send(DATA, 0, frame.stream, b"ok");
            let _ = connection.headers(frame.stream, &fields(&[(&name, "evil")]), true);
        }
    });
    let port = free_port();
    let listener = http("one", port, &route("two"), json!({}));
    let _proxy = Proxy::start(&config(&[listener], &[cluster("two", hostile, speaks_http2(&json!({})))]));
    for name in names {
        let mut request = http2::get("/");
        request.push((b"x-name".to_vec(), name.into()));
        let response = http2::Connection::client(at(port)).ask(&request).unwrap_or_default();
        let forwarded = response.trailers.iter().flatten().any(|(_, value)| value == b"evil");
        if forwarded || (response.status() == 200 && response.reset.is_none()) {
            faults.push(format!("{name} of a host: {:?}, reset {:?}", response.trailers, response.reset));
        }
    }
    drop(bench.proxy);
    report(&faults, 3 * names.len());
}

#[test]
fn user_information_in_an_authority_is_refused() {
    let bench = bench();
    let mut faults = Vec::new();
    let authorities =
        ["a@here", "a:b@here", "@here", "here@", "a@here:80", "a%40b@here", "a@b@here", "@", "a@[::1]:80"];
    for port in bench.ports {
        for authority in authorities {
            let forms = [
                format!("GET / HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"),
                format!("GET http://{authority}/ HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"),
                format!("GET http://here/ HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"),
                format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"),
            ];
            for request in forms {
                let mut client = http1::Connection::new(at(port));
                client.send(&request);
                let status = client.response().map_or(0, |response| response.status);
                if !(400..500).contains(&status) {
                    faults.push(format!("{request:?}: {status}"));
                }
            }
            let mut request = http2::get("/");
            request[2].1 = authority.into();
            let mut with_host = http2::get("/");
            with_host[2] = (b"host".to_vec(), authority.into());
            for request in [request, with_host] {
                let status =
                    http2::Connection::client(at(port)).ask(&request).map_or(0, |response| response.status());
                if status == 200 {
                    faults.push(format!("HTTP/2 {authority}: {status}"));
                }
            }
        }
    }
    for host in &bench.hosts {
        let seen = host.seen.lock().unwrap();
        faults
            .extend(seen.lines().filter(|line| line.contains('@')).map(|line| format!("forwarded: {line}")));
    }
    report(&faults, authorities.len() * 12);
}

/// Trailers that are too large or too many for the limits of headers: 60 KiB and 100.
fn large() -> [(&'static str, Fields); 3] {
    let field = |at: usize, value: &str| (format!("x-t-{at}").into_bytes(), value.as_bytes().to_vec());
    [
        ("one of 100 KiB", vec![field(0, &"x".repeat(100_000))]),
        ("60 of 2 KiB", (0..60).map(|at| field(at, &"x".repeat(2_000))).collect()),
        ("1,000 small", (0..1_000).map(|at| field(at, "x")).collect()),
    ]
}

fn as_http1(fields: &Fields) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [name, b": ".as_slice(), value, b"\r\n"].concat()).collect()
}

#[test]
fn trailers_obey_the_limits_of_headers_in_both_directions() {
    let bench = bench();
    let mut faults = Vec::new();
    for (port, host) in bench.ports.into_iter().zip(&bench.hosts) {
        for (name, trailers) in large() {
            let mut client = http1::Connection::new(at(port));
            client
                .send("POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n");
            client.send([as_http1(&trailers), b"\r\n".to_vec()].concat());
            let status = client.response().map_or(0, |response| response.status);
            if status == 200 {
                faults.push(format!("{name}: an HTTP/1 request is accepted"));
            }
            let mut client = http2::Connection::client(at(port));
            let mut head = http2::get("/");
            head[0].1 = b"POST".to_vec();
            let stream = client.request(&head, false);
            let _ = client.send(DATA, 0, stream, b"some");
            let _ = client.headers(stream, &trailers, true);
            if client.response(stream).is_ok_and(|response| response.status() == 200) {
                faults.push(format!("{name}: an HTTP/2 request is accepted"));
            }
        }
        if host.seen.lock().unwrap().contains("x-t-0") {
            faults.push("such trailers are forwarded".to_owned());
        }
    }
    let which = |path: &str| path.trim_start_matches('/').parse::<usize>().unwrap_or(0);
    let one = upstream::http1(move |head, _, connection| {
        let trailers = as_http1(&large()[which(&http1::path(head))].1);
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n");
        connection.send([trailers, b"\r\n".to_vec()].concat());
        true
    });
    let two = upstream::raw(move |stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        while let Ok(frame) = connection.read() {
            if frame.kind != HEADERS {
                continue;
            }
            let Ok(request) = connection.decode(&frame) else { return };
            let path = http2::find(&request, ":path").unwrap_or_default();
            let _ = connection.headers(frame.stream, &fields(&[(":status", "200")]), false);
            let _ = connection.send(DATA, 0, frame.stream, b"ok");
            let _ = connection.headers(frame.stream, &large()[which(&path)].1, true);
        }
    });
    let ports = [free_port(), free_port()];
    let listeners =
        [http("one", ports[0], &route("one"), json!({})), http("two", ports[1], &route("two"), json!({}))];
    let clusters = [cluster("one", one, json!({})), cluster("two", two, speaks_http2(&json!({})))];
    let _proxy = Proxy::start(&config(&listeners, &clusters));
    for (host, port) in ["HTTP/1", "HTTP/2"].iter().zip(ports) {
        for (at_case, (name, _)) in large().iter().enumerate() {
            let response = http2::Connection::client(at(port)).ask(&http2::get(&format!("/{at_case}")));
            let response = response.unwrap_or_default();
            // Trailers of HTTP/1 hosts are dropped unless `enable_trailers` is set.
            let whole = response.status() == 200 && response.reset.is_none() && *host == "HTTP/2";
            if response.trailers.is_some() || whole {
                let count = response.trailers.map(|trailers| trailers.len());
                faults.push(format!("{name} from an {host} host: passes as whole, with {count:?} trailers"));
            }
        }
    }
    report(&faults, 3 * 2 * 3);
}

#[test]
fn what_connection_names_is_not_forwarded_whatever_the_upgrade() {
    let bench = bench();
    let (mut faults, mut cases) = (Vec::new(), 0);
    for (port, is_http1) in bench.ports.into_iter().zip([true, false]) {
        for upgrade in ["h2c", "H2C", "h2c, websocket", "h2", "TLS/1.2", "foo", "websocket"] {
            for order in [
                "upgrade, http2-settings, x-secret",
                "x-secret, http2-settings, upgrade",
                "X-Secret ,upgrade,,http2-settings",
            ] {
                if upgrade == "websocket" && !is_http1 {
                    continue;
                }
                cases += 1;
                let mut client = http1::Connection::new(at(port));
                client.send(format!(
                    "GET / HTTP/1.1\r\nhost: here\r\nconnection: {order}\r\nupgrade: {upgrade}\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nx-secret: evil\r\n\r\n"
                ));
                let _ = client.response();
                for host in &bench.hosts {
                    let mut seen = host.seen.lock().unwrap();
                    let text = seen.to_ascii_lowercase();
                    if text.contains("x-secret:")
                        || text.contains("http2-settings:")
                        || text.contains("upgrade: h2c")
                    {
                        faults.push(format!("upgrade {upgrade}, connection {order}: {text:?}"));
                    }
                    seen.clear();
                }
            }
        }
    }
    report(&faults, cases);
}

#[test]
fn a_slow_client_of_the_admin_port_blocks_no_other() {
    let up = upstream::ok();
    let many: Vec<_> = (0..20).map(|at| cluster(&format!("cluster-{at}"), up, json!({}))).collect();
    let proxy = Proxy::start(&config(&[http("one", free_port(), &route("cluster-0"), json!({}))], &many));
    let mut slow = Vec::new();
    for at_client in 0..64 {
        let mut stream = TcpStream::connect(at(proxy.admin())).unwrap();
        socket2::SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
        let bytes = match at_client % 4 {
            // Not a whole request; many large pages that are never read; a body that never comes.
            0 => "GET /sta".to_owned(),
            1 => "GET /config_dump HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(5),
            2 => "GET /stats HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20),
            _ => "POST /logging HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n".to_owned(),
        };
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        slow.push(stream);
    }
    for _ in 0..5 {
        let page = poll(Duration::from_secs(5), || proxy.page("/ready"));
        assert!(page.is_some_and(|page| page.contains("LIVE")), "no page beside {} slow clients", slow.len());
    }
}

/// As Envoy 1.40 does; it takes two hosts, which petmesh refuses.
#[test]
fn nothing_is_logged_of_a_head_that_the_codec_refuses() {
    let cases = [
        ("GET /bad HTTP/1.1\r\nhost: h\r\na: 1\r\nx y: z\r\n\r\n", "- - - - 400 DPE"),
        ("GET /bad HTTP/1.1\r\nhost: h\r\na: 1\r\nhost: i\r\n\r\n", "- - - - 400 DPE"),
        ("GET /bad HTTP/1.1\r\nhost: h\r\na: 1\r\ntransfer-encoding: gzip\r\n\r\n", "- - - - 501 DPE"),
        ("GET /bad HTTP/1.0\r\nhost: h\r\na: 1\r\n\r\n", "- - - - 426 DPE"),
        ("GET /bad HTTP/1.1\r\nhost: h\r\na: 1\r\nx_y: z\r\n\r\n", "- - - - 400 DPE"),
        ("GET /bad HTTP/1.1\r\nhost: h\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n", "- - - - 431 DPE"),
        ("GET bad HTTP/1.1\r\nhost: h\r\na: 1\r\n\r\n", "- - - - 400 DPE"),
        ("FOO /bad HTTP/1.1\r\nhost: h\r\na: 1\r\n\r\n", "- - - - 400 DPE"),
        ("GET /late HTTP/1.1\r\nhost: h\r\na: 1\r\n", "- - - - 408 -"),
        ("GET /whole HTTP/1.1\r\na: 1\r\n\r\n", "GET /whole - 1 400 -"),
        ("GET /whole#x HTTP/1.1\r\nhost: h\r\na: 1\r\n\r\n", "GET /whole#x h 1 400 -"),
    ];
    let (port, logs) = (free_port(), Logs::new());
    let format =
        json!("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(A)% %RESPONSE_CODE% %RESPONSE_FLAGS%\n");
    let more = json!({
        "access_log": [access_log(&logs.path("log"), &format)],
        "request_headers_timeout": "0.5s",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST", "max_headers_count": 4,
        },
    });
    let routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    let _proxy = Proxy::start(&config(&[http("one", port, &routes, more)], &[]));
    let mut faults = Vec::new();
    for (at_case, (request, expected)) in cases.iter().enumerate() {
        let mut client = http1::Connection::new(at(port));
        client.send(request);
        let _ = client.response();
        let line = poll(DEADLINE, || logs.read("log").lines().nth(at_case).map(str::to_owned));
        if line.as_deref() != Some(*expected) {
            faults.push(format!("{request:?}: {line:?}, not {expected}"));
        }
    }
    report(&faults, cases.len());
}
