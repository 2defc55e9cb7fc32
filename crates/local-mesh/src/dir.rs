//! The mesh's folder: where everything lies, who holds it, and what it says of itself.
//!
//! ```text
//! mesh/lock             held by the supervisor as long as it lives
//! mesh/state.json       the mesh as last seen; the supervisor's process id
//! mesh/control.sock     where commands are taken
//! mesh/supervisor.log   mesh/kubeconfig   mesh/ca.pem   mesh/token
//! mesh/pet-1/           proxy.yaml  proxy.log  app.log  access.log
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::plan;

/// The folder's usual place, relative to the current directory.
pub const DEFAULT: &str = "mesh";

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

    /// Creates the folder and takes it for this process: the returned file holds the lock until it is dropped.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another supervisor has it.
    pub fn take(&self) -> Result<File, Error> {
        fs::create_dir_all(&self.0).map_err(|e| Error::io("create", &self.0, e))?;
        self.try_lock()?
            .ok_or_else(|| Error::AlreadyRunning { pid: self.last_supervisor().unwrap_or_default() })
    }

    /// Whether a supervisor holds the folder.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.0.join("lock").exists() && matches!(self.try_lock(), Ok(None))
    }

    /// Removes what an earlier mesh left: the pods' folders, the socket, the state.
    ///
    /// # Errors
    /// The folder cannot be read or a part of it not be removed.
    pub fn clear(&self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.0).map_err(|e| Error::io("read", &self.0, e))?;
        for entry in
            entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(plan::is_pod_name))
        {
            fs::remove_dir_all(entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
        }
        self.clear_state()
    }

    /// Removes what only a running mesh has: the socket and the state.
    ///
    /// # Errors
    /// One of them cannot be removed.
    pub fn clear_state(&self) -> Result<(), Error> {
        for file in [self.socket(), self.state()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &file, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The supervisor's process id in the state file: of the running one, or of the one that left the file behind.
    #[must_use]
    pub fn last_supervisor(&self) -> Option<u32> {
        let state: serde_json::Value = serde_json::from_slice(&fs::read(self.state()).ok()?).ok()?;
        u32::try_from(state.get("supervisor")?.get("pid")?.as_u64()?).ok()
    }

    fn try_lock(&self) -> Result<Option<File>, Error> {
        let path = self.0.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
        }
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
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_supervisor_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path().join("mesh"));
        assert!(!dir.is_taken());
        let held = dir.take().unwrap();
        fs::write(dir.state(), r#"{"supervisor":{"pid":77}}"#).unwrap();
        assert!(dir.is_taken());
        let error = dir.take().unwrap_err().to_string();
        assert!(error.contains("process 77") && error.contains("petmesh down"), "{error}");
        drop(held);
        assert!(!dir.is_taken());
        assert!(dir.take().is_ok());
    }

    #[test]
    fn clearing_removes_pods_and_leaves_what_the_user_put_there() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::new(temp.path());
        for name in ["pet-1", "notes"] {
            fs::create_dir(dir.pod(name)).unwrap();
        }
        fs::write(dir.state(), "{}").unwrap();
        dir.clear().unwrap();
        assert!(!dir.pod("pet-1").exists() && !dir.state().exists());
        assert!(dir.pod("notes").exists());
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("log");
        fs::write(&file, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&file, 2), "two\nthree");
        assert_eq!(tail(&file, 9), "one\ntwo\nthree");
        assert_eq!(tail(&temp.path().join("none"), 2), "");
    }
}
