//! Joins the requests that a service makes to the one that it is answering.
//!
//! A sidecar sees requests come in and go out but cannot know which belong together: only the service can say so, by
//! passing on the headers below. That is all a service has to do for tracing. They are passed on as they came, unless the
//! service makes spans of its own (`spans`): then they name its span in place of the caller's. A `traceparent` that is malformed is dropped together with its `tracestate`, as W3C asks.
//!
//! Called by the services' routers ([`capture_trace_context`]), by petstore's client ([`propagate`]) and by `spans`; calls
//! [`TraceContext`](crate::TraceContext).

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Sampling, TraceContext};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const PASSED_ON: [HeaderName; 9] = [
    REQUEST_ID,
    TRACEPARENT,
    TRACESTATE,
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
];

tokio::task_local! {
    static CURRENT: Propagated;
}

/// The headers of one incoming request that every request made on its behalf carries.
#[derive(Clone, Debug, Default)]
pub struct Propagated {
    headers: HeaderMap,
}

/// Middleware (`axum::middleware::from_fn`): keeps the trace headers of the request for as long as it is answered, in the
/// task that answers it. Work moved to another task with `tokio::spawn` has to take [`current`] along by itself.
pub async fn capture_trace_context(request: Request, next: Next) -> Response {
    let propagated = Propagated::from_headers(request.headers());
    within(propagated, next.run(request)).await
}

/// Runs `answer` with `propagated` as what [`current`] gives.
pub(crate) async fn within<F: Future>(propagated: Propagated, answer: F) -> F::Output {
    CURRENT.scope(propagated, answer).await
}

/// The trace headers of the request being answered; none outside of [`capture_trace_context`].
#[must_use]
pub fn current() -> Propagated {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Adds the trace headers of the request being answered to an outgoing one, in place of any with the same names.
pub fn propagate(outgoing: &mut HeaderMap) {
    // Outside of a request there is nothing to pass on.
    let _ = CURRENT.try_with(|propagated| propagated.apply(outgoing));
}

impl Propagated {
    /// Picks the headers to pass on from those of an incoming request.
    #[must_use]
    pub fn from_headers(incoming: &HeaderMap) -> Self {
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            for value in incoming.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let parents = headers.get_all(TRACEPARENT).iter().count();
        if parents != 1 || text(&headers, &TRACEPARENT).and_then(TraceContext::from_traceparent).is_none() {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
        }
        Self { headers }
    }

    /// Adds the headers to an outgoing request, in place of any with the same names.
    pub fn apply(&self, outgoing: &mut HeaderMap) {
        for name in self.headers.keys() {
            outgoing.remove(name);
            for value in self.headers.get_all(name) {
                outgoing.append(name.clone(), value.clone());
            }
        }
    }

    /// `x-request-id`, where there is one that can be printed.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        text(&self.headers, &REQUEST_ID)
    }

    /// The trace that the request belongs to. Where several formats disagree: W3C, then `b3`, then `x-b3-*`.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        let get = |name: &str| self.get(name);
        get("traceparent")
            .and_then(TraceContext::from_traceparent)
            .or_else(|| get("b3").and_then(TraceContext::from_b3))
            .or_else(|| TraceContext::from_b3_multi(get))
    }

    /// What the caller decided, which B3 can say without naming a trace.
    #[must_use]
    pub fn sampling(&self) -> Sampling {
        self.trace().map_or_else(|| Sampling::from_b3(|name| self.get(name)), |trace| trace.sampling)
    }

    /// The same headers with `context` in place of the trace that they named: in each format that came, and where none
    /// came in W3C's and in the several headers of B3, so that every neighbour finds one that it knows.
    #[must_use]
    pub fn with_span(&self, context: TraceContext) -> Self {
        let came = |prefix: &str| self.headers.keys().any(|name| name.as_str().starts_with(prefix));
        let (w3c, b3, b3_multi) = (came("traceparent"), came("b3"), came("x-b3-"));
        let none = !(w3c || b3 || b3_multi);
        let mut headers = HeaderMap::new();
        for name in [REQUEST_ID, TRACESTATE] {
            for value in self.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let mut set = |name: &'static str, value: String| {
            // Hexadecimal digits and dashes: always a header's value.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if w3c || none {
            set("traceparent", context.to_traceparent());
        }
        if b3 {
            set("b3", context.to_b3());
        }
        if b3_multi || none {
            context.to_b3_multi().into_iter().for_each(|(name, value)| set(name, value));
        }
        Self { headers }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
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
        let b3 =
            [("x-b3-traceid", "1"), ("x-b3-spanid", "2"), ("x-b3-parentspanid", "3"), ("x-b3-sampled", "1")];
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
        let span =
            TraceContext { trace_id: 1, span_id: 3, parent_span_id: Some(2), sampling: Sampling::Keep };
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
        let answer = |id: &'static str| {
            let request =
                Request::builder().uri("/").header("x-request-id", id).body(axum::body::Body::empty());
            router.clone().oneshot(request.expect("a request"))
        };
        let (first, second) = tokio::join!(answer("first"), answer("second"));
        for (response, id) in [(first, "first"), (second, "second")] {
            let body =
                axum::body::to_bytes(response.expect("infallible").into_body(), 1024).await.expect("a body");
            assert_eq!(body, format!("Some(\"{id}\")"));
        }
        assert!(current().headers.is_empty());
    }
}
