//! State, routes and serving: the whole service on one screen.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::{Listener, ListenerExt};
use lifecycle::{Draining, FIRST_REQUEST, Shutdown};
use telemetry::Spans;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::error;

use crate::health::Health;
use crate::pet_client::PetClient;
use crate::{api, error, health, openapi};

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct AppState {
    pub(crate) pets: PetClient,
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
        sleep(linger).await;
    };
    let idle = Arc::new(Notify::new());
    let listener = Accepting { draining: Draining::new(listener, over), idle: Arc::clone(&idle) };
    let stop = async move { idle.notified().await };
    // A response must not wait for the acknowledgement of the one before it.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    if let Err(failure) = axum::serve(listener, router(state)).with_graceful_shutdown(stop).await {
        error!("cannot serve any longer: {failure}");
    }
}

/// Says when the connections without a request may be closed: not before those accepted last had the time to send one.
struct Accepting {
    draining: Draining,
    idle: Arc<Notify>,
}

impl Listener for Accepting {
    type Io = TcpStream;
    /// No handler asks for the peer, which is the sidecar.
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        if let Some(stream) = self.draining.accept().await {
            return (stream, ());
        }
        sleep(FIRST_REQUEST).await;
        self.idle.notify_one();
        pending().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

/// Every route; unknown paths and wrong methods are answered in JSON as well.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/petstore/{id}", get(api::petstore))
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
    /// `pets` is how pet is reached.
    #[must_use]
    pub fn new(pets: PetClient, shutdown: Shutdown) -> Self {
        Self { pets, health: Health::default(), shutdown, spans: Spans::default() }
    }

    /// Sends a span for each request and each call to pet to `spans`.
    #[must_use]
    pub fn with_spans(self, spans: Spans) -> Self {
        Self { pets: self.pets.with_spans(spans.clone()), spans, ..self }
    }
}

async fn announce_shutdown(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if state.shutdown.is_requested() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
