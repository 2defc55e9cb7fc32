//! The rendered manifests as objects, pods and containers, and Kubernetes' quantities.

use serde_json::Value;
use tidy::{Findings, Tree};

/// One file of `deploy/rendered`.
pub struct Rendered {
    pub path: String,
    pub objects: Vec<Value>,
}

/// Something that runs pods.
pub struct Workload<'a> {
    /// File, kind and name.
    pub place: String,
    pub kind: &'a str,
    pub name: &'a str,
    pub object: &'a Value,
    /// Labels of its pods.
    pub labels: &'a Value,
    /// `PodSpec`.
    pub pod: &'a Value,
}

/// Every rendered file.
pub fn all(tree: &Tree) -> Result<Vec<Rendered>, Findings> {
    let mut files = Vec::new();
    for path in tree.with_extension("deploy/rendered/", "yaml") {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&tree.text(path)?)
            .map_err(|error| Findings::one(format!("{path}: {error}")))?;
        files.push(Rendered { path: path.to_owned(), objects });
    }
    if files.len() < 5 {
        return Err(Findings::one("deploy/rendered is empty: run .ci/manifests --update".to_owned()));
    }
    Ok(files)
}

impl Rendered {
    /// One of the overlays, which hold the whole mesh.
    pub fn is_overlay(&self) -> bool {
        !self.path.contains("/variants/")
    }

    /// The overlay whose cluster chooses the users of the pods.
    pub fn is_openshift(&self) -> bool {
        self.path.ends_with("/openshift.yaml")
    }

    /// One of the mesh in any form, rather than an example of an article.
    pub fn is_mesh(&self) -> bool {
        !self.path.contains("/example-")
    }

    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// For messages: file, kind, name.
    pub fn of(&self, object: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}: {} {}", self.path, text(&object["kind"]), text(&object["metadata"]["name"]))
    }

    pub fn workloads(&self) -> Vec<Workload<'_>> {
        let kinds = ["Deployment", "DaemonSet", "StatefulSet", "Job", "Pod"];
        let run_pods = self.objects.iter().filter(|object| kinds.iter().any(|kind| object["kind"] == *kind));
        run_pods
            .map(|object| {
                let template = if object["kind"] == "Pod" { object } else { &object["spec"]["template"] };
                Workload {
                    place: self.of(object),
                    kind: object["kind"].as_str().unwrap_or_default(),
                    name: object["metadata"]["name"].as_str().unwrap_or_default(),
                    object,
                    labels: &template["metadata"]["labels"],
                    pod: &template["spec"],
                }
            })
            .collect()
    }
}

impl<'a> Workload<'a> {
    /// App containers, then init containers and so sidecars.
    pub fn containers(&self) -> Vec<&'a Value> {
        list(&self.pod["containers"]).chain(list(&self.pod["initContainers"])).collect()
    }

    /// The native sidecar, if there is one.
    pub fn sidecar(&self) -> Option<&'a Value> {
        list(&self.pod["initContainers"]).find(|container| container["restartPolicy"] == "Always")
    }

    /// For messages.
    pub fn of(&self, container: &Value) -> String {
        format!("{}, container {}", self.place, container["name"].as_str().unwrap_or_default())
    }
}

/// The members of a list; nothing for what is none.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether `matchLabels` selects pods with these labels.
pub fn selects(match_labels: &Value, labels: &Value) -> bool {
    let selector = match_labels.as_object();
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
    })
}

/// Thousandths of a CPU. `None`: no such quantity.
pub fn millicores(value: &Value) -> Option<u64> {
    match value {
        Value::Number(cores) => Some(cores.as_u64()? * 1000),
        Value::String(text) => match text.strip_suffix('m') {
            Some(milli) => milli.parse().ok(),
            None => Some(text.parse::<u64>().ok()? * 1000),
        },
        _ => None,
    }
}

/// MiB. `None`: no such quantity.
pub fn mebibytes(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    match (text.strip_suffix("Mi"), text.strip_suffix("Gi")) {
        (Some(mi), _) => mi.parse().ok(),
        (_, Some(gi)) => Some(gi.parse::<u64>().ok()? * 1024),
        _ => None,
    }
}
