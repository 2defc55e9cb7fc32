//! Clients that begin a request and leave.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::proxy::Proxy;

/// How much of a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// A GET.
    None,
    /// A body that has come whole.
    Whole,
    /// A body whose end is missing.
    Begun,
    /// So much of a body that the proxy does not read all of it before it is wanted.
    Unread,
    /// A GET that asks for another protocol.
    Upgrade,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// HTTP/1: its side ends. HTTP/2: the stream is reset.
    Gently,
    /// HTTP/1: the connection is reset. HTTP/2: the connection is closed.
    Rudely,
}

pub enum Client {
    Http1(Http1),
    Http2(Http2),
}

impl Client {
    pub fn leave(self, how: Leave) {
        match self {
            Self::Http1(client) => client.leave(how),
            Self::Http2(client) => client.leave(how),
        }
    }
}

impl Upload {
    /// The length that is announced, and what is sent of it.
    fn body(self) -> Option<(usize, usize)> {
        match self {
            Self::None | Self::Upgrade => None,
            Self::Whole => Some((1000, 1000)),
            Self::Begun => Some((1 << 30, 10)),
            Self::Unread => Some((1 << 30, 110_000)),
        }
    }
}

pub struct Http1(TcpStream);

impl Http1 {
    pub fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    pub fn start(proxy: &Proxy, path: &str, upload: Upload) -> Self {
        let mut client = Self::connect(proxy.one);
        let more = match upload.body() {
            Some((length, _)) => format!("content-length: {length}\r\n"),
            None if upload == Upload::Upgrade => "connection: upgrade\r\nupgrade: websocket\r\n".into(),
            None => String::new(),
        };
        let method = if upload.body().is_some() { "POST" } else { "GET" };
        write!(client.0, "{method} {path} HTTP/1.1\r\nhost: here\r\n{more}\r\n").unwrap();
        if let Some((_, sent)) = upload.body() {
            client.0.write_all(&vec![b'x'; sent]).unwrap();
        }
        client
    }

    /// Writes until nothing is taken any more.
    pub fn fill(&mut self) {
        self.0.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let block = vec![b'x'; 1 << 20];
        loop {
            match self.0.write(&block) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn leave(self, how: Leave) {
        match how {
            Leave::Gently => {
                self.0.shutdown(Shutdown::Write).unwrap();
                // The other side may still be open: a half-close is what the proxy sees.
                std::mem::forget(self.0);
            }
            Leave::Rudely => {
                socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    }
}

pub struct Http2 {
    runtime: tokio::runtime::Runtime,
    stream: h2::SendStream<bytes::Bytes>,
    _response: h2::client::ResponseFuture,
    driver: tokio::task::JoinHandle<()>,
}

impl Http2 {
    pub fn start(proxy: &Proxy, path: &str, upload: Upload) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stream, response, driver) = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(("127.0.0.1", proxy.one)).await.unwrap();
            let (send, connection) = h2::client::handshake(socket).await.unwrap();
            let driver = tokio::spawn(async move {
                // It ends with the test.
                let _ = connection.await;
            });
            let mut send = send.ready().await.unwrap();
            let mut request = http::Request::post(format!("http://here{path}"));
            if let Some((length, _)) = upload.body() {
                request = request.header("content-length", length);
            }
            let end = upload.body().is_none();
            let (response, mut stream) = send.send_request(request.body(()).unwrap(), end).unwrap();
            if let Some((length, sent)) = upload.body() {
                stream.send_data(vec![b'x'; sent].into(), length == sent).unwrap();
            }
            (stream, response, driver)
        });
        Self { runtime, stream, _response: response, driver }
    }

    fn leave(mut self, how: Leave) {
        match how {
            Leave::Gently => {
                self.stream.send_reset(h2::Reason::CANCEL);
                // The driver has to send it.
                std::mem::forget(self.runtime);
            }
            Leave::Rudely => {
                self.driver.abort();
                self.runtime.shutdown_background();
            }
        }
    }
}
