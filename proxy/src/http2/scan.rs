//! Finds the frames in the bytes of one direction, however they are split: what `h2` does by itself,
//! or does not say, is seen as well.

use super::{HEADERS, Side};

const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// A frame that has begun; one of headers when its block is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Headers of a stream that has had some: only of a client it is known.
    pub is_trailers: bool,
    /// The field lines of headers that end a stream and may be trailers.
    pub lines: Option<usize>,
}

impl Found {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[derive(Debug)]
pub(super) struct FrameScan {
    /// Bytes of a header block until the frame's padding or end.
    block: usize,
    /// Bytes until the next frame: the rest of a payload, or of the client's preface.
    skip: usize,
    /// The head of a frame, and of HEADERS what stands before the block.
    bytes: [u8; Self::HEAD + Self::BEFORE],
    /// How much of `bytes` is there.
    have: usize,
    /// How much is needed.
    need: usize,
    /// Headers whose block is not whole.
    open: Option<Found>,
    /// The block ends with this frame.
    ends: bool,
    lines: Lines,
    /// A server's newest stream: headers of an older one are trailers.
    newest: Option<u32>,
}

impl FrameScan {
    const HEAD: usize = 9;
    /// The length of the padding, and the priority.
    const BEFORE: usize = 1 + Self::PRIORITY;
    const PRIORITY: usize = 5;
    const PREFACE: usize = 24;

    /// The bytes that are received, or that are sent, by that side. Those of a client begin with the
    /// preface.
    pub(super) fn new(side: Side, received: bool) -> Self {
        let of_client = (side == Side::Server) == received;
        Self {
            block: 0,
            skip: if of_client { Self::PREFACE } else { 0 },
            bytes: [0; Self::HEAD + Self::BEFORE],
            have: 0,
            need: Self::HEAD,
            open: None,
            ends: false,
            lines: Lines::default(),
            newest: of_client.then_some(0),
        }
    }

    /// Calls `found` with each frame in `bytes`.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut found: impl FnMut(Found)) {
        loop {
            let block = bytes.split_off(..self.block.min(bytes.len())).unwrap_or_default();
            self.block -= block.len();
            if let Some(lines) = self.open.as_mut().and_then(|open| open.lines.as_mut()) {
                *lines = self.lines.count(block);
            }
            if self.block == 0 && std::mem::take(&mut self.ends) {
                self.open.take().into_iter().for_each(&mut found);
            }
            let skipped = bytes.split_off(..self.skip.min(bytes.len())).unwrap_or_default();
            self.skip -= skipped.len();
            let head = bytes.split_off(..(self.need - self.have).min(bytes.len())).unwrap_or_default();
            if self.block > 0 || self.skip > 0 || (head.is_empty() && self.have < self.need) {
                return;
            }
            if let Some(to) = self.bytes.get_mut(self.have..self.have + head.len()) {
                to.copy_from_slice(head);
            }
            self.have += head.len();
            if self.have < self.need {
                return;
            }
            let [high, middle, low, kind, flags, id @ ..] = self.head();
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
            let frame = Found { kind, flags, stream, is_trailers: false, lines: None };
            let is_padded = kind == HEADERS && frame.has(PADDED);
            let priority = if kind == HEADERS && frame.has(PRIORITY) { Self::PRIORITY } else { 0 };
            let before = length.min(usize::from(is_padded) + priority);
            if self.need < Self::HEAD + before {
                self.need = Self::HEAD + before;
                continue;
            }
            (self.have, self.need) = (0, Self::HEAD);
            self.skip = length - before;
            if !matches!(kind, HEADERS | CONTINUATION) {
                found(frame);
                continue;
            }
            let padding =
                if is_padded { usize::from(self.bytes.get(Self::HEAD).copied().unwrap_or(0)) } else { 0 };
            self.block = self.skip.saturating_sub(padding);
            self.skip -= self.block;
            self.ends = frame.has(END_HEADERS);
            if kind == HEADERS {
                self.open(frame);
            }
        }
    }

    fn head(&self) -> [u8; Self::HEAD] {
        let mut head = [0; Self::HEAD];
        head.iter_mut().zip(self.bytes).for_each(|(to, byte)| *to = byte);
        head
    }

    /// Headers have begun; they are found when their block is whole.
    fn open(&mut self, mut headers: Found) {
        headers.is_trailers = self.newest.is_some_and(|newest| headers.stream <= newest);
        self.newest = self.newest.map(|newest| newest.max(headers.stream));
        let may_be_trailers = headers.is_trailers || self.newest.is_none();
        headers.lines = (may_be_trailers && headers.has(END_STREAM)).then_some(0);
        self.lines = Lines::default();
        self.open = Some(headers);
    }
}

/// Counts the field lines of a header block (RFC 7541, 6), in whatever pieces it comes. No line is
/// decoded, so that the dynamic table need not be known.
#[derive(Debug, Default)]
struct Lines {
    count: usize,
    next: Next,
}

/// What the next byte is. `strings` is how many strings are still to come, the one that has begun
/// among them.
#[derive(Clone, Copy, Debug, Default)]
enum Next {
    /// The first byte of a field line or of a change of the table's size.
    #[default]
    Line,
    /// More of an index or of the table's size.
    Index { strings: u8 },
    /// The first byte of the length of a string.
    Length { strings: u8 },
    /// More of the length.
    MoreLength { strings: u8, length: usize, shift: u32 },
    /// A byte of a string.
    Text { strings: u8, left: usize },
}

impl Lines {
    /// Goes on with the next bytes of a block; how many lines have begun in it.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        while let [byte, rest @ ..] = bytes {
            bytes = rest;
            self.next = match self.next {
                Next::Line => self.line(*byte),
                Next::Index { strings } if byte & 0x80 == 0 => Next::string(strings),
                Next::Index { strings } => Next::Index { strings },
                Next::Length { strings } if byte & 0x7f == 0x7f => {
                    Next::MoreLength { strings, length: 0x7f, shift: 0 }
                }
                Next::Length { strings } => Next::text(strings, usize::from(byte & 0x7f)),
                Next::MoreLength { strings, length, shift } => {
                    // Beyond these bits it is an error of the connection.
                    let more = usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                    let (length, shift) = (length.saturating_add(more), shift.saturating_add(7));
                    let is_last = byte & 0x80 == 0;
                    if is_last {
                        Next::text(strings, length)
                    } else {
                        Next::MoreLength { strings, length, shift }
                    }
                }
                Next::Text { strings, left } => {
                    let more = rest.split_at_checked(left - 1).map_or(&[][..], |(_, behind)| behind);
                    let taken = 1 + rest.len() - more.len();
                    bytes = more;
                    Next::text(strings, left - taken)
                }
            };
        }
        self.count
    }

    fn line(&mut self, byte: u8) -> Next {
        // How many bits of an index there are, and whether it is all that there is.
        let (most, is_whole) = match byte {
            0x80.. => (0x7f, true),
            0x40..0x80 => (0x3f, false),
            // A change of the table's size is no line.
            0x20..0x40 => (0x1f, true),
            _ => (0x0f, false),
        };
        let index = byte & most;
        self.count += usize::from(!matches!(byte, 0x20..0x40));
        let strings = if is_whole { 0 } else { 1 + u8::from(index == 0) };
        if index == most { Next::Index { strings } } else { Next::string(strings) }
    }
}

impl Next {
    fn string(strings: u8) -> Self {
        if strings == 0 { Self::Line } else { Self::Length { strings } }
    }

    fn text(strings: u8, left: usize) -> Self {
        if left == 0 { Self::string(strings.saturating_sub(1)) } else { Self::Text { strings, left } }
    }
}
