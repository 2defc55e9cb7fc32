//! Memory: what a connection and a request cost, and what happens when clients ask for more than a
//! container has.
//!
//! The second part runs `deploy/config/ingress.yaml` in a control group with the memory of its
//! container. That needs root and a hierarchy that can be written to; elsewhere the tests say that
//! they did not run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy::memory::{BASE, IDLE_CLUSTER, IDLE_CONNECTION, LEAST_WINDOW, REQUEST, WAITING_REQUEST};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::http1;
use super::http2;
use super::proxy::{DEADLINE, Proxy, active, at, cluster, config, free_port, http, ip, merge, poll, route};
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

/// Sends as much of a body as is taken; `None` when nobody takes the connection.
fn upload(port: u16, path: &str) -> Option<http1::Connection> {
    let mut client = http1::Connection::try_new(at(port)).ok()?;
    client.send(format!("POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: {BODY}\r\n\r\n"));
    client.stream.set_nonblocking(true).unwrap();
    // It leaves by a reset: an end would wait behind what the proxy does not read.
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    let piece = [b'x'; 16 * 1024];
    // The kernel takes some, and then the proxy no more.
    while client.stream.write(&piece).is_ok() {}
    Some(client)
}

/// Asks for a body and does not read it.
fn slow_reader(port: u16, path: &str) -> http1::Connection {
    let mut client = http1::Connection::new(at(port));
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(4096).unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"));
    client
}

/// Anonymous memory of the proxy. The page of all statistics would itself cost some.
fn allocated(proxy: &Proxy) -> u64 {
    let page = proxy.page("/memory").unwrap();
    let (_, rest) = page.split_once("\"allocated\": \"").unwrap();
    rest.split_once('"').unwrap().0.parse().unwrap()
}

/// The same, once it has stopped growing.
fn settled(proxy: &Proxy) -> u64 {
    let (mut highest, mut same) = (0, 0);
    let found = poll(DEADLINE, || {
        let now = allocated(proxy);
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
fn idle_clusters_cost_less_than_the_rule_says() {
    let memory = |count: u64| {
        let clusters: Vec<_> = (0..count).map(|at| cluster(&format!("idle{at}"), 1, json!({}))).collect();
        settled(&Proxy::start(&config(&[], &clusters)))
    };
    let (none, some) = (memory(0), memory(1000));
    let each = some.saturating_sub(none) / 1000;
    assert!(each <= IDLE_CLUSTER, "{each} of {IDLE_CLUSTER} bytes");
}

/// The kernel's part of a connection, which `server.memory_allocated` does not show.
const KERNEL: u64 = 2 << 10;

#[test]
fn requests_cost_less_than_the_rule_says() {
    let routes = json!([
        { "match": { "path": "/held" }, "route": { "cluster": "stalled", "timeout": "0s" } },
        { "match": { "path": "/waiting" }, "route": { "cluster": "one", "timeout": "0s" } },
    ]);
    let many = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1000 }] } });
    let one = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1 }] } });
    let main = free_port();
    let listeners = [http("main", main, &routes, json!({}))];
    let clusters = [cluster("stalled", stalled(), many), cluster("one", stalled(), one)];
    let proxy = Proxy::start(&config(&listeners, &clusters));
    let ask = |path: &str| {
        let mut client = http1::Connection::new(at(main));
        client.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"));
        client
    };
    let gauge = "http.main.downstream_rq_active";
    let idle = IDLE_CONNECTION / 4;
    let waiting = cost(&proxy, 300, gauge, || ask("/waiting"));
    assert!(waiting + KERNEL <= WAITING_REQUEST + idle, "waiting: {waiting} bytes");
    let held = cost(&proxy, 300, gauge, || ask("/held"));
    assert!(held + 3 * KERNEL <= REQUEST + idle, "held: {held} bytes");
}

#[test]
fn requests_in_the_middle_of_large_bodies_cost_less_than_the_rule_says() {
    let breakers = json!({ "circuit_breakers": { "thresholds": [{ "max_connections": 1000 }] } });
    for limit in [8 << 10, 16 << 10] {
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
        let most = IDLE_CONNECTION + REQUEST + limit.max(LEAST_WINDOW);
        let uploads = cost(&proxy, 60, gauge, || upload(main, "/up"));
        let downloads = cost(&proxy, 60, gauge, || slow_reader(main, "/down"));
        let report = format!("limit {limit}: upload {uploads}, download {downloads} of {most} bytes");
        assert!(uploads.max(downloads) <= most, "{report}");
    }
}

/// The memory of the container in `deploy/components/ingress/ingress.yaml`.
const CONTAINER: u64 = 144 << 20;

/// A control group with a limit of memory.
struct Group {
    folder: PathBuf,
    old: bool,
}

impl Group {
    /// `Err` says why there is none.
    fn new(name: &str, limit: u64) -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let old = root.join("memory/cgroup.procs").exists();
        let name = format!("petmesh-test-{}-{name}", std::process::id());
        let folder = if old { root.join("memory") } else { root.to_owned() }.join(name);
        let file = if old { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let group = Self { folder, old };
        // Without the controller in the parent's `subtree_control` there is no such file.
        if !group.folder.join(file).exists() {
            return Err(format!("{}: no {file}", group.folder.display()));
        }
        std::fs::write(group.folder.join(file), limit.to_string()).map_err(|error| error.to_string())?;
        if old {
            // Version 1 counts the buffers of sockets only where they have a limit of their own.
            let _not_everywhere = std::fs::write(
                group.folder.join("memory.kmem.tcp.limit_in_bytes"),
                (1_u64 << 40).to_string(),
            );
        }
        Ok(group)
    }

    /// The group, or a word about the test that does without.
    fn or_skip(name: &str, limit: u64) -> Option<Self> {
        let group = Self::new(name, limit);
        if let Err(why) = &group {
            eprintln!("not run: a control group with a limit of memory cannot be made here ({why})");
        }
        group.ok()
    }

    fn kills(&self) -> u64 {
        self.number_in(if self.old { "memory.oom_control" } else { "memory.events" }, "oom_kill ")
    }

    /// What is used and cannot be taken back, the buffers of sockets included.
    fn used(&self) -> u64 {
        let number = |file: &str| {
            let text = std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        let cache =
            |names: [&str; 2]| names.map(|name| self.number_in("memory.stat", name)).iter().sum::<u64>();
        if self.old {
            let used = number("memory.usage_in_bytes") + number("memory.kmem.tcp.usage_in_bytes");
            used.saturating_sub(cache(["total_inactive_file ", "total_active_file "]))
        } else {
            number("memory.current").saturating_sub(cache(["inactive_file ", "active_file "]))
        }
    }

    fn number_in(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed as soon as its last process has been reaped.
        let _ = poll(DEADLINE, || std::fs::remove_dir(&self.folder).ok());
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

/// Takes every limit out of a file.
fn without_limits(file: &mut Value) {
    const LIMITS: [&str; 6] = [
        "overload_manager",
        "layered_runtime",
        "cluster_manager",
        "per_connection_buffer_limit_bytes",
        "socket_options",
        "circuit_breakers",
    ];
    match file {
        Value::Object(fields) => {
            fields.retain(|name, _| !LIMITS.contains(&&**name));
            fields.values_mut().for_each(without_limits);
        }
        Value::Array(items) => items.iter_mut().for_each(without_limits),
        _ => {}
    }
}

/// Opens that many clients; some are refused.
fn flood<T>(count: usize, open: impl Fn() -> Option<T>) -> Vec<T> {
    (0..count).filter_map(|_| open()).collect()
}

fn http2_used(port: u16) -> Option<http2::Connection> {
    let mut client = http2::Connection::client_with(at(port), &[]).ok()?;
    client.ask(&http2::get("/nothing")).ok()?;
    Some(client)
}

const PET: &str = "/pet/pets";
const STORE: &str = "/petstore/petstore/1";

/// The ingress in its container, and what a test wants to know of it.
struct Contained {
    proxy: Proxy,
    group: Group,
    main: u16,
    probes: u16,
}

impl Contained {
    fn start(group: Group, edit: fn(&mut Value)) -> Self {
        // The proxy inherits it.
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
        let (main, probes) = (free_port(), free_port());
        let mut file = shipped(main, probes, stalled(), endless());
        edit(&mut file);
        let proxy = Proxy::start_within(&file, &group.folder.join("cgroup.procs"));
        Self { proxy, group, main, probes }
    }

    /// What the rule says holds while the clients are there, and probes are served.
    fn withstands(&mut self, what: &str) {
        assert!(self.proxy.is_running(), "{what}: the proxy has ended:\n{}", self.proxy.log());
        let (used, most) = (self.group.used(), CONTAINER / 100 * 80);
        assert!(used <= most, "{what}: {used} bytes, the rule says {most}");
        assert_eq!(self.group.kills(), 0, "{what}");
        let response = http1::Connection::new(at(self.probes)).get("/other").unwrap();
        assert_eq!(response.status, 404, "{what}: probes are served");
        let open = self.proxy.stat(&active(self.main));
        assert!(open <= CONNECTIONS, "{what}: {open} connections");
        eprintln!("{what}: {used} bytes of {most}");
    }

    /// The clients have left.
    fn serves(&mut self, what: &str) {
        assert!(self.proxy.is_running(), "{what}: the proxy has ended:\n{}", self.proxy.log());
        self.proxy.wait_stat(&active(self.main), |open| open == 0);
        let response = http1::Connection::new(at(self.main)).get("/nothing").unwrap();
        assert_eq!(response.status, 404, "{what}: requests are served afterwards");
        self.proxy.wait_stat(&active(self.main), |open| open == 0);
    }

    fn stat(&self, name: &str) -> u64 {
        self.proxy.stat(name)
    }
}

/// `max_active_downstream_connections` of the file, and clients in a test: more than it allows.
const CONNECTIONS: u64 = 1150;
const CLIENTS: usize = 1300;

#[test]
fn a_proxy_that_is_asked_for_more_than_its_container_has_refuses_and_lives() {
    let Some(group) = Group::or_skip("limits", CONTAINER) else { return };
    let mut ingress = Contained::start(group, |_| ());
    let main = ingress.main;
    assert!(ingress.group.used() <= BASE, "{} bytes without a client", ingress.group.used());

    let closed = "http.ingress.downstream_cx_idle_timeout";
    let idle = flood(CLIENTS, || http1::Connection::try_new(at(main)).ok());
    ingress.proxy.wait_stat(closed, |count| count >= CLIENTS as u64 - CONNECTIONS);
    ingress.withstands("idle HTTP/1");
    // The longest idle have made way for this one.
    assert_eq!(http1::Connection::new(at(main)).get("/nothing").unwrap().status, 404);
    drop(idle);
    ingress.serves("idle HTTP/1");

    let before = ingress.stat(closed);
    let idle = flood(CLIENTS, || http2_used(main));
    assert_eq!(idle.len(), CLIENTS, "each was served before it made way");
    ingress.proxy.wait_stat(closed, |count| count >= before + CLIENTS as u64 - CONNECTIONS);
    ingress.withstands("idle HTTP/2");
    drop(idle);
    ingress.serves("idle HTTP/2");

    let overflow = |name: &str| format!("cluster.{name}.upstream_rq_pending_overflow");
    let uploads = flood(CLIENTS, || upload(main, PET));
    ingress.proxy.wait_stat(&overflow("pet"), |count| count > 0);
    ingress.withstands("uploads");
    drop(uploads);
    ingress.serves("uploads");

    let slow = flood(CLIENTS, || Some(slow_reader(main, STORE)));
    let refused = format!("listener.{}_{main}.downstream_global_cx_overflow", ip());
    ingress.proxy.wait_stat(&refused, |count| count > 0);
    ingress.withstands("slow readers");
    drop(slow);
    ingress.serves("slow readers");
}

/// Without the limits the same clients end it: the test above proves something.
#[test]
fn a_proxy_without_limits_is_killed_by_the_same_clients() {
    let Some(group) = Group::or_skip("twin", CONTAINER) else { return };
    let mut ingress = Contained::start(group, without_limits);
    let _uploads = flood(CLIENTS, || upload(ingress.main, PET));
    let ended = poll(DEADLINE, || (!ingress.proxy.is_running()).then_some(()));
    assert!(ended.is_some(), "{CLIENTS} uploads fit into {CONTAINER} bytes");
    assert!(ingress.group.kills() > 0);
}
