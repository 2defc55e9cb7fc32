//! Memory: what the process and its control group use, and what a connection and a request cost.
//!
//! Limits in configuration are computed from the costs (`deploy/README.md`, "Memory of a proxy";
//! `crates/tidy/tests/tidy/manifests/memory.rs` multiplies them). They are measured in a control group
//! of its own, with what the kernel keeps for sockets, and rounded up; the test
//! `proxy/tests/clients/memory.rs` measures them again.

use std::io;
use std::path::{Path, PathBuf};

use socket2::SockRef;

/// A proxy that serves nobody: program, threads, configuration, statistics (2 to 3 MiB).
pub const BASE: u64 = 4 << 20;

/// A cluster that no request has used, with one worker (6 to 8 KiB).
pub const IDLE_CLUSTER: u64 = 8 << 10;

/// An idle connection of a client. HTTP/2 needs 24 to 30 KiB, most of it buffers of `h2`; HTTP/1
/// needs 6 KiB.
pub const IDLE_CONNECTION: u64 = 30 << 10;

/// A request without its buffers: the exchange, both heads, the connection to the host (14 to 17 KiB).
pub const REQUEST: u64 = 17 << 10;

/// A request that waits for a connection to a host, without its buffer (10 to 12 KiB).
pub const WAITING_REQUEST: u64 = 12 << 10;

/// What the kernel keeps to be sent beyond a socket's buffer: it looks at the buffer once a segment.
pub const SEGMENT: u64 = 36 << 10;

/// The least window of an HTTP/2 stream.
pub const LEAST_WINDOW: u64 = 8 << 10;

/// Connections of clients that fit into a limit of memory: half of what is left beside the base is
/// for them, the other half for requests.
pub(crate) fn connections_within(limit: u64) -> u32 {
    u32::try_from(limit.saturating_sub(BASE) / 2 / IDLE_CONNECTION).unwrap_or(u32::MAX).max(16)
}

/// Sizes of the kernel's buffers of a socket, which the control group counts as well. Without one the
/// kernel lets the buffer grow to megabytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketBuffers {
    pub(crate) receive: Option<u32>,
    pub(crate) send: Option<u32>,
}

impl SocketBuffers {
    /// Sets them; connections that a socket accepts inherit them.
    pub(crate) fn apply(self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.receive {
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        if let Some(bytes) = self.send {
            socket.set_send_buffer_size(bytes as usize)?;
        }
        Ok(())
    }
}

/// Bytes of the process, as the kernel counts them; 0 where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub anonymous: u64,
    pub data: u64,
    pub resident: u64,
}

impl Memory {
    pub(crate) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            kilobytes.unwrap_or(0).saturating_mul(1024)
        };
        Self { anonymous: field("RssAnon:"), data: field("VmData:"), resident: field("VmRSS:") }
    }
}

/// The control group that limits the memory of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    names: &'static Names,
}

/// How the files of one version are called.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// Page cache, which the kernel takes back before it kills.
    cache: [&'static str; 2],
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};
const V2: Names =
    Names { limit: "memory.max", usage: "memory.current", cache: ["inactive_file", "active_file"] };

/// Version 1 has no word for "no limit", but a number that no machine has.
const NO_LIMIT: u64 = 1 << 60;

impl Cgroup {
    /// The control group of this process, if it has files.
    pub(crate) fn of_process() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::find(Path::new("/sys/fs/cgroup"), &own)
    }

    /// The group that `own` (`/proc/self/cgroup`) names; in a container, whose groups begin at the
    /// mount, the group there.
    fn find(mount: &Path, own: &str) -> Option<Self> {
        let lines = own.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        });
        let mut candidates = Vec::new();
        for (controllers, path) in lines {
            if controllers.split(',').any(|name| name == "memory") {
                candidates.push((mount.join("memory"), path, &V1));
            } else if controllers.is_empty() {
                candidates.push((mount.to_owned(), path, &V2));
            }
        }
        candidates.into_iter().find_map(|(root, path, names)| {
            let folders = [root.join(path.trim_start_matches('/')), root];
            let folder = folders.into_iter().find(|folder| folder.join(names.limit).exists())?;
            Some(Self { folder, names })
        })
    }

    /// `None` when there is no limit.
    pub(crate) fn limit(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.folder.join(self.names.limit)).ok()?;
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    }

    /// What counts against the limit and cannot be taken back.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.folder.join(self.names.usage))?;
        let used: u64 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let stat = std::fs::read_to_string(self.folder.join("memory.stat"))?;
        let cache = stat.lines().filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            self.names.cache.contains(&name).then(|| value.parse::<u64>().ok())?
        });
        Ok(used.saturating_sub(cache.sum()))
    }
}

#[cfg(test)]
#[path = "../tests/unit/memory.rs"]
mod tests;
