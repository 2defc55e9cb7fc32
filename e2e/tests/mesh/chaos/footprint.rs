//! What the whole mesh needs in memory while it works.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::{Capability, Connections, Mesh, Setup, Target, report, skipped};

/// Requests per second of all clients.
const RATES: [(u32, Connections); 3] =
    [(40, Connections::Fresh), (60, Connections::Kept), (60, Connections::Http2)];

/// For all containers together. One idle Envoy needs about this much.
const MOST_MIB: u64 = 64;

/// Twelve containers: the mesh as `make deploy` makes it. `make chaos` runs this for ten minutes.
#[tokio::test]
async fn twelve_containers_under_load_fit_into_the_memory_of_one_envoy() {
    if skipped(&[Capability::MemoryLimit, Capability::Processes]) {
        return;
    }
    let replicas = ["ingress", "petstore", "pet", "sds"].map(|service| (service, 2));
    let mesh = Mesh::with(&Setup { replicas: BTreeMap::from(replicas), ..Setup::default() }).await;
    let containers: usize = mesh.pods().await.iter().map(|pod| pod.containers.len()).sum();
    assert_eq!(containers, 12);
    let loads = RATES.map(|(rate, connections)| mesh.load(rate, connections).start());
    let length = Duration::from_secs(if e2e::chaos::is_long() { 600 } else { 20 });
    let mut most = 0;
    let began = Instant::now();
    let mut samples = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < length {
        samples.tick().await;
        most = most.max(mesh.memory().await);
    }
    let (mut sent, mut lost) = (0, 0);
    for load in loads {
        let report = load.finish().await;
        report.assert_none_failed();
        (sent, lost) = (sent + report.sent, lost + report.failed());
    }
    let mib = most.div_ceil(1024);
    println!("all containers together: {mib} MiB at most in {} s", length.as_secs());
    report::write(&[
        "chaos",
        &Target::chosen().to_string(),
        "no fault: twelve containers under 160 requests per second",
        "case",
        &sent.to_string(),
        &lost.to_string(),
        "-",
        "-",
        &format!("all together {mib}"),
    ]);
    assert!(mib <= MOST_MIB, "{mib} MiB, more than {MOST_MIB}");
    mesh.down().await;
}
