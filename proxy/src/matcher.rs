//! Matchers shared by routes, virtual clusters, filters and access logs: strings, headers, query
//! parameters, runtime fractions, ranges of addresses. Pure.

use std::net::IpAddr;

use regex::bytes::Regex;

use crate::message::{Fields, RequestHead, ResponseHead};

/// Envoy's `StringMatcher`.
#[derive(Debug)]
pub(crate) enum StringMatch {
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
    Regex(Regex),
}

/// Envoy's `HeaderMatcher`.
#[derive(Debug)]
pub(crate) struct HeaderMatcher {
    /// In lower case; pseudo-headers with their colon.
    pub name: Box<str>,
    pub rule: HeaderRule,
    pub invert: bool,
    pub treat_missing_as_empty: bool,
}

#[derive(Debug)]
pub(crate) enum HeaderRule {
    Present(bool),
    String(StringMatch),
    /// From the first (included) to the second (excluded).
    Range(i64, i64),
}

/// Envoy's `QueryParameterMatcher`.
#[derive(Debug)]
pub(crate) struct QueryMatcher {
    pub name: Box<str>,
    pub rule: QueryRule,
}

#[derive(Debug)]
pub(crate) enum QueryRule {
    Present(bool),
    String(StringMatch),
}

/// A share of requests; `build` has looked its runtime key up.
#[derive(Clone, Debug, Default)]
pub struct FractionMatcher {
    pub runtime_key: Box<str>,
    pub numerator: u32,
    /// 100, 10 000 or 1 000 000.
    pub denominator: u32,
    /// The runtime said so.
    pub from_runtime: bool,
}

/// A regular expression and what replaces each match (`\1` for groups).
#[derive(Debug)]
pub(crate) struct Rewrite {
    pub pattern: Regex,
    /// In the `regex` crate's notation.
    pub substitution: Box<[u8]>,
}

impl StringMatch {
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact { text, ignore_case } => same(value, text.as_bytes(), *ignore_case),
            Self::Prefix { text, ignore_case } => starts_with(value, text.as_bytes(), *ignore_case),
            Self::Suffix { text, ignore_case } => {
                let start = value.len().checked_sub(text.len());
                start
                    .and_then(|start| value.get(start..))
                    .is_some_and(|end| same(end, text.as_bytes(), *ignore_case))
            }
            Self::Contains { text, ignore_case: false } => {
                memchr::memmem::find(value, text.as_bytes()).is_some()
            }
            Self::Contains { text, ignore_case: true } => {
                text.is_empty()
                    || value.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Regex(pattern) => pattern.is_match(value),
        }
    }
}

impl HeaderMatcher {
    /// Whether a request matches. A header that came several times matches if one of its values
    /// does; an absent one never does, not even inverted, unless it counts as empty.
    pub(crate) fn matches(&self, head: &RequestHead) -> bool {
        let pseudo = self.name.starts_with(':') || &*self.name == "host";
        self.matches_either(pseudo.then(|| head.get(&self.name)), &head.fields)
    }

    /// Whether a response matches.
    pub(crate) fn matches_response(&self, head: &ResponseHead) -> bool {
        let mut status = itoa::Buffer::new();
        let status = status.format(head.status).as_bytes();
        self.matches_either((&*self.name == ":status").then_some(Some(status)), &head.fields)
    }

    /// By the value of a pseudo-header, or by the headers of that name.
    fn matches_either(&self, pseudo: Option<Option<&[u8]>>, fields: &Fields) -> bool {
        let result = match &self.rule {
            HeaderRule::Present(wanted) => {
                let present = pseudo.unwrap_or_else(|| fields.get(&*self.name)).is_some();
                return ((present || self.treat_missing_as_empty) == *wanted) != self.invert;
            }
            HeaderRule::String(rule) => self.any(pseudo, fields, |value| rule.matches(value)),
            HeaderRule::Range(start, end) => self.any(pseudo, fields, |value| {
                number(value).is_some_and(|number| (*start..*end).contains(&number))
            }),
        };
        result.is_some_and(|matched| matched != self.invert)
    }

    /// Whether a value satisfies `rule`; `None` when there is no value.
    fn any(
        &self,
        pseudo: Option<Option<&[u8]>>,
        fields: &Fields,
        rule: impl Fn(&[u8]) -> bool,
    ) -> Option<bool> {
        if let Some(pseudo) = pseudo {
            return match pseudo {
                Some(value) => Some(rule(value)),
                None => self.treat_missing_as_empty.then(|| rule(b"")),
            };
        }
        let mut result = None;
        for value in fields.get_all(&*self.name) {
            if rule(value) {
                return Some(true);
            }
            result = Some(false);
        }
        result.or_else(|| self.treat_missing_as_empty.then(|| rule(b"")))
    }
}

impl QueryMatcher {
    /// Whether the first parameter of that name in `query` (what follows `?`, as received, not decoded) matches.
    pub(crate) fn matches(&self, query: &[u8]) -> bool {
        let value = parameter(query, self.name.as_bytes());
        match &self.rule {
            QueryRule::Present(wanted) => value.is_some() == *wanted,
            QueryRule::String(rule) => value.is_some_and(|value| rule.matches(value)),
        }
    }
}

impl FractionMatcher {
    /// Whether the request that drew `random` is among the share.
    pub(crate) fn matches(&self, random: u64) -> bool {
        self.draws(random, self.numerator)
    }

    /// The same with another numerator.
    pub(crate) fn draws(&self, random: u64, numerator: u32) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(numerator)
    }
}

impl Rewrite {
    /// With RE2's substitution (`\0` to `\9`, `\\`).
    pub(crate) fn new(pattern: Regex, substitution: &str) -> Result<Self, String> {
        let mut ours = Vec::with_capacity(substitution.len());
        let mut rest = substitution.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'$' => ours.extend_from_slice(b"$$"),
                b'\\' => match rest.next() {
                    Some(b'\\') => ours.push(b'\\'),
                    Some(digit @ b'0'..=b'9') => {
                        if usize::from(digit - b'0') >= pattern.captures_len() {
                            let group = char::from(digit);
                            return Err(format!(
                                "the substitution asks for group {group}, the expression has {} groups",
                                pattern.captures_len() - 1
                            ));
                        }
                        ours.extend_from_slice(&[b'$', b'{', digit, b'}']);
                    }
                    _ => return Err(r"in a substitution `\` is followed by a digit or by `\`".to_owned()),
                },
                other => ours.push(other),
            }
        }
        Ok(Self { pattern, substitution: ours.into() })
    }

    /// `text` with every match replaced.
    pub(crate) fn apply<'t>(&self, text: &'t [u8]) -> std::borrow::Cow<'t, [u8]> {
        self.pattern.replace_all(text, &*self.substitution)
    }
}

/// Whether `value` begins with `prefix`.
pub(crate) fn starts_with(value: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    value.get(..prefix.len()).is_some_and(|start| same(start, prefix, ignore_case))
}

/// Whether two texts are equal.
pub(crate) fn same(left: &[u8], right: &[u8], ignore_case: bool) -> bool {
    if ignore_case { left.eq_ignore_ascii_case(right) } else { left == right }
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

pub(crate) fn parameter<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|&byte| byte == b'&').find_map(|pair| {
        let rest = pair.strip_prefix(name)?;
        match rest.split_first() {
            None => Some(rest),
            Some((b'=', value)) => Some(value),
            Some(_) => None,
        }
    })
}

/// A range of IP addresses: those whose first bits are those of another one (Envoy's `CidrRange`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Bits beyond the prefix do not count; a prefix longer than the address is the whole address.
    pub(crate) fn new(address: IpAddr, bits: u32) -> Self {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = u8::try_from(bits.min(most)).unwrap_or(128);
        Self { first: masked(address, bits), bits }
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.bits) == self.first
    }

    /// The length of the prefix: a longer one is more specific.
    pub(crate) fn bits(self) -> u8 {
        self.bits
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

#[cfg(test)]
#[path = "../tests/unit/matcher.rs"]
mod tests;
