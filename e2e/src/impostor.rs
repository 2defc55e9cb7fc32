//! An app that misbehaves, in the place of a pod's own: it reads requests and gives a bad response.
//!
//! Probes get a good response, so that nothing but the responses themselves tells the mesh that
//! something is wrong.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The longest request headers that it reads, bytes.
const MAX_HEADERS: usize = 16 * 1024;

/// A right response: what pet says of each store, or nearly so.
const PETS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 25\r\n\r\n\
                      [{\"name\":\"Toby\",\"age\":5}]";

/// What it does with a request that is no probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A complete response with status 500.
    InternalError,
    /// Closes the connection at once.
    Closes,
    /// Bytes that are no HTTP.
    Garbage,
    /// A right response, after so long.
    Slow(Duration),
}

/// It listens as long as this value lives.
#[derive(Debug)]
pub struct Impostor {
    /// Where.
    pub address: SocketAddr,
    misbehaved: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Impostor {
    /// Listens on a free port of an address of this machine.
    pub async fn start(host: IpAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let misbehaved = Arc::new(AtomicUsize::new(0));
        let count = misbehaved.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, manner, count.clone()));
            }
        });
        Self { address, misbehaved, task }
    }

    /// How many requests it has answered badly.
    #[must_use]
    pub fn misbehaved(&self) -> usize {
        self.misbehaved.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. Its callers may go at any time, which is no failure of the test.
async fn serve(mut stream: TcpStream, manner: Manner, count: Arc<AtomicUsize>) {
    while let Some(headers) = headers(&mut stream).await {
        let path = headers.split(' ').nth(1).unwrap_or_default();
        let probe = path.starts_with("/readyz") || path.starts_with("/livez");
        if !probe {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let (response, stays): (&[u8], bool) = match manner {
            _ if probe => (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", true),
            Manner::InternalError => {
                (b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nsorry\n", true)
            }
            Manner::Slow(delay) => {
                tokio::time::sleep(delay).await;
                (PETS, true)
            }
            Manner::Closes => (b"", false),
            Manner::Garbage => (b"\x16\x03\x01\x00\xff\r\n\x00HTTP/9 :)\r\n\r\n\xff\xfe", false),
        };
        if stream.write_all(response).await.is_err() || !stays {
            return;
        }
    }
}

/// The headers of the next request; none at the end of the connection. No caller sends a body.
async fn headers(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.ok()?;
        bytes.push(byte);
        if bytes.len() > MAX_HEADERS {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
