//! The connection manager's rules for request headers: hop-by-hop headers go, addresses and request ids are set, the control headers of
//! clients that are not internal are removed (Envoy, "HTTP header sanitizing").

use std::net::{IpAddr, SocketAddr};

use super::{Addresses, Rules, StripPort, is_of_connection, list, remove_nominated};
use crate::message::{Authority, Direction, FieldValue, Known, Name, RequestHead, Scheme, Version, grammar};

/// What the rules found out about the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The client as far as it can be trusted.
    pub remote: SocketAddr,
    /// Its `x-envoy-*` headers were kept, and its responses count as internal.
    pub internal: bool,
}

/// The connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The transport is TLS. What the client says about its scheme is another field.
    pub tls: bool,
    /// Random bits for a request id.
    pub random: [u64; 2],
}

/// Applies all rules to a request's head.
pub(crate) fn apply(head: &mut RequestHead, rules: &Rules, origin: Origin) -> Client {
    hop_by_hop(head);
    head.fields.join_repeated(Direction::Request);
    claims(head, &rules.addresses);
    let client = client_address(head, &rules.addresses, origin.peer);
    forwarded(head, &rules.addresses, origin);
    let at_edge = rules.addresses.use_remote && !client.internal;
    if at_edge {
        head.fields.set(Known::XEnvoyExternalAddress, format_args!("{}", client.remote.ip()));
        for name in EDGE_ONLY {
            head.fields.remove(name);
        }
    }
    if client.internal {
        head.fields.set(Known::XEnvoyInternal, b"true");
    } else {
        let only: &[Box<str>] = &rules.internal_only;
        let refused = |name: Name<'_>| only.iter().any(|only| only.as_bytes() == name.as_bytes());
        head.fields.retain(|name, _| !is_control(name) && !refused(name));
    }
    request_id(head, rules, at_edge, origin.random);
    user_agent(head, rules);
    if rules.strip_dot {
        strip_dot(&mut head.authority);
    }
    strip_port(head, rules, origin.local);
    if !rules.via.is_empty() {
        head.fields.append(Known::Via, ", ", &rules.via);
    }
    client
}

/// Removes what a client must not say about itself: the certificate it showed to somebody else, and at the edge anything at all.
fn claims(head: &mut RequestHead, rules: &Addresses) {
    let refused = |name: &[u8]| {
        let all = rules.trust_nothing
            && (name == b"forwarded" || name.starts_with(b"x-forwarded-") || name.starts_with(b"x-envoy-"));
        all || (!rules.keep_client_cert && name == b"x-forwarded-client-cert")
    };
    head.fields.retain(|name, _| !refused(name.as_bytes()));
}

/// Whether a request asks to leave HTTP on its connection (RFC 9110, 7.8). That for HTTP/2 in the clear is ignored, as RFC 9113 lets us.
pub(crate) fn is_upgrade(head: &RequestHead) -> bool {
    head.fields.upgrade().is_some_and(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Fields that only a proxy behind the edge may set.
const EDGE_ONLY: [Known; 5] = [
    Known::XEnvoyDecoratorOperation,
    Known::XEnvoyDownstreamServiceCluster,
    Known::XEnvoyDownstreamServiceNode,
    Known::XEnvoyOriginalHost,
    Known::XEnvoyOriginalPath,
];

/// Fields by which an internal client steers the router.
fn is_control(name: Name<'_>) -> bool {
    let Name::Known(known) = name else { return false };
    matches!(
        known,
        Known::XEnvoyInternal
            | Known::XEnvoyRetriableStatusCodes
            | Known::XEnvoyRetriableHeaderNames
            | Known::XEnvoyRetryOn
            | Known::XEnvoyRetryGrpcOn
            | Known::XEnvoyMaxRetries
            | Known::XEnvoyUpstreamAltStatName
            | Known::XEnvoyUpstreamRqTimeoutMs
            | Known::XEnvoyUpstreamRqPerTryTimeoutMs
            | Known::XEnvoyUpstreamRqTimeoutAltResponse
            | Known::XEnvoyExpectedRqTimeoutMs
            | Known::XEnvoyForceTrace
            | Known::XEnvoyIpTags
            | Known::XEnvoyHedgeOnPerTryTimeout
            | Known::XEnvoyIsTimeoutRetry
            | Known::XEnvoyOriginalUrl
    )
}

/// Removes the headers that concern one connection only (RFC 9110, 7.6.1), including those that
/// `connection` names.
fn hop_by_hop(head: &mut RequestHead) {
    if head.version == Version::Http2 && !head.fields.contains(Known::Te) {
        return;
    }
    let te_trailers = head
        .fields
        .get_all(Known::Te)
        .any(|value| list(value).any(|item| item.eq_ignore_ascii_case(b"trailers")));
    let upgrade = is_upgrade(head);
    remove_nominated(&mut head.fields);
    if upgrade {
        keep_own_tokens(head);
    } else {
        head.fields.remove(Known::Connection);
        head.fields.remove(Known::Upgrade);
    }
    for name in [Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding] {
        head.fields.remove(name);
    }
    if te_trailers {
        head.fields.set(Known::Te, b"trailers");
    } else {
        head.fields.remove(Known::Te);
    }
}

/// Leaves nothing in `connection` but what is about the connection itself: the headers that it named are gone.
fn keep_own_tokens(head: &mut RequestHead) {
    let given = head.fields.get_all(Known::Connection).flat_map(list);
    let (own, named): (Vec<_>, Vec<_>) = given.partition(|item| is_of_connection(item));
    if !named.is_empty() {
        let kept = own.join(&b", "[..]);
        if let Ok(kept) = FieldValue::new(&kept) {
            head.fields.set(Known::Connection, kept);
        }
    }
}

/// Who the client is: the peer, or the last address of `x-forwarded-for` that a trusted proxy wrote.
fn client_address(head: &RequestHead, rules: &Addresses, peer: SocketAddr) -> Client {
    let forwarded: Vec<&[u8]> = head.fields.get_all(Known::XForwardedFor).flat_map(list).collect();
    let hops = rules.trusted_hops as usize;
    let from_end = |place: usize| {
        let item = forwarded.len().checked_sub(place).and_then(|at| forwarded.get(at))?;
        std::str::from_utf8(item).ok()?.parse::<IpAddr>().ok()
    };
    if rules.use_remote {
        let remote = if hops == 0 { None } else { from_end(hops) };
        let internal = forwarded.is_empty() && is_internal(rules, peer.ip());
        return Client { remote: remote.map_or(peer, |ip| SocketAddr::new(ip, 0)), internal };
    }
    let remote = from_end(hops + 1);
    let internal = forwarded.len() == 1 && remote.is_some_and(|ip| is_internal(rules, ip));
    Client { remote: remote.map_or(peer, |ip| SocketAddr::new(ip, 0)), internal }
}

fn is_internal(rules: &Addresses, ip: IpAddr) -> bool {
    rules.internal.iter().any(|range| range.contains(ip))
}

/// `x-forwarded-for`, `-proto` and `-port`.
fn forwarded(head: &mut RequestHead, rules: &Addresses, origin: Origin) {
    if rules.use_remote && !rules.skip_append {
        let peer = match origin.peer.ip() {
            IpAddr::V4(ip) if rules.mapped => ip.to_ipv6_mapped().into(),
            ip => ip,
        };
        head.fields.append(Known::XForwardedFor, ",", format_args!("{peer}"));
    }
    // Only a trusted proxy can know of another transport in front of it. What the client says about
    // its scheme is another field: it goes upstream, and decides nothing here.
    let trusted = !rules.use_remote || rules.trusted_hops > 0;
    let transport = if origin.tls { Scheme::Https } else { Scheme::Http };
    let forwarded = head.fields.get(Known::XForwardedProto).filter(|_| trusted);
    let forwarded_scheme = forwarded.and_then(Scheme::parse).unwrap_or(transport);
    if forwarded.is_none() {
        head.fields.set(Known::XForwardedProto, transport.as_str());
    }
    head.scheme.get_or_insert(forwarded_scheme);
    if rules.append_forwarded_port && (!trusted || !head.fields.contains(Known::XForwardedPort)) {
        head.fields.set(Known::XForwardedPort, origin.local.port());
    }
}

fn request_id(head: &mut RequestHead, rules: &Rules, at_edge: bool, random: [u64; 2]) {
    let options = rules.request_id;
    let distrusted = at_edge && !options.preserve_external;
    let keep = head.fields.contains(Known::XRequestId) && !distrusted;
    if !options.generate || keep {
        return;
    }
    if let Ok(id) = FieldValue::new(&grammar::uuid(random)) {
        head.fields.set(Known::XRequestId, id);
    }
}

/// `add_user_agent`: the service names itself to the services behind it.
fn user_agent(head: &mut RequestHead, rules: &Rules) {
    if !rules.add_user_agent {
        return;
    }
    head.fields.set(Known::XEnvoyDownstreamServiceCluster, &rules.service_cluster);
    if !rules.service_node.is_empty() {
        head.fields.set(Known::XEnvoyDownstreamServiceNode, &rules.service_node);
    }
    if !head.fields.contains(Known::UserAgent) {
        head.fields.set(Known::UserAgent, &rules.service_cluster);
    }
}

/// Removes the dot that ends the name of a host, before its port if it has one.
fn strip_dot(authority: &mut Authority) {
    let end = authority.iter().rposition(|&byte| byte == b':').unwrap_or(authority.len());
    if let Some(dot) = end.checked_sub(1).filter(|&at| authority.get(at) == Some(&b'.')) {
        authority.remove(dot);
    }
}

fn strip_port(head: &mut RequestHead, rules: &Rules, local: SocketAddr) {
    let Some(colon) = head.authority.iter().rposition(|&byte| byte == b':') else { return };
    let port = head.authority.get(colon + 1..).unwrap_or_default();
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    let strip = match rules.strip_port {
        StripPort::Keep => false,
        StripPort::Any => is_port,
        StripPort::Matching => port == local.port().to_string().as_bytes(),
    };
    if strip {
        head.authority.truncate(colon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rules: &Addresses) -> Vec<String> {
        let mut head = RequestHead::default();
        let names = [
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-client-cert",
            "x-envoy-any",
            "forwarded",
            "accept",
        ];
        for name in names {
            head.fields.set(name, b"1");
        }
        claims(&mut head, rules);
        names.into_iter().filter(|name| head.fields.contains(*name)).map(str::to_owned).collect()
    }

    #[test]
    fn every_connection_line_names_fields_that_stay_behind() {
        let mut head = RequestHead::default();
        head.fields.push(Known::Connection, b"keep-alive");
        head.fields.push(Known::Connection, b"X-Secret, upgrade");
        head.fields.push("x-secret", b"1");
        head.fields.push(Known::Upgrade, b"websocket");
        assert!(is_upgrade(&head));
        hop_by_hop(&mut head);
        // It is still an upgrade; the route decides whether it is allowed.
        assert!(is_upgrade(&head) && !head.fields.contains("x-secret"));
        head.fields.set(Known::Upgrade, b"h2c");
        hop_by_hop(&mut head);
        assert!(head.fields.is_empty());
    }

    #[test]
    fn the_dot_that_ends_a_name_goes_with_and_without_a_port() {
        for (given, kept) in [("a.b.", "a.b"), ("a.b.:80", "a.b:80"), ("a.b", "a.b"), ("", ""), (".", "")] {
            let mut authority = Authority::from(given);
            strip_dot(&mut authority);
            assert_eq!(&*authority, kept.as_bytes(), "{given}");
        }
    }

    #[test]
    fn an_ipv4_peer_is_forwarded_as_it_is_asked_for() {
        let (peer, local) = ("10.1.2.3:4".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        for (mapped, expected) in [(false, "10.1.2.3"), (true, "::ffff:10.1.2.3")] {
            let mut head = RequestHead::default();
            let rules = Addresses { use_remote: true, mapped, ..Addresses::default() };
            forwarded(&mut head, &rules, Origin { peer, local, tls: false, random: [0; 2] });
            assert_eq!(head.fields.get(Known::XForwardedFor), Some(expected.as_bytes()));
        }
    }

    #[test]
    fn the_edge_keeps_nothing_that_a_client_says_about_its_way() {
        assert_eq!(kept(&Addresses { trust_nothing: true, ..Addresses::default() }), ["accept"]);
    }

    #[test]
    fn a_certificate_that_somebody_else_saw_goes_unless_it_is_asked_for() {
        let others = ["x-forwarded-for", "x-forwarded-host", "x-envoy-any", "forwarded", "accept"];
        assert_eq!(kept(&Addresses::default()), others);
        let keep = Addresses { keep_client_cert: true, ..Addresses::default() };
        assert!(kept(&keep).contains(&"x-forwarded-client-cert".to_owned()));
    }
}
