//! Heads as they are received (RFC 9112): headers and their framing, request heads, response heads.
//!
//! Requests are checked exactly as strictly as Envoy does; in a response, what is not certain is an
//! error.

use memchr::memchr;

use super::body::Framing;
use super::{HeadLimits, Malformed, ServerOptions};
use crate::message::{
    Authority, FieldValue, Fields, Known, Method, RequestHead, ResponseHead, Scheme, Version, grammar, work,
};

/// How far a parser came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The section takes that many bytes.
    Complete(usize),
    Partial,
}

/// What the header lines of a head said about the message and its connection.
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

/// Reads header lines up to the empty line into `fields`; a `host` goes to `host` instead, or nowhere.
///
/// `used` are bytes that already count towards the limit (the first line).
pub(super) fn section(
    bytes: &[u8],
    fields: &mut Fields,
    mut host: Option<&mut Authority>,
    summary: &mut Summary,
    limits: HeadLimits,
    used: usize,
) -> Result<Parsed, Malformed> {
    let (mut at, mut count) = (0, 0usize);
    fields.reserve();
    loop {
        let Some(end) = line_end(bytes, at) else { return Ok(Parsed::Partial) };
        if used + end >= limits.bytes {
            return Err(Malformed::TooLarge);
        }
        let line = strip_cr(bytes.get(at..end).unwrap_or_default());
        if line.is_empty() {
            return Ok(Parsed::Complete(end + 1));
        }
        let Some(end) = folded_end(bytes, end) else { return Ok(Parsed::Partial) };
        let line = bytes.get(at..end).unwrap_or_default();
        at = end + 1;
        let (name, value) = split_field(line)?;
        count += 1;
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
                host.set(value).map_err(|_| Malformed::Host)?;
            }
        } else if let Some(known) = fields.push_received(name, checked).map_err(|_| Malformed::Syntax)? {
            summary.note(known, value)?;
        }
    }
}

/// The place of the line feed that ends the line beginning at `from`.
pub(super) fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let end = memchr(b'\n', rest);
    work::step(end.unwrap_or(rest.len()));
    end.map(|at| from + at)
}

/// The end of a line with its continuations (obs-fold); `None` while the byte behind is not known.
fn folded_end(bytes: &[u8], mut end: usize) -> Option<usize> {
    while matches!(bytes.get(end + 1)?, b' ' | b'\t') {
        end = line_end(bytes, end + 1)?;
    }
    Some(end)
}

fn strip_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
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

/// Whether a header decides where a message ends or goes: what two readers could take for two values is refused.
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
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"MSEARCH",
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

/// Reads a head into `head` (cleared before).
pub(super) fn request(
    bytes: &[u8],
    head: &mut RequestHead,
    options: &ServerOptions,
    limits: HeadLimits,
) -> Result<(Parsed, RequestMeta), Malformed> {
    read_request(bytes, head, options, limits).map_err(|error| match error {
        Malformed::Syntax | Malformed::Target | Malformed::Host if has_control(bytes) => {
            Malformed::Characters
        }
        error => error,
    })
}

/// Whether a whole head has a control character, which Envoy looks for before anything else.
fn has_control(bytes: &[u8]) -> bool {
    let mut scan = EndScan::default();
    let head = if scan.complete(bytes) { bytes.get(..scan.scanned).unwrap_or_default() } else { b"" };
    head.iter().any(|byte| byte.is_ascii_control() && !b"\t\r\n".contains(byte))
}

fn read_request(
    bytes: &[u8],
    head: &mut RequestHead,
    options: &ServerOptions,
    limits: HeadLimits,
) -> Result<(Parsed, RequestMeta), Malformed> {
    let partial = RequestMeta { framing: Framing::None, keep_alive: false };
    head.clear();
    head.version = Version::Http11;
    check_first_byte(bytes)?;
    let Some(end) = line_end(bytes, 0) else {
        return if bytes.len() > limits.bytes {
            Err(Malformed::TooLarge)
        } else {
            Ok((Parsed::Partial, partial))
        };
    };
    let line = strip_cr(bytes.get(..end).unwrap_or_default());
    let (target, version) = request_line(line, head)?;
    let mut summary = Summary::default();
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let RequestHead { fields, authority, .. } = head;
    let parsed = if version.is_empty() {
        // HTTP/0.9 has no headers.
        Parsed::Complete(0)
    } else {
        section(rest, fields, Some(authority), &mut summary, limits, end + 1)?
    };
    let Parsed::Complete(used) = parsed else { return Ok((Parsed::Partial, partial)) };
    let meta = finish_request(head, target, version, &summary, options)?;
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
    // The target of CONNECT is an authority, which is looked at last.
    let placed = if head.method == Method::Connect { Ok(()) } else { head.path.set(target) };
    if !target.is_ascii() {
        return Err(Malformed::Syntax);
    }
    placed.map_err(|_| Malformed::Target)?;
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

/// The checks that need the whole head.
fn finish_request(
    head: &mut RequestHead,
    target: &[u8],
    version: &[u8],
    summary: &Summary,
    options: &ServerOptions,
) -> Result<RequestMeta, Malformed> {
    let http10 = version != b"HTTP/1.1";
    head.version = if http10 { Version::Http10 } else { Version::Http11 };
    let refused10 = http10 && !options.accept_http10;
    // Where several things are wrong, the order is Envoy's: it decides the status.
    let placed = place_target(head, target, options);
    if placed == Err(Malformed::Syntax) {
        return Err(Malformed::Syntax);
    }
    let framing = request_framing(head, summary, http10);
    let may_wait = framing == Err(Malformed::BodyNotAllowed) && head.method != Method::Connect;
    if !may_wait {
        framing?;
    }
    if summary.hosts > 1 {
        return Err(Malformed::RepeatedHost);
    }
    let has_authority = placed? || summary.hosts == 1;
    if refused10 {
        return Err(Malformed::Version);
    }
    let framing = framing?;
    head.empty_host = has_authority && head.authority.is_empty();
    if !has_authority && http10 {
        head.authority.clone_from(&options.default_host);
    }
    drop_h2c_upgrade(head);
    let keep_alive = if http10 { summary.keep_alive && !summary.close } else { !summary.close };
    Ok(RequestMeta { framing, keep_alive })
}

fn request_framing(head: &mut RequestHead, summary: &Summary, http10: bool) -> Result<Framing, Malformed> {
    if summary.encoding.is_some() && summary.length.is_some() {
        return Err(Malformed::LengthAndEncoding);
    }
    if head.method == Method::Connect {
        // What follows is the tunnel's, so that framing can only mislead; a length of 0 is harmless.
        if summary.encoding.is_some() {
            return Err(Malformed::Encoding);
        }
        if summary.length.is_some_and(|length| length > 0) {
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

/// Moves what a target has of an authority to the authority (then the `host` header does not count); the path holds the target already.
fn place_target(head: &mut RequestHead, target: &[u8], options: &ServerOptions) -> Result<bool, Malformed> {
    if head.method == Method::Connect {
        // RFC 9110, 9.3.6: a port is always there.
        grammar::port(target).ok_or(Malformed::Target)?;
        head.authority.set(target).map_err(|_| Malformed::Target)?;
        return Ok(true);
    }
    let relative = target.first() == Some(&b'/') || (target == b"*" && head.method == Method::Options);
    if relative || !options.allow_absolute_url {
        return Ok(false);
    }
    if target == b"*" {
        return Err(Malformed::Target);
    }
    let colon = memchr(b':', target).ok_or(Malformed::Syntax)?;
    let (scheme, rest) = target.split_at(colon);
    let rest = rest.strip_prefix(b"://").ok_or(Malformed::Syntax)?;
    let scheme = Scheme::parse(scheme).ok_or(Malformed::Scheme)?;
    if scheme == Scheme::Https && options.refuse_https_target {
        return Err(Malformed::HttpsOnPlaintext);
    }
    head.scheme = Some(scheme);
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_host_and_port(authority) {
        return Err(Malformed::Target);
    }
    head.authority.set(authority).map_err(|_| Malformed::Target)?;
    // A query right behind the authority is left as it is and then matches no route, as in Envoy.
    head.path.set(if path.is_empty() { b"/" } else { path }).map_err(|_| Malformed::Target)?;
    Ok(true)
}

/// Whether Envoy's parser takes this for the host and port of a target in absolute form: it is stricter there than with `host`.
fn is_host_and_port(authority: &[u8]) -> bool {
    let end = match authority.strip_prefix(b"[") {
        Some(address) => match memchr(b']', address) {
            Some(end) => end + 2,
            None => return false,
        },
        None => memchr(b':', authority).unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(end).unwrap_or((authority, b""));
    let port_is_valid = match port.split_first() {
        None => true,
        Some((b':', digits)) => std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok()),
        Some(_) => false,
    };
    let host_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'[' | b']');
    !host.is_empty() && host.iter().all(host_byte) && port_is_valid
}

/// An upgrade to cleartext HTTP/2 is not made; its headers are removed.
fn drop_h2c_upgrade(head: &mut RequestHead) {
    let h2c = head.fields.get(Known::Upgrade).is_some_and(|value| value.eq_ignore_ascii_case(b"h2c"));
    if h2c {
        // `connection` stays for now: it names the headers that go no further.
        head.fields.remove(Known::Upgrade);
        head.fields.remove("http2-settings");
    }
}

/// What of the request decides about its response.
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
pub(super) fn response(
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
    let Some(end) = line_end(bytes, 0) else { return Ok((Parsed::Partial, partial)) };
    status_line(strip_cr(bytes.get(..end).unwrap_or_default()), head)?;
    let mut summary = Summary::default();
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let parsed = section(rest, &mut head.fields, None, &mut summary, limits, end + 1)?;
    let Parsed::Complete(used) = parsed else { return Ok((Parsed::Partial, partial)) };
    let meta = finish_response(head, &summary, asked)?;
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

fn finish_response(
    head: &mut ResponseHead,
    summary: &Summary,
    asked: Asked,
) -> Result<ResponseMeta, Malformed> {
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
