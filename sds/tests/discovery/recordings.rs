//! The bytes that a real API server (1.36) has sent, cut where it cut them.

use kube_api::recording::{Ending, Recording, Replay};
use sds::settings::Kubernetes;

use crate::harness::{Sds, Setup};

/// sds in front of recorded answers. Watches that follow the recorded ones are silent.
struct Replayed {
    sds: Sds,
    replay: Replay,
}

async fn replay(lists: impl IntoIterator<Item = Recording>, watches: &[&str]) -> Replayed {
    let watches = watches.iter().map(|name| recording(name)).collect();
    let replay = Replay::start(lists.into_iter().collect(), watches).await.unwrap();
    let kubernetes = Kubernetes {
        api_host: format!("http://{}", replay.addr()).parse().unwrap(),
        namespace: "demo".into(),
        all_namespaces: false,
        token_path: None,
        ca_path: None,
    };
    let mut setup = Setup::default();
    // A silent watch at the end of the recordings shall stay what it is.
    setup.timing.watch = std::time::Duration::from_secs(3600);
    Replayed { sds: setup.beside(kubernetes).await, replay }
}

fn recording(name: &str) -> Recording {
    Recording::named(name).unwrap()
}

/// An empty list at the version from which a recorded watch was asked for.
fn empty_at(version: &str) -> Recording {
    let body =
        format!(r#"{{"kind":"EndpointSliceList","metadata":{{"resourceVersion":"{version}"}},"items":[]}}"#);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let response = (head + &body).into_bytes();
    Recording {
        name: "list".into(),
        request: Vec::new(),
        response,
        reads: Vec::new(),
        ending: Ending::Complete,
    }
}

impl Replayed {
    /// Waits until the watch asks to go on from this version.
    async fn until_watched_from(&self, version: &str) {
        let wanted = format!("resourceVersion={version} ");
        let asked =
            || self.replay.requests().iter().any(|line| line.contains("watch=") && line.contains(&wanted));
        // Each request changes the state: connected, heard or failed.
        self.sds.until_state(|_| asked()).await;
    }

    async fn until_hosts(&self, service: &str, addresses: &[&str]) {
        self.sds
            .until(|catalog| {
                let name = format!("{service}.demo");
                let known =
                    catalog.get(&name).map(|cluster| cluster.endpoints.as_slice()).unwrap_or_default();
                known.iter().map(|endpoint| endpoint.address.to_string()).eq(addresses.iter().copied())
            })
            .await;
    }

    async fn endpoints(&self, service: &str, count: usize) {
        let name = format!("{service}.demo");
        self.sds
            .until(|catalog| catalog.get(&name).map(|cluster| cluster.endpoints.len()) == Some(count))
            .await;
    }

    fn lists(&self) -> u64 {
        self.sds.running.status.subscribe().borrow().lists
    }
}

#[tokio::test]
async fn two_pages_and_a_watch_from_their_version() {
    let replayed = replay([recording("02-list-limit"), recording("02-list-continue")], &[]).await;
    replayed.until_watched_from("698").await;
    let catalog = replayed.sds.running.catalog.borrow().clone().unwrap();
    let names: Vec<_> = catalog.iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["api.demo", "web-headless.demo", "web.demo"]);
    assert!(replayed.replay.requests()[1].contains("&continue=ey"), "{:?}", replayed.replay.requests());
}

#[tokio::test]
async fn asking_sds_never_asks_kubernetes() {
    let replayed = replay([recording("01-list-selector")], &[]).await;
    replayed.sds.until_state(|state| state.connected).await;
    for _ in 0..50 {
        assert!(!replayed.sds.hosts("web").await.is_empty());
    }
    assert_eq!(replayed.replay.requests().len(), 2, "one list, one watch");
}

#[tokio::test]
async fn a_service_comes_and_goes_and_a_deployment_is_scaled() {
    let replayed = replay([empty_at("737")], &["03-watch"]).await;
    replayed.until_watched_from("823").await;
    replayed.until_hosts("web", &["10.20.0.10", "10.20.0.11", "10.20.0.13"]).await;
    replayed.until_hosts("late", &[]).await;
    assert_eq!(replayed.lists(), 1);
}

#[tokio::test]
async fn no_step_of_a_rolling_update_leaves_a_service_short() {
    for (watch, version, service, end) in
        [("15-rolling-update", "855", "web", "1068"), ("15-rolling-update-real-kubelet", "1629", "real", "")]
    {
        let replayed = replay([empty_at(version)], &[watch]).await;
        let mut catalog = replayed.sds.running.catalog.clone();
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while catalog.changed().await.is_ok() {
                let cluster = catalog.borrow().as_ref()?.get(&format!("{service}.demo")).cloned();
                seen.extend(cluster.map(|cluster| cluster.endpoints.len()));
                if seen.len() > 3 {
                    break;
                }
            }
            Some(seen)
        });
        let events = recording(watch).events();
        let last = events.last().unwrap()["object"]["metadata"]["resourceVersion"].as_str().unwrap();
        assert!(end.is_empty() || end == last);
        replayed.until_watched_from(last).await;
        let seen = seen.await.unwrap().unwrap();
        assert!(seen.iter().all(|count| *count >= 3), "{watch}: {seen:?}");
        replayed.endpoints(service, 3).await;
    }
}

#[tokio::test]
async fn one_pod_turns_unready_and_ready_again() {
    let replayed = replay([empty_at("1074")], &["16-readiness-flip"]).await;
    replayed.until_watched_from("1092").await;
    replayed.until_hosts("web", &["10.20.0.14", "10.20.0.15", "10.20.0.16"]).await;
}

#[tokio::test]
async fn big_lists_and_deleted_services() {
    let replayed = replay([recording("11-list-nogzip-big")], &[]).await;
    replayed.endpoints("big", 1000).await;
    let replayed = replay([recording("18-many-list")], &["17-service-deleted"]).await;
    replayed.sds.until(|catalog| catalog.services() == 0).await;
    assert_eq!(replayed.sds.hosts("many").await, [""; 0]);
}

#[tokio::test]
async fn a_killed_server_costs_no_event() {
    let replayed = replay([empty_at("1790")], &["13-watch-during-kill9"]).await;
    let events = recording("13-watch-during-kill9").events();
    let last = events.last().unwrap()["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    replayed.until_watched_from(last).await;
    assert_eq!(replayed.lists(), 1);
}

#[tokio::test]
async fn watches_end_with_and_without_bookmark() {
    let replayed = replay([empty_at("698")], &["10-watch-timeout-nobookmark", "10-watch-timeout"]).await;
    let bookmark = recording("10-watch-timeout").events()[0]["object"]["metadata"]["resourceVersion"].clone();
    replayed.until_watched_from(bookmark.as_str().unwrap()).await;
    assert_eq!(replayed.lists(), 1);
}

#[tokio::test]
async fn recorded_refusals_of_a_list_pass() {
    for (name, words) in [
        ("05-list-future-rv", "504: Timeout: Too large resource version"),
        ("06-bad-token", "401: "),
        ("06-no-token-anonymous", "403: "),
        ("07-forbidden-list", "grant `list` and `watch` on endpointslices"),
        ("08-notfound-resource", "404: the server could not find the requested resource"),
        ("08-notfound-group", "404: 404 page not found"),
        ("09-throttled-list", "429: "),
        ("13-startup-kill9-2", "403: "),
    ] {
        let lists = [recording(name), recording("01-list-selector")];
        let replayed = replay(lists, &[]).await;
        let state = replayed.sds.until_state(|state| state.lists == 1).await;
        let error = state.last_error.unwrap().to_string();
        assert!(error.contains(words), "{name}: {error}");
        assert!(!replayed.sds.hosts("web").await.is_empty());
    }
}

#[tokio::test]
async fn an_expired_page_starts_the_list_over() {
    let lists =
        ["05-list-limit-before-compaction", "05-continue-expired", "02-list-limit", "02-list-continue"];
    let replayed = replay(lists.map(recording), &[]).await;
    replayed.until_watched_from("698").await;
}

#[tokio::test]
async fn recorded_ends_of_a_watch_lead_to_a_list_or_another_try() {
    for (name, words, relisted) in [
        ("12-watch-accept-protobuf", "not understood: ", true),
        ("05-watch-garbage-rv", "500: ", false),
        ("06-no-token-anonymous-off-watch", "401: ", false),
        ("07-forbidden-watch", "403: ", false),
        ("09-throttled-watch", "429: ", false),
    ] {
        let replayed = replay([recording("01-list-selector")], &[name]).await;
        let state = replayed
            .sds
            .until_state(|state| {
                state.errors == 0 && state.last_error.is_some() || state.connected && state.errors == 1
            })
            .await;
        let error = state.last_error.unwrap().to_string();
        assert!(error.contains(words), "{name}: {error}");
        let state = replayed.sds.until_state(|state| state.connected).await;
        assert_eq!(state.lists, if relisted { 2 } else { 1 }, "{name}");
        assert!(!replayed.sds.hosts("web").await.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn recorded_ends_of_a_history_lead_to_a_list_and_are_no_error() {
    for name in ["05-watch-too-old", "05-watch-rv1", "13-resume-after-kill9", "13-startup-kill9-3"] {
        let replayed = replay([recording("01-list-selector")], &[name]).await;
        let state = replayed.sds.until_state(|state| state.lists == 2 && state.connected).await;
        assert_eq!((state.errors, state.last_error), (0, None), "{name}");
        assert!(replayed.sds.metric("sds_relists_total{reason=\"expired\"} 1").await, "{name}");
        assert!(!replayed.sds.hosts("web").await.is_empty(), "{name}");
    }
}
