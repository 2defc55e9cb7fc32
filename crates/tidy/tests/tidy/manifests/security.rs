//! Pod Security, level `restricted`, as the admission of a cluster would check it, and what we ask for besides.

use serde_json::{Value, json};
use tidy::{Findings, Tree};

use super::each;
use super::rendered::{Rendered, Workload, all, list};

/// What the standard allows of a pod's volumes.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// What it allows of sysctls, as far as we use them.
const SYSCTLS: [&str; 1] = ["net.ipv4.ip_unprivileged_port_start"];

#[test]
fn every_pod_satisfies_the_restricted_standard() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads() {
            pod(&workload, findings);
            for container in workload.containers() {
                self::container(&workload, container, findings);
                user(file, &workload, container, findings);
            }
        }
    })
}

/// OpenShift's restricted-v2 gives a pod its user and group, and refuses one that asks for others.
#[test]
fn on_openshift_the_cluster_chooses_the_users() -> Result<(), Findings> {
    const CHOSEN: [&str; 5] = ["runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "seLinuxOptions"];
    let mut findings = Findings::default();
    let files = all(&Tree::read()?)?;
    let Some(file) = files.iter().find(|file| file.is_openshift()) else {
        return Err(Findings::one("deploy/rendered has no overlay for OpenShift".to_owned()));
    };
    for workload in file.workloads() {
        let of_containers = workload.containers().into_iter().map(|one| &one["securityContext"]);
        for context in of_containers.chain([&workload.pod["securityContext"]]) {
            for field in CHOSEN.iter().filter(|field| !context[**field].is_null()) {
                findings.add(format!("{}: {field} is for the cluster to choose", workload.place));
            }
        }
    }
    findings.none_or()
}

#[test]
fn namespaces_enforce_warn_and_audit_it() -> Result<(), Findings> {
    each(|file, findings| {
        let mut namespaces = file.of_kind("Namespace").peekable();
        if namespaces.peek().is_none() {
            findings.add(format!("{}: has no Namespace", file.path));
        }
        for namespace in namespaces {
            for mode in ["enforce", "warn", "audit"] {
                let label = format!("pod-security.kubernetes.io/{mode}");
                if namespace["metadata"]["labels"][&label] != "restricted" {
                    findings.add(format!("{}: {label} is not restricted", file.of(namespace)));
                }
            }
        }
    })
}

fn pod(workload: &Workload<'_>, findings: &mut Findings) {
    let pod = workload.pod;
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[host] == true {
            findings.add(format!("{}: {host}", workload.place));
        }
    }
    for volume in list(&pod["volumes"]) {
        let fields = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        for kind in fields.filter(|key| *key != "name" && !VOLUMES.contains(key)) {
            findings.add(format!("{}: volume of kind {kind}", workload.place));
        }
    }
    for sysctl in list(&pod["securityContext"]["sysctls"]) {
        if !SYSCTLS.iter().any(|safe| sysctl["name"] == *safe) {
            findings.add(format!("{}: sysctl {}", workload.place, sysctl["name"]));
        }
    }
    if pod["enableServiceLinks"] != false {
        findings.add(format!("{}: say enableServiceLinks: false", workload.place));
    }
}

fn container(workload: &Workload<'_>, container: &Value, findings: &mut Findings) {
    let (of_pod, own) = (&workload.pod["securityContext"], &container["securityContext"]);
    let either = |field: &str| if own[field].is_null() { &of_pod[field] } else { &own[field] };
    let host_port = list(&container["ports"]).any(|port| !port["hostPort"].is_null());
    let rules = [
        ("allowPrivilegeEscalation: false", own["allowPrivilegeEscalation"] == false),
        ("capabilities: { drop: [ALL] }", own["capabilities"] == json!({ "drop": ["ALL"] })),
        ("privileged: false", own["privileged"].is_null() || own["privileged"] == false),
        ("readOnlyRootFilesystem: true", own["readOnlyRootFilesystem"] == true),
        ("runAsNonRoot: true", *either("runAsNonRoot") == true),
        ("seccompProfile: RuntimeDefault", either("seccompProfile")["type"] == "RuntimeDefault"),
        ("no hostPort", !host_port),
    ];
    for (rule, _) in rules.iter().filter(|(_, kept)| !kept) {
        findings.add(format!("{}: expected {rule}", workload.of(container)));
    }
}

/// A fixed user, that of our images, wherever the cluster does not choose one.
fn user(file: &Rendered, workload: &Workload<'_>, container: &Value, findings: &mut Findings) {
    if file.is_openshift() {
        return;
    }
    let (of_pod, own) = (&workload.pod["securityContext"], &container["securityContext"]);
    let user = if own["runAsUser"].is_null() { &of_pod["runAsUser"] } else { &own["runAsUser"] };
    let ours = container["image"].as_str().is_some_and(|image| image.starts_with("petmesh/"));
    if user.as_u64().is_none_or(|user| user == 0 || (ours && user != 65532)) {
        findings.add(format!("{}: expected runAsUser: 65532, as in our images", workload.of(container)));
    }
}
