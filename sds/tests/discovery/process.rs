//! The binary as a user meets it: help, errors, exit codes, signals.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::pet;

fn sds(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sds"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the binary is built with the tests")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    assert_eq!(sds(&["--nonsense"]).status.code(), Some(2));
    let port = sds(&["--envoy-port", "x", "--kubernetes-api-host", "http://127.0.0.1:1"]);
    assert_eq!(
        (port.status.code(), stderr(&port).as_str()),
        (Some(2), "sds: --envoy-port: 'x' is no port; give a number from 1 to 65535\n",)
    );
}

#[test]
fn without_a_cluster_it_says_what_to_set() {
    let output = sds(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--kubernetes-api-host"), "{}", stderr(&output));
}

#[test]
fn a_port_in_use_is_said_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = sds(&["--listen", &address, "--kubernetes-api-host", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot listen on {address}")), "{}", stderr(&output));
}

#[tokio::test(flavor = "current_thread")]
async fn it_logs_what_it_watches_and_knows_and_ends_with_sigterm() {
    let api = kube_api::Server::start(kube_api::Config::default()).unwrap();
    api.store().apply(pet(&["10.0.0.1", "10.0.0.2"])).unwrap();
    let host = format!("http://{}", api.plain_addr().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_sds"))
        .args(["--listen", "127.0.0.1:0", "--kubernetes-namespace", "shop", "--kubernetes-api-host", &host])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    // The API server runs on this thread, so the log is read on another.
    let synced = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        for line in log.lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|line| line.contains("synced: ")) {
                break;
            }
        }
        lines.join("\n")
    });
    let log = synced.await.unwrap();
    assert!(log.contains(&format!("watching EndpointSlices of namespace shop at {host}")), "{log}");
    assert!(log.contains("synced: 1 services, 2 endpoints"), "{log}");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_port_that_ipv4_has_taken_is_taken_for_all_addresses() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let listen = format!("[::]:{port}");
    let output = sds(&["--listen", &listen, "--kubernetes-api-host", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1), "IPv4 is part of [::], so the port is taken");
    assert!(stderr(&output).contains(&format!("cannot listen on {listen}")), "{}", stderr(&output));
}

#[tokio::test(flavor = "current_thread")]
async fn it_logs_when_it_begins_and_stops_to_serve_pods_that_are_not_ready() {
    let api = kube_api::Server::start(kube_api::Config::default()).unwrap();
    api.store().apply(pet(&["10.0.0.1"])).unwrap();
    let host = format!("http://{}", api.plain_addr().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_sds"))
        .args(["--listen", "127.0.0.1:0", "--kubernetes-namespace", "shop", "--kubernetes-api-host", &host])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::task::spawn_blocking(move || {
        log.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    let mut until = async |words: &str| {
        while let Some(line) = lines.recv().await {
            if line.contains(words) {
                return line;
            }
        }
        panic!("it never logged {words:?}");
    };
    until("synced: ").await;
    let mut unready = pet(&["10.0.0.1"]);
    unready["endpoints"][0]["conditions"] = serde_json::json!({ "ready": false, "serving": false });
    api.store().apply(unready).unwrap();
    let began = until("no endpoint is ready any more").await;
    assert!(began.contains("WARN") && began.contains("pet.shop: "), "{began}");
    assert!(began.contains("the 1 that were until recently are still served"), "{began}");
    api.store().apply(pet(&["10.0.0.1"])).unwrap();
    let ended = until("there are routable endpoints again").await;
    assert!(ended.contains("INFO") && ended.contains("pet.shop: "), "{ended}");
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    reader.await.unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
