//! The mesh's folder: where everything lies, who holds it, and what it says of itself.
//!
//! ```text
//! mesh/petmesh.lock     held by the supervisor as long as it lives
//! mesh/state.json       the mesh as last seen; the supervisor's process id
//! mesh/control.sock     where commands are taken
//! mesh/supervisor.log   mesh/kubeconfig   mesh/ca.pem   mesh/token
//! mesh/pet-1/           proxy.yaml  proxy.log  app.log  access.log
//! ```
//!
//! The folder is its owner's alone: the token and the kubeconfig open the local Kubernetes API, the socket ends the
//! mesh, and a proxy takes over a changed `proxy.yaml`.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::plan;

/// The folder's usual place, relative to the current directory.
pub const DEFAULT: &str = "mesh";

/// Folders that nobody but their owner may enter.
const PRIVATE_DIR: u32 = 0o700;

/// Files that nobody but their owner may read or write.
const PRIVATE_FILE: u32 = 0o600;

/// The most that is read of a log's end.
const TAIL_BYTES: u64 = 16 * 1024;

/// The paths below one mesh's folder.
#[derive(Debug, Clone)]
pub struct Dir(PathBuf);

impl Dir {
    /// Names the folder; nothing is created.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where commands are taken.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The mesh as last seen.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// What the supervisor says.
    #[must_use]
    pub fn supervisor_log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// For kubectl.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// The certificate authority of the local Kubernetes API.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The bearer token of sds.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    /// The folder of one pod.
    #[must_use]
    pub fn pod(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The Envoy file of one pod.
    #[must_use]
    pub fn config(&self, pod: &str) -> PathBuf {
        self.pod(pod).join("proxy.yaml")
    }

    /// What the proxy or app of one pod writes.
    #[must_use]
    pub fn log(&self, pod: &str, container: &str) -> PathBuf {
        self.pod(pod).join(format!("{container}.log"))
    }

    /// The access log of one pod's proxy.
    #[must_use]
    pub fn access_log(&self, pod: &str) -> PathBuf {
        self.pod(pod).join("access.log")
    }

    /// Creates the folder, for its owner alone, and the lock in it. One that exists keeps its mode.
    ///
    /// A folder that has no lock and is not empty is somebody else's: what is in it could have the names of our files.
    ///
    /// # Errors
    /// [`Error::NotOurs`], or it cannot be created.
    pub fn create(&self) -> Result<(), Error> {
        if !self.is_ours() && !self.others().is_empty() {
            return Err(Error::NotOurs(self.0.clone()));
        }
        create(&self.0)?;
        self.open_lock().map(drop)
    }

    /// Creates the folder of one pod.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create_pod(&self, name: &str) -> Result<(), Error> {
        create(&self.pod(name))
    }

    /// Creates the folder and takes it for this process: the returned file holds the lock until it is dropped.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another supervisor has it, [`Error::NotOurs`] if it is no mesh's.
    pub fn take(&self) -> Result<File, Error> {
        self.create()?;
        self.try_lock()?
            .ok_or_else(|| Error::AlreadyRunning { pid: self.last_supervisor().unwrap_or_default() })
    }

    /// Whether a mesh runs or has run in this folder.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.lock().exists()
    }

    /// What is in the folder beside the lock.
    fn others(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| *path != self.lock()).collect()
    }

    /// Whether a supervisor holds the folder.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.lock().exists() && matches!(self.try_lock(), Ok(None))
    }

    /// Whether an earlier mesh has left something: its state if it was killed, logs of its programs.
    #[must_use]
    pub fn has_remains(&self) -> bool {
        self.state().exists() || !self.pods().is_empty()
    }

    /// Removes what an earlier mesh left: the pods' folders, the socket, the state. The supervisor's log is emptied, since
    /// this process writes to it.
    ///
    /// # Errors
    /// The folder cannot be read or a part of it not be removed.
    pub fn clear(&self) -> Result<(), Error> {
        for name in self.pods() {
            let folder = self.pod(&name);
            fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
        }
        let log = self.supervisor_log();
        if let Ok(file) = File::options().write(true).open(&log) {
            file.set_len(0).map_err(|e| Error::io("empty", &log, e))?;
        }
        self.clear_state()
    }

    /// Removes what only a running mesh has: the socket, the state and the keys to its Kubernetes API.
    ///
    /// # Errors
    /// One of them cannot be removed.
    pub fn clear_state(&self) -> Result<(), Error> {
        let files = [self.socket(), self.state(), self.token(), self.kubeconfig(), self.ca()];
        files.iter().try_for_each(|file| remove(file))
    }

    /// Removes what a start that failed has made, and the folder itself if nothing else is in it. Logs of programs that
    /// ran (`with_logs` keeps the supervisor's) stay, because the error names them. The lock must be held.
    ///
    /// # Errors
    /// A part of it cannot be removed.
    pub fn abandon(&self, with_logs: bool) -> Result<(), Error> {
        self.clear_state()?;
        for name in self.pods() {
            remove(&self.config(&name))?;
            remove_if_empty(&self.pod(&name))?;
        }
        if !with_logs {
            remove(&self.supervisor_log())?;
        }
        // The lock says whose the rest is.
        if !self.others().is_empty() {
            return Ok(());
        }
        remove(&self.lock())?;
        remove_if_empty(&self.0)
    }

    /// The names of the pods that have a folder, in order.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| plan::is_pod_name(name))
            .collect();
        names.sort();
        names
    }

    /// The supervisor's process id in the state file: of the running one, or of the one that left the file behind.
    #[must_use]
    pub fn last_supervisor(&self) -> Option<u32> {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(self.state()).ok()?).ok()?;
        u32::try_from(state.get("supervisor")?.get("pid")?.as_u64()?).ok()
    }

    fn lock(&self) -> PathBuf {
        self.0.join("petmesh.lock")
    }

    fn open_lock(&self) -> Result<File, Error> {
        let path = self.lock();
        let file = File::options().create(true).truncate(false).write(true).mode(PRIVATE_FILE).open(&path);
        file.map_err(|e| Error::io("open", &path, e))
    }

    fn try_lock(&self) -> Result<Option<File>, Error> {
        let path = self.lock();
        loop {
            let file = self.open_lock()?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
            }
            // A start that failed removes its lock: one that was opened before that guards nothing.
            let held = file.metadata().map_err(|e| Error::io("look at", &path, e))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == held) {
                return Ok(Some(file));
            }
        }
    }
}

/// Replaces a file of the mesh, readable by its owner alone. The new text is written to a file beside it, which is
/// then renamed. Readers see either text whole, even if the supervisor is killed in between.
///
/// # Errors
/// It cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_added_extension("new");
    remove(&new)?;
    let file = File::options().write(true).create_new(true).mode(PRIVATE_FILE).open(&new);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| Error::io("write", &new, e))?;
    fs::rename(&new, path).map_err(|e| Error::io("replace", path, e))
}

/// Takes everybody's access to a file away but its owner's.
///
/// # Errors
/// The mode cannot be changed.
pub fn make_private(path: &Path) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_FILE))
        .map_err(|e| Error::io("change the mode of", path, e))
}

fn create(path: &Path) -> Result<(), Error> {
    let created = DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path);
    created.map_err(|e| Error::io("create", path, e))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

fn remove_if_empty(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// The last `lines` lines of a log, empty if it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests;
