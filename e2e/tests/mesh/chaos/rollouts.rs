//! Faults while pods are replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::chaos::Seen;
use e2e::{Capability, Case, Connections, Mesh, Pod, Setup, State, skipped};
use serde_json::{Value, json};

/// Longer than a proxy waits for discovery unless the files say that it waits for ever.
const AWAY: Duration = Duration::from_secs(20);

/// Long enough that proxies which do not wait have taken the place of both pods. Each of them may
/// first look for the name of discovery for as long as it then waits for its endpoints.
const AWAY_IN_A_ROLLOUT: Duration = Duration::from_secs(85);

/// Responses that show that requests go on.
const GOES_ON: usize = 60;

/// Two of what is replaced.
fn two() -> BTreeMap<&'static str, u32> {
    BTreeMap::from([("petstore", 2), ("pet", 2)])
}

#[tokio::test]
async fn a_pod_that_starts_while_discovery_is_away_is_ready_when_it_is_back() {
    let mesh = start_without_discovery(None).await;
    assert!(newest(&mesh).await.state != State::Ready, "it knows no endpoint");
    mesh.begin_scale("sds", 1, false).await;
    mesh.has("sds", 1).await;
    mesh.has("petstore", 2).await;
    let load = mesh.load(20, Connections::Fresh).start();
    super::serves_well(&mesh, &newest(&mesh).await).await;
    load.finish().await.assert_none_failed();
    mesh.down().await;
}

#[tokio::test]
async fn a_pod_that_starts_while_discovery_is_away_is_ready_too_early_where_it_does_not_wait() {
    let mesh = start_without_discovery(Some(|tree| super::without(tree, "initial_fetch_timeout"))).await;
    mesh.until("it is ready and knows no endpoint", async || newest(&mesh).await.state == State::Ready).await;
    let answer = mesh.call_from(&newest(&mesh).await, "pet", "/pets?petStoreId=2").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    mesh.down().await;
}

/// A mesh whose discovery has been away for a while, and whose second petstore began meanwhile.
async fn start_without_discovery(edit: Option<fn(&mut Value)>) -> Mesh {
    let mesh = Mesh::with(&Setup { edit, ..Setup::default() }).await;
    mesh.begin_scale("sds", 0, false).await;
    mesh.has("sds", 0).await;
    mesh.begin_scale("petstore", 2, false).await;
    tokio::time::sleep(AWAY).await;
    mesh
}

async fn newest(mesh: &Mesh) -> Pod {
    mesh.pod("petstore", 2).await
}

#[tokio::test]
async fn a_rollout_while_discovery_is_away_stops_and_goes_on_later() {
    if skipped(&[Capability::Surge]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    roll_out_without_discovery(None, false).await.assert_none_lost();
}

#[tokio::test]
async fn a_rollout_while_discovery_is_away_loses_requests_where_proxies_start_without_endpoints() {
    if skipped(&[Capability::Surge]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    let edit: fn(&mut Value) = |tree| super::without(tree, "initial_fetch_timeout");
    roll_out_without_discovery(Some(edit), true).await.assert_lost_at_least_one_in(100);
}

async fn roll_out_without_discovery(edit: Option<fn(&mut Value)>, twin: bool) -> Seen {
    let mesh = Mesh::with(&Setup { replicas: two(), edit, ..Setup::default() }).await;
    let before = mesh.identities("petstore").await;
    let mut case = Case::begin("a rollout while discovery is away", &mesh).await;
    case.fault_begins();
    mesh.begin_scale("sds", 0, false).await;
    mesh.has("sds", 0).await;
    mesh.begin_restart("petstore").await;
    tokio::time::sleep(AWAY_IN_A_ROLLOUT).await;
    mesh.begin_scale("sds", 1, false).await;
    mesh.has("sds", 1).await;
    case.fault_ends();
    mesh.until("petstore runs anew", async || {
        mesh.ended(&before).await && {
            let pods = mesh.pods_of("petstore").await;
            pods.len() == 2 && pods.iter().all(|pod| pod.state == State::Ready)
        }
    })
    .await;
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    mesh.down().await;
    seen
}

#[tokio::test]
async fn discovery_and_a_pod_restarted_in_the_same_second_cost_nothing() {
    let mesh = Mesh::start().await;
    let (discovery, pod) = (mesh.pod("sds", 1).await, mesh.pod("pet", 1).await);
    let mut case = Case::begin("discovery and a pod restart in the same second", &mesh).await;
    case.fault_begins();
    tokio::join!(mesh.delete(&discovery), mesh.delete(&pod));
    case.recovered();
    assert!(mesh.ended(&discovery.identities()).await && mesh.ended(&pod.identities()).await);
    case.end(&mesh).await.assert_none_lost();
    mesh.down().await;
}

#[tokio::test]
async fn discovery_and_a_pod_killed_in_the_same_second_cost_requests_without_retries() {
    if skipped(&[Capability::SignalContainer]) {
        return;
    }
    let mesh = Mesh::with(&Setup { edit: Some(crate::rollouts::without_retries), ..Setup::default() }).await;
    let (discovery, pod) = (mesh.pod("sds", 1).await, mesh.pod("pet", 1).await);
    let mut case = Case::begin("discovery and a pod restart in the same second", &mesh).await;
    case.fault_begins();
    tokio::join!(mesh.kill(&discovery), mesh.kill(&pod));
    tokio::time::sleep(e2e::chaos::CALM).await;
    tokio::join!(mesh.recover("sds"), mesh.recover("pet"));
    case.recovered();
    case.end_twin(&mesh).await.assert_lost_at_least_one_in(1000);
    mesh.down().await;
}

#[tokio::test]
async fn a_pod_that_leaves_while_discovery_is_away_costs_nothing() {
    leave_without_discovery(None, false).await.assert_none_lost();
}

#[tokio::test]
async fn a_pod_that_leaves_while_discovery_is_away_costs_requests_where_its_proxy_does_not_say_so() {
    let edit: fn(&mut Value) = |tree| super::without(tree, "local_reply_config");
    leave_without_discovery(Some(edit), true).await.assert_lost_at_least_one_in(1000);
}

/// Takes one of two pods of pet away while every proxy still sends requests to both.
async fn leave_without_discovery(edit: Option<fn(&mut Value)>, twin: bool) -> Seen {
    let mesh = Mesh::with(&Setup { replicas: two(), edit, ..Setup::default() }).await;
    let mut case = Case::begin("a pod leaves while discovery is away", &mesh).await;
    case.fault_begins();
    mesh.begin_scale("sds", 0, false).await;
    mesh.has("sds", 0).await;
    mesh.begin_scale("pet", 1, false).await;
    mesh.has("pet", 1).await;
    let left = mesh.pod("pet", 1).await;
    let before = super::good_responses(&mesh, &left).await;
    mesh.until("requests go on without discovery", async || {
        super::good_responses(&mesh, &left).await >= before + GOES_ON
    })
    .await;
    mesh.begin_scale("sds", 1, false).await;
    mesh.has("sds", 1).await;
    case.fault_ends();
    super::serves_well(&mesh, &left).await;
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    mesh.down().await;
    seen
}

#[tokio::test]
async fn a_file_that_changes_in_the_middle_of_a_rollout_costs_nothing() {
    // A route that is new, so that the test sees when the file is in force.
    change_in_the_middle(json!({"prefix": "/animals/"}), false).await.assert_none_lost();
}

#[tokio::test]
async fn a_wrong_file_in_the_middle_of_a_rollout_is_in_force_and_costs_requests() {
    change_in_the_middle(json!({"prefix": "/"}), true).await.assert_lost_at_least_one_in(100);
}

/// Puts a route to pet before all others of the ingress while petstore and pet are replaced.
async fn change_in_the_middle(matched: Value, twin: bool) -> Seen {
    let mesh = Mesh::with(&Setup { replicas: two(), ..Setup::default() }).await;
    let before = [mesh.identities("petstore").await, mesh.identities("pet").await].concat();
    let mut case = Case::begin("a file changes in the middle of a rollout", &mesh).await;
    case.fault_begins();
    tokio::join!(mesh.begin_restart("petstore"), mesh.begin_restart("pet"));
    mesh.until("the rollout has begun", async || {
        mesh.pods().await.iter().any(|pod| pod.state == State::Leaving)
    })
    .await;
    let route = json!({"match": matched, "route": {"cluster": "pet", "prefix_rewrite": "/"}});
    mesh.apply_config("ingress", |tree| first_route(tree, &route)).await;
    let path = format!("{}pets?petStoreId=2", matched["prefix"].as_str().unwrap());
    mesh.until("the new route works", async || mesh.get(&path).await.status == 200).await;
    mesh.until("all pods are new", async || mesh.ended(&before).await).await;
    mesh.settled("petstore").await;
    mesh.settled("pet").await;
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    mesh.down().await;
    seen
}

fn first_route(tree: &mut Value, route: &Value) {
    let hosts =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts";
    let routes = tree.pointer_mut(hosts).and_then(|hosts| hosts[0]["routes"].as_array_mut());
    routes.expect("the routes of the ingress").insert(0, route.clone());
}

#[tokio::test]
async fn scaling_from_two_to_twenty_and_back_costs_nothing() {
    if e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    let mesh = Mesh::start().await;
    let mut case = Case::begin("scale from 2 to 20 to 2", &mesh).await;
    case.fault_begins();
    mesh.scale("pet", 20).await;
    let new = mesh.pod("pet", 20).await;
    super::serves_well(&mesh, &new).await;
    mesh.scale("pet", 2).await;
    case.recovered();
    case.end(&mesh).await.assert_none_lost();
    mesh.down().await;
}

#[tokio::test]
async fn eighteen_pods_that_leave_at_once_cost_requests_without_retries() {
    if skipped(&[Capability::LeaveAtOnce]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    let mesh = Mesh::with(&Setup { edit: Some(crate::rollouts::without_retries), ..Setup::default() }).await;
    mesh.scale("pet", 20).await;
    let mut case = Case::begin("scale from 2 to 20 to 2", &mesh).await;
    case.fault_begins();
    mesh.begin_scale("pet", 2, true).await;
    mesh.has("pet", 2).await;
    case.recovered();
    case.end_twin(&mesh).await.assert_lost_at_least_one_in(1000);
    mesh.down().await;
}
