//! Requests that a proxy can read in more than one way: what the client sees, and what is logged.
//!
//! `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes the tables anew.

use serde_json::json;

use super::http1;
use super::proxy::{Logs, Proxy, access_log, at, cluster, config, free_port, http, poll, route};
use super::upstream;

/// Requests as bytes, each with its end.
fn requests() -> Vec<String> {
    let post = "POST /p HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut all: Vec<String> = [
        "zz\r\n",
        "-1\r\n",
        "3\r\nabc0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        "\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
    ]
    .iter()
    .map(|chunk| format!("{post}{chunk}"))
    .collect();
    for method in
        ["get", "FOO", "G", "GET ", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "PURGE", "G@T", ""]
    {
        all.push(format!("{method} /m HTTP/1.1\r\nhost: here\r\n\r\n"));
    }
    for version in
        ["HTTP/1.2", "HTTP/2.0", "HTTP/1.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 x", "FTP/1.1", "HTTP/1", ""]
    {
        all.push(format!("GET /v {version}\r\nhost: here\r\n\r\n"));
    }
    for target in [
        "here",
        "//here/x",
        "http://",
        "http:///x",
        "http://other/x?q",
        "ftp://here/x",
        "/a b",
        "/a\tb",
        "?q",
        "",
    ] {
        all.push(format!("GET {target} HTTP/1.1\r\nhost: here\r\n\r\n"));
        all.push(format!("OPTIONS {target} HTTP/1.1\r\nhost: here\r\n\r\n"));
    }
    for target in ["here:80", "here", "/c", "http://here:80/"] {
        all.push(format!("CONNECT {target} HTTP/1.1\r\nhost: here:80\r\n\r\n"));
    }
    for lines in [
        "host: here\r\ncontent-length: x",
        "host: here\r\ncontent-length: 3\r\ncontent-length: 3",
        "host: here\r\ntransfer-encoding: gzip",
        "host: here\r\ntransfer-encoding: chunked\r\ncontent-length: 3",
        "x: y",
        "host: here\r\nx y: z",
        "host: here\r\n: z",
        "host: here\r\nnoname",
        "host: here\r\nx: a\u{1}b",
        "host: here\r\nx: y\r\n folded",
    ] {
        all.push(format!("GET /h HTTP/1.1\r\n{lines}\r\n\r\n"));
    }
    all
}

#[test]
fn requests_that_break_the_grammar_are_answered_and_logged_as_in_envoy() {
    let logs = Logs::new();
    let format = json!(
        "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
         %RESPONSE_CODE_DETAILS%\n"
    );
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for (number, request) in requests().into_iter().enumerate() {
        let (port, name) = (free_port(), format!("l{number}"));
        let manager = json!({
            "access_log": [access_log(&logs.path(&name), &format)], "delayed_close_timeout": "0s",
        });
        listeners.push(http(&name, port, &route("up"), manager));
        cases.push((request, port, name));
    }
    let up = cluster("up", upstream::ok(), json!({}));
    let _proxy = Proxy::start_with(&config(&listeners, &[up]), &["--file-flush-interval-msec", "10"]);
    let mut found = Vec::new();
    for (request, port, name) in cases {
        let mut client = http1::Connection::new(at(port));
        client.send(&request);
        let seen = match client.response() {
            Ok(response) => {
                let close = response.header("connection").unwrap_or_default();
                format!("{} {:?} {close}", response.status, response.text())
            }
            Err(_) => "end".to_owned(),
        };
        let line = poll(super::proxy::DEADLINE, || Some(logs.read(&name)).filter(|text| !text.is_empty()));
        let line = line.unwrap_or_default();
        let line: Vec<&str> = line.lines().collect();
        found.push((format!("{request:?}"), format!("{seen} | {}", line.join(" / "))));
    }
    super::record::compare("lines", &found, |_, _| None);
}

#[test]
fn a_port_in_a_host_is_ignored_as_in_envoy() {
    let direct =
        |status: u16| json!([{ "match": { "prefix": "/" }, "direct_response": { "status": status } }]);
    let mut found = Vec::new();
    for ignores in [false, true] {
        for strip in
            [json!({}), json!({ "strip_any_host_port": true }), json!({ "strip_matching_host_port": true })]
        {
            let port = free_port();
            let mut listener = http("one", port, &direct(200), strip.clone());
            let table = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"];
            table["ignore_port_in_host_matching"] = json!(ignores);
            table["virtual_hosts"] = json!([
                { "name": "exact", "domains": ["here", "[::1]"], "routes": direct(201) },
                { "name": "ends", "domains": ["*.test"], "routes": direct(202) },
                { "name": "begins", "domains": ["begin.*"], "routes": direct(203) },
                { "name": "all", "domains": ["*"], "routes": direct(200) },
            ]);
            let _proxy = Proxy::start(&config(&[listener], &[]));
            for host in [
                "here",
                "HERE",
                "here:80",
                "here:",
                "here:x",
                "here:8x",
                "here:0080",
                "here:99999",
                "here:-1",
                "[::1]",
                "[::1]:80",
                "[::1]:x",
                "a.test:80",
                "a.test:x",
                "begin.x:80",
                "begin.:x",
                ":80",
                ":",
            ] {
                let mut client = http1::Connection::new(at(port));
                client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
                let status = client.response().unwrap_or_default().status;
                found.push((format!("{ignores} {strip} | {host}"), status.to_string()));
            }
        }
    }
    super::record::compare("host-ports", &found, |_, _| None);
}

/// Every method, target, version and framing together: which of several mistakes decides the status.
#[test]
fn of_several_mistakes_the_one_that_envoy_sees_first_decides() {
    const TARGETS: [(&str, &[&str]); 2] = [
        ("GET", &["*", "/", "here", "http:x", "ftp://h/", "/a#f", "http://h:x/"]),
        ("CONNECT", &["here:80", "*", "/", "here"]),
    ];
    const VERSIONS: [&str; 5] = [" HTTP/1.1", " HTTP/1.0", "", " HTTP/2.0", " HTTP/1.2"];
    const LINES: [&str; 9] = [
        "",
        "transfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "content-length: 5\r\n",
        "content-length: x\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "bad\u{1}: x\r\n",
        "no colon\r\n",
    ];
    let port = free_port();
    let direct = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 204 } }]);
    let manager = json!({ "delayed_close_timeout": "0s" });
    let _proxy = Proxy::start(&config(&[http("one", port, &direct, manager)], &[]));
    let mut found = Vec::new();
    for (method, targets) in TARGETS {
        for (target, version) in targets.iter().flat_map(|target| VERSIONS.map(|version| (*target, version)))
        {
            for host in ["host: here\r\n", ""] {
                let statuses = LINES.map(|lines| {
                    let mut client = http1::Connection::new(at(port));
                    client.send(format!("{method} {target}{version}\r\n{host}{lines}\r\n"));
                    client.response().map_or("end".to_owned(), |response| response.status.to_string())
                });
                let with = if host.is_empty() { " without a host" } else { "" };
                found.push((format!("{method} {target}{version}{with}"), statuses.join(" ")));
            }
        }
    }
    super::record::compare("mistakes", &found, |_, _| None);
}
