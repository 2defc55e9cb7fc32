//! What matchers say, as observed on Envoy 1.40.
//!
//! Tests of `matcher`.

use super::*;
use crate::message::FieldValue;

fn head(values: &[&str]) -> RequestHead {
    let mut head = RequestHead { authority: "pet".into(), path: "/".into(), ..RequestHead::default() };
    for value in values {
        head.fields.push("x-a", FieldValue::new(value.as_bytes()).unwrap());
    }
    head
}

fn exact(text: &str) -> HeaderRule {
    HeaderRule::String(StringMatch::Exact { text: text.into(), ignore_case: false })
}

fn check(rule: HeaderRule, invert: bool, missing: bool, values: &[&str]) -> bool {
    HeaderMatcher { name: "x-a".into(), rule, invert, treat_missing_as_empty: missing }.matches(&head(values))
}

#[test]
fn one_of_several_values_is_enough_and_they_are_never_joined() {
    assert!(check(exact("v1"), false, false, &["v1", "v2"]));
    assert!(!check(exact("v1,v2"), false, false, &["v1", "v2"]));
    assert!(check(exact("v1,v2"), true, false, &["v1", "v2"]));
    assert!(!check(exact("v2"), true, false, &["v1", "v2"]));
}

#[test]
fn an_absent_field_matches_only_when_it_counts_as_empty() {
    assert!(!check(exact("v"), false, false, &[]));
    assert!(!check(exact("v"), true, false, &[]));
    assert!(check(exact("v"), true, true, &[]));
    assert!(check(exact(""), false, true, &[]));
    assert!(!check(HeaderRule::Range(1, 5), true, false, &[]));
}

#[test]
fn presence_differs_from_emptiness() {
    assert!(check(HeaderRule::Present(true), false, false, &[""]));
    assert!(check(HeaderRule::Present(false), false, false, &[]));
    assert!(!check(HeaderRule::Present(false), false, true, &[]));
    assert!(check(HeaderRule::Present(true), true, false, &[]));
}

#[test]
fn a_range_ends_before_its_end() {
    for (value, expected) in
        [("10", true), ("19", true), ("20", false), ("x15", false), ("+10", true), ("", false)]
    {
        assert_eq!(check(HeaderRule::Range(10, 20), false, false, &[value]), expected, "{value}");
    }
}

#[test]
fn pseudo_headers_are_matched_by_name() {
    let matcher = HeaderMatcher {
        name: ":authority".into(),
        rule: exact("pet"),
        invert: false,
        treat_missing_as_empty: false,
    };
    assert!(matcher.matches(&head(&[])));
}

#[test]
fn texts_match_in_each_way_with_and_without_case() {
    let text: Box<str> = "Mid".into();
    let check = |rule: StringMatch, value: &str| rule.matches(value.as_bytes());
    assert!(check(StringMatch::Prefix { text: text.clone(), ignore_case: true }, "middle"));
    assert!(!check(StringMatch::Prefix { text: text.clone(), ignore_case: false }, "middle"));
    assert!(check(StringMatch::Suffix { text: text.clone(), ignore_case: false }, "aMid"));
    assert!(!check(StringMatch::Suffix { text: text.clone(), ignore_case: false }, "id"));
    assert!(check(StringMatch::Contains { text: text.clone(), ignore_case: true }, "amidst"));
    assert!(!check(StringMatch::Contains { text, ignore_case: false }, "amidst"));
    assert!(check(StringMatch::Regex(regex("^[a-z]{3}$")), "abc"));
    assert!(!check(StringMatch::Regex(regex("^[a-z]{3}$")), "abcd"));
}

#[test]
fn the_first_parameter_of_a_name_counts_as_it_was_sent() {
    let rule = || QueryRule::String(StringMatch::Exact { text: "1".into(), ignore_case: false });
    let check =
        |rule: QueryRule, query: &str| QueryMatcher { name: "a".into(), rule }.matches(query.as_bytes());
    for (query, expected) in [
        ("a=1", true),
        ("b&a=1", true),
        ("a=2&a=1", false),
        ("aa=1", false),
        ("x=a=1", false),
        ("a%3D1", false),
    ] {
        assert_eq!(check(rule(), query), expected, "{query}");
    }
    assert!(check(QueryRule::Present(true), "a"));
    assert!(!check(QueryRule::Present(true), "A"));
}

#[test]
fn a_fraction_takes_its_share_of_the_random_numbers() {
    let half = FractionMatcher { numerator: 50, denominator: 100, ..FractionMatcher::default() };
    assert_eq!((0..1000).filter(|&random| half.matches(random)).count(), 500);
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

#[test]
fn a_substitution_names_groups_with_a_backslash() {
    let check = |pattern: &str, substitution: &str, text: &str| {
        let rewrite = Rewrite::new(regex(pattern), substitution).unwrap();
        String::from_utf8(rewrite.apply(text.as_bytes()).into_owned()).unwrap()
    };
    assert_eq!(check("^/rx/([^/]+)/(.*)$", r"/\2/\1", "/rx/aa/bb/cc"), "/bb/cc/aa");
    assert_eq!(check("(r)", r"\\-\0-\1", "/rr"), r"/\-r-r\-r-r");
    assert_eq!(check("a", "$0", "/a"), "/$0");
    assert!(Rewrite::new(regex("a"), r"\1").is_err());
    assert!(Rewrite::new(regex("a"), r"\x").is_err());
}

#[test]
fn a_range_holds_its_first_and_last_address_and_no_other() {
    let range = Cidr::new("10.1.2.3".parse().unwrap(), 23);
    for (address, inside) in
        [("10.1.2.0", true), ("10.1.3.255", true), ("10.1.4.0", false), ("10.1.1.255", false)]
    {
        assert_eq!(range.contains(address.parse().unwrap()), inside, "{address}");
    }
    assert!(Cidr::new("0.0.0.0".parse().unwrap(), 0).contains("255.0.0.1".parse().unwrap()));
    assert!(!Cidr::new("0.0.0.0".parse().unwrap(), 0).contains("::1".parse().unwrap()));
    assert!(Cidr::new("fd00::1".parse().unwrap(), 8).contains("fdff::".parse().unwrap()));
}
