//! Request heads: the request line, the authority and the body's framing, with exactly Envoy's strictness.

use super::body::Framing;
use super::fields::{self, Parsed, Summary, TransferEncoding};
use super::{HeadLimits, Malformed, ServerOptions};
use crate::message::{Authority, Known, Method, RequestHead, Scheme, Version};

/// What the connection needs to know of a request beside its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestMeta {
    pub(super) framing: Framing,
    /// The client wants the connection to stay.
    pub(super) keep_alive: bool,
}

/// Methods beside the nine of `Method` that Envoy's parser knows; all others are refused.
const OTHER_METHODS: [&[u8]; 25] = [
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"M-SEARCH",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

/// Reads a head into `head` (cleared before). On an error, `head` holds what was understood, for the access log.
pub(super) fn parse(
    bytes: &[u8],
    head: &mut RequestHead,
    options: &ServerOptions,
    limits: HeadLimits,
) -> Result<(Parsed, RequestMeta), Malformed> {
    let partial = RequestMeta { framing: Framing::None, keep_alive: false };
    head.clear();
    head.version = Version::Http11;
    check_first_byte(bytes)?;
    let Some(end) = fields::line_end(bytes, 0) else {
        return if bytes.len() > limits.bytes {
            Err(Malformed::TooLarge)
        } else {
            Ok((Parsed::Partial, partial))
        };
    };
    let line = fields::strip_cr(bytes.get(..end).unwrap_or_default());
    let (target, version) = request_line(line, head)?;
    if target.len() > limits.bytes {
        return Err(Malformed::TooLarge);
    }
    let mut summary = Summary::default();
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let RequestHead { fields, authority, .. } = head;
    let parsed = fields::parse(rest, fields, Some(authority), &mut summary, limits, target.len())?;
    let Parsed::Complete(used) = parsed else { return Ok((Parsed::Partial, partial)) };
    let meta = finish(head, target, version, &summary, options)?;
    Ok((Parsed::Complete(end + 1 + used), meta))
}

/// Refuses at once what cannot become a request, such as a TLS handshake on a plain port.
fn check_first_byte(bytes: &[u8]) -> Result<(), Malformed> {
    match bytes.first() {
        Some(byte) if !byte.is_ascii_uppercase() => Err(Malformed::Syntax),
        _ => Ok(()),
    }
}

/// Takes the request line apart; sets the method. Several spaces between its parts pass, as in Envoy.
fn request_line<'a>(line: &'a [u8], head: &mut RequestHead) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    let (method, rest) = word(line);
    head.method = self::method(method).ok_or(Malformed::Syntax)?;
    let (target, rest) = word(rest);
    let version = rest.trim_ascii();
    let versioned = matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit());
    if target.is_empty() || !(version.is_empty() || versioned) {
        return Err(Malformed::Syntax);
    }
    let placed =
        if head.method == Method::Connect { Authority::new(target).map(drop) } else { head.path.set(target) };
    if placed.is_err() || !target.is_ascii() {
        return Err(Malformed::Target);
    }
    Ok((target, version))
}

fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let skip = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(rest.len());
    (word, rest.get(skip..).unwrap_or_default())
}

fn method(text: &[u8]) -> Option<Method> {
    let method = Method::try_from(std::str::from_utf8(text).ok()?).ok()?;
    let known = !matches!(method, Method::Other(_)) || OTHER_METHODS.contains(&text);
    known.then_some(method)
}

/// Everything that can only be judged when the whole head is there.
fn finish(
    head: &mut RequestHead,
    target: &[u8],
    version: &[u8],
    summary: &Summary,
    options: &ServerOptions,
) -> Result<RequestMeta, Malformed> {
    let http10 = version != b"HTTP/1.1";
    head.version = if http10 { Version::Http10 } else { Version::Http11 };
    let framing = framing(head, summary, http10)?;
    if summary.hosts > 1 {
        return Err(Malformed::RepeatedHost);
    }
    let has_authority = place_target(head, target, options)? || summary.hosts == 1;
    if http10 && !options.accept_http10 {
        return Err(Malformed::Version);
    }
    if !has_authority {
        if !http10 || options.default_host.is_empty() {
            return Err(Malformed::MissingHost);
        }
        head.authority.clone_from(&options.default_host);
    }
    if head.path.contains(&b'#') {
        return Err(Malformed::Fragment);
    }
    drop_h2c_upgrade(head);
    let keep_alive = if http10 { summary.keep_alive && !summary.close } else { !summary.close };
    Ok(RequestMeta { framing, keep_alive })
}

fn framing(head: &mut RequestHead, summary: &Summary, http10: bool) -> Result<Framing, Malformed> {
    if summary.encoding.is_some() && summary.length.is_some() {
        return Err(Malformed::LengthAndEncoding);
    }
    if head.method == Method::Connect {
        // What follows is the tunnel's, so that a length can only mislead; 0 is harmless.
        if summary.encoding.is_some() || summary.length.is_some_and(|length| length > 0) {
            return Err(Malformed::BodyNotAllowed);
        }
        head.fields.remove(Known::ContentLength);
        return Ok(Framing::None);
    }
    match (summary.encoding, summary.length) {
        (Some(TransferEncoding::Unsupported), _) => Err(Malformed::Encoding),
        (Some(TransferEncoding::Chunked), _) if http10 => Err(Malformed::BodyNotAllowed),
        (Some(TransferEncoding::Chunked), _) => Ok(Framing::Chunked),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::None),
    }
}

/// Moves what a target has of an authority to the authority (then the `host` field does not count); the path holds the target already.
fn place_target(head: &mut RequestHead, target: &[u8], options: &ServerOptions) -> Result<bool, Malformed> {
    if head.method == Method::Connect {
        head.authority.set(target).map_err(|_| Malformed::Target)?;
        return Ok(true);
    }
    let relative = target.first() == Some(&b'/') || (target == b"*" && head.method == Method::Options);
    if relative || !options.allow_absolute_url {
        return Ok(false);
    }
    let colon = memchr::memchr(b':', target).ok_or(Malformed::Target)?;
    let (scheme, rest) = target.split_at(colon);
    let scheme = Scheme::parse(scheme).ok_or(Malformed::Target)?;
    let rest = rest.strip_prefix(b"://").ok_or(Malformed::Target)?;
    if scheme == Scheme::Https && options.refuse_https_target {
        return Err(Malformed::HttpsOnPlaintext);
    }
    head.scheme = Some(scheme);
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(Malformed::Target);
    }
    head.authority.set(authority).map_err(|_| Malformed::Target)?;
    // A query right behind the authority is left as it is and then matches no route, as in Envoy.
    head.path.set(if path.is_empty() { b"/" } else { path }).map_err(|_| Malformed::Target)?;
    Ok(true)
}

/// An upgrade to cleartext HTTP/2 is answered by not upgrading; its fields go no further.
fn drop_h2c_upgrade(head: &mut RequestHead) {
    let h2c = head.fields.get(Known::Upgrade).is_some_and(|value| value.eq_ignore_ascii_case(b"h2c"));
    if h2c {
        head.fields.remove(Known::Upgrade);
        head.fields.remove(Known::Connection);
        head.fields.remove("http2-settings");
    }
}
