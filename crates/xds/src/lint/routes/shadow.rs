//! Which routes are covered by an earlier one, in time that grows with the routes and not with their square.
//!
//! Called by `routes`; calls nothing. Pure.

use std::collections::HashMap;

use prost::Message;

use crate::envoy::config::route::v3::RouteMatch;
use crate::envoy::config::route::v3::route_match::PathSpecifier;

/// The routes seen so far, each by what it takes without further condition.
#[derive(Default)]
pub(super) struct Shadow {
    /// Index of the first route by prefix, path, and whole condition; texts in lower case where case does not count.
    prefixes: HashMap<(bool, String), usize>,
    separated: HashMap<(bool, String), usize>,
    paths: HashMap<(bool, String), usize>,
    same: HashMap<Vec<u8>, usize>,
    longest: usize,
}

impl Shadow {
    /// The earlier route that takes every request of this one, if there is one. The route is remembered as number `at`.
    pub(super) fn covers(&mut self, conditions: &RouteMatch, at: usize) -> Option<usize> {
        let covered = self.same.get(&conditions.encode_to_vec()).copied().or_else(|| self.find(conditions));
        if covered.is_none() {
            self.remember(conditions, at);
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
        let lower = text.to_ascii_lowercase();
        // A route that regards case covers only one that does too.
        let mut found = self.find_text(false, &lower, exact);
        if !ignores_case {
            found = found.or_else(|| self.find_text(true, text, exact));
        }
        // `path_separated_prefix: /a` is covered by itself, `prefix: /a` is not.
        if let Some(PathSpecifier::PathSeparatedPrefix(_)) = &conditions.path_specifier {
            found = found.or_else(|| self.separated.get(&(false, lower)).copied());
            if !ignores_case {
                found = found.or_else(|| self.separated.get(&(true, text.to_owned())).copied());
            }
        }
        found
    }

    fn find_text(&self, sensitive: bool, text: &str, exact: bool) -> Option<usize> {
        let get = |map: &HashMap<(bool, String), usize>, text: &str| {
            map.get(&(sensitive, text.to_owned())).copied()
        };
        if exact && let Some(at) = get(&self.paths, text).or_else(|| get(&self.separated, text)) {
            return Some(at);
        }
        let ends = (0..=text.len().min(self.longest)).filter(|end| text.is_char_boundary(*end));
        let mut ends = ends.map(|end| &text[..end]);
        ends.find_map(|start| {
            let below = text[start.len()..].starts_with('/').then(|| get(&self.separated, start)).flatten();
            // The empty prefix and `/` are the same: every path begins with a slash.
            let root = (start.is_empty()).then(|| get(&self.prefixes, "/")).flatten();
            get(&self.prefixes, start).or(below).or(root)
        })
    }

    fn remember(&mut self, conditions: &RouteMatch, at: usize) {
        // A share of the requests leaves the others to the next route.
        if conditions.runtime_fraction.is_none() {
            self.same.entry(conditions.encode_to_vec()).or_insert(at);
        }
        let bare = conditions.headers.is_empty()
            && conditions.query_parameters.is_empty()
            && conditions.grpc.is_none()
            && conditions.runtime_fraction.is_none();
        if !bare {
            return;
        }
        let sensitive = conditions.case_sensitive != Some(false);
        let key =
            |text: &String| (sensitive, if sensitive { text.clone() } else { text.to_ascii_lowercase() });
        let (map, text) = match &conditions.path_specifier {
            Some(PathSpecifier::Prefix(text)) => (&mut self.prefixes, text),
            Some(PathSpecifier::Path(text)) => (&mut self.paths, text),
            Some(PathSpecifier::PathSeparatedPrefix(text)) => (&mut self.separated, text),
            _ => return,
        };
        self.longest = self.longest.max(text.len());
        map.entry(key(text)).or_insert(at);
    }
}
