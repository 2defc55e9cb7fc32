//! Files that a configuration is read from: their content, and how a change of one is noticed.
//!
//! A change shows as another inode, time or size of the file behind all symlinks, which is how a
//! ConfigMap swaps its `..data`. Changed permissions count: they may let the file be read.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::time::in_time;

/// The most that a file may have, in bytes.
const SIZE_LIMIT: u64 = 16 << 20;

/// The state of a file, to notice changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: (u64, u64),
    modified: (i64, i64),
    /// Also of owner and permissions.
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    /// The state of a file now; `None` when there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().as_ref().map(Self::new)
    }

    fn new(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.size(),
        }
    }
}

/// Files with the state in which they were read.
pub(crate) type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// The files that a build takes data from (`filename` of a data source).
#[derive(Debug, Default)]
pub struct Files(Mutex<Stamps>);

impl Files {
    /// The bytes of a file within the limits.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let owned = path.to_owned();
        let (stamp, content) = in_time(move || Ok(look(&owned))).unwrap_or_else(|error| (None, Err(error)));
        let mut stamps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stamps.entry(path.to_owned()).or_insert(stamp);
        content
    }

    pub(crate) fn into_stamps(self) -> Stamps {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a regular file within the size limit. Nothing else is opened: a pipe or a device
/// could block for ever.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    look(path).1
}

/// The bytes of a file and the state in which they were read: `None` when there is no file, or it
/// changed meanwhile.
pub(crate) fn look(path: &Path) -> (Option<Stamp>, Result<Vec<u8>>) {
    let before = match path.metadata() {
        Ok(before) => before,
        Err(error) => return (None, Err(error)),
    };
    let stamp = Stamp::new(&before);
    let content = is_regular(&before).and_then(|()| content(path));
    let same = Stamp::of(path).is_some_and(|after| after == stamp);
    (same.then_some(stamp), content)
}

fn is_regular(meta: &Metadata) -> Result<()> {
    if meta.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "it is a directory: name the file in it"));
    }
    if !meta.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is a pipe, a device or a socket: name a file"));
    }
    Ok(())
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        let text = format!("the file has more than {SIZE_LIMIT} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "../../tests/unit/files.rs"]
mod tests;
