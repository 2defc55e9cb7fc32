//! Whole families of requests against the rules: what a client may say of its scheme, what operators carry, how much work a head is.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;
use crate::format::{Context, Format, JsonFormat, every_operator};
use crate::message::{
    FieldNameBuf, FieldValue, FieldValueBuf, Path, RequestHead, ResponseHead, Scheme, Version, work,
};
use crate::stream_info::{ConnectionInfo, StreamInfo};

fn rules(addresses: Addresses) -> Rules {
    Rules {
        addresses,
        request_id: RequestId { generate: true, preserve_external: false, always_in_response: false },
        path: PathOptions {
            normalize: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::UnescapeAndForward,
        },
        server: ServerHeader::Overwrite("envoy".into()),
        via: FieldValueBuf::default(),
        add_user_agent: false,
        suppress_envoy_headers: false,
        strip_port: StripPort::Keep,
        strip_dot: false,
        internal_only: Vec::new(),
        service_cluster: FieldValueBuf::default(),
        service_node: FieldValueBuf::default(),
    }
}

fn origin(tls: bool) -> request::Origin {
    let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
    request::Origin { peer: address, local: address, tls, random: [1, 2] }
}

/// Every combination of what a client says of its scheme, what a proxy in front forwards, who is trusted and what the transport is. The
/// expectations are what Envoy 1.40 does.
#[test]
fn the_transport_and_trusted_proxies_decide_what_is_https_and_the_client_only_what_is_sent_on() {
    let forwarded: [Option<&'static str>; 4] = [None, Some("http"), Some("https"), Some("ftp")];
    for said in [None, Some(Scheme::Http), Some(Scheme::Https)] {
        for forwarded in forwarded {
            for (use_remote, trusted_hops) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
                for tls in [false, true] {
                    let mut head = RequestHead { scheme: said, ..RequestHead::default() };
                    forwarded.iter().for_each(|value| head.fields.push(Known::XForwardedProto, *value));
                    let addresses = Addresses { use_remote, trusted_hops, ..Addresses::default() };
                    request::apply(&mut head, &rules(addresses), origin(tls));
                    let trusted = !use_remote || trusted_hops > 0;
                    let transport = if tls { "https" } else { "http" };
                    let proto = forwarded.filter(|_| trusted).unwrap_or(transport);
                    let case = format!("{said:?} {forwarded:?} {use_remote} {trusted_hops} {tls}");
                    assert_eq!(head.fields.get(Known::XForwardedProto), Some(proto.as_bytes()), "{case}");
                    let filled = Scheme::parse(proto.as_bytes()).map_or(transport, Scheme::as_str);
                    assert_eq!(head.scheme(), said.map_or(filled, Scheme::as_str), "{case}");
                }
            }
        }
    }
}

/// Bytes that end a line, or could with a careless reader, among ordinary ones.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => prop::sample::select(vec![b'\r', b'\n', 0, 0x0b, 0x0c, 0x7f, 0x85, 0x1b, b'\t', b' ', b':', b'%', b'"']),
        1 => any::<u8>(),
    ];
    prop::collection::vec(byte, 0..24)
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// What a client and an upstream can put into an exchange, at every place that an operator reads.
struct Hostile {
    info: StreamInfo,
    request: RequestHead,
    response: ResponseHead,
    body: String,
}

impl Hostile {
    fn new(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let name: Arc<str> = text.as_str().into();
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let connection = ConnectionInfo { id: 1, peer: address, local: address, tls: false };
        let mut info = StreamInfo::new(Rc::new(connection), Version::Http11, UNIX_EPOCH, crate::time::now());
        info.details = text.clone().into();
        info.route_name = Some(Arc::clone(&name));
        info.virtual_cluster = Some(Arc::clone(&name));
        info.cluster = Some(name);
        info.route_metadata = Some(Arc::new(serde_json::json!({ "filter": { "key": text.as_str() } })));
        info.upstream.transport_failure.clone_from(&text);
        info.upstream.hostname = Some(text.as_str().into());
        let path = Path::new(format!("/{0}?q={0}&q2=1", percent_encoded(bytes))).unwrap();
        let mut request = RequestHead { path, ..RequestHead::default() };
        let mut response = ResponseHead::new(200);
        // What the types do not let in cannot be a header to begin with.
        if let Ok(value) = FieldValue::new(bytes) {
            request.fields.push("x-client", value);
            request.fields.push(Known::XRequestId, value);
            response.fields.push("x-up", value);
        }
        Self { info, request, response, body: text }
    }

    fn context(&self) -> Context<'_> {
        Context {
            request: Some(&self.request),
            response: Some(&self.response),
            response_trailers: Some(&self.response.fields),
            local_reply_body: &self.body,
            ..Context::new(&self.info)
        }
    }
}

fn adding(format: &str, action: AppendAction) -> Changes {
    let value = Format::parse_header(format).unwrap();
    let addition = Addition { name: FieldNameBuf::new("X-Added").unwrap(), value, action, keep_empty: true };
    Changes { add: vec![addition], remove: Vec::new() }
}

fn stays_in_line(fields: &Fields) -> bool {
    fields.iter().all(|(_, value)| FieldValue::new(value).is_ok())
}

proptest! {
    #[test]
    fn no_operator_carries_a_line_end_into_a_header_or_a_line_of_a_log(bytes in hostile()) {
        let exchange = Hostile::new(&bytes);
        let context = exchange.context();
        for operator in every_operator() {
            let format = format!("a{operator}b");
            for action in [
                AppendAction::AppendIfExistsOrAdd,
                AppendAction::AddIfAbsent,
                AppendAction::OverwriteIfExistsOrAdd,
                AppendAction::OverwriteIfExists,
            ] {
                let changes = adding(&format, action);
                let values = changes.evaluate(&context);
                let valid = FieldValue::new(&Format::parse_header(&format).unwrap().bytes(&context)).is_ok();
                let mut request = exchange.request.fields.clone();
                let applied = changes.apply_to_request(&mut request, &values);
                prop_assert_eq!(applied.is_ok(), valid, "{}", operator);
                let mut response = exchange.response.fields.clone();
                changes.apply(&mut response, &values);
                prop_assert!(stays_in_line(&request) && stays_in_line(&response), "{}", operator);
                let added = valid && action != AppendAction::OverwriteIfExists;
                prop_assert_eq!(response.contains("x-added"), added, "{}", operator);
            }
            let json = serde_json::json!({ "key": operator.as_str(), "two": format!("-{operator}") });
            let (mut text, mut object) = (Vec::new(), Vec::new());
            Format::parse(&format!("{operator}\n")).unwrap().write_line(&context, &mut text);
            JsonFormat::parse(&json, false).unwrap().write(&context, &mut object);
            for line in [text, object] {
                let (end, line) = line.split_last().unwrap();
                prop_assert_eq!(*end, b'\n');
                let controls = line.iter().any(u8::is_ascii_control);
                prop_assert!(!controls, "{}: {:?}", operator, String::from_utf8_lossy(line));
            }
        }
    }
}

/// A head of about `size` bytes, of a shape that made work or could make it.
fn large(shape: usize, size: usize) -> RequestHead {
    let mut head = RequestHead { version: Version::Http11, path: "/".into(), ..RequestHead::default() };
    let many = |item: &str, size: usize| item.repeat(size / item.len());
    let set = |head: &mut RequestHead, name: Known, text: String| {
        head.fields.push(name, FieldValue::new(text.as_bytes()).unwrap());
    };
    let names = |head: &mut RequestHead, size: usize| {
        for at in 0..size / 8 {
            head.fields.push(&FieldNameBuf::new(&format!("x-{at:06}")).unwrap(), "1");
        }
    };
    match shape {
        0 => {
            let tokens: String = (0..size / 16).map(|at| format!("x-{at:06},")).collect();
            set(&mut head, Known::Connection, tokens);
            names(&mut head, size / 2);
        }
        1 => (0..size / 16).for_each(|at| set(&mut head, Known::Connection, format!("x-{at:06}"))),
        2 => set(&mut head, Known::Te, many("gzip,", size)),
        3 => set(&mut head, Known::XForwardedFor, many("10.0.0.1,", size)),
        4 => (0..size / 8).for_each(|_| set(&mut head, Known::XForwardedFor, "10.1.1.1".to_owned())),
        5 => (0..size / 16).for_each(|at| {
            let name = [Known::Accept, Known::Via, Known::CacheControl, Known::Vary][at % 4];
            set(&mut head, name, "a".to_owned());
        }),
        6 => set(&mut head, Known::Cookie, many("a=b; ", size)),
        7 => names(&mut head, size),
        8 => head.path = Path::new(format!("/{}", many("a/../", size))).unwrap(),
        9 => head.path = Path::new(format!("/{}", many("%2F%41//./", size))).unwrap(),
        10 => head.path = Path::new(format!("/?{}", many("a=%41&", size))).unwrap(),
        _ => head.path = Path::new(format!("/{}", many("%2", size))).unwrap(),
    }
    head
}

#[test]
fn twice_the_head_is_at_most_twice_the_work() {
    let rules = rules(Addresses { use_remote: true, append_forwarded_port: true, ..Addresses::default() });
    let formats: Vec<_> = every_operator().iter().map(|text| Format::parse(text).unwrap()).collect();
    let steps = |shape: usize, size: usize| {
        let mut request = large(shape, size);
        let mut response = ResponseHead { fields: request.fields.clone(), ..ResponseHead::new(200) };
        work::of(|| {
            path::normalize(&request.path, rules.path);
            request::apply(&mut request, &rules, origin(false));
            response::hop_by_hop(&mut response);
            response::set_own(&mut response, &rules, &response::DateCache::default(), UNIX_EPOCH);
            let mut exchange = Hostile::new(b"");
            exchange.request = std::mem::take(&mut request);
            exchange.response = std::mem::take(&mut response);
            formats.iter().for_each(|format| drop(format.bytes(&exchange.context())));
        })
    };
    for shape in 0..12 {
        let (once, twice) = (steps(shape, 20_000), steps(shape, 40_000));
        assert!(twice <= 2 * once + 2_000, "shape {shape}: {once} steps, and {twice} for twice as much");
    }
}
