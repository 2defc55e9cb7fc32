//! Which endpoints are kept while none is ready: examples, and the law against a model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::translate::{Family, Health};

const TIME: Duration = Duration::from_secs(300);
const S: Duration = Duration::from_secs(1);

/// What a slice says of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Ready,
    Unready,
    /// Terminating and still serving.
    Leaving,
    /// Terminating, no longer serving.
    Ending,
    /// Terminating, of a Service with `publishNotReadyAddresses`.
    Published,
}

use Condition::{Ending, Leaving, Published, Ready, Unready};

impl Condition {
    fn ready(self) -> bool {
        matches!(self, Ready | Published)
    }

    fn terminating(self) -> bool {
        matches!(self, Leaving | Ending | Published)
    }

    fn json(self) -> Value {
        let serving = matches!(self, Ready | Leaving | Published);
        json!({ "ready": self.ready(), "serving": serving, "terminating": self.terminating() })
    }
}

/// Address, and `targetRef.uid` unless it is empty.
type Named = (String, String);

fn slice_of(name: &str, pods: &[(Named, Condition)]) -> EndpointSlice {
    let six = pods.iter().any(|((address, _), _)| address.contains(':'));
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|((address, uid), condition)| {
            let uid = Some(uid).filter(|uid| !uid.is_empty());
            json!({
                "addresses": [address],
                "conditions": condition.json(),
                "targetRef": { "kind": "Pod", "uid": uid },
            })
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": "pet" } },
        "addressType": if six { "IPv6" } else { "IPv4" },
        "ports": [{ "port": 80 }],
        "endpoints": endpoints,
    }))
    .unwrap()
}

/// A writer at work, on a clock that a test moves.
struct Pet {
    writer: Writer,
    reader: Reader,
    now: Instant,
    events: Vec<FailStatic>,
}

impl Pet {
    fn new(time: Duration) -> Self {
        let rules = Rules { envoy_port: 10000, family: Family::Auto };
        let (mut writer, reader) = Writer::new(rules, time);
        let now = Instant::now();
        writer.replace(BTreeMap::new(), now);
        Self { writer, reader, now, events: Vec::new() }
    }

    /// Sets one slice to these pods: address, uid, condition.
    fn put(&mut self, name: &str, pods: &[(&str, &str, Condition)]) -> &mut Self {
        let pods: Vec<_> = pods
            .iter()
            .map(|(address, uid, condition)| (((*address).to_owned(), (*uid).to_owned()), *condition))
            .collect();
        self.writer.put(slice_of(name, &pods));
        self.publish()
    }

    fn publish(&mut self) -> &mut Self {
        let transitions = self.writer.publish(self.now);
        self.events.extend(transitions.into_iter().map(|transition| transition.event));
        self
    }

    /// As the watch does: publishes whenever something expires on the way.
    fn pass(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while let Some(expiry) = self.writer.next_expiry().filter(|expiry| *expiry <= end) {
            assert!(expiry > self.now, "an expiry that is over leads to no pause");
            self.now = expiry;
            self.publish();
        }
        self.now = end;
        self
    }

    fn endpoints(&self) -> Vec<(String, Health)> {
        let catalog = self.reader.borrow().clone().expect("synced");
        let Some(cluster) = catalog.get("pet.shop") else { return Vec::new() };
        cluster.endpoints.iter().map(|one| (one.address.to_string(), one.health)).collect()
    }

    /// Addresses; `!` marks those that are kept.
    fn check(&mut self, expected: &[&str]) -> &mut Self {
        let mark = |health| if health == Health::Unhealthy { "!" } else { "" };
        let shown: Vec<String> =
            self.endpoints().iter().map(|(address, health)| format!("{address}{}", mark(*health))).collect();
        assert_eq!(shown, expected);
        self
    }
}

#[test]
fn when_all_pods_are_called_unready_at_once_all_stay() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready), ("10.0.0.2", "b", Ready)]);
    let before = pet.reader.borrow().as_ref().unwrap().get("pet.shop").unwrap().version.clone();
    pet.put("pet-1", &[("10.0.0.1", "a", Unready), ("10.0.0.2", "b", Unready)]);
    pet.check(&["10.0.0.1!", "10.0.0.2!"]);
    let after = pet.reader.borrow().as_ref().unwrap().get("pet.shop").unwrap().version.clone();
    assert_eq!(before, after, "a v1 response is the same, so its tag is");
    pet.pass(31 * S).put("pet-1", &[("10.0.0.1", "a", Ready), ("10.0.0.2", "b", Unready)]);
    pet.check(&["10.0.0.1"]);
    assert_eq!(pet.events, [FailStatic::Began(2), FailStatic::Recovered]);
}

#[test]
fn when_they_are_called_unready_one_by_one_the_last_brings_the_others_back() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready)]).put("pet-2", &[("10.0.0.2", "b", Ready)]);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready)]).check(&["10.0.0.2"]);
    pet.pass(10 * S).put("pet-2", &[("10.0.0.2", "b", Unready)]).check(&["10.0.0.1!", "10.0.0.2!"]);
}

#[test]
fn it_ends_when_the_time_is_over_for_each_pod_of_its_own() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready), ("10.0.0.2", "b", Ready)]);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready), ("10.0.0.2", "b", Ready)]).pass(100 * S);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready), ("10.0.0.2", "b", Unready)]);
    pet.pass(199 * S).check(&["10.0.0.1!", "10.0.0.2!"]);
    pet.pass(S).check(&["10.0.0.2!"]);
    pet.pass(99 * S).check(&["10.0.0.2!"]);
    pet.pass(S).check(&[]);
    assert_eq!(pet.events, [FailStatic::Began(2), FailStatic::Expired]);
    assert_eq!(pet.writer.next_expiry(), None);
}

#[test]
fn pods_that_were_never_ready_are_not_kept() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready)]).check(&[]);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready), ("10.0.0.2", "b", Ready)]);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready), ("10.0.0.2", "b", Unready)]).check(&["10.0.0.2!"]);
}

#[test]
fn scaling_to_none_empties_the_service_at_once() {
    let both = [("10.0.0.1", "a", Ready), ("10.0.0.2", "b", Ready)];
    Pet::new(TIME).put("pet-1", &both).put("pet-1", &[]).check(&[]);
    let mut deleted = Pet::new(TIME);
    deleted.put("pet-1", &both).writer.remove(&key("pet-1"));
    deleted.publish().check(&[]);
    assert_eq!(deleted.events, []);
}

#[test]
fn terminating_pods_serve_while_they_do_and_are_not_kept_after_it() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready)]);
    pet.put("pet-1", &[("10.0.0.1", "a", Leaving)]).check(&["10.0.0.1"]);
    pet.put("pet-1", &[("10.0.0.1", "a", Ending)]).check(&[]);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready)]).check(&[]);
    assert_eq!(pet.events, []);
}

#[test]
fn pods_that_are_deleted_meanwhile_go_and_those_that_replace_them_come_when_they_are_ready() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready), ("10.0.0.2", "b", Ready)]);
    pet.put("pet-1", &[("10.0.0.1", "a", Unready), ("10.0.0.2", "b", Unready)]);
    pet.put("pet-1", &[("10.0.0.2", "b", Unready), ("10.0.0.3", "c", Unready)]).check(&["10.0.0.2!"]);
    pet.put("pet-1", &[("10.0.0.2", "b", Unready), ("10.0.0.3", "c", Ready)]).check(&["10.0.0.3"]);
    let mut gone = Pet::new(TIME);
    gone.put("pet-1", &[("10.0.0.1", "a", Ready)]).put("pet-1", &[("10.0.0.1", "a", Unready)]);
    gone.put("pet-1", &[("10.0.0.3", "c", Unready)]).check(&[]);
    assert_eq!(gone.events, [FailStatic::Began(1), FailStatic::Gone]);
}

#[test]
fn an_address_with_another_uid_or_none_is_another_pod() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready)]).put("pet-1", &[("10.0.0.1", "b", Unready)]).check(&[]);
    let mut moved = Pet::new(TIME);
    moved.put("pet-1", &[("10.0.0.1", "a", Ready)]).put("pet-1", &[("10.0.0.2", "a", Unready)]).check(&[]);
    let mut nameless = Pet::new(TIME);
    nameless.put("pet-1", &[("10.0.0.1", "", Ready)]).put("pet-1", &[("10.0.0.1", "", Unready)]).check(&[]);
    let mut ghost = Pet::new(TIME);
    ghost.put("pet-1", &[("10.0.0.1", "b", Ready)]).put("pet-2", &[("10.0.0.1", "z", Ending)]);
    ghost.put("pet-1", &[("10.0.0.1", "b", Unready)]).check(&["10.0.0.1!"]);
}

#[test]
fn both_families_of_a_dual_stack_service_are_kept_as_one() {
    let six = [("fd00::1", "a", Ready)];
    let mut pet = Pet::new(TIME);
    pet.put("pet-6", &six).put("pet-4", &[("10.0.0.1", "a", Ready)]).check(&["10.0.0.1"]);
    pet.put("pet-6", &[("fd00::1", "a", Unready)]).check(&["10.0.0.1"]);
    pet.put("pet-4", &[("10.0.0.1", "a", Unready)]).check(&["10.0.0.1!"]);
    let mut only = Pet::new(TIME);
    only.put("pet-6", &six).put("pet-6", &[("fd00::1", "a", Unready)]).check(&["fd00::1!"]);
}

#[test]
fn a_list_after_an_outage_of_the_api_server_remembers_what_was_ready() {
    let mut pet = Pet::new(TIME);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready)]).pass(90 * S);
    let pods = [((String::from("10.0.0.1"), String::from("a")), Unready)];
    pet.writer.replace(whole(&[slice_of("pet-1", &pods)]), pet.now);
    pet.check(&["10.0.0.1!"]);
}

#[test]
fn a_process_that_started_meanwhile_has_seen_nothing_ready() {
    let mut pet = Pet::new(TIME);
    let pods = [((String::from("10.0.0.1"), String::from("a")), Unready)];
    pet.writer.replace(whole(&[slice_of("pet-1", &pods)]), pet.now);
    pet.check(&[]);
}

#[test]
fn no_time_at_all_switches_it_off() {
    let mut pet = Pet::new(Duration::ZERO);
    pet.put("pet-1", &[("10.0.0.1", "a", Ready)]).put("pet-1", &[("10.0.0.1", "a", Unready)]).check(&[]);
    assert_eq!(pet.events, []);
}

/// A pod is named by at most one slice at a time, and may move between slices.
type State = BTreeMap<Named, (u8, Condition)>;

/// A pod by address and uid, and its slice with its condition; none when it goes.
type Change = (u8, u8, Option<(u8, Condition)>);

#[derive(Clone, Debug)]
enum Op {
    /// Several pods change in one publication.
    Change(Vec<Change>),
    Pass(u16),
    /// Everything is listed anew.
    List,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // Of each kind often enough that states of all pods unready are common.
    let condition = prop_oneof![
        3 => Just(Ready), 9 => Just(Unready), 1 => Just(Leaving), 1 => Just(Ending), 1 => Just(Published)
    ];
    let there = prop::option::weighted(0.95, (0..3u8, condition));
    let change = prop::collection::vec((0..3u8, 0..3u8, there), 1..4);
    let op = prop_oneof![5 => change.prop_map(Op::Change), 2 => (0..200u16).prop_map(Op::Pass), 1 => Just(Op::List)];
    prop::collection::vec(op, 1..40)
}

fn slices(state: &State) -> BTreeMap<SliceKey, EndpointSlice> {
    let mut pods: BTreeMap<u8, Vec<(Named, Condition)>> = BTreeMap::new();
    for (named, (slice, condition)) in state {
        pods.entry(*slice).or_default().push((named.clone(), *condition));
    }
    pods.into_iter()
        .map(|(slice, pods)| slice_of(&format!("pet-{slice}"), &pods))
        .map(|s| (s.key(), s))
        .collect()
}

/// The law, read from the whole past: the states with their times, the newest last.
fn expected(past: &[(Instant, State)], now: Instant, time: Duration) -> BTreeSet<(String, Health)> {
    let (_, current) = past.last().expect("a state");
    let healthy = |wanted: fn(Condition) -> bool| -> BTreeSet<(String, Health)> {
        let pods = current.iter().filter(|(_, (_, condition))| wanted(*condition));
        pods.map(|((address, _), _)| (address.clone(), Health::Healthy)).collect()
    };
    let ready = healthy(Condition::ready);
    if !ready.is_empty() {
        return ready;
    }
    let leaving = healthy(|condition| condition == Leaving);
    if !leaving.is_empty() {
        return leaving;
    }
    let was_ready = |pod: &Named| {
        let mut unready_since = now;
        for (when, state) in past.iter().rev() {
            match state.get(pod) {
                Some((_, condition)) if condition.ready() => return now - unready_since < time,
                Some((_, condition)) if !condition.terminating() => unready_since = *when,
                _ => return false,
            }
        }
        false
    };
    let kept = current.keys().filter(|pod| !pod.1.is_empty() && was_ready(pod));
    kept.map(|(address, _)| (address.clone(), Health::Unhealthy)).collect()
}

proptest! {
    #[test]
    fn what_is_given_out_follows_from_the_past_alone(ops in ops(), seconds in prop_oneof![1 => Just(0u64), 9 => Just(300)]) {
        let time = Duration::from_secs(seconds);
        let mut pet = Pet::new(time);
        let mut past: Vec<(Instant, State)> = vec![(pet.now, State::new())];
        for op in ops {
            let mut state = past.last().unwrap().1.clone();
            match op {
                Op::Change(changes) => {
                    for (address, uid, there) in changes {
                        let uid = if uid == 0 { String::new() } else { format!("u{uid}") };
                        let named = (format!("10.0.0.{address}"), uid);
                        match there {
                            Some(there) => state.insert(named, there),
                            None => state.remove(&named),
                        };
                    }
                    let (before, after) = (pet.writer.slices().clone(), slices(&state));
                    before.keys().filter(|key| !after.contains_key(key)).for_each(|key| pet.writer.remove(key));
                    after.into_values().for_each(|slice| pet.writer.put(slice));
                    pet.publish();
                }
                Op::Pass(seconds) => { pet.pass(Duration::from_secs(seconds.into())); }
                Op::List => {
                    let transitions = pet.writer.replace(slices(&state), pet.now);
                    pet.events.extend(transitions.into_iter().map(|transition| transition.event));
                }
            }
            past.push((pet.now, state));
            let found: BTreeSet<_> = pet.endpoints().into_iter().collect();
            prop_assert_eq!(&found, &expected(&past, pet.now, time));
            // Between a beginning and the next there is one end.
            let kept = found.iter().any(|(_, health)| *health == Health::Unhealthy);
            let began = |event: &FailStatic| matches!(event, FailStatic::Began(_));
            prop_assert!(pet.events.windows(2).all(|two| began(&two[0]) != began(&two[1])), "{:?}", pet.events);
            prop_assert_eq!(pet.events.last().is_some_and(began), kept);
            prop_assert_eq!(pet.writer.next_expiry().is_some(), kept);
        }
    }
}
