//! Every page of the admin interface, with every method and with parameters, over several
//! configurations: petmesh responds as Envoy 1.40 does.
//!
//! `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes the tables in `recorded/`. Texts are compared where
//! both programs can say the same; of JSON the keys are compared, so a value that protobuf leaves
//! out must be left out.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::http2::{self, fields, find};
use super::proxy::{DEADLINE, Proxy, at, cluster, config, free_port, http, merged, route};
use super::record;

/// The pages of Envoy's `/help`, and some that do not exist. The last ones change the server.
const PAGES: &[&str] = &[
    "/",
    "/allocprofiler",
    "/certs",
    "/clusters",
    "/config_dump",
    "/contention",
    "/cpuprofiler",
    "/heap_dump",
    "/heapprofiler",
    "/help",
    "/hot_restart_version",
    "/init_dump",
    "/listeners",
    "/logging",
    "/memory",
    "/memory/tcmalloc",
    "/peak_heap_dump",
    "/ready",
    "/runtime",
    "/server_info",
    "/stats",
    "/stats/prometheus",
    "/stats/recentlookups",
    "/stats/recentlookups/clear",
    "/stats/recentlookups/disable",
    "/stats/recentlookups/enable",
    "/nope",
    "/ready/",
    "/stats/nope",
    "//ready",
    "/reopen_logs",
    "/reset_counters",
    "/runtime_modify",
    "/healthcheck/fail",
    "/healthcheck/ok",
];
const METHODS: &[&str] = &["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"];

/// Parameters of each page, with GET and POST.
const QUERIES: &[(&str, &[&str])] = &[
    ("/allocprofiler", &["enable=n", "enable=x"]),
    ("/clusters", &["format=json", "format=text", "format=nope", "filter=one", "filter=nope&format=json"]),
    (
        "/config_dump",
        &[
            "include_eds",
            "resource=static_clusters",
            "resource=static_listeners",
            "resource=static_endpoint_configs&include_eds",
            "resource=dynamic_active_clusters",
            "resource=nope",
            "mask=bootstrap.node",
            "name_regex=one",
        ],
    ),
    ("/cpuprofiler", &["enable=n", "enable=x"]),
    ("/heapprofiler", &["enable=n", "enable=x"]),
    ("/init_dump", &["mask=listener", "mask=nope"]),
    ("/listeners", &["format=json", "format=text", "format=nope"]),
    (
        "/logging",
        &["level=nope", "nope=info", "paths=x", "paths=main:nope", "group=nope:info", "level=info&x=y"],
    ),
    ("/ready", &["x=y"]),
    ("/runtime_modify", &["a=1", "a=", "=b", "a.c=xyz&b.d=2.5"]),
    ("/runtime", &["format=json"]),
    (
        "/stats",
        &[
            "format=json&filter=nope",
            "format=nope",
            "format=html",
            "type=nope",
            "type=Gauges&filter=server.live",
            "histogram_buckets=nope",
            "histogram_buckets=detailed&filter=nope",
            "histogram_buckets=cumulative&filter=nope",
            "filter=server.live&usedonly",
            "filter=[",
            "format=prometheus&filter=server.live",
            "format=json&histogram_buckets=cumulative&filter=nope",
            "format=json&histogram_buckets=disjoint&filter=nope",
            "format=json&histogram_buckets=detailed&filter=nope",
        ],
    ),
    (
        "/stats/prometheus",
        &[
            "filter=server_live",
            "filter=server.live",
            "usedonly&filter=nope",
            "histogram_buckets=nope",
            "text_readouts&filter=nope",
            "filter=[",
        ],
    ),
];

/// Pages whose text is the program's own.
const OWN_TEXT: &[&str] =
    &["/", "/help", "/logging", "/memory/tcmalloc", "/stats", "/stats/prometheus", "/hot_restart_version"];

fn configurations() -> Vec<(&'static str, Value)> {
    let bare = json!({});
    let node =
        json!({ "node": { "id": "n", "cluster": "c", "locality": { "zone": "z" }, "metadata": { "a": 1 } } });
    let layers = json!({ "layered_runtime": { "layers": [
        { "name": "base", "static_layer": { "a": { "b": 1 }, "c": "x", "d": true, "e": 0 } },
        { "name": "admin", "admin_layer": {} },
    ] } });
    let one = config(
        &[http("main", free_port(), &route("one"), json!({}))],
        &[
            cluster("one", free_port(), json!({})),
            cluster("none", free_port(), json!({ "load_assignment": null })),
            cluster(
                "odd",
                free_port(),
                json!({
                    "alt_stat_name": "other",
                    "outlier_detection": {},
                    "circuit_breakers": { "thresholds": [
                        { "max_connections": 0, "max_requests": 0, "track_remaining": true },
                        { "priority": "HIGH", "max_retries": 0 },
                    ] },
                    "load_assignment": { "cluster_name": "odd", "endpoints": [
                        { "locality": { "region": "r", "zone": "z" }, "priority": 0, "lb_endpoints": [
                            endpoint(json!({ "load_balancing_weight": 5, "health_status": "DRAINING" })),
                            endpoint(json!({ "endpoint": { "hostname": "h" }, "health_status": "UNHEALTHY" })),
                        ] },
                        { "priority": 1, "lb_endpoints": [endpoint(json!({ "health_status": "DEGRADED" }))] },
                    ] },
                }),
            ),
        ],
    );
    vec![("bare", bare), ("full", merged(merged(one, node), layers))]
}

fn endpoint(more: Value) -> Value {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": free_port() } });
    merged(json!({ "endpoint": { "address": address } }), more)
}

/// Status, content type and what can be said of the body.
fn outcome(path: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return format!("no response: {text:?}") };
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(": ")).map_or("-", |(_, value)| value).to_owned()
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    let body = if header("transfer-encoding") == "chunked" { unchunk(body) } else { body.to_owned() };
    let framing = match (header("content-length").as_str(), header("transfer-encoding").as_str()) {
        ("-", "-") => "no length".to_owned(),
        ("-", coding) => coding.to_owned(),
        (length, _) => format!("length {length}"),
    };
    format!("{status} {} {framing} {}", header("content-type"), body_shown(path, status, &body))
}

fn body_shown(path: &str, status: &str, body: &str) -> String {
    let page = path.split('?').next().unwrap_or_default();
    if page.ends_with("heap_dump") && status == "200" {
        return "bytes".to_owned();
    }
    if body.is_empty() {
        return "empty".to_owned();
    }
    if let Ok(json) = serde_json::from_str::<Value>(body)
        && json.is_object()
    {
        let mut keys = BTreeSet::new();
        list_keys(page, "", &json, &mut keys);
        return format!("keys {}", keys.into_iter().collect::<Vec<_>>().join(" "));
    }
    if body.starts_with("invalid path. admin commands are:") {
        return "invalid path".to_owned();
    }
    if status == "200" && OWN_TEXT.contains(&page) {
        return "text".to_owned();
    }
    let mut shown: String = body.chars().take(200).collect();
    if let Some((start, _)) = shown.split_once("re2 regex") {
        shown = start.to_owned();
    }
    if page == "/stats/recentlookups" {
        shown = shown.split("total: ").next().unwrap_or_default().to_owned();
    }
    if page == "/logging" {
        shown.truncate(shown.find("active loggers").unwrap_or(shown.len()));
    }
    if matches!(page, "/clusters" | "/listeners") {
        // The names of the lines, without addresses and numbers.
        let names: BTreeSet<String> = body.lines().map(name_of_line).collect();
        shown = names.into_iter().collect::<Vec<_>>().join(" ");
    }
    format!("{shown:?}")
}

/// `one::127.0.0.1:80::rq_total::0` as `one::_::rq_total`.
fn name_of_line(line: &str) -> String {
    let parts: Vec<&str> = line.split("::").collect();
    let (last, parts) = parts.split_last().unwrap_or((&"", &[]));
    let parts: Vec<&str> = parts.iter().map(|part| if part.contains(':') { "_" } else { part }).collect();
    let known = ["healthy", "true", "false", "-1"];
    let value = if known.contains(last) || last.starts_with("/failed") { last } else { "_" };
    format!("{}::{value}", parts.join("::"))
}

/// The places of all values; what maps have as keys and what only one program can know is left out.
fn list_keys(page: &str, at: &str, value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let own = matches!(
                    (page, name.as_str()),
                    ("/server_info", "command_line_options" | "extensions" | "user_agent_build_version")
                        | ("/config_dump", "extensions" | "user_agent_build_version")
                );
                let here = format!("{at}.{name}");
                if own {
                    keys.insert(here);
                } else {
                    list_keys(page, &here, inner, keys);
                }
            }
            if fields.is_empty() {
                keys.insert(format!("{at}{{}}"));
            }
        }
        Value::Array(items) => {
            for item in items {
                let kind = item.get("@type").or(item.get("priority").filter(|_| at.ends_with("thresholds")));
                let kind = kind.or(item.get("name").filter(|_| page == "/clusters")).and_then(Value::as_str);
                let kind = kind.and_then(|kind| kind.rsplit('.').next()).unwrap_or_default();
                list_keys(page, &format!("{at}[{kind}]"), item, keys);
            }
            if items.is_empty() {
                keys.insert(format!("{at}[]"));
            }
        }
        _ => {
            keys.insert(at.to_owned());
        }
    }
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        out.push_str(rest.get(..size).unwrap_or_default());
        body = rest.get(size..).unwrap_or_default().trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    out
}

fn ask(proxy: &Proxy, method: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(at(proxy.admin())).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    response
}

#[test]
fn every_page_responds_as_envoys_does() {
    let mut found = Vec::new();
    for (name, config) in configurations() {
        let proxy = Proxy::start(&config);
        let mut add = |method: &str, path: &str| {
            let outcome = outcome(path, &ask(&proxy, method, path));
            found.push((format!("{name} {method} {path}"), outcome));
        };
        for page in PAGES {
            METHODS.iter().for_each(|method| add(method, page));
            for query in QUERIES.iter().filter(|(of, _)| of == page).flat_map(|(_, queries)| *queries) {
                ["GET", "POST"].iter().for_each(|method| add(method, &format!("{page}?{query}")));
            }
        }
    }
    record::compare("admin", &found, differs);
}

/// Where petmesh differs: pages that need parts of Envoy, which say so.
fn differs(case: &str, envoys: &str) -> Option<String> {
    let (_, request) = case.split_once(' ')?;
    let (method, path) = request.split_once(' ')?;
    let (page, query) = path.split_once('?').unwrap_or((path, ""));
    let own = |status: u16, text: &str| {
        let (framing, text) = if method == "HEAD" {
            ("no length", "empty".to_owned())
        } else {
            ("chunked", format!("{text:?}"))
        };
        Some(format!("{status} text/plain; charset=UTF-8 {framing} {text}"))
    };
    // The library does not announce a body that it does not send.
    let envoys = if method == "HEAD" { envoys.replace("chunked", "no length") } else { envoys.to_owned() };
    match page {
        "/heap_dump" | "/peak_heap_dump" => own(501, "Heap dumps are not implemented in petmesh.\n"),
        "/memory/tcmalloc" => Some(envoys.replace("text/plain", "text/plain; charset=UTF-8")),
        "/stats/recentlookups/enable" if method == "POST" => {
            own(501, "Lookup tracking is not implemented in petmesh: names are not looked up.\n")
        }
        "/stats" if query.contains("=detailed") => {
            own(501, "These histogram_buckets are not implemented in petmesh: use cumulative.\n")
        }
        _ => Some(envoys),
    }
}

/// A page over HTTP/2, as outcome.
fn ask_http2(proxy: &Proxy, method: &str, path: &str) -> String {
    let mut connection = http2::Connection::client(at(proxy.admin()));
    let request =
        fields(&[(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)]);
    let response = connection.ask(&request).unwrap();
    let kind = find(&response.headers, "content-type").unwrap_or_default();
    let body = String::from_utf8_lossy(&response.body).into_owned();
    format!("{} {kind} {}", response.status(), body_shown(path, &response.status().to_string(), &body))
}

#[test]
fn http2_gets_the_same_pages() {
    let proxy = Proxy::start(&json!({}));
    for (method, path) in [
        ("GET", "/ready"),
        ("HEAD", "/ready"),
        ("GET", "/nope"),
        ("GET", "/logging"),
        ("POST", "/healthcheck/ok"),
    ] {
        let http1 =
            outcome(path, &ask(&proxy, method, path)).replace(" chunked", "").replace(" no length", "");
        assert_eq!(ask_http2(&proxy, method, path), http1, "{method} {path}");
    }
    // Public DNS could make a browser's visitor ask for this.
    let mut connection = http2::Connection::client(at(proxy.admin()));
    let foreign =
        fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "evil.com"), (":path", "/ready")]);
    let status = connection.ask(&foreign).unwrap().status();
    assert_eq!(status, if std::env::var_os("CLIENTS_PROXY").is_some() { 200 } else { 403 });
    assert!(proxy.stat("http.admin.downstream_cx_http2_total") >= 6);
    assert!(proxy.stat("http.admin.downstream_rq_http2_total") >= 6);
}
