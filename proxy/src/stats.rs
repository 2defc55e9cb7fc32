//! Statistics: counters, gauges and histograms under Envoy's names, one shard for each thread.
//!
//! A shard has one writer, so counting is a plain load and store. The admin thread sums the shards.
//! A worker's shard is allocated with the worker's first count, so an idle cluster costs one shard
//! however many workers there are. A scope (a cluster, a listener, …) lives as long as something
//! holds it and keeps its counts over reloads.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

mod collect;
mod groups;
mod histogram;
#[cfg(test)]
#[path = "../tests/unit/stats.rs"]
mod tests;

pub(crate) use collect::{Collected, Stat, Value};
pub use groups::*;
pub(crate) use histogram::{Histogram, Summary};

/// A count of events, the only type that counts them: 64 bits wide, and it saturates. It only
/// grows until `/reset_counters`. One thread writes it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).saturating_add(more), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A level. One thread writes it; the value shown is the sum over the shards.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Default for Gauge {
    fn default() -> Self {
        Self(AtomicI64::new(Self::NEVER_SET))
    }
}

impl Gauge {
    /// Marks a gauge that was never set: `usedonly` leaves it out.
    const NEVER_SET: i64 = i64::MIN;

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn dec(&self) {
        self.add(-1);
    }

    pub(crate) fn add(&self, more: i64) {
        self.set(self.get().saturating_add(more));
    }

    pub(crate) fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// All 64 bits of a hash.
    pub(crate) fn set_hash(&self, hash: u64) {
        self.set(hash.cast_signed());
    }

    /// 0 before it was set.
    pub fn get(&self) -> i64 {
        match self.0.load(Relaxed) {
            Self::NEVER_SET => 0,
            value => value,
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed) != Self::NEVER_SET
    }
}

/// Responses by status: each code that occurred, and its class. 4 KiB, allocated with the first
/// response.
#[derive(Debug, Default)]
pub struct Codes(OnceLock<Box<[Counter]>>);

impl Codes {
    const FIRST: u16 = 100;
    const COUNT: usize = 500;

    /// Counts a response; statuses outside 100–599 are not counted.
    pub(crate) fn record(&self, status: u16) {
        let codes = self.0.get_or_init(|| (0..Self::COUNT).map(|_| Counter::default()).collect());
        if let Some(counter) = status.checked_sub(Self::FIRST).and_then(|at| codes.get(usize::from(at))) {
            counter.inc();
        }
    }

    /// Each status that occurred with its count.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (u16, u64)> {
        let codes = self.0.get().map(|codes| &**codes).unwrap_or_default();
        (Self::FIRST..)
            .zip(codes)
            .map(|(status, counter)| (status, counter.get()))
            .filter(|(_, count)| *count > 0)
    }

    fn reset(&self) {
        self.0.get().into_iter().flat_map(|codes| codes.iter()).for_each(Counter::reset);
    }
}

/// A statistic as a shard shows it.
#[derive(Debug)]
pub enum Sample<'a> {
    Counter(&'a Counter),
    Gauge(&'a Gauge),
    Histogram(&'a Histogram),
    /// Its entries are named after the statistic: `upstream_rq` gives `upstream_rq_200` and `upstream_rq_2xx`.
    Codes(&'a Codes),
    /// Only the classes, which are always shown: `downstream_rq` gives `downstream_rq_1xx` to `downstream_rq_5xx`.
    Classes(&'a Codes),
}

/// The statistics of one kind of thing; written with `stats_group!`.
pub trait Group: Default + Send + Sync + 'static {
    /// Statistics that are not shown before their first value.
    const ON_DEMAND: &'static [&'static str];
    /// Statistics that are shown for each worker too, under `worker_N.`.
    const PER_WORKER: &'static [&'static str];
    /// Shows each statistic under its name within the scope.
    fn visit<'s>(&'s self, show: &mut dyn FnMut(&'static str, Sample<'s>));
}

/// One group for each thread, under one prefix such as `cluster.pet.`.
#[derive(Debug)]
pub struct Scope<T> {
    prefix: String,
    workers: usize,
    shards: Box<[OnceLock<Box<Padded<T>>>]>,
}

/// Keeps shards off each other's cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Group> Scope<T> {
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The shard of a thread: workers count from 0, `Registry` names the others.
    pub fn shard(&self, at: usize) -> &T {
        // The index always exists; the last shard is used instead of a panic.
        let last = self.shards.len().saturating_sub(1);
        &self.shards[at.min(last)].get_or_init(Box::default).0
    }

    /// The shards that something was counted in.
    pub(crate) fn shards(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().filter_map(|shard| Some(&shard.get()?.0))
    }
}

/// A scope of any kind, as the registry knows it.
pub(crate) trait AnyScope: Send + Sync {
    fn prefix(&self) -> &str;
    /// Shows each statistic of each shard that exists: a name comes once for each of them.
    fn visit<'s>(&'s self, show: &mut dyn FnMut(&'static str, Sample<'s>));
    /// Shows each statistic that is shown per worker, with the worker's number.
    fn visit_workers<'s>(&'s self, show: &mut dyn FnMut(usize, &'static str, Sample<'s>));
    /// Whether a statistic is not shown before its first value.
    fn is_on_demand(&self, name: &str) -> bool;
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Group> AnyScope for Scope<T> {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn visit<'s>(&'s self, show: &mut dyn FnMut(&'static str, Sample<'s>)) {
        for shard in self.shards() {
            shard.visit(show);
        }
    }

    fn visit_workers<'s>(&'s self, show: &mut dyn FnMut(usize, &'static str, Sample<'s>)) {
        for worker in (0..self.workers).filter(|_| !T::PER_WORKER.is_empty()) {
            self.shard(worker).visit(&mut |name, sample| {
                if T::PER_WORKER.contains(&name) {
                    show(worker, name, sample);
                }
            });
        }
    }

    fn is_on_demand(&self, name: &str) -> bool {
        T::ON_DEMAND.contains(&name)
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// All scopes by prefix.
#[derive(Clone)]
pub struct Registry {
    workers: usize,
    scopes: Arc<Mutex<BTreeMap<String, Weak<dyn AnyScope>>>>,
}

impl Registry {
    /// A registry for that many workers, and for the threads that have a shard beside theirs: a
    /// shard has one writer.
    pub fn new(workers: usize) -> Self {
        Self { workers, scopes: Arc::default() }
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// The shard of the control thread.
    pub(crate) fn control_shard(&self) -> usize {
        self.workers
    }

    /// The shard of the admin thread.
    pub(crate) fn admin_shard(&self) -> usize {
        self.workers + 1
    }

    /// The shard of the thread that writes access logs.
    pub(crate) fn log_writer_shard(&self) -> usize {
        self.workers + 2
    }

    /// The scope of that prefix (with its final dot): the living one, so that counts survive a reload, or a new one.
    pub fn scope<T: Group>(&self, prefix: &str) -> Arc<Scope<T>> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let living = scopes.get(prefix).and_then(Weak::upgrade);
        if let Some(found) = living.and_then(|scope| scope.as_any().downcast::<Scope<T>>().ok()) {
            return found;
        }
        let shards = (0..=self.log_writer_shard()).map(|_| OnceLock::new()).collect();
        let scope = Arc::new(Scope::<T> { prefix: prefix.to_owned(), workers: self.workers, shards });
        // Collecting finds the names of a group's statistics in one of its shards.
        scope.shard(self.control_shard());
        let weak: Weak<dyn AnyScope> = Arc::<Scope<T>>::downgrade(&scope);
        scopes.insert(prefix.to_owned(), weak);
        scope
    }

    /// The living scopes in order of their prefixes; forgets those that ended.
    pub(crate) fn scopes(&self) -> Vec<Arc<dyn AnyScope>> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.retain(|_, scope| scope.strong_count() > 0);
        scopes.values().filter_map(Weak::upgrade).collect()
    }

    /// Sets every counter to 0, as `/reset_counters` does. Counts of requests that end meanwhile may be lost.
    pub(crate) fn reset_counters(&self) {
        for scope in self.scopes() {
            scope.visit(&mut |_, sample| match sample {
                Sample::Counter(counter) => counter.reset(),
                Sample::Codes(codes) | Sample::Classes(codes) => codes.reset(),
                Sample::Gauge(_) | Sample::Histogram(_) => {}
            });
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("workers", &self.workers).finish_non_exhaustive()
    }
}
