//! The edge passes on what is meant for the outside, however a request spells something else.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use e2e::alone::{Alone, Behaviour, Host};
use e2e::{Capability, http, skipped};
use local_mesh::plan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is inside: of the apps and of the proxies.
const INTERNAL: [&str; 9] = [
    "/pet/health/503",
    "/pet/health",
    "/pet/readyz",
    "/pet/livez",
    "/pet/openapi.json",
    "/petstore/health/503",
    "/petstore/readyz",
    "/petstore/openapi.json",
    "/stats/prometheus",
];

/// What may arrive at an app: the public paths, as its router compares them.
fn is_public(line: &str) -> bool {
    let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let store = path.strip_prefix("/petstore/");
    path == "/pets" || store.is_some_and(|id| !id.is_empty() && !id.contains('/') && !id.contains("%2"))
}

/// Other spellings of a path: each change at each place, and changes of changes.
fn spellings(path: &str) -> Vec<String> {
    let once = changed(path);
    let mut all: BTreeSet<String> = once.iter().cloned().collect();
    // Every second change of every seventh first one: some thousands.
    all.extend(once.iter().step_by(7).flat_map(|first| changed(first).into_iter().skip(1).step_by(2)));
    // Through what is public, and back.
    let inner = path.splitn(3, '/').nth(2).unwrap_or_default();
    for up in ["..", "%2e%2e", "%2E.", "..;", "..;a=b", "%252e%252e", "..%2f", "..%5c", "..\\"] {
        for public in ["/pet/pets", "/petstore/petstore/2", "/petstore/petstore"] {
            all.extend([format!("{public}/{up}/{inner}"), format!("{public}/{up}/{up}/{inner}")]);
        }
    }
    all.insert(path.to_owned());
    all.into_iter().collect()
}

fn changed(path: &str) -> Vec<String> {
    let mut all = vec![
        path.to_uppercase(),
        format!("/{path}"),
        format!("http://127.0.0.1{path}"),
        format!("http://127.0.0.1/pet/pets#{path}"),
    ];
    let at = |at: usize, put: &str, skip: usize| format!("{}{put}{}", &path[..at], &path[at + skip..]);
    for end in ["/", "/.", ";", ";a=b", "?", "?a=/pets", "#", "#/pets", "%00", "%20", "%23", "%3f", "."] {
        all.push(format!("{path}{end}"));
    }
    for (index, byte) in path.bytes().enumerate() {
        all.push(at(index, &format!("%{byte:02x}"), 1));
        all.push(at(index, &format!("%{byte:02X}"), 1));
        all.push(at(index, &format!("%25{byte:02x}"), 1));
        if byte.is_ascii_alphabetic() {
            all.push(at(index, &char::from(byte).to_uppercase().to_string(), 1));
        }
        if byte == b'/' {
            for slash in ["//", "///", "/./", "/x/../", "/%2e/", "/;/", ";/", "\\", "%2f", "%5c", "/%2f"] {
                all.push(at(index, slash, 1));
            }
        }
    }
    all
}

async fn edge() -> (Alone, Host) {
    let host = Host::start(Behaviour::Respond).await;
    let hosts = [host.address];
    let edge = Alone::start("ingress", &[("pet", &hosts), ("petstore", &hosts)], |_| {}).await;
    (edge, host)
}

#[tokio::test]
async fn what_is_inside_is_not_reached_by_any_spelling() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let (edge, host) = edge().await;
    let address = edge.listener(plan::INBOUND);
    let mut sent = 0;
    for path in INTERNAL {
        for spelled in spellings(path) {
            sent += 1;
            let status = raw(address, &spelled).await;
            assert_ne!(status, None, "{spelled}: the edge must respond");
            let arrived = host.lines();
            let passed = arrived.iter().find(|line| !is_public(line));
            assert_eq!(passed, None, "{spelled} reaches the inside");
            if spelled == path {
                assert_eq!(status, Some(404), "{path}");
            }
        }
    }
    assert!(sent > 5000, "{sent} spellings");
}

#[tokio::test]
async fn what_is_inside_is_not_reached_over_http2() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let (edge, host) = edge().await;
    let stream = TcpStream::connect(edge.listener(plan::INBOUND)).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for spelled in INTERNAL.iter().flat_map(|path| spellings(path)) {
        // What this client refuses to send cannot be tried with it.
        let uri = ::http::Uri::builder().scheme("http").authority("edge").path_and_query(spelled.as_str());
        let Ok(uri) = uri.build() else { continue };
        let request = ::http::Request::post(uri).version(::http::Version::HTTP_2).body(()).unwrap();
        sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        // A request that is refused as malformed may end its stream.
        let _ = response.await;
        let arrived = host.lines();
        assert_eq!(arrived.iter().find(|line| !is_public(line)), None, "{spelled} reaches the inside");
    }
}

#[tokio::test]
async fn what_is_public_arrives_rewritten() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let (edge, host) = edge().await;
    let address = edge.listener(plan::INBOUND);
    for (path, arrives) in [
        ("/pet/pets?petStoreId=2", "GET /pets?petStoreId=2 HTTP/1.1"),
        ("/petstore/petstore/2?includePets=true", "GET /petstore/2?includePets=true HTTP/1.1"),
        ("/petstore//petstore/./2", "GET /petstore/2 HTTP/1.1"),
        ("/petstore/petstore/none", "GET /petstore/none HTTP/1.1"),
    ] {
        let answer = http::get(address, "edge", path, &[]).await.unwrap();
        assert_eq!((answer.status, host.lines().pop().as_deref()), (200, Some(arrives)), "{path}");
    }
}

#[tokio::test]
async fn probes_and_scrapers_have_a_listener_of_their_own() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let (edge, _host) = edge().await;
    for (path, status) in [("/ready", 200), ("/stats/prometheus", 200), ("/", 404), ("/config_dump", 404)] {
        let answer = http::get(edge.listener(plan::PROBES), "edge", path, &[]).await.unwrap();
        assert_eq!(answer.status, status, "{path}");
    }
}

/// The shipped listeners serve clusters of either address family.
#[tokio::test]
async fn listeners_serve_both_address_families() {
    if skipped(&[Capability::CommandLine]) {
        return;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = Host::start(Behaviour::Respond).await;
    for service in ["ingress", "petstore", "pet"] {
        let shipped = xds::read_bootstrap(service, &e2e::config::text(service, None));
        let tree = xds::to_json(&shipped.unwrap_or_else(|found| panic!("{found:?}")).message);
        let listeners = tree["static_resources"]["listeners"].as_array().unwrap();
        for listener in listeners.iter().filter(|listener| listener["traffic_direction"] == "INBOUND") {
            let socket = &listener["address"]["socket_address"];
            assert_eq!(
                (&socket["address"], &socket["ipv4_compat"]),
                (&"::".into(), &true.into()),
                "{service}"
            );
        }
    }
    let _edge = Alone::start("ingress", &[("pet", &[host.address])], |tree| {
        let socket = &mut tree["static_resources"]["listeners"][0]["address"]["socket_address"];
        socket["address"] = "::".into();
        socket["port_value"] = free.into();
    })
    .await;
    let mut families = vec![SocketAddr::from(([127, 0, 0, 1], free))];
    let loopback = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, free));
    // A machine may have no IPv6 address.
    if std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok() {
        families.push(loopback);
    }
    for address in families {
        assert_eq!(http::get(address, "edge", "/pet/pets", &[]).await.unwrap().status, 200, "{address}");
    }
}

/// The status of a request whose target is sent as it is; none without a response.
async fn raw(address: SocketAddr, target: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("POST {target} HTTP/1.1\r\nhost: edge\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    let line = String::from_utf8_lossy(&response).lines().next()?.to_owned();
    line.split(' ').nth(1)?.parse().ok()
}
