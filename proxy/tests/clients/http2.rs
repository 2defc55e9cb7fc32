//! HTTP/2 as raw frames, for clients and upstreams that may break its rules.
//!
//! Headers are written as literals; reading knows the whole of HPACK.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;

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
        self.decoder.decode(&block).ok_or_else(|| io::Error::other("bad header block"))
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

/// Literals that are never indexed, with the bytes as they are.
pub fn encode(fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for string in [name, value] {
            number(&mut block, string.len());
            block.extend_from_slice(string);
        }
    }
    block
}

fn number(block: &mut Vec<u8>, value: usize) {
    let Some(mut left) = value.checked_sub(127) else {
        block.push(u8::try_from(value).unwrap());
        return;
    };
    block.push(127);
    while left >= 128 {
        block.push(u8::try_from(left % 128).unwrap() | 128);
        left /= 128;
    }
    block.push(u8::try_from(left).unwrap());
}

/// The static table of RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The code length of each byte in RFC 7541, appendix B; the codes follow from them.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];

struct Decoder {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    size: usize,
    largest: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, largest: 4096 }
    }
}

impl Decoder {
    fn decode(&mut self, mut block: &[u8]) -> Option<Fields> {
        let mut fields = Fields::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                fields.push(self.entry(index)?);
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut block, 6)?;
                self.size += field.0.len() + field.1.len() + 32;
                self.table.push_front(field.clone());
                self.shrink();
                fields.push(field);
            } else if first & 0x20 != 0 {
                self.largest = integer(&mut block, 5)?;
                self.shrink();
            } else {
                fields.push(self.literal(&mut block, 4)?);
            }
        }
        Some(fields)
    }

    fn shrink(&mut self) {
        while self.size > self.largest {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.size -= name.len() + value.len() + 32;
        }
    }

    fn entry(&self, index: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let at = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(at) {
            return Some((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        self.table.get(at - STATIC.len()).cloned()
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> Option<(Vec<u8>, Vec<u8>)> {
        let name = match integer(block, bits)? {
            0 => string(block)?,
            index => self.entry(index)?.0,
        };
        Some((name, string(block)?))
    }
}

fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let (&first, mut rest) = block.split_first()?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            value += usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Some(value)
}

fn string(block: &mut &[u8]) -> Option<Vec<u8>> {
    let huffman = block.first()? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length)?;
    *block = rest;
    if huffman { unpack(bytes) } else { Some(bytes.to_vec()) }
}

/// The bytes by code length, and for each length its first code, how many there are, and where they
/// begin.
static CODES: LazyLock<(Vec<u8>, Vec<[usize; 3]>)> = LazyLock::new(|| {
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|byte| LENGTHS[usize::from(*byte)]);
    let (mut lengths, mut first, mut at) = (Vec::new(), 0, 0);
    for length in 0..=30_u8 {
        let count = LENGTHS.iter().filter(|other| **other == length).count();
        lengths.push([first, count, at]);
        first = (first + count) << 1;
        at += count;
    }
    (order, lengths)
});

/// Decodes the canonical Huffman code that `LENGTHS` describes; padding is passed over.
fn unpack(bytes: &[u8]) -> Option<Vec<u8>> {
    let (order, lengths) = &*CODES;
    let (mut code, mut length) = (0_usize, 0_usize);
    let mut out = Vec::new();
    for byte in bytes {
        for shift in (0..8).rev() {
            code = (code << 1) | usize::from((byte >> shift) & 1);
            length += 1;
            let [first, count, at] = *lengths.get(length)?;
            if let Some(offset) = code.checked_sub(first).filter(|offset| *offset < count) {
                out.push(order[at + offset]);
                (code, length) = (0, 0);
            }
        }
    }
    Some(out)
}
