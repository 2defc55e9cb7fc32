//! Listeners at a reload: what is removed ends within the drain time, what could not be bound or
//! read is tried again.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use super::http1;
use super::http2;
use super::injection::report;
use super::proxy::{
    DEADLINE, Logs, Proxy, access_log, active, at, cluster, config, free_port, http, ip, listener, poll,
    route, typed, wait,
};
use super::upstream;

const DRAIN: [&str; 2] = ["--drain-time-s", "1"];
/// Well after the drain time.
const SOON: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http1Unused,
    Http1Idle,
    Http1Half,
    Http2Unused,
    Http2Idle,
    TcpIdle,
    TcpUsed,
}

const KINDS: [Kind; 7] = [
    Kind::Http1Unused,
    Kind::Http1Idle,
    Kind::Http1Half,
    Kind::Http2Unused,
    Kind::Http2Idle,
    Kind::TcpIdle,
    Kind::TcpUsed,
];

enum Client {
    One(http1::Connection),
    Two(http2::Connection),
}

impl Client {
    fn open(kind: Kind, http: u16, tcp: u16) -> Self {
        let mut one = match kind {
            Kind::TcpIdle | Kind::TcpUsed => http1::Connection::new(at(tcp)),
            _ => http1::Connection::new(at(http)),
        };
        match kind {
            Kind::Http1Idle | Kind::TcpUsed => assert_eq!(one.get("/").unwrap().status, 200),
            Kind::Http1Half => one.send("GET / HTTP/1.1\r\nho"),
            Kind::Http1Unused | Kind::TcpIdle => {}
            Kind::Http2Unused => return Self::Two(http2::Connection::client(at(http))),
            Kind::Http2Idle => {
                let mut two = http2::Connection::client(at(http));
                assert_eq!(two.ask(&http2::get("/")).unwrap().status(), 200);
                return Self::Two(two);
            }
        }
        Self::One(one)
    }

    /// Whether the proxy ends the connection in time; HTTP/2 has to say so before.
    fn ends(self) -> Result<(), String> {
        match self {
            Self::One(mut one) => {
                one.stream.set_read_timeout(Some(SOON)).unwrap();
                let mut bytes = [0; 1024];
                loop {
                    match std::io::Read::read(&mut one.stream, &mut bytes) {
                        Ok(0) => return Ok(()),
                        // A request that is not whole may get a response first.
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                            return Err("stays open".to_owned());
                        }
                        Err(_) => return Ok(()),
                    }
                }
            }
            Self::Two(mut two) => {
                two.stream.set_read_timeout(Some(SOON)).unwrap();
                let mut warned = false;
                loop {
                    match two.read() {
                        Ok(frame) => warned |= frame.kind == http2::GOAWAY,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                            return Err("stays open".to_owned());
                        }
                        Err(_) if warned => return Ok(()),
                        Err(_) => return Err("ends without GOAWAY".to_owned()),
                    }
                }
            }
        }
    }
}

fn tcp(name: &str, port: u16) -> Value {
    let message = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let fields = json!({ "stat_prefix": name, "cluster": "up", "idle_timeout": "0s" });
    listener(name, port, &typed("envoy.filters.network.tcp_proxy", message, fields))
}

fn patient(name: &str, port: u16) -> Value {
    let more = json!({
        "common_http_protocol_options": { "idle_timeout": "0s" }, "stream_idle_timeout": "0s", "drain_timeout": "0.1s",
    });
    http(name, port, &route("up"), more)
}

fn marker(port: u16, text: &str) -> Value {
    let routes = json!([{ "match": { "prefix": "/" }, "direct_response":
        { "status": 200, "body": { "inline_string": text } } }]);
    http("marker", port, &routes, json!({}))
}

/// Waits until the proxy runs the file with this marker.
fn serves(port: u16, text: &str) {
    wait("the new file", || {
        let response = http1::Connection::try_new(at(port)).ok()?.get("/").ok()?;
        (response.text() == text).then_some(())
    });
}

#[test]
fn connections_of_a_listener_that_is_gone_end_within_the_drain_time() {
    let up = upstream::ok();
    let clusters = [cluster("up", up, json!({}))];
    let mut faults = Vec::new();
    // With one socket for all workers, the first hands connections over to the others.
    for (change, one_socket) in [("removed", false), ("moved", false), ("removed", true), ("moved", true)] {
        let (web, raw, mark) = (free_port(), free_port(), free_port());
        let mut before = [patient("web", web), tcp("raw", raw), marker(mark, "1")];
        for listener in &mut before {
            listener["enable_reuse_port"] = json!(!one_socket);
        }
        let mut arguments = DRAIN.to_vec();
        if one_socket {
            arguments.extend(["--concurrency", "3"]);
        }
        let proxy = Proxy::start_with(&config(&before, &clusters), &arguments);
        serves(mark, "1");
        let clients: Vec<(Kind, Client)> =
            KINDS.into_iter().map(|kind| (kind, Client::open(kind, web, raw))).collect();
        proxy.wait_stat(&active(web), |active| active == 5);
        proxy.wait_stat(&active(raw), |active| active == 2);
        let mut after: Vec<Value> = match change {
            "removed" => vec![marker(mark, "2")],
            _ => vec![patient("web", free_port()), tcp("raw", free_port()), marker(mark, "2")],
        };
        // It cannot change under an address.
        after.last_mut().unwrap()["enable_reuse_port"] = json!(!one_socket);
        proxy.write(&config(&after, &clusters));
        serves(mark, "2");
        let each: Vec<_> = clients
            .into_iter()
            .map(|(kind, client)| std::thread::spawn(move || (kind, client.ends())))
            .collect();
        for thread in each {
            let (kind, result) = thread.join().unwrap();
            faults.extend(
                result.err().map(|text| format!("{change}, one socket {one_socket}, {kind:?}: {text}")),
            );
        }
    }
    report(&faults, 4 * KINDS.len());
}

#[test]
fn connections_in_the_accept_queue_of_a_listener_that_is_gone_are_served_and_end() {
    let up = upstream::ok();
    let clusters = [cluster("up", up, json!({}))];
    let mut faults = Vec::new();
    for round in 0..3 {
        let (web, mark) = (free_port(), free_port());
        let proxy = Proxy::start_with(&config(&[patient("web", web), marker(mark, "1")], &clusters), &DRAIN);
        serves(mark, "1");
        // While the process is stopped, connections lie in the queue of the kernel.
        proxy.signal("STOP");
        proxy.write(&config(&[marker(mark, "2")], &clusters));
        let mut clients: Vec<http1::Connection> = (0..40).map(|_| http1::Connection::new(at(web))).collect();
        for client in clients.iter_mut().take(20) {
            client.send("GET / HTTP/1.1\r\nhost: here\r\n\r\n");
        }
        proxy.signal("CONT");
        for (number, mut client) in clients.into_iter().enumerate() {
            if number < 20 {
                let status = client.response().map_or(0, |response| response.status);
                if status != 200 {
                    faults.push(format!("round {round}, connection {number}: status {status}"));
                }
            }
            if let Err(text) = Client::One(client).ends() {
                faults.push(format!("round {round}, connection {number}: {text}"));
                break;
            }
        }
        serves(mark, "2");
    }
    report(&faults, 3 * 40);
}

/// A port that something else holds when the file is read.
fn taken() -> (TcpListener, u16) {
    let socket = TcpListener::bind((ip(), 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn taken_port_is_served_later(by: &str) {
    let up = upstream::ok();
    let clusters = [cluster("up", up, json!({}))];
    let mark = free_port();
    let proxy = Proxy::start(&config(&[marker(mark, "1")], &clusters));
    let (socket, port) = taken();
    proxy.write(&config(&[patient("web", port), marker(mark, "2")], &clusters));
    wait("word of the port", || {
        let log = proxy.log();
        log.lines().any(|line| line.contains(&port.to_string()) && line.contains("in use")).then_some(())
    });
    assert_eq!(
        proxy.stat("listener_manager.total_listeners_active"),
        1,
        "a listener without a socket is active"
    );
    assert_eq!(http1::Connection::new(at(mark)).get("/").unwrap().status, 200);
    drop(socket);
    if by == "SIGHUP" {
        proxy.signal("HUP");
    }
    let served = poll(DEADLINE, || {
        let response = http1::Connection::try_new(at(port)).ok()?.get("/").ok()?;
        (response.status == 200).then_some(())
    });
    assert!(served.is_some(), "the port is free, and nothing listens there");
    serves(mark, "2");
    assert_eq!(proxy.stat("listener_manager.total_listeners_active"), 2);
}

#[test]
fn a_listener_whose_port_was_taken_listens_when_it_is_free() {
    taken_port_is_served_later("itself");
}

#[test]
fn a_listener_whose_port_was_taken_listens_after_sighup() {
    taken_port_is_served_later("SIGHUP");
}

/// Where a configuration may name a file, and the path that shows its content.
fn with_files(port: u16, up: u16, folder: &Logs) -> Value {
    let name = |name: &str| json!({ "filename": folder.path(name) });
    let any = json!({ "status_code_filter": { "comparison":
        { "op": "EQ", "value": { "default_value": 404, "runtime_key": "none" } } } });
    let other = json!({ "status_code_filter": { "comparison":
        { "op": "EQ", "value": { "default_value": 503, "runtime_key": "none" } } } });
    let mut log = access_log(&folder.path("log"), &json!(""));
    log["typed_config"]["log_format"] = json!({ "text_format_source": name("log format") });
    let routes = json!([
        { "match": { "path": "/direct" }, "direct_response": { "status": 200, "body": name("direct") } },
        { "match": { "path": "/mapped" }, "direct_response": { "status": 404 } },
        { "match": { "path": "/format" }, "direct_response": { "status": 503 } },
    ]);
    let more = json!({
        "access_log": [log],
        "local_reply_config": { "mappers": [
            { "filter": any, "body": name("mapped") },
            { "filter": other, "body_format_override": { "text_format_source": name("format") } },
        ] },
    });
    config(&[http("one", port, &routes, more)], &[cluster("up", up, json!({}))])
}

const FILES: [&str; 4] = ["direct", "mapped", "format", "log format"];

fn shows(port: u16, folder: &Logs, file: &str) -> String {
    let path = if file == "log format" { "/direct" } else { file };
    let response = http1::Connection::new(at(port)).get(&format!("/{}", path.trim_start_matches('/')));
    match file {
        "log format" => folder.read("log").lines().last().unwrap_or_default().to_owned(),
        _ => response.map_or_else(|_| String::new(), |response| response.text()),
    }
}

#[test]
fn a_file_that_the_configuration_names_is_read_again() {
    let up = upstream::ok();
    let mut faults = Vec::new();
    for by in ["SIGHUP", "another file"] {
        let (folder, port) = (Logs::new(), free_port());
        for file in FILES {
            std::fs::write(folder.path(file), format!("{file} 1\n")).unwrap();
        }
        let text = with_files(port, up, &folder);
        let proxy = Proxy::start(&text);
        for file in FILES {
            let before = format!("{file} 1");
            if poll(DEADLINE / 10, || (shows(port, &folder, file).trim() == before).then_some(())).is_none() {
                faults.push(format!("{file}: shows {:?} at first", shows(port, &folder, file)));
            }
        }
        for file in FILES {
            std::fs::write(folder.path(file), format!("{file} 2\n")).unwrap();
            if by == "SIGHUP" {
                proxy.signal("HUP");
            } else {
                let more = cluster(&format!("more-{}", file.len()), up, json!({}));
                let mut text = text.clone();
                text["static_resources"]["clusters"].as_array_mut().unwrap().push(more);
                proxy.write(&text);
            }
            let after = format!("{file} 2");
            if poll(DEADLINE / 5, || (shows(port, &folder, file).trim() == after).then_some(())).is_none() {
                faults.push(format!("{by}, {file}: still shows {:?}", shows(port, &folder, file)));
            }
        }
    }
    report(&faults, 2 * FILES.len());
}

#[test]
fn what_was_refused_for_an_outside_reason_is_accepted_at_sighup_when_the_reason_is_gone() {
    let up = upstream::ok();
    let mut faults = Vec::new();
    for missing in FILES {
        let (folder, port, mark) = (Logs::new(), free_port(), free_port());
        for file in FILES.into_iter().filter(|file| *file != missing) {
            std::fs::write(folder.path(file), format!("{file} 1\n")).unwrap();
        }
        let proxy = Proxy::start(&config(&[marker(mark, "1")], &[]));
        proxy.write(&with_files(port, up, &folder));
        wait("the refusal", || {
            (proxy.stat_or_zero("listener_manager.lds.update_rejected") >= 1).then_some(())
        });
        std::fs::write(folder.path(missing), format!("{missing} 1\n")).unwrap();
        proxy.signal("HUP");
        if poll(DEADLINE / 5, || http1::Connection::try_new(at(port)).ok()).is_none() {
            faults.push(format!("{missing}: the file is there, and still refused"));
        }
    }
    report(&faults, FILES.len());
}

/// How many connections the kernel makes for a listener that accepts none.
fn queue(port: u16) -> usize {
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&at(port), Duration::from_millis(500)) {
        queued.push(stream);
        if queued.len() == 100 {
            break;
        }
    }
    queued.len()
}

#[test]
fn another_backlog_applies_to_the_socket_that_is_open() {
    let (port, mark) = (free_port(), free_port());
    let listeners = |number: &str, backlog: u32| {
        let mut raw = tcp("raw", port);
        raw["tcp_backlog_size"] = json!(backlog);
        config(&[raw, marker(mark, number)], &[cluster("up", port, json!({}))])
    };
    let proxy = Proxy::start(&listeners("1", 1000));
    proxy.write(&listeners("2", 3));
    serves(mark, "2");
    proxy.signal("STOP");
    let queued = queue(port);
    proxy.signal("CONT");
    assert!(queued < 100, "the queue holds {queued} connections");
}
