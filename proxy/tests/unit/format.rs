//! Formats against what Envoy 1.40 printed for the same exchange.
//!
//! Test-only.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::names::{ABSENT, NOT_IMPLEMENTED, OTHERS};
use super::operator::PLAIN;
use super::*;
use crate::error::Flag;
use crate::message::{Method, Scheme, Version};
use crate::stream_info::ConnectionInfo;

/// A GET to which the upstream responded with 200 and three bytes.
struct Exchange {
    info: StreamInfo,
    request: RequestHead,
    response: ResponseHead,
}

impl Exchange {
    fn new() -> Self {
        let connection = ConnectionInfo {
            id: 7,
            peer: "127.0.0.1:37892".parse().unwrap(),
            local: "127.0.0.1:29912".parse().unwrap(),
            tls: false,
        };
        let start = crate::time::now();
        let wall = UNIX_EPOCH + Duration::from_millis(1_795_255_761_333);
        let mut info = StreamInfo::new(Rc::new(connection), Version::Http11, wall, start);
        info.request_end = Some(start);
        info.upstream.request_begin = Some(start + Duration::from_millis(1));
        info.upstream.request_sent = Some(start + Duration::from_millis(1));
        info.response_start = Some(start + Duration::from_micros(1_800));
        info.end = Some(start + Duration::from_nanos(2_131_532));
        info.whole = true;
        info.bytes_sent = 3;
        info.status = 200;
        info.details = "via_upstream".into();
        info.route_name = Some("myroute".into());
        info.cluster = Some("one".into());
        info.attempts = 1;
        info.upstream.host = Some("127.0.0.1:29913".parse().unwrap());
        info.upstream.local = Some("127.0.0.1:50360".parse().unwrap());
        info.upstream.version = Some(Version::Http11);
        let mut request = RequestHead {
            method: Method::Get,
            scheme: Some(Scheme::Http),
            authority: "example.test".into(),
            path: "/a?b=1".into(),
            ..RequestHead::default()
        };
        for (name, value) in [
            ("user-agent", "t/1"),
            ("x-long", "abcdefgh"),
            ("x-request-id", "rid"),
            ("x-forwarded-proto", "http"),
            ("x-envoy-expected-rq-timeout-ms", "15000"),
        ] {
            request.fields.push(name, value);
        }
        let mut response = ResponseHead::new(200);
        response.fields.push("content-type", b"text/html");
        Self { info, request, response }
    }

    fn context(&self) -> Context<'_> {
        Context {
            info: &self.info,
            request: Some(&self.request),
            response: Some(&self.response),
            response_trailers: None,
            local_reply_body: "",
        }
    }

    fn show(&self, text: &str) -> String {
        String::from_utf8(Format::parse(text).unwrap().bytes(&self.context())).unwrap()
    }
}

#[test]
fn values_are_those_of_envoy() {
    let exchange = Exchange::new();
    for (format, value) in [
        ("%START_TIME%", "2026-11-21T10:09:21.333Z"),
        ("%START_TIME(%s.%3f)%", "1795255761.333"),
        ("%DURATION% %REQUEST_DURATION% %REQUEST_TX_DURATION%", "2 0 1"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "1 0"),
        (
            "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)%",
            "1800 2131532",
        ),
        ("%PROTOCOL% %UPSTREAM_PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%", "HTTP/1.1 HTTP/1.1 200 -"),
        (
            "%UPSTREAM_HOST% %UPSTREAM_HOST_NAME_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
            "127.0.0.1:29913 127.0.0.1 29913",
        ),
        ("%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_TRANSPORT_FAILURE_REASON%", "127.0.0.1:50360 -"),
        ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_PORT%", "127.0.0.1:37892 37892"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %CONNECTION_ID%", "127.0.0.1 7"),
        (
            "%REQ(X-LONG):4% %REQ(x-none?x-long):2% %REQ(x-none)% %REQ(host)% %REQ(:SCHEME)%",
            "abcd ab - example.test http",
        ),
        ("%RESP(:status)% %RESP(content-type):3% %TRAILER(x)%", "200 tex -"),
        ("%REQUEST_HEADERS_BYTES% %RESPONSE_HEADERS_BYTES%", "152 31"),
        ("%PATH(NQ)% %QUERY_PARAM(b)% %QUERY_PARAM(c)% %QUERY_PARAMS%", "/a 1 - b=1"),
        ("%ROUTE_NAME%/%UPSTREAM_CLUSTER%/%VIRTUAL_CLUSTER_NAME%", "myroute/one/-"),
        ("%GRPC_STATUS% %ENVIRONMENT(NO_SUCH_VARIABLE)% %METADATA(ROUTE:a:b)% 100%%", "- - - 100%"),
        ("%ACCESS_LOG_TYPE% %LOCAL_REPLY_BODY%|%RESPONSE_CODE_DETAILS%", "DownstreamEnd |via_upstream"),
    ] {
        assert_eq!(exchange.show(format), value, "{format}");
    }
}

#[test]
fn the_default_format_is_envoys_line() {
    let exchange = Exchange::new();
    assert_eq!(
        exchange.show(DEFAULT_LOG_FORMAT),
        "[2026-11-21T10:09:21.333Z] \"GET /a?b=1 HTTP/1.1\" 200 - 0 3 2 - \"-\" \"t/1\" \"rid\" \"example.test\" \"127.0.0.1:29913\"\n"
    );
}

#[test]
fn a_failed_exchange_shows_flags_details_and_no_upstream_times() {
    let mut exchange = Exchange::new();
    exchange.info.flags.set(Flag::UpstreamConnectionFailure);
    exchange.info.flags.set(Flag::UpstreamRetryLimitExceeded);
    exchange.info.response_start = None;
    exchange.info.upstream.transport_failure = "delayed connect error: Connection refused".to_owned();
    exchange.info.details = "upstream_reset_before_response_started{remote connection failure}".into();
    assert_eq!(exchange.show("%RESPONSE_FLAGS% %RESPONSE_DURATION%"), "UF,URX -");
    assert_eq!(
        exchange.show("%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
        "delayed_connect_error:_Connection_refused"
    );
    assert_eq!(
        exchange.show("%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%"),
        "upstream_reset_before_response_started{remote_connection_failure} \
         upstream_reset_before_response_started{remote connection failure}"
    );
}

#[test]
fn a_header_value_leaves_out_what_is_missing_but_prints_no_flags_as_a_dash() {
    let exchange = Exchange::new();
    let show = |text: &str| Format::parse_header(text).unwrap().bytes(&exchange.context());
    assert_eq!(show("[%REQ(x-none)%|%PROTOCOL%]"), b"[|HTTP/1.1]");
    assert_eq!(show("%REQ(x-none)%"), b"");
    assert_eq!(show("%RESPONSE_FLAGS%"), b"-");
}

#[test]
fn metadata_of_the_route_is_found_by_its_path() {
    let mut exchange = Exchange::new();
    exchange.info.route_metadata =
        Some(Arc::new(serde_json::json!({"com.x": {"key": "meta", "n": {"m": 3}}})));
    assert_eq!(exchange.show("%METADATA(ROUTE:com.x:key)% %METADATA(ROUTE:com.x:n:m)%"), "meta 3");
    assert_eq!(exchange.show("%METADATA(ROUTE:com.x:key):2% %METADATA(ROUTE:com.y:key)%"), "me -");
}

#[test]
fn grpc_status_comes_from_the_trailers_then_the_head_then_the_http_status() {
    let mut exchange = Exchange::new();
    exchange.request.fields.push("content-type", b"application/grpc");
    exchange.info.status = 503;
    assert_eq!(exchange.show("%GRPC_STATUS(NUMBER)% %GRPC_STATUS(SNAKE_STRING)%"), "14 UNAVAILABLE");
    exchange.response.fields.push("grpc-status", b"4");
    assert_eq!(exchange.show("%GRPC_STATUS%"), "DeadlineExceeded");
    let mut trailers = Fields::default();
    trailers.push("grpc-status", b"0");
    let context = Context { response_trailers: Some(&trailers), ..exchange.context() };
    assert_eq!(Format::parse("%GRPC_STATUS%").unwrap().bytes(&context), b"OK");
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (format, problem) in [
        ("%FOO%", "unknown operator `%FOO%` (at character 0 of the format)"),
        (
            "a %RESPONSE_COD%",
            "unknown operator `%RESPONSE_COD%`; did you mean `%RESPONSE_CODE%`? (at character 2 of the format)",
        ),
        ("%REQ%", "`%REQ%` needs a parameter in parentheses (at character 0 of the format)"),
        (
            "%REQ(a?b?c)%",
            "`%REQ(a?b?c)%` names more than one alternative header; one `?` is allowed (at character 0 of the format)",
        ),
        ("%PROTOCOL(x)%", "`%PROTOCOL%` takes no parameters and no length (at character 0 of the format)"),
        ("%START_TIME:4%", "`%START_TIME%` does not allow a length (at character 0 of the format)"),
        (
            "a%%b%",
            "`%` at character 4 of the format is no operator: `%NAME%`, `%NAME(ARGUMENT)%` or \
          `%NAME(ARGUMENT):LENGTH%` is needed; write `%%` for a percent sign",
        ),
    ] {
        assert_eq!(Format::parse(format).unwrap_err().to_string(), problem, "{format}");
    }
    for format in
        ["%REQ(x-in", "%req(x)%", "%REQ(x):a%", "100% sure", "%REQ(a b)%", "%COMMON_DURATION(A)%", "%REQ()%"]
    {
        assert!(Format::parse(format).is_err(), "{format}");
    }
}

#[test]
fn json_keeps_types_sorts_keys_and_shows_missing_values_as_null() {
    let exchange = Exchange::new();
    let config = serde_json::json!({
        "m": "%REQ(:METHOD)%", "code": "%RESPONSE_CODE%", "missing": "%REQ(x-none)%", "two": "%REQ(x-none)% b%%",
        "nested": {"b": "%ROUTE_NAME%", "a": ["%PROTOCOL%", 1.5, null, true, "%REQ(x-none)%"]},
        "num": 5.0, "lit": "te\"x\u{1}t", "dur": "%DURATION%", "e": {"q": "%REQ(x-none)%"},
    });
    let show = |omit| {
        let mut out = Vec::new();
        JsonFormat::parse(&config, omit).unwrap().write(&exchange.context(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        show(false),
        "{\"code\":200,\"dur\":2,\"e\":{\"q\":null},\"lit\":\"te\\\"x\\u0001t\",\"m\":\"GET\",\"missing\":null,\
         \"nested\":{\"a\":[\"HTTP/1.1\",1.5,null,true,null],\"b\":\"myroute\"},\"num\":5,\"two\":\"- b%\"}\n"
    );
    assert_eq!(
        show(true),
        "{\"code\":200,\"dur\":2,\"lit\":\"te\\\"x\\u0001t\",\"m\":\"GET\",\
         \"nested\":{\"a\":[\"HTTP/1.1\",1.5,null,true],\"b\":\"myroute\"},\"num\":5,\"two\":\" b%\"}\n"
    );
    let wrong = JsonFormat::parse(&serde_json::json!({"a": {"b": "%NOPE%"}}), false).unwrap_err();
    let wrong = wrong.to_string();
    assert!(wrong.ends_with(", at key `a.b`"), "{wrong}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_parsing_or_evaluation_fail_badly(text in "(%|[A-Z_]{1,8}|REQ|START_TIME|\\(|\\)|:[0-9]{0,30}|\\?|é|.){0,12}") {
        let exchange = Exchange::new();
        if let Ok(format) = Format::parse(&text) {
            format.bytes(&exchange.context());
        }
    }
}

#[test]
fn every_operator_stands_in_the_table_of_what_envoy_prints() {
    let table = include_str!("../clients/recorded/operators.txt");
    for name in PLAIN.iter().map(|(name, _)| name).chain(ABSENT).chain(OTHERS) {
        let is_of_it =
            |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '(', ':']));
        assert!(table.lines().any(is_of_it), "{name} is missing in tests/clients/operators.rs");
    }
}

/// `recorded/operator-names.txt` holds the operators that Envoy knows.
#[test]
fn no_operator_of_envoy_is_unknown() {
    let names = include_str!("../clients/recorded/operator-names.txt");
    for name in names.lines().filter(|line| !line.starts_with('#')) {
        let problem = Format::parse(&format!("%{name}%")).err().map(|problem| problem.to_string());
        let problem = problem.unwrap_or_default();
        assert!(!problem.contains("unknown operator"), "{name}: {problem}");
        let missing = matches!(Format::parse(&format!("%{name}%")), Err(Problem::NotImplemented(_)));
        assert_eq!(missing, NOT_IMPLEMENTED.contains(&name), "{name}: {problem}");
    }
    let problem = Format::parse("%NOPE%").unwrap_err();
    assert!(problem.to_string().starts_with("unknown operator `%NOPE%`"), "{problem}");
}
