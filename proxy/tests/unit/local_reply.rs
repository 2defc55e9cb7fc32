//! Local replies against what Envoy 1.40 answered.
//!
//! Test-only.

use std::rc::Rc;
use std::time::UNIX_EPOCH;

use super::*;
use crate::access_log::{Comparison, Operation};
use crate::format::{Format, JsonFormat};
use crate::headers::{Addition, AppendAction};
use crate::message::FieldNameBuf;
use crate::stream_info::{ConnectionInfo, StreamInfo};

fn info(version: Version) -> StreamInfo {
    let address = "127.0.0.1:1".parse().unwrap();
    let connection = ConnectionInfo { id: 1, peer: address, local: address, tls: false };
    StreamInfo::new(Rc::new(connection), version, UNIX_EPOCH, crate::time::now())
}

fn render_for(reply: &LocalReply, mappers: &Mappers, request: &RequestHead) -> (u16, String, String) {
    let info = info(request.version);
    let context = Context {
        info: &info,
        request: Some(request),
        response: None,
        response_trailers: None,
        local_reply_body: "",
    };
    let Rendered { head, body } = render(reply, mappers, &context, reply.head(request.version));
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|(name, value)| {
            format!("{}: {}", String::from_utf8_lossy(name.as_bytes()), String::from_utf8_lossy(value))
        })
        .collect();
    (head.status, fields.join("\n"), String::from_utf8(body.to_vec()).unwrap())
}

fn plain(reply: &LocalReply) -> (u16, String, String) {
    render_for(reply, &Mappers::default(), &RequestHead::default())
}

fn grpc(version: Version) -> RequestHead {
    let mut request = RequestHead { version, ..RequestHead::default() };
    request.fields.push(Known::ContentType, b"application/grpc");
    request
}

#[test]
fn a_refused_connection_is_reported_as_envoy_reports_it() {
    let error = UpstreamError::ConnectFailure("Connection refused".to_owned());
    let reply = LocalReply::upstream(&error, false);
    let text =
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    assert_eq!(
        plain(&reply),
        (503, "content-length: 98\ncontent-type: text/plain".to_owned(), text.to_owned())
    );
    assert_eq!(
        reply.details,
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
    );
}

#[test]
fn an_overflow_sets_x_envoy_overloaded_and_a_retry_says_so() {
    let (status, fields, text) = plain(&LocalReply::upstream(&UpstreamError::Overflow, false));
    assert_eq!((status, text.len()), (503, 81));
    assert_eq!(fields, "x-envoy-overloaded: true\ncontent-length: 81\ncontent-type: text/plain");
    let (_, _, text) = plain(&LocalReply::upstream(&UpstreamError::ConnectionTermination, true));
    assert_eq!(text.len(), 118);
    assert!(text.ends_with("retried and the latest reset reason: connection termination"), "{text}");
}

#[test]
fn a_response_without_a_body_has_no_content_type() {
    // The codec adds the length of nothing.
    assert_eq!(plain(&LocalReply::route_not_found()), (404, String::new(), String::new()));
    assert_eq!(plain(&LocalReply::direct(204, Bytes::new(), None)), (204, String::new(), String::new()));
    let h2 = RequestHead { version: Version::Http2, ..RequestHead::default() };
    assert_eq!(render_for(&LocalReply::route_not_found(), &Mappers::default(), &h2).1, "");
}

#[test]
fn head_gets_the_length_of_the_body_it_does_not_get() {
    let request = RequestHead { method: Method::Head, ..RequestHead::default() };
    let reply = LocalReply::direct(418, Bytes::from_static(b"teapot\n"), None);
    let expected = (418, "content-length: 7\ncontent-type: text/plain".to_owned(), String::new());
    assert_eq!(render_for(&reply, &Mappers::default(), &request), expected);
}

#[test]
fn a_grpc_client_gets_status_and_message_in_the_head() {
    let none = Mappers::default();
    let (status, fields, body) = render_for(&LocalReply::no_healthy_upstream(), &none, &grpc(Version::Http2));
    assert_eq!((status, body.as_str()), (200, ""));
    assert_eq!(fields, "content-type: application/grpc\ngrpc-status: 14\ngrpc-message: no healthy upstream");
    let (_, fields, _) = render_for(&LocalReply::route_not_found(), &none, &grpc(Version::Http11));
    assert_eq!(fields, "content-type: application/grpc\ngrpc-status: 12");
    let (_, fields, _) =
        render_for(&LocalReply::direct(403, "50% ü".into(), None), &none, &grpc(Version::Http2));
    assert_eq!(fields, "content-type: application/grpc\ngrpc-status: 7\ngrpc-message: 50%25 %C3%BC");
    let (_, fields, _) = render_for(&LocalReply::max_duration(false), &none, &grpc(Version::Http2));
    assert!(fields.contains("grpc-status: 4"), "{fields}");
}

#[test]
fn mappers_change_status_body_format_and_headers_of_matching_replies() {
    let text = |format: &str| LogFormat::Text(Format::parse(format).unwrap());
    let json = serde_json::json!({"err": "%LOCAL_REPLY_BODY%", "code": "%RESPONSE_CODE%"});
    let gone = Mapper {
        filter: LogFilter::StatusCode(Comparison { operation: Operation::Equal, value: 404 }),
        status: Some(410),
        body: Some("custom gone".into()),
        body_format: None,
        headers_to_add: Changes {
            add: vec![Addition {
                name: FieldNameBuf::new("x-local").unwrap(),
                value: Format::parse_header("%RESPONSE_CODE%").unwrap(),
                action: AppendAction::AppendIfExistsOrAdd,
                keep_empty: false,
            }],
            remove: Vec::new(),
        },
    };
    let unhealthy = Mapper {
        filter: LogFilter::ResponseFlag(vec![Flag::NoHealthyUpstream]),
        status: None,
        body: None,
        body_format: Some(BodyFormat {
            format: LogFormat::Json(JsonFormat::parse(&json, false).unwrap()),
            content_type: None,
        }),
        headers_to_add: Changes::default(),
    };
    let body_format = BodyFormat {
        format: text("[%RESPONSE_CODE%] %LOCAL_REPLY_BODY%"),
        content_type: Some("text/x-custom".into()),
    };
    let mappers = Mappers { mappers: vec![gone, unhealthy], body_format: Some(body_format) };
    let get = RequestHead::default();
    assert_eq!(
        render_for(&LocalReply::no_healthy_upstream(), &mappers, &get),
        (
            503,
            "content-length: 41\ncontent-type: application/json".to_owned(),
            "{\"code\":503,\"err\":\"no healthy upstream\"}\n".to_owned()
        )
    );
    assert_eq!(
        render_for(&LocalReply::direct(403, "forbidden".into(), None), &mappers, &get),
        (403, "content-length: 15\ncontent-type: text/x-custom".to_owned(), "[403] forbidden".to_owned())
    );
    assert_eq!(
        render_for(&LocalReply::route_not_found(), &mappers, &get),
        (
            410,
            "x-local: 404\ncontent-length: 17\ncontent-type: text/x-custom".to_owned(),
            "[410] custom gone".to_owned()
        )
    );
}

#[test]
fn a_timeout_is_the_clients_while_its_request_is_still_coming() {
    assert_eq!(LocalReply::stream_idle_timeout(false).status, 408);
    assert_eq!(LocalReply::stream_idle_timeout(true).status, 504);
    assert_eq!(
        plain(&LocalReply::refused(431, "http1.headers_too_large")).2,
        "Request Header Fields Too Large"
    );
}
