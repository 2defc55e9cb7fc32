//! State, routes and serving: the whole service on one screen.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::{Listener, ListenerExt};
use lifecycle::Shutdown;
use telemetry::Spans;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tracing::error;

use crate::health::Health;
use crate::{api, error, health, openapi};

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct AppState {
    pub(crate) delay: Duration,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
    pub(crate) spans: Spans,
}

/// Answers requests until shutdown is requested and for `linger` after that, then finishes those in flight and returns.
///
/// A caller that has not heard of the shutdown yet is thus still served; `/readyz` says 503 and every answer
/// `Connection: close`, so that it hears.
pub async fn serve(listener: TcpListener, state: AppState, linger: Duration) {
    let shutdown = state.shutdown.clone();
    let over = async move {
        shutdown.requested().await;
        tokio::time::sleep(linger).await;
    };
    let idle = Arc::new(Notify::new());
    let listener = Draining { listener, over: Box::pin(over), idle: Arc::clone(&idle) };
    let stop = async move { idle.notified().await };
    // A response must not wait for the acknowledgement of the one before it.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    if let Err(failure) = axum::serve(listener, router(state)).with_graceful_shutdown(stop).await {
        error!("cannot serve any longer: {failure}");
    }
}

/// A listener that stops only when no connection waits to be accepted: closing it would reset those.
struct Draining {
    listener: TcpListener,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    idle: Arc<Notify>,
}

impl Listener for Draining {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        tokio::select! {
            biased;
            accepted = Listener::accept(&mut self.listener) => accepted,
            () = &mut self.over => {
                self.idle.notify_one();
                std::future::pending().await
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Every route; unknown paths and wrong methods are answered in JSON as well.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/pets", get(api::pets))
        .route("/health", get(health::get))
        .route("/health/{status}", post(health::set))
        .route("/openapi.json", get(openapi::document))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn(telemetry::access_log))
        .layer(from_fn_with_state(state.spans.clone(), telemetry::trace_requests))
        // Probes come every second or two: they are neither logged nor traced.
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), announce_shutdown))
        .with_state(state)
}

impl AppState {
    /// `delay` holds back each answer of `/pets`.
    #[must_use]
    pub fn new(delay: Duration, shutdown: Shutdown) -> Self {
        Self { delay, health: Health::default(), shutdown, spans: Spans::default() }
    }

    /// Sends a span for each request to `spans`.
    #[must_use]
    pub fn with_spans(self, spans: Spans) -> Self {
        Self { spans, ..self }
    }
}

async fn announce_shutdown(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if state.shutdown.is_requested() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
