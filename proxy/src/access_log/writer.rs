//! The log writer: one thread that alone blocks on files, and the buffers through which workers hand it their lines.
//!
//! Each worker has a buffer in each sink, under a lock that only it and the writer ever take. The first line wakes the writer, which
//! waits a tenth of a second for more and then swaps the buffers; a half full buffer wakes it at once. A full one drops lines and
//! counts them, so that a slow disk costs log lines and never requests.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::stats::{FilesystemStats, Registry, Scope};
use crate::time::in_time;

/// How long the writer waits for more lines before it writes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes in one worker's buffer of one sink beyond which lines are dropped.
const BUFFER_LIMIT: usize = 1024 * 1024;

/// Bytes of a buffer that are kept while it is empty.
const BUFFER_KEEP: usize = 64 * 1024;

/// Bytes beyond which the writer does not wait.
const BUFFER_URGENT: usize = BUFFER_LIMIT / 4;

/// The writer's handle: opens sinks, flushes them, and on drop writes what is left and ends the thread.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Where lines go: a file, standard output or standard error. Cheap to clone; the file is closed after the last clone is gone.
#[derive(Clone)]
pub struct Sink(Arc<SinkBuffers>);

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sink").field(&self.0.target).finish()
    }
}

/// A log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path}: {source}")]
pub(crate) struct OpenError {
    pub path: String,
    pub source: io::Error,
}

#[derive(Debug)]
struct Shared {
    stats: Arc<Scope<FilesystemStats>>,
    workers: usize,
    /// The writer's own shard of the statistics.
    writer_shard: usize,
    /// Some buffer has lines.
    dirty: AtomicBool,
    /// Some buffer is filling up.
    urgent: AtomicBool,
    orders: Mutex<Orders>,
    wake: Condvar,
    flushed: Condvar,
    sinks: Mutex<BTreeMap<Target, Arc<SinkBuffers>>>,
}

/// What the writer is asked to do besides writing.
#[derive(Debug, Default)]
struct Orders {
    stop: bool,
    reopen: bool,
    flushes_asked: u64,
    flushes_done: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Debug)]
struct SinkBuffers {
    target: Target,
    /// The open file; only the writer uses it after it was opened.
    file: Mutex<Option<File>>,
    buffers: Box<[Mutex<Vec<u8>>]>,
    shared: Arc<Shared>,
}

impl LogWriter {
    /// Starts the thread. Workers are counted by the registry's shards; the counts are `filesystem.`.
    pub fn start(registry: &Registry) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            stats: registry.scope("filesystem."),
            workers: registry.workers().max(1),
            writer_shard: registry.log_writer_shard(),
            dirty: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            orders: Mutex::default(),
            wake: Condvar::new(),
            flushed: Condvar::new(),
            sinks: Mutex::default(),
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || run(&writer))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A sink for a file, made if it is missing and appended to. The same path is the same sink.
    pub(crate) fn open(&self, path: &Path) -> Result<Sink, OpenError> {
        let target = Target::File(path.to_owned());
        let mut sinks = lock(&self.shared.sinks);
        if let Some(sink) = sinks.get(&target) {
            return Ok(Sink(Arc::clone(sink)));
        }
        let file = append(path).map_err(|source| OpenError { path: path.display().to_string(), source })?;
        Ok(self.insert(&mut sinks, target, Some(file)))
    }

    pub(crate) fn stdout(&self) -> Sink {
        self.standard(Target::Stdout)
    }

    pub(crate) fn stderr(&self) -> Sink {
        self.standard(Target::Stderr)
    }

    /// Writes everything that was logged before the call, and returns when it is written. Blocks: for the shutdown.
    pub(crate) fn flush(&self) {
        let mut orders = lock(&self.shared.orders);
        orders.flushes_asked += 1;
        let wanted = orders.flushes_asked;
        self.shared.wake.notify_one();
        while orders.flushes_done < wanted && !orders.stop {
            orders = self.shared.flushed.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens the files again before the next line, after they were moved away (SIGUSR1).
    pub(crate) fn reopen(&self) {
        lock(&self.shared.orders).reopen = true;
        self.shared.wake.notify_one();
    }

    fn standard(&self, target: Target) -> Sink {
        let mut sinks = lock(&self.shared.sinks);
        match sinks.get(&target) {
            Some(sink) => Sink(Arc::clone(sink)),
            None => self.insert(&mut sinks, target, None),
        }
    }

    fn insert(
        &self,
        sinks: &mut BTreeMap<Target, Arc<SinkBuffers>>,
        target: Target,
        file: Option<File>,
    ) -> Sink {
        let buffers = (0..self.shared.workers).map(|_| Mutex::default()).collect();
        let shared = Arc::clone(&self.shared);
        let sink = Arc::new(SinkBuffers { target: target.clone(), file: Mutex::new(file), buffers, shared });
        sinks.insert(target, Arc::clone(&sink));
        Sink(sink)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        lock(&self.shared.orders).stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer cannot be reported.
            let _ = thread.join();
        }
        // Sinks hold the shared part and the shared part the sinks: cut the circle.
        lock(&self.shared.sinks).clear();
    }
}

impl Sink {
    /// Appends what `write` writes to the worker's buffer, or counts a dropped line when that is full.
    pub(crate) fn write_line(&self, worker: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let (sink, shared) = (&self.0, &self.0.shared);
        let stats = shared.stats.shard(worker);
        let Some(buffer) = sink.buffers.get(worker % sink.buffers.len().max(1)) else { return };
        let filled = {
            let mut buffer = lock(buffer);
            if buffer.len() >= BUFFER_LIMIT {
                stats.write_dropped.inc();
                return;
            }
            let before = buffer.len();
            write(&mut buffer);
            stats.write_buffered.inc();
            stats.write_total_buffered.add(i64::try_from(buffer.len() - before).unwrap_or(0));
            buffer.len()
        };
        shared.raise(&shared.dirty);
        if filled >= BUFFER_URGENT {
            shared.raise(&shared.urgent);
        }
    }
}

impl Shared {
    /// Sets a flag and wakes the writer, unless it is set already.
    fn raise(&self, flag: &AtomicBool) {
        if !flag.load(Relaxed) && !flag.swap(true, Relaxed) {
            // The writer looks at the flags under this lock before it sleeps, so that the call cannot fall in between.
            drop(lock(&self.orders));
            self.wake.notify_one();
        }
    }

    /// Sleeps until there is something to do; then a little longer when only lines wait. Returns the orders to carry out.
    fn wait(&self) -> Orders {
        let mut orders = lock(&self.orders);
        let ordered =
            |orders: &Orders| orders.stop || orders.reopen || orders.flushes_asked > orders.flushes_done;
        while !ordered(&orders) && !self.dirty.load(Relaxed) {
            orders = self.wake.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
        if !ordered(&orders) && !self.urgent.load(Relaxed) {
            let waited = self.wake.wait_timeout_while(orders, FLUSH_INTERVAL, |orders| {
                !ordered(orders) && !self.urgent.load(Relaxed)
            });
            let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            orders = after;
            if timeout.timed_out() {
                self.stats.shard(self.writer_shard).flushed_by_timer.inc();
            }
        }
        self.dirty.store(false, Relaxed);
        self.urgent.store(false, Relaxed);
        let reopen = std::mem::take(&mut orders.reopen);
        Orders { reopen, ..*orders }
    }
}

/// The thread.
fn run(shared: &Shared) {
    let mut spare = Vec::new();
    loop {
        let orders = shared.wait();
        let sinks: Vec<_> = lock(&shared.sinks).values().cloned().collect();
        for sink in &sinks {
            if orders.reopen {
                sink.reopen();
            }
            sink.write_out(&mut spare);
        }
        drop(sinks);
        // A sink that only this map holds has no writer any more, and what it had is written.
        lock(&shared.sinks).retain(|_, sink| Arc::strong_count(sink) > 1 || !sink.is_empty());
        lock(&shared.orders).flushes_done = orders.flushes_asked;
        shared.flushed.notify_all();
        if orders.stop {
            return;
        }
    }
}

impl SinkBuffers {
    fn is_empty(&self) -> bool {
        self.buffers.iter().all(|buffer| lock(buffer).is_empty())
    }

    fn reopen(&self) {
        let Target::File(path) = &self.target else { return };
        match append(path) {
            Ok(file) => *lock(&self.file) = Some(file),
            Err(error) => {
                self.shared.stats.shard(self.shared.writer_shard).reopen_failed.inc();
                tracing::warn!(path = %path.display(), %error, "cannot reopen a log file; the old one is written on");
            }
        }
    }

    /// Takes each worker's lines and writes them. `spare` is the buffer that takes the place of the one being written.
    fn write_out(&self, spare: &mut Vec<u8>) {
        for buffer in &self.buffers {
            std::mem::swap(spare, &mut *lock(buffer));
            if spare.is_empty() {
                continue;
            }
            let stats = self.shared.stats.shard(self.shared.writer_shard);
            match self.write_bytes(spare) {
                Ok(()) => stats.write_completed.inc(),
                Err(error) => {
                    stats.write_failed.inc();
                    tracing::debug!(target = ?self.target, %error, "lines of an access log are lost");
                }
            }
            stats.write_total_buffered.add(-i64::try_from(spare.len()).unwrap_or(0));
            spare.clear();
            // A burst does not keep its memory.
            spare.shrink_to(BUFFER_KEEP);
        }
    }

    fn write_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        match &self.target {
            Target::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Target::Stderr => io::stderr().lock().write_all(bytes),
            Target::File(_) => match lock(&self.file).as_mut() {
                Some(file) => file.write_all(bytes),
                None => Err(io::Error::from(io::ErrorKind::NotFound)),
            },
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    // A pipe that nothing reads would block for ever.
    let path = path.to_owned();
    in_time(move || OpenOptions::new().create(true).append(true).open(path))
}

/// A panic elsewhere leaves whole lines or none: the data stays good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A sink that the writer does not know, so that nothing ever empties it.
    pub(crate) fn undrained(writer: &LogWriter) -> Sink {
        let shared = Arc::clone(&writer.shared);
        let buffers = (0..shared.workers).map(|_| Mutex::default()).collect();
        Sink(Arc::new(SinkBuffers { target: Target::Stdout, file: Mutex::new(None), buffers, shared }))
    }
}
