//! Cases on a pair of proxies: what is not the same. Cases share a pair, so that starting it is paid for once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::case::Case;
use crate::compare::{self, Difference};
use crate::configuration::Configuration;
use crate::pair::{Observation, Programs, Proxy, Side};

/// Cases whose exchanges run at the same time.
const THREADS: usize = 12;
/// How long a copy of a request may take, and how often it may fail to come.
const COPIES: Duration = Duration::from_secs(1);
const MISSED: usize = 3;
/// How long both sides get to log and count the same.
const RECORDED: Duration = Duration::from_secs(1);

/// A difference, and the exchange that shows it if it is one alone.
pub type Found = Vec<(Difference, Option<usize>)>;

/// What became of a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The error of each side; no error means that this side takes the configuration.
    Refused {
        envoy: Option<String>,
        petmesh: Option<String>,
    },
    Ran(Found),
}

/// A pair that runs, and the configurations that are not in it because a side refuses them.
#[derive(Debug)]
struct Pair {
    proxies: Option<(Proxy, Proxy)>,
    /// The case of each lane.
    lanes: Vec<usize>,
    refused: BTreeMap<usize, Outcome>,
}

impl Pair {
    /// Starts both proxies with all configurations that both take.
    pub fn start(programs: &Programs, configurations: &[&Configuration]) -> anyhow::Result<Self> {
        let mut usable: Vec<(usize, &Configuration)> = configurations.iter().copied().enumerate().collect();
        let mut refused = BTreeMap::new();
        if let Ok(pair) = start(programs, &usable) {
            let lanes = (0..configurations.len()).collect();
            return Ok(Self { proxies: Some(pair), lanes, refused });
        }
        let by_envoy = refused_by(programs, Side::Envoy, &usable)?;
        let by_petmesh = refused_by(programs, Side::Petmesh, &usable)?;
        for &at in by_envoy.keys().chain(by_petmesh.keys()) {
            let (envoy, petmesh) = (by_envoy.get(&at).cloned(), by_petmesh.get(&at).cloned());
            refused.insert(at, Outcome::Refused { envoy, petmesh });
        }
        usable.retain(|(at, _)| !refused.contains_key(at));
        let proxies = if usable.is_empty() { None } else { Some(start(programs, &usable)?) };
        Ok(Self { proxies, lanes: usable.into_iter().map(|(at, _)| at).collect(), refused })
    }

    /// Runs the cases of those configurations.
    pub fn run(mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = std::mem::take(&mut self.refused);
        if let Some((envoy, petmesh)) = &self.proxies {
            let of_lanes: Vec<&Case> = self.lanes.iter().filter_map(|&at| cases.get(at)).collect();
            let found = lanes(envoy, petmesh, &of_lanes)?;
            outcomes.extend(self.lanes.iter().copied().zip(found.into_iter().map(Outcome::Ran)));
        }
        Ok(outcomes.into_values().collect())
    }
}

/// Only whether both sides take each configuration.
pub fn read(programs: &Programs, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for case in cases {
        let configurations = [&case.configuration];
        let (envoy, petmesh) = std::thread::scope(|scope| {
            let envoy = scope.spawn(|| programs.accepts(Side::Envoy, &configurations));
            let petmesh = programs.accepts(Side::Petmesh, &configurations);
            (envoy.join(), petmesh)
        });
        let envoy = envoy.map_err(|_| anyhow::anyhow!("the thread that runs Envoy ended"))??;
        let (envoy, petmesh) = (envoy.err(), petmesh?.err());
        outcomes.push(match (&envoy, &petmesh) {
            (None, None) => Outcome::Ran(Found::new()),
            _ => Outcome::Refused { envoy, petmesh },
        });
    }
    Ok(outcomes)
}

/// What becomes of cases on a pair of their own.
pub fn run(programs: &Programs, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
    if cases.iter().all(|case| case.exchanges.is_empty()) {
        return read(programs, cases);
    }
    let configurations: Vec<&Configuration> = cases.iter().map(|case| &case.configuration).collect();
    Pair::start(programs, &configurations)?.run(cases)
}

/// Runs the exchanges of every lane, some lanes at a time.
fn lanes(envoy: &Proxy, petmesh: &Proxy, all: &[&Case]) -> anyhow::Result<Vec<Found>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Found>> = all.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(all.len()) {
            scope.spawn(|| {
                loop {
                    let lane = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(case), Some(result)) = (all.get(lane), results.get(lane)) else {
                        return;
                    };
                    let found = exchanges_of(envoy, petmesh, lane, case);
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = found;
                }
            });
        }
    });
    let mut found: Vec<Found> = results
        .into_iter()
        .map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect();
    // An exchange that differs is often logged and counted otherwise too: such lanes are left out.
    let even: Vec<usize> =
        (0..found.len()).filter(|&lane| found.get(lane).is_some_and(Vec::is_empty)).collect();
    for (lane, differences) in recorded(envoy, petmesh, &even)? {
        if let Some(found) = found.get_mut(lane) {
            found.extend(differences.into_iter().map(|difference| (difference, None)));
        }
    }
    Ok(found)
}

/// What is logged and counted differently once neither side moves. Lines and counts that are late are waited for.
fn recorded(
    envoy: &Proxy,
    petmesh: &Proxy,
    lanes: &[usize],
) -> anyhow::Result<BTreeMap<usize, Vec<Difference>>> {
    let until = Instant::now() + RECORDED;
    loop {
        let (of_envoy, of_petmesh) = (envoy.statistics()?, petmesh.statistics()?);
        let differing = lanes.iter().map(|&lane| {
            let mut differences = compare::log_lines(&envoy.log_lines(lane), &petmesh.log_lines(lane));
            differences.extend(compare::statistics(
                &own_statistics(&of_envoy, envoy, lane),
                &own_statistics(&of_petmesh, petmesh, lane),
            ));
            (lane, differences)
        });
        let found: BTreeMap<_, _> = differing.filter(|(_, differences)| !differences.is_empty()).collect();
        if found.is_empty() || Instant::now() > until {
            return Ok(found);
        }
    }
}

fn exchanges_of(envoy: &Proxy, petmesh: &Proxy, lane: usize, case: &Case) -> Found {
    let mut found = Vec::new();
    let mirrors = case.configuration.has_mirrors();
    let mut missed = 0;
    for (at, exchange) in case.exchanges.iter().enumerate() {
        let (mut of_envoy, mut of_petmesh) = std::thread::scope(|scope| {
            let other = scope.spawn(|| envoy.run(lane, exchange));
            let own = petmesh.run(lane, exchange);
            (other.join().unwrap_or_default(), own)
        });
        // Copies of requests may come after the response. Where their cluster takes none, none is waited for.
        let copies = if mirrors && missed < MISSED { exchange.requests.len() } else { 0 };
        let until = Instant::now() + COPIES;
        while lacks(&of_envoy, &of_petmesh, copies) {
            if Instant::now() > until {
                missed += 1;
                break;
            }
            envoy.look_again(lane, &mut of_envoy);
            petmesh.look_again(lane, &mut of_petmesh);
        }
        let differences = compare::exchange(&of_envoy, &of_petmesh);
        found.extend(differences.into_iter().map(|difference| (difference, Some(at))));
    }
    found
}

/// Whether something more must come to an upstream: as much as to the other one, and the copy of each request.
fn lacks(envoy: &Observation, petmesh: &Observation, copies: usize) -> bool {
    let lacks_copies = |seen: &Observation| {
        let mirrored = seen.upstream.iter().filter(|message| message.is_mirrored()).count();
        mirrored < copies.min(seen.upstream.len() - mirrored)
    };
    envoy.upstream.len() != petmesh.upstream.len() || lacks_copies(envoy) || lacks_copies(petmesh)
}

fn start(programs: &Programs, usable: &[(usize, &Configuration)]) -> anyhow::Result<(Proxy, Proxy)> {
    let (envoy, petmesh) = std::thread::scope(|scope| {
        let envoy = scope.spawn(|| programs.start(Side::Envoy, usable));
        let petmesh = programs.start(Side::Petmesh, usable);
        (envoy.join(), petmesh)
    });
    let envoy = envoy.map_err(|_| anyhow::anyhow!("the thread that starts Envoy ended"))??;
    Ok((envoy, petmesh?))
}

/// Those of the configurations that a side refuses, found by halves.
fn refused_by(
    programs: &Programs,
    side: Side,
    configurations: &[(usize, &Configuration)],
) -> anyhow::Result<BTreeMap<usize, String>> {
    let all: Vec<&Configuration> = configurations.iter().map(|(_, configuration)| *configuration).collect();
    let Err(error) = programs.accepts(side, &all)? else { return Ok(BTreeMap::new()) };
    if let [(at, _)] = configurations {
        return Ok([(*at, error)].into());
    }
    let (left, right) = configurations.split_at(configurations.len() / 2);
    let mut refused = refused_by(programs, side, left)?;
    refused.extend(refused_by(programs, side, right)?);
    Ok(refused)
}

/// The statistics of one configuration, under names that are the same on both sides.
fn own_statistics(all: &BTreeMap<String, u64>, proxy: &Proxy, lane: usize) -> BTreeMap<String, u64> {
    let Some(lane) = proxy.lanes.get(lane) else { return BTreeMap::new() };
    let end = format!("-{}", lane.number);
    let own = |name: &str| name.split('.').any(|part| part.ends_with(&end));
    let listener = format!("listener.127.0.0.1_{}.", lane.addresses.listener);
    let each = all.iter().filter(|(name, _)| own(name) || name.starts_with(&listener));
    each.map(|(name, value)| (lane.without_ports(name).replace(&end, ""), *value)).collect()
}
