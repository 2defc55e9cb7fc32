//! The scheme: what a client says of it, and what the transport is, are two things.
//!
//! The expectations are what Envoy 1.40 does. `CLIENTS_PROXY=envoy CLIENTS_RECORD=1` writes them
//! anew.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::http1;
use super::http2::{self, fields};
use super::proxy::{Proxy, at, cluster, config, free_port, http, route, speaks_http2};
use super::upstream;

/// How a request names its scheme.
const FORMS: [&str; 8] =
    ["origin", "http://", "https://", "ftp://", "h2 http", "h2 https", "h2 ftp", "h2 HTTPS"];
const FORWARDED: [Option<&str>; 4] = [None, Some("http"), Some("https"), Some("ftp")];
const REQUIRE: [&str; 3] = ["NONE", "ALL", "EXTERNAL_ONLY"];

/// Which clients the manager trusts.
fn trusts() -> Vec<(&'static str, Value)> {
    let internal = json!({ "cidr_ranges": [{ "address_prefix": "127.0.0.0", "prefix_len": 8 }] });
    vec![
        ("sidecar", json!({})),
        ("edge", json!({ "use_remote_address": true })),
        ("edge, one hop", json!({ "use_remote_address": true, "xff_num_trusted_hops": 1 })),
        ("sidecar, internal", json!({ "internal_address_config": internal })),
        ("edge, internal", json!({ "use_remote_address": true, "internal_address_config": internal })),
    ]
}

/// Status, redirect, and what the upstream receives.
fn ask(port: u16, form: &str, forwarded: Option<&str>) -> String {
    let mut headers = vec![("x-forwarded-for", "10.9.8.7")];
    headers.extend(forwarded.map(|value| ("x-forwarded-proto", value)));
    let (status, location, said) = if let Some(scheme) = form.strip_prefix("h2 ") {
        let mut request =
            fields(&[(":method", "GET"), (":scheme", scheme), (":authority", "here"), (":path", "/p")]);
        request.extend(fields(&headers));
        let response = http2::Connection::client(at(port)).ask(&request).unwrap_or_default();
        let body = String::from_utf8_lossy(&response.body).into_owned();
        (response.status(), http2::find(&response.headers, "location"), body)
    } else {
        let target = if form == "origin" { "/p".to_owned() } else { format!("{form}here/p") };
        let mut request = format!("GET {target} HTTP/1.1\r\nhost: here\r\n");
        for (name, value) in headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        let mut client = http1::Connection::new(at(port));
        client.send(format!("{request}\r\n"));
        let response = client.response().unwrap_or_default();
        (response.status, response.header("location"), response.text())
    };
    match status {
        200 => said,
        _ => format!("{status} {}", location.unwrap_or_default()).trim().to_owned(),
    }
}

#[test]
fn the_scheme_is_that_of_the_transport_unless_a_trusted_peer_says_otherwise() {
    // A host that speaks HTTP/2, because only HTTP/2 carries a scheme.
    let up = upstream::http2(|request| {
        let find = |name: &str| http2::find(request, name).unwrap_or_default();
        let body = format!("x-forwarded-proto {} :scheme {}", find("x-forwarded-proto"), find(":scheme"));
        (fields(&[(":status", "200")]), body.into_bytes())
    });
    let clusters = [cluster("up", up, speaks_http2(&json!({})))];
    let (mut listeners, mut cases) = (Vec::new(), Vec::new());
    for (trust, more) in trusts() {
        for require in REQUIRE {
            let port = free_port();
            let mut listener = http(&format!("l{port}"), port, &route("up"), more.clone());
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            manager["route_config"]["virtual_hosts"][0]["require_tls"] = json!(require);
            listeners.push(listener);
            for form in FORMS {
                for forwarded in FORWARDED {
                    let said = forwarded.unwrap_or("-");
                    cases.push((format!("{trust} | {require} | {form} | {said}"), port, form, forwarded));
                }
            }
        }
    }
    let _proxy = Proxy::start(&config(&listeners, &clusters));
    let found: Vec<(String, String)> =
        cases.into_iter().map(|(case, port, form, forwarded)| (case, ask(port, form, forwarded))).collect();
    super::record::compare("scheme", &found, |_, _| None);
}
