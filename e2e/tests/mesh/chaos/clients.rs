//! Many clients that want nothing, and many that are slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::chaos::CALM;
use e2e::{Case, Mesh, Setup};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// They connect and say nothing: many more than the ingress holds. The longest idle make way for
/// those that have a request.
const IDLE: usize = 10_000;

/// They send one byte of their headers each second.
const SLOW: usize = 1_000;

/// At the same moment.
const CONNECTING: usize = 100;

/// Longer than the ingress waits for the headers of a request.
const STAY: Duration = Duration::from_secs(15);

#[tokio::test]
async fn thousands_of_idle_clients_and_a_thousand_slow_ones_cost_nothing() {
    crowd(None, false).await;
}

#[tokio::test]
async fn slow_clients_stay_for_ever_where_headers_may_take_any_time() {
    crowd(Some(any_time), true).await;
}

async fn crowd(edit: Option<fn(&mut Value)>, twin: bool) {
    if e2e::chaos::is_left_to_the_long_half() {
        return;
    }
    raise_the_limit_of_files();
    let mesh = Mesh::with(&Setup { edit, ..Setup::default() }).await;
    let mut case = Case::begin("10,000 idle clients and 1,000 slow ones", &mesh).await;
    case.fault_begins();
    let ended = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    let idle = connect(mesh.ingress(), IDLE).await;
    for stream in connect(mesh.ingress(), SLOW).await {
        clients.spawn(slow(stream, ended.clone()));
    }
    tokio::time::sleep(STAY).await;
    let sent_away = ended.load(Ordering::Relaxed);
    println!("{} idle clients, {sent_away} of {SLOW} slow ones sent away", idle.len());
    if twin {
        assert_eq!(sent_away, 0, "without its protection the ingress keeps slow clients");
    } else {
        let made_way = made_way(&mesh).await;
        assert!(made_way >= IDLE / 2, "{made_way} idle clients have made way");
        mesh.until("every slow client is sent away", async || ended.load(Ordering::Relaxed) == SLOW).await;
    }
    drop(idle);
    clients.shutdown().await;
    case.fault_ends();
    tokio::time::sleep(CALM).await;
    assert_eq!(mesh.get(local_mesh::END_TO_END).await.status, 200);
    case.recovered();
    let seen = if twin { case.end_twin(&mesh).await } else { case.end(&mesh).await };
    seen.assert_none_lost();
    mesh.down().await;
}

/// Connections that the ingress has closed because they were idle.
async fn made_way(mesh: &Mesh) -> usize {
    let pod = mesh.pod("ingress", 1).await;
    let stats = mesh.admin(&pod, "/stats?filter=http.ingress.downstream_cx_idle_timeout").await;
    stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<usize>().ok()).sum()
}

/// The ingress has a timeout for request headers of its own; none is asked for in words. Nor does
/// anyone have to make way.
fn any_time(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            if fields.contains_key("envoy.resource_limits.listener.probes.connection_limit") {
                fields.insert(
                    "envoy.resource_limits.listener.ingress.connection_limit".to_owned(),
                    (2 * IDLE).into(),
                );
            }
            fields.entry("max_active_downstream_connections").and_modify(|limit| *limit = (2 * IDLE).into());
            fields.entry("request_headers_timeout").and_modify(|timeout| *timeout = "0s".into());
            fields.values_mut().for_each(any_time);
        }
        Value::Array(items) => items.iter_mut().for_each(any_time),
        _ => {}
    }
}

/// Opens connections, some at a time, so that none is refused for a full queue.
async fn connect(address: SocketAddr, number: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(number);
    while streams.len() < number {
        let some = (number - streams.len()).min(CONNECTING);
        let some = (0..some).map(|_| TcpStream::connect(address));
        for stream in futures_util::future::join_all(some).await {
            streams.push(stream.expect("the ingress accepts connections"));
        }
    }
    streams
}

/// Sends headers that do not end, until the server does not want them any more.
async fn slow(mut stream: TcpStream, ended: Arc<AtomicUsize>) {
    let mut byte = [0];
    if stream.write_all(b"GET / HTTP/1.1\r\nhost: slow\r\nx-slow: ").await.is_ok() {
        // Whatever the server says is that it has had enough.
        while tokio::time::timeout(Duration::from_secs(1), stream.read(&mut byte)).await.is_err() {
            if stream.write_all(b"a").await.is_err() {
                break;
            }
        }
    }
    ended.fetch_add(1, Ordering::Relaxed);
}

/// For this process and what it starts.
fn raise_the_limit_of_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = IDLE + SLOW + 2_000;
    let enough = limit.maximum.is_none_or(|hard| hard >= wanted as u64);
    assert!(enough, "{wanted} open files are needed, at most {:?} are allowed: ulimit -Hn", limit.maximum);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
}
