//! Files that a configuration is read from: their text, and how a change of one is noticed.
//!
//! A change shows as another inode, time or size of the file behind all symlinks, which is how a ConfigMap swaps its `..data`.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The most that a file may have, in bytes.
const SIZE_LIMIT: u64 = 16 << 20;

/// The state of a file, to notice changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    target: PathBuf,
    inode: (u64, u64),
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    /// The state of a file now; `None` when there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
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

/// Files with the state that they had just before they were read.
pub(crate) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// The files that a build takes data from (`filename` of a data source).
#[derive(Debug, Default)]
pub struct Files(Mutex<Stamps>);

impl Files {
    pub(super) fn note(&self, path: &Path) {
        let mut stamps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stamps.entry(path.to_owned()).or_insert_with(|| Stamp::of(path));
    }

    pub(crate) fn into_stamps(self) -> Stamps {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a file within the limit. A device without end is only too large.
pub(crate) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "it is a directory: name the file in it"));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        let text = format!("the file has more than {SIZE_LIMIT} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}
