//! Base64 for URLs without padding (RFC 4648, section 5): continue tokens; and the standard one for others.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Encodes.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for index in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * index) & 63) as usize]));
        }
    }
    text
}

/// Encodes in the padded standard alphabet (section 4), as kubeconfigs and Secrets have it.
pub fn encode_standard(bytes: &[u8]) -> String {
    let mut text = encode(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Decodes; the error is the place of the first byte that does not belong.
pub fn decode(text: &str) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for (number, group) in text.as_bytes().chunks(4).enumerate() {
        let mut bits = 0_u32;
        for (index, byte) in group.iter().enumerate() {
            let digit = ALPHABET.iter().position(|one| one == byte).ok_or(number * 4 + index)?;
            bits |= (digit as u32) << (18 - 6 * index);
        }
        if group.len() == 1 {
            return Err(number * 4);
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_survives_and_strangers_are_named() {
        for length in 0..20_u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(77)).collect();
            assert_eq!(decode(&encode(&bytes)), Ok(bytes));
        }
        assert_eq!(encode(b"{\"v\""), "eyJ2Ig");
        assert_eq!(decode("ab+d"), Err(2));
    }
}
