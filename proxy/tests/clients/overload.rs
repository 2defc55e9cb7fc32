//! The overload manager: the limit of connections, and each action at a pressure that is always
//! there (a heap limit of one byte) or that connections make.

use std::io::Read;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, GOAWAY};
use super::proxy::{Proxy, active, at, cluster, config, free_port, http, ip, merged, route, typed};
use super::upstream::{self, Gate};

fn monitors(connections: Option<u32>) -> Vec<Value> {
    let heap = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
    let mut all = vec![typed(HEAP, heap, json!({ "max_heap_size_bytes": 1 }))];
    if let Some(most) = connections {
        let message =
            "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
        all.push(typed(CONNECTIONS, message, json!({ "max_active_downstream_connections": most })));
    }
    all
}

const HEAP: &str = "envoy.resource_monitors.fixed_heap";
const CONNECTIONS: &str = "envoy.resource_monitors.global_downstream_max_connections";

/// An action that is saturated from the first refresh on.
fn always(action: &str) -> Value {
    json!({ "name": format!("envoy.overload_actions.{action}"),
        "triggers": [{ "name": HEAP, "threshold": { "value": 1 } }] })
}

fn with_manager(listeners: &[Value], clusters: &[Value], connections: Option<u32>, actions: &Value) -> Value {
    let manager = json!({ "overload_manager": { "refresh_interval": "0.01s",
        "resource_monitors": monitors(connections), "actions": actions } });
    merged(config(listeners, clusters), manager)
}

/// A proxy with two listeners, the second of which bypasses the overload manager, once the action
/// is active.
fn proxy_with(action: &str) -> (Proxy, u16, u16) {
    let up = upstream::ok();
    let (main, apart) = (free_port(), free_port());
    let mut bypass = http("apart", apart, &route("up"), json!({}));
    bypass["bypass_overload_manager"] = json!(true);
    let listeners = [http("main", main, &route("up"), json!({})), bypass];
    let clusters = [cluster("up", up, json!({}))];
    let proxy = Proxy::start(&with_manager(&listeners, &clusters, None, &json!([always(action)])));
    proxy.wait_stat(&format!("overload.envoy.overload_actions.{action}.scale_percent"), |share| share == 100);
    assert_eq!(proxy.stat(&format!("overload.envoy.overload_actions.{action}.active")), 1);
    (proxy, main, apart)
}

fn of_listener(port: u16, name: &str) -> String {
    format!("listener.{}_{port}.{name}", ip())
}

fn status(port: u16) -> u16 {
    http1::Connection::new(at(port)).get("/").unwrap().status
}

#[test]
fn connections_beyond_the_limit_of_all_listeners_are_closed_and_counted() {
    let up = upstream::ok();
    let (one, other, apart) = (free_port(), free_port(), free_port());
    let mut probes = http("apart", apart, &route("up"), json!({}));
    probes["ignore_global_conn_limit"] = json!(true);
    let listeners =
        [http("one", one, &route("up"), json!({})), http("other", other, &route("up"), json!({})), probes];
    let clusters = [cluster("up", up, json!({}))];
    let proxy = Proxy::start(&with_manager(&listeners, &clusters, Some(4), &json!([])));
    let mut first = http1::Connection::new(at(one));
    assert_eq!(first.get("/").unwrap().status, 200);
    let mut second = http2::Connection::client(at(other));
    assert_eq!(second.ask(&http2::get("/")).unwrap().status(), 200);
    let _idle: Vec<_> = [one, other].map(|port| http1::Connection::new(at(port))).into();
    proxy.wait_stat(&active(one), |open| open == 2);
    proxy.wait_stat(&active(other), |open| open == 2);
    for port in [one, other] {
        assert!(http1::Connection::new(at(port)).get("/").is_err(), "one too many");
        assert_eq!(proxy.stat(&of_listener(port, "downstream_global_cx_overflow")), 1);
    }
    assert_eq!(status(apart), 200, "a listener may ignore the limit");
    proxy.wait_stat(&active(apart), |open| open == 0);
    // Those that are open are not disturbed, and a place that is free again is taken.
    assert_eq!(first.get("/").unwrap().status, 200);
    assert_eq!(second.ask(&http2::get("/")).unwrap().status(), 200);
    drop(first);
    proxy.wait_stat(&active(one), |open| open == 1);
    assert_eq!(status(other), 200);
}

#[test]
fn stop_accepting_requests_answers_503_and_keeps_the_connection() {
    let (proxy, main, apart) = proxy_with("stop_accepting_requests");
    let mut client = http1::Connection::new(at(main));
    for _ in 0..2 {
        let response = client.get("/").unwrap();
        assert_eq!((response.status, &*response.text()), (503, "envoy overloaded"));
    }
    let mut two = http2::Connection::client(at(main));
    let response = two.ask(&http2::get("/")).unwrap();
    assert_eq!((response.status(), &*response.body), (503, b"envoy overloaded".as_slice()));
    client.send("POST / HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    let response = client.response().unwrap();
    assert_eq!(response.status, 503, "without asking for the body");
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    assert_eq!(proxy.stat("http.main.downstream_rq_overload_close"), 4);
    assert_eq!(proxy.stat("http.main.downstream_rq_5xx"), 4);
    assert_eq!(status(apart), 200, "a listener may bypass the overload manager");
}

#[test]
fn disable_http_keepalive_ends_connections_with_their_next_response() {
    let (proxy, main, apart) = proxy_with("disable_http_keepalive");
    let mut client = http1::Connection::new(at(main));
    let response = client.get("/").unwrap();
    assert_eq!((response.status, response.header("connection").as_deref()), (200, Some("close")));
    assert!(client.is_closed());
    let mut two = http2::Connection::client(at(main));
    let stream = two.request(&http2::get("/"), true);
    let mut seen = (false, false);
    while let Ok(frame) = two.read() {
        seen = (seen.0 || frame.kind == GOAWAY, seen.1 || frame.stream == stream && frame.ends_stream());
    }
    assert_eq!(seen, (true, true), "GOAWAY, and the whole response");
    assert_eq!(proxy.stat("http.main.downstream_cx_overload_disable_keepalive"), 2);
    assert_eq!(proxy.stat("http.main.downstream_cx_drain_close"), 2);
    let mut client = http1::Connection::new(at(apart));
    assert_eq!([(); 2].map(|()| client.get("/").unwrap().status), [200, 200]);
}

#[test]
fn reject_incoming_connections_closes_them_without_a_response() {
    let (proxy, main, apart) = proxy_with("reject_incoming_connections");
    for _ in 0..3 {
        assert!(http1::Connection::new(at(main)).get("/").is_err());
    }
    assert_eq!(proxy.stat(&of_listener(main, "downstream_cx_overload_reject")), 3);
    assert_eq!(proxy.stat(&of_listener(main, "downstream_cx_total")), 0);
    assert_eq!(status(apart), 200);
}

#[test]
fn stop_accepting_connections_leaves_them_to_the_kernel() {
    let (mut proxy, main, apart) = proxy_with("stop_accepting_connections");
    let mut waiting = http1::Connection::new(at(main));
    waiting.send("GET / HTTP/1.1\r\nhost: here\r\n\r\n");
    // The one worker would have seen the first connection before it serves these.
    for _ in 0..3 {
        assert_eq!(status(apart), 200);
    }
    assert_eq!(proxy.stat(&of_listener(main, "downstream_cx_total")), 0);
    assert!(proxy.is_running());
}

#[test]
fn reduce_timeouts_closes_idle_connections_when_many_are_open() {
    let gate = Gate::default();
    let waits = gate.clone();
    let up = upstream::http1(move |_, _, connection| {
        waits.pass();
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        true
    });
    let main = free_port();
    let timers = json!({ "@type": "type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
        "timer_scale_factors": [{ "timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "0.5s" }] });
    let reduce = json!({ "name": "envoy.overload_actions.reduce_timeouts", "typed_config": timers,
        "triggers": [{ "name": CONNECTIONS, "threshold": { "value": 0.25 } }] });
    let more =
        json!({ "common_http_protocol_options": { "idle_timeout": "3600s" }, "stream_idle_timeout": "0s" });
    let listeners = [http("main", main, &route("up"), more)];
    let clusters = [cluster("up", up, json!({}))];
    let proxy = Proxy::start(&with_manager(&listeners, &clusters, Some(10), &json!([reduce])));
    let mut busy = http1::Connection::new(at(main));
    busy.send("GET / HTTP/1.1\r\nhost: here\r\n\r\n");
    let mut two = http2::Connection::client(at(main));
    let mut half = http1::Connection::new(at(main));
    half.send("GET / HTTP/1.1\r\nho");
    proxy.wait_stat("http.main.downstream_rq_active", |active| active == 1);
    let mut idle: Vec<_> = (0..3).map(|_| http1::Connection::new(at(main))).collect();
    for mut connection in idle.drain(..) {
        assert_eq!(connection.stream.read(&mut [0]).unwrap_or(0), 0, "idle connections are closed");
    }
    let mut ended = false;
    while let Ok(frame) = two.read() {
        ended |= frame.kind == GOAWAY;
    }
    assert!(ended, "an idle HTTP/2 connection is told");
    // The pressure lasts until two are left, of ten.
    proxy.wait_stat("http.main.downstream_cx_idle_timeout", |count| count == 4);
    proxy.wait_stat("overload.envoy.overload_actions.reduce_timeouts.active", |active| active == 0);
    gate.open();
    assert_eq!(busy.response().unwrap().status, 200, "a connection with a request is not idle");
    half.send("st: here\r\n\r\n");
    assert_eq!(half.response().unwrap().status, 200, "nor is one that has begun a request");
    drop((busy, half));
    let mut after = http1::Connection::new(at(main));
    assert_eq!([(); 2].map(|()| after.get("/").unwrap().status), [200, 200], "idle again for an hour");
}

#[test]
fn an_overload_manager_that_makes_no_sense_is_refused_by_name() {
    let main = free_port();
    let listeners = [http("main", main, &json!([]), json!({}))];
    let action = |name: &str, trigger: Value| json!([{ "name": name, "triggers": [trigger] }]);
    let threshold = |name: &str| json!({ "name": name, "threshold": { "value": 0.5 } });
    let known = "envoy.overload_actions.shrink_heap";
    let scaled = json!({ "name": HEAP, "scaled": { "scaling_threshold": 0.9, "saturation_threshold": 0.9 } });
    for (actions, text) in [
        (action("envoy.overload_actions.shrink_heep", threshold(HEAP)), "shrink_heap"),
        (action("envoy.overload_actions.reset_high_memory_stream", threshold(HEAP)), "is not implemented"),
        (
            action(known, threshold("envoy.resource_monitors.fixed_hep")),
            "did you mean `envoy.resource_monitors.fixed_heap`",
        ),
        (action(known, scaled), "saturation_threshold must be greater"),
        (action(known, json!({ "name": HEAP })), "one of"),
        (json!([always("shrink_heap"), always("shrink_heap")]), "is there already"),
        (json!([always("reduce_timeouts")]), "needs its configuration"),
    ] {
        let file = with_manager(&listeners, &[], None, &actions).to_string();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_proxy"))
            .args(["--mode", "validate", "--config-yaml", &file])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(text), "{text}:\n{said}");
        assert!(said.contains("overload_manager.actions[0]") || said.contains("actions[1]"), "{said}");
    }
}

/// The action that lets idle timeouts shrink, at a pressure that is never reached.
fn shrinks_idle_timeouts() -> Value {
    let timers = json!({ "@type": "type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
        "timer_scale_factors": [{ "timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "2s" }] });
    json!({ "name": "envoy.overload_actions.reduce_timeouts", "typed_config": timers,
        "triggers": [{ "name": CONNECTIONS, "threshold": { "value": 1.0 } }] })
}

#[test]
fn at_the_limit_the_longest_idle_connection_makes_way_and_none_with_a_request() {
    let gate = Gate::default();
    let waits = gate.clone();
    let up = upstream::http1(move |head, _, connection| {
        if head.starts_with(b"GET /slow") {
            waits.pass();
        }
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        true
    });
    let main = free_port();
    let timeouts = json!({ "stream_idle_timeout": "0s" });
    let listeners = [http("main", main, &route("up"), timeouts)];
    let clusters = [cluster("up", up, json!({}))];
    // Read once in an hour: the limit alone is what acts here.
    let mut file = with_manager(&listeners, &clusters, Some(6), &json!([shrinks_idle_timeouts()]));
    file["overload_manager"]["refresh_interval"] = json!("3600s");
    let proxy = Proxy::start(&file);
    let open = |count: u64| proxy.wait_stat(&active(main), |open| open == count);
    let slow = "GET /slow HTTP/1.1\r\nhost: here\r\n\r\n";

    // In the order in which they have to go: two that sent nothing, one in the middle of its headers,
    // one of HTTP/2 without a stream, one that had a response, and one that has a request and stays.
    let mut kept = http1::Connection::new(at(main));
    assert_eq!(kept.get("/").unwrap().status, 200);
    let mut busy = http1::Connection::new(at(main));
    busy.send(slow);
    proxy.wait_stat("http.main.downstream_rq_active", |active| active == 1);
    let mut silent = http1::Connection::new(at(main));
    open(3);
    let mut half = http1::Connection::new(at(main));
    half.send("GET / HTTP/1.1\r\nho");
    open(4);
    let mut other = http1::Connection::new(at(main));
    open(5);
    let mut two = http2::Connection::client(at(main));
    open(6);

    let mut newer = Vec::new();
    for (at_most, old) in [&mut silent, &mut half, &mut other].into_iter().enumerate() {
        let mut client = http1::Connection::new(at(main));
        client.send(slow);
        assert_eq!(old.stream.read(&mut [0]).unwrap_or(0), 0, "number {at_most} makes way");
        newer.push(client);
    }
    let mut client = http1::Connection::new(at(main));
    client.send(slow);
    newer.push(client);
    let mut told = false;
    while let Ok(frame) = two.read() {
        told |= frame.kind == GOAWAY;
    }
    assert!(told, "HTTP/2 is told");
    let mut client = http1::Connection::new(at(main));
    client.send(slow);
    newer.push(client);
    assert_eq!(kept.stream.read(&mut [0]).unwrap_or(0), 0, "those with a response go last");
    proxy.wait_stat("http.main.downstream_rq_active", |active| active == 6);
    assert_eq!(proxy.stat("http.main.downstream_cx_idle_timeout"), 5);

    // All have a request: now the new one is refused.
    assert!(http1::Connection::new(at(main)).get("/").is_err(), "one too many");
    assert_eq!(proxy.stat(&of_listener(main, "downstream_global_cx_overflow")), 1);
    gate.open();
    for mut client in std::iter::once(busy).chain(newer) {
        assert_eq!(client.response().unwrap().status, 200, "no request is lost");
    }
}
