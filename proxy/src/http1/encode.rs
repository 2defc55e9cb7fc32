//! Heads and chunks as they are sent. Framing headers are decided here; those in a head are only a
//! hint.

use super::EncodeOptions;
use super::body::NOT_IN_TRAILERS;
use crate::message::{Fields, Known, Method, Name, RequestHead, ResponseHead, Version};

/// How a body that is sent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyWriter {
    /// Nothing more may be sent.
    Done,
    /// The receiver reads no body (HEAD, 304): data is swallowed until the end.
    Swallow,
    Length(u64),
    Chunked,
    /// As it comes, until the close (tunnels, responses to HTTP/1.0).
    UntilClose,
}

/// What of the request and its connection decides about a response's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RespondingTo {
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) http10: bool,
    /// `connection: close` is announced.
    pub(super) close: bool,
}

/// Appends a request's head; with `end` there is no body.
pub(super) fn request_head(
    out: &mut Vec<u8>,
    head: &RequestHead,
    end: bool,
    options: EncodeOptions,
) -> BodyWriter {
    let connect = head.method == Method::Connect;
    let tunnel = connect || head.fields.upgrade().is_some();
    let target: &[u8] = if connect { &head.authority } else { &head.path };
    let target = if stays_in_line(target) { target } else { b"/" };
    for part in [head.method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    field(out, Name::Known(Known::Host), &head.authority, options);
    let length = fields(out, &head.fields, tunnel, true, options);
    let body = match (length, end) {
        _ if tunnel => BodyWriter::Done,
        (_, true) => {
            if length.is_none() && may_have_body(&head.method) {
                field(out, Known::ContentLength.into(), b"0", options);
            }
            BodyWriter::Done
        }
        (Some(length), false) => BodyWriter::Length(length),
        (None, false) => {
            field(out, Known::TransferEncoding.into(), b"chunked", options);
            BodyWriter::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    body
}

/// Appends a response's head; with `end` there is no body. Whether the connection ends with the response.
pub(super) fn response_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    end: bool,
    request: RespondingTo,
    options: EncodeOptions,
) -> (BodyWriter, bool) {
    status_line(out, head.status, request.http10);
    let status = head.status;
    let tunnel = status == 101 || (request.connect && (200..300).contains(&status));
    let no_length = status < 200 || status == 204 || tunnel;
    let mut length = fields(out, &head.fields, status == 101, !no_length, options);
    let bodiless = no_length || status == 304;
    if end && !bodiless && !request.head && length.is_none() {
        field(out, Known::ContentLength.into(), b"0", options);
        length = Some(0);
    }
    // For HEAD this is a guess at what GET would say, as Envoy makes it.
    let chunked = !bodiless && length.is_none() && !request.http10;
    // An HTTP/1.0 client stays only where it can tell the end of the response from that of the connection, as in Envoy.
    let unknown_end = request.http10 && length.is_none();
    let close = tunnel || (status >= 200 && (request.close || unknown_end));
    if !tunnel && status >= 200 {
        if close {
            field(out, Known::Connection.into(), b"close", options);
        } else if request.http10 {
            field(out, Known::Connection.into(), b"keep-alive", options);
        }
    }
    if chunked {
        field(out, Known::TransferEncoding.into(), b"chunked", options);
    }
    out.extend_from_slice(b"\r\n");
    let body = match length {
        _ if end => BodyWriter::Done,
        _ if tunnel => BodyWriter::UntilClose,
        _ if bodiless || request.head => BodyWriter::Swallow,
        Some(length) => BodyWriter::Length(length),
        None if chunked => BodyWriter::Chunked,
        None => BodyWriter::UntilClose,
    };
    (body, close)
}

/// The last chunk, with trailers where there are some.
pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&Fields>, options: EncodeOptions) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers.filter(|_| options.enable_trailers) {
        // Those of an HTTP/2 peer were not looked at before.
        let allowed =
            |name: &Name<'_>| !matches!(name, Name::Known(known) if NOT_IN_TRAILERS.contains(known));
        let allowed = trailers.iter().filter(|(name, _)| allowed(name));
        allowed.for_each(|(name, value)| field(out, name, value, options));
    }
    out.extend_from_slice(b"\r\n");
}

/// The line before a chunk of that size.
pub(super) fn chunk_line(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        let digit = (size >> (at * 4)) & 0xf;
        out.extend(char::from_digit(u32::try_from(digit).unwrap_or(0), 16).map(|digit| digit as u8));
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: u16, http10: bool) {
    let version = if http10 { Version::Http10 } else { Version::Http11 };
    out.extend_from_slice(version.as_str().as_bytes());
    out.push(b' ');
    let digit = |number: u16| b'0' + u8::try_from(number % 10).unwrap_or(0);
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends all headers but those of framing and connection; returns the `content-length`, which is sent where allowed.
fn fields(
    out: &mut Vec<u8>,
    list: &Fields,
    upgrade: bool,
    length_allowed: bool,
    options: EncodeOptions,
) -> Option<u64> {
    let mut length = None;
    for (name, value) in list.iter() {
        match name {
            Name::Known(Known::ContentLength) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                if !length_allowed || length.is_some() || number.is_none() {
                    continue;
                }
                length = number;
            }
            Name::Known(Known::Connection | Known::Upgrade) if upgrade => {}
            Name::Known(
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Host,
            ) => continue,
            Name::Known(_) | Name::Other(_) => {}
        }
        field(out, name, value, options);
    }
    length
}

fn field(out: &mut Vec<u8>, name: Name<'_>, value: &[u8], options: EncodeOptions) {
    // Well-known names are our own.
    if !stays_in_line(value) || matches!(name, Name::Other(other) if !stays_in_line(other)) {
        return;
    }
    let name = name.as_bytes();
    if options.proper_case {
        let mut start = true;
        for &byte in name {
            out.push(if start { byte.to_ascii_uppercase() } else { byte });
            start = !byte.is_ascii_alphanumeric();
        }
    } else {
        out.extend_from_slice(name);
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether bytes end no line. The types of names, values and targets see to that; this is the last
/// look, and what fails it is not written.
fn stays_in_line(bytes: &[u8]) -> bool {
    let ends = has_control(bytes) && bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    debug_assert!(!ends, "a line end inside a line: {:?}", String::from_utf8_lossy(bytes));
    if ends {
        tracing::error!(
            "a part of a message with a line end inside was left out: this is a bug of the proxy"
        );
    }
    !ends
}

/// Whether some byte is below 14, as those that end a line are: eight bytes at a time.
fn has_control(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const BELOW: u8 = b'\r' + 1;
    let in_word = |word: u64| word.wrapping_sub(ONES * u64::from(BELOW)) & !word & (ONES << 7) != 0;
    // The last word may begin in the one before.
    let Some(last) = bytes.last_chunk() else { return bytes.iter().any(|byte| *byte < BELOW) };
    let (words, _) = bytes.as_chunks();
    in_word(u64::from_ne_bytes(*last)) || words.iter().any(|word| in_word(u64::from_ne_bytes(*word)))
}

/// Whether a request of that method without a body says so by `content-length: 0`.
fn may_have_body(method: &Method) -> bool {
    !matches!(method, Method::Get | Method::Head | Method::Delete | Method::Trace | Method::Connect)
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        _ => error_reason(status),
    }
}

/// The reason phrase of an error.
pub(crate) fn error_reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_below_14_is_found_wherever_it_is() {
        for length in 1..20 {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    for others in [14, b' ', 0x7f, 0x80, 0xff] {
                        let mut bytes = vec![others; length];
                        bytes[at] = byte;
                        assert_eq!(has_control(&bytes), byte < 14, "{bytes:?}");
                    }
                }
            }
        }
        assert!(!has_control(b""));
    }

    #[test]
    fn trailers_hold_nothing_that_decides_about_framing() {
        let mut trailers = Fields::default();
        for name in NOT_IN_TRAILERS {
            trailers.push(name, "7");
        }
        trailers.push("x-sum", "8");
        let mut out = Vec::new();
        let options = EncodeOptions { enable_trailers: true, ..EncodeOptions::default() };
        last_chunk(&mut out, Some(&trailers), options);
        assert_eq!(out, b"0\r\nx-sum: 8\r\n\r\n");
    }
}
