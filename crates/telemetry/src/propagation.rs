//! Joins the requests that a service makes to the one that it is serving.
//!
//! A sidecar sees requests come in and go out but cannot know which belong together: only the service can say so, by
//! passing on the headers below. That is all a service has to do for tracing. They are passed on as they came, unless the
//! service makes spans of its own (`spans`): then they name its span in place of the caller's. A `traceparent` that is malformed
//! is dropped together with its `tracestate`, as W3C asks.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Sampling, TraceContext};

#[cfg(test)]
mod tests;

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

/// Middleware (`axum::middleware::from_fn`): keeps the trace headers of the request for as long as
/// it is served, in the task that serves it. Work moved to another task with `tokio::spawn` has to
/// take [`current`] along by itself.
pub async fn capture_trace_context(request: Request, next: Next) -> Response {
    let propagated = Propagated::from_headers(request.headers());
    within(propagated, next.run(request)).await
}

/// Runs `response` with `propagated` as what [`current`] gives.
pub(crate) async fn within<F: Future>(propagated: Propagated, response: F) -> F::Output {
    CURRENT.scope(propagated, response).await
}

/// The trace headers of the current request; none outside of [`capture_trace_context`].
#[must_use]
pub fn current() -> Propagated {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Adds the trace headers of the current request to an outgoing one, in place of any with the same
/// names.
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
