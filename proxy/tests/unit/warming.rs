//! What events cost the writer among many clusters, in looks at a cluster.

use std::path::PathBuf;

use super::*;
use crate::control::Update;
use crate::control::members::VISITS;

/// So many clusters that get their endpoints from files that are never read here.
fn control(clusters: usize) -> Control {
    let cluster = |at: usize| {
        format!(
            "{{ name: c{at}, type: EDS, eds_cluster_config: {{ eds_config: {{ path_config_source: {{ path: /dev/null }} }} }} }}"
        )
    };
    let clusters: Vec<_> = (0..clusters).map(cluster).collect();
    let text = format!("static_resources: {{ clusters: [{}] }}", clusters.join(", "));
    let registry = Registry::new(1);
    let start = Start {
        probe: |_| Ok(()),
        origin: Origin::File(PathBuf::from("t.yaml")),
        read: Arc::new(xds::read_bootstrap("t.yaml", &text).unwrap()),
        text,
        flavor: crate::build::Flavor::Sidecar,
        service_node: None,
        service_cluster: None,
        logs: Arc::new(crate::access_log::LogWriter::start(&registry).unwrap()),
        registry,
        state: Arc::new(ServerState::new(time::now())),
        drain_time: Duration::from_secs(30),
    };
    Control::new(start).map_err(|found| format!("{found:?}")).unwrap().0
}

/// Looks at clusters while all of them warm, one after the other, and while one of them changes then.
fn steps(clusters: usize) -> (u64, u64) {
    let mut control = control(clusters);
    let before = VISITS.get();
    control.progress();
    let endpoints = |source: u64, version: &str| Event::Endpoints {
        source,
        update: Update::Members { endpoints: Vec::new(), version: version.to_owned() },
    };
    for source in 1..=clusters as u64 {
        assert_eq!(control.version, 0);
        let _ = control.store.next_deadline();
        control.handle(endpoints(source, "1"));
    }
    assert_eq!((control.version, control.store.clusters().len()), (1, clusters));
    assert!(control.accepted.borrow().warming.is_empty());
    let warm = VISITS.get();
    let _ = control.store.next_deadline();
    control.handle(endpoints(7, "2"));
    assert_eq!(control.version, 2);
    (warm - before, VISITS.get() - warm)
}

#[tokio::test]
async fn warming_is_linear_in_the_clusters_and_a_change_is_of_one() {
    let (once, one) = steps(200);
    let (twice, another) = steps(400);
    assert!(twice <= 2 * once, "{once} {twice}");
    assert_eq!(one, another);
    assert!(one <= 4, "{one}");
}
