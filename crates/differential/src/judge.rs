//! The run: batches of configurations, exchanges over each, and a report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fastrand::Rng;
use regex::Regex;

use crate::case::Case;
use crate::compare::{Difference, Kept};
use crate::configuration::{self, Change, Configuration};
use crate::pair::Programs;
use crate::trial::{self, Found, Outcome};
use crate::{mutation, shrink, traffic};

/// What a run is asked for.
#[derive(Debug)]
pub struct Options {
    pub seed: u64,
    pub lasts: Duration,
    pub batches: usize,
    pub programs: Programs,
    pub out: Option<PathBuf>,
    pub limit: usize,
    pub only: Option<Regex>,
}

/// Configurations that share a pair of proxies.
const BATCH: usize = 32;
/// Batches that run at the same time.
const WORKERS: usize = 2;
/// Exchanges over each configuration.
const EXCHANGES: usize = 50;
/// Broken configurations in each batch, which only the readers see.
const MUTATED: usize = 12;
/// How often a kind of difference is looked at that did not show again.
const REPEATED: usize = 5;
/// Cases that are tried for shrinking one difference.
const SHRINKING: usize = 400;

#[derive(Debug, Default)]
struct Tally {
    configurations: usize,
    exchanges: usize,
    refused: usize,
    /// Configurations that only the readers saw.
    broken: usize,
    kept: usize,
    /// Each kind of difference: how often, and an example.
    found: BTreeMap<String, (usize, String)>,
    /// The same of those that did not show again when their case ran alone.
    not_repeated: BTreeMap<String, (usize, String)>,
}

/// A run: what it was asked for, and what it has found.
#[derive(Debug)]
struct Run<'a> {
    options: &'a Options,
    kept: Kept,
    tally: Tally,
}

/// Runs generated configurations; how many kinds of differences were found.
pub fn generated(options: &Options) -> anyhow::Result<usize> {
    println!("seed {}: the same seed gives the same run", options.seed);
    let catalogue = configuration::catalogue()?;
    let mut run = Run { options, kept: Kept::read()?, tally: Tally::default() };
    let began = Instant::now();
    std::thread::scope(|scope| {
        // Some batches run at the same time. They are taken in order, so that one seed gives one report.
        let mut workers = Vec::new();
        for worker in 0..WORKERS {
            let (send, batches) = mpsc::sync_channel(0);
            let catalogue = &catalogue;
            scope.spawn(move || {
                for batch in (worker..options.batches).step_by(WORKERS) {
                    if send.send(ran(options, catalogue, batch)).is_err() {
                        return;
                    }
                }
            });
            workers.push(batches);
        }
        for batch in 0..options.batches {
            let Some(Ok(ran)) = workers.get(batch % WORKERS).map(mpsc::Receiver::recv) else { break };
            run.batch(&ran?)?;
            run.progress(batch + 1, began.elapsed().as_secs_f64());
            if began.elapsed() >= options.lasts {
                break;
            }
        }
        drop(workers);
        anyhow::Ok(())
    })?;
    run.report();
    Ok(run.tally.found.len())
}

/// A batch and what became of it.
struct Ran {
    first: (Vec<Case>, Vec<Outcome>),
    /// The cases once more, without exchanges that differ: they hide what the others log and count.
    again: (Vec<Case>, Vec<Outcome>),
    /// Configurations that only the readers saw.
    broken: (Vec<Case>, Vec<Outcome>),
}

fn ran(options: &Options, catalogue: &[Change], batch: usize) -> anyhow::Result<Ran> {
    let mut rng = Rng::with_seed(options.seed.wrapping_mul(1_000_003).wrapping_add(batch as u64));
    let cases: Vec<Case> = (0..BATCH).map(|_| case(&mut rng, catalogue)).collect();
    let of_configuration = |configuration| Case { configuration, ..Case::default() };
    let broken = (0..MUTATED).map(|_| {
        let whole = match rng.usize(..2 * configuration::SHIPPED.len()) {
            at if at < configuration::SHIPPED.len() => Configuration {
                file: configuration::SHIPPED.get(at).map(|file| (*file).to_owned()),
                ..Configuration::default()
            },
            _ => configuration(&mut rng, catalogue),
        };
        mutation::mutated(&mut rng, whole).map(of_configuration)
    });
    let broken: Vec<Case> = broken.collect::<anyhow::Result<_>>()?;
    let read = trial::read(&options.programs, &broken)?;
    let outcomes = trial::run(&options.programs, &cases)?;
    let again: Vec<Case> =
        cases.iter().zip(&outcomes).filter_map(|(case, outcome)| without_odd(case, outcome)).collect();
    let of_again = if again.is_empty() { Vec::new() } else { trial::run(&options.programs, &again)? };
    Ok(Ran { first: (cases, outcomes), again: (again, of_again), broken: (broken, read) })
}

/// A case without those of its exchanges that differ, if there are any.
fn without_odd(case: &Case, outcome: &Outcome) -> Option<Case> {
    let Outcome::Ran(found) = outcome else { return None };
    let odd: BTreeSet<usize> = found.iter().filter_map(|(_, exchange)| *exchange).collect();
    let mut rest = case.clone();
    let mut at = 0..;
    rest.exchanges.retain(|_| at.next().is_none_or(|at| !odd.contains(&at)));
    (!odd.is_empty()).then_some(rest)
}

/// A configuration with one to three settings changed.
fn configuration(rng: &mut Rng, catalogue: &[Change]) -> Configuration {
    let changes =
        (0..rng.usize(1..4)).filter_map(|_| catalogue.get(rng.usize(..catalogue.len().max(1))).cloned());
    Configuration { changes: changes.collect(), file: None }
}

fn case(rng: &mut Rng, catalogue: &[Change]) -> Case {
    let configuration = configuration(rng, catalogue);
    let timeouts = configuration.has_timeouts();
    let exchanges = (0..EXCHANGES).map(|_| traffic::exchange(rng, timeouts)).collect();
    Case { about: String::new(), configuration, exchanges }
}

/// Runs cases from files; how many of them show a difference.
pub fn replay(options: &Options, paths: &[PathBuf]) -> anyhow::Result<usize> {
    let kept = Kept::read()?;
    let files = files(paths)?;
    let cases: Vec<Case> = files.iter().map(|path| Case::read(path)).collect::<anyhow::Result<_>>()?;
    let mut failed = 0;
    let mut outcomes = Vec::new();
    for cases in cases.chunks(BATCH) {
        outcomes.extend(trial::run(&options.programs, cases)?);
    }
    for ((path, case), outcome) in files.iter().zip(&cases).zip(&outcomes) {
        let mut found = differences(&kept, case, outcome);
        let looked_at = |text: &str| options.only.as_ref().is_none_or(|only| only.is_match(text));
        found.retain(|(difference, _)| looked_at(&difference.to_string()));
        println!("{} {}", if found.is_empty() { "PASS" } else { "FAIL" }, path.display());
        for (difference, exchange) in &found {
            let of = exchange.map_or(String::new(), |at| format!("exchange {at}, "));
            println!("  {of}{difference}");
        }
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

/// The differences of a case that are not kept. That one side refuses a configuration is one.
fn differences(kept: &Kept, case: &Case, outcome: &Outcome) -> Found {
    let found: Found = match outcome {
        Outcome::Ran(found) => found.clone(),
        Outcome::Refused { envoy, petmesh } => {
            let refusal = Difference::of_refusals(envoy.as_deref(), petmesh.as_deref());
            refusal.into_iter().map(|difference| (difference, None)).collect()
        }
    };
    let is_kept = |(difference, at): &(Difference, Option<usize>)| {
        let one = at.and_then(|at| case.exchanges.get(at));
        kept.has(difference, one.map_or(&case.exchanges, std::slice::from_ref))
    };
    found.into_iter().filter(|found| !is_kept(found)).collect()
}

impl Run<'_> {
    fn batch(&mut self, ran: &Ran) -> anyhow::Result<()> {
        let (cases, outcomes) = &ran.first;
        for (case, outcome) in cases.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Ran(_)) {
                self.tally.configurations += 1;
                self.tally.exchanges += case.exchanges.len();
            }
        }
        self.take(cases, outcomes)?;
        self.take(&ran.again.0, &ran.again.1)?;
        self.read(&ran.broken.0, &ran.broken.1)
    }

    fn take(&mut self, cases: &[Case], outcomes: &[Outcome]) -> anyhow::Result<()> {
        for (case, outcome) in cases.iter().zip(outcomes) {
            match outcome {
                Outcome::Refused { envoy, petmesh } => {
                    self.tally.refused += 1;
                    let refusal = Difference::of_refusals(envoy.as_deref(), petmesh.as_deref());
                    if let Some(difference) = refusal {
                        let case = Case { exchanges: Vec::new(), ..case.clone() };
                        self.note(&case, &difference, None)?;
                    }
                }
                Outcome::Ran(found) => {
                    self.found(case, found)?;
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, broken: &[Case], outcomes: &[Outcome]) -> anyhow::Result<()> {
        self.tally.broken += broken.len();
        for (case, outcome) in broken.iter().zip(outcomes) {
            for (difference, _) in differences(&self.kept, case, outcome) {
                self.note(case, &difference, None)?;
            }
        }
        Ok(())
    }

    fn found(&mut self, case: &Case, found: &Found) -> anyhow::Result<()> {
        for (difference, exchange) in found {
            self.note(case, difference, *exchange)?;
        }
        Ok(())
    }

    /// Counts a difference; the first of its kind is shrunk and printed.
    fn note(&mut self, case: &Case, difference: &Difference, exchange: Option<usize>) -> anyhow::Result<()> {
        let alone = exchange
            .and_then(|at| case.exchanges.get(at))
            .map(|exchange| Case { exchanges: vec![exchange.clone()], ..case.clone() });
        let of = alone.as_ref().unwrap_or(case);
        if self.kept.has(difference, &of.exchanges) {
            self.tally.kept += 1;
            return Ok(());
        }
        let text = difference.to_string();
        if self.options.only.as_ref().is_some_and(|only| !only.is_match(&text)) {
            return Ok(());
        }
        if let Some((count, _)) = self.tally.found.get_mut(&difference.kind) {
            *count += 1;
            return Ok(());
        }
        let seen = self.tally.not_repeated.get_mut(&difference.kind);
        if let Some((count, _)) = seen.filter(|(count, _)| *count >= REPEATED) {
            *count += 1;
            return Ok(());
        }
        self.tally.found.insert(difference.kind.clone(), (1, text.clone()));
        if self.tally.found.len() > self.options.limit {
            return Ok(());
        }
        let (programs, kept) = (&self.options.programs, &self.kept);
        let shows = |cases: &[Case]| shows(programs, kept, cases, &difference.kind);
        // Twice, so that chance alone is not shrunk.
        let first = alone
            .into_iter()
            .chain([case.clone()])
            .find(|case| shows(&[case.clone(), case.clone()]).iter().all(|shown| *shown));
        let Some(first) = first else {
            // Chance, or what went before on the pair: said, but no case shows it.
            println!("\nnot repeated: {text}");
            self.tally.found.remove(&difference.kind);
            self.tally.not_repeated.entry(difference.kind.clone()).or_insert((0, text)).0 += 1;
            return Ok(());
        };
        let mut smallest = shrink::shrink(&first, SHRINKING, shows);
        // What the smallest case shows, which is rarely what was found first.
        smallest.about = match trial::run(programs, std::slice::from_ref(&smallest))?.first() {
            Some(outcome) => differences(kept, &smallest, outcome)
                .into_iter()
                .find(|(shown, _)| shown.kind == difference.kind)
                .map_or(text, |(shown, _)| shown.to_string()),
            None => text,
        };
        self.show(&smallest)
    }

    fn show(&self, case: &Case) -> anyhow::Result<()> {
        println!("\n{}\n{}", case.about, case.text());
        if let Some(folder) = &self.options.out {
            std::fs::create_dir_all(folder)?;
            let name = format!("{:03}.yaml", self.tally.found.len());
            write_case(&folder.join(name), case)?;
        }
        Ok(())
    }

    fn progress(&self, batches: usize, seconds: f64) {
        let Tally { configurations, exchanges, found, .. } = &self.tally;
        println!(
            "{batches} batches, {configurations} configurations, {exchanges} exchanges ({:.0}/s), \
             {} kinds of differences",
            *exchanges as f64 / seconds,
            found.len()
        );
    }

    fn report(&self) {
        let Tally { configurations, exchanges, refused, broken, kept, found, not_repeated } = &self.tally;
        println!(
            "\n{exchanges} exchanges over {configurations} configurations compared; {refused} \
             configurations refused; {broken} broken ones read; {kept} differences kept on purpose"
        );
        for (kinds, what) in [(found, ""), (not_repeated, "not repeated: ")] {
            let mut kinds: Vec<_> = kinds.values().collect();
            kinds.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
            for (count, text) in kinds {
                println!("{count:6} x {what}{text}");
            }
        }
    }
}

/// Which of the cases show a difference of a kind, in batches.
fn shows(programs: &Programs, kept: &Kept, cases: &[Case], kind: &str) -> Vec<bool> {
    let shows = |(case, outcome): (&Case, &Outcome)| {
        differences(kept, case, outcome).iter().any(|(difference, _)| difference.kind == kind)
    };
    let mut shown = Vec::new();
    for cases in cases.chunks(BATCH) {
        match trial::run(programs, cases) {
            Ok(outcomes) => shown.extend(cases.iter().zip(&outcomes).map(shows)),
            Err(_) => shown.extend(cases.iter().map(|_| false)),
        }
    }
    shown
}

fn write_case(path: &Path, case: &Case) -> anyhow::Result<()> {
    std::fs::write(path, case.text() + "\n").with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn cases(seed: u64) -> Vec<Case> {
        let catalogue = configuration::catalogue().unwrap();
        let mut rng = Rng::with_seed(seed);
        (0..20).map(|_| case(&mut rng, &catalogue)).collect()
    }

    #[test]
    fn one_seed_gives_one_run() {
        assert_eq!(cases(1), cases(1));
        assert_ne!(cases(1), cases(2));
    }

    #[test]
    fn a_case_is_the_same_after_it_was_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.yaml");
        for case in cases(3) {
            write_case(&path, &case).unwrap();
            assert_eq!(Case::read(&path).unwrap(), case);
        }
    }

    /// petmesh on both sides, one of them with a changed file: the difference is found, and made as small as it can be.
    #[test]
    fn a_planted_difference_is_found_and_shrunk() {
        let here = std::env::current_exe().unwrap();
        let proxy = here.ancestors().nth(2).unwrap().join("proxy");
        assert!(proxy.exists(), "{} is missing: cargo build -p proxy", proxy.display());
        let folder = tempfile::tempdir().unwrap();
        let planted = folder.path().join("planted");
        let script = format!(
            "#!/bin/sh\nfor file; do case $file in *.json) sed -i 's/\"via\":\"judge\"/\"via\":\"planted\"/' \
             \"$file\";; esac; done\nexec {} \"$@\"\n",
            proxy.display()
        );
        std::fs::write(&planted, script).unwrap();
        std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o755)).unwrap();
        let programs = Programs::new(planted, proxy);

        let mut case = cases(4).remove(0);
        case.configuration.changes = configuration::catalogue()
            .unwrap()
            .into_iter()
            .filter(|change| change.name.contains("\"via\":\"judge\""))
            .collect();
        assert_eq!(case.configuration.changes.len(), 1);
        let kept = Kept::default();
        let outcomes = trial::run(&programs, std::slice::from_ref(&case)).unwrap();
        let found = differences(&kept, &case, &outcomes[0]);
        let kind = "response header via: some | some";
        assert!(found.iter().any(|(difference, _)| difference.kind == kind), "{found:?}");
        let smallest = shrink::shrink(&case, SHRINKING, |cases| shows(&programs, &kept, cases, kind));
        let [change] = &smallest.configuration.changes[..] else { panic!("{smallest:?}") };
        let changed: Vec<_> = change.places.values().collect();
        assert_eq!(changed, [&serde_json::json!({ "via": "judge" })]);
        let [exchange] = &smallest.exchanges[..] else { panic!("{smallest:?}") };
        assert_eq!(exchange.requests.len(), 1);
    }
}
