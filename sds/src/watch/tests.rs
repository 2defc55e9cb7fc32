//! The watch against an API server that does what a script says, in paused time.

mod script;

use std::time::Duration;

use script::{End, Reply, Script};

use super::*;

const S: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_asked_ever_more_seldom_but_never_forgotten() {
    let script = Script::default().lists((0..200).map(|_| Reply::status(503))).start();
    tokio::time::sleep(600 * S).await;
    let times = script.times("limit=");
    let gaps: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.iter().all(|gap| *gap <= 10 * S), "{gaps:?}");
    // 5 s on average with full jitter below 10 s; a client that forgets its failures would ask over 1000 times.
    assert!((60..200).contains(&times.len()), "{} requests in 600 s", times.len());
    assert!(script.catalog.borrow().is_none(), "nothing is known, so nothing is published");
}

#[tokio::test(start_paused = true)]
async fn a_410_at_the_start_of_a_watch_leads_to_a_new_list() {
    let mut script = Script::default()
        .lists([Reply::list("10", &["a"]), Reply::list("50", &["a", "b"])])
        .watches([Reply::status(410), Reply::events(&[], End::Silence)])
        .start();
    script.until_services(2).await;
    assert_eq!(script.requests("watch=true"), ["resourceVersion=10", "resourceVersion=50"]);
}

#[tokio::test(start_paused = true)]
async fn a_410_within_a_watch_leads_to_a_new_list() {
    let expired =
        r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
    let mut script = Script::default()
        .lists([Reply::list("10", &["a"]), Reply::list("50", &["a", "b"])])
        .watches([Reply::events(&[expired], End::Close)])
        .start();
    script.until_services(2).await;
    assert_eq!(script.status.subscribe().borrow().lists, 2);
}

#[tokio::test(start_paused = true)]
async fn a_cut_watch_goes_on_from_the_last_version_seen() {
    let half = &script::added("c", "13")[..40];
    let mut script = Script::default()
        .lists([Reply::list("10", &["a"])])
        .watches([
            Reply::events(&[&script::added("b", "12")], End::Break),
            Reply::raw(&[half], End::Close),
            Reply::events(&[&script::added("c", "13")], End::Silence),
        ])
        .start();
    script.until_services(3).await;
    assert_eq!(
        script.requests("watch=true"),
        ["resourceVersion=10", "resourceVersion=12", "resourceVersion=12"]
    );
    assert_eq!(script.status.subscribe().borrow().lists, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stall_ends_with_new_connections_and_the_same_version() {
    let mut script = Script::default()
        .lists([Reply::list("10", &["a"])])
        .watches([
            Reply::events(&[], End::Silence),
            Reply::Never,
            Reply::events(&[&script::added("b", "11")], End::Silence),
        ])
        .start();
    script.until_services(2).await;
    assert_eq!(script.requests("watch=true"), ["resourceVersion=10"; 3]);
    assert_eq!(script.connections(), 3);
    assert!(script.times("watch=true")[1] >= 70 * S);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_never_answered_is_asked_again() {
    let mut script =
        Script::default().lists([Reply::Never, Reply::list("10", &["a"])]).watches([Reply::Never]).start();
    script.until_services(1).await;
    assert!(script.times("limit=")[1] >= 30 * S);
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_word_from_an_api_server_that_went_back_is_noticed() {
    let back = || Reply::list("5", &["b", "c"]);
    let mut script = Script::default()
        .lists([Reply::list("900", &["a"]), back(), back()])
        .watches([Reply::events(&[], End::CloseAfter(60 * S))])
        .start();
    script.until_services(2).await;
    assert_eq!(script.requests("watch=true"), ["resourceVersion=900", "resourceVersion=5"]);
    assert_eq!(script.errors(), ["went_back 1"]);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_an_event_or_bookmark_is_no_error() {
    let quiet = (0..1000).map(|_| Reply::events(&[], End::CloseAfter(60 * S)));
    let lists = (0..1000).map(|_| Reply::list("10", &["a"]));
    let script = Script::default().lists(lists).watches(quiet).start();
    for _minute in 0..60 {
        tokio::time::sleep(60 * S).await;
        let state = script.status.subscribe().borrow().clone();
        assert!(state.connected && state.age() <= Some(61 * S), "{state:?}");
    }
    let state = script.status.subscribe().borrow().clone();
    assert_eq!((state.errors, state.last_error, state.lists), (0, None, 1));
    assert_eq!(script.errors(), Vec::<String>::new());
    assert_eq!(script.connections(), 1);
    assert_eq!(script.requests("watch=true").len(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_the_api_server_ends_is_no_error_and_a_broken_one_is() {
    let ends = |end| Reply::events(&[&script::bookmark(20)], end);
    let script = Script::default()
        .lists([Reply::list("10", &["a"])])
        .watches([ends(End::CloseAfter(60 * S)), ends(End::Close), ends(End::Break), ends(End::Silence)])
        .start();
    let mut state = script.status.subscribe();
    state.wait_for(|state| state.errors == 1).await.unwrap();
    assert_eq!(script.errors(), ["broken 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_history_that_does_not_reach_back_is_no_error() {
    let script = Script::default()
        .lists([Reply::list("10", &["a"]), Reply::list("50", &["a", "b"])])
        .watches([Reply::status(410), Reply::events(&[], End::Silence)])
        .start();
    let mut state = script.status.subscribe();
    let state = state.wait_for(|state| state.lists == 2).await.unwrap().clone();
    assert_eq!((state.errors, state.last_error), (0, None));
    assert_eq!(script.errors(), Vec::<String>::new());
    assert!(script.metrics().contains("sds_relists_total{reason=\"expired\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_with_bookmarks_is_trusted_for_ever() {
    let quiet = (0..20).map(|n| Reply::events(&[&script::bookmark(20 + n)], End::CloseAfter(60 * S)));
    let script = Script::default().lists([Reply::list("10", &["a"])]).watches(quiet).start();
    let mut state = script.status.subscribe();
    state.wait_for(|state| state.version == "25").await.unwrap();
    assert_eq!(state.borrow().lists, 1);
    assert_eq!(
        script.requests("watch=true")[..3],
        ["resourceVersion=10", "resourceVersion=20", "resourceVersion=21"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_version_that_goes_back_leads_to_a_new_list() {
    let mut script = Script::default()
        .lists([Reply::list("900", &["a"]), Reply::list("7", &["b", "c"])])
        .watches([Reply::events(&[&script::bookmark(5)], End::Silence)])
        .start();
    script.until_services(2).await;
    let state = script.status.subscribe().borrow().clone();
    assert!(matches!(state.last_error, Some(WatchError::WentBack { .. })), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn a_garbage_line_costs_a_list_and_nothing_else() {
    let mut script = Script::default()
        .lists([Reply::list("10", &["a"]), Reply::list("20", &["a", "b", "c"])])
        .watches([Reply::events(&[&script::added("b", "11"), "{\"type\":\"ADDED\",\"obj"], End::Silence)])
        .start();
    script.until_services(2).await;
    script.until_services(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_read_again_at_once() {
    let mut script = Script::default().lists([Reply::status(401), Reply::list("10", &["a"])]).start();
    script.until_services(1).await;
    assert_eq!(script.times("limit="), [Duration::ZERO; 2]);
    assert_eq!(script.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_403_waits_and_says_what_to_grant() {
    let script = Script::default().lists((0..3).map(|_| Reply::status(403))).start();
    let mut state = script.status.subscribe();
    let state = state.wait_for(|state| state.errors == 3).await.unwrap();
    let error = state.last_error.as_ref().unwrap().to_string();
    assert!(error.contains("grant `list` and `watch` on endpointslices"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_429_is_given_the_time_it_asks_for() {
    let throttled = Reply::status(429).header("retry-after", "7");
    let mut script = Script::default().lists([throttled, Reply::list("10", &["a"])]).start();
    script.until_services(1).await;
    assert!(script.times("limit=")[1] >= 7 * S);
}

#[tokio::test(start_paused = true)]
async fn pages_are_joined_and_an_expired_page_starts_over_at_last_without_pages() {
    let mut script = Script::default()
        .lists([
            Reply::page("10", &["a"], "more"),
            Reply::status(410),
            Reply::page("11", &["a"], "more"),
            Reply::status(410),
            Reply::page("12", &["a"], "more"),
            Reply::status(410),
            Reply::list("13", &["a", "b", "c"]),
        ])
        .start();
    script.until_services(3).await;
    assert_eq!(script.requests("continue=more").len(), 3);
    assert_eq!(script.requests("watch=true"), ["resourceVersion=13"]);
}

#[tokio::test(start_paused = true)]
async fn watches_that_tell_nothing_end_in_a_list() {
    let mut script = Script::default()
        .lists([Reply::list("10", &["a"]), Reply::list("20", &["a", "b"])])
        .watches((0..4).map(|_| Reply::status(500)))
        .start();
    script.until_services(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_only_lists_is_not_listed_without_pause() {
    let bad = (0..1000).map(|_| Reply::events(&["garbage"], End::Close));
    let lists = (0..1000).map(|n| Reply::list(&(10 + n).to_string(), &["a"]));
    let script = Script::default().lists(lists).watches(bad).start();
    tokio::time::sleep(300 * S).await;
    let lists = script.times("limit=").len();
    assert!((30..150).contains(&lists), "{lists} lists in 300 s");
}

#[tokio::test(start_paused = true)]
async fn the_audit_finds_what_the_watch_has_lost() {
    let alive = || Reply::events(&[&script::bookmark(60)], End::CloseAfter(60 * S));
    let mut script = Script::default()
        // An audit that settles while its watch ends lists once more.
        .lists([Reply::list("10", &["a"]), Reply::list("70", &["a", "b"]), Reply::list("70", &["a", "b"])])
        .watches((0..20).map(|_| alive()))
        .start();
    script.until_services(1).await;
    script.until_services(2).await;
    assert!(script.metrics().contains("sds_audit_drift_total 1"));
    assert!(script.metrics().contains("sds_relists_total{reason=\"audit\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_agrees_changes_nothing() {
    let alive = |n: u64| Reply::events(&[&script::bookmark(n)], End::CloseAfter(60 * S));
    let script = Script::default()
        // An audit that settles while its watch ends lists once more.
        .lists([Reply::list("10", &["a"]), Reply::list("15", &["a"]), Reply::list("15", &["a"])])
        .watches((0..20).map(|n| alive(10 + n)))
        .start();
    let mut catalog = script.catalog.clone();
    catalog.wait_for(Option::is_some).await.unwrap();
    script.status.subscribe().wait_for(|state| state.audits == 1).await.unwrap();
    assert!(!catalog.has_changed().unwrap());
    assert!(script.metrics().contains("sds_audits_total{outcome=\"same\"} 1"));
}

/// A watch that says that the pod of `a` is not ready, then bookmarks for ever.
fn unready_then_quiet() -> impl Iterator<Item = Reply> {
    let unready = Reply::events(&[&script::called_ready("a", "11", false)], End::CloseAfter(60 * S));
    let quiet = (0..100).map(|n| Reply::events(&[&script::bookmark(20 + n)], End::CloseAfter(60 * S)));
    std::iter::once(unready).chain(quiet)
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_called_unready_is_served_until_the_time_is_over() {
    let script = Script::default().lists([Reply::list("10", &["a"])]).watches(unready_then_quiet()).start();
    tokio::time::sleep(script::FAIL_STATIC - S).await;
    assert_eq!(script.endpoints("a"), 1);
    for line in ["sds_kept_endpoints 1", "sds_fail_static_total{event=\"began\"} 1", "sds_endpoints 1"] {
        assert!(script.metrics().lines().any(|one| one == line), "{line} in {}", script.metrics());
    }
    tokio::time::sleep(2 * S).await;
    assert_eq!(script.endpoints("a"), 0);
    for line in ["sds_kept_endpoints 0", "sds_fail_static_total{event=\"expired\"} 1"] {
        assert!(script.metrics().lines().any(|one| one == line), "{line} in {}", script.metrics());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_back_while_the_api_server_is_away() {
    let unready = Reply::events(&[&script::called_ready("a", "11", false)], End::Break);
    let away = (0..300).map(|_| Reply::status(503));
    let script = Script::default()
        .lists(std::iter::once(Reply::list("10", &["a"])).chain((0..300).map(|_| Reply::status(503))))
        .watches(std::iter::once(unready).chain(away))
        .start();
    tokio::time::sleep(script::FAIL_STATIC * 2).await;
    assert_eq!(script.endpoints("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_word_of_an_api_server_that_is_back_counts() {
    for (ready, endpoints) in [(true, 1), (false, 0)] {
        let unready = Reply::events(&[&script::called_ready("a", "11", false)], End::Break);
        let back = Reply::events(&[&script::called_ready("a", "30", ready)], End::CloseAfter(60 * S));
        let quiet = (0..20).map(|n| Reply::events(&[&script::bookmark(40 + n)], End::CloseAfter(60 * S)));
        let script = Script::default()
            .lists([Reply::list("10", &["a"])])
            .watches([unready, Reply::Never, back].into_iter().chain(quiet))
            .start();
        let mut state = script.status.subscribe();
        state.wait_for(|state| state.version == "11").await.unwrap();
        assert_eq!(script.endpoints("a"), 1);
        state.wait_for(|state| state.version == "30").await.unwrap();
        tokio::time::sleep(script::FAIL_STATIC * 2).await;
        assert_eq!(script.endpoints("a"), endpoints, "called ready: {ready}");
    }
}

/// Nodes have not renewed their leases yet when the API server is back: its first list says the same as before.
#[tokio::test(start_paused = true)]
async fn the_time_does_not_run_out_while_the_api_server_is_away() {
    let unready = Reply::events(&[&script::called_ready("a", "11", false)], End::Break);
    let away = [Reply::status(503), Reply::status(410)];
    let quiet = (0..100).map(|n| Reply::events(&[&script::bookmark(40 + n)], End::CloseAfter(60 * S)));
    let lists = std::iter::once(Reply::list("10", &["a"])).chain((0..200).map(|_| Reply::status(503)));
    let script = Script::default()
        .lists(lists.chain([Reply::list_unready("30", &["a"])]))
        .watches(std::iter::once(unready).chain(away).chain(quiet))
        .start();
    let began = tokio::time::Instant::now();
    let mut state = script.status.subscribe();
    state.wait_for(|state| state.version.parse().is_ok_and(|version: u64| version >= 30)).await.unwrap();
    assert!(began.elapsed() > script::FAIL_STATIC * 2, "{:?}", began.elapsed());
    tokio::time::sleep(script::FAIL_STATIC - 30 * S).await;
    assert_eq!(script.endpoints("a"), 1, "the outage does not count");
    tokio::time::sleep(script::FAIL_STATIC).await;
    assert_eq!(script.endpoints("a"), 0, "the time after it does");
}

/// An error within a watch is no word on endpoints.
#[tokio::test(start_paused = true)]
async fn an_error_in_a_watch_takes_nothing_back() {
    let expired =
        r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
    let unready = Reply::events(&[&script::called_ready("a", "11", false)], End::Break);
    let slow = Reply::Never;
    let script = Script::default()
        .lists([Reply::list("10", &["a"])])
        .watches([unready, slow, Reply::events(&[expired], End::Close)])
        .start();
    tokio::time::sleep(script::FAIL_STATIC * 3).await;
    assert_eq!(script.endpoints("a"), 1);
    assert!(script.metrics().contains("sds_fail_static_total{event=\"expired\"} 0"), "{}", script.metrics());
}
