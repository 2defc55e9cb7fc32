//! What is accepted, refused and rewritten of heads: the conformance notes line by line, and properties.

use proptest::prelude::*;

use super::super::body::Framing;
use super::super::encode::RespondingTo;
use super::super::head::{self, Asked, Parsed, RequestMeta, ResponseMeta};
use super::super::{EncodeOptions, HeadLimits, Malformed, ServerOptions, encode};
use crate::message::{
    Authority, FieldNameBuf, FieldValue, Known, Method, Path, RequestHead, ResponseHead, Version,
};

fn read(text: &str) -> Result<(RequestHead, RequestMeta), Malformed> {
    read_with(text.as_bytes(), &ServerOptions::default())
}

fn read_with(bytes: &[u8], options: &ServerOptions) -> Result<(RequestHead, RequestMeta), Malformed> {
    let mut head = RequestHead::default();
    let (parsed, meta) = head::request(bytes, &mut head, options, HeadLimits::default())?;
    assert_eq!(parsed, Parsed::Complete(bytes.len()));
    Ok((head, meta))
}

fn get(lines: &str) -> Result<(RequestHead, RequestMeta), Malformed> {
    read(&format!("GET / HTTP/1.1\r\nhost: a.test\r\n{lines}\r\n"))
}

fn refused(text: &str) -> u16 {
    read(text).unwrap_err().refusal().status
}

fn read_response(text: &str, asked: Asked) -> Result<(ResponseHead, ResponseMeta), Malformed> {
    let mut head = ResponseHead::default();
    let (parsed, meta) = head::response(text.as_bytes(), &mut head, asked, HeadLimits::default())?;
    assert_eq!(parsed, Parsed::Complete(text.len()));
    Ok((head, meta))
}

#[test]
fn a_bare_carriage_return_does_not_decide_about_framing() {
    for line in ["transfer-encoding: chun\rked\r\n", "content-length: 1\r2\r\n", "connection: clo\rse\r\n"] {
        assert_eq!(get(line).unwrap_err().refusal().status, 400, "{line:?}");
    }
}

#[test]
fn a_plain_request_is_understood() {
    let (head, meta) =
        read("POST /p?q=1 HTTP/1.1\r\nHost: a.test\r\nX-A:  b \r\nContent-Length: 3\r\n\r\n").unwrap();
    assert_eq!((head.method, head.version), (Method::Post, Version::Http11));
    assert_eq!((&*head.authority, &*head.path), (&b"a.test"[..], &b"/p?q=1"[..]));
    assert_eq!(head.fields.get("x-a"), Some(&b"b"[..]));
    assert!(!head.fields.contains(Known::Host));
    assert_eq!(meta, RequestMeta { framing: Framing::Length(3), keep_alive: true });
}

#[test]
fn a_request_needs_exactly_one_readable_host() {
    // The exchange refuses it.
    assert!(!read("GET / HTTP/1.1\r\n\r\n").unwrap().0.has_host());
    let empty = read("GET / HTTP/1.1\r\nhost: \r\n\r\n").unwrap().0;
    assert_eq!((&*empty.authority, empty.has_host()), (&b""[..], true));
    assert_eq!(refused("GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nhost: a b\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nhost: user@x.test\r\n\r\n"), 400);
}

#[test]
fn absolute_targets_name_the_host() {
    for (target, authority, path) in [
        ("http://abs.test/p?q=1", "abs.test", "/p?q=1"),
        ("HTTP://abs.test", "abs.test", "/"),
        ("http://abs.test:81?x", "abs.test:81", "?x"),
        ("https://abs.test/p", "abs.test", "/p"),
    ] {
        let (head, _) = read(&format!("GET {target} HTTP/1.1\r\nhost: other.test\r\n\r\n")).unwrap();
        assert_eq!((&*head.authority, &*head.path), (authority.as_bytes(), path.as_bytes()), "{target}");
    }
    for target in ["ftp://abs.test/p", "noslash", "http:///p", "http://u:p@abs.test/", "*"] {
        assert_eq!(refused(&format!("GET {target} HTTP/1.1\r\nhost: o.test\r\n\r\n")), 400, "{target}");
    }
    assert_eq!(read("OPTIONS * HTTP/1.1\r\nhost: o.test\r\n\r\n").unwrap().0.path, "*".into());
    let (head, _) = read("CONNECT up.test:443 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!((&*head.authority, &*head.path), (&b"up.test:443"[..], &b""[..]));
}

#[test]
fn versions_other_than_1_1_are_asked_to_upgrade() {
    for line in ["GET / HTTP/1.0", "GET / HTTP/0.9", "GET / HTTP/2.0", "GET / HTTP/1.2", "GET /"] {
        assert_eq!(refused(&format!("{line}\r\nhost: x.test\r\n\r\n")), 426, "{line}");
    }
    for line in ["GET / HTTP/1", "GET / HTTP/11.1", "GET / http/1.1", "GET / HTTP/1.1 x", "GET"] {
        assert_eq!(refused(&format!("{line}\r\nhost: x.test\r\n\r\n")), 400, "{line}");
    }
    let options =
        ServerOptions { accept_http10: true, default_host: "def.test".into(), ..ServerOptions::default() };
    let (head, meta) = read_with(b"GET / HTTP/1.0\r\n\r\n", &options).unwrap();
    assert_eq!((head.version, &*head.authority), (Version::Http10, &b"def.test"[..]));
    assert!(!meta.keep_alive);
    let chunked = read_with(b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", &options);
    assert_eq!(chunked.unwrap_err().refusal().status, 400);
}

#[test]
fn unknown_methods_are_refused() {
    for method in ["FOO", "get", "GE T", "", "\x16\x03\x01"] {
        assert_eq!(refused(&format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n")), 400, "{method}");
    }
    assert!(read("PROPFIND / HTTP/1.1\r\nhost: x\r\n\r\n").is_ok());
}

#[test]
fn odd_spellings_that_envoy_accepts() {
    assert!(read("GET   /   HTTP/1.1\nhost: x\n\n").is_ok());
    let value = |lines: &str| get(lines).unwrap().0.fields.get("x-a").unwrap().to_vec();
    assert_eq!(value("x-a: b\r\n folded\r\n"), b"b folded");
    assert_eq!(value("x-a: b\rc\r\n"), b"bc");
    assert_eq!(value("x-a: \tb\t\r\n"), b"b");
    assert_eq!(value("x-a:b\r\n"), b"b");
}

#[test]
fn malformed_lines_are_refused() {
    for line in [
        "x-a: b\0c",
        "x-a: b\x01c",
        "x-a: b\x7f",
        "x-a : b",
        ": v",
        "nocolon",
        "x a: b",
        "x-\x7f: b",
        "x(a): b",
    ] {
        assert_eq!(get(&format!("{line}\r\n")).unwrap_err().refusal().status, 400, "{line:?}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\n host: folded first line\r\n\r\n"), 400);
}

#[test]
fn framing_that_could_be_read_in_two_ways_is_refused() {
    for (lines, status) in [
        ("content-length: 3\r\ntransfer-encoding: chunked", 400),
        ("content-length: 3\r\ncontent-length: 4", 400),
        ("content-length: 3\r\ncontent-length: 3", 400),
        ("content-length: 3, 3", 400),
        ("content-length: +3", 400),
        ("content-length: -1", 400),
        ("content-length: 0x3", 400),
        ("content-length:", 400),
        ("content-length: 99999999999999999999", 400),
        ("transfer-encoding: identity\r\ncontent-length: 3", 400),
        ("transfer-encoding: gzip", 501),
        ("transfer-encoding: gzip, chunked", 501),
        ("transfer-encoding: chunked, identity", 501),
        ("transfer-encoding: chunked, chunked", 501),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", 501),
        ("transfer-encoding : chunked", 400),
    ] {
        assert_eq!(get(&format!("{lines}\r\n")).unwrap_err().refusal().status, status, "{lines}");
    }
    assert_eq!(get("Transfer-Encoding: Chunked\r\n").unwrap().1.framing, Framing::Chunked);
}

#[test]
fn heads_over_the_limits_are_refused() {
    let long = |length: usize| refused(&format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "u".repeat(length)));
    assert_eq!((long(61_440), long(70_000)), (431, 431));
    assert!(read(&format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "u".repeat(50_000))).is_ok());
    let many = "x: y\r\n".repeat(100);
    assert_eq!(get(&many).unwrap_err().refusal().details, "http1.too_many_headers");
    assert!(get(&"x: y\r\n".repeat(99)).is_ok());
}

#[test]
fn connection_fields_decide_about_the_connection() {
    assert!(!get("connection: close, x\r\n").unwrap().1.keep_alive);
    assert!(get("connection: Keep-Alive\r\n").unwrap().1.keep_alive);
    let (head, _) =
        get("connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n").unwrap();
    assert_eq!(head.fields.len(), 1);
}

#[test]
fn malformed_responses_are_errors() {
    for text in [
        "this is not http\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    ] {
        assert!(read_response(text, Asked::default()).is_err(), "{text:?}");
    }
}

#[test]
fn the_request_decides_about_the_body_of_its_response() {
    let framing = |text: &str, asked: Asked| read_response(text, asked).unwrap().1.framing;
    let plain = Asked::default();
    let head = Asked { head: true, ..plain };
    assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", plain), Framing::Length(3));
    assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", head), Framing::None);
    assert_eq!(framing("HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\n\r\n", plain), Framing::None);
    assert_eq!(framing("HTTP/1.1 204\r\ncontent-length: 0\r\n\r\n", plain), Framing::None);
    assert_eq!(framing("HTTP/1.1 200\r\n\r\n", plain), Framing::UntilClose);
    let tunnel = read_response("HTTP/1.1 200 OK\r\n\r\n", Asked { connect: true, ..plain }).unwrap().1;
    assert!(tunnel.tunnel && !tunnel.keep_alive);
    assert!(!read_response("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", plain).unwrap().1.keep_alive);
}

#[test]
fn heads_can_be_written_in_proper_case() {
    let mut head = ResponseHead::new(200);
    head.fields.push("x-request-id", b"1");
    let mut out = Vec::new();
    let options = EncodeOptions { proper_case: true, ..EncodeOptions::default() };
    encode::response_head(&mut out, &head, true, encode::RespondingTo::default(), options);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\nX-Request-Id: 1\r\nContent-Length: 0\r\n\r\n");
}

fn token() -> impl Strategy<Value = String> {
    "x-[a-z0-9]{1,12}"
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        path in "/[a-z0-9/?=&.-]{0,40}",
        host in "[a-z0-9.-]{1,20}",
        fields in prop::collection::vec((token(), "[!-~]{1,20}"), 0..12),
    ) {
        let mut head = RequestHead { method: Method::Put, authority: Authority::new(host).unwrap(), path: Path::new(path).unwrap(), ..RequestHead::default() };
        for (name, value) in &fields {
            head.fields.push(&FieldNameBuf::new(name).unwrap(), FieldValue::new(value.as_bytes()).unwrap());
        }
        let mut out = Vec::new();
        encode::request_head(&mut out, &head, false, EncodeOptions::default());
        let (back, meta) = read_with(&out, &ServerOptions::default()).unwrap();
        prop_assert_eq!((&back.authority, &back.path, meta.framing), (&head.authority, &head.path, Framing::Chunked));
        let list = |head: &RequestHead| head.fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect::<Vec<_>>();
        let mut expected = list(&head);
        expected.push((b"transfer-encoding".to_vec(), b"chunked".to_vec()));
        prop_assert_eq!(list(&back), expected);
    }

    #[test]
    fn no_input_makes_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..80) {
        let good = b"POST /a HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\ncontent-length: 3\r\n\r\n";
        let mut mixed = good[..cut.min(good.len())].to_vec();
        mixed.extend_from_slice(&bytes);
        let mut head = RequestHead::default();
        let _ = head::request(&mixed, &mut head, &ServerOptions::default(), HeadLimits::default());
        let mut response = ResponseHead::default();
        let _ = head::response(&mixed, &mut response, Asked::default(), HeadLimits::default());
    }

    #[test]
    fn a_beginning_is_never_taken_for_the_whole(cut in 0usize..60) {
        let good = b"POST /a HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\ncontent-length: 3\r\n\r\n";
        let mut head = RequestHead::default();
        let parsed = head::request(&good[..cut.min(good.len() - 1)], &mut head, &ServerOptions::default(), HeadLimits::default());
        prop_assert_eq!(parsed.unwrap().0, Parsed::Partial);
    }
}

#[test]
fn an_http_1_0_client_stays_where_it_can_tell_the_end_of_the_response() {
    let responding_to = |head, close| RespondingTo { head, close, http10: true, ..RespondingTo::default() };
    for (status, fields, end, head, close, expected) in [
        (200, "content-length: 2", false, false, false, "keep-alive"),
        (200, "content-length: 2", false, true, false, "keep-alive"),
        (200, "content-length: 2", false, false, true, "close"),
        (200, "", true, false, false, "keep-alive"),
        (200, "", false, false, false, "close"),
        (200, "", false, true, false, "close"),
        (204, "", true, false, false, "close"),
    ] {
        let mut response = ResponseHead::new(status);
        if !fields.is_empty() {
            response.fields.push(Known::ContentLength, "2");
        }
        let mut out = Vec::new();
        let options = EncodeOptions::default();
        let (_, closes) =
            encode::response_head(&mut out, &response, end, responding_to(head, close), options);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.0 "), "{text}");
        assert_eq!(closes, expected == "close", "{text}");
        assert!(text.contains(&format!("connection: {expected}\r\n")), "{text}");
    }
}

/// A connection's own headers do not survive a request for cleartext HTTP/2 that is ignored.
#[test]
fn an_h2c_upgrade_keeps_the_names_that_its_connection_header_nominates() {
    let lines = "connection: upgrade, http2-settings, x-secret\r\nupgrade: h2c\r\nhttp2-settings: A\r\nx-secret: 1\r\n";
    let (head, _) = get(lines).unwrap();
    assert!(!head.fields.contains(Known::Upgrade) && !head.fields.contains("http2-settings"));
    assert!(head.fields.contains(Known::Connection));
}

#[test]
fn user_information_is_refused_wherever_a_host_is() {
    for user in ["user@", "user:password@", "@"] {
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nhost: {user}a.test\r\n\r\n")), 400);
        assert_eq!(refused(&format!("GET http://{user}a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n")), 400);
        assert_eq!(refused(&format!("CONNECT {user}a.test:1 HTTP/1.1\r\nhost: a.test\r\n\r\n")), 400);
    }
}

#[test]
fn https_in_a_target_is_refused_where_no_trusted_proxy_can_have_ended_tls() {
    let request = b"GET https://a.test/ HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let strict = ServerOptions { refuse_https_target: true, ..ServerOptions::default() };
    assert_eq!(read_with(request, &strict).unwrap_err().refusal().status, 403);
    let (head, _) = read_with(request, &ServerOptions::default()).unwrap();
    assert_eq!(head.scheme(), "https");
}
