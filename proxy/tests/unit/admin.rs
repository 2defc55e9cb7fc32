//! The admin interface over a socket, against Envoy 1.40's responses in the same situation.
//!
//! Test-only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::build::{self, Discovery, Flavor, Node, Packed, Parts};
use crate::cluster::EndpointView;
use crate::snapshot::Cluster;
use crate::state::Phase;
use crate::stats::ClusterStats;
use xds::envoy::config::bootstrap::v3::Bootstrap;

const FILE: &str = "
node: {id: n1, cluster: c1}
layered_runtime: {layers: [{name: base, static_layer: {a: {b: 1}}}, {name: admin, admin_layer: {}}]}
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: 29902}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress_http
          route_config:
            name: local_route
            virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: one}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: one
    connect_timeout: 1s
    type: STATIC
    circuit_breakers: {thresholds: [{max_connections: 7, max_requests: 0, track_remaining: true}]}
    load_assignment:
      cluster_name: one
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 29903}}}}]}]
";

type Senders = (watch::Sender<Arc<Snapshot>>, watch::Sender<Arc<Accepted>>);

/// A live server of that file, whose `app` carries out each command at once and writes it down.
struct Fixture {
    address: std::net::SocketAddr,
    commands: Arc<Mutex<Vec<Command>>>,
    cluster: Arc<Scope<ClusterStats>>,
    registry: Registry,
    _stop: oneshot::Sender<()>,
    senders: Arc<Senders>,
}

fn accepted(bootstrap: &Bootstrap) -> Accepted {
    Accepted {
        bootstrap: Packed::new(bootstrap),
        loaded_at: UNIX_EPOCH,
        rejected: None,
        unbound: Vec::new(),
        warming: BTreeSet::new(),
        runtime: BTreeMap::new(),
    }
}

impl Fixture {
    async fn new() -> Self {
        let registry = Registry::new(1);
        let read = xds::read_bootstrap("test.yaml", FILE).unwrap();
        let node = Node::new(&read.message, None, None);
        let parts = Parts {
            node,
            flavor: Flavor::Sidecar,
            registry: &registry,
            logs: None,
            runtime: &[],
            files: None,
        };
        let graph = build::graph(&read, parts, None).unwrap().0;
        let clusters: BTreeMap<_, _> = graph
            .clusters
            .iter()
            .map(|(name, part)| {
                let Discovery::Static(endpoints) = &*part.discovery else { panic!("not static") };
                let endpoints = Arc::new(EndpointView::empty(1).update(endpoints, String::new()));
                let (policy, stats, breakers) =
                    (part.policy.clone(), part.stats.clone(), part.breakers.clone());
                (name.clone(), Arc::new(Cluster { policy, endpoints, stats, breakers }))
            })
            .collect();
        let cluster = clusters["one"].stats.clone();
        let listeners = graph.listeners.iter().map(|part| part.listener.clone()).collect();
        let snapshot = Snapshot { version: 1, listeners, clusters: clusters.into_iter().collect() };
        let accepted = accepted(&read.message);
        let (snapshots, snapshot) = watch::channel(Arc::new(snapshot));
        let (configs, accepted) = watch::channel(Arc::new(accepted));
        let state = Arc::new(ServerState::new(crate::time::now()));
        state.set_phase(Phase::Live);
        let (orders, mut received) = mpsc::channel::<Order>(8);
        let commands = Arc::<Mutex<Vec<Command>>>::default();
        let senders = Arc::new((snapshots, configs));
        let (written, app_state, control) = (commands.clone(), state.clone(), Arc::clone(&senders));
        tokio::spawn(async move {
            while let Some(order) = received.recv().await {
                if let Command::FailHealthCheck(failed) = order.command {
                    app_state.set_health_failed(failed);
                }
                let mut outcome = Ok(());
                if let Command::ModifyRuntime(changes) = &order.command {
                    let values: BTreeMap<_, _> =
                        changes.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
                    if values.contains_key("refused") {
                        outcome = Err("error: the reason\n".to_owned());
                    } else {
                        control.1.send_modify(|accepted| Arc::make_mut(accepted).runtime = values);
                    }
                }
                written.lock().unwrap().push(order.command);
                let _ = order.done.send(outcome);
            }
        });
        let context = AdminContext {
            state,
            registry: registry.clone(),
            snapshot,
            accepted,
            commands: orders,
            log: None,
            access_log: Vec::new(),
            options: CommandLine { concurrency: 1, ..CommandLine::default() },
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve(listener, context, async {
            let _ = stopped.await;
        }));
        Self { address, commands, cluster, registry, _stop: stop, senders }
    }

    /// One exchange on a connection of its own: the status line with the headers, and the body.
    async fn ask(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        let response = String::from_utf8(response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), unchunk(body))
    }

    async fn get(&self, path: &str) -> String {
        self.ask("GET", path).await.1
    }

    async fn post(&self, path: &str) -> String {
        self.ask("POST", path).await.1
    }
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    out
}

#[tokio::test]
async fn ready_has_envoys_fields_and_follows_the_health_check() {
    let fixture = Fixture::new().await;
    let (head, body) = fixture.ask("GET", "/ready?x=1").await;
    assert_eq!(body, "LIVE\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for field in [
        "content-type: text/plain; charset=UTF-8",
        "cache-control: no-cache, max-age=0",
        "x-content-type-options: nosniff",
        "server: envoy",
        "transfer-encoding: chunked",
        "date: ",
    ] {
        assert!(head.contains(&format!("\r\n{field}")), "{field} in {head}");
    }
    assert_eq!(fixture.post("/healthcheck/fail").await, "OK\n");
    let (head, body) = fixture.ask("GET", "/ready").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, "DRAINING\n");
    assert_eq!(fixture.get("/stats?filter=server.live").await, "server.live: 0\n");
    fixture.post("/healthcheck/ok").await;
    assert_eq!(fixture.get("/ready").await, "LIVE\n");
}

#[tokio::test]
async fn what_changes_something_wants_post() {
    let fixture = Fixture::new().await;
    for path in ["/quitquitquit", "/reset_counters", "/healthcheck/fail", "/drain_listeners", "/logging"] {
        let (head, body) = fixture.ask("GET", path).await;
        assert!(head.starts_with("HTTP/1.1 405 "), "{path}: {head}");
        assert_eq!(body, "Method GET not allowed, POST required.");
    }
    assert!(fixture.commands.lock().unwrap().is_empty());
    fixture.post("/drain_listeners?inboundonly&graceful").await;
    let drain = Command::Drain { inbound_only: true, graceful: true, skip_exit: false };
    assert_eq!(*fixture.commands.lock().unwrap(), [drain]);
    let (head, body) = fixture.ask("GET", "/nope").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(body.starts_with("invalid path. admin commands are:\n  /: Admin home page\n"), "{body}");
}

#[tokio::test]
async fn quitting_responds_first_and_then_quits() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.post("/quitquitquit").await, "OK\n");
    while fixture.commands.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*fixture.commands.lock().unwrap(), [Command::Quit]);
}

#[tokio::test]
async fn clusters_and_listeners_are_listed_as_envoy_lists_them() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/listeners").await, "main::127.0.0.1:29902\n");
    let listeners: serde_json::Value =
        serde_json::from_str(&fixture.get("/listeners?format=json").await).unwrap();
    assert_eq!(listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"], 29902);
    let clusters = fixture.get("/clusters").await;
    let expected = "one::observability_name::one\n\
        one::default_priority::max_connections::7\none::default_priority::max_pending_requests::1024\n\
        one::default_priority::max_requests::0\none::default_priority::max_retries::3\n\
        one::high_priority::max_connections::1024\none::high_priority::max_pending_requests::1024\n\
        one::high_priority::max_requests::1024\none::high_priority::max_retries::3\none::added_via_api::false\n\
        one::127.0.0.1:29903::cx_active::0\n";
    assert!(clusters.starts_with(expected), "{clusters}");
    assert!(clusters.contains("\none::127.0.0.1:29903::health_flags::healthy\n"), "{clusters}");
    assert_eq!(fixture.get("/clusters?filter=nope").await, "");
    assert_eq!(fixture.ask("GET", "/clusters?filter=[").await.1, "Invalid re2 regex");
}

#[tokio::test]
async fn statistics_are_shown_as_text_json_and_for_prometheus() {
    let fixture = Fixture::new().await;
    fixture.cluster.shard(0).upstream_rq_codes.record(200);
    fixture.cluster.shard(0).upstream_rq_total.inc();
    fixture.cluster.shard(0).upstream_rq_time.record(3);
    assert_eq!(
        fixture.get("/stats?filter=%5Ecluster%5C.one%5C.upstream_rq_(2|total)").await,
        "cluster.one.upstream_rq_200: 1\ncluster.one.upstream_rq_2xx: 1\ncluster.one.upstream_rq_total: 1\n"
    );
    assert_eq!(
        fixture.get("/stats?filter=one.upstream_rq_time$").await,
        "cluster.one.upstream_rq_time: P0(nan,3) P25(nan,3) P50(nan,3) P75(nan,3) P90(nan,3) P95(nan,3) P99(nan,3) \
         P99.5(nan,3) P99.9(nan,3) P100(nan,3)\n"
    );
    assert_eq!(
        fixture.get("/stats?filter=circuit_breakers.default.(remaining|rq_open)").await,
        "cluster.one.circuit_breakers.default.remaining_cx: 7\ncluster.one.circuit_breakers.default.remaining_pending: 1024\n\
         cluster.one.circuit_breakers.default.remaining_retries: 3\ncluster.one.circuit_breakers.default.remaining_rq: 0\n\
         cluster.one.circuit_breakers.default.rq_open: 1\n"
    );
    assert_eq!(
        fixture.get("/stats?format=json&filter=one.upstream_rq_200").await,
        "{\"stats\":[{\"name\":\"cluster.one.upstream_rq_200\",\"value\":1}]}"
    );
    assert_eq!(fixture.get("/stats?format=json&filter=zzzz").await, "{\"stats\":[]}");
    let prometheus = fixture.get("/stats/prometheus?filter=one.upstream_rq_(200|time$)").await;
    assert!(prometheus.starts_with(
        "# TYPE envoy_cluster_upstream_rq counter\n\
         envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"one\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_time histogram\n\
         envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"one\",le=\"0.5\"} 0\n"
    ));
    assert!(prometheus.contains("_bucket{envoy_cluster_name=\"one\",le=\"1800000\"} 1\n"), "{prometheus}");
    assert!(prometheus.ends_with(
        "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"one\"} 3\n\
         envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"one\"} 1\n"
    ));
    assert_eq!(fixture.post("/reset_counters").await, "OK\n");
    assert_eq!(
        fixture.get("/stats?filter=one.upstream_rq_total").await,
        "cluster.one.upstream_rq_total: 0\n"
    );
}

#[tokio::test]
async fn used_only_and_types_narrow_and_wrong_parameters_are_refused() {
    let fixture = Fixture::new().await;
    fixture.cluster.shard(1).membership_degraded.set(0);
    assert_eq!(
        fixture.get("/stats?usedonly&type=Gauges&filter=one.membership").await,
        "cluster.one.membership_degraded: 0\n"
    );
    assert_eq!(fixture.get("/stats?type=Counters&filter=one.membership_d").await, "");
    for (path, text) in [
        ("/stats?type=Nope", "invalid &type= param"),
        ("/stats?format=nope", "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
    ] {
        let (head, body) = fixture.ask("GET", path).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert_eq!(body, text);
    }
    let (head, body) = fixture.ask("GET", "/stats?filter=%5B").await;
    assert!(head.starts_with("HTTP/1.1 400 ") && body.starts_with("Invalid re2 regex: "), "{body}");
}

#[tokio::test]
async fn the_configuration_is_dumped_in_whole_in_part_and_by_name() {
    let fixture = Fixture::new().await;
    let json = |text: String| -> serde_json::Value { serde_json::from_str(&text).unwrap() };
    let whole = json(fixture.get("/config_dump").await);
    let types: Vec<_> =
        whole["configs"].as_array().unwrap().iter().map(|config| config["@type"].as_str().unwrap()).collect();
    assert_eq!(
        types.iter().map(|name| name.rsplit('.').next().unwrap()).collect::<Vec<_>>(),
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "ListenersConfigDump",
            "ScopedRoutesConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump"
        ]
    );
    assert_eq!(whole["configs"][4]["static_route_configs"][0]["route_config"]["name"], "local_route");
    let list = json(fixture.get("/config_dump?resource=static_clusters&mask=cluster.name").await);
    assert_eq!(
        list["configs"][0],
        serde_json::json!({
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
            "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "one"},
        })
    );
    let masked = json(fixture.get("/config_dump?mask=bootstrap.node.id").await);
    assert_eq!(masked["configs"][0]["bootstrap"], serde_json::json!({"node": {"id": "n1"}}));
    assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
    assert_eq!(fixture.get("/config_dump?resource=static_clusters&name_regex=zzz").await, "{}\n");
    for (path, status, text) in [
        ("?resource=nope", 404, "nope not found in config dump"),
        (
            "?resource=bootstrap",
            400,
            "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
        ),
        ("?mask=nope", 400, "FieldMask nope could not be successfully applied to any configs."),
        ("?name_regex=[", 400, "INVALID_ARGUMENT: Error while parsing name_regex from ["),
    ] {
        let (head, body) = fixture.ask("GET", &format!("/config_dump{path}")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
        assert_eq!(body, text);
    }
}

#[tokio::test]
async fn the_server_says_who_it_is() {
    let fixture = Fixture::new().await;
    let info: serde_json::Value = serde_json::from_str(&fixture.get("/server_info").await).unwrap();
    assert_eq!((&info["state"], &info["node"]["id"]), (&"LIVE".into(), &"n1".into()));
    assert_eq!(info["node"]["user_agent_name"], "envoy");
    assert_eq!(info["command_line_options"]["concurrency"], 1);
}

#[tokio::test]
async fn runtime_values_are_laid_over_those_of_the_file() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.post("/runtime_modify?a.b=2&c=3").await, "OK\n");
    let expected = vec![("a.b".to_owned(), "2".to_owned()), ("c".to_owned(), "3".to_owned())];
    assert_eq!(*fixture.commands.lock().unwrap(), [Command::ModifyRuntime(expected)]);
    let runtime: serde_json::Value = serde_json::from_str(&fixture.get("/runtime").await).unwrap();
    assert_eq!(runtime["layers"], serde_json::json!(["base", "admin"]));
    assert_eq!(
        runtime["entries"]["a.b"],
        serde_json::json!({"final_value": "2", "layer_values": ["1", "2"]})
    );
    let (head, body) = fixture.ask("POST", "/runtime_modify?refused=1").await;
    assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("error: the reason"), "{head}{body}");
    assert!(!fixture.get("/runtime").await.contains("refused"));
    fixture.post("/runtime_modify?a.b=").await;
    let runtime: serde_json::Value = serde_json::from_str(&fixture.get("/runtime").await).unwrap();
    assert_eq!(runtime["entries"]["a.b"]["final_value"], "1");
    assert!(fixture.ask("POST", "/runtime_modify").await.0.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn the_admin_interface_counts_itself_and_shows_what_an_idle_envoy_shows() {
    let fixture = Fixture::new().await;
    fixture.get("/ready").await;
    let text = fixture.get("/stats").await;
    assert!(text.contains("\nhttp.admin.downstream_rq_total: 2\n"), "{text}");
    let names: std::collections::BTreeSet<_> = fixture.registry.collect().into_keys().collect();
    for name in include_str!("idle_envoy.txt").lines().filter(|line| !line.starts_with('#')) {
        assert!(names.contains(name), "{name} is missing");
    }
}

#[tokio::test]
async fn no_path_and_no_parameter_brings_it_down() {
    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::TestRunner;
    let fixture = Fixture::new().await;
    let path = "/(stats|stats/prometheus|clusters|config_dump|listeners|logging|runtime_modify|x|)\
                (\\?(filter|mask|resource|name_regex|format|level|paths|%[0-9a-f]{0,2}|[a-z.]{0,3})=?[!-~&&[^ #]]{0,12}){0,2}";
    let strategy = proptest::string::string_regex(path).unwrap();
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let path = strategy.new_tree(&mut runner).unwrap().current();
        for method in ["GET", "POST"] {
            let (head, _) = fixture.ask(method, &path).await;
            assert!(head.starts_with("HTTP/1.1 "), "{path}: {head}");
        }
    }
    assert_eq!(fixture.get("/ready").await, "LIVE\n");
}

/// A connection on which nothing more is sent or read.
async fn stalled(fixture: &Fixture, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn slow_clients_never_keep_a_fast_one_waiting() {
    let fixture = Fixture::new().await;
    let mut slow = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        slow.push(stalled(&fixture, b"GET /ready HTTP/1.1\r\n").await);
        assert_eq!(fixture.get("/ready").await, "LIVE\n");
    }
    let shown = fixture.get("/stats?filter=^http.admin.downstream_cx_active$").await;
    let active: usize = shown.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(active <= MAX_CONNECTIONS, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut() {
    const REQUEST: &[u8] = b"GET /help HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let fixture = Fixture::new().await;
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    let mut sent = 0;
    // Until neither side takes more.
    while let Ok(written) = tokio::time::timeout(INTERVAL / 5, stream.write_all(REQUEST)).await {
        if written.is_err() {
            break;
        }
        sent += 1;
    }
    tokio::time::sleep(STALLED * 2).await;
    let mut received = Vec::new();
    // Cut connections may end in a reset.
    let _ = stream.read_to_end(&mut received).await;
    let responded = String::from_utf8_lossy(&received).matches("HTTP/1.1 200 OK").count();
    assert!(responded < sent, "all of {sent} requests got a response");
}

#[tokio::test(start_paused = true)]
async fn a_form_that_does_not_come_is_not_waited_for() {
    let fixture = Fixture::new().await;
    let head = "POST /runtime_modify HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\
                content-type: application/x-www-form-urlencoded\r\n\r\n";
    let mut stream = stalled(&fixture, head.as_bytes()).await;
    let mut response = [0; 13];
    stream.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 400 ");
}

#[tokio::test]
async fn a_large_page_keeps_its_turn_when_its_client_leaves() {
    let large = Arc::<large::Large>::default();
    let (started, begun) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let first = {
        let large = Arc::clone(&large);
        tokio::spawn(async move {
            let build = move || {
                started.send(()).unwrap();
                released.recv().unwrap();
            };
            large.build(build).await
        })
    };
    begun.await.unwrap();
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    let mut second = std::pin::pin!(large.build(|| ()));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    release.send(()).unwrap();
    second.await.unwrap();
}

/// Keeps everybody from reading the configuration and the snapshot, until it is dropped, or until
/// the test has waited in vain.
struct Held {
    release: std::sync::mpsc::Sender<()>,
    held: Arc<std::sync::atomic::AtomicBool>,
}

impl Held {
    fn new(fixture: &Fixture) -> Self {
        let (release, released) = std::sync::mpsc::channel();
        let held = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (senders, shared) = (Arc::clone(&fixture.senders), Arc::clone(&held));
        let (begin, begun) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            senders.0.send_modify(|_| {
                senders.1.send_modify(|_| {
                    begin.send(()).unwrap();
                    let _ = released.recv_timeout(STALLED);
                    shared.store(false, Relaxed);
                });
            });
        });
        begun.recv().unwrap();
        Self { release, held }
    }

    fn release(self) {
        assert!(self.held.load(Relaxed), "a page was waited for on the thread of the admin interface");
        self.release.send(()).unwrap();
    }
}

#[tokio::test]
async fn no_page_that_reads_the_configuration_delays_another() {
    let fixture = Arc::new(Fixture::new().await);
    let help = fixture.get("/help").await;
    let paths: Vec<(&str, bool)> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  /")?.split_once(": "))
        .map(|(path, _)| (path.trim_end_matches(" (POST)"), path.ends_with(" (POST)")))
        .collect();
    assert!(paths.len() > 25, "{help}");
    for (path, changes) in paths {
        let held = Held::new(&fixture);
        let method = if changes { "POST" } else { "GET" };
        let request =
            format!("{method} /{path}?a=b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut waiting = stalled(&fixture, request.as_bytes()).await;
        let ready = fixture.get("/ready").await;
        assert!(["LIVE\n", "DRAINING\n"].contains(&&*ready), "{path}: {ready}");
        held.release();
        let mut response = Vec::new();
        waiting.read_to_end(&mut response).await.unwrap();
        assert!(response.starts_with(b"HTTP/1.1 "), "{path}");
        fixture.post("/healthcheck/ok").await;
    }
}

#[tokio::test]
async fn no_more_large_pages_wait_than_there_is_space_for() {
    let fixture = Arc::new(Fixture::new().await);
    let held = Held::new(&fixture);
    let mut pages = tokio::task::JoinSet::new();
    for _ in 0..=large::MAX_LARGE {
        let fixture = Arc::clone(&fixture);
        pages.spawn(async move { fixture.ask("GET", "/server_info").await });
    }
    let (head, body) = pages.join_next().await.unwrap().unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && body.contains("try again later"), "{head}\n{body}");
    held.release();
    for (head, _) in pages.join_all().await {
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}
