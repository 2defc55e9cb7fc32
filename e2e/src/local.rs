//! The local substrate: the real `petmesh up` in a temporary folder, one mesh at a time, gone with the test.
//!
//! The mesh runs in the foreground of a process that the test started through `petmesh exec-child`: the kernel ends it
//! with the test's thread, however that ends, and it ends its children in order.
//! Called by `mesh`; calls the `petmesh` that cargo built beside this test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use local_mesh::control::{self, Reply, Request, Status};
use local_mesh::dir::{self, Dir};
use serde_json::Value;

use crate::mesh::Setup;

/// The addresses of the tests' meshes: not those of the mesh that a user may have up.
const INGRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);
const PODS: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);

/// What the mesh's own ordered end may take, with a margin; after it the test ends what is left.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// A mesh of processes on this machine.
pub struct Local {
    temp: Option<tempfile::TempDir>,
    process: Child,
    /// Only one test has a mesh at a time: the addresses and the cores are the same for all.
    _turn: File,
}

impl Local {
    /// Starts one and returns when it answers.
    pub fn start(setup: &Setup) -> Self {
        let turn = wait_for_turn();
        let bin_dir = binaries();
        let temp = tempfile::tempdir().expect("a temporary folder");
        let configs = temp.path().join("config");
        write_configs(&configs, setup.edit);
        let mut command = Command::new(bin_dir.join("petmesh"));
        command
            .args(["exec-child", "--parent", &std::process::id().to_string(), "--signal", "TERM", "--"])
            .arg(bin_dir.join("petmesh"))
            .args(["up", "--foreground", "--ingress-address", &INGRESS.to_string()])
            .args(["--pod-addresses", &PODS.to_string(), "--config-dir"])
            .arg(&configs);
        for (service, number) in &setup.replicas {
            command.args(["--replicas", &format!("{service}={number}")]);
        }
        if let Some(delay) = setup.pet_delay {
            command.env("PET_DELAY", delay);
        }
        command.current_dir(temp.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = command.spawn().expect("petmesh starts");
        let mut local = Self { temp: Some(temp), process, _turn: turn };
        local.wait_until_up();
        local
    }

    pub fn ingress(&self) -> Ipv4Addr {
        INGRESS
    }

    /// The mesh's folder.
    pub fn dir(&self) -> Dir {
        let root = self.temp.as_ref().map(tempfile::TempDir::path).unwrap_or(Path::new("."));
        Dir::new(root.join(dir::DEFAULT))
    }

    pub fn status(&self) -> Status {
        control::status(&self.dir()).expect("the supervisor answers")
    }

    /// A command, as the command line would send it.
    pub fn command(&self, request: &Request) -> String {
        match control::send(&self.dir(), request).expect("the supervisor does as asked") {
            Reply::Done(text) => text,
            other => panic!("unexpected answer {other:?}"),
        }
    }

    fn wait_until_up(&mut self) {
        let (told, lines) = mpsc::channel();
        let output = self.process.stdout.take().expect("standard output is a pipe");
        // Reads to the end, so that the mesh never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        loop {
            match lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.starts_with("the mesh answers") => return,
                Ok(_) => {}
                Err(_) => {
                    let _ = self.process.kill();
                    let errors = self.process.stderr.take().map(std::io::read_to_string);
                    panic!("the mesh did not start: {}", errors.and_then(Result::ok).unwrap_or_default());
                }
            }
        }
    }

    /// Ends the mesh in order; tells whether it did so by itself.
    pub fn end(&mut self) -> bool {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + END_PATIENCE;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.process.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Its children end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        false
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let mut logs = Vec::new();
        if std::thread::panicking() {
            logs.push(dir::tail(&self.dir().supervisor_log(), 40));
        }
        self.end();
        if let Some(temp) = self.temp.take().filter(|_| std::thread::panicking()) {
            println!(
                "the supervisor's last lines:\n{}\nthe mesh's folder is kept: {}",
                logs.concat(),
                temp.keep().display()
            );
        }
    }
}

/// One file, locked: it works between the processes of nextest as between the threads of `cargo test`.
fn wait_for_turn() -> File {
    let path = std::env::temp_dir().join("petmesh-e2e.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    file.lock().expect("the lock of the mesh's addresses");
    file
}

/// Where cargo put the programs: beside the folder of this test's own executable.
pub fn binaries() -> PathBuf {
    let test = std::env::current_exe().expect("this test's executable");
    let profile = test.parent().and_then(Path::parent).expect("the profile's folder").to_owned();
    let names = ["petmesh", "proxy", "ingress", "sds", "pet", "petstore"];
    let missing: Vec<&str> = names.into_iter().filter(|name| !profile.join(name).is_file()).collect();
    assert!(
        missing.is_empty(),
        "missing {} in {}: build the programs first with `make e2e`, or `cargo build --workspace --bins`",
        missing.join(", "),
        profile.display()
    );
    profile
}

/// The shipped Envoy files, changed by the test if it wants so.
fn write_configs(to: &Path, edit: Option<fn(&mut Value)>) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    std::fs::create_dir(to).expect("a folder for the configuration");
    for name in ["ingress.yaml", "petstore.yaml", "pet.yaml"] {
        let path = shipped.join(name);
        let mut text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if let Some(edit) = edit {
            let read = xds::read_bootstrap(name, &text);
            let read = read.unwrap_or_else(|found| panic!("{}", xds::render_text(&found, &text)));
            let mut tree = xds::to_json(&read.message);
            edit(&mut tree);
            // JSON is YAML.
            text = serde_json::to_string_pretty(&tree).expect("a tree is JSON");
        }
        std::fs::write(to.join(name), text).expect("the configuration is written");
    }
}

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
        let turn = wait_for_turn();
        let bin_dir = binaries();
        let temp = tempfile::tempdir().expect("a temporary folder");
        write_configs(&temp.path().join("config"), None);
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
