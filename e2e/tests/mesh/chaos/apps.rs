//! The app of one pod misbehaves, and its probes do not tell.

use std::time::Duration;

use e2e::chaos::Seen;
use e2e::{Capability, Case, Impostor, Manner, Mesh, Setup, skipped};
use serde_json::Value;

/// How long it misbehaves: long enough to be ejected, to come back and to be ejected again.
const FAULT: Duration = Duration::from_secs(8);

#[tokio::test]
async fn an_app_that_responds_with_500_is_ejected() {
    ejected("the app of one pod responds with 500", Manner::InternalError).await;
}

#[tokio::test]
async fn an_app_that_responds_after_a_second_costs_nothing() {
    if skipped(&[Capability::EditPod]) {
        return;
    }
    let (name, manner) = ("the app of one pod responds after 1 s", Manner::Slow(Duration::from_secs(1)));
    // The twin first: a route that does not wait so long.
    misbehave(name, manner, Some(impatient), true).await.assert_lost_at_least_one_in(5);
    misbehave(name, manner, None, false).await.assert_none_lost();
}

#[tokio::test]
async fn an_app_that_responds_after_ten_seconds_is_waited_for_or_ejected() {
    if skipped(&[Capability::EditPod]) || e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    let (name, manner) = ("the app of one pod responds after 10 s", Manner::Slow(Duration::from_secs(10)));
    misbehave(name, manner, Some(impatient), true).await.assert_lost_at_least_one_in(5);
    misbehave(name, manner, None, false).await.assert_lost_at_most_one_in(5);
}

#[tokio::test]
async fn an_app_that_closes_connections_is_ejected() {
    if e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    ejected("the app of one pod closes connections at once", Manner::Closes).await;
}

#[tokio::test]
async fn an_app_that_sends_garbage_is_ejected() {
    if e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    ejected("the app of one pod sends garbage", Manner::Garbage).await;
}

async fn ejected(name: &'static str, manner: Manner) {
    if skipped(&[Capability::EditPod]) {
        return;
    }
    // The twin first: where half of the requests are not lost, the case proves nothing.
    let twin = misbehave(name, manner, Some(without_ejection), true).await;
    twin.assert_lost_at_least_one_in(5);
    // What it has answered badly before it was ejected, and when it came back, is lost: a response
    // is never asked for twice.
    misbehave(name, manner, None, false).await.assert_lost_at_most_one_in(20);
}

async fn misbehave(name: &'static str, manner: Manner, edit: Option<fn(&mut Value)>, twin: bool) -> Seen {
    let mesh = Mesh::with(&Setup { edit, ..Setup::default() }).await;
    let impostor = Impostor::start(mesh.host(), manner).await;
    let pod = mesh.pod("pet", 2).await;
    let mut case = Case::begin(name, &mesh).await;
    case.fault_begins();
    mesh.set_app(&pod, Some(&impostor)).await;
    mesh.until("the app misbehaves", async || impostor.misbehaved() > 0).await;
    tokio::time::sleep(FAULT).await;
    mesh.set_app(&pod, None).await;
    case.fault_ends();
    super::serves_well(&mesh, &pod).await;
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    println!("{name}: {} bad responses, {} of {} lost", impostor.misbehaved(), seen.lost(), seen.sent());
    mesh.down().await;
    seen
}

fn without_ejection(tree: &mut Value) {
    super::without(tree, "outlier_detection");
}

fn impatient(tree: &mut Value) {
    time_out(tree, "0.5s");
    without_ejection(tree);
}

/// Gives every route of the apps' own calls a timeout.
fn time_out(tree: &mut Value, timeout: &str) {
    match tree {
        Value::Object(fields) => {
            if fields.contains_key("cluster_header") {
                fields.insert("timeout".into(), timeout.into());
            }
            fields.values_mut().for_each(|value| time_out(value, timeout));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| time_out(item, timeout)),
        _ => {}
    }
}
