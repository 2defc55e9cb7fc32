//! Health checks and ejections as the writer publishes them: flags of hosts, who stays and who goes, and what a reload keeps.
//!
//! Sockets are real, so that the clock is too; everything waits for what it expects.

use super::*;
use proxy::cluster::outlier::{self, Kind};
use proxy::cluster::report::{HostReport, What};
use proxy::stats::{HealthCheckStats, OutlierStats};
use tokio::net::TcpListener;

const TCP_CHECK: &str = "health_checks: [{ timeout: 5s, interval: 0.01s, no_traffic_interval: 0.01s, unhealthy_threshold: 1, \
    healthy_threshold: 1, tcp_health_check: {} }],";

impl Running {
    /// The first snapshot in which the hosts of cluster `one` have these flags.
    async fn flags(&mut self, wanted: &[&str]) -> Arc<Snapshot> {
        let flags = |snapshot: &Snapshot| -> Vec<String> {
            let hosts = snapshot.clusters.get("one").map(|cluster| cluster.endpoints.hosts.clone());
            hosts.unwrap_or_default().iter().map(|host| host.flags().to_string()).collect()
        };
        self.snapshot(|snapshot| flags(snapshot) == wanted).await
    }

    /// A worker reports what it saw.
    fn report(&self, host: &str, what: What) {
        let report = HostReport { cluster: "one".into(), host: host.parse().unwrap(), what };
        self.handles.reports.report(report);
    }

    /// A worker ejects a host. True when it is ejected then, before control hears of it.
    fn fail(&self, host: usize) -> bool {
        let cluster = self.handles.snapshots.borrow().clusters.get("one").unwrap().clone();
        let (policy, host) = (cluster.policy.outlier.clone().unwrap(), &cluster.endpoints.hosts[host]);
        let kind = Kind::SuccessRate;
        let ejected = outlier::eject(&policy, &host.stats, kind, 0, &mut |_| 0);
        if ejected {
            let what = What::Ejected { kind, at: proxy::time::now() };
            self.report(&host.address.to_string(), what);
        }
        ejected
    }

    async fn configure(&self, text: String) {
        self.handles.events.send(Event::Configuration(Ok(text))).await.unwrap();
    }
}

/// A socket that takes connections, and its port.
async fn listening() -> (TcpListener, u16) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// A port without a listener.
async fn refusing() -> u16 {
    listening().await.1
}

#[tokio::test]
async fn nothing_is_published_before_each_host_was_checked_once() {
    let (_socket, good) = listening().await;
    let bad = refusing().await;
    let text = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", good), ("127.0.0.1", bad)], TCP_CHECK));
    let mut running = start(&text, None);
    let first = running.snapshot(|_| true).await;
    let flags: Vec<_> = first
        .clusters
        .get("one")
        .unwrap()
        .endpoints
        .hosts
        .iter()
        .map(|host| host.flags().to_string())
        .collect();
    assert_eq!(flags, ["healthy", "/failed_active_hc"]);
    let stats: Arc<Scope<HealthCheckStats>> = running.registry.scope("cluster.one.health_check.");
    let stats = stats.shard(1);
    assert_eq!((stats.healthy.get(), running.stats("one").shard(1).membership_healthy.get()), (1, 1));
    assert!(stats.success.get() >= 1 && stats.network_failure.get() >= 1);
}

#[tokio::test]
async fn a_host_that_comes_up_is_used_and_one_that_goes_down_is_not() {
    let port = refusing().await;
    let text = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", port)], TCP_CHECK));
    let mut running = start(&text, None);
    running.flags(&["/failed_active_hc"]).await;
    let socket = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let up = running.flags(&["healthy"]).await;
    assert_eq!(up.clusters.get("one").unwrap().endpoints.healthy_count(), 1);
    drop(socket);
    running.flags(&["/failed_active_hc"]).await;
}

#[tokio::test]
async fn a_host_that_discovery_removed_stays_while_it_passes_its_checks() {
    let (socket, port) = listening().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("eds.yaml");
    let assignment = |endpoints: &str| {
        format!(
            "version_info: v\nresources:\n- {{ \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, \
             cluster_name: one, endpoints: [{endpoints}] }}\n"
        )
    };
    let one = format!(
        "{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}"
    );
    std::fs::write(&path, assignment(&one)).unwrap();
    let text = bootstrap(&format!(
        "{{ name: one, type: EDS, {TCP_CHECK} eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: {} }} }} }} }}",
        path.display()
    ));
    let mut running = start(&text, None);
    running.flags(&["healthy"]).await;
    std::fs::write(folder.path().join("next"), assignment("")).unwrap();
    std::fs::rename(folder.path().join("next"), &path).unwrap();
    running.flags(&["/pending_dynamic_removal"]).await;
    drop(socket);
    running.flags(&[]).await;
}

#[tokio::test]
async fn a_response_that_says_so_takes_a_host_out_at_once() {
    let (_socket, port) = listening().await;
    let check = TCP_CHECK.replace("0.01s", "100s");
    let text = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", port)], &check));
    let mut running = start(&text, None);
    running.flags(&["healthy"]).await;
    running.report(&format!("127.0.0.1:{port}"), What::FailNow { responses: 1 });
    running.flags(&["/failed_active_hc/excluded_via_immediate_hc_fail"]).await;
}

#[tokio::test]
async fn no_report_is_lost_however_many_come_while_control_is_busy() {
    let sockets = [listening().await, listening().await];
    let [one, two] = sockets.each_ref().map(|(_, port)| *port);
    let check = TCP_CHECK.replace("0.01s", "100s");
    let text = bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", one), ("127.0.0.1", two)], &check));
    let mut running = start(&text, None);
    running.flags(&["healthy", "healthy"]).await;
    // Control runs on this thread, so it takes nothing meanwhile.
    for _ in 0..10_000 {
        running.report(&format!("127.0.0.1:{one}"), What::FailNow { responses: 1 });
    }
    running.report(&format!("127.0.0.1:{two}"), What::FailNow { responses: 1 });
    let out = "/failed_active_hc/excluded_via_immediate_hc_fail";
    running.flags(&[out, out]).await;
    let stats: Arc<Scope<HealthCheckStats>> = running.registry.scope("cluster.one.health_check.");
    assert_eq!(stats.shard(1).passive_failure.get(), 10_001);
}

#[tokio::test]
async fn a_reload_keeps_ejections_until_detection_is_taken_out() {
    let members = [("127.0.0.1", 1), ("127.0.0.1", 2)];
    let detection = "outlier_detection: { max_ejection_percent: 50 },";
    let text = |more: &str| bootstrap(&cluster("one", "STATIC", &members, more));
    let mut running = start(&text(detection), None);
    running.flags(&["healthy", "healthy"]).await;
    let before = running.handles.snapshots.borrow().version;
    assert!(running.fail(1));
    assert!(!running.fail(0));
    let published = running.snapshot(|snapshot| snapshot.version > before).await.version;
    running.flags(&["healthy", "/failed_outlier_check"]).await;
    let stats: Arc<Scope<OutlierStats>> = running.registry.scope("cluster.one.outlier_detection.");
    assert_eq!((stats.shard(1).ejections_active.get(), stats.shard(0).ejections_overflow.get()), (1, 1));
    running.configure(text(&format!("{detection} connect_timeout: 7s,"))).await;
    let reloaded = running.snapshot(|snapshot| snapshot.version > published).await;
    assert_eq!(reloaded.clusters.get("one").unwrap().policy.connect_timeout.as_secs(), 7);
    assert_eq!(
        reloaded.clusters.get("one").unwrap().endpoints.hosts[1].flags().to_string(),
        "/failed_outlier_check"
    );
    running.configure(text("connect_timeout: 7s,")).await;
    running.flags(&["healthy", "healthy"]).await;
}

#[tokio::test]
async fn an_ejection_by_a_policy_that_is_gone_does_not_last() {
    let text = |more: &str| bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 1), ("127.0.0.1", 2)], more));
    let mut running = start(&text("outlier_detection: { max_ejection_percent: 100 },"), None);
    let before = running.flags(&["healthy", "healthy"]).await;
    let cluster = &before.clusters.get("one").unwrap();
    running.configure(text("")).await;
    running.snapshot(|snapshot| snapshot.clusters.get("one").unwrap().policy.outlier.is_none()).await;
    // A request that began before the reload ends after it.
    let (policy, host) = (cluster.policy.outlier.clone().unwrap(), &cluster.endpoints.hosts[0]);
    assert!(!outlier::eject(&policy, &host.stats, Kind::SuccessRate, 0, &mut |_| 0));
    assert_eq!(host.flags().to_string(), "healthy");
    running.configure(text("outlier_detection: { max_ejection_percent: 100 },")).await;
    running.snapshot(|snapshot| snapshot.clusters.get("one").unwrap().policy.outlier.is_some()).await;
    assert!(outlier::eject(&policy, &host.stats, Kind::SuccessRate, 0, &mut |_| 0));
}

#[tokio::test]
async fn a_logical_host_keeps_its_health_when_its_address_changes() {
    use super::servers::{Zone, dns};
    let zone = |ends: &[u8]| Zone::Addresses(ends.iter().map(|end| [127, 0, 0, *end].into()).collect());
    let (_first, port) = listening().await;
    let second = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let (server, answer) = dns(zone(&[1])).await;
    let resolver = format!(
        "dns_lookup_family: V4_ONLY, dns_refresh_rate: 0.02s, dns_resolution_config: {{ resolvers: [{{ socket_address: {{ \
         address: 127.0.0.1, port_value: {} }} }}] }}, {TCP_CHECK}",
        server.port()
    );
    let text = bootstrap(&cluster("one", "LOGICAL_DNS", &[("svc.test", port)], &resolver));
    let mut running = start(&text, None);
    let before = running.flags(&["healthy"]).await;
    *answer.lock().unwrap() = zone(&[2, 1]);
    let after = running.hosts("one", &[&format!("127.0.0.2:{port}")]).await;
    let host = |snapshot: &Snapshot| Arc::clone(&snapshot.clusters.get("one").unwrap().endpoints.hosts[0]);
    assert_eq!((host(&after).id, after.version), (host(&before).id, before.version + 1));
    assert_eq!(host(&after).flags().to_string(), "healthy");
    let stats: Arc<Scope<HealthCheckStats>> = running.registry.scope("cluster.one.health_check.");
    assert_eq!(stats.shard(1).healthy.get(), 1);
    // The new address is the one that is checked.
    let attempts = stats.shard(1).success.get();
    while stats.shard(1).success.get() < attempts + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(second);
    running.flags(&["/failed_active_hc"]).await;
    assert_eq!(stats.shard(1).healthy.get(), 0);
    // As in Envoy, another address alone is another host.
    *answer.lock().unwrap() = zone(&[1]);
    let other = running.flags(&["healthy"]).await;
    assert_eq!(other.clusters.get("one").unwrap().endpoints.hosts[0].address.ip().to_string(), "127.0.0.1");
}
