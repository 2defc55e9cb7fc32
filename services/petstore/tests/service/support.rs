//! A petstore on a port of its own, and a sidecar that says what the test tells it to.

use std::time::Duration;

use lifecycle::Lifecycle;
use petstore::{AppState, PetClient};
use reqwest::{Client, Method, Response, Url};
use serde_json::Value;
use telemetry::Spans;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub struct PetStore {
    pub url: String,
    pub lifecycle: Lifecycle,
    pub client: Client,
}

/// What the sidecar does with one request.
pub enum Answer {
    /// Sends these bytes and keeps the connection.
    Say(String),
    /// Closes the connection without a word.
    HangUp,
    /// Sends these bytes and closes the connection.
    Last(String),
    /// Never answers.
    Nothing,
}

/// Stands where the sidecar's outbound listener would.
pub struct Sidecar {
    pub url: String,
    /// The heads of the requests it got, each with the number of its connection.
    pub requests: mpsc::Receiver<(usize, String)>,
}

impl PetStore {
    pub async fn start(sidecar: &str) -> Result<Self> {
        Self::start_with(sidecar, Duration::from_secs(60), Duration::ZERO).await
    }

    pub async fn start_traced(sidecar: &str, spans: Spans) -> Result<Self> {
        Self::start_all(sidecar, Duration::from_secs(60), Duration::ZERO, spans).await
    }

    pub async fn start_with(sidecar: &str, timeout: Duration, linger: Duration) -> Result<Self> {
        Self::start_all(sidecar, timeout, linger, Spans::default()).await
    }

    async fn start_all(sidecar: &str, timeout: Duration, linger: Duration, spans: Spans) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let lifecycle = Lifecycle::manual();
        let shutdown = lifecycle.shutdown();
        let pets = PetClient::new(&Url::parse(sidecar)?, timeout)?;
        let state = AppState::new(pets, shutdown.clone()).with_spans(spans);
        shutdown.spawn(petstore::serve(listener, state, linger));
        Ok(Self { url, lifecycle, client: Client::builder().no_proxy().build()? })
    }

    pub async fn send(&self, method: Method, path: &str) -> Result<Response> {
        Ok(self.client.request(method, format!("{}{path}", self.url)).send().await?)
    }

    pub async fn get(&self, path: &str) -> Result<Response> {
        self.send(Method::GET, path).await
    }

    /// The status line, which the body repeats, and the words.
    pub async fn error(&self, method: Method, path: &str) -> Result<(u16, String)> {
        let response = self.send(method, path).await?;
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        let body: Value = response.json().await?;
        assert_eq!(body["status"], status, "{path}");
        Ok((status, body["error"].as_str().unwrap_or_default().to_owned()))
    }
}

impl Sidecar {
    /// Follows the script: one list of answers for each connection, in the order in which they are opened.
    pub async fn start(script: Vec<Vec<Answer>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (sender, requests) = mpsc::channel(16);
        tokio::spawn(async move {
            for (number, answers) in script.into_iter().enumerate() {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(converse(stream, number, answers, sender.clone()));
            }
            Ok::<(), std::io::Error>(())
        });
        Ok(Self { url, requests })
    }

    /// One connection, one request, one answer.
    pub async fn once(answer: Answer) -> Result<Self> {
        Self::start(vec![vec![answer]]).await
    }
}

pub fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn converse(
    mut stream: TcpStream,
    number: usize,
    answers: Vec<Answer>,
    requests: mpsc::Sender<(usize, String)>,
) -> Result {
    for answer in answers {
        let head = read_head(&mut stream).await?;
        requests.send((number, head)).await?;
        match answer {
            Answer::Say(bytes) => stream.write_all(bytes.as_bytes()).await?,
            Answer::HangUp => return Ok(()),
            Answer::Last(bytes) => return Ok(stream.write_all(bytes.as_bytes()).await?),
            Answer::Nothing => std::future::pending().await,
        }
    }
    // Keep-alive: the connection stays open after its last answer.
    std::future::pending().await
}

pub async fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}
