//! Heads and trailers between our own lists and those of the `http` crate; what HTTP/2 may not carry stays behind.

use std::fmt::Write;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::message::{FieldValue, Fields, Invalid, Known, Method, Name, RequestHead, ResponseHead, Version};

/// Whether HTTP/2 can carry a request. It depends on nothing but what the client sent and what is
/// configured, so that the host has no part in it.
pub(crate) fn can_carry(head: &RequestHead) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let colons = head.authority.iter().filter(|byte| **byte == b':').count();
    let authority = (!head.authority.is_empty()
        && colons <= 1
        && head.authority.iter().all(|byte| plain(byte) || *byte == b':'))
        || http::uri::Authority::try_from(&*head.authority).is_ok();
    let path = head.method == Method::Connect
        || (head.path.first() == Some(&b'/')
            && head.path.len() < SHORT_PATH
            && head.path.iter().all(|byte| plain(byte) || b"/?&=%+:@,;".contains(byte)))
        || path_out(&head.path).is_some();
    authority && path && head.fields.iter().all(|(name, _)| name.as_bytes().len() < LONGEST_NAME)
}

/// A path up to this length is not too long for the `http` crate.
const SHORT_PATH: usize = 60_000;
/// The `http` crate's limit of a name.
const LONGEST_NAME: usize = 65_535;

/// The path as the `http` crate takes it: what it refuses (`<`, and bytes that are not UTF-8) is
/// percent-encoded, which means the same to the server.
fn path_out(path: &[u8]) -> Option<http::uri::PathAndQuery> {
    // A `#` would end it without an error.
    let whole = http::uri::PathAndQuery::try_from(path).ok().filter(|out| out.as_str().len() == path.len());
    whole.or_else(|| {
        let mut encoded = String::with_capacity(path.len() + 16);
        for &byte in path {
            if byte.is_ascii_alphanumeric() || b"-._~/?&=%+:@,;!$'()*".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                // Writing to a string never fails.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        http::uri::PathAndQuery::try_from(encoded).ok()
    })
}

/// A request as it is sent. `None` when its parts cannot be written in HTTP/2.
pub(super) fn request_out(head: &RequestHead) -> Option<http::Request<()>> {
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    let upgrade = upgrade_protocol(head);
    *request.method_mut() = if upgrade.is_some() {
        http::Method::CONNECT
    } else {
        http::Method::from_bytes(head.method.as_str().as_bytes()).ok()?
    };
    let mut uri = http::uri::Parts::default();
    if !head.authority.is_empty() {
        uri.authority = Some(http::uri::Authority::try_from(&*head.authority).ok()?);
    }
    if head.method != Method::Connect {
        uri.path_and_query = Some(path_out(&head.path)?);
        // Without an authority a URI has no place for the scheme; h2 then sends none.
        if uri.authority.is_some() {
            uri.scheme = Some(if head.https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
        }
    }
    *request.uri_mut() = http::Uri::from_parts(uri).ok()?;
    fields_out(&head.fields, request.headers_mut(), upgrade.is_none())?;
    if let Some(protocol) = upgrade {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    }
    Some(request)
}

/// An answer as it is sent. `None` when its status or a field cannot be written.
pub(super) fn response_out(head: &ResponseHead, extended_connect: bool) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    // Extended CONNECT answers 200 where HTTP/1 switches protocols (RFC 8441, 5).
    let status = if extended_connect && head.status == 101 { 200 } else { head.status };
    *response.status_mut() = http::StatusCode::from_u16(status).ok()?;
    let body_allowed = status >= 200 && status != 204;
    fields_out(&head.fields, response.headers_mut(), body_allowed)?;
    Some(response)
}

pub(super) fn trailers_out(trailers: &Fields) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(trailers.len());
    fields_out(trailers, &mut map, false)?;
    Some(map)
}

/// A received request, into a reused head; whether it was an extended CONNECT, which becomes an upgrade as HTTP/1 knows it.
pub(super) fn request_in(
    request: &http::Request<h2::RecvStream>,
    head: &mut RequestHead,
) -> Result<bool, Invalid> {
    head.clear();
    head.version = Version::Http2;
    head.method = Method::try_from(request.method().as_str())?;
    let uri = request.uri();
    head.https = uri.scheme_str() == Some("https");
    if let Some(authority) = uri.authority() {
        head.authority.set(authority.as_str().as_bytes())?;
    }
    if let Some(path) = uri.path_and_query() {
        head.path.set(path.as_str().as_bytes())?;
    }
    fields_in(request.headers(), &mut head.fields);
    if head.authority.is_empty()
        && let Some(host) = request.headers().get(http::header::HOST)
    {
        head.authority.set(host.as_bytes())?;
    }
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    if let Some(protocol) = protocol {
        head.method = Method::Get;
        head.fields.push(Known::Connection, b"upgrade");
        head.fields.push(Known::Upgrade, FieldValue::new(protocol.as_str().as_bytes())?);
    } else if head.method == Method::Connect {
        head.path.clear();
    }
    Ok(protocol.is_some())
}

/// A received answer, into a reused head.
pub(super) fn response_in<B>(response: &http::Response<B>, head: &mut ResponseHead) {
    head.clear();
    head.version = Version::Http2;
    head.status = response.status().as_u16();
    fields_in(response.headers(), &mut head.fields);
}

/// Received fields. Crumbs of a cookie are joined again (RFC 9113, 8.2.3); `host` and connection fields are left out.
pub(super) fn fields_in(map: &HeaderMap, fields: &mut Fields) {
    for name in map.keys() {
        if name == http::header::HOST || name.as_str().starts_with(':') {
            continue;
        }
        if name == http::header::COOKIE {
            push_cookies(map, fields);
            continue;
        }
        for value in map.get_all(name) {
            fields.push(name, value);
        }
    }
}

/// Size and number of received fields as the limits count them: each cookie crumb by itself.
pub(super) fn measure(map: &HeaderMap) -> (usize, usize) {
    let bytes = map.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    (bytes, map.len())
}

fn push_cookies(map: &HeaderMap, fields: &mut Fields) {
    let mut crumbs = map.get_all(http::header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    if map.get_all(http::header::COOKIE).iter().nth(1).is_none() {
        fields.push(Known::Cookie, first);
        return;
    }
    let mut joined = first.as_bytes().to_vec();
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Crumbs that are values make a value.
    if let Ok(joined) = FieldValue::new(&joined) {
        fields.push(Known::Cookie, joined);
    }
}

/// Fields as HTTP/2 may carry them (RFC 9113, 8.2.2).
fn fields_out(fields: &Fields, map: &mut HeaderMap, length_allowed: bool) -> Option<()> {
    map.reserve(fields.len());
    for (name, value) in fields.iter() {
        if let Name::Known(known) = name {
            match known {
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Host => continue,
                Known::ContentLength if !length_allowed => continue,
                Known::Te if !value.eq_ignore_ascii_case(b"trailers") => continue,
                _ => {}
            }
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        map.try_append(name, HeaderValue::from_bytes(value).ok()?).ok()?;
    }
    Some(())
}

/// Whether a request asks for another protocol.
pub(super) fn wants_upgrade(head: &RequestHead) -> bool {
    upgrade_protocol(head).is_some()
}

/// The protocol that a request wants to switch to, which HTTP/2 asks for by an extended CONNECT.
fn upgrade_protocol(head: &RequestHead) -> Option<&str> {
    let asked = head.fields.get_all(Known::Connection).any(|value| {
        value.split(|&byte| byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let protocol = head.fields.get(Known::Upgrade).filter(|_| asked)?;
    std::str::from_utf8(protocol).ok()
}
