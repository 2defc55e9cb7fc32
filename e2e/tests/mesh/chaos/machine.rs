//! What a machine does to programs: a full disk, no file descriptors, a clock that jumps, packets
//! that are lost.

use std::time::Duration;

use e2e::chaos::{CALM, Seen};
use e2e::clock::Clock;
use e2e::{Capability, Case, Mesh, Setup, skipped};
use serde_json::{Value, json};

#[tokio::test]
async fn access_logs_on_a_full_disk_cost_nothing() {
    let edit: fn(&mut Value) = |tree| log_to(tree, "/dev/full");
    let mesh = Mesh::with(&Setup { edit: Some(edit), ..Setup::default() }).await;
    let mut case = Case::begin("the disk of every access log is full", &mesh).await;
    case.fault_begins();
    // The twin of this case: the fault is there, and is counted.
    for service in ["ingress", "petstore", "pet"] {
        let pod = mesh.pod(service, 1).await;
        mesh.until(&format!("{} cannot write its log", pod.name), async || {
            let stats = mesh.admin(&pod, "/stats?filter=filesystem.write_failed").await;
            stats
                .split_whitespace()
                .last()
                .is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count > 0))
        })
        .await;
    }
    tokio::time::sleep(CALM * 2).await;
    case.end(&mesh).await.assert_none_lost();
    mesh.down().await;
}

/// Puts every access log into a file.
fn log_to(tree: &mut Value, path: &str) {
    match tree {
        Value::Object(fields) => {
            if fields.get("name").is_some_and(|name| name == "envoy.access_loggers.stdout") {
                let kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
                fields.insert("name".into(), "envoy.access_loggers.file".into());
                fields.insert("typed_config".into(), json!({"@type": kind, "path": path}));
            }
            fields.values_mut().for_each(|value| log_to(value, path));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| log_to(item, path)),
        _ => {}
    }
}

#[tokio::test]
async fn a_sidecar_without_file_descriptors_is_left_out_until_it_has_some() {
    if skipped(&[Capability::Processes]) {
        return;
    }
    without_descriptors("pet", 2, CALM * 2, false).await.assert_lost_at_most_one_in(50);
}

/// Its connections wait in the kernel until there are descriptors: the clients give up before.
#[tokio::test]
async fn an_ingress_without_file_descriptors_has_no_second_and_costs_requests() {
    if skipped(&[Capability::Processes]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    without_descriptors("ingress", 1, e2e::http::PATIENCE * 2, true).await.assert_lost_at_least_one_in(20);
}

/// Takes the descriptors of one proxy until discovery leaves it out, if it ever does, and for a while.
async fn without_descriptors(service: &str, number: usize, lasts: Duration, twin: bool) -> Seen {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(service, number).await;
    let mut case = Case::begin("a proxy has no file descriptors left", &mesh).await;
    case.fault_begins();
    let limit = mesh.exhaust_files(&pod, "proxy").await;
    if !twin {
        mesh.until(&format!("discovery drops {}", pod.name), async || {
            !mesh.registered(service).await.contains(&pod.address)
        })
        .await;
    }
    tokio::time::sleep(lasts).await;
    mesh.limit_files(&pod, "proxy", limit).await;
    case.fault_ends();
    mesh.settled(service).await;
    super::serves_well(&mesh, &pod).await;
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    mesh.down().await;
    seen
}

#[tokio::test]
async fn a_wall_clock_that_jumps_by_an_hour_in_both_directions_costs_nothing() {
    if skipped(&[Capability::MoveClock]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::build(folder.path());
    let mesh = Mesh::with(&Setup { clock: Some(clock.clone()), ..Setup::default() }).await;
    let mut case = Case::begin("the wall clock jumps by an hour, forth and back", &mesh).await;
    let before = hour_of_the_last_request(&mesh).await;
    case.fault_begins();
    for jump in [1, -1_i64] {
        clock.set(jump * 3600);
        // The twin of this case: every proxy sees the jump. At a full hour it may be two or none.
        let expected = [0, 1].map(|late| (before + jump + late).rem_euclid(24));
        mesh.until("access logs have the new time", async || {
            expected.contains(&hour_of_the_last_request(&mesh).await)
        })
        .await;
        tokio::time::sleep(CALM * 2).await;
        // Discovery and probes go on: a pod comes and is used, another one goes.
        mesh.scale("pet", 3).await;
        super::serves_well(&mesh, &mesh.pod("pet", 3).await).await;
        mesh.scale("pet", 2).await;
    }
    clock.set(0);
    case.fault_ends();
    case.recovered();
    case.end(&mesh).await.assert_none_lost();
    mesh.down().await;
}

/// The hour in the last line of petstore's access log: `[2026-11-28T20:…`.
async fn hour_of_the_last_request(mesh: &Mesh) -> i64 {
    let log = mesh.access_log(&mesh.pod("petstore", 1).await).await;
    let hour = log.last().and_then(|line| line.get(12..14)).and_then(|hour| hour.parse().ok());
    hour.unwrap_or_else(|| panic!("no hour in {:?}", log.last()))
}

/// How long packets are lost.
const LOSS: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_pod_that_loses_half_of_its_packets_costs_few_requests() {
    if skipped(&[Capability::LosePackets]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    lose_packets(None, false).await.assert_lost_at_most_one_in(20);
}

#[tokio::test]
async fn a_pod_that_loses_half_of_its_packets_costs_more_without_retries() {
    if skipped(&[Capability::LosePackets]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    let edit: fn(&mut Value) = crate::rollouts::without_retries;
    lose_packets(Some(edit), true).await.assert_lost_at_least_one_in(1000);
}

async fn lose_packets(edit: Option<fn(&mut Value)>, twin: bool) -> Seen {
    let mesh = Mesh::with(&Setup { edit, ..Setup::default() }).await;
    let pod = mesh.pod("pet", 2).await;
    let mut case = Case::begin("one pod loses half of its packets for 20 s", &mesh).await;
    case.fault_begins();
    mesh.lose_packets(&pod, true).await;
    tokio::time::sleep(LOSS).await;
    mesh.lose_packets(&pod, false).await;
    case.fault_ends();
    mesh.settled("pet").await;
    super::serves_well(&mesh, &pod).await;
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    mesh.down().await;
    seen
}
