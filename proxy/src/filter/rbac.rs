//! `envoy.filters.http.rbac`: role-based access control.

use std::sync::Arc;

use super::chain::{Facts, FilterStatus};
use crate::local_reply::LocalReply;
use crate::matcher::{Cidr, HeaderMatcher, StringMatch};
use crate::stats::{RbacStats, Scope};

/// The filter of one connection manager.
#[derive(Debug)]
pub(crate) struct Rbac {
    /// Counts of the rules, and of those that are only counted.
    pub stats: Arc<Scope<RbacStats>>,
    pub shadow_stats: Arc<Scope<RbacStats>>,
    pub engines: Engines,
}

/// The rules of the filter or of a route.
#[derive(Debug, Default)]
pub(crate) struct Engines {
    pub rules: Option<Rules>,
    pub shadow: Option<Rules>,
}

#[derive(Debug)]
pub(crate) struct Rules {
    pub action: Action,
    /// In the order of their names.
    pub policies: Vec<Policy>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
    /// Allows everything.
    Log,
}

/// One of the permissions and one of the principals must match.
#[derive(Debug)]
pub(crate) struct Policy {
    pub name: Box<str>,
    pub permissions: Vec<Condition>,
    pub principals: Vec<Condition>,
}

/// A permission or a principal.
#[derive(Debug)]
pub(crate) enum Condition {
    Any,
    All(Vec<Condition>),
    AnyOf(Vec<Condition>),
    Not(Box<Condition>),
    Header(HeaderMatcher),
    /// The path without its query.
    Path(StringMatch),
    Address(Whose, Cidr),
    /// The port that the client connected to, from the first to before the second.
    Port(u32, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// That the client connected to.
    Ours,
    Peer,
    /// The address of the client, from `x-forwarded-for` where that is trusted.
    Client,
}

/// One request.
pub(crate) struct Running<'x> {
    rbac: &'x Rbac,
    engines: &'x Engines,
}

impl Rbac {
    pub(crate) fn begin<'x>(&'x self, own: Option<&'x Engines>) -> Running<'x> {
        Running { rbac: self, engines: own.unwrap_or(&self.engines) }
    }
}

impl Rules {
    /// Whether a request may pass, and by which policy.
    fn decide(&self, facts: &Facts<'_>) -> (bool, Option<&str>) {
        let matched = self.policies.iter().find(|policy| policy.matches(facts)).map(|policy| &*policy.name);
        let allowed = match self.action {
            Action::Allow => matched.is_some(),
            Action::Deny => matched.is_none(),
            Action::Log => true,
        };
        (allowed, matched)
    }
}

impl Policy {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let any = |conditions: &[Condition]| conditions.iter().any(|condition| condition.holds(facts));
        any(&self.permissions) && any(&self.principals)
    }
}

impl Condition {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        let info = &facts.info;
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|one| one.holds(facts)),
            Self::AnyOf(some) => some.iter().any(|one| one.holds(facts)),
            Self::Not(one) => !one.holds(facts),
            Self::Header(header) => header.matches(facts.request),
            Self::Path(path) => path.matches(facts.request.path_only()),
            Self::Address(whose, range) => {
                let address = match whose {
                    Whose::Ours => info.connection.local,
                    Whose::Peer => info.connection.peer,
                    Whose::Client => info.remote,
                };
                range.contains(address.ip())
            }
            Self::Port(start, end) => (*start..*end).contains(&u32::from(info.connection.local.port())),
        }
    }
}

impl Running<'_> {
    pub(crate) fn request(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        if let Some(shadow) = &self.engines.shadow {
            let stats = self.rbac.shadow_stats.shard(facts.shard);
            let (allowed, _) = shadow.decide(facts);
            if allowed { stats.shadow_allowed.inc() } else { stats.shadow_denied.inc() }
        }
        let Some(rules) = &self.engines.rules else { return FilterStatus::Continue };
        let stats = self.rbac.stats.shard(facts.shard);
        let (allowed, policy) = rules.decide(facts);
        if allowed {
            stats.requests_allowed.inc();
            return FilterStatus::Continue;
        }
        stats.denied.inc();
        let policy = policy.unwrap_or("none").replace(char::is_whitespace, "_");
        let details = format!("rbac_access_denied_matched_policy[{policy}]").into();
        FilterStatus::Reply(LocalReply { details, ..LocalReply::new(403, "RBAC: access denied", "") })
    }
}
