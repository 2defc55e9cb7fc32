//! Headers that come twice: which of them Envoy joins in one line, in requests and in responses.

use serde_json::json;

use super::http1::{Connection, header};
use super::proxy::{Proxy, at, cluster, config, free_port, http, route};
use super::upstream;

/// Headers that mean something to Envoy, and some that do not.
const NAMES: &str = "accept accept-charset accept-encoding accept-language access-control-allow-credentials \
    access-control-allow-headers access-control-allow-methods access-control-allow-origin \
    access-control-expose-headers access-control-max-age access-control-request-headers \
    access-control-request-method age allow authorization b3 cache-control content-disposition \
    content-encoding content-language content-type cookie etag expires from grpc-accept-encoding \
    grpc-message grpc-status grpc-timeout if-match if-modified-since if-none-match if-range \
    if-unmodified-since last-modified link location origin pragma proxy-authenticate proxy-status range \
    referer retry-after set-cookie traceparent trailer user-agent vary via warning www-authenticate \
    x-b3-traceid x-client-trace-id x-envoy-attempt-count x-envoy-degraded \
    x-envoy-downstream-service-cluster x-envoy-downstream-service-node x-envoy-original-host \
    x-envoy-original-path x-envoy-ratelimited x-envoy-upstream-canary \
    x-envoy-upstream-healthchecked-cluster x-forwarded-host x-forwarded-port x-request-id x-unknown";

/// Two values of which one may be empty.
const VALUES: [[&str; 2]; 3] = [["v1", "v2"], ["", "v2"], ["v1", ""]];

fn values(head: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(head).into_owned();
    let each = text.split("\r\n").skip(1).filter_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| format!("{:?}", value.trim()))
    });
    each.collect::<Vec<_>>().join(" ")
}

fn all_found() -> Vec<(String, String)> {
    // The upstream sends the header back as it came, and tells in `seen` how that was.
    let echo = upstream::http1(|head, _, connection| {
        let name = header(head, "name").unwrap_or_default();
        let [one, two] = VALUES[header(head, "which").unwrap_or_default().parse::<usize>().unwrap_or(0)];
        let seen = values(head, &name);
        connection.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{name}: {one}\r\n{name}: {two}\r\nseen: {seen}\r\n\r\n"
        ));
        true
    });
    let port = free_port();
    let listener = http("main", port, &route("echo"), json!({}));
    let _proxy = Proxy::start(&config(&[listener], &[cluster("echo", echo, json!({}))]));
    let mut found = Vec::new();
    for name in NAMES.split_whitespace() {
        for (which, [one, two]) in VALUES.iter().enumerate() {
            let mut client = Connection::new(at(port));
            client.send(format!(
                "GET / HTTP/1.1\r\nhost: here\r\nname: {name}\r\nwhich: {which}\r\n{name}: {one}\r\n{name}: {two}\r\n\r\n"
            ));
            let head = client.until(b"\r\n\r\n").unwrap();
            let seen = header(&head, "seen").unwrap_or_default();
            found.push((
                format!("{name} {one:?} {two:?}"),
                format!("request {seen}, response {}", values(&head, name)),
            ));
        }
    }
    found
}

#[test]
fn repeated_headers_are_joined_as_in_envoy() {
    super::record::compare("repeated", &all_found(), |_, _| None);
}
