//! What is passed on, and what a span puts in its place.

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::get;
use tower::ServiceExt;

use super::*;

const PARENT: &str = "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01";

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(pair).collect()
}

fn passed_on(incoming: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut outgoing = HeaderMap::new();
    Propagated::from_headers(&headers(incoming)).apply(&mut outgoing);
    outgoing
}

#[test]
fn trace_headers_are_passed_on_as_they_came_and_others_are_not() {
    let incoming = [("x-request-id", "1"), ("traceparent", PARENT), ("tracestate", "a=1"), ("b3", "0")];
    let mut with_more = incoming.to_vec();
    with_more.extend([("cookie", "secret"), ("host", "pet")]);
    assert_eq!(passed_on(&with_more), headers(&incoming));
    let b3 = [("x-b3-traceid", "1"), ("x-b3-spanid", "2"), ("x-b3-parentspanid", "3"), ("x-b3-sampled", "1")];
    assert_eq!(passed_on(&b3), headers(&b3));
}

#[test]
fn tracestate_goes_with_its_traceparent() {
    let two_states = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
    let passed: Vec<_> = passed_on(&two_states).get_all("tracestate").into_iter().cloned().collect();
    assert_eq!(passed, ["a=1", "b=2"]);
    assert!(passed_on(&[("traceparent", "nonsense"), ("tracestate", "a=1")]).is_empty());
    assert!(passed_on(&[("tracestate", "a=1")]).is_empty());
    assert!(passed_on(&[("traceparent", PARENT), ("traceparent", PARENT)]).is_empty());
}

#[test]
fn what_the_caller_set_is_replaced() {
    let mut outgoing = headers(&[("x-request-id", "made up"), ("accept", "*/*")]);
    Propagated::from_headers(&headers(&[("x-request-id", "7")])).apply(&mut outgoing);
    assert_eq!(outgoing, headers(&[("accept", "*/*"), ("x-request-id", "7")]));
}

#[test]
fn the_trace_is_found_in_each_format() {
    let id = |pairs| Propagated::from_headers(&headers(pairs)).trace().map(|trace| trace.trace_id);
    let one = Some(1);
    assert_eq!(id(&[("traceparent", "00-00000000000000000000000000000001-0000000000000002-01")]), one);
    assert_eq!(id(&[("b3", "0000000000000001-0000000000000002")]), one);
    assert_eq!(id(&[("x-b3-traceid", "0000000000000001"), ("x-b3-spanid", "0000000000000002")]), one);
    assert_eq!(id(&[("b3", "0")]), None);
}

#[test]
fn a_span_takes_the_place_of_the_callers_in_each_format_that_came() {
    let span = TraceContext { trace_id: 1, span_id: 3, parent_span_id: Some(2), sampling: Sampling::Keep };
    let with_span = |incoming: &[(&'static str, &'static str)]| {
        Propagated::from_headers(&headers(incoming)).with_span(span).headers
    };
    let w3c = ("traceparent", "00-00000000000000000000000000000001-0000000000000003-01");
    let b3 = ("b3", "0000000000000001-0000000000000003-1-0000000000000002");
    let b3_multi = [
        ("x-b3-traceid", "0000000000000001"),
        ("x-b3-spanid", "0000000000000003"),
        ("x-b3-parentspanid", "0000000000000002"),
        ("x-b3-sampled", "1"),
    ];
    let kept = [("x-request-id", "7"), ("traceparent", PARENT), ("tracestate", "a=1")];
    assert_eq!(with_span(&kept), headers(&[("x-request-id", "7"), w3c, ("tracestate", "a=1")]));
    assert_eq!(with_span(&[("b3", "nonsense")]), headers(&[b3]));
    assert_eq!(with_span(&[("x-b3-flags", "1")]), headers(&b3_multi));
    let mut both = b3_multi.to_vec();
    both.push(w3c);
    assert_eq!(with_span(&[]), headers(&both));
}

#[tokio::test]
async fn a_handler_passes_on_the_headers_of_its_own_request() {
    let handler = || async {
        let mut outgoing = HeaderMap::new();
        propagate(&mut outgoing);
        format!("{:?}", outgoing.get("x-request-id"))
    };
    let router = Router::new().route("/", get(handler)).layer(from_fn(capture_trace_context));
    let response = |id: &'static str| {
        let request = Request::builder().uri("/").header("x-request-id", id).body(axum::body::Body::empty());
        router.clone().oneshot(request.expect("a request"))
    };
    let (first, second) = tokio::join!(response("first"), response("second"));
    for (response, id) in [(first, "first"), (second, "second")] {
        let body =
            axum::body::to_bytes(response.expect("infallible").into_body(), 1024).await.expect("a body");
        assert_eq!(body, format!("Some(\"{id}\")"));
    }
    assert!(current().headers.is_empty());
}
