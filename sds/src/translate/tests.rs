//! Slices in, endpoints out.

use proptest::prelude::*;

use super::*;
use crate::slice::{Conditions, SliceEndpoint, TargetRef};

const RULES: Rules = Rules { envoy_port: 10000, family: Family::Auto };

/// Slices as YAML documents, as a cluster would hold them; the namespace is `shop`.
fn slices(yaml: &str) -> Vec<EndpointSlice> {
    let mut slices: Vec<EndpointSlice> = serde_saphyr::from_multiple(yaml).unwrap();
    for slice in &mut slices {
        slice.metadata.namespace = "shop".into();
    }
    slices
}

/// The endpoints as `address:port`, with `zone`, `canary` and `weight` where they are not the default.
fn check(yaml: &str, expected: &[&str]) -> Vec<Ignored> {
    let translation = translate(&slices(yaml), RULES, |_| false);
    let mut shown = Vec::new();
    for endpoint in translation.endpoints {
        let mut text = format!("{}:{}", endpoint.address, endpoint.port);
        if !endpoint.zone.is_empty() {
            text += &format!(" zone={}", endpoint.zone);
        }
        if endpoint.canary {
            text += " canary";
        }
        if endpoint.weight != 1 {
            text += &format!(" weight={}", endpoint.weight);
        }
        shown.push(text);
    }
    assert_eq!(shown, expected);
    translation.ignored
}

/// A slice of pods; `endpoints` is the YAML of the list.
fn pods(name: &str, more: &str, endpoints: &str) -> String {
    format!(
        "metadata: {{name: {name}, labels: {{kubernetes.io/service-name: pet}}{more}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n{endpoints}\n---\n"
    )
}

fn pod(address: &str, uid: &str, conditions: &str) -> String {
    format!(
        "- {{addresses: [{address}], conditions: {{{conditions}}}, targetRef: {{kind: Pod, uid: {uid}}}}}\n"
    )
}

const READY: &str = "ready: true, serving: true, terminating: false";
const UNREADY: &str = "ready: false, serving: false, terminating: false";
const LEAVING: &str = "ready: false, serving: true, terminating: true";
const GONE: &str = "ready: false, serving: false, terminating: true";

#[test]
fn the_union_of_all_slices_sorted_by_address() {
    let a = pods("pet-b", "", &(pod("10.0.0.9", "p9", READY) + &pod("10.0.0.10", "p10", READY)));
    let b = pods("pet-a", "", &pod("10.0.0.2", "p2", READY));
    check(&(a + &b), &["10.0.0.2:10000", "10.0.0.9:10000", "10.0.0.10:10000"]);
}

#[test]
fn absent_conditions_mean_ready() {
    check(
        &pods("pet-a", "", "- {addresses: [10.0.0.1], targetRef: {kind: Pod, uid: a}}"),
        &["10.0.0.1:10000"],
    );
}

#[test]
fn only_ready_endpoints_while_there_are_any() {
    let all = pod("10.0.0.1", "a", READY) + &pod("10.0.0.2", "b", UNREADY) + &pod("10.0.0.3", "c", LEAVING);
    check(&pods("pet-a", "", &all), &["10.0.0.1:10000"]);
}

#[test]
fn the_last_pods_serve_while_they_leave() {
    let all = pod("10.0.0.1", "a", UNREADY) + &pod("10.0.0.2", "b", GONE) + &pod("10.0.0.3", "c", LEAVING);
    check(&pods("pet-a", "", &all), &["10.0.0.3:10000"]);
}

#[test]
fn a_terminating_pod_that_is_published_as_ready_is_ready() {
    check(
        &pods("pet-a", "", &pod("10.0.0.1", "a", "ready: true, serving: true, terminating: true")),
        &["10.0.0.1:10000"],
    );
}

#[test]
fn a_pod_that_moves_between_slices_is_judged_by_the_later_one() {
    let at = |second: &str| format!(", annotations: {{{LAST_CHANGE}: \"2026-11-21T04:35:{second}Z\"}}");
    let old = pods("pet-b", &at("10"), &pod("10.0.0.1", "a", READY));
    let new = pods("pet-a", &at("10.5"), &pod("10.0.0.1", "a", UNREADY));
    check(&(old.clone() + &new), &[]);
    let new = pods("pet-a", &at("09"), &pod("10.0.0.1", "a", UNREADY));
    check(&(old + &new), &["10.0.0.1:10000"]);
}

#[test]
fn an_address_that_is_used_again_belongs_to_the_ready_pod_whatever_the_age() {
    let at = |second: &str| format!(", annotations: {{{LAST_CHANGE}: \"2026-11-21T04:35:{second}Z\"}}");
    let ghost = pods("pet-a", &at("30"), &pod("10.0.0.1", "old", LEAVING));
    let real = pods("pet-b", &at("10"), &pod("10.0.0.1", "new", READY));
    check(&(ghost + &real), &["10.0.0.1:10000"]);
}

#[test]
fn only_pods_with_a_sidecar_get_its_port() {
    let manual = "metadata: {name: pet-a}\nports: [{name: zz, port: 9000}, {name: http, port: 8080}]\n\
                  endpoints: [{addresses: [10.0.0.1]}]\n---\n";
    let label = (", petmesh.dev/sidecar: \"false\"}}\nadd", "}}\nadd");
    let without = pods("pet-b", "", &pod("10.0.0.2", "b", READY)).replace(label.1, label.0);
    let with = pods("pet-c", "", &pod("10.0.0.3", "c", READY));
    check(&(manual.to_owned() + &without + &with), &["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:10000"]);
}

#[test]
fn an_endpoint_without_any_port_is_ignored_and_told() {
    let ignored = check("metadata: {name: pet-a}\nports: null\nendpoints: [{addresses: [10.0.0.1]}]\n", &[]);
    assert_eq!((ignored[0].slice.as_str(), ignored[0].value.as_str()), ("shop/pet-a", "10.0.0.1"));
}

#[test]
fn slices_without_tcp_and_with_host_names_are_skipped() {
    let udp = "metadata: {name: pet-a}\nports: [{name: dns, protocol: UDP, port: 53}]\n\
               endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod}}]\n---\n";
    let fqdn = "metadata: {name: pet-b}\naddressType: FQDN\nendpoints: [{addresses: [pet.example]}]\n---\n";
    check(&(udp.to_owned() + fqdn), &[]);
}

#[test]
fn ipv6_counts_only_where_there_is_no_ipv4() {
    let six = "metadata: {name: pet-6}\naddressType: IPv6\nports: []\n\
               endpoints: [{addresses: [\"fd00::1\"], targetRef: {kind: Pod, uid: a}}]\n---\n";
    check(six, &["fd00::1:10000"]);
    check(&(six.to_owned() + &pods("pet-4", "", &pod("10.0.0.1", "a", READY))), &["10.0.0.1:10000"]);
    check(&(six.to_owned() + "metadata: {name: pet-4}\naddressType: IPv4\nendpoints: null\n---\n"), &[]);
}

#[test]
fn the_address_family_can_be_chosen() {
    let slice = |name: &str, kind: &str, address: &str| {
        format!(
            "metadata: {{name: {name}}}\naddressType: {kind}\nports: []\n\
             endpoints: [{{addresses: [\"{address}\"], targetRef: {{kind: Pod, uid: a}}}}]\n---\n"
        )
    };
    let (four, six) = (slice("pet-4", "IPv4", "10.0.0.1"), slice("pet-6", "IPv6", "fd00::1"));
    let of = |yaml: &str, family| -> Vec<String> {
        let made = translate(&slices(yaml), Rules { family, ..RULES }, |_| false);
        made.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    };
    for (yaml, auto, ipv4, ipv6) in [
        (four.clone(), vec!["10.0.0.1"], vec!["10.0.0.1"], vec![]),
        (six.clone(), vec!["fd00::1"], vec![], vec!["fd00::1"]),
        (four + &six, vec!["10.0.0.1"], vec!["10.0.0.1"], vec!["fd00::1"]),
    ] {
        let found = [Family::Auto, Family::Ipv4, Family::Ipv6].map(|family| of(&yaml, family));
        assert_eq!(found, [auto, ipv4, ipv6], "{yaml}");
    }
}

#[test]
fn options_and_zones_reach_the_endpoints() {
    let options = ", annotations: {petmesh.dev/weight: \"7\", petmesh.dev/canary: \"true\"}";
    let endpoints = "- {addresses: [10.0.0.1], zone: zone-a, targetRef: {kind: Pod, uid: a}}";
    let ignored = check(&pods("pet-a", options, endpoints), &["10.0.0.1:10000 zone=zone-a canary weight=7"]);
    assert_eq!(ignored, []);
}

#[test]
fn an_option_may_be_a_label_of_the_service_and_an_annotation_wins() {
    let labelled = |more: &str| {
        pods("pet-a", more, &pod("10.0.0.1", "a", READY)).replace("pet}", "pet, petmesh.dev/weight: \"3\"}")
    };
    check(&labelled(""), &["10.0.0.1:10000 weight=3"]);
    check(&labelled(", annotations: {petmesh.dev/weight: \"9\"}"), &["10.0.0.1:10000 weight=9"]);
}

#[test]
fn bad_values_are_ignored_and_told() {
    let options = ", annotations: {petmesh.dev/weight: \"0\", petmesh.dev/canary: \"yes\"}";
    let endpoints = pod("10.0.0.1", "a", READY) + &pod("10.0.0", "b", READY) + "- {addresses: []}\n";
    let ignored = check(&pods("pet-a", options, &endpoints), &["10.0.0.1:10000"]);
    let whats: Vec<_> = ignored.iter().map(|one| (one.what.as_str(), one.value.as_str())).collect();
    assert_eq!(whats, [("petmesh.dev/weight", "0"), ("petmesh.dev/canary", "yes"), ("address", "10.0.0")]);
}

#[test]
fn a_slice_belongs_to_its_label_else_its_owner_else_nobody() {
    let of = |metadata: &str| {
        let slice = &slices(&format!("metadata: {{name: x{metadata}}}"))[0];
        service_of(slice).map(str::to_owned)
    };
    let owner = ", ownerReferences: [{kind: Job, name: j}, {kind: Service, name: pet}]";
    assert_eq!(
        of(", labels: {kubernetes.io/service-name: shop}, ownerReferences: []").as_deref(),
        Some("shop")
    );
    assert_eq!(of(owner).as_deref(), Some("pet"));
    assert_eq!(of(""), None);
}

/// Few addresses, pods and times, so that collisions are the rule.
fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let flag = || prop::option::of(any::<bool>());
    let endpoint = (0..4u8, 0..3u8, flag(), flag(), flag(), 0..3u8, any::<bool>());
    let slice = (0..5u8, 0..4u8, prop::collection::vec(endpoint, 0..5), 0..3u8, prop::option::of(0..3u16));
    slice.prop_map(|(name, second, endpoints, family, port)| {
        let mut slice = EndpointSlice::default();
        slice.metadata.name = format!("pet-{name}");
        slice.metadata.resource_version = (name % 2).to_string();
        if second > 0 {
            slice.metadata.annotations.insert(LAST_CHANGE.into(), format!("2026-11-21T04:35:0{second}Z"));
        }
        slice.address_type = if family == 0 { AddressType::IPv6 } else { AddressType::IPv4 };
        slice.ports = port
            .map(|port| SlicePort { port: Some(8080 + port), ..SlicePort::default() })
            .into_iter()
            .collect();
        let prefix = if family == 0 { "fd00::" } else { "10.0.0." };
        slice.endpoints = endpoints
            .into_iter()
            .map(|(address, uid, ready, serving, terminating, zone, is_pod)| SliceEndpoint {
                addresses: vec![format!("{prefix}{address}")],
                conditions: Conditions { ready, serving, terminating },
                target_ref: is_pod.then(|| TargetRef {
                    kind: Some("Pod".into()),
                    uid: (uid > 0).then(|| format!("uid-{uid}")),
                }),
                zone: (zone > 0).then(|| format!("zone-{zone}")),
            })
            .collect();
        slice
    })
}

/// Slices and endpoints within them in one order and in another.
fn permuted() -> impl Strategy<Value = (Vec<EndpointSlice>, Vec<EndpointSlice>)> {
    prop::collection::vec(any_slice(), 0..6).prop_flat_map(|slices| {
        let mut turned = slices.clone();
        for slice in &mut turned {
            slice.endpoints.reverse();
        }
        (Just(slices), Just(turned).prop_shuffle())
    })
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter((slices, shuffled) in permuted()) {
        prop_assert_eq!(translate(&slices, RULES, |_| false).endpoints, translate(&shuffled, RULES, |_| false).endpoints);
    }

    #[test]
    fn places_are_sorted_and_unique(slices in prop::collection::vec(any_slice(), 0..6)) {
        let endpoints = translate(&slices, RULES, |_| false).endpoints;
        prop_assert!(endpoints.windows(2).all(|two| (two[0].address, two[0].port) < (two[1].address, two[1].port)));
    }

    #[test]
    fn nothing_is_routable_that_no_slice_calls_ready_or_serving(slices in prop::collection::vec(any_slice(), 0..6)) {
        for endpoint in translate(&slices, RULES, |_| false).endpoints {
            let listed = slices.iter().flat_map(|slice| &slice.endpoints).any(|one| {
                one.addresses[0].parse() == Ok(endpoint.address)
                    && (one.conditions.ready() || (one.conditions.serving() && one.conditions.terminating()))
            });
            prop_assert!(listed, "{} came from nowhere", endpoint.address);
        }
    }
}
