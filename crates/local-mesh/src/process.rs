//! Starting one process so that it cannot outlive its supervisor, signalling it, and hearing of its end.
//!
//! No process is started directly. The supervisor starts `petmesh exec-child`, which asks the kernel for a signal at the
//! death of its parent and then *becomes* the program (`exec`), so that the process id stays the same. The order closes
//! the gap: the request is made before the parent is looked at, and the request survives `exec`.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

pub use rustix::process::Signal;
use rustix::process::{Pid, getppid, kill_process};
use tokio::sync::mpsc;

use crate::error::Error;

/// Signals that may wait for one process; a sender that is faster than the kernel is told so.
const WAITING_SIGNALS: usize = 8;

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the environment.
    pub env: Vec<(&'static str, String)>,
    /// File that standard output is appended to.
    pub stdout: PathBuf,
    /// File that standard error is appended to; may be the same.
    pub stderr: PathBuf,
}

/// A process that was started and has not been seen to end.
#[derive(Debug)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    signals: mpsc::Sender<Signal>,
}

impl Process {
    /// Sends `signal`. Nothing happens if the process has just ended: its id is never used again after that.
    pub fn signal(&self, signal: Signal) {
        if self.signals.try_send(signal).is_err() {
            tracing::debug!(pid = self.pid, "signal not delivered, the process is ending");
        }
    }
}

/// Starts `launch` through `shim` (the `petmesh` executable) and calls `ended` once it is over.
///
/// # Errors
/// A log file or the shim itself cannot be opened. A missing program shows as an early end, with its reason in the log.
pub fn start<F: Future<Output = ()> + Send>(
    shim: &Path,
    launch: &Launch,
    ended: impl FnOnce(ExitStatus) -> F + Send + 'static,
) -> Result<Process, Error> {
    let log = |path: &Path| {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Error::io("open the log", path, e))
    };
    let mut command = tokio::process::Command::new(shim);
    command
        .args(["exec-child", "--parent", &std::process::id().to_string(), "--"])
        .arg(&launch.program)
        .args(&launch.args)
        .envs(launch.env.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(log(&launch.stdout)?)
        .stderr(log(&launch.stderr)?)
        // A group of its own: ctrl-C in the terminal reaches the supervisor, which ends the children in order.
        .process_group(0);
    let mut child = command.spawn().map_err(|e| Error::io("start", shim, e))?;
    let pid = child.id().unwrap_or_default();
    let (signals, mut received) = mpsc::channel(WAITING_SIGNALS);
    tokio::spawn(async move {
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                Some(signal) = received.recv() => deliver(child.id(), signal),
            }
        };
        match status {
            Ok(status) => ended(status).await,
            Err(error) => tracing::error!(pid, %error, "cannot wait for a child"),
        }
    });
    Ok(Process { pid, signals })
}

/// `id` is none once the child has been reaped, so that no stranger with the same id is ever hit.
fn deliver(id: Option<u32>, signal: Signal) {
    let Some(pid) = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
    if let Err(error) = kill_process(pid, signal) {
        tracing::warn!(pid = pid.as_raw_nonzero(), %error, "cannot signal a child");
    }
}

/// Becomes `command` after having arranged that `signal` ends it when the process `parent` ends. Returns only on failure.
#[must_use]
pub fn exec_child(parent: u32, signal: Signal, command: &[OsString]) -> io::Error {
    let Some((program, args)) = command.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program named");
    };
    if let Err(error) = die_with_parent(parent, signal) {
        return error;
    }
    let error = std::process::Command::new(program).args(args).exec();
    io::Error::new(error.kind(), format!("cannot run {}: {error}", Path::new(program).display()))
}

#[cfg(target_os = "linux")]
fn die_with_parent(parent: u32, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    require_parent(parent)
}

/// Where the kernel has no such signal, a helper process watches the supervisor: it is started before the `exec`, so
/// that its parent is the program itself, and looks ten times a second whether one of the two has gone.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(parent: u32, signal: Signal) -> io::Result<()> {
    std::process::Command::new(std::env::current_exe()?)
        .args(["watch-parent", "--parent", &parent.to_string(), "--signal", &signal.as_raw().to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    require_parent(parent)
}

/// The helper of the systems without a parent-death signal: ends its own parent when the process `supervisor` has gone.
pub fn watch_parent(supervisor: u32, signal: Signal) {
    let pid = |id: u32| i32::try_from(id).ok().and_then(Pid::from_raw);
    let (Some(supervisor), Some(program)) = (pid(supervisor), getppid()) else { return };
    while getppid() == Some(program) {
        if rustix::process::test_kill_process(supervisor).is_err() {
            deliver(u32::try_from(program.as_raw_nonzero().get()).ok(), signal);
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn require_parent(parent: u32) -> io::Result<()> {
    let now = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    if now == Some(parent) {
        return Ok(());
    }
    Err(io::Error::other(format!("the supervisor (process {parent}) has ended")))
}

/// `exit code 1`, `signal 9 (KILL)`: the words for the end of a process.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}{}", signal_name(signal)),
        (None, None) => "an unknown end".to_owned(),
    }
}

fn signal_name(number: i32) -> String {
    SIGNALS
        .iter()
        .find(|(_, s)| s.as_raw() == number)
        .map(|(name, _)| format!(" ({name})"))
        .unwrap_or_default()
}

/// The signals that `petmesh kill` knows.
pub const SIGNALS: [(&str, Signal); 9] = [
    ("KILL", Signal::KILL),
    ("TERM", Signal::TERM),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("HUP", Signal::HUP),
    ("STOP", Signal::STOP),
    ("CONT", Signal::CONT),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
];

/// `KILL`, `SIGKILL`, `kill` or `9`.
///
/// # Errors
/// A sentence with the names that exist.
pub fn parse_signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = SIGNALS
        .iter()
        .find(|(known, signal)| *known == name || signal.as_raw().to_string() == name)
        .map(|(_, s)| *s);
    known.ok_or_else(|| {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        format!("unknown signal {text}; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_understood_however_they_are_written() {
        for text in ["KILL", "SIGKILL", "kill", "9"] {
            assert_eq!(parse_signal(text), Ok(Signal::KILL), "{text}");
        }
        assert!(parse_signal("STARE").unwrap_err().contains("KILL, TERM"));
    }

    #[test]
    fn a_child_of_a_parent_that_has_gone_does_not_start() {
        let error = exec_child(1, Signal::KILL, &[OsString::from("/bin/false")]);
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
