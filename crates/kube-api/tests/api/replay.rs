//! Our server against kube-apiserver: each recorded request is sent to it, and the answer compared with the recorded
//! one: status, headers, framing (even the chunk sizes), events in order, JSON.
//!
//! The state a recording implies is made of the recorded bytes themselves. Uids, times and versions are those of the
//! recordings, so whole documents can be compared; `cases` tells for every recording how, or why not.

use std::collections::BTreeSet;

use kube_api::recording::wire::Response;
use kube_api::recording::{self, Ending, Recording};
use kube_api::{Config, EventType, Rule, Server, Token};
use serde_json::Value;

use crate::cases::{self, Case, Mode, with_timeout};
use crate::client::Client;

#[test]
fn every_recording_is_replayed_or_has_a_reason() {
    let known: BTreeSet<_> = recording::names().unwrap().into_iter().collect();
    for file in std::fs::read_dir(recording::folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let recorded = name.strip_suffix(".timing").is_none_or(|name| known.contains(name));
        assert!(recorded, "{name} is missing in MANIFEST");
    }
    let mut listed = BTreeSet::new();
    for case in cases::all() {
        assert!(listed.insert(case.name.to_owned()), "{} is listed twice", case.name);
    }
    assert_eq!(
        known.difference(&listed).collect::<Vec<_>>(),
        [""; 0],
        "recordings without a line in the table"
    );
    assert_eq!(listed.difference(&known).collect::<Vec<_>>(), [""; 0], "lines without a recording");
}

#[tokio::test]
async fn the_answers_are_those_of_a_real_server() {
    let runs: Vec<_> = cases::all().into_iter().map(|case| (case.name, tokio::spawn(replay(case)))).collect();
    let mut failed = Vec::new();
    for (name, run) in runs {
        match run.await {
            Ok(None) => println!("replayed       {name}"),
            Ok(Some(reason)) => println!("not supported  {name}: {reason}"),
            Err(_) => failed.push(name),
        }
    }
    assert_eq!(failed, [""; 0], "see the panics above");
}

// Panics where the answer differs; returns why a recording is not replayed.
async fn replay(case: Case) -> Option<&'static str> {
    if let Mode::Unsupported(reason) = case.mode {
        return Some(reason);
    }
    let recording = Recording::named(case.name).unwrap();
    let server = start(&case);
    load(&server, &case, &recording);
    if let Some(before) = case.before {
        before(&server);
    }
    match case.mode {
        Mode::Whole => whole(&server, &case, &recording).await,
        Mode::Live => live(&server, &case, &recording).await,
        Mode::Refused => refused(&server, &recording).await,
        Mode::Stalled => stalled(&server, &case, &recording).await,
        Mode::Unsupported(_) => {}
    }
    server.stop().await;
    None
}

fn start(case: &Case) -> Server {
    let read = ["get", "list", "watch"];
    let disco = Token::service_account("disco", "demo", "disco")
        .allow(Rule::new("demo", "endpointslices", &read))
        .allow(Rule::new("demo", "pods", &read));
    let tokens = vec![
        disco,
        Token::service_account("nobody", "demo", "nobody"),
        Token::service_account("throttled", "demo", "throttled"),
        Token::admin("admin"),
    ];
    Server::start(Config { tokens, anonymous: case.anonymous, ..Config::default() }).unwrap()
}

// The objects that were there when the request was sent.
fn load(server: &Server, case: &Case, recording: &Recording) {
    let mut objects: Vec<Value> = Vec::new();
    for name in case.state {
        for object in Recording::named(name).unwrap().objects() {
            let metadata = object["metadata"].clone();
            objects.retain(|one| one["metadata"]["uid"] != metadata["uid"]);
            objects.push(object);
        }
    }
    if case.mode == Mode::Live {
        objects = before(recording);
        for name in case.state {
            objects.extend(Recording::named(name).unwrap().objects());
        }
    }
    let namespace =
        |name: &str| serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    objects.extend([namespace("demo"), namespace("big")]);
    server.store().load(objects, case.revision(recording)).unwrap();
}

// What a watch found changed without having added it was there before.
fn before(recording: &Recording) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let events = recording.events();
    let named = events.iter().filter(|event| event["object"]["metadata"]["name"].is_string());
    let first = named.filter(|event| seen.insert(event["object"]["metadata"]["name"].to_string()));
    first.filter(|event| event["type"] != "ADDED").map(|event| event["object"].clone()).collect()
}

async fn whole(server: &Server, case: &Case, recording: &Recording) {
    let mut client = Client::connect(server).await;
    client.send(&case.request(recording)).await;
    let answer = client.response().await;
    let recorded = recording.parsed().unwrap();
    same_head(case, &answer, &recorded);
    let (mut ours, mut theirs) = (answer.json_lines(), recorded.json_lines());
    ours.iter_mut().chain(&mut theirs).for_each(case.normal);
    assert_eq!(ours, theirs, "{}", case.name);
    if theirs.is_empty() {
        assert_eq!(answer.body, recorded.body, "{}", case.name);
    }
    if case.same_size {
        assert_eq!(answer.chunks, recorded.chunks, "{}: chunk sizes", case.name);
        assert_eq!(answer.header("content-length"), recorded.header("content-length"), "{}", case.name);
    }
    assert!(answer.complete, "{}: the end of the body", case.name);
}

fn same_head(case: &Case, ours: &Response, theirs: &Response) {
    assert_eq!(ours.status, theirs.status, "{}: {}", case.name, String::from_utf8_lossy(&ours.body));
    assert_eq!(ours.header("content-type"), theirs.header("content-type"), "{}", case.name);
    assert_eq!(ours.header("retry-after"), theirs.header("retry-after"), "{}", case.name);
    let framing = |name: &str| !case.same_size && matches!(name, "content-length" | "transfer-encoding");
    let names = |response: &Response| -> BTreeSet<_> {
        response.headers.iter().map(|(name, _)| name.clone()).filter(|name| !framing(name)).collect()
    };
    assert_eq!(names(ours), names(theirs), "{}: headers", case.name);
}

// The recorded events happen one after the other, and each has to arrive before the next.
async fn live(server: &Server, case: &Case, recording: &Recording) {
    let (store, faults) = (server.store(), server.faults());
    let mut client = Client::connect(server).await;
    // The test says when the watch ends; the server's clock must not, however slow the machine is.
    client.send(&with_timeout(&case.request(recording), 3600)).await;
    client.head().await;
    for event in recording.events() {
        let object = event["object"].clone();
        match event["type"].as_str().unwrap() {
            "BOOKMARK" => {
                store.advance(object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap());
                faults.bookmark();
            }
            "ADDED" => store.record(EventType::Added, object).unwrap(),
            "MODIFIED" => store.record(EventType::Modified, object).unwrap(),
            "DELETED" => store.record(EventType::Deleted, object).unwrap(),
            other => panic!("{}: event {other}", case.name),
        }
        let line = client.line().await;
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), event, "{}", case.name);
    }
    match recording.ending {
        Ending::ServerClosed => faults.cut(),
        _ => faults.end_watches(),
    }
    let answer = client.response().await;
    same_head(case, &answer, &recording.parsed().unwrap());
    assert_eq!(answer.complete, recording.ending == Ending::Complete, "{}: the last chunk", case.name);
}

async fn refused(server: &Server, recording: &Recording) {
    assert_eq!(recording.ending, Ending::Refused);
    server.faults().down().await;
    for address in [server.plain_addr().unwrap(), server.tls_addr().unwrap()] {
        let error = tokio::net::TcpStream::connect(address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    server.faults().up().await;
    Client::connect(server).await;
}

// Connected, but not a byte; recorded in the TLS handshake, which the gate holds back in the same way.
async fn stalled(server: &Server, case: &Case, recording: &Recording) {
    assert_eq!((recording.ending, recording.response.len()), (Ending::ClientStopped, 0));
    let mut client = Client::connect(server).await;
    client.send(&case.request(recording)).await;
    assert!(client.has_nothing(), "{}: an answer in a stall", case.name);
    server.faults().stall(false);
    assert_eq!(client.response().await.status, 200);
}
