//! All statistics at one moment, added up over the threads, under the names that Envoy prints.

use std::collections::BTreeMap;

use super::{AnyScope, Registry, Sample, Summary};

/// Statistics by full name.
pub(crate) type Collected = BTreeMap<String, Stat>;

/// A statistic, and where its name within its scope begins: names of clusters may have dots.
#[derive(Clone, Debug)]
pub(crate) struct Stat {
    /// Length of the scope's prefix (`cluster.pet.` is 12).
    pub prefix: usize,
    pub value: Value,
}

/// A statistic's value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Counter(u64),
    /// `set` is false for one that was never set.
    Gauge {
        value: u64,
        set: bool,
    },
    Histogram(Summary),
}

impl Value {
    /// Whether anything was counted, set or recorded (`usedonly`).
    pub(crate) fn is_used(&self) -> bool {
        match self {
            Self::Counter(count) => *count > 0,
            Self::Gauge { set, .. } => *set,
            Self::Histogram(summary) => summary.count() > 0,
        }
    }

    fn add(&mut self, sample: &Sample<'_>) {
        match (self, sample) {
            (Self::Counter(count), Sample::Counter(counter)) => *count = count.saturating_add(counter.get()),
            (Self::Gauge { value, set }, Sample::Gauge(gauge)) => {
                // Shards may be negative, their sum is not.
                *value = value.wrapping_add(gauge.get().cast_unsigned());
                *set |= gauge.is_set();
            }
            (Self::Histogram(summary), Sample::Histogram(histogram)) => histogram.add_to(summary),
            _ => {}
        }
    }

    fn empty(sample: &Sample<'_>) -> Self {
        match sample {
            Sample::Counter(_) | Sample::Codes(_) | Sample::Classes(_) => Self::Counter(0),
            Sample::Gauge(_) => Self::Gauge { value: 0, set: false },
            Sample::Histogram(_) => Self::Histogram(Summary::default()),
        }
    }
}

impl Registry {
    /// Every statistic that Envoy would show.
    pub(crate) fn collect(&self) -> Collected {
        let mut all = Collected::new();
        for scope in self.scopes() {
            collect_scope(&*scope, &mut all);
        }
        all
    }

    /// Every histogram with a value, by its full name. Nothing else is named or copied, so that this
    /// may be done at intervals.
    pub(crate) fn histograms(&self) -> BTreeMap<String, Summary> {
        let mut all = BTreeMap::new();
        for scope in self.scopes() {
            scope.visit(&mut |name, sample| match sample {
                Sample::Histogram(histogram) if histogram.is_used() => {
                    let name = format!("{}{name}", scope.prefix());
                    histogram.add_to(all.entry(name).or_default());
                }
                _ => {}
            });
        }
        all
    }
}

fn collect_scope(scope: &dyn AnyScope, all: &mut Collected) {
    let prefix = scope.prefix();
    let mut found: BTreeMap<&'static str, Value> = BTreeMap::new();
    scope.visit(&mut |name, sample| match sample {
        Sample::Codes(codes) => {
            for (status, count) in codes.seen() {
                add(all, prefix, &format!("{name}_{status}"), count);
                add(all, prefix, &format!("{name}_{}xx", status / 100), count);
            }
        }
        Sample::Classes(codes) => {
            (1..=5).for_each(|class| add(all, prefix, &format!("{name}_{class}xx"), 0));
            for (status, count) in codes.seen() {
                add(all, prefix, &format!("{name}_{}xx", status / 100), count);
            }
        }
        sample => found.entry(name).or_insert_with(|| Value::empty(&sample)).add(&sample),
    });
    found.retain(|name, value| value.is_used() || !scope.is_on_demand(name));
    let stat = |value| Stat { prefix: prefix.len(), value };
    all.extend(found.into_iter().map(|(name, value)| (format!("{prefix}{name}"), stat(value))));
    scope.visit_workers(&mut |worker, name, sample| {
        let name = format!("{prefix}worker_{worker}.{name}");
        all.entry(name).or_insert_with(|| stat(Value::empty(&sample))).value.add(&sample);
    });
}

fn add(all: &mut Collected, prefix: &str, name: &str, more: u64) {
    let new = || Stat { prefix: prefix.len(), value: Value::Counter(0) };
    if let Value::Counter(count) = &mut all.entry(format!("{prefix}{name}")).or_insert_with(new).value {
        *count = count.saturating_add(more);
    }
}
