//! What a route changes: the path sent upstream, the cluster chosen, the location of a redirect.

use super::{
    ClusterName, Forward, HostRewrite, Mirror, MirrorHost, PathMatch, PathRewrite, Redirect, RedirectPath,
    Route, Target, Weighted,
};
use crate::message::grammar::{port, split_query, without_port};
use crate::message::{Authority, Invalid, RequestHead};

/// The cluster of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'t, 'h> {
    /// Its name; it need not exist.
    pub cluster: &'h str,
    /// The request named it, by a header.
    pub by_header: bool,
    /// The entry of a weighted choice, with its own mutations and host.
    pub weighted: Option<&'t Weighted>,
}

impl Target {
    /// The cluster for a request that drew `random`; `None` when it names none.
    pub(crate) fn choose<'t: 'h, 'h>(&'t self, head: &'h RequestHead, random: u64) -> Option<Chosen<'t, 'h>> {
        match self {
            Self::Cluster(cluster) => Some(Chosen { cluster, by_header: false, weighted: None }),
            Self::Header(name) => {
                Some(Chosen { cluster: text(head, name)?, by_header: true, weighted: None })
            }
            Self::Weighted(entries) => {
                let entry = draw(entries, random)?;
                let (cluster, by_header) = entry.cluster.of(head)?;
                Some(Chosen { cluster, by_header, weighted: Some(entry) })
            }
        }
    }
}

impl ClusterName {
    /// The cluster's name for a request, and whether a header of it says so.
    fn of<'t: 'h, 'h>(&'t self, head: &'h RequestHead) -> Option<(&'h str, bool)> {
        Some(match self {
            Self::Given(name) => (name, false),
            Self::Header(name) => (text(head, name)?, true),
        })
    }
}

impl Mirror {
    /// The cluster that a copy of a request goes to which drew `random`, and whether a header of it
    /// says so.
    pub(crate) fn cluster<'t: 'h, 'h>(
        &'t self,
        head: &'h RequestHead,
        random: u64,
    ) -> Option<(&'h str, bool)> {
        if self.fraction.as_ref().is_some_and(|fraction| !fraction.matches(random)) {
            return None;
        }
        self.cluster.of(head)
    }

    /// The host that the copy of a request asks for.
    pub(crate) fn host(&self, authority: &Authority) -> Authority {
        match &self.host {
            MirrorHost::Keep => authority.clone(),
            MirrorHost::Literal(host) => host.clone(),
            MirrorHost::Shadow => {
                // In front of the port. The colons of an IPv6 address stand in brackets.
                let colon = authority.iter().rposition(|&byte| matches!(byte, b':' | b']'));
                let colon = colon.filter(|&at| authority.get(at) == Some(&b':'));
                let at = colon.unwrap_or(authority.len());
                let (host, port) = authority.split_at(at);
                Authority::new([host, b"-shadow", port].concat()).unwrap_or_else(|_| authority.clone())
            }
        }
    }
}

fn text<'h>(head: &'h RequestHead, name: &str) -> Option<&'h str> {
    std::str::from_utf8(head.get(name)?).ok().filter(|text| !text.is_empty())
}

fn draw(entries: &[Weighted], random: u64) -> Option<&Weighted> {
    let total: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    // Other bits than those a runtime fraction looks at, so that the two choices do not depend on each other.
    let mut drawn = random.rotate_left(32).checked_rem(total)?;
    entries.iter().find(|entry| {
        let weight = u64::from(entry.weight);
        let chosen = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        chosen
    })
}

impl HostRewrite {
    /// The host that the upstream is to see; `None` when the request's own stays, or the endpoint
    /// decides.
    pub(crate) fn host(&self, head: &RequestHead) -> Option<Result<Authority, Invalid>> {
        match self {
            Self::Keep | Self::Endpoint => None,
            Self::Literal(host) => Some(Ok(host.clone())),
            Self::Header(name) => head.get(name).filter(|host| !host.is_empty()).map(Authority::new),
            Self::Path(rewrite) => {
                let host = rewrite.apply(split_query(&head.path).0);
                (!host.is_empty()).then(|| Authority::new(&*host))
            }
        }
    }
}

impl Forward {
    /// The path to send upstream, if the route rewrites it (even when the new one is the same).
    pub(crate) fn rewrite_path(&self, matched: &PathMatch, path: &[u8]) -> Option<Vec<u8>> {
        let (only, query) = split_query(path);
        let mut new = match &self.path {
            PathRewrite::Keep => return None,
            PathRewrite::Prefix(text) => replace_prefix(matched, only, text),
            PathRewrite::Regex(rewrite) => rewrite.apply(only).into_owned(),
        };
        append_query(&mut new, query);
        Some(new)
    }
}

impl Redirect {
    /// The `location` of the response to a request.
    pub(crate) fn location(&self, route: &Route, head: &RequestHead) -> Vec<u8> {
        let old_scheme = head.scheme();
        let scheme = self.scheme.as_deref().unwrap_or(old_scheme);
        let mut location = Vec::with_capacity(scheme.len() + head.authority.len() + head.path.len() + 16);
        location.extend_from_slice(scheme.as_bytes());
        location.extend_from_slice(b"://");
        self.write_host(&mut location, &head.authority, old_scheme, scheme);
        self.write_path(&mut location, route, &head.path);
        location
    }

    fn write_host(&self, location: &mut Vec<u8>, authority: &[u8], old_scheme: &str, scheme: &str) {
        match (&self.host, self.port) {
            (Some(host), None) => location.extend_from_slice(host.as_bytes()),
            (host, Some(new_port)) => {
                let host = host.as_deref().map_or_else(|| without_port(authority), str::as_bytes);
                location.extend_from_slice(host);
                location.extend_from_slice(format!(":{new_port}").as_bytes());
            }
            (None, None) => {
                // The old scheme's own port would be wrong under the new scheme.
                let own = if old_scheme == "https" { 443 } else { 80 };
                let stale = scheme != old_scheme && port(authority) == Some(own);
                location.extend_from_slice(if stale { without_port(authority) } else { authority });
            }
        }
    }

    fn write_path(&self, location: &mut Vec<u8>, route: &Route, path: &[u8]) {
        let (only, query) = split_query(path);
        let query = query.filter(|_| !self.strip_query);
        match &self.path {
            RedirectPath::Keep => location.extend_from_slice(only),
            RedirectPath::Path(new) if new.contains('?') => {
                location.extend_from_slice(new.as_bytes());
                return;
            }
            RedirectPath::Path(new) => location.extend_from_slice(new.as_bytes()),
            RedirectPath::Prefix(text) => location.extend(replace_prefix(&route.path, only, text)),
            RedirectPath::Regex(rewrite) => location.extend_from_slice(&rewrite.apply(only)),
        }
        append_query(location, query);
    }
}

/// Where a virtual host that wants TLS sends a request.
pub(crate) fn to_tls(head: &RequestHead) -> Vec<u8> {
    [b"https://", &*head.authority, &*head.path].concat()
}

/// The `location` of a direct response: Envoy names the request's own URL with 201 and 3xx.
pub(crate) fn direct_location(status: u16, head: &RequestHead) -> Option<Vec<u8>> {
    let named = status == 201 || (300..400).contains(&status);
    named.then(|| [head.scheme().as_bytes(), b"://", &head.authority, &head.path].concat())
}

/// What the match matched is replaced: the prefix, or all of the path for exact and regex matches.
fn replace_prefix(matched: &PathMatch, path: &[u8], text: &str) -> Vec<u8> {
    let length = match matched {
        PathMatch::Prefix { text, .. } | PathMatch::Separated { text, .. } => text.len(),
        PathMatch::Exact { .. } | PathMatch::Regex(_) => path.len(),
        PathMatch::Connect => 0,
    };
    [text.as_bytes(), path.get(length..).unwrap_or_default()].concat()
}

fn append_query(path: &mut Vec<u8>, query: Option<&[u8]>) {
    if let Some(query) = query {
        path.push(b'?');
        path.extend_from_slice(query);
    }
}
