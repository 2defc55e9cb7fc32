//! Trailers of HTTP/2 in every spelling of HPACK, valid and not: petmesh does what Envoy 1.40 does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::http1;
use super::http2::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fields, HEADERS, encode, fields};
use super::proxy::{
    Logs, Proxy, access_log, at, cluster, config, free_port, http, route, speaks_http2, wait,
};
use super::upstream;

const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// A header block at the end of a message, and the frames that carry it.
struct Block {
    name: String,
    /// Type, flags and payload of each frame.
    frames: Vec<(u8, u8, Vec<u8>)>,
}

fn block(name: impl Into<String>, payload: Vec<u8>) -> Block {
    Block { name: name.into(), frames: vec![(HEADERS, END_HEADERS | END_STREAM, payload)] }
}

/// One field of ours, which is valid in trailers.
fn field() -> Vec<u8> {
    encode(&fields(&[("x-good", "1")]))
}

fn pseudo() -> Vec<u8> {
    encode(&fields(&[(":path", "/evil")]))
}

/// Behind these the dynamic table begins with `x-known` and the pseudo-header of `begun`.
const KNOWN: u8 = 62;
const BEGUN_WITH: u8 = 63;

/// Headers that fill the dynamic table: a pseudo-header, whose name is `name` in the static table,
/// and a field.
fn begun(name: u8, value: &str, others: &Fields) -> Vec<u8> {
    let (of_static, new) = (0x40 | name, 0x40);
    let mut bytes = vec![of_static, u8::try_from(value.len()).unwrap()];
    bytes.extend_from_slice(value.as_bytes());
    bytes.extend(encode(others));
    [&bytes[..], &[new, 7], b"x-known", &[1], b"1"].concat()
}

/// An index in the last `bits` of its first byte (RFC 7541, 5.1), where that byte begins with `kind`.
fn index(kind: u8, bits: u32, index: u8) -> Vec<u8> {
    let most = u8::try_from((1_u32 << bits) - 1).unwrap();
    if index < most { vec![kind | index] } else { vec![kind | most, index - most] }
}

/// Field lines of every representation; with the names of each kind (RFC 7541, 6.2) and of the
/// values.
fn literals(
    of_table: &[(&str, u8)],
    new: &[(&str, &[u8])],
    values: &[(&str, &[u8])],
) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (kind, first, bits) in [("indexed", 0x40, 6), ("not indexed", 0, 4), ("never indexed", 0x10, 4)] {
        let names = of_table.iter().map(|(name, at)| (*name, index(first, bits, *at)));
        let new = new.iter().map(|(name, text)| (*name, [&[first][..], text].concat()));
        for (name, front) in names.chain(new) {
            for (how, value) in values {
                all.push((format!("{name}, {kind}, {how}"), [&front[..], value].concat()));
            }
        }
    }
    all
}

/// In these the pseudo-header comes first; `(name, bytes)` as HPACK spells it.
fn spellings() -> Vec<(String, Vec<u8>)> {
    let names: [(&str, &[u8]); 2] =
        [("new name", b"\x05:path"), ("new name in Huffman code", &[0x84, 0xb9, 0x58, 0xd3, 0x3f])];
    let long = [&[0x7f, 0xad, 0x01][..], &[b'/'; 300]].concat();
    let values: [(&str, &[u8]); 3] =
        [("plain", b"\x05/evil"), ("in Huffman code", HUFFMAN_EVIL), ("long", &long)];
    let mut all = literals(&[("static name", 4)], &names, &values);
    // Of a response it is `:status`, whose other values `h2` takes for errors of the connection.
    let values: [(&str, &[u8]); 2] = [("plain", b"\x03200"), ("in Huffman code", &[0x82, 0x10, 0x01])];
    all.extend(literals(&[("dynamic name", BEGUN_WITH)], &[], &values));
    for (name, bytes) in [
        ("of static table", index(0x80, 7, 4)),
        ("status of static table", index(0x80, 7, 8)),
        ("of dynamic table", index(0x80, 7, BEGUN_WITH)),
        ("unknown", encode(&fields(&[(":x", "evil")]))),
        ("no more than a colon", encode(&fields(&[(":", "evil")]))),
        ("after a change of the table's size", [&[0x3f, 0xe1, 0x1f][..], &pseudo()].concat()),
        ("after two changes of the table's size", [&[0x20, 0x3f, 0xe1, 0x1f][..], &pseudo()].concat()),
    ] {
        all.push((name.to_owned(), bytes));
    }
    all
}

/// `/evil` in HPACK's Huffman code.
const HUFFMAN_EVIL: &[u8] = &[0x84, 0x60, 0xbd, 0xcd, 0x47];

/// Fields that are valid, in every representation.
fn valid() -> Vec<(String, Vec<u8>)> {
    let names: [(&str, &[u8]); 1] = [("new name", b"\x06x-good")];
    let long = [&[0x7f, 0xad, 0x01][..], &[b'v'; 300]].concat();
    let values: [(&str, &[u8]); 3] = [("plain", b"\x011"), ("long", &long), ("empty", b"\0")];
    let mut all = literals(&[("static name", 58), ("dynamic name", KNOWN)], &names, &values);
    all.push(("of dynamic table".to_owned(), index(0x80, 7, KNOWN)));
    all
}

fn blocks() -> Vec<Block> {
    let mut all = vec![
        block("nothing", Vec::new()),
        block("a field", field()),
        block("a field, then a pseudo-header", [field(), pseudo()].concat()),
    ];
    for (name, bytes) in spellings() {
        all.push(block(name.clone(), bytes.clone()));
        all.push(block(format!("{name}, then a field"), [bytes, field()].concat()));
    }
    for (name, bytes) in valid() {
        all.push(block(format!("a field: {name}"), bytes.clone()));
        all.push(block(format!("two fields: {name}"), [field(), bytes].concat()));
    }
    let malformed = [pseudo(), field()].concat();
    let framed = |flags: u8, front: &[u8], block: &[u8], back: &[u8]| {
        vec![(HEADERS, END_HEADERS | END_STREAM | flags, [front, block, back].concat())]
    };
    for (name, payload) in [("nothing", &[][..]), ("a field", &field()), ("a pseudo-header", &malformed)] {
        let mut more = |how: &str, frames| {
            all.push(Block { name: format!("{name}, {how}"), frames });
        };
        more("padded", framed(PADDED, &[3], payload, &[0; 3]));
        more("with a priority", framed(PRIORITY, &[0, 0, 0, 0, 7], payload, &[]));
        let both = framed(PADDED | PRIORITY, &[2, 0, 0, 0, 0, 7], payload, &[0; 2]);
        more("padded and with a priority", both);
        for cut in [0, 1].into_iter().filter(|cut| *cut <= payload.len()) {
            let (first, rest) = payload.split_at(cut);
            let frames =
                vec![(HEADERS, END_STREAM, first.to_vec()), (CONTINUATION, END_HEADERS, rest.to_vec())];
            more(&format!("continued after {cut}"), frames);
        }
    }
    all
}

fn send(connection: &mut http2::Connection, stream: u32, block: &Block) {
    for (kind, flags, payload) in &block.frames {
        let _ = connection.send(*kind, *flags, stream, payload);
    }
}

/// A host has the headers of a request, and no end.
const BEGUN: &str = "no end";

/// What came to the hosts with each path, trailers and all.
type Seen = Arc<Mutex<BTreeMap<String, String>>>;

fn shown(fields: &Fields) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        let _ = write!(text, " {name}={value}");
    }
    text
}

/// An HTTP/2 host that notes trailers, and ends its responses with the block whose number it is
/// asked for.
fn host(seen: &Seen) -> u16 {
    let seen = Arc::clone(seen);
    let all = blocks();
    upstream::raw(move |stream| {
        let Ok(mut connection) = http2::Connection::server(stream, &[]) else { return };
        let _ = connection.stream.set_read_timeout(None);
        let mut open = BTreeMap::<u32, (String, Option<usize>)>::new();
        while let Ok(frame) = connection.read() {
            if frame.kind == HEADERS {
                let Ok(found) = connection.decode(&frame) else { return };
                if let Some((path, _)) = open.get(&frame.stream) {
                    let line = format!("trailers{}", shown(&found));
                    seen.lock().unwrap().insert(path.clone(), line);
                } else {
                    let path = http2::find(&found, ":path").unwrap_or_default();
                    let wanted = http2::find(&found, "x-block").and_then(|text| text.parse().ok());
                    seen.lock().unwrap().insert(path.clone(), BEGUN.to_owned());
                    open.insert(frame.stream, (path, wanted));
                }
            }
            if frame.ends_stream()
                && let Some((path, wanted)) = open.remove(&frame.stream)
            {
                let mut seen = seen.lock().unwrap();
                if seen.get(&path).is_some_and(|text| text == BEGUN) {
                    seen.insert(path, "no trailers".to_owned());
                }
                drop(seen);
                let head = begun(8, "200", &Fields::new());
                let _ = connection.send(HEADERS, END_HEADERS, frame.stream, &head);
                let flags = if wanted.is_some() { 0 } else { END_STREAM };
                let _ = connection.send(DATA, flags, frame.stream, b"ok");
                if let Some(block) = wanted.and_then(|at: usize| all.get(at)) {
                    send(&mut connection, frame.stream, block);
                }
            }
        }
    })
}

fn outcome(response: std::io::Result<http2::Response>) -> String {
    // Envoy also ends the connection of a client, unless it is told not to; petmesh ends the stream.
    // What was sent before a reset may come or not.
    let Some(response) = response.ok().filter(|response| response.reset.is_none()) else {
        return "refused".to_owned();
    };
    let mut text = format!("{} {:?}", response.status(), String::from_utf8_lossy(&response.body));
    if let Some(trailers) = &response.trailers {
        let _ = write!(text, " trailers{}", shown(trailers));
    }
    text
}

/// A listener in front of a host of its own, and what they noted. An unknown pseudo-header or a capital
/// in the trailers of a response is an error of the connection to `h2`: it ends the connection to the
/// host, with whatever else is on it. Envoy does so for every malformed block, unless
/// `override_stream_error_on_invalid_http_message` is set.
struct Bench<'l> {
    name: String,
    port: u16,
    seen: Seen,
    logs: &'l Logs,
}

impl Bench<'_> {
    /// Sends the block in both directions; the cases and what came of them.
    fn exchange(&self, number: usize, block: &Block) -> Vec<(String, String)> {
        let path = format!("/request/{number}");
        let text = self.trailers_of_request(&path, block);
        let mut found = vec![self.noted(&path, format!("request | {}", block.name), &text)];
        for version in ["h1", "h2"] {
            let path = format!("/response/{version}/{number}");
            let text =
                if version == "h1" { self.ask_http1(&path, number) } else { self.ask_http2(&path, number) };
            found.push(self.noted(&path, format!("response to {version} | {}", block.name), &text));
        }
        found
    }

    fn noted(&self, path: &str, case: String, text: &str) -> (String, String) {
        let start = format!("{path} ");
        let line = wait(&format!("the access log of {case}"), || {
            let log = self.logs.read(&self.name);
            log.lines().find_map(|line| Some(line.strip_prefix(&start)?.to_owned()))
        });
        (case, format!("{text} | {line}"))
    }

    fn trailers_of_request(&self, path: &str, block: &Block) -> String {
        let mut client = http2::Connection::client(at(self.port));
        let others = fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "here")]);
        let stream = 1;
        let _ = client.send(HEADERS, END_HEADERS, stream, &begun(4, path, &others));
        let _ = client.send(DATA, 0, stream, b"some");
        // A block that ends the connection would else be read with the headers.
        wait("the request at the host", || self.seen.lock().unwrap().contains_key(path).then_some(()));
        send(&mut client, stream, block);
        let text = outcome(client.response(stream));
        let came = self.seen.lock().unwrap().get(path).cloned().unwrap_or_default();
        format!("{text} | {came}")
    }

    fn ask_http1(&self, path: &str, number: usize) -> String {
        let mut client = http1::Connection::new(at(self.port));
        client.send(format!(
            "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\nx-block: {number}\r\n\r\n"
        ));
        let bytes = client.rest();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        format!("{} {body:?}", head.split(' ').nth(1).unwrap_or_default())
    }

    fn ask_http2(&self, path: &str, number: usize) -> String {
        let mut client = http2::Connection::client(at(self.port));
        let mut head = http2::get(path);
        head.push((b"x-block".to_vec(), number.to_string().into_bytes()));
        let stream = client.request(&head, true);
        outcome(client.response(stream))
    }
}

#[test]
fn trailers_of_http2_are_envoys_in_both_directions() {
    let logs = Logs::new();
    let benches: Vec<Bench<'_>> = (0..BENCHES)
        .map(|at| Bench { name: format!("b{at}"), port: free_port(), seen: Seen::default(), logs: &logs })
        .collect();
    let format = json!("%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n");
    let listeners = benches.iter().map(|Bench { name, port, .. }| {
        let log = access_log(&logs.path(name), &format);
        let manager = json!({ "http_protocol_options": { "enable_trailers": true }, "access_log": [log] });
        http(name, *port, &route(name), manager)
    });
    let clusters =
        benches.iter().map(|Bench { name, seen, .. }| cluster(name, host(seen), speaks_http2(&json!({}))));
    let proxy = Proxy::start_with(
        &config(&listeners.collect::<Vec<_>>(), &clusters.collect::<Vec<_>>()),
        &["--file-flush-interval-msec", "10"],
    );
    let blocks: Vec<(usize, Block)> = blocks().into_iter().enumerate().collect();
    let mut found: Vec<(String, String)> = std::thread::scope(|scope| {
        let parts = blocks.chunks(blocks.len().div_ceil(BENCHES));
        let threads: Vec<_> = parts
            .zip(&benches)
            .map(|(part, bench)| {
                let each = part.iter().flat_map(|(number, block)| bench.exchange(*number, block));
                scope.spawn(move || each.collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let of_hosts = benches.iter().map(|bench| format!("cluster.{}.http2.trailers", bench.name));
    let of_hosts: u64 = of_hosts.map(|name| proxy.stat_or_zero(&name)).sum();
    for (name, count) in [("requests", proxy.stat_or_zero("http2.trailers")), ("responses", of_hosts)] {
        found.push((format!("http2.trailers of {name}"), format!("{count} of {}", blocks.len())));
    }
    drop(proxy);
    // What `h2` itself refuses has one detail.
    let instead = |case: &str, envoys: &str| {
        let by_h2 = ["a field, then a pseudo-header", "unknown", "no more than a colon"];
        let block = case.strip_prefix("request | ")?;
        let is_by_h2 =
            by_h2.iter().any(|name| block.strip_suffix(", then a field").unwrap_or(block) == *name);
        is_by_h2.then(|| envoys.replace("http2.invalid.header.field", "http2.violation.of.messaging.rule"))
    };
    super::record::compare("trailers", &found, instead);
}

/// Most of an exchange is waiting.
const BENCHES: usize = 8;
