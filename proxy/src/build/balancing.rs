//! How a cluster balances, in the old form and the new, and what routes and endpoints say to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use xds::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use xds::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector as OldSelector;
use xds::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction;
use xds::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, LbSubsetConfig, RingHashLbConfig,
    SlowStartConfig as OldSlowStart,
};
use xds::envoy::config::cluster::v3::{Cluster as Message, LoadBalancingPolicy};
use xds::envoy::config::core::v3::{Metadata, RuntimeDouble};
use xds::envoy::config::route::v3::route_action::HashPolicy as HashMessage;
use xds::envoy::config::route::v3::route_action::hash_policy::{Cookie, PolicySpecifier};
use xds::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier as NewLocality;
use xds::envoy::extensions::load_balancing_policies::common::v3::{
    ConsistentHashingLbConfig, LocalityLbConfig, SlowStartConfig,
};
use xds::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use xds::envoy::extensions::load_balancing_policies::least_request::v3::least_request::SelectionMethod;
use xds::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use xds::envoy::extensions::load_balancing_policies::random::v3::Random;
use xds::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use xds::envoy::extensions::load_balancing_policies::ring_hash::v3::ring_hash::HashFunction as NewHashFunction;
use xds::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use xds::envoy::extensions::load_balancing_policies::subset::v3::Subset;
use xds::envoy::extensions::load_balancing_policies::subset::v3::subset::lb_subset_selector::LbSubsetSelectorFallbackPolicy as SelectorFallback;
use xds::envoy::extensions::load_balancing_policies::subset::v3::subset::{
    LbSubsetFallbackPolicy as SubsetFallback, LbSubsetMetadataFallbackPolicy as MetadataFallback,
    LbSubsetSelector,
};

use super::place::{Code, Place};
use super::values::duration;
use super::{Cx, logs, matchers};
use crate::affinity::{HashPolicies, HashPolicy, HashedPart, NewCookie};
use crate::cluster::LbMetadata;
use crate::cluster::balancer::{Choices, Method, Policy, SlowStart};
use crate::cluster::hashing::{TableKind, TableRules};
use crate::cluster::pool::Layout;
use crate::cluster::shares::Balance;
use crate::cluster::subsets::{Fallback, Localities, Selector, SubsetRules};

/// How a cluster balances.
#[derive(Default)]
pub(super) struct Balancing {
    pub policy: Policy,
    pub layout: Layout,
    /// What of a request is hashed, instead of what its route says.
    pub hash: Option<HashPolicies>,
}

/// How a cluster balances.
pub(super) fn of_cluster(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Balancing {
    let mut balancing = match &message.load_balancing_policy {
        Some(policy) => {
            exclusive(cx, place, message);
            let mut balancing = Balancing::default();
            let place = place.field("load_balancing_policy");
            new_form(cx, &place, policy, &mut balancing);
            balancing
        }
        None => old_form(cx, place, message),
    };
    balancing.layout.balance = balance(message);
    if let Some(config) = &message.lb_subset_config {
        let place = place.field("lb_subset_config");
        if message.load_balancing_policy.is_some() {
            let text = "`lb_subset_config` cannot be combined with `load_balancing_policy`";
            cx.error(&place, Code::Structure, text).suggest("write a policy of the type Subset there");
        }
        subsets(cx, &place, &new_subset(config), &mut balancing.layout);
    }
    balancing
}

/// The new form says all; what the old one would say as well is an error, as in Envoy.
fn exclusive(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) {
    let common = message.common_lb_config.as_ref();
    let locality = match common.and_then(|common| common.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => Some("zone_aware_lb_config"),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => Some("locality_weighted_lb_config"),
        None => None,
    };
    let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
    for field in locality.into_iter().chain(hashing.map(|_| "consistent_hashing_lb_config")) {
        let place = place.field("common_lb_config");
        let text = format!("`{field}` cannot be combined with `load_balancing_policy`");
        cx.error(&place.field(field), Code::Structure, text)
            .suggest("write it in the configuration of the policy");
    }
}

fn old_form(cx: &mut Cx<'_>, place: &Place<'_>, message: &Message) -> Balancing {
    let common = message.common_lb_config.as_ref();
    let hashing = common.and_then(|common| common.consistent_hashing_lb_config);
    let by_hostname = hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing);
    let strict_dns = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    if by_hostname && message.cluster_discovery_type != strict_dns {
        let place = place.field("common_lb_config");
        let place = place.field("consistent_hashing_lb_config");
        let text = "hosts of this cluster have no names to hash";
        cx.error(&place.field("use_hostname_for_hashing"), Code::Structure, text)
            .suggest("only clusters of the type STRICT_DNS have; leave it out");
    }
    let limit = hashing.and_then(|hashing| hashing.hash_balance_factor);
    let mut table = None;
    let policy = match (LbPolicy::try_from(message.lb_policy), &message.lb_config) {
        (Ok(LbPolicy::LeastRequest), config) => {
            let config = match config {
                Some(LbConfig::LeastRequestLbConfig(config)) => config.clone(),
                _ => Default::default(),
            };
            Policy {
                method: Method::LeastRequest {
                    choices: Choices::Some(config.choice_count.unwrap_or(2)),
                    bias: number(cx, config.active_request_bias.as_ref(), 1.0),
                },
                slow_start: slow_start(cx, config.slow_start_config.as_ref()),
            }
        }
        (Ok(LbPolicy::Random), _) => Policy { method: Method::Random, slow_start: None },
        (Ok(LbPolicy::RingHash), config) => {
            let config = match config {
                Some(LbConfig::RingHashLbConfig(config)) => *config,
                _ => RingHashLbConfig::default(),
            };
            let murmur = config.hash_function == HashFunction::MurmurHash2 as i32;
            let (min, max) = (config.minimum_ring_size, config.maximum_ring_size);
            let place = place.field("ring_hash_lb_config");
            table = Some((ring(cx, &place, min, max, murmur), by_hostname));
            Policy { method: Method::Hash { limit }, slow_start: None }
        }
        (Ok(LbPolicy::Maglev), config) => {
            let size = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            table = Some((maglev(cx, &place.field("maglev_lb_config"), size), by_hostname));
            Policy { method: Method::Hash { limit }, slow_start: None }
        }
        (Ok(LbPolicy::LoadBalancingPolicyConfig), _) => {
            let place = place.field("load_balancing_policy");
            cx.error(&place, Code::MissingField, "`lb_policy` says that the policy stands here");
            Policy::default()
        }
        (_, Some(LbConfig::RoundRobinLbConfig(config))) => Policy {
            method: Method::RoundRobin,
            slow_start: slow_start(cx, config.slow_start_config.as_ref()),
        },
        // The schema refuses the others.
        _ => Policy::default(),
    };
    let locality = common.and_then(|common| common.locality_config_specifier.as_ref());
    let localities = matches!(locality, Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)));
    let table = table.map(|(kind, by_hostname)| TableRules { kind, by_hostname });
    Balancing { policy, layout: Layout { localities, table, ..Layout::default() }, hash: None }
}

/// The first policy that is one.
fn new_form(cx: &mut Cx<'_>, place: &Place<'_>, message: &LoadBalancingPolicy, to: &mut Balancing) {
    for (at, policy) in message.policies.iter().enumerate() {
        let config = policy.typed_extension_config.as_ref();
        let Some(any) = config.and_then(|config| config.typed_config.as_ref()) else { continue };
        let place = place.item("policies", at);
        let place = place.field("typed_extension_config");
        let place = place.field("typed_config");
        if let Ok(config) = xds::decode_any::<RoundRobin>(any) {
            to.policy.slow_start = new_slow_start(cx, config.slow_start_config.as_ref());
            to.layout.localities = weighs_localities(config.locality_lb_config.as_ref());
        } else if let Ok(config) = xds::decode_any::<LeastRequest>(any) {
            let some = Choices::Some(config.choice_count.unwrap_or(2));
            let all = config.selection_method == SelectionMethod::FullScan as i32;
            to.policy = Policy {
                method: Method::LeastRequest {
                    choices: if all { Choices::All } else { some },
                    bias: number(cx, config.active_request_bias.as_ref(), 1.0),
                },
                slow_start: new_slow_start(cx, config.slow_start_config.as_ref()),
            };
            to.layout.localities = weighs_localities(config.locality_lb_config.as_ref());
        } else if let Ok(config) = xds::decode_any::<Random>(any) {
            to.policy.method = Method::Random;
            to.layout.localities = weighs_localities(config.locality_lb_config.as_ref());
        } else if let Ok(config) = xds::decode_any::<RingHash>(any) {
            let murmur = config.hash_function == NewHashFunction::MurmurHash2 as i32;
            let (min, max) = (config.minimum_ring_size, config.maximum_ring_size);
            let kind = ring(cx, &place, min, max, murmur);
            by_hash(cx, &place, kind, config.consistent_hashing_lb_config.as_ref(), to);
            to.layout.localities = config.locality_weighted_lb_config.is_some();
        } else if let Ok(config) = xds::decode_any::<Maglev>(any) {
            let kind = maglev(cx, &place, config.table_size);
            by_hash(cx, &place, kind, config.consistent_hashing_lb_config.as_ref(), to);
            to.layout.localities = config.locality_weighted_lb_config.is_some();
        } else if let Ok(config) = xds::decode_any::<Subset>(any) {
            if let Some(policy) = &config.subset_lb_policy {
                new_form(cx, &place.field("subset_lb_policy"), policy, to);
            }
            subsets(cx, &place, &config, &mut to.layout);
        } else {
            continue;
        }
        return;
    }
    cx.error(&place.field("policies"), Code::NotImplemented, "none of these policies is implemented")
        .suggest("use one of round_robin, least_request, random, ring_hash, maglev and subset");
}

fn by_hash(
    cx: &mut Cx<'_>,
    place: &Place<'_>,
    kind: TableKind,
    config: Option<&ConsistentHashingLbConfig>,
    to: &mut Balancing,
) {
    let by_hostname = config.is_some_and(|config| config.use_hostname_for_hashing);
    to.policy.method = Method::Hash { limit: config.and_then(|config| config.hash_balance_factor) };
    to.layout.table = Some(TableRules { kind, by_hostname });
    let messages = config.map(|config| &*config.hash_policy).filter(|messages| !messages.is_empty());
    let place = place.field("consistent_hashing_lb_config");
    to.hash = messages.map(|messages| hash_policies(cx, &place, messages));
}

/// The old form's fields have the same numbers and values.
fn new_subset(message: &LbSubsetConfig) -> Subset {
    let selector = |selector: &OldSelector| LbSubsetSelector {
        keys: selector.keys.clone(),
        fallback_policy: selector.fallback_policy,
        fallback_keys_subset: selector.fallback_keys_subset.clone(),
        single_host_per_subset: selector.single_host_per_subset,
    };
    Subset {
        fallback_policy: message.fallback_policy,
        default_subset: message.default_subset.clone(),
        subset_selectors: message.subset_selectors.iter().map(selector).collect(),
        locality_weight_aware: message.locality_weight_aware,
        scale_locality_weight: message.scale_locality_weight,
        panic_mode_any: message.panic_mode_any,
        list_as_any: message.list_as_any,
        metadata_fallback_policy: message.metadata_fallback_policy,
        subset_lb_policy: None,
        allow_redundant_keys: false,
    }
}

fn subsets(cx: &mut Cx<'_>, place: &Place<'_>, message: &Subset, layout: &mut Layout) {
    if message.locality_weight_aware && !layout.localities {
        let text = "subsets weigh localities, but the cluster does not";
        cx.error(&place.field("locality_weight_aware"), Code::Structure, text)
            .suggest("add `locality_weighted_lb_config`");
    }
    let mut selectors: Vec<Selector> = Vec::with_capacity(message.subset_selectors.len());
    for (at, selector) in message.subset_selectors.iter().enumerate() {
        let place = place.item("subset_selectors", at);
        let sorted = |keys: &[String]| keys.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let keys: Vec<String> = sorted(&selector.keys);
        let left: Vec<String> = sorted(&selector.fallback_keys_subset);
        let by_keys = selector.fallback_policy == SelectorFallback::KeysSubset as i32;
        if !by_keys && !left.is_empty() {
            let text = "only the fallback policy KEYS_SUBSET looks at these keys";
            cx.error(&place.field("fallback_keys_subset"), Code::BadValue, text)
                .suggest("set `fallback_policy: KEYS_SUBSET`, or remove the keys");
        }
        let fallback = match SelectorFallback::try_from(selector.fallback_policy) {
            Ok(SelectorFallback::NoFallback) => Some(Fallback::None),
            Ok(SelectorFallback::AnyEndpoint) => Some(Fallback::Any),
            Ok(SelectorFallback::DefaultSubset) => Some(Fallback::Default),
            Ok(SelectorFallback::KeysSubset) => {
                if left.is_empty() || left == keys || left.iter().any(|key| !keys.contains(key)) {
                    let text = "KEYS_SUBSET needs some of the keys, and not all of them";
                    cx.error(&place.field("fallback_keys_subset"), Code::BadValue, text);
                }
                Some(Fallback::Keys(left))
            }
            Ok(SelectorFallback::NotDefined) | Err(_) => None,
        };
        // As in Envoy, whose tree of keys has this place already.
        let known = selectors.iter().any(|before| before.keys.starts_with(&keys));
        let single = selector.single_host_per_subset;
        selectors.push(Selector { keys, single, fallback: fallback.filter(|_| !known) });
    }
    if selectors.is_empty() {
        return;
    }
    let default = message.default_subset.as_ref().map(logs::object);
    layout.subsets = Some(Arc::new(SubsetRules {
        selectors,
        fallback: match SubsetFallback::try_from(message.fallback_policy) {
            Ok(SubsetFallback::AnyEndpoint) => Fallback::Any,
            Ok(SubsetFallback::DefaultSubset) => Fallback::Default,
            Ok(SubsetFallback::NoFallback) | Err(_) => Fallback::None,
        },
        default: match default {
            Some(serde_json::Value::Object(fields)) => fields.into_iter().collect(),
            _ => LbMetadata::default(),
        },
        panic_any: message.panic_mode_any,
        list_as_any: message.list_as_any,
        alternatives: message.metadata_fallback_policy == MetadataFallback::FallbackList as i32,
        localities: match (message.locality_weight_aware, message.scale_locality_weight) {
            (false, _) => Localities::Ignored,
            (true, false) => Localities::Weighed,
            (true, true) => Localities::Scaled,
        },
    }));
}

fn weighs_localities(config: Option<&LocalityLbConfig>) -> bool {
    let specifier = config.and_then(|config| config.locality_config_specifier.as_ref());
    matches!(specifier, Some(NewLocality::LocalityWeightedLbConfig(_)))
}

fn ring(cx: &mut Cx<'_>, place: &Place<'_>, min: Option<u64>, max: Option<u64>, murmur: bool) -> TableKind {
    let (min, max) = (min.unwrap_or(1024), max.unwrap_or(8 << 20));
    if min > max {
        let text = format!("the ring has at least {min} entries and at most {max}");
        cx.error(place, Code::BadValue, text).suggest("raise `maximum_ring_size`");
    }
    TableKind::Ring { min, max, murmur }
}

fn maglev(cx: &mut Cx<'_>, place: &Place<'_>, size: Option<u64>) -> TableKind {
    let size = size.unwrap_or(65_537);
    let divides = |divisor: &u64| size.is_multiple_of(*divisor);
    if size < 2 || (2..).take_while(|divisor| divisor * divisor <= size).any(|divisor| divides(&divisor)) {
        let text = format!("the table has {size} entries, which is not a prime number");
        cx.error(&place.field("table_size"), Code::BadValue, text).suggest("65537");
    }
    TableKind::Maglev { size }
}

fn slow_start(cx: &Cx<'_>, message: Option<&OldSlowStart>) -> Option<SlowStart> {
    let message = message?;
    new_slow_start(
        cx,
        Some(&SlowStartConfig {
            slow_start_window: message.slow_start_window,
            aggression: message.aggression.clone(),
            min_weight_percent: message.min_weight_percent,
        }),
    )
}

fn new_slow_start(cx: &Cx<'_>, message: Option<&SlowStartConfig>) -> Option<SlowStart> {
    let message = message?;
    let window = duration(message.slow_start_window.as_ref()).filter(|window| *window > Duration::ZERO)?;
    let aggression = number(cx, message.aggression.as_ref(), 1.0);
    Some(SlowStart {
        window,
        aggression: if aggression > 0.0 { aggression } else { 1.0 },
        least: message.min_weight_percent.map_or(10.0, |percent| percent.value) / 100.0,
    })
}

/// A number that the runtime may override.
fn number(cx: &Cx<'_>, message: Option<&RuntimeDouble>, default: f64) -> f64 {
    message
        .map_or(default, |message| cx.runtime.double(&message.runtime_key).unwrap_or(message.default_value))
}

/// How the health of the endpoints is weighed.
fn balance(message: &Message) -> Balance {
    let default = Balance::default();
    let lb = message.common_lb_config.as_ref();
    let policy = message.load_assignment.as_ref().and_then(|assignment| assignment.policy.as_ref());
    Balance {
        panic_threshold: lb
            .and_then(|lb| lb.healthy_panic_threshold)
            .map_or(default.panic_threshold, |percent| percent.value),
        overprovisioning: policy
            .and_then(|policy| policy.overprovisioning_factor)
            .unwrap_or(default.overprovisioning),
    }
}

/// What the metadata of an endpoint say to balancing.
pub(super) fn metadata(message: &Metadata) -> Option<LbMetadata> {
    let fields = message.filter_metadata.get("envoy.lb")?;
    match logs::object(fields) {
        serde_json::Value::Object(fields) => Some(fields.into_iter().collect()),
        _ => None,
    }
}

/// The parts of a request that are hashed.
pub(super) fn hash_policies(cx: &mut Cx<'_>, place: &Place<'_>, messages: &[HashMessage]) -> HashPolicies {
    let mut policies = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let place = place.item("hash_policy", at);
        let part = match message.policy_specifier.as_ref() {
            Some(PolicySpecifier::Header(header)) => HashedPart::Header {
                name: header.header_name.to_ascii_lowercase().into(),
                rewrite: header.regex_rewrite.as_ref().and_then(|rewrite| {
                    matchers::rewrite(cx, &place.field("header").field("regex_rewrite"), rewrite)
                }),
            },
            Some(PolicySpecifier::Cookie(message)) => {
                HashedPart::Cookie { name: message.name.as_str().into(), make: new_cookie(message) }
            }
            Some(PolicySpecifier::ConnectionProperties(connection)) if connection.source_ip => {
                HashedPart::SourceIp
            }
            Some(PolicySpecifier::QueryParameter(query)) => {
                HashedPart::QueryParameter(query.name.as_str().into())
            }
            Some(PolicySpecifier::ConnectionProperties(_) | PolicySpecifier::FilterState(_)) | None => {
                HashedPart::Nothing
            }
        };
        policies.push(HashPolicy { part, terminal: message.terminal });
    }
    HashPolicies(policies.into())
}

/// What follows the value of a cookie that is made: it is made where it has a lifetime.
fn new_cookie(message: &Cookie) -> Option<NewCookie> {
    let seconds = duration(message.ttl.as_ref())?.as_secs();
    let mut attributes = String::new();
    if seconds > 0 {
        attributes.push_str(&format!("; Max-Age={seconds}"));
    }
    if !message.path.is_empty() {
        attributes.push_str(&format!("; Path={}", message.path));
    }
    for attribute in &message.attributes {
        attributes.push_str("; ");
        attributes.push_str(&attribute.name);
        if !attribute.value.is_empty() {
            attributes.push_str(&format!("={}", attribute.value));
        }
    }
    attributes.push_str("; HttpOnly");
    Some(NewCookie { attributes: attributes.into() })
}
