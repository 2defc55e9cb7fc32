//! Compiled look-up: domains, then routes in their order.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::{PathMatch, RequireTls, Route, RouteTable, VirtualCluster, VirtualHost};
use crate::matcher;
use crate::message::grammar::{before_colon, split_query};
use crate::message::{Known, Method, RequestHead};

/// The decision of a route table for a request.
#[derive(Debug)]
pub(crate) enum Decision<'t> {
    /// The first route that matches.
    Route { virtual_host: &'t VirtualHost, route: &'t Arc<Route> },
    /// The virtual host requires TLS: the response is a redirect to `redirect::to_tls`.
    RequireTls,
}

/// Virtual hosts by domain, without regard to case; each value is the place of a virtual host in its table.
#[derive(Default)]
pub(crate) struct Domains {
    exact: Places,
    /// Of `*.example.com`: what follows the star.
    suffixes: Wildcards,
    /// Of `www.*`: what precedes the star.
    prefixes: Wildcards,
    any: Option<usize>,
}

/// Places by text.
type Places = HashMap<Box<[u8]>, usize>;

/// By the length of the fixed part, the longest first.
#[derive(Default)]
struct Wildcards(Vec<(usize, Places)>);

/// The domains as a file writes them, in order.
impl fmt::Debug for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all: BTreeMap<String, usize> = self.any.map(|at| ("*".to_owned(), at)).into_iter().collect();
        all.extend(self.exact.iter().map(|(domain, at)| (text(domain), *at)));
        let fixed = |wildcards: &Wildcards, shown: &dyn Fn(String) -> String| {
            let each = wildcards.0.iter().flat_map(|(_, places)| places);
            each.map(|(domain, at)| (shown(text(domain)), *at)).collect::<Vec<_>>()
        };
        all.extend(fixed(&self.suffixes, &|domain| format!("*{domain}")));
        all.extend(fixed(&self.prefixes, &|domain| format!("{domain}*")));
        f.debug_map().entries(all).finish()
    }
}

impl RouteTable {
    /// What to do with a request that drew `random`; `None` when no domain or no route matches.
    pub(crate) fn decide(&self, head: &RequestHead, random: u64) -> Option<Decision<'_>> {
        let virtual_host = self.virtual_host(&head.authority)?;
        if virtual_host.demands_tls(head) {
            return Some(Decision::RequireTls);
        }
        let route = virtual_host.routes.iter().find(|route| route.matches(head, random))?;
        Some(Decision::Route { virtual_host, route })
    }

    /// The virtual host of a request's authority.
    pub(crate) fn virtual_host(&self, authority: &[u8]) -> Option<&VirtualHost> {
        let host = if self.ignore_port_in_host { before_colon(authority) } else { authority };
        self.virtual_hosts.get(self.domains.find(host)?)
    }
}

impl VirtualHost {
    /// The part of this host's requests that a request belongs to, for statistics.
    pub(crate) fn virtual_cluster(&self, head: &RequestHead) -> Option<&VirtualCluster> {
        self.virtual_clusters.iter().find(|part| part.headers.iter().all(|header| header.matches(head)))
    }

    fn demands_tls(&self, head: &RequestHead) -> bool {
        // By the transport, or by a trusted proxy's `x-forwarded-proto`.
        head.fields.get(Known::XForwardedProto) != Some(b"https")
            && match self.require_tls {
                RequireTls::None => false,
                RequireTls::ExternalOnly => head.fields.get(Known::XEnvoyInternal) != Some(b"true"),
                RequireTls::All => true,
            }
    }
}

impl Route {
    /// Whether every condition of the route holds for a request that drew `random`.
    pub(crate) fn matches(&self, head: &RequestHead, random: u64) -> bool {
        let (path, query) = split_query(&head.path);
        self.path.matches(head, path)
            && (!self.grpc || head.is_grpc())
            && self.headers.iter().all(|header| header.matches(head))
            && self.query.iter().all(|parameter| parameter.matches(query.unwrap_or_default()))
            && self.fraction.as_ref().is_none_or(|fraction| fraction.matches(random))
    }
}

impl PathMatch {
    fn matches(&self, head: &RequestHead, path: &[u8]) -> bool {
        match self {
            Self::Prefix { text, ignore_case } => matcher::starts_with(path, text.as_bytes(), *ignore_case),
            Self::Exact { text, ignore_case } => matcher::same(path, text.as_bytes(), *ignore_case),
            Self::Separated { text, ignore_case } => {
                matcher::starts_with(path, text.as_bytes(), *ignore_case)
                    && matches!(path.get(text.len()), None | Some(b'/'))
            }
            Self::Regex(pattern) => pattern.is_match(path),
            Self::Connect => head.method == Method::Connect,
        }
    }
}

impl Domains {
    /// Adds a domain of the virtual host at `place`; false when another has it already.
    pub(crate) fn insert(&mut self, domain: &str, place: usize) -> bool {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return self.any.replace(place).is_none();
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            return self.suffixes.insert(suffix, place);
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            return self.prefixes.insert(prefix, place);
        }
        self.exact.insert(domain.into_bytes().into(), place).is_none()
    }

    /// The place of the virtual host for a host: exact, then the longest suffix, then the longest prefix, then `*`.
    pub(crate) fn find(&self, host: &[u8]) -> Option<usize> {
        let host = if host.iter().any(u8::is_ascii_uppercase) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let last = |length: usize| host.get(host.len() - length..).unwrap_or_default();
        let first = |length: usize| host.get(..length).unwrap_or_default();
        self.exact
            .get(&*host)
            .copied()
            .or_else(|| self.suffixes.find(host.len(), last))
            .or_else(|| self.prefixes.find(host.len(), first))
            .or(self.any)
    }
}

impl Wildcards {
    fn insert(&mut self, fixed: &str, place: usize) -> bool {
        let at = self.0.partition_point(|(length, _)| *length > fixed.len());
        if self.0.get(at).is_none_or(|(length, _)| *length != fixed.len()) {
            self.0.insert(at, (fixed.len(), Places::new()));
        }
        self.0.get_mut(at).is_some_and(|(_, places)| places.insert(fixed.as_bytes().into(), place).is_none())
    }

    /// The star stands for at least one character.
    fn find<'h>(&self, host: usize, part: impl Fn(usize) -> &'h [u8]) -> Option<usize> {
        let candidates = self.0.iter().filter(|(length, _)| *length < host);
        candidates.into_iter().find_map(|(length, places)| places.get(part(*length)).copied())
    }
}
