//! A node of the pretended cluster, as tests describe it.

use serde_json::{Value, json};

/// A node; the default is a ready amd64 one, called `node`, with the server's version and no images.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v1.36.0`; empty: the server's version.
    pub kubelet_version: String,
    /// Its InternalIP.
    pub address: String,
    /// The names of the images that it has, as `status.images` lists them.
    pub images: Vec<String>,
    /// Whether its kubelet says `Ready`.
    pub ready: bool,
    /// More labels, for example `minikube.k8s.io/name`.
    pub labels: Vec<(String, String)>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "node".to_owned(),
            architecture: "amd64".to_owned(),
            kubelet_version: String::new(),
            address: "127.0.0.1".to_owned(),
            images: Vec::new(),
            ready: true,
            labels: Vec::new(),
        }
    }
}

impl Node {
    /// A default node of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// It as an object.
    pub(crate) fn object(&self, server_version: &str) -> Value {
        let version = match self.kubelet_version.as_str() {
            "" => format!("v{}", server_version.trim_start_matches('v')),
            given => given.to_owned(),
        };
        let mut labels = json!({"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": self.architecture, "node-role.kubernetes.io/control-plane": ""});
        for (label, value) in &self.labels {
            labels[label.as_str()] = value.as_str().into();
        }
        let images: Vec<_> =
            self.images.iter().map(|name| json!({"names": [name], "sizeBytes": 1})).collect();
        let ready = if self.ready {
            json!({"type": "Ready", "status": "True", "reason": "KubeletReady",
                "message": "kubelet is posting ready status"})
        } else {
            json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status."})
        };
        let room = json!({"cpu": "2", "memory": "4Gi", "pods": "110"});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}, "spec": {},
            "status": {"addresses": [{"type": "InternalIP", "address": self.address},
                    {"type": "Hostname", "address": self.name}],
                "capacity": room, "allocatable": room, "conditions": [ready], "images": images,
                "nodeInfo": {"architecture": self.architecture, "operatingSystem": "linux",
                    "kubeletVersion": version, "osImage": "kube-api", "kernelVersion": "6.0",
                    "containerRuntimeVersion": "containerd://2.0.0"}}})
    }
}
