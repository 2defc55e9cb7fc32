//! Outlier detection over minutes and hours of imagined time, and its limit under every order of events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::affinity::Criteria;
use crate::cluster::balancer::{self, Cursor, Method, Wanted};
use crate::cluster::flags::HealthFlag;
use crate::cluster::hashing::{TableKind, TableRules};
use crate::cluster::pool::{Layout, Pool};
use crate::cluster::subsets::{Counts, Localities, Selector, Subset, SubsetRules};
use crate::cluster::{Endpoint, EndpointView, LbMetadata, Locality};
use crate::stats::{Counter, OutlierStats, Registry};

/// Envoy's defaults, but that all hosts may go.
fn settings() -> Settings {
    Settings {
        consecutive_5xx: 5,
        consecutive_gateway_failure: 5,
        consecutive_local_origin_failure: 5,
        split: false,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 100,
        always_eject_one_host: false,
        success_rate_minimum_hosts: 5,
        success_rate_request_volume: 100,
        success_rate_stdev_factor: 1900,
        failure_percentage_threshold: 85,
        failure_percentage_minimum_hosts: 5,
        failure_percentage_request_volume: 50,
        enforcing: Enforcing {
            consecutive_5xx: 100,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 100,
            success_rate: 100,
            local_origin_success_rate: 100,
            failure_percentage: 0,
            local_origin_failure_percentage: 0,
        },
        health_check_unejects: true,
    }
}

/// A cluster with a clock of its own.
struct Cluster {
    view: EndpointView,
    ejections: Arc<Ejections>,
    policy: Arc<Policy>,
    detector: Detector,
    now: Instant,
    /// What every draw of a chance says.
    chance: u64,
}

impl Cluster {
    fn new(hosts: u16, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let endpoints: Vec<_> = (1..=hosts).map(endpoint).collect();
        let view = EndpointView::empty(2).update(&endpoints, String::new());
        let policy = Arc::new(Policy::new(settings, Registry::new(2).scope("outlier.")));
        let now = crate::time::now();
        let mut detector = Detector::new(Arc::clone(&policy), now);
        detector.follow(view.hosts.iter().map(|host| (host.address, &host.stats)));
        let ejections = Arc::clone(&view.hosts[0].stats.ejection.cluster);
        Self { view, ejections, policy, detector, now, chance: 0 }
    }

    /// Workers see the same thing of a host, many times.
    fn see(&mut self, host: u16, seen: Seen, times: usize) {
        for worker in (0..2).cycle().take(times) {
            let stats = &self.view.hosts[usize::from(host) - 1].stats;
            let crossed = observe(&self.policy.settings, stats, worker, seen);
            let chance = self.chance;
            for kind in crossed.into_iter().flatten() {
                if eject(&self.policy, stats, kind, worker, &mut |_| chance) {
                    self.detector.ejected(address(host), self.now, &mut |_| chance);
                }
            }
        }
    }

    /// Lets the end of an interval come.
    fn sweep(&mut self) {
        self.now += self.policy.settings.interval;
        let chance = self.chance;
        self.detector.sweep(self.now, &mut |_| chance, 2);
    }

    /// How many hosts count as ejected against the limit.
    fn ejected(&self) -> u64 {
        self.ejections.counts.load(Relaxed) & LOWER
    }

    fn is_out(&self, host: u16) -> bool {
        self.view.hosts[usize::from(host) - 1].flags().has(HealthFlag::FailedOutlierCheck)
    }

    fn count(&self, counter: impl Fn(&OutlierStats) -> &Counter) -> u64 {
        self.policy.stats.shards().map(|stats| counter(stats).get()).sum()
    }

    /// How many intervals a host that is out stays so.
    fn intervals_out(&mut self, host: u16) -> usize {
        let mut intervals = 0;
        while self.is_out(host) {
            self.sweep();
            intervals += 1;
        }
        intervals
    }
}

fn endpoint(host: u16) -> Endpoint {
    Endpoint::new(address(host))
}

fn address(host: u16) -> SocketAddr {
    ([127, 0, 0, 1], host).into()
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.see(1, Seen::Response(500), 4);
    cluster.see(1, Seen::Response(404), 1);
    cluster.see(1, Seen::Response(500), 4);
    assert!(!cluster.is_out(1));
    cluster.see(1, Seen::Failed, 1);
    assert!(cluster.is_out(1));
    assert_eq!(cluster.count(|stats| &stats.ejections_enforced_consecutive_5xx), 1);
    assert_eq!(cluster.count(|stats| &stats.ejections_total), 1);
    // Nothing more is detected of a host that is out.
    cluster.see(1, Seen::Response(500), 9);
    assert_eq!(cluster.count(|stats| &stats.ejections_detected_consecutive_5xx), 1);
}

#[test]
fn a_detection_while_the_host_is_claimed_for_another_is_made_up_for_and_counts_once() {
    let mut cluster = Cluster::new(3, |_| {});
    let stats = Arc::clone(&cluster.view.hosts[0].stats);
    cluster.see(1, Seen::Response(500), 4);
    assert!(stats.ejection.change(IN, CLAIMED));
    cluster.see(1, Seen::Response(500), 1);
    assert!(stats.ejection.change(CLAIMED, IN));
    assert!(!cluster.is_out(1));
    // Two workers see one failure more each, before either ejects.
    let settings = cluster.policy.settings;
    let seen = [0, 1].map(|worker| observe(&settings, &stats, worker, Seen::Response(500))[1]);
    let ejected = seen.map(|kind| eject(&cluster.policy, &stats, kind.unwrap(), 0, &mut |_| 0));
    assert_eq!(ejected, [true, false]);
    assert!(cluster.is_out(1));
    assert_eq!(cluster.count(|stats| &stats.ejections_detected_consecutive_5xx), 1);
    // A detection that is not enforced is not repeated by who saw the same row.
    assert!(stats.ejection.uneject());
    stats.tally.restart_all();
    for _ in 0..4 {
        observe(&settings, &stats, 0, Seen::Response(500));
    }
    let seen = [0, 1].map(|worker| observe(&settings, &stats, worker, Seen::Response(500))[1]);
    let mut unenforced = settings;
    unenforced.enforcing.consecutive_5xx = 0;
    let policy = Policy::new(unenforced, Arc::clone(&cluster.policy.stats));
    for kind in seen {
        eject(&policy, &stats, kind.unwrap(), 0, &mut |_| 0);
    }
    assert_eq!(cluster.count(|stats| &stats.ejections_detected_consecutive_5xx), 2);
}

#[test]
fn each_ejection_lasts_longer_than_the_one_before_and_quiet_times_shorten_it() {
    let mut cluster = Cluster::new(3, |settings| settings.max_ejection_time = Duration::from_secs(80));
    let mut lasted = Vec::new();
    for _ in 0..4 {
        cluster.see(2, Seen::Response(503), 5);
        lasted.push(cluster.intervals_out(2));
    }
    assert_eq!(lasted, [3, 6, 8, 8]);
    // Each quiet interval takes one step back.
    (0..3).for_each(|_| cluster.sweep());
    cluster.see(2, Seen::Response(503), 5);
    assert_eq!(cluster.intervals_out(2), 6);
}

#[test]
fn a_random_time_is_added_to_an_ejection() {
    let mut cluster = Cluster::new(3, |settings| settings.max_ejection_time_jitter = Duration::from_secs(40));
    cluster.see(1, Seen::Response(500), 4);
    let stats = &cluster.view.hosts[0].stats;
    let [_, kind] = observe(&cluster.policy.settings, stats, 0, Seen::Response(500));
    let now = cluster.now;
    let mut jitter = |bound: u64| if bound > 100 { 20_000 } else { 0 };
    assert!(eject(&cluster.policy, stats, kind.unwrap(), 0, &mut jitter));
    assert!(cluster.detector.ejected(address(1), now, &mut jitter));
    assert_eq!(cluster.intervals_out(1), 5);
}

#[test]
fn no_more_than_a_share_of_the_hosts_is_out() {
    let mut cluster = Cluster::new(10, |settings| settings.max_ejection_percent = 25);
    (1..=10).for_each(|host| cluster.see(host, Seen::Response(500), 5));
    assert_eq!(cluster.detector.count(), 2);
    assert_eq!(cluster.count(|stats| &stats.ejections_overflow), 8);
}

#[test]
fn one_host_of_a_few_goes_only_where_the_file_says_so() {
    for (always, out) in [(false, 0), (true, 1)] {
        let mut cluster = Cluster::new(3, |settings| {
            settings.max_ejection_percent = 10;
            settings.always_eject_one_host = always;
        });
        (1..=3).for_each(|host| cluster.see(host, Seen::Response(500), 5));
        assert_eq!(cluster.detector.count(), out);
    }
}

#[test]
fn what_is_detected_and_not_enforced_changes_nothing() {
    let mut cluster = Cluster::new(2, |settings| settings.enforcing.consecutive_5xx = 40);
    cluster.chance = 40;
    cluster.see(1, Seen::Response(500), 10);
    assert!(!cluster.is_out(1));
    assert_eq!(cluster.count(|stats| &stats.ejections_detected_consecutive_5xx), 2);
    assert_eq!(cluster.count(|stats| &stats.ejections_enforced_total), 0);
    cluster.chance = 39;
    cluster.see(1, Seen::Response(500), 5);
    assert!(cluster.is_out(1));
}

#[test]
fn gateway_failures_are_three_statuses_and_what_happens_without_a_response() {
    let mut cluster = Cluster::new(2, |settings| {
        settings.consecutive_5xx = 100;
        settings.enforcing.consecutive_gateway_failure = 100;
    });
    cluster.see(1, Seen::Response(502), 4);
    cluster.see(1, Seen::Response(500), 1);
    cluster.see(1, Seen::Response(504), 3);
    cluster.see(1, Seen::Failed, 1);
    assert!(!cluster.is_out(1));
    cluster.see(1, Seen::Timeout(504), 1);
    assert!(cluster.is_out(1));
    assert_eq!(cluster.count(|stats| &stats.ejections_enforced_consecutive_gateway_failure), 1);
    assert_eq!(cluster.count(|stats| &stats.ejections_total), 0);
}

#[test]
fn failures_without_a_response_are_counted_apart_where_the_file_says_so() {
    let mut cluster = Cluster::new(2, |settings| settings.split = true);
    cluster.see(1, Seen::Response(500), 4);
    cluster.see(1, Seen::Failed, 4);
    assert!(!cluster.is_out(1));
    cluster.see(1, Seen::Connected, 1);
    cluster.see(1, Seen::Timeout(504), 4);
    assert!(!cluster.is_out(1));
    cluster.see(1, Seen::Failed, 1);
    assert!(cluster.is_out(1));
    assert_eq!(cluster.count(|stats| &stats.ejections_enforced_consecutive_local_origin_failure), 1);
}

#[test]
fn a_success_rate_far_below_the_others_ejects_at_the_end_of_the_interval() {
    let mut cluster = Cluster::new(5, |settings| settings.consecutive_5xx = 1_000);
    (1..=4).for_each(|host| cluster.see(host, Seen::Response(200), 200));
    cluster.see(5, Seen::Response(200), 100);
    cluster.see(5, Seen::Response(500), 100);
    cluster.sweep();
    assert!(cluster.is_out(5));
    assert_eq!(cluster.detector.count(), 1);
    // Of 100, 100, 100, 100 and 50: the mean is 90, the standard deviation 20.
    let [averages, local_origin] = &cluster.policy.averages;
    assert!((averages.mean.get() - 90.0).abs() < 1e-9 && (averages.threshold.get() - 52.0).abs() < 1e-9);
    assert!((local_origin.mean.get() + 1.0).abs() < 1e-9);
    assert!((cluster.view.hosts[4].stats.tally.success_rate.get() - 50.0).abs() < 1e-9);
    assert_eq!(cluster.count(|stats| &stats.ejections_enforced_success_rate), 1);
    // An interval without requests says nothing.
    cluster.sweep();
    assert!((cluster.policy.averages[0].mean.get() + 1.0).abs() < 1e-9);
}

#[test]
fn too_few_requests_or_hosts_make_no_success_rate() {
    for (hosts, requests) in [(4, 200), (5, 99)] {
        let mut cluster = Cluster::new(hosts, |settings| settings.consecutive_5xx = 1_000);
        (1..hosts).for_each(|host| cluster.see(host, Seen::Response(200), requests));
        cluster.see(hosts, Seen::Response(500), requests);
        cluster.sweep();
        assert_eq!(cluster.detector.count(), 0, "{hosts} hosts, {requests} requests");
    }
}

#[test]
fn too_high_a_failure_percentage_ejects_the_host() {
    let mut cluster = Cluster::new(5, |settings| {
        settings.consecutive_5xx = 1_000;
        settings.enforcing.success_rate = 0;
        settings.enforcing.failure_percentage = 100;
    });
    for (host, failures) in [(1, 90), (2, 85), (3, 84), (4, 0), (5, 0)] {
        cluster.see(host, Seen::Response(500), failures);
        cluster.see(host, Seen::Response(200), 100 - failures);
    }
    cluster.sweep();
    assert!(cluster.is_out(1) && cluster.is_out(2) && !cluster.is_out(3));
    assert_eq!(cluster.count(|stats| &stats.ejections_enforced_failure_percentage), 2);
}

#[test]
fn a_passed_health_check_ends_an_ejection_unless_the_file_says_no() {
    for unejects in [true, false] {
        let mut cluster = Cluster::new(2, |settings| settings.health_check_unejects = unejects);
        cluster.see(1, Seen::Response(500), 5);
        assert_eq!(cluster.detector.passed_health_check(address(1), cluster.now), unejects);
        assert_eq!(cluster.is_out(1), !unejects);
    }
}

#[test]
fn a_host_that_left_and_came_back_is_not_out() {
    let mut cluster = Cluster::new(2, |_| {});
    cluster.see(1, Seen::Response(500), 5);
    let endpoints: Vec<_> = (1..=2).map(endpoint).collect();
    cluster.view = cluster.view.update(&endpoints[1..], String::new());
    assert_eq!(cluster.ejected(), 0);
    cluster.view = cluster.view.update(&endpoints, String::new());
    cluster.detector.follow(cluster.view.hosts.iter().map(|host| (host.address, &host.stats)));
    assert!(!cluster.is_out(1) && !cluster.is_out(2));
}

/// What may happen to the hosts of a cluster, by their numbers.
#[derive(Clone, Debug)]
enum Step {
    Eject(usize),
    Return(usize),
    Members(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12_usize).prop_map(Step::Eject),
        2 => (0..12_usize).prop_map(Step::Return),
        1 => (0..12_usize).prop_map(Step::Members),
    ]
}

proptest! {
    #[test]
    fn an_ejection_never_passes_the_limit_and_its_end_gives_everything_back(
        percent in 0..=100_u32,
        always in any::<bool>(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut cluster = Cluster::new(12, |settings| {
            settings.max_ejection_percent = percent;
            settings.always_eject_one_host = always;
        });
        for step in steps {
            let hosts = cluster.view.hosts.clone();
            match step {
                Step::Eject(at) => {
                    let Some(host) = hosts.get(at) else { continue };
                    let before = cluster.ejected();
                    let was = host.flags().has(HealthFlag::FailedOutlierCheck);
                    host.stats.tally.consecutive_5xx.store(5, Relaxed);
                    let ejected = eject(&cluster.policy, &host.stats, Kind::Consecutive5xx, 0, &mut |_| 0);
                    let fits = 100 * (before + 1) <= u64::from(percent) * hosts.len() as u64;
                    prop_assert_eq!(ejected, !was && (fits || always && before == 0));
                }
                Step::Return(at) => {
                    hosts.get(at).map(|host| host.stats.ejection.uneject());
                }
                Step::Members(count) => {
                    let endpoints: Vec<_> = (1..=count).map(|host| endpoint(u16::try_from(host).unwrap())).collect();
                    cluster.view = cluster.view.update(&endpoints, String::new());
                }
            }
            let ejected = cluster.view.hosts.iter().filter(|host| host.stats.ejection.is_ejected()).count();
            prop_assert_eq!(cluster.ejected(), ejected as u64);
            let view = cluster.view.refreshed();
            let healthy = view.pool.priorities.iter().map(|level| level.healthy.len()).sum::<usize>();
            prop_assert_eq!(healthy, view.hosts.len() - ejected);
            cluster.view = view;
        }
        for host in &cluster.view.hosts {
            host.stats.ejection.uneject();
        }
        prop_assert_eq!((cluster.ejected(), cluster.view.healthy_count()), (0, cluster.view.hosts.len()));
    }
}

proptest! {
    /// The tables are those of before, until control has built new ones.
    #[test]
    fn picks_by_hash_pass_over_an_ejected_host_at_once(ring: bool, count in 4_u16..12, ill in 1_u16..5) {
        let murmur = TableKind::Ring { min: 1024, max: 2048, murmur: true };
        let kind = if ring { murmur } else { TableKind::Maglev { size: 1009 } };
        let rules = TableRules { kind, by_hostname: false };
        let layout = Arc::new(Layout { table: Some(rules), ..Layout::default() });
        let mut cluster = Cluster::new(count, |_| {});
        cluster.view = cluster.view.laid_out(&layout);
        let policy = balancer::Policy { method: Method::Hash { limit: None }, slow_start: None };
        let host = |view: &EndpointView, hash| {
            let wanted = Wanted { hash: Some(hash), ..Wanted::default() };
            let found = balancer::pick(view, policy, &mut Cursor::default(), &mut |_| 0, wanted, &mut Counts::default());
            found.unwrap().address
        };
        cluster.see(ill, Seen::Failed, 5);
        prop_assert!(cluster.is_out(ill));
        let lagging = cluster.view.refreshed();
        let mut random = fastrand::Rng::with_seed(7);
        for hash in std::iter::repeat_with(|| random.u64(..)).take(300) {
            let (before, now) = (host(&cluster.view, hash), host(&lagging, hash));
            prop_assert_ne!(now, address(ill));
            prop_assert!(before == now || before == address(ill));
        }
    }
}

proptest! {
    /// Subsets come to what a new view has; those without a host that was ejected or un-ejected are
    /// not made again.
    #[test]
    fn an_ejection_makes_anew_only_the_subsets_that_it_changes(
        hosts in prop::collection::vec((0_u16..4, 0_u32..3, 0_u8..2, any::<bool>()), 1..12),
        localities in prop_oneof![Just(Localities::Ignored), Just(Localities::Weighed), Just(Localities::Scaled)],
    ) {
        let metadata = |group: u16| Arc::new(LbMetadata::from([("group".to_owned(), group.into())]));
        let endpoints: Vec<Endpoint> = (1..).zip(&hosts).map(|(at, (group, priority, zone, _))| Endpoint {
            metadata: Some(metadata(*group)),
            priority: *priority,
            locality: Locality { zone: zone.to_string(), ..Locality::default() },
            locality_weight: 10,
            ..endpoint(at)
        }).collect();
        let selector = Selector { keys: vec!["group".to_owned()], single: false, fallback: None };
        let rules = Arc::new(SubsetRules { selectors: vec![selector], localities, ..SubsetRules::default() });
        let layout = Layout { localities: true, subsets: Some(Arc::clone(&rules)), ..Layout::default() };
        let layout = Arc::new(layout);
        let mut cluster = Cluster::new(u16::try_from(hosts.len()).unwrap(), |_| {});
        cluster.view = cluster.view.laid_out(&layout).update(&endpoints, String::new());
        let before = cluster.view.clone();
        for (at, _) in (1..).zip(&hosts).filter(|(_, (.., ejected))| *ejected) {
            cluster.see(at, Seen::Failed, 5);
        }
        let (refreshed, new) = (before.refreshed(), before.clone().laid_out(&layout));
        let of_group = |view: &EndpointView, group: u16| {
            let criteria = Criteria::new(LbMetadata::clone(&metadata(group)));
            let found = |subset: &Subset, _: &mut Counts| {
                let Pool { priorities, shares, localities, .. } = &subset.pool;
                Some((std::ptr::from_ref(subset), format!("{priorities:?} {shares:?} {localities:?}")))
            };
            view.subsets.as_ref().unwrap().choose(&rules, criteria.as_ref(), &mut Counts::default(), found)
        };
        for group in 0..4 {
            let [old, refreshed, new] = [&before, &refreshed, &new].map(|view| of_group(view, group));
            let (Some(old), Some(refreshed), Some(new)) = (old, refreshed, new) else { continue };
            prop_assert_eq!(&refreshed.1, &new.1);
            let changed = hosts.iter().any(|(of, _, _, ejected)| *of == group && *ejected);
            prop_assert_eq!(refreshed.0 != old.0, changed);
        }
    }
}

#[test]
fn workers_that_eject_at_the_same_time_eject_exactly_as_many_as_the_limit_allows() {
    for _ in 0..50 {
        let cluster = Cluster::new(40, |settings| settings.max_ejection_percent = 45);
        let policy = &cluster.policy;
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let hosts = &cluster.view.hosts;
                scope.spawn(move || {
                    for at in 0..hosts.len() {
                        let at = if worker == 0 { at } else { hosts.len() - 1 - at };
                        hosts[at].stats.tally.consecutive_5xx.store(5, Relaxed);
                        eject(policy, &hosts[at].stats, Kind::Consecutive5xx, worker, &mut |_| 0);
                    }
                });
            }
        });
        assert_eq!((cluster.ejected(), cluster.detector.count()), (18, 18));
        assert!(cluster.view.is_stale());
        assert_eq!(cluster.count(|stats| &stats.ejections_enforced_total), 18);
    }
}
