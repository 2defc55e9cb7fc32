//! The hashes of requests: those that Envoy 1.40 was seen to use.

use super::*;
use crate::message::{Authority, FieldNameBuf, Path};

fn request(path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead {
        path: Path::new(path).unwrap(),
        authority: Authority::new("pet").unwrap(),
        ..RequestHead::default()
    };
    for (name, value) in headers {
        let name = FieldNameBuf::new(name).unwrap();
        head.fields.push(&name, &FieldValueBuf::new(*value).unwrap());
    }
    head
}

fn client() -> Client {
    Client {
        remote: "10.0.3.1:0".parse().unwrap(),
        peer: "127.0.0.1:40000".parse().unwrap(),
        local: "127.0.0.1:10000".parse().unwrap(),
    }
}

fn policies(parts: impl IntoIterator<Item = (HashedPart, bool)>) -> HashPolicies {
    HashPolicies(parts.into_iter().map(|(part, terminal)| HashPolicy { part, terminal }).collect())
}

fn header(name: &str) -> HashedPart {
    HashedPart::Header { name: name.into(), rewrite: None }
}

fn hash(parts: impl IntoIterator<Item = (HashedPart, bool)>, head: &RequestHead) -> Option<u64> {
    policies(parts).hash(head, client()).hash
}

#[test]
fn one_part_is_hashed_as_it_is() {
    let head = request("/a?q=v3&q=w", &[("x-key", "k1"), ("cookie", "a=b; c=\"z 2\""), ("x-empty", "")]);
    let cookie = |name: &str| HashedPart::Cookie { name: name.into(), make: None };
    for (part, text) in [
        (header("x-key"), Some("k1")),
        (header("x-empty"), Some("")),
        (header(":path"), Some("/a?q=v3&q=w")),
        (header(":authority"), Some("pet")),
        (header("x-none"), None),
        (HashedPart::QueryParameter("q".into()), Some("v3")),
        (HashedPart::QueryParameter("r".into()), None),
        (cookie("a"), Some("b")),
        (cookie("c"), Some("z 2")),
        (cookie("d"), None),
        (HashedPart::SourceIp, Some("10.0.3.1")),
        (HashedPart::Nothing, None),
    ] {
        let seen = format!("{part:?}");
        assert_eq!(hash([(part, false)], &head), text.map(|text| xx_hash(text.as_bytes())), "{seen}");
    }
}

#[test]
fn the_order_of_a_headers_values_makes_no_difference() {
    let one = request("/", &[("x-key", "b"), ("x-key", "a")]);
    let other = request("/", &[("x-key", "a"), ("x-key", "b")]);
    let expected = XxHash64::oneshot(XxHash64::oneshot(0, b"a"), b"b");
    assert_eq!(hash([(header("x-key"), false)], &one), Some(expected));
    assert_eq!(hash([(header("x-key"), false)], &other), Some(expected));
}

#[test]
fn several_parts_are_combined_and_do_not_cancel_out() {
    let head = request("/?q=v", &[("x-key", "k")]);
    let (key, query) = (xx_hash(b"k"), xx_hash(b"v"));
    let parts = || [(header("x-key"), false), (HashedPart::QueryParameter("q".into()), false)];
    assert_eq!(hash(parts(), &head), Some(key.rotate_left(1) ^ query));
    let twice = [(header("x-key"), false), (header("x-key"), false)];
    assert_eq!(hash(twice, &head), Some(key.rotate_left(1) ^ key));
}

#[test]
fn a_terminal_part_ends_the_list_once_there_is_a_hash() {
    let head = request("/", &[("x-key", "k"), ("x-other", "o")]);
    let hash = |first: &str, second: HashedPart| {
        hash([(header(first), true), (second, true), (header("x-other"), false)], &head)
    };
    assert_eq!(hash("x-none", header("x-key")), Some(xx_hash(b"k")));
    assert_eq!(hash("x-none", HashedPart::Nothing), Some(xx_hash(b"o")));
    assert_eq!(hash("x-key", header("x-other")), Some(xx_hash(b"k")));
}

#[test]
fn a_client_without_the_cookie_gets_one_that_has_the_same_hash() {
    let make = || NewCookie { attributes: "; Max-Age=60; Path=/p; HttpOnly".into() };
    let policies = policies([(HashedPart::Cookie { name: "sess".into(), make: Some(make()) }, false)]);
    let first = policies.hash(&request("/", &[]), client());
    let [cookie] = &*first.cookies else { panic!("{first:?}") };
    let cookie = std::str::from_utf8(cookie).unwrap();
    let value = cookie.strip_prefix("sess=\"").unwrap().strip_suffix("\"; Max-Age=60; Path=/p; HttpOnly");
    let value = value.unwrap();
    assert_eq!(value, format!("{:016x}", xx_hash(b"127.0.0.1:40000127.0.0.1:10000")));
    let again = request("/", &[("cookie", &format!("sess=\"{value}\""))]);
    let second = policies.hash(&again, client());
    assert_eq!((second.hash, second.cookies.len()), (first.hash, 0));
}
