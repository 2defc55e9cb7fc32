//! The two requests that discovery makes of Kubernetes: list and watch EndpointSlices.
//!
//! kube's `Client` gives transport, TLS and a certificate authority that is read again when it changes. Its retries are left
//! out (they hide minutes of 503 from us), and its `watcher` is not used: it does not turn a 410 at the start of a watch
//! into a new list, resets its backoff at every attempt, and hides bookmarks. The token file is read for each request,
//! at most a few a minute, so that a rotated token counts at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::api::{ListParams, WatchParams};
use kube::client::{Body, ClientBuilder, ConfigExt};
use tokio::time::timeout;

use super::error::WatchError;
use super::timing::Timing;
use super::wire::{Event, Lines, Page, Status};
use crate::settings::Kubernetes;
use crate::slice::{EndpointSlice, SliceKey};

/// The largest page of a list that we take.
const LARGEST_PAGE: usize = 256 << 20;
/// The largest error text that we take.
const LARGEST_ERROR: usize = 64 << 10;
/// TCP keepalive finds a dead peer below a watch that has nothing to say.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How often a list starts over because its version has expired between two pages, before it asks for one page only.
const PAGED_TRIES: u32 = 3;

/// A way to the API server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    requests: kube::core::Request,
    token_path: Option<PathBuf>,
    timing: Timing,
}

/// A whole list at one version.
#[derive(Debug)]
pub(super) struct Listing {
    pub version: String,
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
}

/// A running watch.
pub(super) struct Events {
    body: Body,
    lines: Lines,
}

impl Api {
    /// Opens no connection yet; fails when the certificate authority cannot be read.
    pub fn new(kubernetes: &Kubernetes, timing: Timing) -> Result<Self, WatchError> {
        let unusable = |error: kube::Error| WatchError::Unreachable(causes(&error));
        let mut config = kube::Config::new(kubernetes.api_host.clone());
        config.root_cert_file.clone_from(&kubernetes.ca_path);
        if kubernetes.api_host.scheme_str() == Some("http") || kubernetes.ca_path.is_some() {
            // Else every new client reads all certificates of the operating system, for nothing; and where there are none, as in an
            // image FROM scratch, it is an error even with an authority of our own.
            config.root_cert = Some(Vec::new());
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timing.connect));
        connector.set_keepalive(Some(KEEPALIVE));
        let connector = config.rustls_https_connector_with_connector(connector).map_err(unusable)?;
        let client = HyperClient::builder(TokioExecutor::new()).build(connector);
        let client = ClientBuilder::new(client, kubernetes.namespace.as_str())
            .with_layer(&config.base_uri_layer())
            .build();
        Ok(Self::with_client(client, kubernetes, timing))
    }

    /// Over a client of the caller's making.
    pub fn with_client(client: kube::Client, kubernetes: &Kubernetes, timing: Timing) -> Self {
        let path = match kubernetes.all_namespaces {
            true => "/apis/discovery.k8s.io/v1/endpointslices".to_owned(),
            false => format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", kubernetes.namespace),
        };
        let requests = kube::core::Request::new(path);
        Self { client, requests, token_path: kubernetes.token_path.clone(), timing }
    }

    /// Everything, page by page, at a version that the API server guarantees to be current.
    pub(super) async fn list(&self) -> Result<Listing, WatchError> {
        for _ in 0..PAGED_TRIES {
            match self.list_pages(Some(self.timing.page_size)).await {
                Err(WatchError::Expired) => {}
                result => return result,
            }
        }
        self.list_pages(None).await
    }

    async fn list_pages(&self, limit: Option<u32>) -> Result<Listing, WatchError> {
        let mut params = ListParams { limit, ..ListParams::default() };
        let mut slices = BTreeMap::new();
        loop {
            let request = self.requests.list(&params).map_err(|error| unbuildable(&error))?;
            let page = timeout(self.timing.page, self.page(request)).await;
            let page = page.map_err(|_| WatchError::Stalled("list"))??;
            slices.extend(page.items.unwrap_or_default().into_iter().map(|slice| (slice.key(), slice)));
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next),
                None => return Ok(Listing { version: page.metadata.resource_version, slices }),
            }
        }
    }

    async fn page(&self, request: Request<Vec<u8>>) -> Result<Page, WatchError> {
        let body = self.send(request).await?.into_body();
        let bytes = read(body, LARGEST_PAGE).await?;
        serde_json::from_slice(&bytes).map_err(|error| WatchError::Garbage(format!("{error} in a list")))
    }

    /// The version that the API server is at now.
    pub(super) async fn version(&self) -> Result<String, WatchError> {
        let params = ListParams { limit: Some(1), ..ListParams::default() };
        let request = self.requests.list(&params).map_err(|error| unbuildable(&error))?;
        let page = timeout(self.timing.page, self.page(request)).await;
        Ok(page.map_err(|_| WatchError::Stalled("list"))??.metadata.resource_version)
    }

    /// Everything that changes after `version`. Returns when the API server has agreed.
    pub(super) async fn watch(&self, version: &str) -> Result<Events, WatchError> {
        let seconds = self.timing.watch.as_secs().max(1);
        let params = WatchParams { timeout: u32::try_from(seconds).ok(), ..WatchParams::default() };
        let request = self.requests.watch(&params, version).map_err(|error| unbuildable(&error))?;
        let response = timeout(self.timing.answer, self.send(request)).await;
        let response = response.map_err(|_| WatchError::Stalled("answer to a watch"))??;
        Ok(Events { body: response.into_body(), lines: Lines::default() })
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, WatchError> {
        let mut request = request.map(Body::from);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = self.token()? {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        let response = self.client.send(request).await.map_err(|e| WatchError::Unreachable(causes(&e)))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    fn token(&self) -> Result<Option<HeaderValue>, WatchError> {
        let Some(path) = &self.token_path else { return Ok(None) };
        let place = path.display();
        let token = std::fs::read_to_string(path).map_err(|error| {
            WatchError::Unreachable(format!("the token file {place} cannot be read: {error}"))
        })?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| WatchError::NoToken(format!("{place} does not hold one")))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Events {
    /// The next event, and those that have arrived with it once [`Events::ready`] is asked; `None`
    /// when the API server has ended the watch in good order. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Event>, WatchError> {
        loop {
            if let Some(event) = self.lines.next() {
                return event.map(Some);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(WatchError::Broken(causes(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.lines.push(&bytes)?;
                    }
                }
            }
        }
    }

    /// One more event if it is here already: what belongs together is published together.
    pub fn ready(&mut self) -> Option<Result<Event, WatchError>> {
        self.lines.next()
    }
}

async fn read(body: Body, limit: usize) -> Result<Bytes, WatchError> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(WatchError::Garbage(format!("an answer is larger than {limit} bytes")))
        }
        Err(error) => Err(WatchError::Broken(chain(error.as_ref()))),
    }
}

async fn refusal(response: Response<Body>) -> WatchError {
    let status = response.status();
    let wait =
        response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let text = read(response.into_body(), LARGEST_ERROR).await.unwrap_or_default();
    // API priority and fairness, and the proxies in between, answer in plain text.
    let message = serde_json::from_slice::<Status>(&text).map(|status| status.message);
    let message =
        message.unwrap_or_else(|_| String::from_utf8_lossy(&text).trim().chars().take(200).collect());
    match status {
        StatusCode::UNAUTHORIZED => WatchError::Unauthorized,
        StatusCode::FORBIDDEN => WatchError::Forbidden(message),
        StatusCode::GONE => WatchError::Expired,
        StatusCode::TOO_MANY_REQUESTS => WatchError::Throttled { wait: wait.map(Duration::from_secs) },
        _ => WatchError::Refused { status: status.as_u16(), message },
    }
}

fn unbuildable(error: &kube::core::request::Error) -> WatchError {
    WatchError::Unreachable(chain(error))
}

/// What is below kube's own wrapping.
fn causes(error: &kube::Error) -> String {
    match error {
        kube::Error::Service(inner) => chain(inner.as_ref()),
        other => chain(other),
    }
}

/// An error with its causes: the outermost alone says little more than "client error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}
