//! Bodies: chunks, trailers and lengths, however the bytes are cut.

use bytes::BytesMut;
use proptest::prelude::*;

use super::super::body::{BodyDecoder, Framing};
use super::super::encode;
use super::super::{HeadLimits, Malformed};
use crate::message::{Frame, work};

/// What came of a body: its data, its trailers' number, and how many bytes were left.
type Decoded = Result<(Vec<u8>, usize, usize), Malformed>;

/// Decodes `pieces` one after the other, then the end of the connection.
fn decode<'p>(framing: Framing, pieces: impl IntoIterator<Item = &'p [u8]>) -> Decoded {
    let (mut decoder, mut input) = (BodyDecoder::new(framing, true, HeadLimits::default()), BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), 0);
    for piece in pieces {
        input.extend_from_slice(piece);
        while !decoder.is_end() {
            match decoder.decode(&mut input)? {
                Some(Frame::Data(more)) => data.extend_from_slice(&more),
                Some(Frame::Trailers(fields)) => trailers = fields.len(),
                Some(Frame::End) => assert!(decoder.is_end()),
                None => break,
            }
        }
    }
    decoder.end_of_input().map(|_| (data, trailers, input.len()))
}

fn chunked(text: &str) -> Decoded {
    decode(Framing::Chunked, [text.as_bytes()])
}

#[test]
fn chunks_extensions_and_trailers() {
    assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\n"), Ok((b"hello".to_vec(), 0, 0)));
    assert_eq!(chunked("5;ext=1\r\nhello\r\n0\r\n\r\nGET"), Ok((b"hello".to_vec(), 0, 3)));
    assert_eq!(chunked("3 \r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), Ok((b"abcde".to_vec(), 0, 0)));
    assert_eq!(
        chunked("1\r\na\r\n0\r\nx-t: 1\r\nhost: a\r\ncontent-length: 9\r\n\r\n"),
        Ok((b"a".to_vec(), 1, 0))
    );
}

#[test]
fn broken_chunks_are_errors() {
    for text in [
        "zz\r\n",
        "\r\n",
        "-1\r\na",
        "0x1\r\na\r\n0\r\n\r\n",
        "fffffffffffffffff\r\na",
        "1g\r\na\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "0\r\n bad: trailer\r\n\r\n",
        "5\r\nhello\r\n",
        "5\r\nhel",
        // Envoy refuses lines that end with a bare LF.
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\n",
        "",
    ] {
        assert!(chunked(text).is_err(), "{text:?}");
    }
    let endless = "x".repeat(5_000);
    assert!(chunked(&format!("1;{endless}\r\na\r\n0\r\n\r\n")).is_err());
    let many = "1;eeeeeeee\r\na\r\n".repeat(5_000);
    assert!(chunked(&format!("{many}0\r\n\r\n")).is_err());
}

#[test]
fn only_the_close_ends_a_body_without_a_length() {
    assert_eq!(decode(Framing::UntilClose, [&b"ab"[..], b"c"]), Ok((b"abc".to_vec(), 0, 0)));
    assert_eq!(decode(Framing::Length(3), [&b"ab"[..]]), Err(Malformed::EarlyEnd));
    assert_eq!(decode(Framing::Length(3), [&b"abcd"[..]]), Ok((b"abc".to_vec(), 0, 1)));
}

#[test]
fn the_last_data_is_known_to_be_the_last() {
    for text in ["5\r\nhello\r\n0\r\n\r\n".to_owned(), format!("1000\r\n{}\r\n0\r\n\r\n", "x".repeat(4096))] {
        let mut decoder = BodyDecoder::new(Framing::Chunked, false, HeadLimits::default());
        let mut input = BytesMut::from(text.as_bytes());
        assert!(matches!(decoder.decode(&mut input), Ok(Some(Frame::Data(_)))));
        assert!(decoder.is_end());
    }
}

#[test]
fn many_small_chunks_become_few_pieces() {
    let mut input = BytesMut::from(&*"1\r\na\r\n".repeat(40_000).into_bytes());
    let mut decoder = BodyDecoder::new(Framing::Chunked, false, HeadLimits::default());
    let mut pieces = 0;
    while let Ok(Some(Frame::Data(_))) = decoder.decode(&mut input) {
        pieces += 1;
    }
    assert!(pieces <= 4, "{pieces}");
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3_000), 0..6),
        trailer in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            encode::chunk_line(&mut wire, chunk.len());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(if trailer { b"0\r\nx-t: 1\r\n\r\n" } else { b"0\r\n\r\n" });
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        places.sort_unstable();
        places.push(wire.len());
        let mut from = 0;
        let pieces = places.into_iter().map(|to| {
            let piece = &wire[from..to];
            from = to;
            piece
        });
        prop_assert_eq!(decode(Framing::Chunked, pieces), Ok((chunks.concat(), usize::from(trailer), 0)));
    }

    #[test]
    fn no_input_makes_the_decoder_panic(bytes in prop::collection::vec(prop_oneof![Just(b'0'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..100)) {
        let _ = decode(Framing::Chunked, [&bytes[..]]);
    }

    #[test]
    fn a_truncated_body_is_never_whole(cut in 0usize..27) {
        let whole = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
        prop_assert!(decode(Framing::Chunked, [&whole[..cut.min(whole.len() - 1)]]).is_err());
    }
}

/// RFC 9112, 7.1.1: a CR in a chunk's line that no LF follows is a line end to some readers.
#[test]
fn a_bare_carriage_return_in_a_chunk_line_is_refused() {
    for line in ["2;a\rb\r\n", "2\r;a\r\n", "2\r\r\n", "2;\r\r\n"] {
        assert_eq!(chunked(&format!("{line}hi\r\n0\r\n\r\n")), Err(Malformed::Syntax), "{line:?}");
    }
    assert_eq!(chunked("2\x0c\r\nhi\r\n0\r\n\r\n"), Err(Malformed::Syntax));
}

#[test]
fn trailers_have_the_limits_of_a_head_and_the_data_before_them_is_not_lost() {
    let limits = HeadLimits { bytes: 100, fields: 3 };
    let decode = |trailers: &str| {
        let mut input = BytesMut::from(format!("2\r\nhi\r\n0\r\n{trailers}\r\n").as_bytes());
        let mut decoder = BodyDecoder::new(Framing::Chunked, true, limits);
        let first = decoder.decode(&mut input);
        assert!(matches!(first, Ok(Some(Frame::Data(data))) if data == "hi"));
        decoder.decode(&mut input).map(|frame| matches!(frame, Some(Frame::Trailers(_))))
    };
    assert_eq!(decode("a: 1\r\nb: 2\r\nc: 3\r\n"), Ok(true));
    assert_eq!(decode("a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n"), Err(Malformed::TooManyFields));
    assert_eq!(decode(&format!("a: {}\r\n", "x".repeat(100))), Err(Malformed::TooLarge));
    assert_eq!(decode(&format!("a: {}\r\n", "x".repeat(10_000))), Err(Malformed::TooLarge));
}

#[test]
fn twice_the_body_byte_by_byte_is_at_most_twice_the_work() {
    let steps = |body: String| work::of(|| drop(decode(Framing::Chunked, body.as_bytes().chunks(1))));
    let shapes: [fn(usize) -> String; 3] = [
        |size| format!("2;{}\r\nhi\r\n0\r\n\r\n", "e".repeat(size)),
        |size| format!("0\r\nx: {}\r\n\r\n", "t".repeat(size)),
        |size| format!("{}0\r\n\r\n", "1\r\na\r\n".repeat(size / 6)),
    ];
    for (at, shape) in shapes.into_iter().enumerate() {
        let (once, twice) = (steps(shape(1_900)), steps(shape(3_800)));
        assert!(twice <= 2 * once + 200, "shape {at}: {once} steps, and {twice} for twice as much");
    }
}
