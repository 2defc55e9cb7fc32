//! A server that answers with recorded bytes, each piece sent on its own as it was recorded.
//!
//! Lists and gets are answered from one script, watches from another. The last list repeats; when the watches are used
//! up, a watch gets its headers and then silence.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Ending, Recording, wire};

/// A request head larger than this ends the connection.
const MAX_HEAD: usize = 64 * 1024;
const SILENT_WATCH: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A running replay on plain HTTP; it ends when dropped.
#[derive(Debug)]
pub struct Replay {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Script {
    lists: Vec<Recording>,
    watches: Vec<Recording>,
    // First line of each request so far.
    requests: Vec<String>,
}

impl Replay {
    /// Serves these on a free port of 127.0.0.1. Requests other than watches are answered by `lists` in order.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(lists: Vec<Recording>, watches: Vec<Recording>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Mutex::new(Script { lists, watches, requests: Vec::new() }));
        let stop = CancellationToken::new();
        let (own, shared) = (stop.clone(), Arc::clone(&script));
        tokio::spawn(async move { own.run_until_cancelled(accept(listener, shared)).await });
        Ok(Self { address, script, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The first lines of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    while let Ok((stream, _)) = listener.accept().await {
        let (script, stop) = (Arc::clone(&script), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(converse(stream, script)).await });
    }
}

async fn converse(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer).await? {
        let line = String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or_default())
            .into_owned();
        let next = script.lock().unwrap_or_else(PoisonError::into_inner).next(line, wire::is_watch(&head));
        let Some(recording) = next else {
            stream.write_all(SILENT_WATCH).await?;
            // Silence until the client goes.
            while stream.read_buf(&mut buffer).await? > 0 && buffer.len() < MAX_HEAD {}
            return Ok(());
        };
        for piece in recording.pieces() {
            stream.write_all(piece).await?;
            stream.flush().await?;
            // Lets a reader in the same runtime see this piece alone.
            tokio::task::yield_now().await;
        }
        if recording.ending != Ending::Complete {
            return Ok(());
        }
    }
    Ok(())
}

async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = wire::find(buffer, b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            return Ok(Some(std::mem::replace(buffer, rest)));
        }
        if buffer.len() > MAX_HEAD || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

impl Script {
    fn next(&mut self, line: String, watch: bool) -> Option<Recording> {
        self.requests.push(line);
        let list = if watch { &mut self.watches } else { &mut self.lists };
        match list.len() {
            0 => None,
            1 if !watch => list.first().cloned(),
            _ => Some(list.remove(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_gets_the_recorded_bytes() {
        let list = Recording::named("02-list-limit").unwrap();
        let watch = Recording::named("13-watch-during-kill9").unwrap();
        let replay = Replay::start(vec![list.clone()], vec![watch.clone()]).await.unwrap();
        let mut stream = TcpStream::connect(replay.addr()).await.unwrap();
        let mut received = Vec::new();
        for recording in [&list, &watch] {
            stream.write_all(&recording.request).await.unwrap();
            received.clear();
            while received.len() < recording.response.len()
                && stream.read_buf(&mut received).await.unwrap() > 0
            {}
            assert!(received == recording.response, "{}", recording.name);
        }
        assert_eq!(stream.read_buf(&mut received).await.unwrap(), 0, "the killed server closes");
        assert_eq!(replay.requests().len(), 2);
    }
}
