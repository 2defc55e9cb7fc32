//! HTTP/2 (RFC 9113): frames as they stand on the wire, and messages made of them. Nothing is refused here, so that
//! the proxies decide.

use std::io;

use crate::case::{Request, latin};
use crate::hpack::{self, Decoder};
use crate::wire::{Connection, Message, fields, shown};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// What a stream or the connection is told when it ends early.
const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Either side of a connection.
#[derive(Debug)]
pub struct Peer {
    connection: Connection,
    decoder: Decoder,
}

/// What a stream got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block of fields, and whether it ends the stream.
    Fields(Vec<String>, bool),
    Data(Vec<u8>, bool),
    Reset(&'static str),
    /// The peer ends the connection.
    GoAway(&'static str),
}

impl Peer {
    /// The client's side: sends the preface.
    pub fn client(mut connection: Connection) -> io::Result<Self> {
        connection.send(&[PREFACE, &opening()].concat())?;
        Ok(Self { connection, decoder: Decoder::default() })
    }

    /// The server's side: the client has sent the preface.
    pub fn server(mut connection: Connection) -> io::Result<Self> {
        connection.exactly(PREFACE.len())?;
        connection.send(&opening())?;
        Ok(Self { connection, decoder: Decoder::default() })
    }

    pub fn stream(&self) -> &std::net::TcpStream {
        &self.connection.stream
    }

    /// Waits until the peer has said all that it says without a request.
    pub fn settle(&mut self) -> io::Result<()> {
        self.connection.send(&frame(PING, 0, 0, &[0; 8]))?;
        loop {
            let (kind, flags, ..) = self.frame()?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.connection.send(&frame(SETTINGS, ACK, 0, &[]))?,
                PING if flags & ACK != 0 => return Ok(()),
                GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
    }

    /// Sends a request on a stream.
    pub fn request(&mut self, stream: u32, request: &Request) -> io::Result<()> {
        let block = request_fields(request);
        let (body, trailers) = (latin(&request.body), &request.trailers);
        let ends = body.is_empty() && trailers.is_empty();
        self.fields(stream, &block, ends)?;
        if !body.is_empty() {
            self.data(stream, &body, trailers.is_empty())?;
        }
        if !trailers.is_empty() {
            self.fields(stream, &pairs(trailers), true)?;
        }
        Ok(())
    }

    pub fn fields(&mut self, stream: u32, fields: &[(String, String)], ends: bool) -> io::Result<()> {
        let block = hpack::block(fields.iter().map(|(name, value)| (&**name, &**value)));
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.connection.send(&frame(HEADERS, flags, stream, &block))
    }

    pub fn data(&mut self, stream: u32, data: &[u8], ends: bool) -> io::Result<()> {
        self.connection.send(&frame(DATA, u8::from(ends), stream, data))
    }

    /// Ends a stream with an error of that name.
    pub fn reset(&mut self, stream: u32, name: &str) -> io::Result<()> {
        let code = NAMES.iter().position(|known| *known == name).unwrap_or(1) as u32;
        self.connection.send(&frame(RST_STREAM, 0, stream, &code.to_be_bytes()))
    }

    /// Says that this connection takes no more streams.
    pub fn go_away(&mut self, last: u32) -> io::Result<()> {
        let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        self.connection.send(&frame(GOAWAY, 0, 0, &payload))
    }

    /// The next thing that a stream got. Settings and pings are answered on the way.
    pub fn next(&mut self) -> io::Result<(u32, Event)> {
        loop {
            let (kind, flags, stream, payload) = self.frame()?;
            let ends = flags & END_STREAM != 0;
            let event = match kind {
                HEADERS => Event::Fields(self.block(flags, payload)?, ends),
                DATA => Event::Data(unpadded(flags, payload)?, ends),
                RST_STREAM => Event::Reset(name_of(payload.get(..4))),
                GOAWAY => Event::GoAway(name_of(payload.get(4..8))),
                SETTINGS | PING if flags & ACK == 0 => {
                    let payload = if kind == PING { payload } else { Vec::new() };
                    self.connection.send(&frame(kind, ACK, 0, &payload))?;
                    continue;
                }
                _ => continue,
            };
            return Ok((stream, event));
        }
    }

    fn block(&mut self, flags: u8, payload: Vec<u8>) -> io::Result<Vec<String>> {
        let mut block = unpadded(flags, payload)?;
        if flags & PRIORITY != 0 {
            drop(block.drain(..block.len().min(5)));
        }
        let mut whole = flags & END_HEADERS != 0;
        while !whole {
            let (kind, flags, _, payload) = self.frame()?;
            if kind != CONTINUATION {
                return Err(io::Error::other("a block that goes on with another frame"));
            }
            block.extend(payload);
            whole = flags & END_HEADERS != 0;
        }
        let read = self.decoder.fields(&block).ok_or_else(|| io::Error::other("unreadable fields"))?;
        let lines: Vec<String> = read.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        Ok(fields(lines.iter().map(String::as_str)))
    }

    fn frame(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let head = self.connection.exactly(9)?;
        let [a, b, c, kind, flags, stream @ ..] = &head[..] else {
            return Err(io::Error::other("a short frame"));
        };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = stream.try_into().map_or(0, u32::from_be_bytes) & (u32::MAX >> 1);
        Ok((*kind, *flags, stream, self.connection.exactly(length)?))
    }
}

impl Message {
    /// A message of HTTP/2. Its line is made of the pseudo-headers that an HTTP/1 line has, too.
    pub fn of_fields(mut headers: Vec<String>) -> Self {
        let mut take = |name: &str| {
            let at = headers.iter().position(|line| line.starts_with(name))?;
            Some(headers.remove(at).split_off(name.len()))
        };
        let line = match take(":status: ") {
            Some(status) => format!("HTTP/2 {status}"),
            None => {
                let (method, path) = (take(":method: "), take(":path: "));
                format!("{} {} HTTP/2", method.unwrap_or_default(), path.unwrap_or_default())
            }
        };
        Self { line, headers, ..Self::default() }
    }

    /// Takes what follows the headers; whether the message is whole.
    pub fn take(&mut self, event: Event, body: &mut Vec<u8>) -> bool {
        let ends = match event {
            Event::Fields(trailers, ends) => {
                self.trailers = trailers;
                ends
            }
            Event::Data(data, ends) => {
                body.extend(data);
                ends
            }
            Event::Reset(name) => {
                self.framing = format!("reset, {name}");
                true
            }
            Event::GoAway(_) => false,
        };
        if ends {
            self.body = shown(body);
            if self.framing.is_empty() {
                "ended".clone_into(&mut self.framing);
            }
        }
        ends
    }
}

/// Our settings (windows as large as can be), and as much for the connection.
fn opening() -> Vec<u8> {
    let window = u32::MAX >> 1;
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    let more = (window - 65_535).to_be_bytes();
    const WINDOW_UPDATE: u8 = 8;
    [frame(SETTINGS, 0, 0, &settings), frame(WINDOW_UPDATE, 0, 0, &more)].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    [&[a, b, c, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

fn unpadded(flags: u8, mut payload: Vec<u8>) -> io::Result<Vec<u8>> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let padding = payload.first().copied().map_or(0, usize::from);
    let length = payload.len().checked_sub(1 + padding);
    payload.truncate(1 + length.ok_or_else(|| io::Error::other("too much padding"))?);
    payload.remove(0);
    Ok(payload)
}

fn name_of(code: Option<&[u8]>) -> &'static str {
    let code = code.and_then(|code| code.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
    NAMES.get(code as usize).copied().unwrap_or("an unknown error")
}

/// Lines as names and values. A name may begin with a colon.
pub fn pairs(lines: &[String]) -> Vec<(String, String)> {
    let pair = |line: &String| {
        let at = line.char_indices().skip(1).find(|(_, c)| *c == ':').map(|(at, _)| at);
        let (name, value) = line.split_at(at.unwrap_or(line.len()));
        (name.to_owned(), value.trim_start_matches(':').trim().to_owned())
    };
    lines.iter().map(pair).collect()
}

/// The pseudo-headers come from the request line and the first `host`; a line `:name: value` replaces one of them,
/// and a line `:name` takes it away.
fn request_fields(request: &Request) -> Vec<(String, String)> {
    let mut words = request.line.split(' ');
    let mut pseudo: Vec<(String, String)> = [
        (":method", words.next().unwrap_or_default()),
        (":scheme", "http"),
        (":path", words.next().unwrap_or_default()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let mut rest = Vec::new();
    for (name, value) in pairs(&request.headers) {
        let known = pseudo.iter().position(|(known, _)| *known == name);
        match known {
            Some(at) if value.is_empty() => drop(pseudo.remove(at)),
            Some(at) => pseudo[at].1 = value,
            None if name == "host" && !pseudo.iter().any(|(known, _)| known == ":authority") => {
                pseudo.push((":authority".to_owned(), value));
            }
            None => rest.push((name, value)),
        }
    }
    pseudo.extend(rest);
    pseudo
}
