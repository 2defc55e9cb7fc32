//! HTTP/2 with prior knowledge: requests share a few kept connections, as many at a time as the server allows.
//!
//! A connection that is going away gets no new request, and the next request opens another one; nothing is sent twice. Streams
//! that the server says it has not processed (RST_STREAM with REFUSED_STREAM, or above the last id of a GOAWAY) are told from
//! those that broke.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::http::{self, Answer, Failure, MAX_BODY};

/// Connections that the load keeps, so that a rolling restart finds some on every pod of the ingress.
const CONNECTIONS: usize = 4;

/// How long opening one may take; the requests that wait for it are under way meanwhile.
const CONNECT: Duration = Duration::from_secs(10);

/// The connections of one load.
pub struct Multiplexed {
    address: SocketAddr,
    slots: [Mutex<Option<SendRequest<Bytes>>>; CONNECTIONS],
    next: AtomicUsize,
}

impl Multiplexed {
    /// None is open yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, slots: Default::default(), next: AtomicUsize::new(0) }
    }

    /// Sends a GET on the connection whose turn it is and reads the whole answer.
    ///
    /// # Errors
    /// There was no complete answer.
    pub async fn exchange(&self, host: &str, path: &str, agent: &str) -> Result<Answer, Failure> {
        let mut sender = self.connection().await?;
        let request = ::http::Request::get(format!("http://{host}{path}")).version(::http::Version::HTTP_2);
        let request = request.header("user-agent", agent).body(());
        let request = request.map_err(|error| Failure::Broken(error.to_string()))?;
        let sent = sender.send_request(request, true).map_err(|error| failure("before an answer", &error));
        let (response, _) = sent?;
        let (head, body) = response.await.map_err(|error| failure("before an answer", &error))?.into_parts();
        let status = head.status.as_u16();
        let body =
            read(body).await.map_err(|error| failure(&format!("within the answer {status}"), &error))?;
        Ok(Answer { status, headers: head.headers, body })
    }

    /// A connection that takes a request: which one is going away is known before anything is sent on it.
    async fn connection(&self) -> Result<SendRequest<Bytes>, Failure> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let mut slot = self.slots[turn].lock().await;
        if let Some(sender) = slot.take()
            && let Ok(ready) = sender.ready().await
        {
            *slot = Some(ready.clone());
            return Ok(ready);
        }
        let opened = tokio::time::timeout(CONNECT, connect(self.address)).await;
        let opened = opened.unwrap_or_else(|_| Err(Failure::Broken("cannot connect in time".to_owned())))?;
        *slot = Some(opened.clone());
        Ok(opened)
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Bytes>, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|error| http::cannot_connect(&error))?;
    let handshake = h2::client::handshake(stream).await;
    let (sender, connection) = handshake.map_err(|error| failure("handshake", &error))?;
    // Its errors are those of the streams, which report them.
    tokio::spawn(connection);
    sender.ready().await.map_err(|error| failure("handshake", &error))
}

async fn read(mut body: h2::RecvStream) -> Result<String, h2::Error> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if whole.len() + piece.len() > MAX_BODY {
            return Err(Reason::CANCEL.into());
        }
        whole.extend_from_slice(&piece);
    }
    body.trailers().await?;
    Ok(String::from_utf8_lossy(&whole).into_owned())
}

/// Whether the server has said of this stream that it was not processed.
fn failure(place: &str, error: &h2::Error) -> Failure {
    let refused = error.is_remote()
        && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)));
    if refused {
        Failure::NotProcessed(format!("{place}: {error}"))
    } else {
        Failure::Broken(format!("{place}: {error:?}"))
    }
}
