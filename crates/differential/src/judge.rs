//! The run: batches of configurations, exchanges over each, and a report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;

use crate::case::{Case, Exchange};
use crate::compare::{self, Difference, Kept};
use crate::configuration::{self, Change, Configuration};
use crate::pair::{Programs, Proxy, Side};
use crate::{shrink, traffic};

/// What a run is asked for.
#[derive(Debug)]
pub struct Options {
    pub seed: u64,
    pub lasts: Duration,
    pub batches: usize,
    pub programs: Programs,
    pub out: Option<PathBuf>,
    pub limit: usize,
    pub only: Option<regex::Regex>,
}

/// Configurations that share a pair of proxies.
const BATCH: usize = 32;
/// Exchanges over each configuration.
const EXCHANGES: usize = 50;
/// Configurations whose exchanges run at the same time.
const THREADS: usize = 4;
/// Runs of a pair for shrinking one difference.
const SHRINKING: usize = 60;

#[derive(Debug, Default)]
struct Tally {
    configurations: usize,
    exchanges: usize,
    refused: usize,
    kept: usize,
    /// Each kind of difference: how often, and an example.
    found: BTreeMap<String, (usize, String)>,
}

/// Runs generated configurations; how many kinds of differences were found.
pub fn generated(options: &Options) -> anyhow::Result<usize> {
    println!("seed {}: the same seed gives the same run", options.seed);
    let catalogue = configuration::catalogue()?;
    let kept = Kept::read()?;
    let mut tally = Tally::default();
    let began = Instant::now();
    let mut batch = 0;
    while batch < options.batches && began.elapsed() < options.lasts {
        let mut rng = Rng::with_seed(options.seed.wrapping_mul(1_000_003).wrapping_add(batch as u64));
        let cases: Vec<Case> = (0..BATCH).map(|_| case(&mut rng, &catalogue)).collect();
        run_batch(options, &kept, &cases, &mut tally)?;
        batch += 1;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{batch} batches, {} configurations, {} exchanges ({:.0}/s), {} kinds of differences",
            tally.configurations,
            tally.exchanges,
            tally.exchanges as f64 / seconds,
            tally.found.len()
        );
    }
    report(&tally);
    Ok(tally.found.len())
}

/// Runs cases from files; how many of them show a difference.
pub fn replay(options: &Options, paths: &[PathBuf]) -> anyhow::Result<usize> {
    let kept = Kept::read()?;
    let mut failed = 0;
    for path in files(paths)? {
        let case = Case::read(&path)?;
        let found = run_alone(&options.programs, &kept, &case)?;
        println!("{} {}", if found.is_empty() { "PASS" } else { "FAIL" }, path.display());
        found.iter().for_each(|difference| println!("  {difference}"));
        failed += usize::from(!found.is_empty());
    }
    Ok(failed)
}

fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
            let mut inside: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            inside.sort();
            files.extend(inside);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

/// A configuration with one to three settings changed, and exchanges over it.
fn case(rng: &mut Rng, catalogue: &[Change]) -> Case {
    let changes = (0..rng.usize(1..4)).filter_map(|_| catalogue.get(rng.usize(..catalogue.len())).cloned());
    let configuration = Configuration { changes: changes.collect() };
    let exchanges = (0..EXCHANGES).map(|_| traffic::exchange(rng)).collect();
    Case { about: String::new(), configuration, exchanges }
}

fn run_batch(options: &Options, kept: &Kept, cases: &[Case], tally: &mut Tally) -> anyhow::Result<()> {
    let programs = &options.programs;
    let mut usable = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let ours = programs.accepts(Side::Petmesh, &[&case.configuration])?;
        match ours {
            Ok(()) => usable.push((at, &case.configuration)),
            // Envoy must refuse it too.
            Err(error) => {
                tally.refused += 1;
                if programs.accepts(Side::Envoy, &[&case.configuration])?.is_ok() {
                    note_reader(options, tally, case, "petmesh refuses what Envoy takes", &error);
                }
            }
        }
    }
    let refused = refused_by(programs, Side::Envoy, &usable)?;
    for (at, error) in &refused {
        tally.refused += 1;
        if let Some(case) = cases.get(*at) {
            note_reader(options, tally, case, "Envoy refuses what petmesh takes", error);
        }
    }
    usable.retain(|(at, _)| !refused.iter().any(|(refused, _)| refused == at));
    if usable.is_empty() {
        return Ok(());
    }
    let (envoy, petmesh) = start(programs, &usable)?;
    let results = run_cases(&envoy, &petmesh, &usable, cases);
    let of_envoy = envoy.statistics()?;
    let of_petmesh = petmesh.statistics()?;
    for (lane, (at, _)) in usable.iter().enumerate() {
        let Some(case) = cases.get(*at) else { continue };
        tally.configurations += 1;
        tally.exchanges += case.exchanges.len();
        let mut differences: Vec<(Difference, Option<usize>)> =
            results.get(lane).cloned().unwrap_or_default();
        let counted = compare::statistics(
            &own_statistics(&of_envoy, &envoy, lane),
            &own_statistics(&of_petmesh, &petmesh, lane),
        );
        // An exchange that differs may well count otherwise.
        if differences.is_empty() {
            let wanted = case.exchanges.iter().map(|exchange| exchange.requests.len()).sum();
            let logged = compare::log_lines(&envoy.log_lines(lane, wanted), &petmesh.log_lines(lane, wanted));
            differences.extend(logged.into_iter().chain(counted).map(|difference| (difference, None)));
        }
        for (difference, exchange) in differences {
            let of: Vec<Exchange> = match exchange {
                Some(exchange) => case.exchanges.get(exchange).cloned().into_iter().collect(),
                None => case.exchanges.clone(),
            };
            if kept.has(&difference, &of) {
                tally.kept += 1;
                continue;
            }
            let case = Case { exchanges: of, ..case.clone() };
            note(options, kept, tally, &case, &difference)?;
        }
    }
    Ok(())
}

type Found = Vec<(Difference, Option<usize>)>;

/// Runs all exchanges, some configurations at a time.
fn run_cases(
    envoy: &Proxy,
    petmesh: &Proxy,
    usable: &[(usize, &Configuration)],
    cases: &[Case],
) -> Vec<Found> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results: Vec<std::sync::Mutex<Found>> = usable.iter().map(|_| Default::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let lane = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((at, _)) = usable.get(lane) else { return };
                    let Some(case) = cases.get(*at) else { return };
                    let found = run_lane(envoy, petmesh, lane, &case.exchanges);
                    if let Some(result) = results.get(lane) {
                        *result.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
                    }
                }
            });
        }
    });
    results.into_iter().map(|result| result.into_inner().unwrap_or_default()).collect()
}

fn run_lane(envoy: &Proxy, petmesh: &Proxy, lane: usize, exchanges: &[Exchange]) -> Found {
    let mut found = Vec::new();
    for (at, exchange) in exchanges.iter().enumerate() {
        let (of_envoy, of_petmesh) = std::thread::scope(|scope| {
            let other = scope.spawn(|| envoy.run(lane, exchange));
            let own = petmesh.run(lane, exchange);
            (other.join().unwrap_or_default(), own)
        });
        found.extend(
            compare::exchange(&of_envoy, &of_petmesh).into_iter().map(|difference| (difference, Some(at))),
        );
    }
    found
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
) -> anyhow::Result<Vec<(usize, String)>> {
    let all: Vec<&Configuration> = configurations.iter().map(|(_, configuration)| *configuration).collect();
    let Err(error) = programs.accepts(side, &all)? else { return Ok(Vec::new()) };
    if let [(at, _)] = configurations {
        return Ok(vec![(*at, error)]);
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

/// One case on a pair of its own; the differences that are not kept.
fn run_alone(programs: &Programs, kept: &Kept, case: &Case) -> anyhow::Result<Vec<Difference>> {
    let numbered = [(7, &case.configuration)];
    let (envoy, petmesh) = start(programs, &numbered)?;
    let mut found: Vec<Difference> = run_lane(&envoy, &petmesh, 0, &case.exchanges)
        .into_iter()
        .map(|(difference, _)| difference)
        .collect();
    if found.is_empty() {
        let wanted = case.exchanges.iter().map(|exchange| exchange.requests.len()).sum();
        found.extend(compare::log_lines(&envoy.log_lines(0, wanted), &petmesh.log_lines(0, wanted)));
        found.extend(compare::statistics(
            &own_statistics(&envoy.statistics()?, &envoy, 0),
            &own_statistics(&petmesh.statistics()?, &petmesh, 0),
        ));
    }
    found.retain(|difference| !kept.has(difference, &case.exchanges));
    Ok(found)
}

/// Counts a difference; the first of its kind is shrunk and printed.
fn note(
    options: &Options,
    kept: &Kept,
    tally: &mut Tally,
    case: &Case,
    difference: &Difference,
) -> anyhow::Result<()> {
    if options.only.as_ref().is_some_and(|only| !only.is_match(&difference.to_string())) {
        return Ok(());
    }
    let kind = difference.kind();
    if let Some((count, _)) = tally.found.get_mut(&kind) {
        *count += 1;
        return Ok(());
    }
    if tally.found.len() >= options.limit {
        tally.found.insert(kind, (1, difference.to_string()));
        return Ok(());
    }
    let shows = |case: &Case| {
        run_alone(&options.programs, kept, case)
            .is_ok_and(|found| found.iter().any(|found| found.kind() == kind))
    };
    if !shows(case) {
        // It came from what went before on the same pair, or from chance: said, and not forgotten.
        println!("\nnot repeated alone: {difference}");
        tally.found.insert(kind, (1, format!("not repeated alone: {difference}")));
        return Ok(());
    }
    let mut smallest = shrink::shrink(case, SHRINKING, shows);
    smallest.about = difference.to_string();
    show(options, tally.found.len(), &smallest)?;
    tally.found.insert(kind, (1, difference.to_string()));
    Ok(())
}

fn note_reader(options: &Options, tally: &mut Tally, case: &Case, what: &str, error: &str) {
    let fields: BTreeSet<&str> =
        case.configuration.changes.iter().map(|change| change.name.as_str()).collect();
    let reason =
        error.lines().find(|line| line.contains("error") || line.contains("rror:")).unwrap_or(error.trim());
    let kind =
        format!("{what}: {}", reason.chars().filter(|c| !c.is_ascii_digit()).take(160).collect::<String>());
    let first = !tally.found.contains_key(&kind);
    let entry = tally.found.entry(kind).or_insert_with(|| (0, format!("{what}: {error}")));
    entry.0 += 1;
    if first && tally.found.len() <= options.limit {
        println!("\n{what}: {fields:?}\n{error}");
    }
}

fn show(options: &Options, number: usize, case: &Case) -> anyhow::Result<()> {
    println!("\n{}\n{}", case.about, case.text());
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder)?;
        write_case(&folder.join(format!("{number:03}.yaml")), case)?;
    }
    Ok(())
}

fn write_case(path: &Path, case: &Case) -> anyhow::Result<()> {
    std::fs::write(path, case.text() + "\n").with_context(|| path.display().to_string())
}

fn report(tally: &Tally) {
    println!(
        "\n{} exchanges over {} configurations compared; {} configurations refused; {} differences kept on purpose",
        tally.exchanges, tally.configurations, tally.refused, tally.kept
    );
    let mut found: Vec<_> = tally.found.values().collect();
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    for (count, text) in found {
        println!("{count:6} x {text}");
    }
}
