//! The command line as the tests type it, in a folder of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::config;
use crate::report;
use crate::substrate::local::{INGRESS, PODS, binaries};
use crate::turn;

/// The command line in a folder of its own; a mesh that is still up ends with this value.
pub struct Cli {
    temp: tempfile::TempDir,
    bin_dir: PathBuf,
    _turn: File,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    /// Waits for its turn: the addresses are those of all tests.
    #[must_use]
    #[allow(clippy::new_without_default)] // it waits, and starts nothing by itself
    pub fn new() -> Self {
        report::ran();
        let turn = turn::wait();
        let bin_dir = binaries();
        let temp = tempfile::tempdir().expect("a temporary folder");
        config::write(&temp.path().join("config"), None);
        Self { temp, bin_dir, _turn: turn }
    }

    /// Runs one command to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        let mut command = Command::new(self.bin_dir.join("petmesh"));
        command.args(args).current_dir(self.temp.path()).stdin(Stdio::null());
        if args.first() == Some(&"up") {
            command.args(["--ingress-address", &INGRESS.to_string(), "--pod-addresses", &PODS.to_string()]);
            command.args(["--config-dir", "config"]);
        }
        let output = command.output().expect("petmesh runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}
