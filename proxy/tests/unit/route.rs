//! Which route, cluster, path and location requests get, as observed on Envoy 1.40.
//!
//! Tests of `route`.

use super::*;
use crate::matcher::{HeaderRule, QueryRule, Rewrite, StringMatch};
use crate::message::{Authority, Path, RequestHead};

fn regex(pattern: &str) -> regex::bytes::Regex {
    regex::bytes::Regex::new(pattern).unwrap()
}

fn request(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        authority: Authority::new(authority).unwrap(),
        path: Path::new(path).unwrap(),
        ..RequestHead::default()
    }
}

fn route(path: PathMatch, action: Action) -> Route {
    Route {
        name: "".into(),
        stats: None,
        path,
        headers: Vec::new(),
        query: Vec::new(),
        fraction: None,
        grpc: false,
        action,
        mutations: Mutations::default(),
        metadata: None,
        filters: Overrides::default(),
        sampling: None,
        decorator: None,
    }
}

fn direct(path: PathMatch, status: u16) -> Route {
    route(path, Action::Direct { status, body: bytes::Bytes::new() })
}

fn prefix(text: &str) -> PathMatch {
    PathMatch::Prefix { text: text.into(), ignore_case: false }
}

fn exact(text: &str) -> PathMatch {
    PathMatch::Exact { text: text.into(), ignore_case: false }
}

fn virtual_host(routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: "all".into(),
        routes: routes.into_iter().map(Arc::new).collect(),
        mutations: Mutations::default(),
        require_tls: RequireTls::None,
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        virtual_clusters: Vec::new(),
        filters: Overrides::default(),
    }
}

fn table(domains: &[&[&str]], hosts: Vec<VirtualHost>) -> RouteTable {
    let mut table = RouteTable { virtual_hosts: hosts, ..RouteTable::default() };
    for (place, names) in domains.iter().enumerate() {
        for name in *names {
            assert!(table.domains.insert(name, place), "{name} twice");
        }
    }
    table
}

/// The status of the direct response that a request gets.
fn status(table: &RouteTable, head: &RequestHead) -> Option<u16> {
    match table.decide(head, 0)? {
        Decision::Route { route, .. } => match route.action {
            Action::Direct { status, .. } => Some(status),
            _ => None,
        },
        Decision::RequireTls => Some(301),
    }
}

#[test]
fn the_domain_is_exact_then_longest_suffix_then_prefix_then_any() {
    let domains: &[&[&str]] = &[
        &["www.example.test", "other.example.test:8080"],
        &["*.example.test"],
        &["*-long.example.test", "*.deep.example.test"],
        &["www.*"],
        &["*"],
    ];
    let hosts = (200..205).map(|status| virtual_host(vec![direct(prefix("/"), status)])).collect();
    let table = table(domains, hosts);
    for (host, expected) in [
        ("www.example.test", 200),
        ("WWW.Example.Test", 200),
        ("www.example.test:80", 203),
        ("other.example.test:8080", 200),
        ("other.example.test", 201),
        ("a.b.example.test", 201),
        ("x-long.example.test", 202),
        ("q.deep.example.test", 202),
        (".example.test", 204),
        ("example.test", 204),
        ("www.elsewhere.test", 203),
        ("www.", 204),
    ] {
        assert_eq!(status(&table, &request(host, "/")), Some(expected), "{host}");
    }
}

#[test]
fn the_port_is_ignored_when_asked() {
    let mut table = table(&[&["only.test", "[::1]"]], vec![virtual_host(vec![direct(prefix("/"), 200)])]);
    assert_eq!(status(&table, &request("only.test:9999", "/")), None);
    table.ignore_port_in_host = true;
    assert_eq!(status(&table, &request("only.test:9999", "/")), Some(200));
    assert_eq!(status(&table, &request("[::1]", "/")), Some(200));
    assert_eq!(status(&table, &request("[::1]:80", "/")), Some(200));
}

#[test]
fn a_domain_belongs_to_one_virtual_host() {
    let mut domains = Domains::default();
    for name in ["a.test", "*.test", "a.*", "*"] {
        assert!(domains.insert(name, 0));
        assert!(!domains.insert(&name.to_uppercase(), 1), "{name}");
    }
}

#[test]
fn the_first_route_whose_path_matches_wins() {
    let routes = vec![
        direct(exact("/exact"), 200),
        direct(PathMatch::Separated { text: "/api/v1".into(), ignore_case: false }, 201),
        direct(PathMatch::Regex(regex("^/r/[0-9]+/item$")), 202),
        direct(PathMatch::Prefix { text: "/PRE".into(), ignore_case: true }, 203),
        direct(prefix("/"), 204),
    ];
    let table = table(&[&["*"]], vec![virtual_host(routes)]);
    for (path, expected) in [
        ("/exact", 200),
        ("/exact/", 204),
        ("/exact?x=1", 200),
        ("/Exact", 204),
        ("/api/v1", 201),
        ("/api/v1/x?y=2", 201),
        ("/api/v1x", 204),
        ("/api/v1?z", 201),
        ("/r/12/item?q=1", 202),
        ("/r/12/itemx", 204),
        ("/prefix", 203),
        ("/", 204),
    ] {
        assert_eq!(status(&table, &request("h", path)), Some(expected), "{path}");
    }
}

#[test]
fn headers_parameters_grpc_and_fraction_must_all_hold() {
    let mut picky = direct(prefix("/"), 200);
    picky.grpc = true;
    picky.headers = vec![HeaderMatcher {
        name: "x-a".into(),
        rule: HeaderRule::Present(true),
        invert: false,
        treat_missing_as_empty: false,
    }];
    let one = StringMatch::Exact { text: "1".into(), ignore_case: false };
    picky.query = vec![QueryMatcher { name: "q".into(), rule: QueryRule::String(one) }];
    picky.fraction = Some(FractionMatcher { numerator: 1, denominator: 100, ..FractionMatcher::default() });
    let mut head = request("h", "/?q=1");
    assert!(!picky.matches(&head, 0));
    head.fields.push("x-a", b"");
    head.fields.push("content-type", b"application/grpc");
    assert!(picky.matches(&head, 0));
    assert!(!picky.matches(&head, 1));
    head.path = "/?q=2".into();
    assert!(!picky.matches(&head, 0));
}

#[test]
fn a_host_that_wants_tls_redirects_plain_requests_from_outside() {
    let mut host = virtual_host(vec![direct(prefix("/"), 200)]);
    host.require_tls = RequireTls::ExternalOnly;
    let table = table(&[&["*"]], vec![host]);
    let mut head = request("pet:80", "/a?b");
    assert_eq!(status(&table, &head), Some(301));
    assert_eq!(to_tls(&head), b"https://pet:80/a?b");
    head.fields.push("x-envoy-internal", b"true");
    assert_eq!(status(&table, &head), Some(200));
}

fn location(path: PathMatch, redirect: Redirect, authority: &str, target: &str) -> String {
    let route = route(path, Action::Redirect(Box::new(redirect)));
    let Action::Redirect(redirect) = &route.action else { unreachable!() };
    String::from_utf8(redirect.location(&route, &request(authority, target))).unwrap()
}

fn redirect() -> Redirect {
    Redirect {
        scheme: None,
        host: None,
        port: None,
        path: RedirectPath::Keep,
        status: 301,
        strip_query: false,
    }
}

#[test]
fn a_redirect_replaces_scheme_host_and_port() {
    let https = || Redirect { scheme: Some("https".into()), ..redirect() };
    let ported = |port| Redirect { port: Some(port), ..redirect() };
    let hosted = || Redirect { host: Some("new.test".into()), ..redirect() };
    for (redirect, authority, expected) in [
        (redirect(), "o.test:80", "http://o.test:80/p?q"),
        (hosted(), "o.test:8080", "http://new.test/p?q"),
        (Redirect { scheme: Some("https".into()), ..hosted() }, "o.test:80", "https://new.test/p?q"),
        (https(), "o.test:80", "https://o.test/p?q"),
        (https(), "o.test:8080", "https://o.test:8080/p?q"),
        (https(), "o.test:443", "https://o.test:443/p?q"),
        (https(), "[::1]:80", "https://[::1]/p?q"),
        (Redirect { port: Some(8), ..https() }, "o.test:80", "https://o.test:8/p?q"),
        (ported(80), "o.test", "http://o.test:80/p?q"),
        (ported(443), "[::1]", "http://[::1]:443/p?q"),
    ] {
        assert_eq!(location(prefix("/"), redirect, authority, "/p?q"), expected);
    }
}

#[test]
fn a_direct_response_that_creates_or_redirects_names_the_requests_own_url() {
    let head = request("pet", "/a?b");
    assert_eq!(direct_location(201, &head).unwrap(), b"http://pet/a?b");
    assert_eq!(direct_location(200, &head), None);
}

#[test]
fn a_redirect_replaces_the_path_and_keeps_the_query_by_default() {
    let to = |path| Redirect { path, ..redirect() };
    let check = |path, redirect, target| location(path, redirect, "o", target);
    assert_eq!(check(exact("/p"), to(RedirectPath::Path("/o".into())), "/p?q=1"), "http://o/o?q=1");
    assert_eq!(check(exact("/p"), to(RedirectPath::Path("/o?f=1".into())), "/p?q=2"), "http://o/o?f=1");
    assert_eq!(check(prefix("/p/"), to(RedirectPath::Prefix("/n/".into())), "/p/a?q"), "http://o/n/a?q");
    assert_eq!(check(exact("/p"), Redirect { strip_query: true, ..redirect() }, "/p?q"), "http://o/p");
    let regex = Rewrite::new(regex("^/rx/([^/]+)/(.*)$"), r"/\2/\1").unwrap();
    assert_eq!(check(prefix("/rx"), to(RedirectPath::Regex(regex)), "/rx/a/b/c?z=1"), "http://o/b/c/a?z=1");
}

fn forward(target: Target, path: PathRewrite) -> Forward {
    Forward {
        target,
        not_found_status: 503,
        path,
        host: HostRewrite::Keep,
        append_x_forwarded_host: false,
        timeout: None,
        idle_timeout: None,
        stream: None,
        retry: None,
        body_buffer: super::BodyBuffer::default(),
        upgrades: super::Upgrades::default(),
        priority: Priority::Default,
        hash: Default::default(),
        criteria: None,
        mirrors: Vec::new(),
    }
}

#[test]
fn a_rewrite_replaces_what_the_match_matched() {
    let check = |matched: PathMatch, rewrite, path: &str| {
        let forward = forward(Target::Cluster("c".into()), rewrite);
        forward.rewrite_path(&matched, path.as_bytes()).map(|new| String::from_utf8(new).unwrap())
    };
    let to = |text: &str| PathRewrite::Prefix(text.into());
    assert_eq!(check(prefix("/a/"), to("/"), "/a/b/c?d=1").unwrap(), "/b/c?d=1");
    assert_eq!(check(prefix("/a/"), to("/"), "/a//b").unwrap(), "//b");
    assert_eq!(check(exact("/exact"), to("/new"), "/exact?q=1").unwrap(), "/new?q=1");
    let any_case = PathMatch::Prefix { text: "/Ci".into(), ignore_case: true };
    assert_eq!(check(any_case, to("/x"), "/cI/z").unwrap(), "/x/z");
    let rewrite = || PathRewrite::Regex(Rewrite::new(regex("b+"), "c").unwrap());
    assert_eq!(check(prefix("/"), rewrite(), "/abba?bb").unwrap(), "/aca?bb");
    assert_eq!(check(prefix("/"), rewrite(), "/x").unwrap(), "/x");
    assert_eq!(check(prefix("/"), PathRewrite::Keep, "/x"), None);
}

#[test]
fn the_cluster_is_given_or_named_by_a_header_or_drawn_by_weight() {
    let mut head = request("pet", "/");
    let name = |target: &Target, head: &RequestHead, random: u64| {
        target.choose(head, random).map(|chosen| chosen.cluster.to_owned())
    };
    assert_eq!(name(&Target::Cluster("a".into()), &head, 0).unwrap(), "a");
    assert_eq!(name(&Target::Header(":authority".into()), &head, 0).unwrap(), "pet");
    assert_eq!(name(&Target::Header("x-pick".into()), &head, 0), None);
    head.fields.push("x-pick", b"");
    assert_eq!(name(&Target::Header("x-pick".into()), &head, 0), None);
    let entry = |cluster: &str, weight| Weighted {
        cluster: ClusterName::Given(cluster.into()),
        weight,
        mutations: Mutations::default(),
        criteria: None,
        host_rewrite: None,
        filters: Overrides::default(),
    };
    let target = Target::Weighted(vec![entry("w0", 0), entry("w1", 75), entry("w2", 25)]);
    let drawn: Vec<_> = (0..100u64).filter_map(|at| name(&target, &head, at.rotate_right(32))).collect();
    assert_eq!(drawn.iter().filter(|cluster| *cluster == "w1").count(), 75);
    assert_eq!(drawn.iter().filter(|cluster| *cluster == "w2").count(), 25);
}
