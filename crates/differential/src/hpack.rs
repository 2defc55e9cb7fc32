//! HPACK (RFC 7541): blocks of fields are read as any peer may write them, and written as plainly as can be.

use std::collections::VecDeque;
use std::sync::LazyLock;

/// Name and value.
pub type Field = (String, String);

/// Reads the blocks of one connection.
#[derive(Debug)]
pub struct Decoder {
    /// The newest entry first.
    table: VecDeque<Field>,
    /// The peer lowers and raises it, up to `TABLE`.
    limit: usize,
}

/// What a peer may remember. Ours are never told another limit.
const TABLE: usize = 4096;

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), limit: TABLE }
    }
}

impl Decoder {
    /// The fields of a block; nothing if it is not one.
    pub fn fields(&mut self, block: &[u8]) -> Option<Vec<Field>> {
        let mut input = Input { bytes: block };
        let mut fields = Vec::new();
        while let Some(&first) = input.bytes.first() {
            match first {
                0x80.. => fields.push(self.entry(input.number(7)?)?),
                0x40.. => {
                    let field = self.literal(&mut input, 6)?;
                    self.table.push_front(field.clone());
                    self.shorten();
                    fields.push(field);
                }
                0x20.. => {
                    self.limit = input.number(5)?.min(TABLE);
                    self.shorten();
                }
                _ => fields.push(self.literal(&mut input, 4)?),
            }
        }
        Some(fields)
    }

    fn literal(&self, input: &mut Input<'_>, prefix: u32) -> Option<Field> {
        let name = match input.number(prefix)? {
            0 => input.string()?,
            at => self.entry(at)?.0,
        };
        Some((name, input.string()?))
    }

    fn entry(&self, at: usize) -> Option<Field> {
        let at = at.checked_sub(1)?;
        match STATIC.get(at) {
            Some((name, value)) => Some(((*name).to_owned(), (*value).to_owned())),
            None => self.table.get(at - STATIC.len()).cloned(),
        }
    }

    fn shorten(&mut self) {
        let size = |(name, value): &Field| name.len() + value.len() + 32;
        while self.table.iter().map(size).sum::<usize>() > self.limit {
            self.table.pop_back();
        }
    }
}

/// A block of fields without indices and Huffman codes.
pub fn block<'f>(fields: impl IntoIterator<Item = (&'f str, &'f str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // One character a byte, as everywhere in cases.
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
            number(bytes.len(), &mut block);
            block.extend(bytes);
        }
    }
    block
}

fn number(mut value: usize, block: &mut Vec<u8>) {
    const FULL: usize = 127;
    if value < FULL {
        block.push(value as u8);
        return;
    }
    block.push(FULL as u8);
    value -= FULL;
    while value >= 128 {
        block.push(value as u8 | 128);
        value >>= 7;
    }
    block.push(value as u8);
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn number(&mut self, prefix: u32) -> Option<usize> {
        let full = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & full;
        if value < full {
            return Some(value);
        }
        for shift in (0..28).step_by(7) {
            let byte = self.byte()?;
            value += usize::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<String> {
        let coded = self.bytes.first()? & 0x80 != 0;
        let length = self.number(7)?;
        let (bytes, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        let bytes = if coded { huffman(bytes)? } else { bytes.to_vec() };
        Some(bytes.into_iter().map(char::from).collect())
    }
}

/// The code is canonical: codes of one length follow each other in the order of their bytes.
fn huffman(coded: &[u8]) -> Option<Vec<u8>> {
    let bits = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)));
    let mut text = Vec::new();
    let (mut code, mut length, mut first, mut padding) = (0_u32, 0_usize, 0_u32, true);
    for bit in bits {
        (code, length, first) = (code << 1 | bit, length + 1, first << 1);
        padding = padding && bit == 1;
        let of_length = BY_LENGTH.get(length)?;
        match of_length.get((code - first) as usize) {
            Some(byte) => {
                text.push(*byte);
                (code, length, first, padding) = (0, 0, 0, true);
            }
            None => first += of_length.len() as u32,
        }
    }
    (padding && length < 8).then_some(text)
}

/// The bytes whose codes have a length, for each length.
static BY_LENGTH: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let of = |length| (0..=255).zip(LENGTHS).filter(move |(_, long)| *long == length);
    (0..=30).map(|length| of(length).map(|(byte, _)| byte).collect()).collect()
});

/// The length in bits of each byte's code (RFC 7541, appendix B).
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

/// RFC 7541, appendix A.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    fn field(name: &str, value: &str) -> Field {
        (name.to_owned(), value.to_owned())
    }

    /// RFC 7541, C.4: three requests of one connection, with Huffman codes.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let mut decoder = Decoder::default();
        let common = [
            field(":method", "GET"),
            field(":scheme", "http"),
            field(":path", "/"),
            field(":authority", "www.example.com"),
        ];
        let first = decoder.fields(&bytes("828684418cf1e3c2e5f23a6ba0ab90f4ff")).unwrap();
        assert_eq!(first, common);
        let second = decoder.fields(&bytes("828684be5886a8eb10649cbf")).unwrap();
        assert_eq!(second[..4], common);
        assert_eq!(second[4], field("cache-control", "no-cache"));
        let third = "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf";
        let third = decoder.fields(&bytes(third)).unwrap();
        assert_eq!(
            third[1..],
            [
                field(":scheme", "https"),
                field(":path", "/index.html"),
                field(":authority", "www.example.com"),
                field("custom-key", "custom-value"),
            ]
        );
    }

    #[test]
    fn a_lower_limit_holds_until_the_peer_raises_it() {
        let mut decoder = Decoder::default();
        let added = bytes("400161016240016301 64");
        decoder.fields(&[&[0x20][..], &added].concat()).unwrap();
        assert_eq!(decoder.fields(&[0xbe]), None, "nothing is kept");
        decoder.fields(&[&[0x3f, 0xe1, 0x1f][..], &added].concat()).unwrap();
        assert_eq!(decoder.fields(&[0xbe, 0xbf]).unwrap(), [field("c", "d"), field("a", "b")]);
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "v".repeat(70_000);
        let fields = [("a", "b"), ("", ""), ("name", &long), ("high", "\u{e9}\u{0}")];
        let read = Decoder::default().fields(&block(fields)).unwrap();
        assert_eq!(read, fields.map(|(name, value)| field(name, value)));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for block in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0, 5, b'a'], &[0xfe]] {
            assert_eq!(Decoder::default().fields(block), None, "{block:?}");
        }
    }
}
