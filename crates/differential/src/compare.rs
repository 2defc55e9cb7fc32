//! Differences between what was seen of Envoy and of petmesh, and those that are kept on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use regex::Regex;
use serde::Deserialize;

use crate::case::Exchange;
use crate::configuration::{BETWEEN, LOG};
use crate::pair::Observation;
use crate::wire::Message;

/// One thing that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What differs: `response 1 header a`.
    pub place: String,
    pub envoy: String,
    pub petmesh: String,
    /// The same for differences that probably have one cause.
    pub kind: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: Envoy {:?}, petmesh {:?}", self.place, self.envoy, self.petmesh)
    }
}

/// How much of two values says what the cause of their difference is.
#[derive(Clone, Copy)]
enum Telling {
    /// All of them: a response flag.
    Values,
    /// A status that proxies make themselves; others come from the upstream.
    Status,
    /// Which of them is there: most headers.
    Presence,
    /// The place says it all: a statistic.
    Nothing,
}

impl Difference {
    fn of(place: &str, envoy: &str, petmesh: &str, telling: Telling) -> Option<Self> {
        let presence = |text: &str| if text.is_empty() || text == NONE { "none" } else { "some" };
        let values = match telling {
            Telling::Values => format!(": {envoy} | {petmesh}"),
            Telling::Status => format!(": {} | {}", own_status(envoy), own_status(petmesh)),
            Telling::Presence => format!(": {} | {}", presence(envoy), presence(petmesh)),
            Telling::Nothing => String::new(),
        };
        (envoy != petmesh).then(|| Self {
            kind: format!("{}{values}", without_numbers(place)),
            place: place.to_owned(),
            envoy: envoy.to_owned(),
            petmesh: petmesh.to_owned(),
        })
    }
}

impl Difference {
    /// One side refuses a configuration that the other takes.
    pub fn of_refusals(envoy: Option<&str>, petmesh: Option<&str>) -> Option<Self> {
        let taken = "takes it";
        let (what, error) = match (envoy, petmesh) {
            (Some(error), None) => ("Envoy refuses", error),
            // A field that petmesh does not have yet is not a difference: its error says so.
            (None, Some(error)) if error.contains("error[not-implemented]") => return None,
            (None, Some(error)) => ("petmesh refuses", error),
            (Some(_), Some(_)) | (None, None) => return None,
        };
        let kind: String = reason(error).chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
        Some(Self {
            place: "the configuration".to_owned(),
            envoy: envoy.map_or(taken, reason).to_owned(),
            petmesh: petmesh.map_or(taken, reason).to_owned(),
            kind: format!("{what}: {kind}"),
        })
    }
}

/// The line of a program's log that says why it does not start.
fn reason(log: &str) -> &str {
    let says = |line: &&str| line.contains("rror:") || line.contains("error");
    let line = log.lines().find(says).unwrap_or(log.trim());
    line.rsplit("/proxy.json': ").next().unwrap_or(line)
}

/// Status lines with `other` for a status that proxies do not make themselves.
fn own_status(lines: &str) -> String {
    const OWN: [&str; 12] =
        ["100", "301", "400", "403", "404", "408", "413", "426", "431", "501", "502", "503"];
    let own = |line: &str| {
        let mut words = line.split(' ');
        let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let known = !version.starts_with("HTTP/") || OWN.contains(&status);
        format!("{version} {}", if known { status } else { "other" })
    };
    lines.split(" and ").map(own).collect::<Vec<_>>().join(" and ")
}

const NONE: &str = "(none)";

fn without_numbers(text: &str) -> String {
    text.split(' ').filter(|word| word.parse::<usize>().is_err()).collect::<Vec<_>>().join(" ")
}

/// All differences of one exchange.
pub fn exchange(envoy: &Observation, petmesh: &Observation) -> Vec<Difference> {
    let mut found = Vec::new();
    messages("response", &envoy.responses, &petmesh.responses, &mut found);
    found.extend(Difference::of("the end", &envoy.end, &petmesh.end, Telling::Values));
    messages("upstream's request", &envoy.upstream, &petmesh.upstream, &mut found);
    found
}

fn messages(what: &str, envoy: &[Message], petmesh: &[Message], found: &mut Vec<Difference>) {
    // The lines of requests hold what the generator chose; those of responses a status.
    let telling = if what == "response" { Telling::Status } else { Telling::Presence };
    if envoy.len() != petmesh.len() {
        let lines = |messages: &[Message]| {
            messages.iter().map(|message| message.line.clone()).collect::<Vec<_>>().join(" and ")
        };
        found.extend(Difference::of(&format!("{what}s"), &lines(envoy), &lines(petmesh), telling));
        return;
    }
    for (at, (envoy, petmesh)) in envoy.iter().zip(petmesh).enumerate() {
        let place = format!("{what} {at}");
        if let Some(line) = Difference::of(&format!("{place} line"), &envoy.line, &petmesh.line, telling) {
            // Whatever else differs follows from it.
            found.push(line);
            continue;
        }
        headers(&format!("{place} header"), &envoy.headers, &petmesh.headers, found);
        headers(&format!("{place} trailer"), &envoy.trailers, &petmesh.trailers, found);
        let body = format!("{place} body");
        found.extend(Difference::of(&body, &envoy.body, &petmesh.body, Telling::Presence));
        let framing = format!("{place} framing");
        found.extend(Difference::of(&framing, &envoy.framing, &petmesh.framing, Telling::Values));
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
    let names: BTreeSet<&String> = envoy.keys().chain(petmesh.keys()).collect();
    let shown = |values: Option<&Vec<String>>| values.map_or(NONE.to_owned(), |values| values.join(" & "));
    for name in names {
        let (envoy, petmesh) = (shown(envoy.get(name)), shown(petmesh.get(name)));
        let place = format!("{place} {name}");
        found.extend(Difference::of(&place, &envoy, &petmesh, Telling::Presence));
    }
}

/// Statistics of one configuration by name, without what makes them its own.
pub fn statistics(envoy: &BTreeMap<String, u64>, petmesh: &BTreeMap<String, u64>) -> Vec<Difference> {
    // What petmesh does not declare is not promised.
    let each = petmesh.iter().filter_map(|(name, value)| {
        let envoys = envoy.get(name).copied().unwrap_or(0).to_string();
        let place = format!("statistic {name}");
        Difference::of(&place, &envoys, &value.to_string(), Telling::Nothing)
    });
    each.collect()
}

pub fn log_lines(envoy: &[String], petmesh: &[String]) -> Vec<Difference> {
    let mut found = Vec::new();
    if envoy.len() != petmesh.len() {
        let count = |lines: &[String], others: &[String]| {
            let only = lines.iter().find(|line| !others.contains(line));
            let only = only.map_or(String::new(), |line| format!(", {}", line.replace(BETWEEN, " | ")));
            format!("{} lines{only}", lines.len())
        };
        let (envoy, petmesh) = (count(envoy, petmesh), count(petmesh, envoy));
        found.extend(Difference::of("access log", &envoy, &petmesh, Telling::Nothing));
        return found;
    }
    for (envoy, petmesh) in envoy.iter().zip(petmesh) {
        let values = envoy.split(BETWEEN).zip(petmesh.split(BETWEEN));
        for (field, (envoy, petmesh)) in LOG.into_iter().zip(values) {
            let tells = ["CODE", "FLAGS", "DETAILS", "PROTOCOL"];
            let telling = if tells.iter().any(|part| field.contains(part)) {
                Telling::Values
            } else {
                Telling::Presence
            };
            found.extend(Difference::of(&format!("access log {field}"), envoy, petmesh, telling));
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
    /// The client's version; any by default.
    #[serde(default)]
    http2: Option<bool>,
    /// Why it stays: an RFC's section, or a page of `docs/decisions`.
    #[serde(rename = "why")]
    _why: String,
}

#[derive(Debug)]
struct KeptOne {
    difference: Regex,
    exchange: Regex,
    http2: Option<bool>,
}

impl Kept {
    pub fn read() -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kept.yaml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let entries: Vec<Entry> = serde_saphyr::from_str(&text).context("kept.yaml")?;
        let each = entries.iter().map(|entry| {
            Ok(KeptOne {
                difference: Regex::new(&entry.difference)?,
                exchange: Regex::new(&entry.exchange)?,
                http2: entry.http2,
            })
        });
        each.collect::<anyhow::Result<_>>().map(Self)
    }

    /// Whether a difference is kept. What all exchanges of a configuration show together (its log, its statistics) is
    /// kept only if the reason holds for each of them.
    pub fn has(&self, difference: &Difference, exchanges: &[Exchange]) -> bool {
        let text = difference.to_string();
        let texts: Vec<String> =
            exchanges.iter().map(|exchange| serde_json::to_string(exchange).unwrap_or_default()).collect();
        self.0.iter().any(|kept| {
            kept.difference.is_match(&text)
                && exchanges.iter().all(|exchange| kept.http2.is_none_or(|http2| http2 == exchange.http2))
                && texts.iter().all(|text| kept.exchange.is_match(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference() -> Difference {
        Difference::of("access log X", "a", "b", Telling::Values).unwrap()
    }

    fn kept(exchange: &str, http2: Option<bool>) -> Kept {
        let regex = |text| Regex::new(text).unwrap();
        Kept(vec![KeptOne { difference: regex("^access log"), exchange: regex(exchange), http2 }])
    }

    #[test]
    fn a_reason_holds_for_every_exchange() {
        let odd = Exchange { abort: true, ..Exchange::default() };
        let plain = Exchange { http2: true, ..Exchange::default() };
        let reason = kept("\"abort\":true", None);
        assert!(reason.has(&difference(), std::slice::from_ref(&odd)));
        assert!(!reason.has(&difference(), &[odd.clone(), plain.clone()]));
        assert!(kept("", Some(true)).has(&difference(), std::slice::from_ref(&plain)));
        assert!(!kept("", Some(true)).has(&difference(), &[odd]));
    }

    #[test]
    fn every_kept_difference_has_a_reason_that_reads() {
        assert!(!Kept::read().unwrap().0.is_empty());
    }

    #[test]
    fn statuses_of_upstreams_are_of_one_kind() {
        let kind = |envoy, petmesh| {
            let difference = Difference::of("response 1 line", envoy, petmesh, Telling::Status);
            difference.unwrap().kind
        };
        assert_eq!(
            kind("HTTP/1.1 400 Bad Request", "HTTP/1.1 200 OK"),
            kind("HTTP/1.1 400 Bad", "HTTP/1.1 206 P")
        );
        assert_ne!(kind("HTTP/1.1 400 Bad Request", "x"), kind("HTTP/1.1 404 Not Found", "x"));
    }
}
