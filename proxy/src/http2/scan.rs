//! Finds the frames in the bytes of one direction, however they are split: what `h2` does by itself,
//! or does not say, is seen as well.

use super::{HEADERS, Side};

const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// How a block of headers begins, where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// There is no field.
    Empty,
    /// With a pseudo-header. One out of the dynamic table is not seen.
    Pseudo,
}

/// A frame that has begun; one of headers when as much of its block is there as is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Headers of a stream that has had some: only of a client it is known.
    pub is_trailers: bool,
    /// Of headers that may be trailers.
    pub front: Option<Front>,
}

impl Found {
    pub(super) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

#[derive(Debug)]
pub(super) struct FrameScan {
    /// Bytes until the next frame: the rest of a payload, or of the client's preface.
    skip: usize,
    /// The head of a frame, and the front of its payload if that is looked at.
    bytes: [u8; Self::HEAD + Self::FRONT],
    /// How much of `bytes` is there.
    have: usize,
    /// How much is needed.
    need: usize,
    /// The headers that CONTINUATION goes on with.
    open: Option<Found>,
    /// The first bytes of their block.
    block: [u8; Self::FRONT],
    block_length: usize,
    /// A server's newest stream: headers of an older one are trailers.
    newest: Option<u32>,
}

impl FrameScan {
    const HEAD: usize = 9;
    /// Enough for padding, priority, two changes of the table's size and the first letter of a name.
    const FRONT: usize = 24;
    const PREFACE: usize = 24;

    /// The bytes that are received, or that are sent, by that side. Those of a client begin with the
    /// preface.
    pub(super) fn new(side: Side, received: bool) -> Self {
        let of_client = (side == Side::Server) == received;
        Self {
            skip: if of_client { Self::PREFACE } else { 0 },
            bytes: [0; Self::HEAD + Self::FRONT],
            have: 0,
            need: Self::HEAD,
            open: None,
            block: [0; Self::FRONT],
            block_length: 0,
            newest: of_client.then_some(0),
        }
    }

    /// Calls `found` with each frame that begins in `bytes`.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut found: impl FnMut(Found)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.skip > 0 || (bytes.is_empty() && self.have < self.need) {
                return;
            }
            let take = (self.need - self.have).min(bytes.len());
            let (head, rest) = bytes.split_at(take);
            if let Some(to) = self.bytes.get_mut(self.have..self.have + take) {
                to.copy_from_slice(head);
            }
            self.have += take;
            bytes = rest;
            if self.have < self.need {
                return;
            }
            let [high, middle, low, kind, flags, id @ ..] = self.head();
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
            let looked_at = if matches!(kind, HEADERS | CONTINUATION) { length.min(Self::FRONT) } else { 0 };
            if self.need < Self::HEAD + looked_at {
                self.need = Self::HEAD + looked_at;
                continue;
            }
            self.skip = length - looked_at;
            (self.have, self.need) = (0, Self::HEAD);
            let frame = Found { kind, flags, stream, is_trailers: false, front: None };
            match kind {
                HEADERS | CONTINUATION => {
                    self.headers(frame, length, looked_at).into_iter().for_each(&mut found);
                }
                _ => found(frame),
            }
        }
    }

    fn head(&self) -> [u8; Self::HEAD] {
        let mut head = [0; Self::HEAD];
        head.iter_mut().zip(self.bytes).for_each(|(to, byte)| *to = byte);
        head
    }

    /// Adds to the block of headers; they are found when it ends.
    fn headers(&mut self, frame: Found, length: usize, looked_at: usize) -> Option<Found> {
        let payload = self.bytes.get(Self::HEAD..Self::HEAD + looked_at).unwrap_or_default();
        let is_set = |flag: u8| frame.kind == HEADERS && frame.flags & flag != 0;
        if frame.kind == HEADERS {
            self.open = Some(frame);
            self.block_length = 0;
        }
        let before = usize::from(is_set(PADDED)) + if is_set(PRIORITY) { 5 } else { 0 };
        let padding = payload.first().filter(|_| is_set(PADDED)).map_or(0, |padding| usize::from(*padding));
        let end = length.saturating_sub(padding).min(payload.len());
        let fragment = payload.get(before..end).unwrap_or_default();
        let space = self.block.get_mut(self.block_length..).unwrap_or_default();
        let taken = fragment.len().min(space.len());
        space.iter_mut().zip(fragment).for_each(|(to, byte)| *to = *byte);
        self.block_length += taken;
        if frame.flags & END_HEADERS == 0 {
            return None;
        }
        let mut headers = self.open.take()?;
        headers.is_trailers = self.newest.is_some_and(|newest| headers.stream <= newest);
        self.newest = self.newest.map(|newest| newest.max(headers.stream));
        if headers.is_trailers || self.newest.is_none() {
            headers.front = front(self.block.get(..self.block_length).unwrap_or_default());
        }
        Some(headers)
    }
}

/// How a block begins (RFC 7541, 6).
fn front(mut block: &[u8]) -> Option<Front> {
    /// The entries of the static table that are pseudo-headers.
    const PSEUDO: std::ops::RangeInclusive<u8> = 1..=14;
    // Changes of the table's size come first.
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        let continued = if first & 0x1f == 0x1f {
            rest.iter().position(|byte| byte & 0x80 == 0).map_or(rest.len(), |at| at + 1)
        } else {
            0
        };
        block = rest.get(continued..).unwrap_or_default();
    }
    let [first, rest @ ..] = block else { return Some(Front::Empty) };
    let name = match first {
        0x80.. => first & 0x7f,
        0x40..0x80 => first & 0x3f,
        _ => first & 0x0f,
    };
    let is_pseudo = match (name, rest) {
        // A name in full; `:` is 1011100 in its Huffman code.
        (0, [0x81..=0xff, letter, ..]) => letter & 0xfe == 0xb8,
        (0, [1..=0x7f, letter, ..]) => *letter == b':',
        _ => PSEUDO.contains(&name),
    };
    is_pseudo.then_some(Front::Pseudo)
}
