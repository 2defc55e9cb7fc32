//! Each byte in each place of a request of HTTP/1: petmesh takes what Envoy 1.40 takes, and says of the
//! rest what Envoy says.

use std::collections::BTreeMap;

use serde_json::json;

use super::http1::exchange;
use super::proxy::{Logs, Proxy, access_log, at, config, free_port, http, wait};

const PLACES: &[(&str, &str)] = &[
    ("method", "GE* / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"),
    ("target", "GET /a*b HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"),
    ("name", "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\na*b: x\r\n\r\n"),
    ("end of a name", "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\nab*: x\r\n\r\n"),
    ("value", "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\nname: a*b\r\n\r\n"),
    ("host", "GET / HTTP/1.1\r\nhost: a*b\r\nconnection: close\r\n\r\n"),
    ("length", "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: 0*\r\n\r\n"),
    ("encoding", "GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\ntransfer-encoding: *\r\n\r\n"),
];

/// The bytes as ranges.
fn ranges(bytes: &[u8]) -> String {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for &byte in bytes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == byte => *last = byte,
            _ => ranges.push((byte, byte)),
        }
    }
    let each = ranges.iter().map(|(first, last)| match first == last {
        true => format!("{first:02x}"),
        false => format!("{first:02x}-{last:02x}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// User information in a host is only ever there to deceive (RFC 9110, 4.2.4): it is refused.
fn instead(case: &str, envoys: &str) -> Option<String> {
    (case == "host").then(|| envoys.replace("40-5b", "41-5b").replace("3e-3f", "3e-40"))
}

#[test]
fn each_byte_is_taken_or_refused_as_in_envoy() {
    let logs = Logs::new();
    let port = free_port();
    let format = json!("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n");
    let manager =
        json!({ "access_log": [access_log(&logs.path("log"), &format)], "delayed_close_timeout": "0s" });
    let direct = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    let proxy = Proxy::start_with(
        &config(&[http("one", port, &direct, manager)], &[]),
        &["--file-flush-interval-msec", "10"],
    );
    // One of these ends a line.
    let bytes: Vec<u8> = (0..=u8::MAX).filter(|byte| !b"\r\n".contains(byte)).collect();
    for (_, request) in PLACES {
        for byte in &bytes {
            let star = request.find('*').unwrap();
            let request = [&request.as_bytes()[..star], &[*byte], &request.as_bytes()[star + 1..]].concat();
            let _ = exchange(at(port), &request);
        }
    }
    let expected = PLACES.len() * bytes.len();
    let log = wait("the access log", || {
        let text = logs.read("log");
        (text.matches('\n').count() >= expected).then_some(text)
    });
    drop(proxy);
    let mut lines = log.lines();
    let mut found = Vec::new();
    for (place, _) in PLACES {
        let mut outcomes = BTreeMap::<String, Vec<u8>>::new();
        for byte in &bytes {
            outcomes.entry(lines.next().unwrap().to_owned()).or_default().push(*byte);
        }
        let each = outcomes.iter().map(|(outcome, bytes)| format!("{outcome}: {}", ranges(bytes)));
        found.push(((*place).to_owned(), each.collect::<Vec<_>>().join(" | ")));
    }
    super::record::compare("odd-bytes", &found, instead);
}
