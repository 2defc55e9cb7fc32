//! `/stats`: text and JSON, with Envoy's parameters and error texts, and the intervals of histograms.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use regex::{Regex, RegexBuilder};
use serde_json::{Value as Json, json};

use super::page::{Page, Params};
use super::{Admin, prometheus, server};
use crate::stats::{Collected, Registry, Summary, Value};

/// The shares that are shown of each histogram, in percent.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// The upper bounds of the buckets that are shown of each histogram (Envoy's defaults); the first, 0.5, counts only zeros.
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Which statistics are asked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    used_only: bool,
    filter: Option<Regex>,
    invert: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    All,
    Counters,
    Gauges,
    Histograms,
    /// Texts; there are none here.
    TextReadouts,
}

/// How histograms are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buckets {
    Summary,
    Cumulative,
    Disjoint,
}

pub(super) const BUCKETS_USAGE: &str =
    "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";

pub(super) fn page(admin: &Admin, params: &Params) -> Page {
    let wanted = match Wanted::new(params) {
        Ok(wanted) => wanted,
        Err(page) => return page,
    };
    if params.get("format") == Some("prometheus") {
        return prometheus::page(admin, params);
    }
    let buckets = match params.get("histogram_buckets") {
        None | Some("" | "summary") => Buckets::Summary,
        Some("cumulative") => Buckets::Cumulative,
        Some("disjoint") => Buckets::Disjoint,
        Some("detailed" | "prometheusnative") => {
            return Page::error(
                501,
                "These histogram_buckets are not implemented in petmesh: use cumulative.\n",
            );
        }
        Some(_) => return Page::error(400, BUCKETS_USAGE),
    };
    match params.get("format") {
        None | Some("" | "text") => Page::text(text(admin, &wanted, buckets)),
        Some("json") => Page::compact_json(&to_json(admin, &wanted)),
        Some("html" | "active-html") => {
            let text = text(admin, &wanted, buckets).replace('&', "&amp;").replace('<', "&lt;");
            Page::html(format!("<!DOCTYPE html>\n<title>Envoy Admin</title>\n<pre>\n{text}</pre>\n"))
        }
        Some(_) => Page::error(400, "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
    }
}

impl Wanted {
    pub(super) fn new(params: &Params) -> Result<Self, Page> {
        let kind = match params.get("type") {
            None | Some("" | "All") => Kind::All,
            Some("Counters") => Kind::Counters,
            Some("Gauges") => Kind::Gauges,
            Some("Histograms") => Kind::Histograms,
            Some("TextReadouts") => Kind::TextReadouts,
            Some(_) => return Err(Page::error(400, "invalid &type= param")),
        };
        Ok(Self {
            used_only: params.has("usedonly"),
            filter: params.get("filter").filter(|text| !text.is_empty()).map(regex).transpose()?,
            invert: params.has("invert_filter"),
            kind,
        })
    }

    /// The requested statistics with their current values.
    pub(super) fn collect(&self, admin: &Admin) -> Collected {
        server::refresh(admin);
        super::clusters::refresh(&admin.context);
        let mut all = admin.context.registry.collect();
        all.retain(|name, stat| {
            let of_kind = match stat.value {
                Value::Counter(_) => matches!(self.kind, Kind::All | Kind::Counters),
                Value::Gauge { .. } => matches!(self.kind, Kind::All | Kind::Gauges),
                Value::Histogram(_) => matches!(self.kind, Kind::All | Kind::Histograms),
            };
            let matches = self.filter.as_ref().is_none_or(|filter| filter.is_match(name) != self.invert);
            of_kind && matches && (!self.used_only || stat.value.is_used())
        });
        all
    }
}

/// A regular expression of a parameter, or the error response for it.
pub(super) fn regex(text: &str) -> Result<Regex, Page> {
    let compiled = RegexBuilder::new(text).size_limit(1 << 20).build();
    compiled.map_err(|error| Page::error(400, format!("Invalid re2 regex: {error}")))
}

fn text(admin: &Admin, wanted: &Wanted, buckets: Buckets) -> String {
    let mut out = String::new();
    let mut histograms = String::new();
    for (name, stat) in &wanted.collect(admin) {
        match &stat.value {
            Value::Counter(count) => out.push_str(&format!("{name}: {count}\n")),
            Value::Gauge { value, .. } => out.push_str(&format!("{name}: {value}\n")),
            Value::Histogram(summary) => {
                let interval = admin.intervals.get(name);
                histograms.push_str(&format!("{name}: {}\n", histogram_text(summary, &interval, buckets)));
            }
        }
    }
    out + &histograms
}

fn histogram_text(cumulative: &Summary, interval: &Summary, buckets: Buckets) -> String {
    if cumulative.count() == 0 {
        return "No recorded values".to_owned();
    }
    let shown: Vec<String> = match buckets {
        Buckets::Summary => QUANTILES
            .iter()
            .map(|percent| {
                let of = |summary: &Summary| {
                    summary
                        .quantile(percent / 100.0)
                        .map_or_else(|| "nan".to_owned(), |value| value.to_string())
                };
                format!("P{percent}({},{})", of(interval), of(cumulative))
            })
            .collect(),
        Buckets::Cumulative | Buckets::Disjoint => {
            let mut before = (0, 0);
            let disjoint = buckets == Buckets::Disjoint;
            BOUNDS
                .iter()
                .map(|bound| {
                    let up_to = (count_up_to(interval, *bound), count_up_to(cumulative, *bound));
                    let less = if disjoint { before } else { (0, 0) };
                    before = up_to;
                    format!("B{bound}({},{})", up_to.0 - less.0, up_to.1 - less.1)
                })
                .collect()
        }
    };
    shown.join(" ")
}

/// How many values lie at or below a bound of `BOUNDS`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the bounds are small and positive
pub(super) fn count_up_to(summary: &Summary, bound: f64) -> u64 {
    summary.count_up_to(bound as u64)
}

fn to_json(admin: &Admin, wanted: &Wanted) -> Json {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for (name, stat) in &wanted.collect(admin) {
        match &stat.value {
            Value::Counter(count) => stats.push(json!({"name": name, "value": count})),
            Value::Gauge { value, .. } => stats.push(json!({"name": name, "value": value})),
            Value::Histogram(summary) => {
                let interval = admin.intervals.get(name);
                let of = |summary: &Summary, percent: f64| summary.quantile(percent / 100.0).map(number);
                let values: Vec<_> = QUANTILES
                    .iter()
                    .map(|percent| json!({"cumulative": of(summary, *percent), "interval": of(&interval, *percent)}))
                    .collect();
                histograms.push(json!({"name": name, "values": values}));
            }
        }
    }
    if !histograms.is_empty() {
        let quantiles: Vec<_> = QUANTILES.into_iter().map(number).collect();
        stats.push(
            json!({"histograms": {"supported_quantiles": quantiles, "computed_quantiles": histograms}}),
        );
    }
    json!({ "stats": stats })
}

/// A whole number without a fraction, as Envoy writes it.
#[allow(clippy::cast_possible_truncation)] // checked to be whole and small
fn number(value: f64) -> Json {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// Histograms of the interval that ended last.
#[derive(Debug, Default)]
pub(super) struct Intervals(Mutex<BTreeMap<String, Interval>>);

#[derive(Debug, Default)]
struct Interval {
    /// The whole histogram at the end of the interval.
    at_end: Summary,
    values: Summary,
}

impl Intervals {
    /// Ends the interval.
    pub(super) fn end(&self, registry: &Registry) {
        let mut intervals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *intervals);
        for (name, now) in registry.histograms() {
            let then = before.remove(&name).unwrap_or_default();
            intervals.insert(name, Interval { values: now.since(&then.at_end), at_end: now });
        }
    }

    fn get(&self, name: &str) -> Summary {
        let intervals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        intervals.get(name).map(|interval| interval.values.clone()).unwrap_or_default()
    }
}
