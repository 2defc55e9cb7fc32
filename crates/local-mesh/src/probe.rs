//! One small HTTP request: is the pod ready, does the mesh answer?

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A probe that takes longer has failed; the next one follows at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Enough for a status line and the small answers that are asked for.
const MAX_ANSWER: usize = 16 * 1024;

/// The status of `GET path` on a connection of its own, or none if there was no answer.
pub async fn get(address: Ipv4Addr, port: u16, path: &str) -> Option<u16> {
    timeout(PATIENCE, request(SocketAddrV4::new(address, port), path)).await.ok()?.ok()?
}

async fn request(address: SocketAddrV4, path: &str) -> std::io::Result<Option<u16>> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: petmesh-probe\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER as u64).read_to_end(&mut answer).await?;
    Ok(status(&answer))
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.1 ")?;
    line.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_and_noise_is_not() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.1 503 \r\n"), Some(503));
        assert_eq!(status(b"HTTP/1.1 \r\n"), None);
        assert_eq!(status(b"SSH-2.0\r\n"), None);
        assert_eq!(status(b""), None);
    }
}
