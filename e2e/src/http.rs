//! One HTTP request on a connection of its own: nothing is pooled, retried or followed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest answer that a test reads, bytes.
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// No test waits longer for an answer; Envoy's own route timeout is 15 s.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that can carry one request at a time.
pub type Connection = SendRequest<Empty<Bytes>>;

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its header fields.
    pub headers: http::HeaderMap,
    /// Its body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.body))
    }
}

/// Why there was no complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The connection was refused: the request was never accepted.
    Refused,
    /// The server says that it has not processed the request (HTTP/2: REFUSED_STREAM, or above a GOAWAY's last id).
    NotProcessed(String),
    /// The connection or the exchange broke.
    Broken(String),
    /// No answer in time.
    Timeout,
}

/// Opens a connection.
///
/// # Errors
/// It is refused or fails otherwise.
pub async fn connect(address: SocketAddr) -> Result<Connection, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| cannot_connect(&error))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| Failure::Broken(format!("handshake: {error}")))?;
    // Its errors are those of the exchange, which the sender reports.
    tokio::spawn(connection);
    Ok(sender)
}

/// Whether a connection was refused, or failed otherwise.
pub(crate) fn cannot_connect(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Failure::Refused,
        _ => Failure::Broken(format!("cannot connect: {error}")),
    }
}

/// Sends a GET and reads the whole answer.
///
/// # Errors
/// The exchange broke off.
pub async fn exchange(
    connection: &mut Connection,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, Failure> {
    send(connection, http::Request::get(path).header("host", host), headers).await
}

/// The same with another method.
async fn send(
    connection: &mut Connection,
    mut request: http::request::Builder,
    headers: &[(&str, &str)],
) -> Result<Answer, Failure> {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::new()).map_err(|error| Failure::Broken(error.to_string()))?;
    let response = connection.send_request(request).await;
    let response = response.map_err(|error| Failure::Broken(format!("before an answer: {error:?}")))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body =
        body.map_err(|error| Failure::Broken(format!("within the answer {}: {error:?}", head.status)))?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    })
}

/// One GET on a new connection.
///
/// # Errors
/// There was no complete answer in time.
pub async fn get(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, Failure> {
    let whole = async { exchange(&mut connect(address).await?, host, path, headers).await };
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or(Err(Failure::Timeout))
}

/// One POST without a body on a new connection.
///
/// # Errors
/// There was no complete answer in time.
pub async fn post(address: SocketAddr, host: &str, path: &str) -> Result<Answer, Failure> {
    let request = http::Request::post(path).header("host", host);
    let whole = async { send(&mut connect(address).await?, request, &[]).await };
    tokio::time::timeout(PATIENCE, whole).await.unwrap_or(Err(Failure::Timeout))
}
