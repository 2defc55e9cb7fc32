//! What is applied to Kubernetes keeps the promises of deploy/README.md: security, sizes, probes, the time to end, labels.
//!
//! Reads `deploy/rendered`, as kustomize wrote it; `.ci/manifests` says whether that is current.

mod access;
mod memory;
mod rendered;
mod rollouts;
mod security;
mod sizes;

use serde_json::Value;
use tidy::{Findings, Tree};

use rendered::{Rendered, all};

/// A check on each rendered file.
fn each(check: impl Fn(&Rendered, &mut Findings)) -> Result<(), Findings> {
    let mut findings = Findings::default();
    for file in all(&Tree::read()?)? {
        check(&file, &mut findings);
    }
    findings.none_or()
}

#[test]
fn every_object_has_the_recommended_labels() -> Result<(), Findings> {
    each(|file, findings| {
        for object in &file.objects {
            let labels = &object["metadata"]["labels"];
            for (label, expected) in [
                ("app.kubernetes.io/name", None),
                ("app.kubernetes.io/component", None),
                ("app.kubernetes.io/part-of", Some("petmesh")),
                ("app.kubernetes.io/managed-by", Some("kustomize")),
                ("app.kubernetes.io/version", Some(env!("CARGO_PKG_VERSION"))),
            ] {
                let found = labels[label].as_str();
                if found.is_none() || expected.is_some_and(|expected| found != Some(expected)) {
                    findings.add(format!(
                        "{}: label {label} is {found:?}, expected {}",
                        file.of(object),
                        expected.unwrap_or("any")
                    ));
                }
            }
        }
        for workload in file.workloads().iter().filter(|workload| workload.kind != "Pod") {
            let selector = &workload.object["spec"]["selector"]["matchLabels"];
            if selector.to_string().contains("version") {
                findings.add(format!(
                    "{}: the version is in the selector, which can never be changed",
                    workload.place
                ));
            }
            if !rendered::selects(selector, workload.labels) {
                findings.add(format!("{}: the selector does not match its own pods", workload.place));
            }
        }
    })
}

#[test]
fn our_images_are_loaded_and_others_are_pinned() -> Result<(), Findings> {
    each(|file, findings| {
        for workload in file.workloads() {
            for container in workload.containers() {
                let image = container["image"].as_str().unwrap_or_default();
                let place = workload.of(container);
                match image.split_once(':') {
                    Some((name, "dev")) if name.starts_with("petmesh/") => {}
                    Some((name, tag)) if !name.starts_with("petmesh/") && tag.contains('.') => {}
                    _ => findings
                        .add(format!("{place}: image {image}: ours end in :dev, others name a version")),
                }
                if container["imagePullPolicy"] != "IfNotPresent" {
                    findings.add(format!(
                        "{place}: say imagePullPolicy: IfNotPresent, as images are loaded and not pulled"
                    ));
                }
            }
            // Which would tie it to a kind of machine: all images may be built for amd64 and arm64.
            for field in ["nodeSelector", "affinity", "nodeName"] {
                if !workload.pod[field].is_null() {
                    findings.add(format!("{}: {field} chooses nodes; any node must do", workload.place));
                }
            }
        }
    })
}

/// A proxy reads the file that stands in `deploy/config`, and every substrate the same.
#[test]
fn config_maps_are_mounted_and_hold_the_files_of_the_tree() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let sources = [
        ("envoy-pet-", "deploy/config/pet.yaml"),
        ("envoy-petstore-", "deploy/config/petstore.yaml"),
        ("envoy-ingress-", "deploy/config/ingress.yaml"),
        ("envoy-node-proxy-", "deploy/components/daemonset/envoy.yaml"),
    ];
    let mut texts = Vec::new();
    for (prefix, path) in sources {
        texts.push((prefix, path, tree.text(path)?));
    }
    each(|file, findings| {
        for map in file.of_kind("ConfigMap") {
            let name = map["metadata"]["name"].as_str().unwrap_or_default();
            for (_, path, text) in texts
                .iter()
                .filter(|(prefix, ..)| name.strip_prefix(prefix).is_some_and(|hash| !hash.contains('-')))
            {
                if map["data"]["envoy.yaml"].as_str() != Some(text) {
                    findings
                        .add(format!("{}: differs from {path}: run .ci/manifests --update", file.of(map)));
                }
            }
        }
        for workload in file.workloads() {
            let proxies = workload.containers().into_iter().filter(|container| {
                container["image"]
                    .as_str()
                    .is_some_and(|image| image.contains("/proxy:") || image.contains("/ingress:"))
            });
            for proxy in proxies {
                let mount =
                    rendered::list(&proxy["volumeMounts"]).find(|mount| mount["mountPath"] == "/etc/envoy");
                let volume = mount.and_then(|mount| {
                    rendered::list(&workload.pod["volumes"]).find(|volume| volume["name"] == mount["name"])
                });
                let name = volume.map_or(&Value::Null, |volume| &volume["configMap"]["name"]);
                if !file.of_kind("ConfigMap").any(|map| map["metadata"]["name"] == *name) {
                    findings
                        .add(format!("{}: no config map of this file is at /etc/envoy", workload.of(proxy)));
                }
            }
        }
    })
}

/// The articles' files run as printed.
#[test]
fn examples_use_the_files_of_the_articles() -> Result<(), Findings> {
    let tree = Tree::read()?;
    let mut findings = Findings::default();
    for (example, original) in [
        ("deploy/examples/pod/envoy.json", "crates/xds/tests/data/json-sidecar.json"),
        ("deploy/examples/daemonset/envoy.json", "crates/xds/tests/data/json-sidecar.json"),
        ("deploy/examples/nginx-pod/envoy.yaml", "crates/xds/tests/data/nginx-sidecar.yaml"),
    ] {
        if tree.text(example)? != tree.text(original)? {
            findings.add(format!("{example} differs from {original}: copy it again"));
        }
    }
    findings.none_or()
}
