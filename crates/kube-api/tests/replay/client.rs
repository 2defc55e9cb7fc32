//! A client that sends recorded bytes over a bare socket and looks at what comes back.
//!
//! Called by `main`.

use kube_api::Server;
use kube_api::recording::wire::{self, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    // Bytes of the body that `line` has handed out.
    taken: usize,
}

impl Client {
    pub async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.plain_addr().unwrap()).await.unwrap();
        Self { stream, received: Vec::new(), taken: 0 }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Waits for the head of the answer.
    pub async fn head(&mut self) {
        while wire::parse(&self.received).is_none() {
            assert!(self.read().await, "closed before the head");
        }
    }

    /// The next line of the body.
    pub async fn line(&mut self) -> Vec<u8> {
        loop {
            let body = wire::parse(&self.received).map(|response| response.body).unwrap_or_default();
            let rest = body.get(self.taken..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                self.taken += end + 1;
                return rest[..end].to_vec();
            }
            assert!(self.read().await, "closed in the middle of a line");
        }
    }

    /// The whole answer, up to its end or that of the connection.
    pub async fn response(&mut self) -> Response {
        loop {
            match wire::parse(&self.received) {
                Some(response) if response.complete => return response,
                response => {
                    if !self.read().await {
                        return response.expect("an answer");
                    }
                }
            }
        }
    }

    /// Whether no byte has come.
    pub fn has_nothing(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    async fn read(&mut self) -> bool {
        // A cut connection may show as a reset.
        self.stream.read_buf(&mut self.received).await.unwrap_or(0) > 0
    }
}
