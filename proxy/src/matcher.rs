//! Matchers shared by routes, virtual clusters and log filters: strings, headers, query parameters, runtime fractions. Pure.
//!
//! Built by `snapshot::build`; called by `route`, `access_log`, `local_reply`; calls `message`.

use crate::message::RequestHead;

/// Envoy's `StringMatcher`.
#[derive(Debug)]
pub enum StringMatch {
    Exact {
        text: Box<str>,
        ignore_case: bool,
    },
    Prefix {
        text: Box<str>,
        ignore_case: bool,
    },
    Suffix {
        text: Box<str>,
        ignore_case: bool,
    },
    Contains {
        text: Box<str>,
        ignore_case: bool,
    },
    /// The whole value matches.
    Regex(regex::bytes::Regex),
}

/// Envoy's `HeaderMatcher`.
#[derive(Debug)]
pub struct HeaderMatcher {
    /// In lower case; pseudo-headers with their colon.
    pub name: Box<str>,
    pub rule: HeaderRule,
    pub invert: bool,
    pub treat_missing_as_empty: bool,
}

#[derive(Debug)]
pub enum HeaderRule {
    Present(bool),
    String(StringMatch),
    /// From the first (included) to the second (excluded).
    Range(i64, i64),
}

/// Envoy's `QueryParameterMatcher`.
#[derive(Debug)]
pub struct QueryMatcher {
    pub name: Box<str>,
    pub rule: QueryRule,
}

#[derive(Debug)]
pub enum QueryRule {
    Present(bool),
    String(StringMatch),
}

/// A share of requests, by a runtime key or its default.
#[derive(Debug)]
pub struct FractionMatcher {
    pub runtime_key: Box<str>,
    pub numerator: u32,
    /// 100, 10 000 or 1 000 000.
    pub denominator: u32,
}

/// A regular expression and what replaces each match (`\1` for groups).
#[derive(Debug)]
pub struct Rewrite {
    pub pattern: regex::bytes::Regex,
    /// In the `regex` crate's notation.
    pub substitution: Box<[u8]>,
}

impl HeaderMatcher {
    /// Whether a request matches.
    pub fn matches(&self, _head: &RequestHead) -> bool {
        false
    }
}
