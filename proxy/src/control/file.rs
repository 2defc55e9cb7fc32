//! The configuration file: read, and read again when it changes or on request.
//!
//! A change shows as another inode, time or size of the file behind all symlinks, which is how a ConfigMap swaps its `..data`.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Event;

/// How often a file is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The most that a configuration may have, in bytes.
const SIZE_LIMIT: u64 = 16 << 20;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(PathBuf),
    /// A text of the command line, which never changes.
    Text,
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    target: PathBuf,
    inode: (u64, u64),
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    /// The state of a file now; `None` when there is none.
    pub fn of(path: &Path) -> Option<Self> {
        let target = path.canonicalize().ok()?;
        let meta = target.metadata().ok()?;
        Some(Self {
            target,
            inode: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        })
    }
}

/// The text of a file, if it is not larger than it may be. A device without end is no more than too large.
pub fn read(path: &Path) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        let text = "it is a directory: name the file in it";
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, text));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        let text = format!("the file has more than {SIZE_LIMIT} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes).map_err(|error| {
        let text = format!("it is no text in UTF-8 (byte {})", error.utf8_error().valid_up_to());
        std::io::Error::new(std::io::ErrorKind::InvalidData, text)
    })
}

/// Tells the writer of each change of the file; `known` is the state that it has.
pub(super) async fn watch(path: PathBuf, mut known: Option<Stamp>, events: mpsc::Sender<Event>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let stamp = off_thread({
            let path = path.clone();
            move || Stamp::of(&path)
        });
        let now = stamp.await.flatten();
        // A file that is gone for a moment is being replaced.
        if now.is_none() || now == known {
            continue;
        }
        known = now;
        if events.send(Event::Configuration(text(path.clone()).await)).await.is_err() {
            return;
        }
    }
}

/// Reads a file off the control thread.
pub(super) async fn text(path: PathBuf) -> std::io::Result<String> {
    let reading = off_thread(move || read(&path)).await;
    reading.unwrap_or_else(|| Err(std::io::Error::other("the reading task ended")))
}

/// Runs what may block.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
