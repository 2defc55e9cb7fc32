//! What a request says about the host that it should go to: hashes of its parts, for balancing by
//! hash, and the metadata of hosts, for subsets. Pure.
//!
//! The hashes are Envoy's, bit by bit: a mesh with both keeps one assignment of clients to hosts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use smallvec::SmallVec;
use twox_hash::XxHash64;

use crate::matcher::{Rewrite, parameter};
use crate::message::{FieldValueBuf, Known, RequestHead};

/// Parts of a request in order; the hashes of those that it has are combined.
#[derive(Debug, Default)]
pub(crate) struct HashPolicies(pub Box<[HashPolicy]>);

/// One part of a request.
#[derive(Debug)]
pub(crate) struct HashPolicy {
    pub part: HashedPart,
    /// Once there is a hash, the policies behind this one are left out.
    pub terminal: bool,
}

#[derive(Debug)]
pub(crate) enum HashedPart {
    /// All values of a header, whatever their order.
    Header {
        name: Box<str>,
        rewrite: Option<Rewrite>,
    },
    Cookie {
        name: Box<str>,
        /// For a client that has none.
        make: Option<NewCookie>,
    },
    SourceIp,
    QueryParameter(Box<str>),
    /// No part: a policy that may be the last one where others gave a hash.
    Nothing,
}

/// How the cookie of a client that has none is made.
#[derive(Debug)]
pub(crate) struct NewCookie {
    /// What follows the value: lifetime, path and attributes.
    pub attributes: Box<str>,
}

/// The metadata that the hosts of a request are to have (`metadata_match`).
#[derive(Clone, Debug)]
pub(crate) struct Criteria {
    pairs: BTreeMap<String, Value>,
    /// All pairs as bytes.
    pub key: Box<[u8]>,
    /// What `fallback_list` says to try in order, each laid over the others.
    pub alternatives: Option<Box<[Criteria]>>,
}

impl Criteria {
    /// `None` where there is nothing to match.
    pub(crate) fn new(pairs: BTreeMap<String, Value>) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let alternatives = pairs.get("fallback_list").and_then(Value::as_array).map(|list| {
            let mut rest = pairs.clone();
            rest.remove("fallback_list");
            let laid_over = |fields: &serde_json::Map<String, Value>| {
                let mut pairs = rest.clone();
                pairs.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
                Self::plain(pairs)
            };
            if list.is_empty() {
                return Box::from([Self::plain(rest)]);
            }
            list.iter().filter_map(Value::as_object).map(laid_over).collect()
        });
        Some(Self { alternatives, ..Self::plain(pairs) })
    }

    fn plain(pairs: BTreeMap<String, Value>) -> Self {
        let mut criteria = Self { pairs, key: Box::default(), alternatives: None };
        criteria.key = criteria.key_of(|_| true).into();
        criteria
    }

    /// The names in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// The pairs of some names as bytes.
    pub(crate) fn key_of(&self, keep: impl Fn(&str) -> bool) -> Vec<u8> {
        let mut key = Vec::new();
        for (name, value) in self.pairs.iter().filter(|(name, _)| keep(name)) {
            write_pair(&mut key, name, value);
        }
        key
    }
}

/// Appends a name and its value as bytes, in one way only.
pub(crate) fn write_pair(key: &mut Vec<u8>, name: &str, value: &Value) {
    for text in [Value::from(name).to_string(), value.to_string()] {
        key.extend_from_slice(text.as_bytes());
        // A byte that JSON never has.
        key.push(0);
    }
}

/// What is known of the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The client's address after `x-forwarded-for` and the trusted hops.
    pub remote: SocketAddr,
    /// The two ends of the connection.
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// The hash of a request, and the cookies that its response sets.
#[derive(Debug, Default)]
pub(crate) struct Hashed {
    pub hash: Option<u64>,
    pub cookies: Vec<FieldValueBuf>,
}

impl HashPolicies {
    /// The hash of a request; none when it has no part that is hashed.
    pub(crate) fn hash(&self, head: &RequestHead, client: Client) -> Hashed {
        let mut hashed = Hashed::default();
        for policy in &self.0 {
            if let Some(new) = policy.part.hash(head, client, &mut hashed.cookies) {
                // Rotated, so that a policy that stands twice does not cancel itself out.
                hashed.hash = Some(hashed.hash.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if policy.terminal && hashed.hash.is_some() {
                break;
            }
        }
        hashed
    }
}

impl HashedPart {
    fn hash(&self, head: &RequestHead, client: Client, cookies: &mut Vec<FieldValueBuf>) -> Option<u64> {
        match self {
            Self::Header { name, rewrite } => hash_header(head, name, rewrite.as_ref()),
            Self::Cookie { name, make } => {
                if let Some(value) = cookie(head, name.as_bytes()).filter(|value| !value.is_empty()) {
                    return Some(xx_hash(value));
                }
                let make = make.as_ref()?;
                // One value for a connection, so that requests beside each other get the same.
                let ends = format!("{}{}", client.peer, client.local);
                let value = format!("{:016x}", xx_hash(ends.as_bytes()));
                let header = format!("{name}=\"{value}\"{}", make.attributes);
                cookies.extend(FieldValueBuf::new(header).ok());
                Some(xx_hash(value.as_bytes()))
            }
            Self::SourceIp => Some(xx_hash(client.remote.ip().to_string().as_bytes())),
            Self::QueryParameter(name) => {
                let (_, query) = crate::message::grammar::split_query(&head.path);
                parameter(query?, name.as_bytes()).map(xx_hash)
            }
            Self::Nothing => None,
        }
    }
}

/// xxHash64 with the seed 0.
fn xx_hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

fn hash_header(head: &RequestHead, name: &str, rewrite: Option<&Rewrite>) -> Option<u64> {
    let pseudo = name.starts_with(':') || name == "host";
    let mut values: SmallVec<[Cow<'_, [u8]>; 2]> = if pseudo {
        head.get(name).map(Cow::Borrowed).into_iter().collect()
    } else {
        head.fields.get_all(name).map(Cow::Borrowed).collect()
    };
    if values.is_empty() {
        return None;
    }
    if let Some(rewrite) = rewrite {
        for value in &mut values {
            *value = Cow::Owned(rewrite.apply(value).into_owned());
        }
    }
    values.sort_unstable();
    Some(values.iter().fold(0, |hash, value| XxHash64::oneshot(hash, value)))
}

/// The value of a cookie, without quotes.
fn cookie<'h>(head: &'h RequestHead, name: &[u8]) -> Option<&'h [u8]> {
    let mut pairs = head.fields.get_all(Known::Cookie).flat_map(|value| value.split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair.get(..at)?.trim_ascii(), pair.get(at + 1..)?.trim_ascii());
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (key == name).then_some(unquoted.unwrap_or(value))
    })
}

#[cfg(test)]
#[path = "../tests/unit/affinity.rs"]
mod tests;
