//! `envoy.filters.http.cors`: requests that a page of another origin makes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::chain::{Facts, FilterStatus};
use crate::matcher::{FractionMatcher, StringMatch};
use crate::message::{FieldValue, FieldValueBuf, Known, Method, ResponseHead};
use crate::stats::{CorsStats, Scope};

/// The filter of one connection manager; its policies are those of the routes.
#[derive(Debug)]
pub(crate) struct Cors {
    pub stats: Arc<Scope<CorsStats>>,
}

/// A policy of one level. What it leaves out, the next level may say.
#[derive(Debug)]
pub(crate) struct Policy {
    pub origins: Vec<StringMatch>,
    pub methods: FieldValueBuf,
    pub headers: FieldValueBuf,
    pub expose: FieldValueBuf,
    pub max_age: FieldValueBuf,
    pub credentials: Option<bool>,
    pub private_network: Option<bool>,
    pub forward_not_matching: Option<bool>,
    pub enabled: FractionMatcher,
    /// Origins are only counted.
    pub shadow: Option<FractionMatcher>,
}

/// The policies of a request's route, the most specific one first.
pub(crate) type Policies<'x> = SmallVec<[&'x Policy; 4]>;

/// One request.
pub(crate) struct Running<'x> {
    cors: &'x Cors,
    policies: Policies<'x>,
    /// The origin that may read the response.
    origin: Option<FieldValueBuf>,
}

impl Cors {
    pub(crate) fn begin<'x>(&'x self, policies: Policies<'x>) -> Running<'x> {
        Running { cors: self, policies, origin: None }
    }
}

impl Running<'_> {
    pub(crate) fn request(&mut self, facts: &mut Facts<'_>) -> FilterStatus {
        let Some(first) = self.policies.first() else { return FilterStatus::Continue };
        let enabled = first.enabled.matches((facts.random)());
        let shadow = !enabled && first.shadow.as_ref().is_some_and(|share| share.matches((facts.random)()));
        if !enabled && !shadow {
            return FilterStatus::Continue;
        }
        let origin = facts.request.fields.value(Known::Origin).map(FieldValueBuf::of);
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else { return FilterStatus::Continue };
        let allowed = self.allows(&origin);
        let stats = self.cors.stats.shard(facts.shard);
        if allowed {
            stats.origin_valid.inc();
        } else {
            stats.origin_invalid.inc();
        }
        if shadow {
            return FilterStatus::Continue;
        }
        self.origin = allowed.then_some(origin);
        const METHOD: &str = "access-control-request-method";
        let asked = |name: &str| facts.request.fields.get(name).unwrap_or_default();
        let method = facts.request.fields.value(METHOD).filter(|_| !asked(METHOD).is_empty());
        let Some(method) = method.filter(|_| facts.request.method == Method::Options) else {
            return FilterStatus::Continue;
        };
        if !allowed && self.flag(|policy| policy.forward_not_matching).unwrap_or(true) {
            return FilterStatus::Continue;
        }
        let private = asked("access-control-request-private-network") == b"true";
        let headers = facts.request.fields.value("access-control-request-headers").unwrap_or("".into());
        let head = self.preflight(method, headers, private);
        facts.info.details = "cors_response".into();
        FilterStatus::Respond(head)
    }

    pub(crate) fn response(&mut self, response: &mut ResponseHead) {
        let Some(origin) = self.origin.as_ref() else { return };
        let fields = &mut response.fields;
        fields.set("access-control-allow-origin", origin);
        if self.flag(|policy| policy.credentials).unwrap_or(false) {
            fields.set("access-control-allow-credentials", b"true");
        }
        if let Some(expose) = self.text(|policy| &policy.expose) {
            fields.set("access-control-expose-headers", expose);
        }
    }

    /// The response to a preflight, without the headers that every response gets.
    fn preflight(&self, method: FieldValue<'_>, headers: FieldValue<'_>, private: bool) -> ResponseHead {
        let mut head = ResponseHead::new(200);
        let fields = &mut head.fields;
        if let Some(methods) = self.text(|policy| &policy.methods) {
            let value = if **methods == *b"*" { method } else { methods.into() };
            fields.set("access-control-allow-methods", value);
        }
        if let Some(allowed) = self.text(|policy| &policy.headers) {
            let value = if **allowed == *b"*" { headers } else { allowed.into() };
            fields.set("access-control-allow-headers", value);
        }
        if let Some(age) = self.text(|policy| &policy.max_age) {
            fields.set("access-control-max-age", age);
        }
        if private && self.flag(|policy| policy.private_network).unwrap_or(false) {
            fields.set("access-control-allow-private-network", b"true");
        }
        if self.origin.is_none() && self.flag(|policy| policy.credentials).unwrap_or(false) {
            fields.set("access-control-allow-credentials", b"true");
        }
        head
    }

    fn allows(&self, origin: &[u8]) -> bool {
        let origins = self.policies.iter().map(|policy| &policy.origins).find(|origins| !origins.is_empty());
        origins.is_some_and(|origins| origins.iter().any(|one| one.matches(b"*") || one.matches(origin)))
    }

    fn text(&self, field: impl Fn(&Policy) -> &FieldValueBuf) -> Option<&FieldValueBuf> {
        self.policies.iter().map(|policy| field(policy)).find(|text| !text.is_empty())
    }

    fn flag(&self, field: impl Fn(&Policy) -> Option<bool>) -> Option<bool> {
        self.policies.iter().find_map(|policy| field(policy))
    }
}
