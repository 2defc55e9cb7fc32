//! Which routes are covered by an earlier one, in time that grows with the routes and not with their square.
//!
//! Pure.

use std::collections::{BTreeSet, HashMap};

use prost::Message;

use crate::envoy::config::route::v3::RouteMatch;
use crate::envoy::config::route::v3::route_match::PathSpecifier;

/// The routes seen so far, each by what it takes without further condition.
#[derive(Default)]
pub(super) struct Shadow {
    /// First routes by prefix and path: those that regard case, and, in lower case, those that do not.
    sensitive: Texts,
    ignoring: Texts,
    same: HashMap<Vec<u8>, usize>,
}

/// Routes by the texts of their conditions.
#[derive(Default)]
struct Texts {
    prefixes: Starts,
    separated: Starts,
    paths: HashMap<String, usize>,
}

/// Texts that others may begin with. A hash of each is kept, so that all beginnings of a text are looked up in one walk over it.
#[derive(Default)]
struct Starts {
    by_hash: HashMap<(usize, u64), (String, usize)>,
    lengths: BTreeSet<usize>,
}

impl Starts {
    fn insert(&mut self, text: &str, at: usize) {
        self.lengths.insert(text.len());
        let hash = text.bytes().fold(0, hash_byte);
        self.by_hash.entry((text.len(), hash)).or_insert_with(|| (text.to_owned(), at));
    }

    /// The first route, by length, whose text this one begins with, and of which the rest is as wanted.
    fn find(&self, text: &str, wanted: impl Fn(&str) -> bool) -> Option<usize> {
        let (mut hash, mut hashed) = (0, 0);
        self.lengths.range(..=text.len()).find_map(|&length| {
            hash = text.as_bytes()[hashed..length].iter().copied().fold(hash, hash_byte);
            hashed = length;
            let (start, at) = self.by_hash.get(&(length, hash))?;
            text.strip_prefix(start.as_str()).filter(|rest| wanted(rest)).map(|_| *at)
        })
    }
}

/// The hash of a text with one more byte.
fn hash_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
}

impl Texts {
    fn covers(&self, text: &str, exact: bool) -> Option<usize> {
        let same =
            exact.then(|| self.paths.get(text).copied().or_else(|| self.separated.find(text, str::is_empty)));
        same.flatten()
            .or_else(|| self.prefixes.find(text, |_| true))
            // The empty prefix and `/` are the same: every path begins with a slash.
            .or_else(|| self.prefixes.find("/", |_| true))
            .or_else(|| self.separated.find(text, |rest| rest.starts_with('/')))
    }
}

impl Shadow {
    /// The earlier route that takes every request of this one, if there is one. The route is remembered as number `at`.
    pub(super) fn covers(&mut self, conditions: &RouteMatch, at: usize) -> Option<usize> {
        let whole = conditions.encode_to_vec();
        let covered = self.same.get(&whole).copied().or_else(|| self.find(conditions));
        if covered.is_none() {
            self.remember(conditions, whole, at);
        }
        covered
    }

    fn find(&self, conditions: &RouteMatch) -> Option<usize> {
        let ignores_case = conditions.case_sensitive == Some(false);
        let (text, exact) = match conditions.path_specifier.as_ref()? {
            PathSpecifier::Path(text) => (text.as_str(), true),
            PathSpecifier::Prefix(text) | PathSpecifier::PathSeparatedPrefix(text) => (text.as_str(), false),
            // Every path begins with a slash.
            PathSpecifier::SafeRegex(_) => ("/", false),
            _ => return None,
        };
        // `path_separated_prefix: /a` is covered by itself, `prefix: /a` is not.
        let separated = matches!(&conditions.path_specifier, Some(PathSpecifier::PathSeparatedPrefix(_)));
        let covers = |texts: &Texts, text: &str| {
            let itself = separated.then(|| texts.separated.find(text, str::is_empty)).flatten();
            texts.covers(text, exact).or(itself)
        };
        // A route that regards case covers only one that does too.
        let found = covers(&self.ignoring, &text.to_ascii_lowercase());
        found.or_else(|| (!ignores_case).then(|| covers(&self.sensitive, text)).flatten())
    }

    fn remember(&mut self, conditions: &RouteMatch, whole: Vec<u8>, at: usize) {
        // A share of the requests leaves the others to the next route.
        if conditions.runtime_fraction.is_none() {
            self.same.entry(whole).or_insert(at);
        }
        let bare = conditions.headers.is_empty()
            && conditions.query_parameters.is_empty()
            && conditions.grpc.is_none()
            && conditions.runtime_fraction.is_none();
        if !bare {
            return;
        }
        let sensitive = conditions.case_sensitive != Some(false);
        let texts = if sensitive { &mut self.sensitive } else { &mut self.ignoring };
        let key = |text: &String| if sensitive { text.clone() } else { text.to_ascii_lowercase() };
        match &conditions.path_specifier {
            Some(PathSpecifier::Prefix(text)) => texts.prefixes.insert(&key(text), at),
            Some(PathSpecifier::PathSeparatedPrefix(text)) => texts.separated.insert(&key(text), at),
            Some(PathSpecifier::Path(text)) => {
                texts.paths.entry(key(text)).or_insert(at);
            }
            _ => {}
        }
    }
}
