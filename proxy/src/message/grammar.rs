//! The small grammars that messages share: percent-encoding, targets, authorities, request ids.
//! The only place for each of them.

use super::work;

/// The byte that `%XX` at the start of `text` stands for.
pub(crate) fn escape(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match text {
        [b'%', high, low, ..] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

/// Replaces each escape for which `replace` has a byte; other escapes and broken ones stay.
pub(crate) fn map_escapes(text: &[u8], replace: impl Fn(&[u8]) -> Option<u8>) -> Vec<u8> {
    work::step(text.len());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let replaced = rest.get(..3).filter(|three| three.first() == Some(&b'%')).and_then(&replace);
        out.push(replaced.unwrap_or(first));
        rest = if replaced.is_some() { rest.get(3..).unwrap_or_default() } else { tail };
    }
    out
}

/// Decodes every escape (RFC 3986, 2.1). A `+` stays one, as in Envoy.
pub(crate) fn decode_percent(text: &[u8]) -> Vec<u8> {
    map_escapes(text, escape)
}

/// A path without its query, and the query without its `?`.
pub(crate) fn split_query(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', path) {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..)),
        None => (path, None),
    }
}

/// An authority without its port.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = memchr::memrchr(b':', authority) else { return authority };
    let (host, port) = authority.split_at(colon);
    // A colon before a closing bracket belongs to an IPv6 address.
    if port.len() > 1 && port.iter().skip(1).all(u8::is_ascii_digit) { host } else { authority }
}

/// An authority without what stands behind its last colon, be it a port or not.
pub(crate) fn before_colon(authority: &[u8]) -> &[u8] {
    let end = memchr::memrchr(b':', authority).unwrap_or(authority.len());
    let (host, behind) = authority.split_at(end);
    // A colon before a closing bracket belongs to an IPv6 address.
    if behind.contains(&b']') { authority } else { host }
}

/// The port that an authority names.
pub(crate) fn port(authority: &[u8]) -> Option<u16> {
    let rest = authority.get(without_port(authority).len() + 1..)?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

/// A version 4 UUID (RFC 9562, 5.4) from random bits.
pub(crate) fn uuid([high, low]: [u64; 2]) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            let digit = usize::try_from(bits >> shift & 0xf).unwrap_or(0);
            *byte = HEX.get(digit).copied().unwrap_or(b'0');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_broken_ones_stay() {
        for (text, decoded) in
            [("a%2Eb%2e", "a.b."), ("%zz+%", "%zz+%"), ("%4", "%4"), ("%+1", "%+1"), ("%25%32%35", "%25")]
        {
            assert_eq!(decode_percent(text.as_bytes()), decoded.as_bytes(), "{text}");
        }
    }

    #[test]
    fn the_port_of_an_authority_is_no_part_of_an_ipv6_address() {
        for (authority, host, number) in [
            ("a.test:80", "a.test", Some(80)),
            ("[::1]:8080", "[::1]", Some(8080)),
            ("[::1]", "[::1]", None),
            ("a.test:", "a.test:", None),
            ("a.test:x", "a.test:x", None),
            ("", "", None),
        ] {
            assert_eq!(without_port(authority.as_bytes()), host.as_bytes());
            assert_eq!(port(authority.as_bytes()), number);
        }
    }

    #[test]
    fn a_uuid_names_its_version_and_variant() {
        assert_eq!(&uuid([0, 0]), b"00000000-0000-4000-8000-000000000000");
        assert_eq!(&uuid([u64::MAX; 2]), b"ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
