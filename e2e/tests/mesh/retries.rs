//! Retries do not multiply: one proxy a hop retries, and within a budget.

use std::net::SocketAddr;
use std::time::Duration;

use e2e::alone::{Alone, Behaviour, Host};
use e2e::{Capability, Connections, Load, Report, http, skipped};
use local_mesh::plan;
use serde_json::{Value, json};

/// The first attempt and two retries: what the hop before a host that breaks may make of one request.
const ATTEMPTS: usize = 3;

/// Requests per second while hosts break.
const RATE: u32 = 150;

/// How long a host takes to break: with it some sixty requests are under way.
const BREAKS_AFTER: Duration = Duration::from_millis(400);

/// How long the load lasts.
const LOAD: Duration = Duration::from_secs(4);

async fn resetting() -> Host {
    Host::start(Behaviour::Reset(Duration::ZERO)).await
}

#[tokio::test]
async fn a_request_to_an_app_that_always_breaks_is_attempted_once_a_hop() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let app = resetting().await;
    let sidecar = Alone::start("pet", &[("local_service", &[app.address])], |_| {}).await;
    let pets = [sidecar.listener(plan::INBOUND)];
    let edge = Alone::start("ingress", &[("pet", &pets)], |_| {}).await;
    let answer = get(edge.listener(plan::INBOUND), "edge", "/pet/pets?petStoreId=2").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(app.lines().len(), 1, "{:?}", app.lines());
}

#[tokio::test]
async fn hops_do_not_repeat_each_others_retries() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    // Three pets, so that each attempt could go to another one; petstore calls one of them for each request.
    let pets = [resetting().await, resetting().await, resetting().await];
    let addresses: Vec<SocketAddr> = pets.iter().map(|pet| pet.address).collect();
    let sidecar = Alone::start("petstore", &[("pet", &addresses)], |tree| {
        // The app is a second hop through the same proxy: what arrives from outside goes out to pet.
        let own = clone_address(tree, "outbound");
        for cluster in tree["static_resources"]["clusters"].as_array_mut().unwrap() {
            if cluster["name"].as_str().is_some_and(|name| name.starts_with("local_service")) {
                let host = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
                host["address"] = own.clone();
            }
        }
        let inbound = &mut tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
        let hosts = &mut inbound["typed_config"]["route_config"]["virtual_hosts"][0];
        for route in hosts["routes"].as_array_mut().unwrap() {
            route["route"]["host_rewrite_literal"] = "pet".into();
        }
    })
    .await;
    let petstores = [sidecar.listener(plan::INBOUND)];
    let edge = Alone::start("ingress", &[("petstore", &petstores)], |_| {}).await;
    let answer = get(edge.listener(plan::INBOUND), "edge", "/petstore/petstore/2?includePets=true").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    let attempts: usize = pets.iter().map(|pet| pet.lines().len()).sum();
    assert_eq!(attempts, ATTEMPTS, "the proxy that picks the pet retries, and nobody else");
}

#[tokio::test]
async fn a_write_is_never_sent_again() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let pets = [resetting().await, resetting().await];
    let addresses: Vec<SocketAddr> = pets.iter().map(|pet| pet.address).collect();
    let edge = Alone::start("ingress", &[("pet", &addresses)], |_| {}).await;
    let answer = http::post(edge.listener(plan::INBOUND), "edge", "/pet/pets").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(pets.iter().map(|pet| pet.lines().len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    for (service, cluster, path) in
        [("ingress", "pet", "/pet/pets"), ("petstore", "pet", "/pets"), ("pet", "petstore", "/petstore/2")]
    {
        let (report, attempts) = under_load(service, cluster, path, |_| {}).await;
        println!("{service}: {attempts} attempts for {} requests", report.sent);
        // 40 retries at a time, each for 400 ms, are 100 a second beside 150 requests.
        assert!(attempts * 5 <= report.sent * 9, "{service}: {attempts} attempts for {report}");
        assert!(attempts > report.sent, "{service}: nothing was retried: {attempts} attempts for {report}");
    }
}

#[tokio::test]
async fn retries_without_a_budget_multiply_the_load() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let (report, attempts) = under_load("ingress", "pet", "/pet/pets", |tree| {
        for cluster in tree["static_resources"]["clusters"].as_array_mut().unwrap() {
            cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_retries": 100 }] });
        }
    })
    .await;
    assert!(attempts > report.sent * 2, "without its protection the test cannot fail: it proves nothing");
}

/// What a proxy makes of a load whose hosts all break, and the number of its attempts.
async fn under_load(
    service: &str,
    cluster: &str,
    path: &str,
    edit: impl Fn(&mut Value) + Sync,
) -> (Report, u64) {
    let hosts = [
        Host::start(Behaviour::Reset(BREAKS_AFTER)).await,
        Host::start(Behaviour::Reset(BREAKS_AFTER)).await,
    ];
    let addresses = [hosts[0].address, hosts[1].address];
    let proxy = Alone::start(service, &[(cluster, &addresses)], |tree| {
        // The load names its own address in `Host`; an app would name the service.
        named(tree, cluster);
        edit(tree);
    })
    .await;
    let port = if service == "ingress" { plan::INBOUND } else { plan::OUTBOUND };
    let load = Load {
        address: proxy.listener(port),
        path: path.to_owned(),
        expected: "nothing".to_owned(),
        rate: RATE,
        connections: Connections::Kept,
    };
    let load = load.start();
    tokio::time::sleep(LOAD).await;
    let report = load.finish().await;
    report.assert_whole();
    let attempts = hosts.iter().map(|host| host.lines().len() as u64).sum();
    (report, attempts)
}

/// Routes by `cluster_header` lead to one cluster.
fn named(tree: &mut Value, cluster: &str) {
    match tree {
        Value::Object(fields) => {
            if fields.remove("cluster_header").is_some() {
                fields.insert("cluster".to_owned(), cluster.into());
            }
            fields.values_mut().for_each(|value| named(value, cluster));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| named(item, cluster)),
        _ => {}
    }
}

fn clone_address(tree: &Value, listener: &str) -> Value {
    let listeners = tree["static_resources"]["listeners"].as_array().unwrap();
    listeners.iter().find(|found| found["name"] == listener).unwrap()["address"].clone()
}

async fn get(address: SocketAddr, host: &str, path: &str) -> http::Answer {
    http::get(address, host, path, &[]).await.unwrap()
}
