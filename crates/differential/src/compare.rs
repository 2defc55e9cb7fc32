//! Differences between what was seen of Envoy and of petmesh, and those that are kept on purpose.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use regex::Regex;
use serde::Deserialize;

use crate::case::Exchange;
use crate::pair::Observation;
use crate::wire::Message;

/// One thing that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What differs: `response 1 header a`.
    pub place: String,
    pub envoy: String,
    pub petmesh: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: Envoy {:?}, petmesh {:?}", self.place, self.envoy, self.petmesh)
    }
}

impl Difference {
    fn of(place: impl Into<String>, envoy: impl Into<String>, petmesh: impl Into<String>) -> Option<Self> {
        let (envoy, petmesh) = (envoy.into(), petmesh.into());
        (envoy != petmesh).then(|| Self { place: place.into(), envoy, petmesh })
    }

    /// Differences of one kind have the same text here: numbers mean nothing.
    pub fn kind(&self) -> String {
        let digits = |text: &str| -> String {
            let mut out: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            while out.contains("00") {
                out = out.replace("00", "0");
            }
            out
        };
        let values = if self.place.contains("statistic") {
            String::new()
        } else {
            format!(": {} | {}", self.envoy, self.petmesh)
        };
        format!("{}{}", digits(&self.place), digits(&values))
    }
}

/// All differences of one exchange.
pub fn exchange(envoy: &Observation, petmesh: &Observation) -> Vec<Difference> {
    let mut found = Vec::new();
    messages("response", &envoy.responses, &petmesh.responses, &mut found);
    found.extend(Difference::of("the end", &*envoy.end, &*petmesh.end));
    messages("upstream's request", &envoy.upstream, &petmesh.upstream, &mut found);
    found
}

fn messages(what: &str, envoy: &[Message], petmesh: &[Message], found: &mut Vec<Difference>) {
    if envoy.len() != petmesh.len() {
        let lines = |messages: &[Message]| {
            messages.iter().map(|message| message.line.clone()).collect::<Vec<_>>().join(" and ")
        };
        found.extend(Difference::of(format!("{what}s"), lines(envoy), lines(petmesh)));
        return;
    }
    for (at, (envoy, petmesh)) in envoy.iter().zip(petmesh).enumerate() {
        let place = format!("{what} {at}");
        if let Some(difference) = Difference::of(format!("{place} line"), &*envoy.line, &*petmesh.line) {
            // Whatever else differs follows from it.
            found.push(difference);
            continue;
        }
        headers(&format!("{place} header"), &envoy.headers, &petmesh.headers, found);
        headers(&format!("{place} trailer"), &envoy.trailers, &petmesh.trailers, found);
        found.extend(Difference::of(format!("{place} body"), &*envoy.body, &*petmesh.body));
        found.extend(Difference::of(format!("{place} framing"), &*envoy.framing, &*petmesh.framing));
    }
}

fn headers(place: &str, envoy: &[String], petmesh: &[String], found: &mut Vec<Difference>) {
    let values = |list: &[String]| {
        let mut values = BTreeMap::<String, Vec<String>>::new();
        for line in list {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            values.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        values
    };
    let (envoy, petmesh) = (values(envoy), values(petmesh));
    let mut names: Vec<&String> = envoy.keys().chain(petmesh.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let shown =
        |values: Option<&Vec<String>>| values.map_or("(none)".to_owned(), |values| values.join(" & "));
    for name in names {
        found.extend(Difference::of(
            format!("{place} {name}"),
            shown(envoy.get(name)),
            shown(petmesh.get(name)),
        ));
    }
}

/// Statistics of one configuration by name, without what makes them its own.
pub fn statistics(envoy: &BTreeMap<String, u64>, petmesh: &BTreeMap<String, u64>) -> Vec<Difference> {
    // What petmesh does not declare is not promised.
    let each = petmesh.iter().filter_map(|(name, value)| {
        let envoys = envoy.get(name).copied().unwrap_or(0);
        Difference::of(format!("statistic {name}"), envoys.to_string(), value.to_string())
    });
    each.collect()
}

pub fn log_lines(envoy: &[String], petmesh: &[String]) -> Vec<Difference> {
    if envoy.len() != petmesh.len() {
        let count = |lines: &[String]| format!("{} lines", lines.len());
        return Difference::of("access log", count(envoy), count(petmesh)).into_iter().collect();
    }
    let mut found = Vec::new();
    for (envoy, petmesh) in envoy.iter().zip(petmesh) {
        for (at, (envoy, petmesh)) in envoy.split('|').zip(petmesh.split('|')).enumerate() {
            found.extend(Difference::of(format!("access log field {at}"), envoy, petmesh));
        }
    }
    found
}

/// Differences that are kept, each with its reason.
#[derive(Debug, Default)]
pub struct Kept(Vec<KeptOne>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Matches the text of the difference.
    difference: String,
    /// Matches the exchange, as a case has it; anything by default.
    #[serde(default)]
    exchange: String,
    /// Why it stays: an RFC's section, or a page of `docs/decisions`.
    #[serde(rename = "why")]
    _why: String,
}

#[derive(Debug)]
struct KeptOne {
    difference: Regex,
    exchange: Regex,
}

impl Kept {
    pub fn read() -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept.yaml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let entries: Vec<Entry> = serde_saphyr::from_str(&text).context("kept.yaml")?;
        let each = entries.iter().map(|entry| {
            Ok(KeptOne { difference: Regex::new(&entry.difference)?, exchange: Regex::new(&entry.exchange)? })
        });
        each.collect::<anyhow::Result<_>>().map(Self)
    }

    pub fn has(&self, difference: &Difference, exchanges: &[Exchange]) -> bool {
        let text = difference.to_string();
        self.0.iter().any(|kept| {
            kept.difference.is_match(&text)
                && exchanges.iter().any(|exchange| {
                    kept.exchange.is_match(&serde_json::to_string(exchange).unwrap_or_default())
                })
        })
    }
}
