//! HTTP/1 as raw bytes, for clients and upstreams, with a strict reading of what comes back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::proxy::DEADLINE;

/// One response as it stood on the wire.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    /// Everything before the body.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn header(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head).into_owned();
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The path of a request's head.
pub fn path(head: &[u8]) -> String {
    let line = String::from_utf8_lossy(head).into_owned();
    line.split(' ').nth(1).unwrap_or_default().to_owned()
}

pub struct Connection {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(address: SocketAddr) -> Self {
        Self::try_new(address).unwrap()
    }

    pub fn try_new(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        // A proxy that reads nothing more must not hold up the test for ever.
        stream.set_write_timeout(Some(DEADLINE))?;
        Self::over(stream)
    }

    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A proxy that has refused may close before all is written.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n"));
        self.response()
    }

    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
        }
    }

    /// The bytes up to and with `end`.
    pub fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..from + at + end.len()).collect());
            }
            from = self.buffer.len().saturating_sub(end.len());
            self.fill()?;
        }
    }

    pub fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Everything to the end of the connection; an error ends it too.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill().is_ok() {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the other side ends the connection without another byte.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.stream.read(&mut [0]), Ok(0))
    }

    /// The next response, informational ones included, to a request that was not HEAD.
    pub fn response(&mut self) -> io::Result<Response> {
        let head = self.until(b"\r\n\r\n")?;
        let line = String::from_utf8_lossy(&head).into_owned();
        let status = line.split(' ').nth(1).and_then(|word| word.get(..3)?.parse().ok());
        let mut response = Response { status: status.unwrap_or(0), head, body: Vec::new() };
        if (100..200).contains(&response.status) || [204, 304].contains(&response.status) {
            return Ok(response);
        }
        response.body = match self.body(&response.head)? {
            Some(body) => body,
            None => self.rest(),
        };
        Ok(response)
    }

    /// The body that this head announces; `None` when it announces none.
    pub fn body(&mut self, head: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if header(head, "transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                let line = self.until(b"\r\n")?;
                let size = String::from_utf8_lossy(&line).trim().to_owned();
                let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    while self.until(b"\r\n")? != b"\r\n" {}
                    return Ok(Some(body));
                }
                let chunk = self.exactly(size + 2)?;
                body.extend_from_slice(&chunk[..size]);
            }
        }
        let Some(length) = header(head, "content-length") else { return Ok(None) };
        self.exactly(length.parse().map_err(io::Error::other)?).map(Some)
    }
}

/// Sends these bytes on a connection of their own and reads it to its end.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = Connection::new(address);
    client.send(bytes);
    client.rest()
}
