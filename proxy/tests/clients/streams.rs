//! HTTP/2 upstreams: streams stay within the limit of a connection, further ones get another
//! connection or wait in the cluster's queue, and a GOAWAY costs no request.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, GOAWAY, HEADERS, PING, RST_STREAM, fields};
use super::injection::report;
use super::proxy::{Proxy, at, cluster, config, free_port, http, merged, poll, route, speaks_http2, wait};
use super::upstream;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const REFUSED_STREAM: u32 = 7;
/// Two PINGs that follow a GOAWAY.
const FIRST: &[u8; 8] = b"go away!";
const SECOND: &[u8; 8] = b"go away?";

/// One connection to the upstream.
struct Side {
    writer: http2::Connection,
    open: BTreeSet<u32>,
    /// The most streams that were open at a time.
    most: usize,
    last: u32,
    /// Whether the other side has seen our GOAWAY, and what it has begun since.
    warned: bool,
    late: usize,
    closed: bool,
}

#[derive(Default)]
struct State {
    sides: Vec<Side>,
    released: bool,
    /// GOAWAY after this many requests on a connection.
    goaway_after: Option<u32>,
}

/// An upstream that holds every request until the test releases them.
#[derive(Clone)]
struct Upstream {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Upstream {
    /// `limit` is sent in SETTINGS; streams beyond `refuse` are refused.
    fn start(limit: Option<u32>, refuse: Option<usize>) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let port = upstream::raw(move |stream| {
            let _end = serve(stream, &shared, limit, refuse);
        });
        Self { state, port }
    }

    fn open(&self) -> usize {
        self.state.lock().unwrap().sides.iter().map(|side| side.open.len()).sum()
    }

    fn connections(&self) -> usize {
        self.state.lock().unwrap().sides.len()
    }

    fn most(&self) -> usize {
        self.state.lock().unwrap().sides.iter().map(|side| side.most).max().unwrap_or(0)
    }

    fn release(&self) {
        let mut state = self.state.lock().unwrap();
        state.released = true;
        for side in &mut state.sides {
            for stream in std::mem::take(&mut side.open) {
                respond(&mut side.writer, stream);
            }
        }
    }

    /// Sends a GOAWAY that names this last stream, or the last that was seen.
    fn go_away(&self, connection: usize, last: Option<u32>) {
        let mut state = self.state.lock().unwrap();
        let side = &mut state.sides[connection];
        go_away(side, last.unwrap_or(side.last));
    }
}

fn go_away(side: &mut Side, last: u32) {
    let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    let _ = side.writer.send(GOAWAY, 0, 0, &payload);
    let _ = side.writer.send(PING, 0, 0, FIRST);
}

fn respond(writer: &mut http2::Connection, stream: u32) {
    let _ = writer.headers(stream, &fields(&[(":status", "200"), ("content-length", "0")]), true);
}

fn serve(
    stream: TcpStream,
    shared: &Mutex<State>,
    limit: Option<u32>,
    refuse: Option<usize>,
) -> std::io::Result<()> {
    let settings: Vec<(u16, u32)> = limit.map(|limit| (MAX_CONCURRENT_STREAMS, limit)).into_iter().collect();
    let mut connection = http2::Connection::server(stream, &settings)?;
    connection.stream.set_read_timeout(None)?;
    let writer = connection.writer();
    let open = BTreeSet::new();
    let side = Side { writer, open, most: 0, last: 0, warned: false, late: 0, closed: false };
    let at_side = {
        let mut state = shared.lock().unwrap();
        state.sides.push(side);
        state.sides.len() - 1
    };
    loop {
        let frame = match connection.read() {
            Ok(frame) => frame,
            Err(error) => {
                let mut state = shared.lock().unwrap();
                state.sides[at_side].closed = true;
                state.sides[at_side].open.clear();
                return Err(error);
            }
        };
        if frame.kind == HEADERS {
            connection.decode(&frame)?;
        }
        let mut state = shared.lock().unwrap();
        let (released, goaway_after) = (state.released, state.goaway_after);
        let side = &mut state.sides[at_side];
        match frame.kind {
            HEADERS if frame.stream > side.last => {
                side.last = frame.stream;
                side.late += usize::from(side.warned);
                side.most = side.most.max(side.open.len() + 1);
                if refuse.is_some_and(|most| side.open.len() >= most) {
                    side.writer.reset(frame.stream, REFUSED_STREAM);
                } else if released {
                    respond(&mut side.writer, frame.stream);
                    if goaway_after.is_some_and(|after| frame.stream == 2 * after - 1) {
                        go_away(side, 0x7fff_ffff);
                    }
                } else {
                    side.open.insert(frame.stream);
                }
            }
            RST_STREAM => {
                side.open.remove(&frame.stream);
            }
            // What was on its way out with the first acknowledgement has come with the second.
            PING if frame.flags & http2::ACK != 0 && frame.payload == FIRST => {
                let _ = side.writer.send(PING, 0, 0, SECOND);
            }
            PING if frame.flags & http2::ACK != 0 => side.warned = true,
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Settings,
    Cluster,
}

#[derive(Clone, Debug)]
struct Case {
    by: By,
    limit: u32,
    /// Whether the client speaks HTTP/2 too.
    both: bool,
    name: String,
    port: u16,
    up: Upstream,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "upstream {}", self.port)
    }
}

/// A request that is held: it ends with the status of its response.
type Held = JoinHandle<u16>;

fn ask(port: u16, both: bool) -> Held {
    std::thread::spawn(move || {
        if both {
            let mut client = http2::Connection::client(at(port));
            return client.ask(&http2::get("/")).map_or(0, |response| response.status());
        }
        http1::Connection::new(at(port)).get("/").map_or(0, |response| response.status)
    })
}

/// Several requests; those of a client that speaks HTTP/2 are streams of one connection.
fn ask_many(port: u16, both: bool, count: usize) -> Vec<Held> {
    if !both {
        return (0..count).map(|_| ask(port, false)).collect();
    }
    let all = std::thread::spawn(move || {
        let mut client = http2::Connection::client(at(port));
        let streams: Vec<u32> = (0..count).map(|_| client.request(&http2::get("/"), true)).collect();
        let mut statuses = std::collections::BTreeMap::new();
        while statuses.len() < count {
            let Ok(frame) = client.read() else { break };
            if frame.kind == HEADERS {
                let Ok(fields) = client.decode(&frame) else { break };
                let status = http2::find(&fields, ":status").and_then(|status| status.parse().ok());
                statuses.entry(frame.stream).or_insert(status.unwrap_or(0));
            } else if frame.kind == RST_STREAM {
                statuses.entry(frame.stream).or_insert(1);
            }
        }
        streams.iter().map(|stream| statuses.get(stream).copied().unwrap_or(0)).collect::<Vec<u16>>()
    });
    let all = Arc::new(Mutex::new(Some(all)));
    let results: Arc<Mutex<Vec<u16>>> = Arc::default();
    let each = (0..count).map(|at| {
        let (all, results) = (Arc::clone(&all), Arc::clone(&results));
        std::thread::spawn(move || {
            let mut results = results.lock().unwrap();
            if let Some(all) = all.lock().unwrap().take() {
                *results = all.join().unwrap();
            }
            results.get(at).copied().unwrap_or(0)
        })
    });
    each.collect()
}

fn statuses(held: Vec<Held>) -> Vec<u16> {
    held.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Limits 1, 2 and 3, told by the peer or by the cluster, for clients of both versions.
fn cases(refuse: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for by in [By::Settings, By::Cluster] {
        for limit in 1..=3 {
            for both in [false, true] {
                let told = (by == By::Settings).then_some(limit);
                let most = refuse.then(|| usize::try_from(limit).unwrap());
                let name = format!("{by:?}-{limit}-{both}").to_lowercase();
                let up = Upstream::start(told, most);
                cases.push(Case { by, limit, both, name, port: free_port(), up });
            }
        }
    }
    cases
}

fn start(cases: &[Case], breaker: &Value, action: &Value) -> Proxy {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for case in cases {
        let mut routes = route(&case.name);
        super::proxy::merge(&mut routes[0]["route"], action.clone());
        listeners.push(http(&case.name, case.port, &routes, json!({})));
        let options = match case.by {
            By::Settings => json!({}),
            By::Cluster => json!({ "max_concurrent_streams": case.limit }),
        };
        let more = json!({ "circuit_breakers": { "thresholds": [breaker] } });
        clusters.push(cluster(&case.name, case.up.port, merged(speaks_http2(&options), more)));
    }
    Proxy::start(&config(&listeners, &clusters))
}

/// Runs all cases at the same time; their faults.
fn in_parallel(cases: &[Case], run: impl Fn(&Case, &mut Vec<String>) + Sync) -> Vec<String> {
    std::thread::scope(|scope| {
        let each: Vec<_> = cases
            .iter()
            .map(|case| {
                let run = &run;
                scope.spawn(move || {
                    let mut faults = Vec::new();
                    run(case, &mut faults);
                    faults
                })
            })
            .collect();
        each.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// One request that is over, after which the peer's SETTINGS are known.
fn warm(case: &Case) -> u16 {
    let held = ask(case.port, false);
    wait("the first request", || (case.up.open() == 1).then_some(()));
    case.up.release();
    case.up.state.lock().unwrap().released = false;
    held.join().unwrap()
}

#[test]
fn streams_beyond_the_limit_of_a_connection_get_another_connection() {
    let cases = cases(false);
    let _proxy = start(&cases, &json!({}), &json!({}));
    let faults = in_parallel(&cases, |case, faults| {
        if case.by == By::Settings && warm(case) != 200 {
            faults.push(format!("{}: the first request fails", case.name));
        }
        let count = usize::try_from(case.limit).unwrap() * 2 + 1;
        let held = ask_many(case.port, case.both, count);
        let come = poll(super::proxy::DEADLINE / 4, || (case.up.open() == count).then_some(()));
        if come.is_none() {
            faults.push(format!("{}: {} of {count} requests reach the upstream", case.name, case.up.open()));
        }
        let (connections, most) = (case.up.connections(), case.up.most());
        if connections != 3 {
            faults.push(format!("{}: {connections} connections for {count} requests, not 3", case.name));
        }
        if most > usize::try_from(case.limit).unwrap() {
            faults.push(format!("{}: {most} streams on a connection", case.name));
        }
        case.up.release();
        let statuses = statuses(held);
        if statuses.iter().any(|status| *status != 200) {
            faults.push(format!("{}: {statuses:?}", case.name));
        }
    });
    report(&faults, cases.len());
}

#[test]
fn streams_that_a_new_connection_refuses_are_sent_again() {
    let cases: Vec<Case> = cases(true).into_iter().filter(|case| case.by == By::Settings).collect();
    let retry = json!({ "retry_policy": { "retry_on": "refused-stream", "num_retries": 5 } });
    let _proxy = start(&cases, &json!({ "max_retries": 100 }), &retry);
    let faults = in_parallel(&cases, |case, faults| {
        // From cold: the limit becomes known with the first connection.
        let held = ask_many(case.port, case.both, 7);
        if poll(super::proxy::DEADLINE / 4, || (case.up.open() == 7).then_some(())).is_none() {
            faults.push(format!("{}: {} of 7 requests reach the upstream", case.name, case.up.open()));
        }
        case.up.release();
        let statuses = statuses(held);
        if statuses.iter().any(|status| *status != 200) {
            faults.push(format!("{}: {statuses:?}", case.name));
        }
    });
    report(&faults, cases.len());
}

#[test]
fn beyond_max_connections_requests_wait_and_beyond_max_pending_requests_they_fail() {
    let cases: Vec<Case> = cases(false).into_iter().filter(|case| case.limit < 3).collect();
    let breaker = json!({ "max_connections": 2, "max_pending_requests": 3 });
    let proxy = start(&cases, &breaker, &json!({}));
    let faults = in_parallel(&cases, |case, faults| {
        if case.by == By::Settings && warm(case) != 200 {
            faults.push(format!("{}: the first request fails", case.name));
        }
        let may = usize::try_from(case.limit).unwrap() * 2;
        // The queue also holds what waits for a connection to open, so those come first and one by
        // one.
        let mut held = Vec::new();
        for number in 1..=may {
            held.extend(ask_many(case.port, case.both, 1));
            if poll(super::proxy::DEADLINE / 8, || (case.up.open() == number).then_some(())).is_none() {
                faults.push(format!("{}: {} of {number} are carried", case.name, case.up.open()));
            }
        }
        held.extend(ask_many(case.port, case.both, 3));
        let pending = format!("cluster.{}.upstream_rq_pending_active", case.name);
        if poll(super::proxy::DEADLINE / 8, || (proxy.stat(&pending) == 3).then_some(())).is_none() {
            faults.push(format!("{}: {} wait instead of 3", case.name, proxy.stat(&pending)));
            case.up.release();
            drop(statuses(held));
            return;
        }
        let mut over = http1::Connection::new(at(case.port));
        let response = over.get("/").unwrap_or_default();
        if (response.status, response.header("x-envoy-overloaded").as_deref()) != (503, Some("true")) {
            faults.push(format!("{}: one more gets {}", case.name, response.status));
        }
        let overflow = format!("cluster.{}.upstream_rq_pending_overflow", case.name);
        if proxy.stat(&overflow) != 1 {
            faults.push(format!("{overflow} is {}", proxy.stat(&overflow)));
        }
        if case.up.connections() > 2 || case.up.open() > may {
            faults.push(format!(
                "{}: {} connections, {} streams",
                case.name,
                case.up.connections(),
                case.up.open()
            ));
        }
        case.up.release();
        let statuses = statuses(held);
        if statuses.iter().any(|status| *status != 200) {
            faults.push(format!("{}: {statuses:?}", case.name));
        }
    });
    report(&faults, cases.len());
}

#[test]
fn goaway_moves_new_streams_to_another_connection_and_loses_none() {
    let cases = cases(false);
    let retry = json!({ "retry_policy": { "retry_on": "refused-stream,reset", "num_retries": 3 } });
    let _proxy = start(&cases, &json!({}), &retry);
    let faults = in_parallel(&cases, |case, faults| {
        if case.by == By::Settings && warm(case) != 200 {
            faults.push(format!("{}: the first request fails", case.name));
        }
        let first = usize::try_from(case.limit).unwrap();
        let mut held = ask_many(case.port, case.both, first);
        if poll(super::proxy::DEADLINE / 8, || (case.up.open() == first).then_some(())).is_none() {
            faults.push(format!("{}: {} of {first} are carried", case.name, case.up.open()));
        }
        case.up.go_away(0, None);
        let warned = || case.up.state.lock().unwrap().sides[0].warned.then_some(());
        if poll(super::proxy::DEADLINE / 8, warned).is_none() {
            faults.push(format!("{}: PING is not acknowledged", case.name));
        }
        held.extend(ask_many(case.port, case.both, first));
        if poll(super::proxy::DEADLINE / 8, || (case.up.open() == 2 * first).then_some(())).is_none() {
            faults.push(format!("{}: {} of {} after GOAWAY", case.name, case.up.open(), 2 * first));
        }
        let late = case.up.state.lock().unwrap().sides[0].late;
        if late > 0 {
            faults.push(format!("{}: {late} streams begin after GOAWAY", case.name));
        }
        // The second one has processed nothing: all of it is to be sent again.
        if case.up.connections() > 1 {
            case.up.state.lock().unwrap().sides[1].open.clear();
            case.up.go_away(1, Some(0));
            poll(super::proxy::DEADLINE / 8, || (case.up.open() == 2 * first).then_some(()));
        }
        case.up.release();
        let statuses = statuses(held);
        if statuses.iter().any(|status| *status != 200) {
            faults.push(format!("{}: {statuses:?}", case.name));
        }
    });
    report(&faults, cases.len());
}

#[test]
fn a_server_that_renews_its_connections_loses_no_request() {
    let cases = cases(false);
    let proxy = start(&cases, &json!({}), &json!({}));
    let mut faults = in_parallel(&cases, |case, faults| {
        {
            let mut state = case.up.state.lock().unwrap();
            state.released = true;
            state.goaway_after = Some(3);
        }
        let all: Vec<u16> = (0..5).flat_map(|_| statuses(ask_many(case.port, case.both, 8))).collect();
        let lost = all.iter().filter(|status| **status != 200).count();
        let state = case.up.state.lock().unwrap();
        let late: usize = state.sides.iter().map(|side| side.late).sum();
        if lost + late > 0 || state.sides.len() < 3 {
            let connections = state.sides.len();
            faults.push(format!("{}: {lost} lost, {late} late, {connections} connections", case.name));
        }
    });
    // What was told to go away is closed once it is idle.
    let left = poll(super::proxy::DEADLINE / 4, || {
        let stats = proxy.stats();
        cases
            .iter()
            .all(|case| {
                stats.get(&format!("cluster.{}.upstream_cx_active", case.name)).is_some_and(|open| *open <= 8)
            })
            .then_some(())
    });
    if left.is_none() {
        faults.push("connections stay open after GOAWAY".to_owned());
    }
    report(&faults, cases.len());
}
