//! A client over a bare socket: sends bytes, and looks at what comes back.

use kube_api::Server;
use kube_api::recording::wire::{self, Response};
use serde_json::Value;
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

    /// Sends a request and waits for the whole answer. `token` may be empty.
    pub async fn call(&mut self, method: &str, path: &str, token: &str, body: &Value) -> Response {
        self.start(method, path, token, body).await;
        self.response().await
    }

    /// GET without a token; the answer has to be JSON.
    pub async fn get(&mut self, path: &str) -> Value {
        let answer = self.call("GET", path, "", &Value::Null).await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Starts a watch without a token, and waits for its head.
    pub async fn watch(server: &Server, path: &str) -> Self {
        let mut client = Self::connect(server).await;
        client.start("GET", path, "", &Value::Null).await;
        client.head().await;
        client
    }

    /// The next event of a watch: its type, and the name in it.
    pub async fn event(&mut self) -> (String, String) {
        let event: Value = serde_json::from_slice(&self.line().await).unwrap();
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }

    async fn start(&mut self, method: &str, path: &str, token: &str, body: &Value) {
        self.received.clear();
        self.taken = 0;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let bearer =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\n{bearer}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes()).await;
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
            let answer = wire::parse(&self.received).unwrap_or_default();
            let rest = answer.body.get(self.taken..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                self.taken += end + 1;
                return rest[..end].to_vec();
            }
            assert!(!answer.complete && self.read().await, "the end in the middle of a line");
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

    /// Reads on until the last chunk.
    pub async fn last_chunk(&mut self) -> Response {
        // Without taking apart again and again what may be megabytes.
        while !self.received.ends_with(b"\r\n0\r\n\r\n") {
            assert!(self.read().await, "closed before the last chunk");
        }
        wire::parse(&self.received).expect("an answer")
    }

    /// Waits for the server to close the connection, with a half-sent chunk or without.
    pub async fn closed(&mut self) {
        while self.read().await {}
    }

    /// What has been received so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    async fn read(&mut self) -> bool {
        // A cut connection may show as a reset.
        self.stream.read_buf(&mut self.received).await.unwrap_or(0) > 0
    }
}
