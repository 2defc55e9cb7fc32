//! What can go wrong with the local mesh, in the words that the user reads.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use crate::plan::SERVICES;

/// Each message names the thing and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A second `up`, or a command that needs the mesh to be down.
    #[error(
        "the mesh is already running (supervisor: process {pid}); `petmesh ps` shows it, `petmesh down` stops it"
    )]
    AlreadyRunning {
        /// Process id of the supervisor.
        pid: u32,
    },
    /// A command that needs a running mesh.
    #[error("no mesh is running in {}; `petmesh up` starts one, and `--dir DIR` names another folder", .0.display())]
    NotRunning(PathBuf),
    /// A folder with files in it that no mesh has made.
    #[error("{} is not empty and no mesh has run in it: name another folder, or one that does not exist, with `--dir DIR`", .0.display())]
    NotOurs(PathBuf),
    /// A program of the mesh is not where it should be.
    #[error("missing {} in {}: run `make build` first", .missing.join(", "), .dir.display())]
    MissingBinary {
        /// The names of all that are missing.
        missing: Vec<String>,
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// An Envoy file of the mesh is not where it should be.
    #[error("no configuration {}: run petmesh in the repository's root, or name the folder with --config-dir", .0.display())]
    MissingConfig(PathBuf),
    /// An Envoy file of the mesh cannot be used. The text is that of the reader, with its places.
    #[error("{text}")]
    BadConfig {
        /// The diagnostics.
        text: String,
    },
    /// Ports that others listen on; one line each.
    #[error("these addresses are needed and in use:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    PortsInUse(Vec<PortInUse>),
    /// A loopback address that this machine does not have.
    #[error(
        "the address {0} does not exist on this machine, and each pod of the mesh has its own. On macOS only 127.0.0.1 \
         exists at first; this adds the others until the next restart:\n  {1}"
    )]
    AddressUnavailable(Ipv4Addr, String),
    /// The mesh did not come up; everything has been stopped again.
    #[error("the mesh did not start: {0}")]
    StartFailed(String),
    /// A name that does not exist, with those that do.
    #[error("there is no {kind} {name}; there are {}", .existing.join(", "))]
    Unknown {
        /// `pod` or `service`.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// A request that makes no sense for this mesh.
    #[error("{0}")]
    Refused(String),
    /// An operation of the system failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// An [`Error::Io`].
    #[must_use]
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// One address that is taken, and by whom if that could be found out.
#[derive(Debug, PartialEq, Eq)]
pub struct PortInUse {
    /// The address and port.
    pub address: SocketAddrV4,
    /// The pod that needs it.
    pub pod: String,
    /// Process id and name of the listener.
    pub owner: Option<(u32, String)>,
}

impl std::fmt::Display for PortInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  {} (for {}), ", self.address, self.pod)?;
        match &self.owner {
            Some((pid, name)) => {
                write!(f, "held by {name} (process {pid})")?;
                let is_ours =
                    SERVICES.iter().any(|service| [service.app, service.proxy].contains(&Some(name)));
                if is_ours {
                    f.write_str("; of another mesh? `petmesh down --dir DIR` stops it")
                } else {
                    Ok(())
                }
            }
            None => write!(f, "held by an unknown process"),
        }
    }
}
