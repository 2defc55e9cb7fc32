//! Bodies as they are received (by length, chunked as in RFC 9112, 7.1, or until the close), and the two halves of a socket with what
//! waits in front of them.
//!
//! Reading goes through one scratch buffer for each thread, so that an idle connection holds no buffer at all.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::head::{self, EndScan, Parsed, Summary};
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
    /// How much of a chunk line that is not yet whole was searched for its end.
    searched: usize,
    scan: EndScan,
    keep_trailers: bool,
    /// Trailers have the limits of a head.
    limits: HeadLimits,
    trailers: Option<Box<Fields>>,
    /// What was wrong behind data that was still good.
    failed: Option<Malformed>,
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
/// A chunk at least this large is passed on without a copy.
const WHOLE: usize = 2 * 1024;
const MAX_CHUNK_LINE: usize = 4 * 1024;
const MAX_EXTENSIONS: usize = 16 * 1024;

impl BodyDecoder {
    pub(super) fn new(framing: Framing, keep_trailers: bool, limits: HeadLimits) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            extensions: 0,
            searched: 0,
            scan: EndScan::default(),
            keep_trailers,
            limits,
            trailers: None,
            failed: None,
        }
    }

    /// The body is whole.
    pub(super) fn is_end(&self) -> bool {
        self.state == State::Done
    }

    /// The next frame in `input`; `None` when more bytes are needed.
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
        while self.failed.is_none() && joined.len() < JOIN {
            match self.chunk(input) {
                Ok(Chunk::Data(data)) if joined.is_empty() && data.len() >= WHOLE => {
                    self.failed = self.look_ahead(input).err();
                    return Ok(Some(Frame::Data(data)));
                }
                Ok(Chunk::Data(data)) => joined.extend_from_slice(&data),
                Ok(Chunk::More | Chunk::End) => break,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        if !joined.is_empty() {
            return Ok(Some(Frame::Data(joined.freeze())));
        }
        match (self.failed, self.state) {
            (Some(error), _) => Err(error),
            (None, State::Done) => Ok(Some(Frame::End)),
            (None, State::TrailersRead) => Ok(self.trailers_read()),
            (None, _) => Ok(None),
        }
    }

    fn trailers_read(&mut self) -> Option<Frame> {
        self.state = State::Done;
        Some(self.trailers.take().map_or(Frame::End, |trailers| Frame::Trailers(*trailers)))
    }

    /// Recognises an end right behind the data, so that the data is known to be the last.
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
                let Some(end) = head::line_end(input, self.searched) else {
                    self.searched = input.len();
                    return if input.len() > MAX_CHUNK_LINE { Err(Malformed::Syntax) } else { Ok(()) };
                };
                self.searched = 0;
                // A bare LF ends no line here: two readers could see two bodies (RFC 9112, 7.1).
                let line = input.get(..end).and_then(|line| line.strip_suffix(b"\r"));
                let line = line.ok_or(Malformed::Syntax)?;
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
        let limits = self.limits;
        if !self.scan.complete(input) {
            return if input.len() > limits.bytes { Err(Malformed::TooLarge) } else { Ok(()) };
        }
        let mut trailers = Fields::default();
        let parsed = head::section(input, &mut trailers, None, &mut Summary::default(), limits, 0)?;
        let Parsed::Complete(used) = parsed else { return Err(Malformed::Syntax) };
        input.advance(used);
        for name in NOT_IN_TRAILERS {
            trailers.remove(name);
        }
        let keep = self.keep_trailers && !trailers.is_empty();
        self.state = if keep { State::TrailersRead } else { State::Done };
        self.trailers = keep.then(|| Box::new(trailers));
        Ok(())
    }
}

/// Headers that decide about framing or routing have no place behind the body (RFC 9110, 6.5.1).
pub(super) const NOT_IN_TRAILERS: [Known; 5] =
    [Known::ContentLength, Known::TransferEncoding, Known::Connection, Known::Trailer, Known::Te];

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

/// The size of a chunk and the length of its extensions. Blanks behind the digits pass, as in Envoy; a CR without its LF does not, since
/// some take it for a line end.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (number, rest) = line.split_at(digits);
    let size = std::str::from_utf8(number).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    let blank = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match rest.get(blank..).unwrap_or_default() {
        _ if rest.contains(&b'\r') => Err(Malformed::Syntax),
        [] | [b';', ..] => Ok((size.ok_or(Malformed::Syntax)?, rest.len())),
        _ => Err(Malformed::Syntax),
    }
}

/// The size of the scratch buffer; a read takes what the socket has, between `MIN_READ` and this.
const SCRATCH: usize = 64 * 1024;
const MIN_READ: usize = 16 * 1024;
/// A read at least this large is passed on without a copy; smaller ones are copied, so that they do
/// not pin the scratch buffer, and so are all where a connection has a limit of its own.
const SHARE: usize = 4 * 1024;
/// Data up to this size is copied behind the head and sent with it in one write.
const SMALL: usize = 8 * 1024;
/// An output buffer larger than this is freed when it is empty.
const KEEP: usize = 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<BytesMut> = RefCell::default();
}

#[derive(Debug)]
pub(super) struct Input {
    half: OwnedReadHalf,
    /// Received and not yet taken.
    pub(super) rest: BytesMut,
    received: u64,
    /// What is read at once at most.
    pub(super) most: usize,
}

#[derive(Debug)]
pub(super) struct Output {
    half: OwnedWriteHalf,
    /// Sent first: heads, chunk lines, small data.
    buffer: Vec<u8>,
    /// How much of `buffer` has been sent.
    at: usize,
    /// Sent behind `buffer`, without a copy.
    data: Bytes,
    /// Sent last.
    tail: Vec<u8>,
    sent: u64,
}

impl Input {
    pub(super) fn new(half: OwnedReadHalf, rest: BytesMut) -> Self {
        let received = rest.len() as u64;
        Self { half, rest, received, most: SCRATCH }
    }

    /// Reads at most so much at once (0 for no limit of its own): that is what a connection buffers,
    /// as the next read waits until the last one has been passed on.
    pub(super) fn limited(mut self, most: usize) -> Self {
        if most > 0 {
            self.most = most.min(SCRATCH);
        }
        self
    }

    /// Bytes received since the last call, for statistics.
    pub(super) fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// Whether the socket has something to read, or has ended; costs no system call.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let stream: &TcpStream = self.half.as_ref();
        stream.poll_read_ready(cx).map(|_| ())
    }

    /// Waits until the peer has ended or reset the connection. Bytes before that stay.
    pub(super) async fn peer_closed(&self) {
        peer_closed(self.half.as_ref()).await;
    }

    /// Reads once; 0 is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let share = if self.most < SCRATCH { usize::MAX } else { SHARE };
        self.poll_read(cx, |rest, scratch| {
            let read = scratch.len();
            if rest.is_empty() && read >= share {
                *rest = scratch.split();
            } else {
                rest.extend_from_slice(scratch);
            }
            read
        })
    }

    /// Reads once and shows the bytes where they lie; `parse` moves to `rest` what it does not use. Only while `rest` is empty.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl FnOnce(&mut BytesMut, &mut BytesMut) -> T,
    ) -> Poll<io::Result<T>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            scratch.clear();
            if scratch.capacity() < MIN_READ {
                scratch.reserve(SCRATCH);
            }
            let mut limited = (&mut *scratch).limit(self.most);
            let Poll::Ready(read) = pin!(self.half.read_buf(&mut limited)).poll(cx) else {
                self.release();
                return Poll::Pending;
            };
            let read = read?;
            self.received += read as u64;
            Poll::Ready(Ok(parse(&mut self.rest, scratch)))
        })
    }

    /// Whether an idle connection has ended or holds bytes that were not asked for; no system call while nothing came.
    pub(super) fn is_disturbed(&self) -> bool {
        let mut byte = [0];
        !self.rest.is_empty()
            || !matches!(self.half.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Lets go of the buffer of a connection that waits.
    pub(super) fn release(&mut self) {
        if self.rest.is_empty() {
            self.rest = BytesMut::new();
        }
    }

    pub(super) fn into_half(self) -> (OwnedReadHalf, BytesMut) {
        (self.half, self.rest)
    }
}

/// Waits until the peer has ended or reset a connection; what it sent before stays unread.
pub(crate) async fn peer_closed(stream: &TcpStream) {
    // Tokio reports a closed reading side to waits for urgent data, which is otherwise unused.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let closed = Interest::PRIORITY;
    // Elsewhere only a reset is noticed before the data has been read.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let closed = Interest::ERROR;
    // An error is an end, too.
    let _ = stream.ready(closed).await;
}

/// Gives back an empty buffer that has grown.
fn shrink(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEEP {
        *buffer = Vec::new();
    }
}

impl Output {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, buffer: Vec::new(), at: 0, data: Bytes::new(), tail: Vec::new(), sent: 0 }
    }

    /// Bytes sent since the last call, for statistics.
    pub(super) fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent)
    }

    /// Where heads and chunk lines are appended: behind everything given before.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.data.is_empty() { &mut self.buffer } else { &mut self.tail }
    }

    /// Takes data: small pieces into the buffer, one large piece as it is.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= SMALL || !self.data.is_empty() {
            self.buffer().extend_from_slice(&data);
        } else {
            self.data = data;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.buffer.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Sends everything that waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let front = self.buffer.get(self.at..).unwrap_or_default();
            let half = Pin::new(&mut self.half);
            let sent = if self.data.is_empty() && self.tail.is_empty() {
                ready!(half.poll_write(cx, front))?
            } else {
                let parts = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(&self.tail)];
                ready!(half.poll_write_vectored(cx, &parts))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent as u64;
        let front = sent.min(self.buffer.len() - self.at);
        self.at += front;
        let middle = (sent - front).min(self.data.len());
        self.data.advance(middle);
        if self.data.is_empty() && self.at == self.buffer.len() {
            self.tail.drain(..sent - front - middle);
            self.buffer.clear();
            self.at = 0;
            self.data = Bytes::new();
            std::mem::swap(&mut self.buffer, &mut self.tail);
            shrink(&mut self.buffer);
            shrink(&mut self.tail);
        }
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(cx)
    }

    pub(super) fn into_half(self) -> OwnedWriteHalf {
        self.half
    }
}
