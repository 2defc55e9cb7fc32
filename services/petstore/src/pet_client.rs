//! Asks pet for the pets of a store, through the sidecar: `GET {sidecar}/pets?petStoreId=ID` with `Host: pet`.
//!
//! The `Host` header is all that tells the sidecar where the request goes. Retries, balancing and
//! circuit breaking are the sidecar's; here is only what a client of a keep-alive server must do by
//! itself: a connection that the sidecar closes at the moment when it is used again fails before
//! any answer, and the request, a GET, is sent once more on a new one.

use std::num::NonZeroU64;
use std::time::Duration;

use reqwest::header::{ACCEPT, HOST, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use serde::{Deserialize, Serialize};
use telemetry::{Span, Spans};
use utoipa::ToSchema;

/// Two pets take 60 bytes; a body beyond this is no list of pets.
const MAX_BODY: usize = 64 * 1024;

/// A client of pet. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct PetClient {
    pets: Url,
    timeout: Duration,
    pooled: Client,
    /// Keeps no connection, so that none of its requests meets a closed one.
    fresh: Client,
    spans: Spans,
}

/// A pet for sale, as pet describes it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub(crate) struct Pet {
    #[schema(example = "Toby")]
    name: String,
    /// In years.
    #[schema(example = 5)]
    age: u32,
}

/// Why there are no pets to list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PetError {
    #[error("pet answered {0}")]
    Answered(StatusCode),
    #[error("pet did not answer within {}", seconds(.0))]
    Timeout(Duration),
    #[error("pet cannot be reached: the sidecar does not accept connections")]
    Unreachable(#[source] reqwest::Error),
    #[error("pet was asked, but the connection ended before the whole answer")]
    Cut(#[source] reqwest::Error),
    #[error("pet answered with more than {MAX_BODY} bytes")]
    TooLarge,
    #[error("pet answered with something that is no list of pets")]
    NotPets(#[source] serde_json::Error),
}

impl PetClient {
    /// `sidecar` is the sidecar's outbound listener, without a path; `timeout` spans a request from connecting to the last byte.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up or `sidecar` cannot carry a path.
    pub fn new(sidecar: &Url, timeout: Duration) -> anyhow::Result<Self> {
        // No proxy from the environment, no redirects: each request goes to the sidecar and nowhere else.
        let client = || Client::builder().no_proxy().redirect(redirect::Policy::none());
        Ok(Self {
            pets: sidecar.join("/pets")?,
            timeout,
            pooled: client().build()?,
            fresh: client().pool_max_idle_per_host(0).build()?,
            spans: Spans::default(),
        })
    }

    /// Sends a span for each call to `spans`.
    #[must_use]
    pub(crate) fn with_spans(self, spans: Spans) -> Self {
        Self { spans, ..self }
    }

    /// The pets of `store`; never an empty list in place of a failure.
    pub(crate) async fn pets_of(&self, store: NonZeroU64) -> Result<Vec<Pet>, PetError> {
        let mut url = self.pets.clone();
        url.query_pairs_mut().append_pair("petStoreId", &store.to_string());
        let mut span = self.spans.client("pet", &Method::GET, url.as_str());
        let pets = self.fetch(url, &mut span).await;
        if let Err(error) = &pets {
            span.failed(error.kind());
        }
        pets
    }

    async fn fetch(&self, url: Url, span: &mut Span) -> Result<Vec<Pet>, PetError> {
        let fetch = async {
            let response = self.ask(url, span).await?;
            span.responded(response.status());
            match response.status() {
                StatusCode::OK => read_body(response).await,
                other => Err(PetError::Answered(other)),
            }
        };
        let body = tokio::time::timeout(self.timeout, fetch)
            .await
            .map_err(|_| PetError::Timeout(self.timeout))??;
        serde_json::from_slice(&body).map_err(PetError::NotPets)
    }

    async fn ask(&self, url: Url, span: &Span) -> Result<Response, PetError> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("pet"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        span.propagate(&mut headers);
        match self.pooled.get(url.clone()).headers(headers.clone()).send().await {
            Err(error) if !error.is_connect() => self.fresh.get(url).headers(headers).send().await,
            answer => answer,
        }
        .map_err(|error| if error.is_connect() { PetError::Unreachable(error) } else { PetError::Cut(error) })
    }
}

impl PetError {
    /// In one word, for the span.
    fn kind(&self) -> String {
        let kind = match self {
            PetError::Answered(status) => return status.as_str().to_owned(),
            PetError::Timeout(_) => "timeout",
            PetError::Unreachable(_) => "unreachable",
            PetError::Cut(_) => "cut",
            PetError::TooLarge => "too_large",
            PetError::NotPets(_) => "not_pets",
        };
        kind.to_owned()
    }
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, PetError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(PetError::Cut)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(PetError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
