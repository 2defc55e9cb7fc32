//! The mesh fits the quota that it brings: it asks for 1 CPU and 512 MiB and may use 1248 MiB, one surge
//! pod of each Deployment included.

use serde_json::Value;
use tidy::{Findings, Tree};

use super::each;
use super::rendered::{Rendered, Workload, all, mebibytes, millicores};

/// For how many nodes the README of the DaemonSet says that the quota is enough.
const NODES: u64 = 5;

/// In thousandths of a CPU and in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    cpu_requests: u64,
    cpu_limits: u64,
    memory_requests: u64,
    memory_limits: u64,
}

#[test]
fn every_container_says_what_it_needs_and_may_use() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads() {
            for container in workload.containers() {
                match size(container) {
                    Some(size)
                        if size.cpu_requests <= size.cpu_limits
                            && size.memory_requests <= size.memory_limits => {}
                    size => findings.add(format!(
                        "{}: {size:?}: give requests and limits of CPU (m) and memory (Mi)",
                        workload.of(container)
                    )),
                }
            }
        }
    })
}

#[test]
fn the_mesh_with_a_surge_pod_of_each_deployment_fits_its_quota() -> Result<(), Findings> {
    each(|file, findings| {
        if !file.is_mesh() {
            return;
        }
        let Some(quota) = quota(file) else {
            return findings.add(format!(
                "{}: no ResourceQuota with requests.cpu, requests.memory and limits.memory",
                file.path
            ));
        };
        let [cpu, requests, limits] = quota;
        let most: Size = file.workloads().iter().map(|workload| pod(workload) * pods(file, workload).1).sum();
        if most.cpu_requests > cpu || most.memory_requests > requests || most.memory_limits > limits {
            findings.add(format!("{}: with surge pods {most:?}, the quota is {quota:?}", file.path));
        }
        let steady: Size =
            file.workloads().iter().map(|workload| pod(workload) * pods(file, workload).0).sum();
        if file.is_overlay() && (steady.cpu_limits > 1000 || quota != [1000, 512, 1248]) {
            findings.add(format!(
                "{}: without surge pods {steady:?}, quota {quota:?}: expected 1 CPU, 512 and 1248 MiB",
                file.path
            ));
        }
    })
}

/// What the README of `larger-quota` promises.
#[test]
fn the_larger_quota_holds_zipkin_and_the_autoscaler_or_ten_pods() -> Result<(), Findings> {
    let files = all(&Tree::read()?)?;
    let variant = |name: &str| {
        files
            .iter()
            .find(|file| file.path.ends_with(name))
            .ok_or_else(|| Findings::one(format!("{name} is missing")))
    };
    let (hpa, zipkin) = (variant("/hpa.yaml")?, variant("/zipkin.yaml")?);
    let quota = quota(hpa).unwrap_or_default();
    let mut findings = Findings::default();

    let zipkin_pod: Size =
        zipkin.workloads().iter().filter(|workload| workload.name == "zipkin").map(pod).sum();
    let scaled: Size = hpa.workloads().iter().map(|workload| pod(workload) * pods(hpa, workload).1).sum();
    let ten: Size = hpa
        .workloads()
        .iter()
        .map(|workload| pod(workload) * if workload.name == "pet" { 11 } else { 3 })
        .sum();
    for (what, size) in [
        ("zipkin and all of the autoscaler's pods", scaled + zipkin_pod),
        ("ten pods of pet and zipkin", ten + zipkin_pod),
    ] {
        if size.cpu_requests > quota[0] || size.memory_requests > quota[1] || size.memory_limits > quota[2] {
            findings.add(format!("{what}: {size:?} is more than {quota:?}"));
        }
    }
    findings.none_or()
}

/// Steadily, and at most: with the surge pods of a roll-out.
fn pods(file: &Rendered, workload: &Workload<'_>) -> (u64, u64) {
    let spec = &workload.object["spec"];
    let scaled = file
        .of_kind("HorizontalPodAutoscaler")
        .find(|scaler| scaler["spec"]["scaleTargetRef"]["name"] == workload.name);
    let steady = match workload.kind {
        "DaemonSet" => NODES,
        _ => scaled
            .and_then(|scaler| scaler["spec"]["maxReplicas"].as_u64())
            .or(spec["replicas"].as_u64())
            .unwrap_or(1),
    };
    let surge = |strategy: &str| spec[strategy]["rollingUpdate"]["maxSurge"].as_u64();
    (steady, steady + surge("strategy").or(surge("updateStrategy")).unwrap_or(0))
}

/// A pod's containers together. A native sidecar counts like an app container.
fn pod(workload: &Workload<'_>) -> Size {
    workload.containers().into_iter().filter_map(size).sum()
}

fn size(container: &Value) -> Option<Size> {
    let resources = &container["resources"];
    Some(Size {
        cpu_requests: millicores(&resources["requests"]["cpu"])?,
        cpu_limits: millicores(&resources["limits"]["cpu"])?,
        memory_requests: mebibytes(&resources["requests"]["memory"])?,
        memory_limits: mebibytes(&resources["limits"]["memory"])?,
    })
}

/// `requests.cpu`, `requests.memory`, `limits.memory`.
fn quota(file: &Rendered) -> Option<[u64; 3]> {
    let hard = &file.of_kind("ResourceQuota").next()?["spec"]["hard"];
    Some([
        millicores(&hard["requests.cpu"])?,
        mebibytes(&hard["requests.memory"])?,
        mebibytes(&hard["limits.memory"])?,
    ])
}

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_requests: self.cpu_requests + other.cpu_requests,
            cpu_limits: self.cpu_limits + other.cpu_limits,
            memory_requests: self.memory_requests + other.memory_requests,
            memory_limits: self.memory_limits + other.memory_limits,
        }
    }
}

impl std::ops::Mul<u64> for Size {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self {
            cpu_requests: self.cpu_requests * times,
            cpu_limits: self.cpu_limits * times,
            memory_requests: self.memory_requests * times,
            memory_limits: self.memory_limits * times,
        }
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |sum, size| sum + size)
    }
}
