//! Rules for role-based access control.

use xds::envoy::config::rbac::v3::permission::Rule;
use xds::envoy::config::rbac::v3::principal::Identifier;
use xds::envoy::config::rbac::v3::rbac::Action as ActionMessage;
use xds::envoy::config::rbac::v3::{Permission, Principal, Rbac as RulesMessage};
use xds::envoy::extensions::filters::http::rbac::v3::Rbac as Message;
use xds::envoy::r#type::matcher::v3::PathMatcher;
use xds::envoy::r#type::matcher::v3::path_matcher::Rule as PathRule;
use xds::envoy::r#type::v3::Int32Range;

use super::super::{Cx, chains, matchers};
use super::{Code, Place};
use crate::filter::rbac::{Action, Condition, Engines, Policy, Rbac, Rules, Whose};

/// The filter of the connection manager whose statistics begin with `prefix`.
pub(super) fn rbac(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message, prefix: &str) -> Rbac {
    let scope = |own: &str| cx.registry.scope(&format!("{prefix}rbac.{own}"));
    Rbac {
        stats: scope(&message.rules_stat_prefix),
        shadow_stats: scope(&message.shadow_rules_stat_prefix),
        engines: engines(cx, place, message),
    }
}

/// The rules of the filter or of a route.
pub(super) fn engines(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Engines {
    Engines {
        rules: message.rules.as_ref().map(|one| rules(cx, &place.field("rules"), one)),
        shadow: message.shadow_rules.as_ref().map(|one| rules(cx, &place.field("shadow_rules"), one)),
    }
}

fn rules(cx: &mut Cx<'_>, place: &Place<'_>, message: &RulesMessage) -> Rules {
    let mut policies = Vec::with_capacity(message.policies.len());
    for (name, policy) in &message.policies {
        let place = place.key("policies", name);
        let permissions = policy.permissions.iter().enumerate();
        let permissions =
            permissions.filter_map(|(at, one)| permission(cx, &place.item("permissions", at), one)).collect();
        let principals = policy.principals.iter().enumerate();
        let principals =
            principals.filter_map(|(at, one)| principal(cx, &place.item("principals", at), one)).collect();
        policies.push(Policy { name: name.as_str().into(), permissions, principals });
    }
    let action = match ActionMessage::try_from(message.action) {
        Ok(ActionMessage::Deny) => Action::Deny,
        Ok(ActionMessage::Log) => Action::Log,
        Ok(ActionMessage::Allow) | Err(_) => Action::Allow,
    };
    Rules { action, policies }
}

/// A permission; `None` when it is wrong, and reported.
fn permission(cx: &mut Cx<'_>, place: &Place<'_>, message: &Permission) -> Option<Condition> {
    let all = |cx: &mut Cx<'_>, place: &Place<'_>, rules: &[Permission]| -> Option<Vec<Condition>> {
        rules.iter().enumerate().map(|(at, one)| permission(cx, &place.item("rules", at), one)).collect()
    };
    Some(match message.rule.as_ref()? {
        Rule::Any(_) => Condition::Any,
        Rule::AndRules(set) => Condition::All(all(cx, &place.field("and_rules"), &set.rules)?),
        Rule::OrRules(set) => Condition::AnyOf(all(cx, &place.field("or_rules"), &set.rules)?),
        Rule::NotRule(one) => Condition::Not(Box::new(permission(cx, &place.field("not_rule"), one)?)),
        Rule::Header(header) => Condition::Header(matchers::header(cx, &place.field("header"), header)?),
        Rule::UrlPath(path) => self::path(cx, &place.field("url_path"), path)?,
        Rule::DestinationIp(range) => {
            Condition::Address(Whose::Ours, chains::range(cx, &place.field("destination_ip"), range)?)
        }
        Rule::DestinationPort(port) => Condition::Port(*port, port.saturating_add(1)),
        Rule::DestinationPortRange(range) => ports(cx, &place.field("destination_port_range"), range)?,
        _ => return None,
    })
}

/// From start to before end, both of them ports.
fn ports(cx: &mut Cx<'_>, place: &Place<'_>, range: &Int32Range) -> Option<Condition> {
    let bounds = u32::try_from(range.start).ok().zip(u32::try_from(range.end).ok());
    let bounds = bounds.filter(|(start, end)| start < end && *end <= 65_536);
    if bounds.is_none() {
        let text = format!("from {} to before {} there is no port", range.start, range.end);
        cx.error(place, Code::BadValue, text).suggest("`start` below `end`, both from 0 to 65536");
    }
    bounds.map(|(start, end)| Condition::Port(start, end))
}

/// A principal; `None` when it is wrong, and reported.
fn principal(cx: &mut Cx<'_>, place: &Place<'_>, message: &Principal) -> Option<Condition> {
    let all = |cx: &mut Cx<'_>, place: &Place<'_>, ids: &[Principal]| -> Option<Vec<Condition>> {
        ids.iter().enumerate().map(|(at, one)| principal(cx, &place.item("ids", at), one)).collect()
    };
    Some(match message.identifier.as_ref()? {
        Identifier::Any(_) => Condition::Any,
        Identifier::AndIds(set) => Condition::All(all(cx, &place.field("and_ids"), &set.ids)?),
        Identifier::OrIds(set) => Condition::AnyOf(all(cx, &place.field("or_ids"), &set.ids)?),
        Identifier::NotId(one) => Condition::Not(Box::new(principal(cx, &place.field("not_id"), one)?)),
        Identifier::Header(header) => {
            Condition::Header(matchers::header(cx, &place.field("header"), header)?)
        }
        Identifier::UrlPath(path) => self::path(cx, &place.field("url_path"), path)?,
        Identifier::SourceIp(range) => {
            Condition::Address(Whose::Peer, chains::range(cx, &place.field("source_ip"), range)?)
        }
        Identifier::DirectRemoteIp(range) => {
            Condition::Address(Whose::Peer, chains::range(cx, &place.field("direct_remote_ip"), range)?)
        }
        Identifier::RemoteIp(range) => {
            Condition::Address(Whose::Client, chains::range(cx, &place.field("remote_ip"), range)?)
        }
        _ => return None,
    })
}

fn path(cx: &mut Cx<'_>, place: &Place<'_>, message: &PathMatcher) -> Option<Condition> {
    let PathRule::Path(path) = message.rule.as_ref()?;
    matchers::string(cx, &place.field("path"), path).map(Condition::Path)
}
