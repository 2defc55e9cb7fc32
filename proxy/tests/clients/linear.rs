//! Linear work: twice as much input costs at most about twice as much, for every header that is a
//! list, and for paths.
//!
//! What is measured is the CPU time of the process, in nanoseconds, as the kernel's scheduler
//! counts it.

use std::fmt::Write as _;

use serde_json::json;

use super::http1;
use super::injection::report;
use super::proxy::{Proxy, at, cluster, config, free_port, http, router, typed, wait};
use super::upstream;

/// Four times the work for twice the input is quadratic; measured over a fixed cost it is a little
/// less.
const MOST: f64 = 3.0;
const REQUESTS: usize = 4;
const ROUNDS: usize = 3;

/// CPU time of all threads, once they rest: what a running thread has used since the last tick is not counted yet.
fn cpu(proxy: &Proxy) -> Option<u64> {
    let mut last = cpu_now(proxy)?;
    wait("the proxy to rest", || {
        let before = std::mem::replace(&mut last, cpu_now(proxy)?);
        (before == last && rests(proxy)).then_some(())
    });
    // A thread that slept when it was asked for its state may have worked until then.
    cpu_now(proxy)
}

fn rests(proxy: &Proxy) -> bool {
    threads(proxy, "stat").is_some_and(|states| {
        // After the name, which is in parentheses and may have spaces.
        states.iter().all(|state| state.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")))
    })
}

fn cpu_now(proxy: &Proxy) -> Option<u64> {
    threads(proxy, "schedstat")?.iter().map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// A file of each thread.
fn threads(proxy: &Proxy, file: &str) -> Option<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.id())).ok()?;
    tasks.flatten().map(|task| std::fs::read_to_string(task.path().join(file)).ok()).collect()
}

/// Repeats a piece until it has this many bytes.
fn fill(piece: &str, size: usize) -> String {
    piece.repeat(size / piece.len())
}

/// A kind of input: a request of about this many bytes, as one that does as much harm as it can.
type Kind = (&'static str, fn(usize) -> String);

fn with_header(name: &str, value: &str, fields: usize) -> String {
    let mut request = format!("GET / HTTP/1.1\r\nhost: here\r\n{name}: {value}\r\n");
    for at in 0..fields {
        let _ = write!(request, "h-{at}: x\r\n");
    }
    request + "\r\n"
}

fn with_path(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n")
}

/// Every header that is a list, with as many elements and other headers as fit; paths and queries
/// of many parts.
const KINDS: [Kind; 28] = [
    ("connection, names that are absent", |size| with_header("connection", &fill("q,", size), size / 640)),
    ("connection, empty elements", |size| with_header("connection", &fill(",", size), size / 640)),
    ("connection, names that are present", |size| {
        with_header("connection", &fill("h-1,h-2,h-70,", size), size / 640)
    }),
    ("connection, spaces", |size| with_header("connection", &fill(" \t,", size), size / 640)),
    ("connection and upgrade", |size| {
        with_header("upgrade: websocket\r\nconnection", &format!("upgrade,{}", fill("q,", size)), size / 640)
    }),
    ("te", |size| with_header("te", &fill("a,", size), size / 640)),
    ("te with qualities", |size| with_header("te", &fill("trailers;q=0.5,", size), size / 640)),
    ("upgrade", |size| with_header("connection: upgrade\r\nupgrade", &fill("a,", size), size / 640)),
    ("x-forwarded-for", |size| with_header("x-forwarded-for", &fill("1.1.1.1,", size), size / 640)),
    ("x-forwarded-for, no addresses", |size| with_header("x-forwarded-for", &fill(",", size), size / 640)),
    ("cookie", |size| with_header("cookie", &fill("a=b; ", size), size / 640)),
    ("cookie, separators", |size| with_header("cookie", &fill(";", size), size / 640)),
    ("cache-control", |size| with_header("cache-control", &fill("a=1,", size), size / 640)),
    ("accept-encoding", |size| with_header("accept-encoding", &fill("a;q=0,", size), size / 640)),
    ("transfer-encoding", |size| with_header("transfer-encoding", &fill("a,", size), size / 640)),
    ("via", |size| with_header("via", &fill("1.1 a,", size), size / 640)),
    ("expect", |size| with_header("expect", &fill("a,", size), size / 640)),
    ("access-control-request-headers", |size| {
        with_header("origin: http://a\r\naccess-control-request-headers", &fill("a,", size), size / 640)
    }),
    ("x-envoy-retry-on", |size| with_header("x-envoy-retry-on", &fill("5xx,", size), size / 640)),
    ("x-envoy-retriable-header-names", |size| {
        with_header("x-envoy-retriable-header-names", &fill("a,", size), size / 640)
    }),
    ("content-length", |size| with_header("content-length", &fill("0,", size), size / 640)),
    ("traceparent and baggage", |size| with_header("baggage", &fill("a=b,", size), size / 640)),
    ("a field repeated", |size| {
        let fields = "cookie: a=b\r\n".repeat(size / 640);
        with_header("x", &fill("x", size), 0).replacen("x:", &format!("{fields}x:"), 1)
    }),
    ("query parameters", |size| with_path(&format!("/?{}", fill("a=b&", size)))),
    ("query, escapes", |size| with_path(&format!("/?{}", fill("%41=%42&", size)))),
    ("segments", |size| with_path(&fill("/a/../b", size))),
    ("slashes", |size| with_path(&fill("//", size))),
    ("dots up", |size| with_path(&format!("{}{}", fill("/a", size / 2), fill("/..", size / 2)))),
];

/// The least CPU time of some requests of this kind, because disturbances only add to it.
fn cost(proxy: &Proxy, port: u16, request: &str) -> Option<u64> {
    let mut least = None;
    for _ in 0..ROUNDS {
        let before = cpu(proxy)?;
        for _ in 0..REQUESTS {
            let mut client = http1::Connection::new(at(port));
            client.send(request);
            // Refused or forwarded: both are an end of the work.
            let _ = client.response();
        }
        let used = cpu(proxy)? - before;
        least = Some(least.map_or(used, |least: u64| least.min(used)));
    }
    least
}

#[test]
fn twice_the_input_costs_at_most_about_twice_the_work() {
    let up = upstream::ok();
    let port = free_port();
    let operators = ["%QUERY_PARAM(zz)%", "%REQ(connection)%", "%PATH(NQ)%", "%QUERY_PARAMS(ORIG)%"];
    let add: Vec<_> = operators
        .iter()
        .enumerate()
        .map(|(at, value)| json!({ "header": { "key": format!("x-add-{at}"), "value": value } }))
        .collect();
    let parameters = |name: &str| json!({ "name": name, "string_match": { "exact": "1" } });
    let cors = json!({ "envoy.filters.http.cors": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{ "prefix": "http://" }], "allow_headers": "*",
    } });
    let routes = json!([
        { "match": { "prefix": "/", "query_parameters": [parameters("zz"), parameters("yy")] },
          "route": { "cluster": "up" } },
        { "match": { "safe_regex": { "google_re2": {}, "regex": "(/x+)*/y" } }, "route": { "cluster": "up" } },
        { "match": { "prefix": "/" }, "route": { "cluster": "up" }, "request_headers_to_add": add,
          "typed_per_filter_config": cors },
    ]);
    let more = json!({
        "use_remote_address": true, "xff_num_trusted_hops": 3, "normalize_path": true, "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        "common_http_protocol_options": { "max_headers_count": 200 },
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "http_filters": [
            typed("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors", json!({})),
            router(),
        ],
    });
    let proxy = Proxy::start(&config(&[http("one", port, &routes, more)], &[cluster("up", up, json!({}))]));
    if cpu(&proxy).is_none() {
        eprintln!("skipped: this kernel does not tell the CPU time of threads in /proc/*/task/*/schedstat");
        return;
    }
    let mut faults = Vec::new();
    for (name, request) in KINDS {
        let ratio = |large: u64, small: u64| large as f64 / small as f64;
        let (mut small, mut large) = (u64::MAX, u64::MAX);
        // A ratio that disturbance has spoilt is measured again; one that is quadratic stays so.
        for _ in 0..4 {
            small = small.min(cost(&proxy, port, &request(27_000)).unwrap());
            large = large.min(cost(&proxy, port, &request(54_000)).unwrap());
            if ratio(large, small) < MOST {
                break;
            }
        }
        if std::env::var_os("CLIENTS_SHOW").is_some() {
            println!("{name}: {} µs, {} µs", small / 1_000, large / 1_000);
        }
        if ratio(large, small) >= MOST {
            let times = ratio(large, small);
            faults.push(format!("{name}: {times:.1} times, {} and {} µs", small / 1_000, large / 1_000));
        }
    }
    report(&faults, KINDS.len());
}
