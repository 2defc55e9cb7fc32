//! Field lines (RFC 9112, 5): names, values and what they say about framing; the end of a section found piece by piece.

use memchr::memchr;

use super::{HeadLimits, Malformed};
use crate::message::{Authority, FieldValue, Fields, Known};

/// How far a parser came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The section takes that many bytes.
    Complete(usize),
    Partial,
}

/// What the field lines of a head said about the message and its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) hosts: u8,
    pub(super) length: Option<u64>,
    pub(super) encoding: Option<TransferEncoding>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferEncoding {
    Chunked,
    Unsupported,
}

impl Summary {
    fn note(&mut self, known: Known, value: &[u8]) -> Result<(), Malformed> {
        match known {
            // Two of them are refused even when they agree, as Envoy does.
            Known::ContentLength if self.length.is_some() => return Err(Malformed::Length),
            Known::ContentLength => self.length = Some(decimal(value).ok_or(Malformed::Length)?),
            Known::TransferEncoding => {
                let plain = value.eq_ignore_ascii_case(b"chunked") && self.encoding.is_none();
                self.encoding =
                    Some(if plain { TransferEncoding::Chunked } else { TransferEncoding::Unsupported });
            }
            Known::Connection => {
                for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A `content-length`: digits alone, without overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Reads field lines up to the empty line into `fields`; a `host` goes to `host` instead, or nowhere.
///
/// `used` are bytes that already count towards the limit (the target).
pub(super) fn parse(
    bytes: &[u8],
    fields: &mut Fields,
    mut host: Option<&mut Authority>,
    summary: &mut Summary,
    limits: HeadLimits,
    used: usize,
) -> Result<Parsed, Malformed> {
    let (mut at, mut size, mut count) = (0, used, 0usize);
    loop {
        let Some(end) = line_end(bytes, at) else { return Ok(Parsed::Partial) };
        let line = strip_cr(bytes.get(at..end).unwrap_or_default());
        if line.is_empty() {
            return Ok(Parsed::Complete(end + 1));
        }
        let Some(end) = folded_end(bytes, end) else { return Ok(Parsed::Partial) };
        let line = bytes.get(at..end).unwrap_or_default();
        at = end + 1;
        let (name, value) = split(line)?;
        size += name.len() + value.len();
        count += 1;
        if size > limits.bytes {
            return Err(Malformed::TooLarge);
        }
        if count > limits.fields {
            return Err(Malformed::TooManyFields);
        }
        // Only a folded or otherwise odd value needs a copy: its line ends are taken out, as Envoy does.
        let cleaned;
        let (value, checked) = match FieldValue::new(value) {
            Ok(checked) => (value, checked),
            Err(_) => {
                if decides(name) && has_bare_cr(value) {
                    return Err(Malformed::Characters);
                }
                cleaned = clean(value);
                (&*cleaned, FieldValue::new(&cleaned).map_err(|_| Malformed::Characters)?)
            }
        };
        if name.eq_ignore_ascii_case(b"host") {
            summary.hosts = summary.hosts.saturating_add(1);
            if let Some(host) = &mut host {
                host.set(value).map_err(|_| Malformed::Characters)?;
            }
        } else if let Some(known) = fields.push_received(name, checked).map_err(|_| Malformed::Syntax)? {
            summary.note(known, value)?;
        }
    }
}

/// The place of the line feed that ends the line beginning at `from`.
pub(super) fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr(b'\n', bytes.get(from..)?).map(|at| from + at)
}

/// The end of a line with its continuations (obs-fold); `None` while the byte behind is not known.
fn folded_end(bytes: &[u8], mut end: usize) -> Option<usize> {
    while matches!(bytes.get(end + 1)?, b' ' | b'\t') {
        end = line_end(bytes, end + 1)?;
    }
    Some(end)
}

pub(super) fn strip_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let colon = memchr(b':', line).ok_or(Malformed::Syntax)?;
    let (name, rest) = line.split_at(colon);
    Ok((name, trim(rest.get(1..).unwrap_or_default())))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r'] = value {
        value = rest;
    }
    value
}

/// Whether a field decides where a message ends or goes: what two readers could take for two values is refused.
fn decides(name: &[u8]) -> bool {
    [&b"content-length"[..], b"transfer-encoding", b"connection", b"host"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// A CR without its LF, which some take for a line end (RFC 9112, 2.2); elsewhere it is taken out, as Envoy does.
fn has_bare_cr(value: &[u8]) -> bool {
    value.windows(2).any(|two| matches!(two, [b'\r', next] if *next != b'\n'))
}

fn clean(value: &[u8]) -> Vec<u8> {
    let mut cleaned = value.to_vec();
    cleaned.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    trim(&cleaned).to_vec()
}

/// Finds the end of a section (its empty line) in bytes that come piece by piece, looking at each byte once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EndScan {
    /// Where the line that is not yet whole begins.
    line: usize,
    scanned: usize,
}

impl EndScan {
    /// Whether `bytes` (those of the last call and more) hold the whole section, whose lines begin at 0.
    pub(super) fn complete(&mut self, bytes: &[u8]) -> bool {
        while let Some(end) = line_end(bytes, self.scanned) {
            let line = strip_cr(bytes.get(self.line..end).unwrap_or_default());
            self.line = end + 1;
            self.scanned = end + 1;
            if line.is_empty() {
                return true;
            }
        }
        self.scanned = bytes.len();
        false
    }
}
