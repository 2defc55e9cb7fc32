//! Memory: what a connection and a request cost, and what happens when clients ask for more than a
//! container has.
//!
//! The second part runs `deploy/config/ingress.yaml` in a control group with the memory of its
//! container. That needs root and a hierarchy that can be written to; elsewhere the tests say so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy::memory::{IDLE_CONNECTION, LEAST_WINDOW, REQUEST};
use serde_json::{Value, json};

use super::http1;
use super::http2;
use super::proxy::{
    DEADLINE, Proxy, active, at, cluster, config, free_port, http, ip, merge, merged, poll, route,
};
use super::upstream;

/// Bytes of a body that never ends.
const BODY: usize = 10_000_000;

/// An upstream that takes connections and reads nothing.
fn stalled() -> u16 {
    let waits = upstream::Gate::default();
    upstream::raw(move |stream| {
        waits.pass();
        drop(stream);
    })
}

/// An upstream that responds with a body as fast as it is taken.
fn endless() -> u16 {
    upstream::http1(|_, _, connection| {
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n"));
        connection.stream.write_all(&vec![b'x'; BODY]).is_ok()
    })
}

/// Sends as much of a body as is taken.
fn upload(port: u16, path: &str) -> http1::Connection {
    let mut client = http1::Connection::new(at(port));
    client.send(format!("POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: {BODY}\r\n\r\n"));
    client.stream.set_nonblocking(true).unwrap();
    // It leaves by a reset: an end would wait behind what the proxy does not read.
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    let piece = [b'x'; 16 * 1024];
    // The kernel takes some, and then the proxy no more.
    while client.stream.write(&piece).is_ok() {}
    client
}

/// Asks for a body and does not read it.
fn slow_reader(port: u16, path: &str) -> http1::Connection {
    let mut client = http1::Connection::new(at(port));
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(4096).unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"));
    client
}

/// Anonymous memory of the proxy, once it has stopped growing.
fn settled(proxy: &Proxy) -> u64 {
    let (mut highest, mut same) = (0, 0);
    let found = poll(DEADLINE, || {
        let now = proxy.stat("server.memory_allocated");
        same = if now > highest { 0 } else { same + 1 };
        highest = highest.max(now);
        (same >= 10).then_some(highest)
    });
    found.unwrap_or(highest)
}

/// What each of `count` costs.
fn cost<T>(proxy: &Proxy, count: u64, gauge: &str, mut open: impl FnMut() -> T) -> u64 {
    let before = settled(proxy);
    let all: Vec<T> = (0..count).map(|_| open()).collect();
    proxy.wait_stat(gauge, |active| active == count);
    let after = settled(proxy);
    drop(all);
    proxy.wait_stat(gauge, |active| active == 0);
    after.saturating_sub(before) / count
}

fn limited(mut object: Value, limit: u64) -> Value {
    object["per_connection_buffer_limit_bytes"] = json!(limit);
    object
}

#[test]
fn idle_connections_cost_less_than_the_rule_says() {
    let up = upstream::ok();
    let main = free_port();
    let listeners = [http("main", main, &route("up"), json!({}))];
    let proxy = Proxy::start(&config(&listeners, &[cluster("up", up, json!({}))]));
    let gauge = active(main);
    let unused = cost(&proxy, 300, &gauge, || http1::Connection::new(at(main)));
    let used = cost(&proxy, 300, &gauge, || {
        let mut client = http1::Connection::new(at(main));
        assert_eq!(client.get("/").unwrap().status, 200);
        client
    });
    let http2 = cost(&proxy, 300, &gauge, || {
        let mut client = http2::Connection::client(at(main));
        assert_eq!(client.ask(&http2::get("/")).unwrap().status(), 200);
        client
    });
    let report = format!("unused {unused}, HTTP/1 {used}, HTTP/2 {http2} of {IDLE_CONNECTION} bytes");
    assert!(unused.max(used) <= IDLE_CONNECTION / 4, "{report}");
    assert!(http2 <= IDLE_CONNECTION, "{report}");
}

#[test]
fn requests_in_the_middle_of_large_bodies_cost_less_than_the_rule_says() {
    let breakers = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1000 }] } });
    for limit in [4 << 10, 16 << 10] {
        let main = free_port();
        let routes = json!([
            { "match": { "path": "/up" }, "route": { "cluster": "stalled", "timeout": "0s",
                "retry_policy": { "retry_on": "reset", "num_retries": 1 } } },
            { "match": { "path": "/down" }, "route": { "cluster": "endless", "timeout": "0s" } },
        ]);
        let listeners = [limited(http("main", main, &routes, json!({})), limit)];
        let clusters = [("stalled", stalled()), ("endless", endless())]
            .map(|(name, port)| limited(cluster(name, port, breakers.clone()), limit));
        let proxy = Proxy::start(&config(&listeners, &clusters));
        let gauge = "http.main.downstream_rq_active";
        let most = REQUEST + limit.max(LEAST_WINDOW) + 3 * limit;
        let uploads = cost(&proxy, 60, gauge, || upload(main, "/up"));
        let downloads = cost(&proxy, 60, gauge, || slow_reader(main, "/down"));
        let report = format!("limit {limit}: upload {uploads}, download {downloads} of {most} bytes");
        assert!(uploads.max(downloads) <= most, "{report}");
    }
}

/// A control group with a limit of memory.
struct Group {
    folder: PathBuf,
    old: bool,
}

impl Group {
    /// `Err` says why there is none.
    fn new(limit: u64) -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let old = root.join("memory/cgroup.procs").exists();
        let name = format!("petmesh-test-{}-{limit}", std::process::id());
        let folder = if old { root.join("memory") } else { root.to_owned() }.join(name);
        let file = if old { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let group = Self { folder, old };
        // Without the controller in the parent's `subtree_control` there is no such file.
        if !group.folder.join(file).exists() {
            return Err(format!("{}: no {file}", group.folder.display()));
        }
        std::fs::write(group.folder.join(file), limit.to_string()).map_err(|error| error.to_string())?;
        Ok(group)
    }

    fn kills(&self) -> u64 {
        let file = if self.old { "memory.oom_control" } else { "memory.events" };
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed as soon as its last process has been reaped.
        let _ = poll(DEADLINE, || std::fs::remove_dir(&self.folder).ok());
    }
}

/// The control group, or a word about the test that does without.
fn group(limit: u64) -> Option<Group> {
    match Group::new(limit) {
        Ok(group) => Some(group),
        Err(why) => {
            eprintln!("skipped: a control group with a limit of memory cannot be made here ({why})");
            None
        }
    }
}

/// The shipped file of the ingress with other addresses, and upstreams in place of discovery.
fn shipped(main: u16, probes: u16, pet: u16, petstore: u16) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/ingress.yaml");
    let mut file: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file.as_object_mut().unwrap().remove("admin");
    let address =
        |port: u16| json!({ "socket_address": { "address": ip().to_string(), "port_value": port } });
    let resources = &mut file["static_resources"];
    for listener in resources["listeners"].as_array_mut().unwrap() {
        let port = if listener["name"] == "probes" { probes } else { main };
        listener["address"] = address(port);
    }
    for found in resources["clusters"].as_array_mut().unwrap() {
        let name = found["name"].as_str().unwrap().to_owned();
        let port = if name == "petstore" { petstore } else { pet };
        let mut own = cluster(&name, port, json!({}));
        own["eds_cluster_config"] = Value::Null;
        own["dns_lookup_family"] = Value::Null;
        merge(found, own);
    }
    file
}

/// Opens clients until as many are open as are asked for, or the proxy takes no more of them.
fn flood<T>(count: usize, open: impl Fn() -> Option<T>) -> Vec<T> {
    (0..count).filter_map(|_| open()).collect()
}

fn http2_used(port: u16) -> Option<http2::Connection> {
    let mut client = http2::Connection::client_with(at(port), &[]).ok()?;
    client.ask(&http2::get("/nothing")).ok()?;
    Some(client)
}

const STORE: &str = "/petstore/petstore/1";

#[test]
fn a_proxy_that_is_asked_for_more_than_its_container_has_refuses_and_lives() {
    let Some(group) = group(40 << 20) else { return };
    let (main, probes) = (free_port(), free_port());
    let file = shipped(main, probes, stalled(), endless());
    let mut proxy = Proxy::start_within(&file, &group.folder.join("cgroup.procs"));
    let overflow = format!("listener.{}_{main}.downstream_global_cx_overflow", ip());
    let open = active(main);
    let serves = |proxy: &mut Proxy, what: &str| {
        assert!(proxy.is_running(), "{what}: the proxy has ended:\n{}", proxy.log());
        assert_eq!(group.kills(), 0, "{what}");
        proxy.wait_stat(&open, |open| open == 0);
        let response = poll(DEADLINE, || {
            let response = http1::Connection::try_new(at(main)).ok()?.get("/nothing").ok()?;
            (response.status == 404).then_some(())
        });
        assert!(response.is_some(), "{what}: nothing is served afterwards");
        proxy.wait_stat(&open, |open| open == 0);
    };
    let probe = || {
        let response = http1::Connection::new(at(probes)).get("/other").unwrap();
        assert_eq!(response.status, 404, "probes are still served");
    };

    let idle = flood(500, || http1::Connection::try_new(at(main)).ok());
    proxy.wait_stat(&overflow, |count| count > 0);
    assert!(proxy.stat(&open) <= 400);
    probe();
    drop(idle);
    serves(&mut proxy, "idle HTTP/1");

    let before = proxy.stat(&overflow);
    let idle = flood(500, || http2_used(main));
    proxy.wait_stat(&overflow, |count| count > before);
    probe();
    drop(idle);
    serves(&mut proxy, "idle HTTP/2");

    let uploads = flood(390, || Some(upload(main, "/pet/pets")));
    proxy.wait_stat("cluster.pet.upstream_rq_pending_overflow", |count| count > 0);
    probe();
    let slow = flood(390, || Some(slow_reader(main, STORE)));
    probe();
    assert!(proxy.is_running(), "{}", proxy.log());
    drop((uploads, slow));
    serves(&mut proxy, "large bodies");

    let slow = flood(390, || Some(slow_reader(main, STORE)));
    proxy.wait_stat("cluster.petstore.upstream_rq_pending_overflow", |count| count > 0);
    probe();
    drop(slow);
    serves(&mut proxy, "slow readers");
}

/// Without the limits the same clients end it: the test above proves something.
#[test]
fn a_proxy_without_limits_is_killed() {
    let Some(group) = group(10 << 20) else { return };
    let (main, probes) = (free_port(), free_port());
    let without = json!({ "overload_manager": null, "layered_runtime": null });
    let file = merged(shipped(main, probes, stalled(), endless()), without);
    let mut proxy = Proxy::start_within(&file, &group.folder.join("cgroup.procs"));
    let _idle = flood(800, || http2_used(main));
    let ended = poll(DEADLINE, || (!proxy.is_running()).then_some(()));
    assert!(ended.is_some(), "800 connections of HTTP/2 fit into 10 MiB");
}
