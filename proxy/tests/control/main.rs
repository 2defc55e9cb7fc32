//! The control plane as a whole: files, DNS and registrations in, snapshots out.
//!
//! Clocks are paused where no socket is involved; everything else waits for what it expects.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use proxy::access_log::LogWriter;
use proxy::build::Flavor;
use proxy::control::{Control, Event, Handles, Origin, Start};
use proxy::snapshot::Snapshot;
use proxy::state::{Phase, ServerState};
use proxy::stats::{ClusterStats, Registry, Scope};

mod building;
mod files;
mod registrations;
mod resolving;
mod servers;
mod watching;

/// A running control plane.
struct Running {
    handles: Handles,
    bound: watch::Sender<u64>,
    state: Arc<ServerState>,
    registry: Registry,
}

/// Starts the control plane on a text, or on a file that holds it.
fn start(text: &str, file: Option<&Path>) -> Running {
    start_where(text, file, free)
}

/// The same, where the addresses are free that this says.
fn start_where(text: &str, file: Option<&Path>, probe: fn(SocketAddr) -> std::io::Result<()>) -> Running {
    let registry = Registry::new(1);
    let state = Arc::new(ServerState::new(proxy::time::now()));
    let start = Start {
        probe,
        origin: file.map_or(Origin::Text, |path| Origin::File(PathBuf::from(path))),
        text: text.to_owned(),
        read: Arc::new(xds::read_bootstrap("t.yaml", text).unwrap()),
        flavor: Flavor::Sidecar,
        service_node: None,
        service_cluster: None,
        registry: registry.clone(),
        logs: Arc::new(LogWriter::start(&registry).unwrap()),
        state: Arc::clone(&state),
        drain_time: Duration::from_secs(30),
    };
    let (control, handles, _) = Control::new(start).map_err(|found| xds::render_text(&found, text)).unwrap();
    let (bound, seen) = watch::channel(0);
    tokio::spawn(control.run(seen));
    Running { handles, bound, state, registry }
}

impl Running {
    /// The first snapshot that is as wanted.
    async fn snapshot(&mut self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found =
            self.handles.snapshots.wait_for(|snapshot| snapshot.version > 0 && wanted(snapshot)).await;
        Arc::clone(&found.unwrap())
    }

    /// The first snapshot whose cluster has exactly these hosts.
    async fn hosts(&mut self, cluster: &str, wanted: &[&str]) -> Arc<Snapshot> {
        let wanted: Vec<SocketAddr> = wanted.iter().map(|address| address.parse().unwrap()).collect();
        self.snapshot(|snapshot| {
            let view = &snapshot.clusters.get(cluster).unwrap().endpoints;
            view.hosts.iter().map(|host| host.address).collect::<Vec<_>>() == wanted
        })
        .await
    }

    fn stats(&self, cluster: &str) -> Arc<Scope<ClusterStats>> {
        self.registry.scope(&format!("cluster.{cluster}."))
    }
}

/// A bootstrap with one listener and these clusters, in YAML's flow style.
fn bootstrap(clusters: &str) -> String {
    format!(
        "static_resources:
  listeners:
  - name: main
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 10000 }} }}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: one }}
  clusters: [{clusters}]
"
    )
}

/// A cluster of a type with endpoints at host:port pairs, and further fields.
fn cluster(name: &str, kind: &str, members: &[(&str, u16)], more: &str) -> String {
    let endpoint = |(host, port): &(&str, u16)| {
        format!(
            "{{ endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }} }}"
        )
    };
    let members: Vec<_> = members.iter().map(endpoint).collect();
    format!(
        "{{ name: {name}, type: {kind}, {more} load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{}] }}] }} }}",
        members.join(", ")
    )
}

#[tokio::test(start_paused = true)]
async fn the_server_is_live_when_the_first_listeners_are_open() {
    let mut running = start(&bootstrap(&cluster("one", "STATIC", &[("127.0.0.1", 1)], "")), None);
    let snapshot = running.hosts("one", &["127.0.0.1:1"]).await;
    assert_eq!(snapshot.listeners.len(), 1);
    assert_eq!(running.state.phase(), Phase::Initializing);
    let mut changes = running.state.subscribe();
    changes.borrow_and_update();
    running.bound.send_replace(snapshot.version);
    changes.changed().await.unwrap();
    assert_eq!(running.state.phase(), Phase::Live);
    assert_eq!(running.stats("one").shard(1).membership_healthy.get(), 1);
}

#[test]
fn a_file_that_cannot_be_used_is_refused_whole() {
    let registry = Registry::new(1);
    let text = bootstrap(&cluster("one", "STATIC", &[("pet", 1)], ""));
    let start = Start {
        probe: free,
        origin: Origin::Text,
        text: text.clone(),
        read: Arc::new(xds::read_bootstrap("t.yaml", &text).unwrap()),
        flavor: Flavor::Sidecar,
        service_node: None,
        service_cluster: None,
        registry: registry.clone(),
        logs: Arc::new(LogWriter::start(&registry).unwrap()),
        state: Arc::new(ServerState::new(proxy::time::now())),
        drain_time: Duration::from_secs(30),
    };
    let Err(found) = Control::new(start) else { panic!("accepted") };
    assert!(found[0].message.contains("`pet` is not an IP address"), "{found:?}");
    assert_eq!(found[0].line, Some(9));
}

/// What `listener::probe` tells `app`; the data plane is not known here.
fn free(address: std::net::SocketAddr) -> std::io::Result<()> {
    std::net::TcpListener::bind(address).map(drop)
}
