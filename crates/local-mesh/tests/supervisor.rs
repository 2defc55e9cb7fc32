//! The supervisor's promises, with stand-ins for the programs: start, scale, crash, restart, end, and no orphans.
//!
//! `examples/stand_in.rs` plays every program.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests: clippy.toml exempts only the test functions

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use local_mesh::control::{self, Request, State, Status};
use local_mesh::dir::Dir;
use local_mesh::plan::Addresses;
use local_mesh::{Ended, Error, Options, Progress, supervise};
use tokio::sync::{mpsc, oneshot};

/// More than any step of these tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh of stand-ins in a folder of its own, on addresses of its own.
struct Stage {
    temp: tempfile::TempDir,
    options: Options,
}

impl Stage {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let net = NEXT.fetch_add(1, Ordering::Relaxed);
        let stand_in = stand_in();
        let temp = tempfile::tempdir().unwrap();
        let bin_dir = temp.path().join("bin");
        std::fs::create_dir(&bin_dir).unwrap();
        for name in ["proxy", "ingress", "pet", "petstore", "sds"] {
            std::os::unix::fs::symlink(&stand_in, bin_dir.join(name)).unwrap();
        }
        let process = u8::try_from(std::process::id() % 200).unwrap() + 20;
        let options = Options {
            dir: temp.path().join("mesh"),
            bin_dir,
            config_dir: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config"),
            shim: stand_in,
            replicas: BTreeMap::new(),
            addresses: Addresses {
                ingress: Ipv4Addr::new(127, process, net, 200),
                pods: Ipv4Addr::new(127, process, net, 1),
            },
            refresh_delay: Duration::from_millis(10),
            start_timeout: PATIENCE,
        };
        Self { temp, options }
    }

    /// Starts the mesh in this process and returns when it answers.
    async fn up(&self) -> Running {
        let (told, mut progress) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let supervisor = supervise(self.options.clone(), move |step| drop(told.send(step)), async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(supervisor);
        while let Some(step) = progress.recv().await {
            if matches!(step, Progress::Up { .. }) {
                return Running { dir: Dir::new(&self.options.dir), stop, task };
            }
        }
        panic!("the mesh did not start: {:?}", task.await);
    }
}

/// A mesh that answers.
struct Running {
    dir: Dir,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<Ended, Error>>,
}

impl Running {
    async fn ask(&self, request: Request) -> Result<control::Reply, Error> {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || control::send(&dir, &request)).await.unwrap()
    }

    async fn status(&self) -> Status {
        match self.ask(Request::Status).await.unwrap() {
            control::Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Asks until the pods are as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&[(String, State)]) -> bool) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            let states: Vec<(String, State)> =
                status.pods.iter().map(|pod| (pod.name.clone(), pod.state)).collect();
            if wanted(&states) {
                return status;
            }
            assert!(Instant::now() < end, "never {what}: {states:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Ended {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap()
    }
}

fn stand_in() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples/stand_in");
    assert!(path.is_file(), "{} is missing: cargo builds it with the tests", path.display());
    path
}

fn pids(status: &Status) -> Vec<u32> {
    status.pods.iter().flat_map(|pod| pod.containers.values().filter_map(|container| container.pid)).collect()
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended; its parent has yet to look.
    !stat.is_empty() && !stat.contains(") Z ")
}

fn wait_until_gone(pids: &[u32]) {
    let end = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| lives(*pid)) {
        assert!(
            Instant::now() < end,
            "still there: {:?}",
            pids.iter().filter(|pid| lives(**pid)).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_mesh_starts_is_seen_and_ends_without_a_trace() {
    let stage = Stage::new();
    let mesh = stage.up().await;
    let status = mesh.until("all ready", |pods| pods.iter().all(|(_, state)| *state == State::Ready)).await;
    let names: Vec<&str> = status.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["ingress-1", "petstore-1", "pet-1", "pet-2", "sds-1"]);
    let running = pids(&status);
    assert_eq!(running.len(), 8, "three pods of two processes, two of one");
    assert!(std::fs::read_to_string(mesh.dir.access_log("pet-1")).unwrap().contains("an access log line"));
    assert!(std::fs::read_to_string(mesh.dir.config("pet-1")).unwrap().contains("typed_dns_resolver_config"));
    let dir = mesh.dir.clone();
    assert_eq!(mesh.end().await, Ended { orderly: 8, killed: 0 });
    wait_until_gone(&running);
    assert!(!dir.is_taken() && !dir.state().exists() && !dir.socket().exists());
}

#[tokio::test]
async fn a_killed_pod_is_reported_and_stays_down_until_it_is_restarted() {
    let stage = Stage::new();
    let mesh = stage.up().await;
    let before = pids(&mesh.status().await);
    mesh.ask(Request::Kill { pod: "pet-2".into(), signal: "KILL".into() }).await.unwrap();
    let is = |name: &'static str, wanted: State| {
        move |pods: &[(String, State)]| pods.iter().any(|(pod, state)| pod == name && *state == wanted)
    };
    let status = mesh.until("pet-2 crashed", is("pet-2", State::Crashed)).await;
    let pod = status.pods.iter().find(|pod| pod.name == "pet-2").unwrap();
    assert!(pod.reason.as_deref().unwrap().ends_with("ended: signal 9 (KILL)"), "{:?}", pod.reason);
    let others = status.pods.iter().filter(|pod| pod.name != "pet-2");
    assert!(others.clone().all(|pod| pod.state == State::Ready), "{status:?}");
    mesh.ask(Request::Restart { name: "pet-2".into() }).await.unwrap();
    let status = mesh.until("pet-2 ready again", is("pet-2", State::Ready)).await;
    assert_eq!(
        status.pods.iter().find(|pod| pod.name == "pet-2").unwrap().address.octets()[3],
        3,
        "keeps its address"
    );
    assert_eq!(pids(&status).iter().filter(|pid| !before.contains(pid)).count(), 2);
    mesh.end().await;
}

#[tokio::test]
async fn scaling_adds_new_addresses_and_takes_the_youngest_away() {
    let stage = Stage::new();
    let mesh = stage.up().await;
    let ready = |names: &'static [&'static str]| {
        move |pods: &[(String, State)]| {
            let pets: Vec<_> = pods.iter().filter(|(name, _)| name.starts_with("pet-")).collect();
            pets.len() == names.len()
                && pets.iter().all(|(name, state)| *state == State::Ready && names.contains(&name.as_str()))
        }
    };
    mesh.ask(Request::Scale { service: "pet".into(), replicas: 3, now: false }).await.unwrap();
    let status = mesh.until("three pets", ready(&["pet-1", "pet-2", "pet-3"])).await;
    let leaving: Vec<u32> =
        status.pods[3..5].iter().flat_map(|pod| pod.containers.values().filter_map(|c| c.pid)).collect();
    mesh.ask(Request::Scale { service: "pet".into(), replicas: 1, now: false }).await.unwrap();
    mesh.until("one pet", ready(&["pet-1"])).await;
    wait_until_gone(&leaving);
    mesh.end().await;
}

#[tokio::test]
async fn an_address_is_used_again_but_not_at_once() {
    for (refresh_delay, again) in [(Duration::from_secs(3600), false), (Duration::from_millis(1), true)] {
        let mut stage = Stage::new();
        stage.options.refresh_delay = refresh_delay;
        let mesh = stage.up().await;
        let pet_2 = |status: &Status| status.pods.iter().find(|pod| pod.name == "pet-2").cloned();
        let first = pet_2(&mesh.status().await).unwrap().address;
        let mut second = first;
        // With a short rest it comes back, however often a busy machine is early; with a long one it never does.
        for _ in 0..if again { 100 } else { 3 } {
            mesh.ask(Request::Scale { service: "pet".into(), replicas: 1, now: true }).await.unwrap();
            mesh.until("one pet", |pods| !pods.iter().any(|(name, _)| name == "pet-2")).await;
            mesh.ask(Request::Scale { service: "pet".into(), replicas: 2, now: false }).await.unwrap();
            let is_ready = |(name, state): &(String, State)| name == "pet-2" && *state == State::Ready;
            second = pet_2(&mesh.until("two pets", |pods| pods.iter().any(is_ready)).await).unwrap().address;
            if second == first {
                break;
            }
        }
        assert_eq!(second == first, again, "rest of three times {refresh_delay:?}: {first}, {second}");
        mesh.end().await;
    }
}

/// What opens the Kubernetes API, ends the mesh or changes a proxy is for the owner alone, and no other mesh's.
#[tokio::test]
async fn secrets_are_the_owners_alone_and_another_for_each_mesh() {
    use std::os::unix::fs::MetadataExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let stage = Stage::new();
        let mesh = stage.up().await;
        let dir = mesh.dir.clone();
        let token = std::fs::read_to_string(dir.token()).unwrap();
        assert!(token.len() >= 32, "{token}");
        assert!(std::fs::read_to_string(dir.kubeconfig()).unwrap().contains(&token));
        for file in [dir.token(), dir.kubeconfig(), dir.ca(), dir.socket(), dir.config("pet-1")] {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
        assert_eq!((mode(dir.path()), mode(&dir.pod("pet-1"))), (0o700, 0o700));
        for entry in std::fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            assert!(!text.contains(&token) || mode(&entry.path()) == 0o600, "{}", entry.path().display());
        }
        tokens.push(token);
        mesh.end().await;
        assert!(!dir.token().exists() && !dir.kubeconfig().exists(), "they open nothing any more");
    }
    assert_ne!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn a_service_restarts_one_pod_after_the_other() {
    let stage = Stage::new();
    let mesh = stage.up().await;
    let before = pids(&mesh.status().await);
    mesh.ask(Request::Restart { name: "pet".into() }).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let status = mesh.status().await;
        let pets: Vec<_> = status.pods.iter().filter(|pod| pod.service == "pet").collect();
        assert!(pets.iter().any(|pod| pod.state == State::Ready), "one always serves: {pets:?}");
        let new = pids(&status).iter().filter(|pid| !before.contains(pid)).count();
        assert!(new == 4 || status.restarting.contains(&"pet-2".to_owned()), "its turn is still to come");
        if new == 4 && pets.iter().all(|pod| pod.state == State::Ready) && status.restarting.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "never restarted: {pets:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    mesh.end().await;
}

#[tokio::test]
async fn names_that_do_not_exist_are_answered_with_those_that_do() {
    let stage = Stage::new();
    let mesh = stage.up().await;
    for (request, said) in [
        (
            Request::Kill { pod: "dog-1".into(), signal: "KILL".into() },
            "there is no pod dog-1; there are ingress-1, petstore-1",
        ),
        (
            Request::Scale { service: "dog".into(), replicas: 1, now: false },
            "there is no service dog; there are ingress, ",
        ),
        (Request::Scale { service: "ingress".into(), replicas: 2, now: false }, "one pod"),
        (Request::Scale { service: "pet".into(), replicas: 500, now: false }, "at most 20"),
        (Request::Kill { pod: "pet-1".into(), signal: "STARE".into() }, "unknown signal STARE"),
    ] {
        let error = mesh.ask(request).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    mesh.end().await;
}

#[tokio::test]
async fn a_second_mesh_in_the_same_folder_is_refused_and_the_first_goes_on() {
    let stage = Stage::new();
    let mesh = stage.up().await;
    let second = supervise(stage.options.clone(), |_| {}, std::future::pending()).await.unwrap_err();
    assert!(matches!(second, Error::AlreadyRunning { pid } if pid == std::process::id()), "{second}");
    assert_eq!(mesh.status().await.pods.len(), 5);
    mesh.end().await;
}

#[tokio::test]
async fn a_taken_port_stops_the_start_before_anything_runs() {
    let stage = Stage::new();
    let _holder = std::net::TcpListener::bind((stage.options.addresses.ingress, 10000)).unwrap();
    let error =
        supervise(stage.options.clone(), |_| {}, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{}:10000 (for ingress-1)", stage.options.addresses.ingress)), "{error}");
    assert!(!stage.options.dir.exists(), "nothing is left of a start that did not begin");
}

#[tokio::test]
async fn a_start_that_cannot_begin_leaves_no_folder() {
    let broken = |change: fn(&mut Options)| {
        let mut stage = Stage::new();
        change(&mut stage.options);
        stage
    };
    for stage in [
        broken(|options| options.config_dir = "nowhere".into()),
        broken(|options| options.bin_dir = "nowhere".into()),
        broken(|options| options.replicas.extend([("dog".to_owned(), 1)])),
    ] {
        supervise(stage.options.clone(), |_| {}, std::future::pending()).await.unwrap_err();
        assert!(!stage.options.dir.exists(), "{:?}", stage.options);
    }
}

#[test]
fn a_program_that_ends_at_once_is_the_reason_and_nothing_is_left() {
    let stage = Stage::new();
    let mut supervisor = start_supervisor(&stage, &[("STAND_IN_CRASH", "petstore")]);
    let output = supervisor.stderr.take().unwrap();
    assert!(!supervisor.wait().unwrap().success());
    let text = std::io::read_to_string(output).unwrap();
    for said in ["petstore-1: app ended: exit code 3", "has been told to crash", "petstore-1/app.log"] {
        assert!(text.contains(said), "{text}");
    }
    let mesh = stage.temp.path().join("mesh");
    for gone in ["state.json", "token", "kubeconfig", "control.sock", "petstore-1/proxy.yaml"] {
        assert!(!mesh.join(gone).exists(), "{gone}");
    }
    assert!(mesh.join("petstore-1/app.log").exists(), "the error names it");
}

#[cfg(target_os = "linux")]
#[test]
fn children_end_with_a_supervisor_that_is_killed_and_the_next_mesh_clears_up() {
    let stage = Stage::new();
    let mut supervisor = start_supervisor(&stage, &[]);
    let mut line = String::new();
    BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let running = pids(&control::status(&Dir::new(&stage.options.dir)).unwrap());
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    wait_until_gone(&running);
    let dir = Dir::new(&stage.options.dir);
    assert!(!dir.is_taken());
    assert_eq!(dir.last_supervisor(), Some(supervisor.id()));
    let mut again = start_supervisor(&stage, &[]);
    let mut line = String::new();
    BufReader::new(again.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    control::send(&dir, &Request::Down).unwrap();
    assert!(again.wait().unwrap().success());
}

fn start_supervisor(stage: &Stage, env: &[(&str, &str)]) -> std::process::Child {
    let mut child = Command::new(&stage.options.shim)
        .arg("supervise")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(&stage.options).unwrap()).unwrap();
    child
}
