//! What a proxy sees while the API server misbehaves in every way that the field has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube_api::{Anonymous, Config, On, Rule, Token};
use lifecycle::Outcome;
use sds::watch::WatchError;

use crate::harness::{Discovery, Setup, Tls, pet, slice};

/// In sync with one pod.
async fn synced() -> Discovery {
    let discovery = Discovery::with([pet(&["10.0.0.1"])]).await;
    discovery.until_state(|state| state.connected).await;
    discovery
}

/// The same, with watches so short that silence is noticed soon.
async fn synced_with_short_watches() -> Discovery {
    let mut setup = Setup { objects: vec![pet(&["10.0.0.1"])], ..Setup::default() };
    setup.timing.watch = Duration::from_secs(1);
    let discovery = setup.start().await;
    discovery.until_pet(&["10.0.0.1"]).await;
    discovery
}

/// A change reaches the answers: the watch is well again.
async fn follows(discovery: &Discovery) {
    discovery.apply(pet(&["10.0.0.8", "10.0.0.9"]));
    discovery.until_pet(&["10.0.0.8", "10.0.0.9"]).await;
    assert_eq!(discovery.hosts("pet").await, ["10.0.0.8", "10.0.0.9"]);
}

#[tokio::test]
async fn changes_reach_the_answers() {
    let discovery = synced().await;
    discovery.apply(pet(&["10.0.0.1", "10.0.0.2"]));
    discovery.until_pet(&["10.0.0.1", "10.0.0.2"]).await;
    discovery.apply(slice("pet", "pet-2", &["10.0.0.3"]));
    discovery.until_pet(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    discovery.delete("pet-1");
    discovery.until_pet(&["10.0.0.3"]).await;
    assert_eq!(discovery.running.status.subscribe().borrow().lists, 1, "one list is enough");
}

#[tokio::test]
async fn before_the_first_sync_nothing_is_answered_and_nothing_restarted() {
    let setup = Setup { objects: vec![pet(&["10.0.0.1"])], failing: Some(500), ..Setup::default() };
    let discovery = setup.start().await;
    discovery.until_state(|state| state.errors >= 2).await;
    let answer = discovery.get("/v1/registration/pet").await;
    assert_eq!((answer.status, answer.text.as_str()), (503, r#"{"error":"not synced with Kubernetes yet"}"#));
    let ready = discovery.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text.contains("not synced with Kubernetes yet: 500"), "{}", ready.text);
    assert_eq!(discovery.get("/livez").await.status, 200);
    discovery.api.faults().clear();
    discovery.until_pet(&["10.0.0.1"]).await;
    assert_eq!(discovery.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn while_the_api_server_is_away_the_last_answer_stands() {
    let discovery = synced().await;
    discovery.api.faults().down().await;
    discovery.until_state(|state| state.errors >= 3).await;
    assert_eq!(discovery.hosts("pet").await, ["10.0.0.1"]);
    assert_eq!(discovery.get("/readyz").await.status, 200);
    assert_eq!(discovery.get("/livez").await.status, 200);
    assert!(discovery.metric("sds_watch_connected 0").await);
    discovery.apply(pet(&["10.0.0.2"]));
    discovery.api.faults().up().await;
    discovery.until_pet(&["10.0.0.2"]).await;
    discovery.until_state(|state| state.connected).await;
    assert!(discovery.metric("sds_watch_connected 1").await);
}

#[tokio::test]
async fn a_cut_connection_costs_nothing() {
    let discovery = synced().await;
    discovery.api.faults().cut();
    discovery.apply(pet(&["10.0.0.2"]));
    discovery.until_pet(&["10.0.0.2"]).await;
}

#[tokio::test]
async fn an_event_that_is_cut_in_half_is_read_again() {
    let discovery = synced().await;
    discovery.api.faults().truncate();
    discovery.apply(pet(&["10.0.0.2"]));
    discovery.until_pet(&["10.0.0.2"]).await;
    follows(&discovery).await;
}

#[tokio::test]
async fn a_frozen_api_server_is_noticed() {
    let discovery = synced_with_short_watches().await;
    discovery.api.faults().stall(true);
    discovery.until_state(|state| state.errors >= 2).await;
    assert_eq!(discovery.hosts("pet").await, ["10.0.0.1"]);
    discovery.api.faults().stall(false);
    follows(&discovery).await;
}

#[tokio::test]
async fn refusals_of_every_kind_pass() {
    for code in [401, 403, 404, 410, 429, 500, 503, 504] {
        let discovery = synced().await;
        discovery.api.faults().fail_next(2, code, On::Watch);
        discovery.api.faults().fail_next(2, code, On::List);
        discovery.api.faults().cut();
        discovery
            .until_state(|state| {
                let told = |error: &WatchError| error.to_string().starts_with(&code.to_string());
                // A history that does not reach back is no error; it leads to a list.
                code == 410 && state.lists >= 2 || state.last_error.as_ref().is_some_and(told)
            })
            .await;
        assert_eq!(discovery.hosts("pet").await, ["10.0.0.1"], "{code}");
        follows(&discovery).await;
    }
}

#[tokio::test]
async fn a_410_at_the_start_of_a_watch_leads_to_a_list() {
    let discovery = synced().await;
    discovery.api.faults().fail_next(1, 410, On::Watch);
    discovery.api.faults().cut();
    discovery.until_state(|state| state.lists >= 2).await;
    follows(&discovery).await;
    assert!(discovery.metric("sds_relists_total{reason=\"expired\"} 1").await);
}

#[tokio::test]
async fn a_410_within_a_watch_leads_to_a_list() {
    let discovery = synced().await;
    discovery.api.faults().expire_watches();
    discovery.until_state(|state| state.lists >= 2).await;
    follows(&discovery).await;
}

#[tokio::test]
async fn what_was_deleted_while_history_was_lost_is_gone_after_the_list() {
    let discovery = synced().await;
    discovery.apply(slice("pet", "pet-2", &["10.0.0.5"]));
    discovery.until_pet(&["10.0.0.1", "10.0.0.5"]).await;
    discovery.api.faults().down().await;
    discovery.delete("pet-2");
    discovery.apply(slice("other", "other-1", &["10.0.0.6"]));
    discovery.api.faults().compact();
    discovery.api.faults().up().await;
    discovery.until_pet(&["10.0.0.1"]).await;
    assert_eq!(discovery.hosts("other").await, ["10.0.0.6"]);
}

#[tokio::test]
async fn a_garbage_line_costs_one_list() {
    let discovery = synced().await;
    discovery.api.faults().garbage_line();
    discovery.until_state(|state| state.lists >= 2).await;
    assert!(discovery.metric("sds_relists_total{reason=\"garbage\"} 1").await);
    follows(&discovery).await;
}

#[tokio::test]
async fn watches_that_end_early_in_good_order_are_begun_again() {
    let discovery = synced().await;
    for address in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
        discovery.api.faults().end_watches();
        discovery.apply(pet(&[address]));
        discovery.until_pet(&[address]).await;
    }
}

#[tokio::test]
async fn a_restored_backup_takes_back_what_came_after_it() {
    let discovery = synced_with_short_watches().await;
    let backup = discovery.api.store().resource_version();
    for n in 2..8 {
        discovery.apply(pet(&[&format!("10.0.0.{n}")]));
    }
    discovery.until_pet(&["10.0.0.7"]).await;
    discovery.api.faults().restore(backup).unwrap();
    // The API server says nothing to a watch from its future: only the missing bookmark gives it away.
    discovery.until_pet(&["10.0.0.1"]).await;
    follows(&discovery).await;
}

#[tokio::test]
async fn lists_longer_than_a_page_are_read_whole() {
    let objects: Vec<_> =
        (0..9).map(|n| slice("pet", &format!("pet-{n}"), &[&format!("10.0.0.{n}")])).collect();
    let discovery = Discovery::with(objects).await;
    assert_eq!(discovery.hosts("pet").await.len(), 9);
}

#[tokio::test]
async fn a_rotated_token_is_used_at_once() {
    let may = |value: &str| {
        let watch = Rule::new("shop", "endpointslices", &["list", "watch"]);
        Token::service_account(value, "shop", "sds").allow(watch)
    };
    let config = Config { tokens: vec![may("old")], anonymous: Anonymous::Unauthorized, ..Config::default() };
    // A trailing line end is common in files made by hand.
    let setup = Setup {
        config,
        tls: Tls::Trusted,
        token: Some("old\n"),
        objects: vec![pet(&["10.0.0.1"])],
        ..Setup::default()
    };
    let discovery = setup.start().await;
    discovery.until_pet(&["10.0.0.1"]).await;
    discovery.api.faults().set_tokens(vec![may("new")]);
    discovery.api.faults().cut();
    discovery.until_state(|state| state.errors >= 2).await;
    assert_eq!(discovery.hosts("pet").await, ["10.0.0.1"]);
    discovery.rotate_token("new");
    follows(&discovery).await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let setup = Setup { tls: Tls::Untrusted, objects: vec![pet(&["10.0.0.1"])], ..Setup::default() };
    let discovery = setup.start().await;
    let state = discovery.until_state(|state| state.errors >= 2).await;
    let error = state.last_error.unwrap().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    assert!(discovery.running.catalog.borrow().is_none());
}

#[tokio::test]
async fn the_audit_runs_beside_the_watch_and_agrees() {
    let mut setup = Setup { objects: vec![pet(&["10.0.0.1"])], ..Setup::default() };
    setup.timing.audit_every = Duration::from_millis(100);
    let discovery = setup.start().await;
    for n in 0..20 {
        discovery.apply(pet(&[&format!("10.0.1.{n}")]));
        discovery.until_pet(&[&format!("10.0.1.{n}")]).await;
    }
    discovery.until_state(|state| state.audits >= 3).await;
    assert!(discovery.metric("sds_audit_drift_total 0").await);
    assert_eq!(discovery.running.status.subscribe().borrow().lists, 1);
}

#[tokio::test]
async fn whatever_happens_in_whatever_order_the_answers_become_right() {
    let discovery = synced().await;
    let faults = discovery.api.faults();
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let mut slices = BTreeMap::from([("pet-1".to_owned(), vec!["10.0.0.1".to_owned()])]);
    for _round in 0..25 {
        for _step in 0..8 {
            let name = format!("pet-{}", random.u8(1..5));
            if random.bool() && slices.remove(&name).is_some() {
                discovery.delete(&name);
            } else {
                let addresses: Vec<_> =
                    (0..random.u8(0..4)).map(|_| format!("10.0.0.{}", random.u8(1..20))).collect();
                discovery.apply(slice(
                    "pet",
                    &name,
                    &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
                ));
                slices.insert(name, addresses);
            }
            match random.u8(0..10) {
                0 => faults.cut(),
                1 => faults.truncate(),
                2 => faults.expire_watches(),
                3 => faults.garbage_line(),
                4 => faults.end_watches(),
                5 => faults.compact(),
                6 => faults.restart(),
                7 => faults.fail_next(2, [401, 403, 410, 429, 503][random.usize(0..5)], On::All),
                _ => tokio::task::yield_now().await,
            }
        }
        let all: BTreeSet<std::net::IpAddr> =
            slices.values().flatten().map(|text| text.parse().unwrap()).collect();
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        discovery.until_pet(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    assert!(discovery.metric("sds_audit_drift_total 0").await);
}

/// The slice of `pet` with every endpoint called not ready, as for the pods of a lost node.
fn unready(addresses: &[&str]) -> serde_json::Value {
    let mut slice = pet(addresses);
    for endpoint in slice["endpoints"].as_array_mut().unwrap() {
        endpoint["conditions"] =
            serde_json::json!({ "ready": false, "serving": false, "terminating": false });
    }
    slice
}

#[tokio::test]
async fn pods_that_are_all_called_unready_are_still_given_out_and_that_is_visible() {
    let discovery = synced().await;
    let both = ["10.0.0.1", "10.0.0.2"];
    discovery.apply(pet(&both));
    discovery.until_pet(&both).await;
    let before = discovery.get("/v1/registration/pet").await;
    // The API server is away meanwhile, and what it says after its return is wrong.
    discovery.api.faults().down().await;
    discovery.until_state(|state| state.errors >= 2).await;
    discovery.apply(unready(&both));
    discovery.api.faults().restart();
    discovery.api.faults().up().await;
    discovery.until(|catalog| catalog.kept() == 2).await;
    let kept = discovery.get("/v1/registration/pet").await;
    assert_eq!((kept.status, &kept.text), (200, &before.text));
    assert_eq!(kept.header("etag"), before.header("etag"));
    let debug: serde_json::Value = serde_json::from_str(&discovery.get("/debug").await.text).unwrap();
    assert_eq!(debug["services"]["pet.shop"]["kept"], 2);
    assert!(discovery.metric("sds_kept_endpoints 2").await);
    assert!(discovery.metric("sds_fail_static_total{event=\"began\"} 1").await);
    follows(&discovery).await;
    assert!(discovery.metric("sds_kept_endpoints 0").await);
    assert!(discovery.metric("sds_fail_static_total{event=\"recovered\"} 1").await);
}

#[tokio::test]
async fn pods_that_are_called_unready_are_gone_when_they_are_deleted_or_when_it_is_switched_off() {
    let discovery = synced().await;
    discovery.apply(unready(&["10.0.0.1"]));
    discovery.until(|catalog| catalog.kept() == 1).await;
    discovery.apply(pet(&[]));
    discovery.until_pet(&[]).await;
    let setup = Setup { fail_static: Duration::ZERO, objects: vec![pet(&["10.0.0.1"])], ..Setup::default() };
    let without = setup.start().await;
    without.until_pet(&["10.0.0.1"]).await;
    without.apply(unready(&["10.0.0.1"]));
    without.until_pet(&[]).await;
}

#[tokio::test]
async fn after_sigterm_it_is_not_ready_and_answers_for_a_while() {
    let mut setup = Setup { objects: vec![pet(&["10.0.0.1"])], ..Setup::default() };
    setup.limits.linger = Duration::from_secs(3600);
    let discovery = setup.start().await;
    discovery.until_pet(&["10.0.0.1"]).await;
    discovery.lifecycle.shutdown().begin();
    let ready = discovery.get("/readyz").await;
    assert_eq!((ready.status, ready.text.as_str()), (503, "shutting down\n"));
    let answer = discovery.get("/v1/registration/pet").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
}

#[tokio::test]
async fn it_ends_in_good_order_and_leaves_the_port() {
    let sds = synced().await.into_sds();
    let address = sds.running.address;
    sds.lifecycle.shutdown().begin();
    let outcome = sds.lifecycle.drain(Duration::from_secs(20)).await;
    assert_eq!(outcome, Outcome::Done);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_hung_up_on() {
    let mut setup = Setup::default();
    setup.limits.head = Duration::from_millis(50);
    let discovery = setup.start().await;
    let mut silent = tokio::net::TcpStream::connect(discovery.running.address).await.unwrap();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest).await.unwrap();
    assert_eq!(rest, b"");
}
