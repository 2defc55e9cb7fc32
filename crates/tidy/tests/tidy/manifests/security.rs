//! Pod Security, level `restricted`, as the admission of a cluster would check it, and what we ask for besides.

use serde_json::{Value, json};
use tidy::Findings;

use super::each;
use super::rendered::{Workload, list};

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
            }
        }
    })
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
    let ours = container["image"].as_str().is_some_and(|image| image.starts_with("petmesh/"));
    let host_port = list(&container["ports"]).any(|port| !port["hostPort"].is_null());
    let rules = [
        ("allowPrivilegeEscalation: false", own["allowPrivilegeEscalation"] == false),
        ("capabilities: { drop: [ALL] }", own["capabilities"] == json!({ "drop": ["ALL"] })),
        ("privileged: false", own["privileged"].is_null() || own["privileged"] == false),
        ("readOnlyRootFilesystem: true", own["readOnlyRootFilesystem"] == true),
        ("runAsNonRoot: true", *either("runAsNonRoot") == true),
        ("runAsUser, not 0", either("runAsUser").as_u64().is_some_and(|user| user > 0)),
        ("runAsUser: 65532, as in our images", !ours || *either("runAsUser") == 65532),
        ("seccompProfile: RuntimeDefault", either("seccompProfile")["type"] == "RuntimeDefault"),
        ("no hostPort", !host_port),
    ];
    for (rule, _) in rules.iter().filter(|(_, kept)| !kept) {
        findings.add(format!("{}: expected {rule}", workload.of(container)));
    }
}
