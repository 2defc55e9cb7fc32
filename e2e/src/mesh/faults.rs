//! Faults of single pods and of what the mesh stands on.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use local_mesh::plan;
use serde_json::{Value, json};

use super::Mesh;
use crate::impostor::Impostor;
use crate::pod::Pod;
use crate::substrate::Control;

impl Mesh {
    /// Begins to replace the pods of a service one after the other.
    pub async fn begin_restart(&self, service: &str) {
        self.substrate.begin_restart(service).await;
    }

    /// Waits until a service has this many pods and all of them are ready.
    pub async fn has(&self, service: &str, replicas: usize) {
        self.until(&format!("{service} has {replicas} pods, all ready"), async || {
            let pods = self.pods_of(service).await;
            pods.len() == replicas && (replicas == 0 || super::all_ready(&pods))
        })
        .await;
    }

    /// The Kubernetes API answers every request with this status, and running watches end.
    pub async fn fail_kubernetes(&self, status: u16) {
        self.substrate.set_control(Control::KubernetesFails(status)).await;
    }

    /// DNS gives no response.
    pub async fn cut_dns(&self) {
        self.substrate.set_control(Control::NoDns).await;
    }

    /// Ends every fault of DNS and of the Kubernetes API.
    pub async fn restore_control(&self) {
        self.substrate.set_control(Control::Well).await;
    }

    /// An address of this machine that pods reach.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.substrate.host()
    }

    /// Puts an app of the test in the place of a pod's own; none gives the pod its own app back.
    pub async fn set_app(&self, pod: &Pod, impostor: Option<&Impostor>) {
        let own = SocketAddr::new(self.substrate.loopback(pod), plan::APP);
        let app = impostor.map_or(own, |impostor| impostor.address);
        let address = json!({"address": app.ip().to_string(), "port_value": app.port()});
        let address = json!({ "socket_address": address });
        self.substrate
            .edit_pod(pod, &move |tree: &mut Value| {
                let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
                let service = clusters.iter_mut().find(|cluster| cluster["name"] == "local_service");
                let endpoints = &mut service.unwrap()["load_assignment"]["endpoints"];
                endpoints[0]["lb_endpoints"][0]["endpoint"]["address"] = address.clone();
            })
            .await;
    }

    /// Lets a pod lose half of the packets that it gets and sends, or none any more.
    pub async fn lose_packets(&self, pod: &Pod, lose: bool) {
        let pid = self.process(pod, "proxy").await.to_string();
        let action = if lose { "-A" } else { "-D" };
        for (chain, interface) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            let mut command = Command::new("nsenter");
            command.args(["--target", &pid, "--net", "iptables", action, chain, "!", interface, "lo"]);
            command.args(["-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP"]);
            succeeds(&mut command, "util-linux and iptables");
        }
    }

    /// How much memory a process of each program has held at most, in KiB. Empty where processes
    /// are not this machine's.
    pub async fn peak_memory(&self) -> BTreeMap<String, u64> {
        let mut peaks = BTreeMap::new();
        for (program, status) in self.processes().await {
            let peak = peaks.entry(program).or_default();
            *peak = status.kib("VmHWM").max(*peak);
        }
        peaks
    }

    /// What all processes hold now, in KiB, as cgroups count it: the memory of each, and the pages of
    /// a program's file once, however many run it.
    pub async fn memory(&self) -> u64 {
        let (mut own, mut files) = (0, BTreeMap::<String, u64>::new());
        for (program, status) in self.processes().await {
            own += status.kib("RssAnon") + status.kib("RssShmem");
            let file = files.entry(program).or_default();
            *file = status.kib("RssFile").max(*file);
        }
        own + files.values().sum::<u64>()
    }

    /// The status of each process of this machine, with the name of its program.
    async fn processes(&self) -> Vec<(String, Status)> {
        let mut found = Vec::new();
        for pod in self.pods().await {
            for container in pod.containers.keys() {
                let Some(pid) = self.substrate.process(&pod, container).await else { continue };
                let sidecar = container == "proxy" && pod.service != "ingress";
                let program = if sidecar { "sidecar" } else { &pod.service };
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                found.push((program.to_owned(), Status(status)));
            }
        }
        found
    }

    /// Lets a container open no file and no connection any more; tells the limit that it had. The
    /// limit is one of numbers, and the lowest are taken for as long as the program runs.
    pub async fn exhaust_files(&self, pod: &Pod, container: &str) -> u64 {
        let pid = self.process(pod, container).await;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let limit = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        self.limit_files(pod, container, 3).await;
        limit.expect("its limit")
    }

    /// Sets how many files a container may open. Its own user may do so; another one would need a
    /// capability that even root may lack.
    pub async fn limit_files(&self, pod: &Pod, container: &str, limit: u64) {
        let pid = self.process(pod, container).await;
        let owner = std::fs::metadata(format!("/proc/{pid}")).expect("it runs");
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]);
        command.gid(owner.gid()).uid(owner.uid());
        succeeds(&mut command, "util-linux");
    }

    async fn process(&self, pod: &Pod, container: &str) -> u32 {
        let found = self.substrate.process(pod, container).await;
        found.unwrap_or_else(|| panic!("{} has no running {container} on this machine", pod.name))
    }
}

/// What the kernel says of a process (proc_pid_status(5)).
struct Status(String);

impl Status {
    /// An amount of memory; 0 of a process that has ended.
    fn kib(&self, field: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

/// Runs a command of the packages to its end.
fn succeeds(command: &mut Command, packages: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{error}: install {packages}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
