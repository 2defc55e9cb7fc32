//! The local substrate: the real `petmesh up` in a temporary folder, one mesh at a time, gone with the test.
//!
//! The mesh runs in the foreground of a process that the test started through `petmesh exec-child`: the kernel ends it
//! with the test's thread, however that ends, and it ends its children in order.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use local_mesh::control::{self, Reply, Request};
use local_mesh::dir::{self, Dir};
use local_mesh::plan;
use local_mesh::process::Signal;
use serde_json::Value;

use crate::config;
use crate::mesh::Setup;
use crate::pod::{Container, Identity, Pod, State};
use crate::substrate::Control;
use crate::turn;

/// The addresses of the tests' meshes: not those of the mesh that a user may have up.
pub const INGRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);
pub const PODS: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);

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
        let turn = turn::wait();
        let bin_dir = binaries();
        let temp = tempfile::tempdir().expect("a temporary folder");
        let configs = temp.path().join("config");
        config::write(&configs, setup.edit);
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
        if let Some(time) = setup.fail_static {
            command.env("FAIL_STATIC_TIME_S", time);
        }
        if let Some(clock) = &setup.clock {
            command.envs(clock.environment());
        }
        command.current_dir(temp.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = command.spawn().expect("petmesh starts");
        let mut local = Self { temp: Some(temp), process, _turn: turn };
        local.wait_until_up();
        local
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
    fn end_process(&mut self) -> bool {
        send(self.process.id(), Signal::TERM);
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

    /// The mesh's folder.
    fn dir(&self) -> Dir {
        let root = self.temp.as_ref().map(tempfile::TempDir::path).unwrap_or(Path::new("."));
        Dir::new(root.join(dir::DEFAULT))
    }

    fn status(&self) -> Vec<control::Pod> {
        control::status(&self.dir()).expect("the supervisor answers").pods
    }

    /// A command, as the command line would send it.
    fn command(&self, request: &Request) -> String {
        match control::send(&self.dir(), request).expect("the supervisor does as asked") {
            Reply::Done(text) => text,
            other => panic!("unexpected answer {other:?}"),
        }
    }
}

/// What every substrate can be asked.
#[allow(clippy::unused_async)] // the shape that every substrate has
impl Local {
    pub fn ingress(&self) -> SocketAddr {
        (INGRESS, plan::INBOUND).into()
    }

    /// Each pod has an address of its own, for its loopback as for the rest.
    pub async fn reach(&self, pod: &Pod, port: u16) -> SocketAddr {
        (pod.address, port).into()
    }

    pub async fn pods(&self) -> Vec<Pod> {
        self.status().into_iter().map(seen).collect()
    }

    pub async fn runs(&self, run: &Identity) -> bool {
        run.id.parse().is_ok_and(process_exists)
    }

    pub async fn begin_scale(&self, service: &str, replicas: u32, now: bool) {
        self.command(&Request::Scale { service: service.to_owned(), replicas, now });
    }

    pub async fn restart(&self, service: &str) {
        self.command(&Request::Restart { name: service.to_owned() });
    }

    /// The supervisor's restart only begins.
    pub async fn begin_restart(&self, service: &str) {
        self.restart(service).await;
    }

    /// The supervisor ends it in order and starts it again under its name.
    pub async fn delete(&self, pod: &Pod) {
        self.command(&Request::Restart { name: pod.name.clone() });
    }

    pub async fn kill(&self, pod: &Pod) {
        self.command(&Request::Kill { pod: pod.name.clone(), signal: "KILL".to_owned() });
    }

    pub async fn signal(&self, pod: &Pod, container: &str, signal: Signal) {
        send(self.must_run(pod, container).await, signal);
    }

    pub async fn recover(&self, service: &str) {
        // The supervisor may not have heard yet of an end that the test has seen.
        let ended = |pod: &control::Pod| {
            pod.containers.values().any(|container| !container.pid.is_some_and(process_exists))
        };
        for pod in self.status().into_iter().filter(|pod| pod.service == service && ended(pod)) {
            self.command(&Request::Restart { name: pod.name });
        }
    }

    pub async fn edit_config(&self, service: &str, edit: &(dyn Fn(&mut Value) + Sync)) {
        for pod in self.pods().await.iter().filter(|pod| pod.service == service) {
            self.edit_pod(pod, edit).await;
        }
    }

    pub async fn edit_pod(&self, pod: &Pod, edit: &(dyn Fn(&mut Value) + Sync)) {
        config::edit(&self.dir().config(&pod.name), edit);
    }

    pub async fn change_image(&self, _service: &str) {
        unreachable!("a test that needs it is skipped")
    }

    pub async fn set_control(&self, control: Control) {
        let fault = match control {
            Control::Well => "none".to_owned(),
            Control::NoKubernetes => "down".to_owned(),
            Control::Unready => "unready".to_owned(),
            Control::KubernetesFails(status) => status.to_string(),
            Control::NoDns => "no-dns".to_owned(),
        };
        self.command(&Request::Fault { fault });
    }

    pub fn host(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    pub fn loopback(&self, pod: &Pod) -> IpAddr {
        pod.address
    }

    pub async fn process(&self, pod: &Pod, container: &str) -> Option<u32> {
        let found = self.status().into_iter().find(|found| found.name == pod.name)?;
        found.containers.get(container)?.pid
    }

    pub async fn set_link(&self, _pod: &Pod, _joined: bool) {
        unreachable!("a test that needs it is skipped")
    }

    pub async fn set_paused(&self, pod: &Pod, container: &str, paused: bool) {
        let pid = self.must_run(pod, container).await;
        send(pid, if paused { Signal::STOP } else { Signal::CONT });
    }

    pub async fn write_to_root(&self, _pod: &Pod, _container: &str) -> Option<String> {
        unreachable!("a test that needs it is skipped")
    }

    async fn must_run(&self, pod: &Pod, container: &str) -> u32 {
        let pid = self.process(pod, container).await;
        pid.unwrap_or_else(|| panic!("{} has no running {container}", pod.name))
    }

    pub async fn access_log(&self, pod: &Pod) -> String {
        std::fs::read_to_string(self.dir().access_log(&pod.name)).unwrap_or_default()
    }

    pub async fn end(&mut self) -> Vec<String> {
        let pids: Vec<u32> = self
            .status()
            .iter()
            .flat_map(|pod| pod.containers.values().filter_map(|container| container.pid))
            .collect();
        let mut left = Vec::new();
        if !self.end_process() {
            left.push("the supervisor did not end in order".to_owned());
        }
        left.extend(pids.into_iter().filter(|pid| process_exists(*pid)).map(|pid| format!("process {pid}")));
        left
    }
}

/// The supervisor's pod as the tests see it.
fn seen(pod: control::Pod) -> Pod {
    let state = match pod.state {
        control::State::Starting => State::Starting,
        control::State::Ready => State::Ready,
        control::State::NotReady => State::NotReady,
        control::State::Leaving => State::Leaving,
        control::State::Crashed => State::Crashed,
    };
    let container =
        |found: control::Container| Container { id: found.pid.map(|pid| pid.to_string()), starts: 1 };
    Pod {
        name: pod.name,
        service: pod.service,
        address: pod.address.into(),
        state,
        containers: pod.containers.into_iter().map(|(name, found)| (name, container(found))).collect(),
    }
}

/// A process that has ended in the meantime is no failure of the test.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process lives; one that only waits to be looked at does not.
fn process_exists(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

impl Drop for Local {
    fn drop(&mut self) {
        let mut logs = Vec::new();
        if std::thread::panicking() {
            logs.push(dir::tail(&self.dir().supervisor_log(), 40));
        }
        self.end_process();
        if let Some(temp) = self.temp.take().filter(|_| std::thread::panicking()) {
            println!(
                "the supervisor's last lines:\n{}\nthe mesh's folder is kept: {}",
                logs.concat(),
                temp.keep().display()
            );
        }
    }
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
