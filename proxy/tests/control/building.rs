//! Builds beside control: what goes on while one takes its time, and which text wins.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::servers::{Reply, http};
use super::*;
use proxy::build::Packed;

/// A listener `web` that logs to a file.
fn with_log(file: &Path, more: &str) -> String {
    with_logs(&[file], more)
}

/// The same with several files, which are opened in this order.
fn with_logs(files: &[&Path], more: &str) -> String {
    let log = |file: &&Path| {
        format!(
            "{{ name: file, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
             path: {} }} }}",
            file.display()
        )
    };
    let text = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 1)], more));
    let web = format!(
        "  - name: web
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 10001 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          access_log: [{}]
          route_config: {{ virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }}] }}] }}
          http_filters: [{{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
  clusters",
        files.iter().map(log).collect::<Vec<_>>().join(", ")
    );
    text.replace("  clusters", &web)
}

/// A pipe: who writes to it waits until somebody reads.
fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[tokio::test]
async fn control_goes_on_while_a_build_takes_its_time_and_the_newest_text_wins() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = pipe(folder.path());
    let eds = folder.path().join("eds.yaml");
    let assignment = |port: u16| {
        let text = format!(
            "version_info: v\nresources:\n- {{ \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, \
             cluster_name: one, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, \
             port_value: {port} }} }} }} }}] }}] }}\n"
        );
        std::fs::write(folder.path().join("next"), text).unwrap();
        std::fs::rename(folder.path().join("next"), &eds).unwrap();
    };
    assignment(1);
    let one = format!(
        "{{ name: one, type: EDS, eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: {} }} }} }} }}",
        eds.display()
    );
    let mut running = start(&bootstrap(&one), None);
    running.hosts("one", &["127.0.0.1:1"]).await;
    let configure = |text: String| running.handles.events.send(Event::Configuration(Ok(text)));
    configure(with_log(&pipe, "connect_timeout: 1s,")).await.unwrap();
    // Superseded before its turn comes.
    configure("no configuration".to_owned()).await.unwrap();
    let last = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 3)], "connect_timeout: 3s,"));
    configure(last.clone()).await.unwrap();
    // The build waits for the pipe; control does not.
    assignment(2);
    running.hosts("one", &["127.0.0.1:2"]).await;
    tokio::task::spawn_blocking(move || {
        std::fs::File::open(pipe).unwrap();
    })
    .await
    .unwrap();
    let snapshot = running.hosts("one", &["127.0.0.1:3"]).await;
    assert_eq!(snapshot.clusters.get("one").unwrap().policy.connect_timeout, Duration::from_secs(3));
    let accepted = running.handles.accepted.borrow().clone();
    assert!(accepted.rejected.is_none(), "{:?}", accepted.rejected);
    assert!(accepted.bootstrap == Packed::new(&xds::read_bootstrap("t.yaml", &last).unwrap().message));
}

#[tokio::test]
async fn what_did_not_change_is_shared_between_two_snapshots() {
    let text = |more: &str| {
        let of = |name: &str, more: &str| cluster(name, "STATIC", &[("127.0.0.1", 1)], more);
        let all = [of("one", more), of("two", ""), of("three", "")].join(", ");
        bootstrap(&all).replace(
            "stat_prefix: tcp, cluster: one",
            "stat_prefix: tcp, weighted_clusters: { clusters: [{ name: one, weight: 1 }, { name: two, weight: 1 }, { name: three, weight: 1 }] }",
        )
    };
    let mut running = start(&text(""), None);
    let first = running.snapshot(|_| true).await;
    running.handles.events.send(Event::Configuration(Ok(text("connect_timeout: 7s,")))).await.unwrap();
    let second = running.snapshot(|snapshot| snapshot.version > first.version).await;
    let shared =
        |name: &str| Arc::ptr_eq(first.clusters.get(name).unwrap(), second.clusters.get(name).unwrap());
    assert_eq!(["one", "two", "three"].map(shared), [false, true, true]);
    assert!(Arc::ptr_eq(&first.listeners[0], &second.listeners[0]));
}

#[tokio::test]
async fn other_runtime_values_do_not_hide_that_the_last_text_was_refused() {
    let text = |port| bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", port)], ""));
    let mut running = start(&text(1), None);
    running.hosts("one", &["127.0.0.1:1"]).await;
    let send = async |event| running.handles.events.send(event).await.unwrap();
    send(Event::Configuration(Ok("no configuration".to_owned()))).await;
    let mut status = running.handles.accepted.clone();
    status.wait_for(|status| status.rejected.is_some()).await.unwrap();
    let (done, carried_out) = tokio::sync::oneshot::channel();
    send(Event::Runtime { changes: vec![("any".to_owned(), "5".to_owned())], done }).await;
    carried_out.await.unwrap().unwrap();
    assert!(status.borrow().rejected.is_some());
    send(Event::Configuration(Ok(text(2)))).await;
    running.hosts("one", &["127.0.0.1:2"]).await;
    status.wait_for(|status| status.rejected.is_none()).await.unwrap();
}

#[tokio::test]
async fn values_that_a_configuration_cannot_be_built_with_are_refused_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let text = |port: u16| {
        let text = with_log(&folder.path().join("log"), "")
            .replace("port_value: 1 }", &format!("port_value: {port} }}"));
        let text = text.replace("match: { prefix: / }", "match: { safe_regex: { regex: '/a(b|cd)*' } }");
        format!("layered_runtime: {{ layers: [{{ name: admin, admin_layer: {{}} }}] }}\n{text}")
    };
    let mut running = start(&text(1), None);
    running.hosts("one", &["127.0.0.1:1"]).await;
    let modify = async |key: &str, value: &str| {
        let (done, carried_out) = tokio::sync::oneshot::channel();
        let changes = vec![(key.to_owned(), value.to_owned())];
        running.handles.events.send(Event::Runtime { changes, done }).await.unwrap();
        carried_out.await.unwrap()
    };
    let limit = "re2.max_program_size.error_level";
    // One after the other: a refused value does not refuse the next request.
    let (refused, kept) = tokio::join!(modify(limit, "1"), modify("any", "5"));
    let problem = refused.unwrap_err();
    assert!(
        problem.contains("`/a(b|cd)*` is too large") && problem.contains("at most 1 are allowed"),
        "{problem}"
    );
    kept.unwrap();
    let values = |running: &Running| running.handles.accepted.borrow().runtime.clone();
    let kept = std::collections::BTreeMap::from([("any".to_owned(), "5".to_owned())]);
    assert_eq!(values(&running), kept);
    // Nor a file that comes later.
    running.handles.events.send(Event::Configuration(Ok(text(2)))).await.unwrap();
    running.hosts("one", &["127.0.0.1:2"]).await;
    assert!(running.handles.accepted.borrow().rejected.is_none());
}

static TAKEN: AtomicBool = AtomicBool::new(true);

fn taken(address: SocketAddr) -> std::io::Result<()> {
    let taken = address.port() == 10_001 && TAKEN.load(Relaxed);
    if taken { Err(std::io::ErrorKind::AddrInUse.into()) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_be_read_ends_the_wait_for_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let text = with_log(&folder.path().join("log"), "");
    let before = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 1)], ""));
    let mut running = start_where(&before, None, taken);
    let version = running.snapshot(|_| true).await.version;
    let mut status = running.handles.accepted.clone();
    let mut refused = async |configuration: std::io::Result<String>, why: &str| {
        running.handles.events.send(Event::Configuration(configuration)).await.unwrap();
        let says = |status: &Arc<_>| -> bool { accepted_says(status, why) };
        status.wait_for(says).await.unwrap();
    };
    refused(Ok(text.clone()), "cannot listen").await;
    refused(Err(std::io::ErrorKind::PermissionDenied.into()), "cannot read").await;
    TAKEN.store(false, Relaxed);
    // Far longer than the longest back-off.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(accepted_says(&running.handles.accepted.borrow(), "cannot read"));
    assert_eq!(running.handles.snapshots.borrow().version, version);
    running.handles.events.send(Event::Configuration(Ok(text))).await.unwrap();
    let snapshot = running.snapshot(|snapshot| snapshot.version > version).await;
    assert_eq!(snapshot.listeners.len(), 2);
}

fn accepted_says(status: &proxy::admin::accepted::Accepted, why: &str) -> bool {
    status.rejected.as_ref().is_some_and(|rejected| rejected.details.contains(why))
}

#[tokio::test]
async fn a_superseded_build_is_dropped_and_constant_change_still_gets_through() {
    let folder = tempfile::tempdir().unwrap();
    let pipes = |number: u64| ["begun", "end"].map(|name| folder.path().join(format!("{name}-{number}")));
    let text = |number: u64| {
        let pipes = pipes(number);
        assert!(std::process::Command::new("mkfifo").args(&pipes).status().unwrap().success());
        with_logs(&[&pipes[0], &pipes[1]], &format!("connect_timeout: {number}s,"))
    };
    // The build waits for somebody who reads its log.
    let open = async |pipe: &Path| {
        let pipe = pipe.to_owned();
        tokio::task::spawn_blocking(|| std::fs::File::open(pipe).unwrap()).await.unwrap()
    };
    let mut running =
        start(&bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 1)], "connect_timeout: 99s,")), None);
    running.snapshot(|_| true).await;
    let events = running.handles.events.clone();
    let configure = async |text: String| {
        events.send(Event::Configuration(Ok(text))).await.unwrap();
        // Control handles an event in the step that takes it.
        while events.capacity() < events.max_capacity() {
            tokio::task::yield_now().await;
        }
    };
    let timeout =
        |snapshot: &Snapshot| snapshot.clusters.get("one").unwrap().policy.connect_timeout.as_secs();
    let mut snapshots = running.handles.snapshots.clone();
    let in_use = tokio::spawn(async move {
        let mut in_use = Vec::new();
        loop {
            let seen = timeout(&snapshots.borrow_and_update());
            if in_use.last() != Some(&seen) {
                in_use.push(seen);
            }
            if seen == 9 {
                return in_use;
            }
            snapshots.changed().await.unwrap();
        }
    });
    configure(text(1)).await;
    for number in 1..10 {
        let [begun, end] = pipes(number);
        let _begun = open(&begun).await;
        if number < 9 {
            configure(text(number + 1)).await;
        }
        open(&end).await;
    }
    running.snapshot(|snapshot| timeout(snapshot) == 9).await;
    assert_eq!(in_use.await.unwrap(), [99, 4, 8, 9]);
}

#[tokio::test]
async fn clusters_that_warm_go_on_under_a_newer_configuration() {
    // Of each server, the second response waits until the test takes the first request.
    let replies = || vec![Reply::Stall, Reply::Whole(200, r#"{"hosts":[]}"#.to_owned())];
    let ((two, mut of_two), (three, mut of_three)) = (http(replies()).await, http(replies()).await);
    let eds = |name: &str, server: SocketAddr| {
        let asked = cluster(&format!("of-{name}"), "STATIC", &[("127.0.0.1", server.port())], "");
        format!(
            "{asked}, {{ name: {name}, type: EDS, eds_cluster_config: {{ eds_config: {{ initial_fetch_timeout: 0s, \
             api_config_source: {{ api_type: REST_LEGACY, cluster_names: [of-{name}], refresh_delay: 60s, \
             request_timeout: 0.1s }} }} }} }}",
        )
    };
    let text = |timeout: u32| {
        let changed = cluster("one", "STATIC", &[("127.0.0.1", 1)], &format!("connect_timeout: {timeout}s,"));
        bootstrap(&format!("{changed}, {}, {}", eds("two", two), eds("three", three)))
    };
    let mut running = start(&bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 1)], "")), None);
    running.snapshot(|_| true).await;
    let mut accepted = running.handles.accepted.clone();
    let configure =
        async |text: String| running.handles.events.send(Event::Configuration(Ok(text))).await.unwrap();
    let mut warming = async |wanted: &[&str]| {
        accepted
            .wait_for(|now| now.warming.iter().map(|name| &**name).eq(wanted.iter().copied()))
            .await
            .unwrap();
    };
    configure(text(1)).await;
    warming(&["three", "two"]).await;
    of_two.recv().await.unwrap();
    warming(&["three"]).await;
    // What warmed under the old text is asked no more; that it was warm is known.
    configure(text(2)).await;
    of_three.recv().await.unwrap();
    running
        .snapshot(|snapshot| snapshot.clusters.get("one").unwrap().policy.connect_timeout.as_secs() == 2)
        .await;
}
