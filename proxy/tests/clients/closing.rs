//! HTTP/2 frames: connections end with GOAWAY, responses without an empty DATA frame, and what is
//! reset is counted.

use std::time::Duration;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, DATA, Fields, GOAWAY, HEADERS, fields};
use super::injection::report;
use super::proxy::{DEADLINE, Proxy, at, cluster, config, free_port, http, poll, route, speaks_http2};
use super::upstream;

/// The kinds and codes of all frames up to the end of a connection.
fn to_the_end(client: &mut http2::Connection) -> Vec<(u8, u32)> {
    let mut frames = Vec::new();
    while let Ok(frame) = client.read() {
        let code = if frame.kind == GOAWAY { frame.code() } else { 0 };
        frames.push((frame.kind, code));
    }
    frames
}

#[test]
fn a_connection_that_the_proxy_closes_ends_with_goaway() {
    let up = upstream::ok();
    let reasons = [
        ("idle", json!({ "idle_timeout": "0.3s" })),
        ("duration", json!({ "idle_timeout": "0s", "max_connection_duration": "0.3s" })),
        ("requests", json!({ "max_requests_per_connection": 2 })),
    ];
    let (mut listeners, mut ports) = (Vec::new(), Vec::new());
    for (name, options) in &reasons {
        ports.push(free_port());
        let more = json!({ "common_http_protocol_options": options, "drain_timeout": "0.1s" });
        listeners.push(http(name, ports[ports.len() - 1], &route("up"), more));
    }
    let proxy = Proxy::start(&config(&listeners, &[cluster("up", up, json!({}))]));
    let mut faults = Vec::new();
    let mut ended = 0;
    for ((name, _), port) in reasons.iter().zip(ports) {
        for requests in 0..3 {
            if *name == "requests" && requests < 2 {
                continue;
            }
            let mut client = http2::Connection::client(at(port));
            for _ in 0..requests {
                let status = client.ask(&http2::get("/")).map_or(0, |response| response.status());
                if status != 200 {
                    faults.push(format!("{name}, {requests} requests: status {status}"));
                }
            }
            let frames = to_the_end(&mut client);
            ended += 1;
            // With the last request the GOAWAY may come before the response.
            if *name != "requests" && !frames.contains(&(GOAWAY, 0)) {
                faults.push(format!("{name}, {requests} requests: ends with {frames:?}"));
            }
        }
    }
    // The connection that two requests have used up has ended with one too.
    let sent = poll(Duration::from_secs(3), || {
        let stats = proxy.stats();
        let find = |name: &str| stats.get(name).copied();
        (find("http.requests.downstream_cx_active") == Some(0))
            .then(|| find("http2.goaway_sent").unwrap_or(0))
    });
    if sent.is_none_or(|sent| sent < ended) {
        faults.push(format!("{ended} connections ended, and http2.goaway_sent is {sent:?}"));
    }
    report(&faults, 7);
}

/// Bodies of an upstream: none, one byte, a frame's worth, many frames' worth.
const SIZES: [usize; 5] = [0, 1, 100, 16_384, 100_000];

#[test]
fn a_response_whose_end_is_known_has_no_empty_data_frame() {
    let size = |path: &str| -> usize { path.rsplit('/').next().unwrap().parse().unwrap() };
    let one = upstream::http1(move |head, _, connection| {
        let body = vec![b'x'; size(&http1::path(head))];
        let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(&body);
        connection.send(bytes);
        true
    });
    let two = upstream::http2(move |request| {
        // One frame of our own carries at most 16 KiB.
        let body = vec![b'x'; size(&http2::find(request, ":path").unwrap()).min(16_384)];
        (fields(&[(":status", "200")]), body)
    });
    let to = |path: &str, name: &str| json!({ "match": { "prefix": path }, "route": { "cluster": name } });
    let direct = |path: &str, body: &str| {
        let body = if body.is_empty() { json!(null) } else { json!({ "inline_string": body }) };
        let mut action = json!({ "status": 200, "body": body });
        if body.is_null() {
            action.as_object_mut().unwrap().remove("body");
        }
        json!({ "match": { "prefix": path }, "direct_response": action })
    };
    let routes = json!([
        to("/one", "one"),
        to("/two", "two"),
        direct("/direct/0", ""),
        direct("/direct", "hello"),
        to("/gone", "gone"),
        json!({ "match": { "prefix": "/redirect" }, "redirect": { "path_redirect": "/" } }),
    ]);
    let port = free_port();
    let clusters = [
        cluster("one", one, json!({})),
        cluster("two", two, speaks_http2(&json!({}))),
        cluster("gone", free_port(), json!({})),
    ];
    let _proxy = Proxy::start(&config(&[http("one", port, &routes, json!({}))], &clusters));
    let (mut faults, mut cases) = (Vec::new(), 0);
    let mut paths: Vec<String> =
        ["one", "two"].iter().flat_map(|name| SIZES.map(|size| format!("/{name}/{size}"))).collect();
    paths.extend(["/direct/0", "/direct/1", "/gone/0", "/redirect/0"].map(str::to_owned));
    for path in paths {
        for method in ["GET", "HEAD", "POST"] {
            if method == "HEAD" && !path.ends_with("/0") {
                continue;
            }
            cases += 1;
            let mut request = http2::get(&path);
            request[0].1 = method.into();
            let response = http2::Connection::client(at(port)).ask(&request).unwrap_or_default();
            if response.data_frames.contains(&0) || response.status() == 0 {
                faults.push(format!("{method} {path}: {}, {:?}", response.status(), response.data_frames));
            }
            let expected = size(&path).min(if path.starts_with("/two") { 16_384 } else { usize::MAX });
            if method != "HEAD" && path[1..].starts_with(['o', 't']) && response.body.len() != expected {
                faults.push(format!("{method} {path}: {} bytes", response.body.len()));
            }
        }
    }
    report(&faults, cases);
}

/// An HTTP/2 host that resets each request, or holds it.
fn resetting() -> u16 {
    upstream::raw(|stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let _ = connection.stream.set_read_timeout(None);
        while let Ok(frame) = connection.read() {
            if frame.kind != HEADERS {
                continue;
            }
            let Ok(request) = connection.decode(&frame) else { return };
            if http2::find(&request, ":path").as_deref() == Some("/reset") {
                connection.reset(frame.stream, 2);
            }
        }
    })
}

/// Which counters each event of a stream adds one to, as Envoy 1.40 does.
fn counted() -> Vec<(&'static str, Fields, Vec<&'static str>)> {
    let mut unfinished = http2::get("/hold");
    unfinished[0].1 = b"POST".to_vec();
    vec![
        (
            "the client resets",
            http2::get("/hold"),
            vec!["http.one.downstream_rq_rx_reset", "http2.rx_reset", "cluster.two.http2.tx_reset"],
        ),
        (
            "the client resets its upload",
            unfinished,
            vec!["http.one.downstream_rq_rx_reset", "http2.rx_reset", "cluster.two.http2.tx_reset"],
        ),
        (
            "the host resets",
            http2::get("/reset"),
            vec!["cluster.two.upstream_rq_rx_reset", "cluster.two.http2.rx_reset"],
        ),
    ]
}

#[test]
fn resets_of_both_sides_are_counted() {
    let up = resetting();
    let port = free_port();
    let listener = http("one", port, &route("two"), json!({}));
    let proxy = Proxy::start(&config(&[listener], &[cluster("two", up, speaks_http2(&json!({})))]));
    let mut faults = Vec::new();
    for (name, request, counters) in counted() {
        let before = proxy.stats();
        let value = |stats: &std::collections::BTreeMap<String, u64>, name: &str| {
            stats.get(name).copied().unwrap_or(0)
        };
        let mut client = http2::Connection::client(at(port));
        let is_get = request[0].1 == b"GET";
        let stream = client.request(&request, is_get);
        if !is_get {
            client.send(DATA, 0, stream, b"some").unwrap();
        }
        if name.starts_with("the client") {
            proxy.wait_stat("cluster.two.upstream_rq_active", |active| active == 1);
            client.reset(stream, 8);
        } else {
            let _ = client.response(stream);
        }
        proxy.wait_stat("http.one.downstream_rq_active", |active| active == 0);
        for counter in counters {
            let counts =
                poll(DEADLINE / 10, || (proxy.stat(counter) == value(&before, counter) + 1).then_some(()));
            if counts.is_none() {
                faults.push(format!(
                    "{name}: {counter} goes from {} to {}",
                    value(&before, counter),
                    proxy.stat(counter)
                ));
            }
        }
    }
    report(&faults, counted().len());
}

/// HTTP/2 clients that a shutdown finds idle or busy hear of it before the connection ends.
#[test]
fn a_shutdown_sends_goaway_on_every_connection() {
    let gate = upstream::Gate::default();
    let held = gate.clone();
    let up = upstream::http1(move |_, _, connection| {
        held.pass();
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        true
    });
    let port = free_port();
    let listener: Value = http("one", port, &route("up"), json!({ "drain_timeout": "0.1s" }));
    let mut proxy =
        Proxy::start_with(&config(&[listener], &[cluster("up", up, json!({}))]), &["--drain-time-s", "10"]);
    let mut idle = http2::Connection::client(at(port));
    let mut busy = http2::Connection::client(at(port));
    let stream = busy.request(&http2::get("/"), true);
    proxy.wait_stat("cluster.up.upstream_rq_active", |active| active == 1);
    proxy.wait_stat("http.one.downstream_cx_active", |active| active == 2);
    proxy.signal("TERM");
    let frames = to_the_end(&mut idle);
    assert!(frames.contains(&(GOAWAY, 0)), "the idle connection ends with {frames:?}");
    gate.open();
    let response = busy.response(stream).unwrap();
    assert_eq!((response.status(), response.body.as_slice()), (200, b"ok".as_slice()));
    to_the_end(&mut busy);
    super::proxy::wait("the end of the process", || (!proxy.is_running()).then_some(()));
}

/// A client that does not respond to the PING between the two GOAWAYs cannot keep its connection:
/// what it has begun is finished, and nothing new is served.
#[test]
fn a_connection_ends_although_its_client_never_responds_to_a_ping() {
    let reasons = [
        ("duration", json!({ "max_connection_duration": "0.3s" })),
        ("requests", json!({ "max_requests_per_connection": 1 })),
    ];
    let mut faults = Vec::new();
    for (name, options) in reasons {
        let gate = upstream::Gate::default();
        let held = gate.clone();
        let up = upstream::http1(move |head, _, connection| {
            if http1::path(head) == "/hold" {
                held.pass();
            }
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            true
        });
        let port = free_port();
        let more = json!({ "common_http_protocol_options": options, "drain_timeout": "0.1s" });
        let listener = http(name, port, &route("up"), more);
        let _proxy = Proxy::start(&config(&[listener], &[cluster("up", up, json!({}))]));
        let mut idle = http2::Connection::client(at(port));
        let mut busy = http2::Connection::client(at(port));
        (idle.pongs, busy.pongs) = (false, false);
        idle.request(&http2::get("/"), true);
        let first = busy.request(&http2::get("/hold"), true);
        // The client goes on until it is refused.
        let refused = poll(DEADLINE, || {
            let stream = busy.request(&http2::get("/"), true);
            let response = busy.response(stream).ok()?;
            (response.reset == Some(7)).then_some(())
        });
        if refused.is_none() {
            faults.push(format!("{name}: new streams are served for ever"));
        }
        gate.open();
        let response = busy.response(first).map_or(0, |response| response.status());
        if response != 200 {
            faults.push(format!("{name}: the stream that was served gets status {response}"));
        }
        for (what, mut client) in [("idle", idle), ("busy", busy)] {
            client.stream.set_read_timeout(Some(DEADLINE / 2)).unwrap();
            while client.read().is_ok() {}
            // The connection is over when nothing can be written any more.
            let over = poll(DEADLINE / 4, || {
                let gone = client.send(http2::PING, 0, 0, &[0; 8]).is_err();
                gone.then_some(())
            });
            if over.is_none() {
                faults.push(format!("{name}: the {what} connection stays open"));
            }
        }
    }
    report(&faults, 8);
}

/// A connection of HTTP/1 that was used is drained for `drain_timeout` before it closes.
#[test]
fn an_old_or_idle_connection_of_http1_announces_its_end_before_it_closes() {
    let reasons = [
        ("duration", json!({ "max_connection_duration": "0.3s" }), "downstream_cx_max_duration_reached"),
        ("idle", json!({ "idle_timeout": "0.3s" }), "downstream_cx_idle_timeout"),
    ];
    let up = upstream::ok();
    let mut faults = Vec::new();
    for (name, options, counter) in reasons {
        let (patient, prompt) = (free_port(), free_port());
        let listeners = [(patient, "60s"), (prompt, "0.1s")].map(|(port, drain)| {
            let more = json!({
                "common_http_protocol_options": options, "drain_timeout": drain, "delayed_close_timeout": "0.1s",
            });
            http(&format!("{name}-{drain}"), port, &route("up"), more)
        });
        let proxy = Proxy::start(&config(&listeners, &[cluster("up", up, json!({}))]));
        let mut unused = http1::Connection::new(at(patient));
        if !unused.is_closed() {
            faults.push(format!("{name}: a connection without a request does not close"));
        }
        let mut used = http1::Connection::new(at(prompt));
        assert_eq!(used.get("/").unwrap().status, 200);
        if !used.is_closed() {
            faults.push(format!("{name}: the connection does not close after the drain time"));
        }
        let mut late = http1::Connection::new(at(patient));
        assert_eq!(late.get("/").unwrap().status, 200);
        let counter = format!("http.{name}-60s.{counter}");
        proxy.wait_stat(&counter, |count| count == 2);
        let response = late.get("/").unwrap_or_default();
        if (response.status, response.header("connection").as_deref()) != (200, Some("close")) {
            faults.push(format!("{name}: a late request gets {:?}", String::from_utf8_lossy(&response.head)));
        }
        if !late.is_closed() {
            faults.push(format!("{name}: the connection does not close after its last response"));
        }
    }
    report(&faults, 8);
}
