//! Heads and trailers between our own lists and those of the `http` crate; what HTTP/2 may not carry stays behind.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::message::{
    Authority, FieldName, FieldValue, Fields, Invalid, Known, Method, Name, RequestHead, ResponseHead,
    Scheme, Version,
};

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
        uri.path_and_query = Some(http::uri::PathAndQuery::try_from(&*head.path).ok()?);
        // Without an authority a URI has no place for the scheme; h2 then sends none.
        if uri.authority.is_some() {
            uri.scheme = Some(match head.scheme.unwrap_or_default() {
                Scheme::Http => http::uri::Scheme::HTTP,
                Scheme::Https => http::uri::Scheme::HTTPS,
            });
        }
    }
    *request.uri_mut() = http::Uri::from_parts(uri).ok()?;
    fields_out(&head.fields, request.headers_mut(), upgrade.is_none())?;
    if let Some(protocol) = upgrade {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
    }
    Some(request)
}

/// A response as it is sent. `None` when its status or a header cannot be written.
pub(super) fn response_out(head: &ResponseHead, extended_connect: bool) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    // Extended CONNECT responds 200 where HTTP/1 switches protocols (RFC 8441, 5).
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

/// A received request, into a reused head; whether it was an extended CONNECT, which becomes an upgrade as in HTTP/1.
pub(super) fn request_in(
    request: &http::Request<h2::RecvStream>,
    head: &mut RequestHead,
) -> Result<bool, Invalid> {
    head.clear();
    head.version = Version::Http2;
    head.method = Method::try_from(request.method().as_str())?;
    let uri = request.uri();
    head.scheme = uri.scheme_str().and_then(|scheme| Scheme::parse(scheme.as_bytes()));
    if let Some(authority) = uri.authority() {
        head.authority.set(authority.as_str().as_bytes())?;
    }
    if let Some(path) = uri.path_and_query() {
        head.path.set(path.as_str().as_bytes())?;
    }
    fields_in(request.headers(), &mut head.fields)?;
    // `host` counts where there is no `:authority`; two of them could be read in two ways (RFC 9110, 7.2).
    let mut hosts = request.headers().get_all(http::header::HOST).iter();
    if let Some(host) = hosts.next() {
        let host = Authority::new(host.as_bytes())?;
        if hosts.next().is_some() {
            return Err(Invalid);
        }
        if head.authority.is_empty() {
            head.authority = host;
        }
    }
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    let has_path = match head.path.first() {
        Some(b'/') => true,
        Some(b'*') => head.path.len() == 1 && head.method == Method::Options,
        // Of CONNECT.
        None => true,
        Some(_) => false,
    };
    // RFC 9113, 8.3.1.
    if head.authority.is_empty() || !has_path {
        return Err(Invalid);
    }
    if let Some(protocol) = protocol {
        head.method = Method::Get;
        head.fields.push(Known::Connection, b"upgrade");
        head.fields.push(Known::Upgrade, FieldValue::new(protocol.as_str().as_bytes())?);
    } else if head.method == Method::Connect {
        head.path.clear();
    }
    Ok(protocol.is_some())
}

/// A received response, into a reused head.
pub(super) fn response_in<B>(response: &http::Response<B>, head: &mut ResponseHead) -> Result<(), Invalid> {
    head.clear();
    head.version = Version::Http2;
    head.status = response.status().as_u16();
    fields_in(response.headers(), &mut head.fields)
}

/// Received headers. Crumbs of a cookie are joined again (RFC 9113, 8.2.3); `host` and connection headers are left out.
pub(super) fn fields_in(map: &HeaderMap, fields: &mut Fields) -> Result<(), Invalid> {
    for name in map.keys() {
        if name == http::header::HOST || name.as_str().starts_with(':') {
            continue;
        }
        if name == http::header::COOKIE {
            push_cookies(map, fields);
            continue;
        }
        for value in map.get_all(name) {
            fields.push(FieldName::try_from(name)?, value);
        }
    }
    Ok(())
}

/// Size and number of received headers as the limits count them: each cookie crumb by itself.
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
    std::str::from_utf8(head.fields.upgrade()?).ok()
}
