//! Response heads and the framing of their bodies; what is not certain is an error, never a guess.

use super::body::Framing;
use super::fields::{self, Parsed, Summary, TransferEncoding};
use super::{HeadLimits, Malformed};
use crate::message::{Known, ResponseHead, Version};

/// What of the request decides about its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseMeta {
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    /// The connection now carries another protocol.
    pub(super) tunnel: bool,
}

/// Reads a head into `head` (cleared before).
pub(super) fn parse(
    bytes: &[u8],
    head: &mut ResponseHead,
    asked: Asked,
    limits: HeadLimits,
) -> Result<(Parsed, ResponseMeta), Malformed> {
    let partial = ResponseMeta { framing: Framing::None, keep_alive: false, tunnel: false };
    head.clear();
    if bytes.first().is_some_and(|&byte| byte != b'H') {
        return Err(Malformed::Syntax);
    }
    let Some(end) = fields::line_end(bytes, 0) else { return Ok((Parsed::Partial, partial)) };
    status_line(fields::strip_cr(bytes.get(..end).unwrap_or_default()), head)?;
    let mut summary = Summary::default();
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let parsed = fields::parse(rest, &mut head.fields, None, &mut summary, limits, 0)?;
    let Parsed::Complete(used) = parsed else { return Ok((Parsed::Partial, partial)) };
    let meta = finish(head, &summary, asked)?;
    Ok((Parsed::Complete(end + 1 + used), meta))
}

fn status_line(line: &[u8], head: &mut ResponseHead) -> Result<(), Malformed> {
    let (version, rest) = line.split_at_checked(b"HTTP/1.1".len()).ok_or(Malformed::Syntax)?;
    head.version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Malformed::Syntax),
    };
    let status = match rest.trim_ascii_start() {
        [a, b, c] | [a, b, c, b' ', ..] if rest.first() == Some(&b' ') => [*a, *b, *c],
        _ => return Err(Malformed::Syntax),
    };
    let number = std::str::from_utf8(&status).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    head.status = number.and_then(|text| text.parse().ok()).ok_or(Malformed::Syntax)?;
    if head.status < 100 { Err(Malformed::Syntax) } else { Ok(()) }
}

fn finish(head: &mut ResponseHead, summary: &Summary, asked: Asked) -> Result<ResponseMeta, Malformed> {
    if summary.encoding.is_some() && summary.length.is_some() {
        return Err(Malformed::LengthAndEncoding);
    }
    if summary.encoding == Some(TransferEncoding::Unsupported) {
        return Err(Malformed::Encoding);
    }
    let keep_alive = match head.version {
        Version::Http10 => summary.keep_alive && !summary.close,
        Version::Http11 | Version::Http2 => !summary.close,
    };
    let bodiless = ResponseMeta { framing: Framing::None, keep_alive, tunnel: false };
    let tunnel = ResponseMeta { framing: Framing::UntilClose, keep_alive: false, tunnel: true };
    if head.status == 101 && !asked.upgrade {
        return Err(Malformed::Interim);
    }
    if head.status < 200 || head.status == 204 {
        if summary.encoding.is_some() || summary.length.is_some_and(|length| length > 0) {
            return Err(Malformed::BodyNotAllowed);
        }
        head.fields.remove(Known::ContentLength);
        return Ok(if head.status == 101 { tunnel } else { bodiless });
    }
    if asked.connect && (200..300).contains(&head.status) {
        return Ok(tunnel);
    }
    if asked.head || head.status == 304 {
        return Ok(bodiless);
    }
    let framing = match (summary.encoding, summary.length) {
        (Some(_), _) => Framing::Chunked,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    let keep_alive = keep_alive && framing != Framing::UntilClose;
    Ok(ResponseMeta { framing, keep_alive, tunnel: false })
}
