//! One log line for each request to a service, with the id that joins it to the sidecars' access
//! logs.

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, Uri};
use tracing::info;

use crate::propagation::current;

/// Middleware (`axum::middleware::from_fn`): writes the line when the response head is ready, at level `info` under the
/// target `access`. A request whose client went away before that is written with status 0, as Envoy does.
pub async fn access_log(request: Request, next: Next) -> Response {
    let mut entry = Entry {
        method: request.method().clone(),
        uri: request.uri().clone(),
        start: Instant::now(),
        status: 0,
    };
    let response = next.run(request).await;
    entry.status = response.status().as_u16();
    response
}

/// Written when dropped, since that is all that happens to a request whose client went away.
struct Entry {
    method: Method,
    uri: Uri,
    start: Instant,
    status: u16,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let propagated = current();
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        info!(
            target: "access",
            request_id = propagated.request_id().unwrap_or("-"),
            trace_id = propagated.trace().map(|trace| format!("{:032x}", trace.trace_id)),
            method = %self.method,
            path,
            status = self.status,
            duration_us = micros,
        );
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use axum::{Router, http::StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::capture_trace_context;
    use crate::logs::tests::Lines;

    fn router() -> Router {
        Router::new()
            .route("/pets", get(|| async { StatusCode::IM_A_TEAPOT }))
            .route("/slow", get(std::future::pending::<()>))
            .layer(from_fn(access_log))
            .layer(from_fn(capture_trace_context))
    }

    fn request(path: &str) -> Request {
        let b3 = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
        let request = Request::builder().uri(path).header("x-request-id", "id-7").header("b3", b3);
        request.body(Body::empty()).unwrap_or_default()
    }

    #[tokio::test]
    async fn one_line_says_what_was_asked_and_answered() {
        let lines = Lines::default();
        let (_guard, _handle) = lines.capture(true);
        let _ = router().oneshot(request("/pets?petStoreId=2")).await;
        let line: serde_json::Value = serde_json::from_str(&lines.text()).expect("one JSON line");
        assert_eq!(line["target"], "access");
        assert_eq!(line["request_id"], "id-7");
        assert_eq!(line["trace_id"], "80f198ee56343ba864fe8b2a57d3eff7");
        assert_eq!(line["method"], "GET");
        assert_eq!(line["path"], "/pets?petStoreId=2");
        assert_eq!(line["status"], 418);
        assert!(line["duration_us"].is_u64());
    }

    #[tokio::test]
    async fn a_client_that_goes_away_is_written_with_status_0() {
        let lines = Lines::default();
        let (_guard, _handle) = lines.capture(true);
        let response = tokio::spawn(router().oneshot(request("/slow")));
        tokio::task::yield_now().await;
        response.abort();
        assert!(response.await.is_err());
        let line: serde_json::Value = serde_json::from_str(&lines.text()).expect("one JSON line");
        assert_eq!((&line["status"], &line["request_id"]), (&0.into(), &"id-7".into()));
    }
}
