//! Bodies as they are received: by length, chunked (RFC 9112, 7.1) or until the close.

use bytes::{Buf, Bytes, BytesMut};

use super::fields::{self, EndScan, Parsed, Summary};
use super::{HeadLimits, Malformed};
use crate::message::{Fields, Frame, Known};

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Takes a body apart, piece by piece.
#[derive(Debug)]
pub(super) struct BodyDecoder {
    state: State,
    /// Bytes of chunk extensions so far: they mean nothing to us and are bounded.
    extensions: usize,
    scan: EndScan,
    keep_trailers: bool,
    trailers: Option<Box<Fields>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// They are the next frame.
    TrailersRead,
}

/// Small chunks are joined up to about this size, so that many of them do not become many writes.
const JOIN: usize = 16 * 1024;
/// A chunk at least this large is passed on as it lies in the buffer.
const WHOLE: usize = 2 * 1024;
const MAX_CHUNK_LINE: usize = 4 * 1024;
const MAX_EXTENSIONS: usize = 16 * 1024;

impl BodyDecoder {
    pub(super) fn new(framing: Framing, keep_trailers: bool) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extensions: 0, scan: EndScan::default(), keep_trailers, trailers: None }
    }

    /// The body is whole.
    pub(super) fn is_end(&self) -> bool {
        self.state == State::Done
    }

    /// The next frame that lies in `input`; `None` when more bytes are needed.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        match self.state {
            State::Done => Ok(Some(Frame::End)),
            State::Length(left) => {
                let data = take(input, left);
                let left = left - data.len() as u64;
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok((!data.is_empty()).then_some(Frame::Data(data)))
            }
            State::UntilClose => Ok((!input.is_empty()).then(|| Frame::Data(take(input, u64::MAX)))),
            State::TrailersRead => Ok(self.trailers_read()),
            State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers => self.chunks(input),
        }
    }

    /// The connection has ended: the body's end, or an error where bytes are missing.
    pub(super) fn end_of_input(&mut self) -> Result<Frame, Malformed> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(Frame::End)
            }
            _ => Err(Malformed::EarlyEnd),
        }
    }

    fn chunks(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        let mut joined = BytesMut::new();
        while joined.len() < JOIN {
            match self.chunk(input)? {
                Chunk::Data(data) if joined.is_empty() && data.len() >= WHOLE => {
                    self.look_ahead(input)?;
                    return Ok(Some(Frame::Data(data)));
                }
                Chunk::Data(data) => joined.extend_from_slice(&data),
                Chunk::More | Chunk::End => break,
            }
        }
        if !joined.is_empty() {
            return Ok(Some(Frame::Data(joined.freeze())));
        }
        Ok(match self.state {
            State::Done => Some(Frame::End),
            State::TrailersRead => self.trailers_read(),
            _ => None,
        })
    }

    fn trailers_read(&mut self) -> Option<Frame> {
        self.state = State::Done;
        Some(self.trailers.take().map_or(Frame::End, |trailers| Frame::Trailers(*trailers)))
    }

    /// Sees an end that lies right behind the data, so that the data is known to be the last.
    fn look_ahead(&mut self, input: &mut BytesMut) -> Result<(), Malformed> {
        while matches!(self.state, State::ChunkSize | State::ChunkEnd | State::Trailers) {
            let before = (self.state, input.len());
            self.chunk_line(input)?;
            if before == (self.state, input.len()) {
                break;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, input: &mut BytesMut) -> Result<Chunk, Malformed> {
        self.look_ahead(input)?;
        match self.state {
            State::ChunkData(left) => {
                let data = take(input, left);
                let left = left - data.len() as u64;
                self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                Ok(if data.is_empty() { Chunk::More } else { Chunk::Data(data) })
            }
            State::Done | State::TrailersRead => Ok(Chunk::End),
            _ => Ok(Chunk::More),
        }
    }

    /// One step over what is not data; no step when the line is not whole.
    fn chunk_line(&mut self, input: &mut BytesMut) -> Result<(), Malformed> {
        match self.state {
            State::ChunkSize => {
                let Some(end) = fields::line_end(input, 0) else {
                    return if input.len() > MAX_CHUNK_LINE { Err(Malformed::Syntax) } else { Ok(()) };
                };
                let line = fields::strip_cr(input.get(..end).unwrap_or_default());
                let (size, extension) = chunk_size(line)?;
                self.extensions += extension;
                if end > MAX_CHUNK_LINE || self.extensions > MAX_EXTENSIONS {
                    return Err(Malformed::Syntax);
                }
                self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                input.advance(end + 1);
            }
            State::ChunkEnd => {
                let skip = match &**input {
                    [b'\n', ..] => 1,
                    [b'\r', b'\n', ..] => 2,
                    [] | [b'\r'] => return Ok(()),
                    _ => return Err(Malformed::Syntax),
                };
                self.state = State::ChunkSize;
                input.advance(skip);
            }
            State::Trailers => self.read_trailers(input)?,
            _ => {}
        }
        Ok(())
    }

    fn read_trailers(&mut self, input: &mut BytesMut) -> Result<(), Malformed> {
        let limits = HeadLimits::default();
        if !self.scan.complete(input) {
            return if input.len() > limits.bytes { Err(Malformed::TooLarge) } else { Ok(()) };
        }
        let mut trailers = Fields::default();
        let parsed = fields::parse(input, &mut trailers, None, &mut Summary::default(), limits, 0)?;
        let Parsed::Complete(used) = parsed else { return Err(Malformed::Syntax) };
        input.advance(used);
        // Fields that decide about framing or routing have no place behind the body (RFC 9110, 6.5.1).
        for name in
            [Known::ContentLength, Known::TransferEncoding, Known::Connection, Known::Trailer, Known::Te]
        {
            trailers.remove(name);
        }
        let keep = self.keep_trailers && !trailers.is_empty();
        self.state = if keep { State::TrailersRead } else { State::Done };
        self.trailers = keep.then(|| Box::new(trailers));
        Ok(())
    }
}

enum Chunk {
    Data(Bytes),
    /// Nothing yet.
    More,
    End,
}

/// At most `most` bytes from the front of the buffer, without a copy.
fn take(input: &mut BytesMut, most: u64) -> Bytes {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    input.split_to(length).freeze()
}

/// The size of a chunk and the length of its extensions. Blanks behind the digits pass, as in Envoy.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (number, rest) = line.split_at(digits);
    let size = std::str::from_utf8(number).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    match rest.trim_ascii_start() {
        [] | [b';', ..] => Ok((size.ok_or(Malformed::Syntax)?, rest.len())),
        _ => Err(Malformed::Syntax),
    }
}
