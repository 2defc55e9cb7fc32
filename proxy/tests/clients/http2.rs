//! HTTP/2 as raw frames, for clients and upstreams that may break its rules.
//!
//! Headers are written as literals. The reader of header blocks is that of the differential tests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::hpack::{self, Decoder};
use super::proxy::DEADLINE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// The largest payload that each side takes without being asked.
const LARGEST: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

pub fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// The header of a GET.
pub fn get(path: &str) -> Fields {
    fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "here"), (":path", path)])
}

pub fn find(fields: &Fields, name: &str) -> Option<String> {
    let (_, value) = fields.iter().find(|(found, _)| found == name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The number in the last four bytes of a RST_STREAM or the code of a GOAWAY.
    pub fn code(&self) -> u32 {
        let from = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[from..from + 4].try_into().unwrap())
    }
}

/// What came on one stream.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub informational: Vec<Fields>,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Option<Fields>,
    /// The code of a reset.
    pub reset: Option<u32>,
    /// The length of each DATA frame.
    pub data_frames: Vec<usize>,
}

impl Response {
    pub fn status(&self) -> u16 {
        find(&self.headers, ":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

pub struct Connection {
    pub stream: TcpStream,
    decoder: Decoder,
    next: u32,
    /// Whether DATA that comes is credited at once.
    pub credits: bool,
    /// Whether a PING gets its response.
    pub pongs: bool,
}

impl Connection {
    /// A client with these settings.
    pub fn client_with(address: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(PREFACE)?;
        Self::begin(stream, settings, 1)
    }

    pub fn client(address: SocketAddr) -> Self {
        Self::client_with(address, &[]).unwrap()
    }

    /// A server: reads the preface, sends these settings.
    pub fn server(mut stream: TcpStream, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface)?;
        Self::begin(stream, settings, 2)
    }

    fn begin(stream: TcpStream, settings: &[(u16, u32)], next: u32) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, decoder: Decoder::default(), next, credits: true, pongs: true };
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        connection.send(SETTINGS, 0, 0, &payload)?;
        Ok(connection)
    }

    /// Another handle on the same connection, to write from elsewhere.
    pub fn writer(&self) -> Self {
        let stream = self.stream.try_clone().unwrap();
        Self { stream, decoder: Decoder::default(), next: 2, credits: false, pongs: false }
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(9 + payload.len());
        frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame)
    }

    /// Headers or trailers, over as many frames as they need.
    pub fn headers(&mut self, stream: u32, fields: &Fields, end: bool) -> io::Result<()> {
        let block = encode(fields);
        let mut pieces: Vec<&[u8]> = block.chunks(LARGEST).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        for (at, piece) in pieces.into_iter().enumerate() {
            let kind = if at == 0 { HEADERS } else { CONTINUATION };
            let mut flags = if at == last { END_HEADERS } else { 0 };
            if at == 0 && end {
                flags |= END_STREAM;
            }
            self.send(kind, flags, stream, piece)?;
        }
        Ok(())
    }

    /// Begins a request; its stream.
    pub fn request(&mut self, fields: &Fields, end: bool) -> u32 {
        let stream = self.next;
        self.next += 2;
        // A proxy that has refused may close before all is written.
        let _ = self.headers(stream, fields, end);
        stream
    }

    pub fn reset(&mut self, stream: u32, code: u32) {
        let _ = self.send(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    /// The next frame; SETTINGS and PING are acknowledged on the way.
    pub fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        match (frame.kind, frame.flags & ACK) {
            (SETTINGS, 0) => {
                self.send(SETTINGS, ACK, 0, &[])?;
            }
            (PING, 0) if self.pongs => self.send(PING, ACK, 0, &frame.payload)?,
            (DATA, _) if self.credits && length > 0 => {
                let credit = u32::try_from(length).unwrap().to_be_bytes();
                // The other side may have gone after its last frame.
                let _ = self.send(WINDOW_UPDATE, 0, 0, &credit);
                let _ = self.send(WINDOW_UPDATE, 0, frame.stream, &credit);
            }
            _ => {}
        }
        Ok(frame)
    }

    /// The fields that begin with this HEADERS frame.
    pub fn decode(&mut self, frame: &Frame) -> io::Result<Fields> {
        let mut block = frame.payload.clone();
        if frame.flags & 0x20 != 0 {
            block.drain(..5);
        }
        let mut flags = frame.flags;
        while flags & END_HEADERS == 0 {
            let more = self.read()?;
            flags = more.flags;
            block.extend_from_slice(&more.payload);
        }
        let fields = self.decoder.fields(&block).ok_or_else(|| io::Error::other("bad header block"))?;
        Ok(fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect())
    }

    /// All of one stream, to its end; other streams' frames are passed over.
    pub fn response(&mut self, stream: u32) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            let frame = self.read()?;
            let fields = if frame.kind == HEADERS { self.decode(&frame)? } else { Fields::new() };
            if frame.kind == GOAWAY && frame.code() != 0 {
                return Err(io::Error::other(format!("GOAWAY {}", frame.code())));
            }
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                RST_STREAM => response.reset = Some(frame.code()),
                HEADERS => {
                    let status = find(&fields, ":status");
                    match status {
                        Some(status) if status.starts_with('1') => response.informational.push(fields),
                        Some(_) => response.headers = fields,
                        None => response.trailers = Some(fields),
                    }
                }
                DATA => {
                    response.data_frames.push(frame.payload.len());
                    response.body.extend_from_slice(&frame.payload);
                }
                _ => {}
            }
            if frame.ends_stream() || frame.kind == RST_STREAM {
                return Ok(response);
            }
        }
    }

    /// A whole request and its response.
    pub fn ask(&mut self, fields: &Fields) -> io::Result<Response> {
        let stream = self.request(fields, true);
        self.response(stream)
    }
}

/// Literals that are not indexed, with the bytes as they are.
pub fn encode(fields: &Fields) -> Vec<u8> {
    let texts: Vec<_> = fields.iter().map(|(name, value)| (characters(name), characters(value))).collect();
    hpack::block(texts.iter().map(|(name, value)| (&**name, &**value)))
}

/// One character a byte, as the reader of header blocks has them.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).unwrap()).collect()
}
