//! Paths and queries: which resource, object and verb a request means.

use http::{Method, Uri};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A resource below `/api/v1` or `/apis/{group}/{version}`, known or not.
    Resource(Target),
    /// Any other path: discovery, version, health.
    Path(String),
}

/// A resource, and perhaps one object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// The decoded parameters of a query, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Route {
    /// Reads the path.
    pub fn parse(uri: &Uri) -> Self {
        let path = uri.path();
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let target = match parts.as_slice() {
            ["api", version, rest @ ..] => target("", version, rest),
            ["apis", group, version, rest @ ..] => target(group, version, rest),
            _ => None,
        };
        target.map_or_else(|| Self::Path(path.to_owned()), Self::Resource)
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let (namespace, rest) = match rest {
        // The object of a namespace is addressed within itself; so it is authorised, too.
        ["namespaces", name] => (Some(*name), rest),
        ["namespaces", name, "status" | "finalize"] => (Some(*name), rest),
        ["namespaces", namespace, rest @ ..] => (Some(*namespace), rest),
        _ => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some(*name), None),
        [resource, name, subresource] => (*resource, Some(*name), Some(*subresource)),
        _ => return None,
    };
    let own = str::to_owned;
    Some(Target {
        group: own(group),
        version: own(version),
        namespace: namespace.map(own),
        resource: own(resource),
        name: name.map(own),
        subresource: subresource.map(own),
    })
}

/// The verb that rules and 403 texts speak of; `None` for a method without one.
pub fn verb(method: &Method, route: &Route, query: &Query) -> Option<&'static str> {
    let Route::Resource(target) = route else {
        return Some(match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "post",
            _ => return None,
        });
    };
    let named = target.name.is_some();
    Some(match *method {
        Method::GET | Method::HEAD if !named && query.flag("watch") => "watch",
        Method::GET | Method::HEAD if !named => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => return None,
    })
}

impl Query {
    /// Reads the query of an address.
    pub fn parse(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// A parameter; empty when it is missing.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// A parameter that means yes: present, and neither `false` nor `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.0.iter().any(|(name, value)| name == key && value != "false" && value != "0")
    }
}

// Percent decoding; broken escapes stay as they are, bytes that are no UTF-8 become U+FFFD.
fn decode(text: &str, form: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, escaped) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                at += 2;
            }
            (b'+', _) if form => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Route, Query) {
        let uri: Uri = text.parse().unwrap();
        (Route::parse(&uri), Query::parse(&uri))
    }

    #[test]
    fn a_path_names_its_resource_namespace_and_object() {
        let (Route::Resource(target), query) = parse(
            "/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices/web-1?watch=1&labelSelector=a%2Fb%3Dc+d",
        ) else {
            panic!("a resource")
        };
        let Target { group, version, namespace, resource, name, subresource } = target;
        assert_eq!(
            (group.as_str(), version.as_str(), resource.as_str()),
            ("discovery.k8s.io", "v1", "endpointslices")
        );
        assert_eq!((namespace.as_deref(), name.as_deref(), subresource), (Some("demo"), Some("web-1"), None));
        assert_eq!((query.flag("watch"), query.get("labelSelector")), (true, "a/b=c d"));
    }

    #[test]
    fn a_namespace_is_an_object_and_a_scope() {
        let resource = |text: &str| match parse(text).0 {
            Route::Resource(target) => (target.resource, target.namespace, target.name),
            Route::Path(path) => panic!("{path}"),
        };
        let own = |text: &str| Some(text.to_owned());
        assert_eq!(resource("/api/v1/namespaces"), ("namespaces".to_owned(), None, None));
        assert_eq!(resource("/api/v1/namespaces/a"), ("namespaces".to_owned(), own("a"), own("a")));
        assert_eq!(resource("/api/v1/namespaces/a/pods"), ("pods".to_owned(), own("a"), None));
        assert_eq!(resource("/api/v1/pods"), ("pods".to_owned(), None, None));
    }

    #[test]
    fn discovery_and_health_are_paths() {
        for path in ["/api", "/apis", "/api/v1", "/apis/discovery.k8s.io/v1", "/readyz", "/"] {
            assert_eq!(parse(path).0, Route::Path(path.to_owned()));
        }
    }
}
