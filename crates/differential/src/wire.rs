//! HTTP/1 messages as they stand on the wire, read without judging them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The request line or the status line.
    pub line: String,
    /// `name: value`, names in lower case, sorted: the order of different names means nothing.
    pub headers: Vec<String>,
    pub body: String,
    pub trailers: Vec<String>,
    /// How the body ended: `length`, `chunked`, `close`, `none`, or `cut` when it ended early.
    pub framing: String,
}

impl Message {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            line.split_once(": ").filter(|(found, _)| *found == name).map(|(_, value)| value)
        })
    }

    /// A copy for a cluster that only listens: `-shadow` is added to its host.
    pub fn is_mirrored(&self) -> bool {
        let host = self.header("host").or(self.header(":authority"));
        host.is_some_and(|host| host.contains("-shadow"))
    }

    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// The largest body that is kept whole.
const KEPT: usize = 2048;

/// One end of a connection, or bytes that came from one.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    pub stream: S,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }
}

impl<'b> Connection<&'b [u8]> {
    pub fn of_bytes(bytes: &'b [u8]) -> Self {
        Self { stream: bytes, buffer: Vec::new() }
    }
}

impl<S: Read> Connection<S> {
    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(piece.get(..read).unwrap_or_default());
                Ok(())
            }
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            let place = self
                .buffer
                .get(from..)
                .and_then(|rest| rest.windows(end.len()).position(|window| window == end));
            if let Some(at) = place {
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

    /// Whether these bytes come next. Nothing is taken.
    pub fn begins_with(&mut self, bytes: &[u8]) -> io::Result<bool> {
        while self.buffer.len() < bytes.len() && bytes.starts_with(&self.buffer) {
            self.fill()?;
        }
        Ok(self.buffer.starts_with(bytes))
    }

    /// The head of the next message.
    pub fn head(&mut self) -> io::Result<Message> {
        let head = self.until(b"\r\n\r\n")?;
        let text: String = head.iter().map(|&byte| char::from(byte)).collect();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        Ok(Message { line, headers: fields(lines), ..Message::default() })
    }

    /// Reads the body behind a head. `bodiless`: the message has none, whatever its head says.
    pub fn body(&mut self, message: &mut Message, bodiless: bool, until_close: bool) {
        let mut body = Vec::new();
        let length = message.header("content-length").and_then(|length| length.parse::<usize>().ok());
        let chunked =
            message.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let (framing, whole) = if bodiless {
            ("none", Ok(()))
        } else if chunked {
            ("chunked", self.chunks(&mut body, &mut message.trailers))
        } else if let Some(length) = length {
            ("length", self.counted(length, &mut body))
        } else if until_close {
            ("close", self.rest(&mut body))
        } else {
            ("none", Ok(()))
        };
        framing.clone_into(&mut message.framing);
        if let Err(error) = whole {
            message.framing = format!("{framing}, {}", ended(&error));
        }
        message.body = shown(&body);
    }

    /// Waits for the end of the connection, which is always an error; what still comes is dropped.
    pub fn closed(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            self.fill()?;
        }
    }

    fn counted(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        while self.buffer.len() < length {
            if let Err(error) = self.fill() {
                body.append(&mut self.buffer);
                return Err(error);
            }
        }
        body.extend(self.buffer.drain(..length));
        Ok(())
    }

    fn chunks(&mut self, body: &mut Vec<u8>, trailers: &mut Vec<String>) -> io::Result<()> {
        loop {
            let line = self.until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                let mut found = Vec::new();
                loop {
                    let line = self.until(b"\r\n")?;
                    if line == b"\r\n" {
                        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
                        *trailers = fields(lines.into_iter());
                        return Ok(());
                    }
                    found.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
            }
            let chunk = self.exactly(size + 2)?;
            body.extend_from_slice(chunk.get(..size).unwrap_or_default());
        }
    }

    fn rest(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        let error = loop {
            if let Err(error) = self.fill() {
                break error;
            }
        };
        body.append(&mut self.buffer);
        if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) }
    }
}

/// The words for the end of a connection.
pub fn ended(error: &io::Error) -> &'static str {
    match error.kind() {
        // Whether a close becomes a reset depends on what was read before it, and so on time.
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted => "closed",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing comes",
        _ => "unreadable",
    }
}

/// Fields as a message has them.
pub fn fields<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<String> {
    let mut fields: Vec<String> = lines
        .map(|line| {
            // A name of HTTP/2 may begin with a colon.
            let at = line.char_indices().skip(1).find(|(_, c)| *c == ':').map_or(line.len(), |(at, _)| at);
            let (name, value) = line.split_at(at);
            format!("{}: {}", name.to_ascii_lowercase(), value.trim_start_matches(':').trim())
        })
        .collect();
    // Stable, so that the values of one name keep their order.
    fields.sort_by(|a, b| a.split(": ").next().cmp(&b.split(": ").next()));
    fields
}

/// A body as a message has it.
pub fn shown(body: &[u8]) -> String {
    if body.len() <= KEPT {
        return body.iter().map(|&byte| char::from(byte)).collect();
    }
    let sum = body.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("({} bytes, {sum:x})", body.len())
}
